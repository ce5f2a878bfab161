"""The picture of Markov chains in the latent space of a generator, and of where their rows lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from ppl_gen import plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_chains import chain_colour
from ppl_gen.plots_style import SHADE, label, styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MASSES = (0.5, 0.95)
MAX_STEPS = 400  # of a chain, whose path is drawn


@styled
def plot_latent_chains(chains: Any, *, fit: Fit | None = None, fig: Figure | SubFigure | None = None) -> Figure:
    """Chains of :meth:`Fit.chains <ppl_gen.result.Fit.chains>` of a generator: the two entries of z that mix worst,
    with the circles that hold half and 95 % of the prior, and the rows made of them, of two real columns. Chains that
    keep to themselves have not mixed.

    :param fit: the fit, whose training rows are then drawn behind the chains' own.
    :raises UnsupportedError: the chains are none of a latent space.
    """
    from scipy.stats import chi2

    from ppl_gen import arviz_bridge, plots_data

    z = getattr(chains, "z", None)
    if z is None:
        raise UnsupportedError("These chains are none of a generator's latent space: see plot_trace and plot_rank.")
    size = z.shape[2]
    worst = np.sort(np.argsort(-np.nan_to_num(arviz_bridge.rhat(z), nan=np.inf), kind="stable")[:2])
    real = [j for j, column in enumerate(chains.schema.target_columns) if column.kind == "real"][:2]
    fig = plots_style.figure_of(fig, 8.6 if len(real) == 2 else 4.8, 4.4)
    axes = plots_style.panels(fig, 1 + (len(real) == 2), 2)
    if size == 1:  # against time
        time = np.broadcast_to(np.arange(z.shape[1], dtype=float)[None], z.shape[:2])
        _draw(axes[0], np.stack([time, z[..., 0]], -1))
        names = ("draw", "z0")
    else:
        _draw(axes[0], z[..., worst])
        names = (f"z{worst[0]}", f"z{worst[1]}")
        for mass in MASSES:
            radius = float(np.sqrt(chi2.ppf(mass, 2)))
            axes[0].add_patch(Circle((0, 0), radius, fill=False, edgecolor=SHADE, linestyle="--", linewidth=0.8))
        axes[0].set_aspect("equal", "datalim")
    axes[0].set_title("latent space" if size <= 2 else f"latent space, 2 of {size} entries, of highest R-hat")
    axes[0].set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    if len(real) == 2:
        if fit is not None:
            _, rows, _ = plots_data.subset(fit, 1_000)
            behind = plots_data.original_units(fit, rows.x, None)[:, fit.schema.is_target][:, real]
            axes[1].scatter(*behind.T, s=3, color=SHADE, alpha=0.4, linewidths=0)
        _draw(axes[1], chains.states[..., real], lines=False)
        axes[1].set_title("their rows")
        axes[1].set_xlabel(label(chains.schema.target_columns[real[0]].name))
        axes[1].set_ylabel(label(chains.schema.target_columns[real[1]].name))
    number = min(len(z), 6)
    handles = [Line2D([], [], color=chain_colour(c), label=f"chain {c}") for c in range(number)]
    if size > 1:
        handles.append(Line2D([], [], color=SHADE, linestyle="--", linewidth=0.8, label="50 and 95 % of the prior"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return plots_style.finish(fig, chains.title.partition(":")[0] + ": chains of the latent vector")


def _draw(ax: Axes, values: np.ndarray, lines: bool = True) -> None:
    """Paths of chains (C, T, 2), thinned so that they can be seen."""
    steps = np.unique(np.linspace(0, values.shape[1] - 1, min(values.shape[1], MAX_STEPS)).astype(int))
    for c, path in enumerate(values[:, steps]):
        if lines:
            ax.plot(*path.T, color=chain_colour(c), linewidth=0.25, alpha=0.6)
        ax.scatter(*path.T, s=4, color=chain_colour(c), alpha=0.7, linewidths=0)
