"""Pictures of unnormalised densities: the energy as a surface with chains on it, and the course of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ppl_gen import backends, plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_chains import chain_colour
from ppl_gen.plots_style import INK, SHADE, label, styled
from ppl_gen.view import View, backend_arrays

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MAX_MEMBERS, MAX_CHAINS = 4, 3
POINTS = 120  # along each side of the surface
DEEP = 12.0  # nats below the highest log density that are shown
COURSE = {"energy_gap": "rows less negatives", "validation_gap": "training less validation",
          "gradient_norm": "norm of the gradient", "acceptance": "accepted steps"}  # fmt: skip


def no_surface(fit: Fit) -> str:
    """Why there is no picture of the energy; an empty string where there is."""
    if fit.pair.tempered is None:
        return "the density is normalised as it is (see the density picture)"
    if len(fit.schema.targets) != 2 or any(c.kind != "real" for c in fit.schema.target_columns):
        return "an energy is drawn over two real columns"
    return ""


def no_course(fit: Fit) -> str:
    """Why there is no picture of the course of training; an empty string where there is."""
    return "" if "energy_gap" in fit.draws.parameters else "the fit was not trained by contrasts"


@styled
def plot_surface(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """The energy of each member over the two columns, as contours of log density one nat apart down to 12 below the
    highest, with the paths of the model's own chains.

    :raises UnsupportedError: there is no such picture; the message says why.
    """
    reason = no_surface(fit)
    if reason:
        raise UnsupportedError(reason)
    columns = fit.schema.target_columns
    loc, scale = np.array([c.loc for c in columns]), np.array([c.scale for c in columns])
    chains = np.asarray(fit.posterior["chain"], np.float64)[:MAX_MEMBERS]
    both = np.concatenate([chains.reshape(-1, 2), np.asarray(fit.train.x)[:, :2]])
    low, high = both.min(0), both.max(0)
    axes = [np.linspace(a - 0.1 * (b - a), b + 0.1 * (b - a), POINTS) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    view = View(backend_arrays(fit.backend)[0](grid))
    found = np.asarray(backends.ops(fit.backend).log_prob(fit.pair, fit.posterior, view), np.float64)
    across = min(len(chains), 2)
    fig = plots_style.figure_of(fig, 4.2 * across, 3.6 * -(-len(chains) // across))
    for m, ax in enumerate(plots_style.panels(fig, len(chains), across)):
        values = found[m].reshape(POINTS, POINTS).T
        shown = np.maximum(values - np.nanmax(values), -DEEP)
        filled = ax.contourf(*(loc[j] + scale[j] * axes[j] for j in range(2)), shown, np.arange(-DEEP, 1), cmap="Blues")
        for c, states in enumerate(chains[m][:MAX_CHAINS]):
            ax.plot(*(loc + scale * states).T, color=chain_colour(c + 1), linewidth=0.5, marker=".", markersize=2)
        ax.set_title(f"member {m}")
        ax.set_xlabel(label(columns[0].name))
        ax.set_ylabel(label(columns[1].name))
    bar = fig.colorbar(filled, ax=fig.axes, shrink=0.8)
    bar.set_label("log density below the highest, nats")
    bar.ax.set_xlabel(" ")
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: energy, and chains of the density")


@styled
def plot_course(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """Of each member, window by window: the gap in mean log density between rows and negatives, and between training
    and validation rows, the norm of the gradient, and, where chains follow gradients, the share of their steps that a
    test accepts.

    :raises UnsupportedError: the fit was not trained by contrasts.
    """
    reason = no_course(fit)
    if reason:
        raise UnsupportedError(reason)
    found = fit.draws.parameters
    windows, members = found["energy_gap"].shape
    steps = np.arange(1, windows + 1) * float(fit.draws.figures["num_steps"]) / windows
    tested, held_out = (found["acceptance"] != 1).any(), np.isfinite(found["validation_gap"]).any()
    left_out = {"acceptance": not tested, "validation_gap": not held_out}
    shown = {name: what for name, what in COURSE.items() if not left_out.get(name)}
    fig = plots_style.figure_of(fig, 8.4, 5.2)
    for ax, (name, what) in zip(plots_style.panels(fig, len(shown), 2), shown.items(), strict=True):
        values = np.asarray(found[name], np.float64)
        for m in range(members):
            ax.plot(steps, values[:, m], color=chain_colour(m), linewidth=1.0)
        if name.endswith("gap"):
            ax.axhline(0, color=SHADE, linewidth=0.8)
        ax.set_title(what)
        ax.set_ylabel({"acceptance": "share"}.get(name, f"nats {fit.train.a_unit}"))
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    handles = [Line2D([], [], color=chain_colour(m), label=f"member {m}") for m in range(min(members, 6))]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), labelcolor=INK)
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: the course of training")
