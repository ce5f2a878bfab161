"""Pictures of an ensemble of networks: how each member was trained, and whether held-out rows are as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_chains import chain_colour
from ppl_gen.plots_style import ALARM, INK, LIGHT, MODEL, SHADE, label, styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MAX_COLUMNS = 12
BAND = 0.95


def no_calibration(fit: Fit) -> str:
    """Why there is no picture of calibration; an empty string where there is."""
    from ppl_gen.checks_networks import NO_VALIDATION, held_out_by

    if fit.uncertainty != "ensemble":
        return "calibration is of ensembles of networks (see the pit picture)"
    if fit.family.sequences:
        return "sequences have pseudo-residuals instead (see the pit and residuals pictures)"
    if fit.pair.to_uniform is None:
        return f"{fit.family.name} has no distribution function (see the pit picture)"
    return "" if held_out_by(fit) is not None else NO_VALIDATION


@styled
def plot_calibration(fit: Fit, *, fig: Figure | SubFigure | None = None, max_columns: int = MAX_COLUMNS) -> Figure:
    """Held-out rows as uniform numbers, a histogram for each column: level where the fit is calibrated; high in the
    middle where its predictions are too wide, high at the ends where they are too narrow. Each row is looked at
    under a member that did not train on it. 95 % of the bars of a calibrated column end in the band.

    :param max_columns: of a wider table, the first so many columns.
    :raises UnsupportedError: the fit is no ensemble, or has no distribution function, or held no rows out.
    """
    from scipy.stats import binom

    from ppl_gen import images, metrics
    from ppl_gen.checks_networks import P_VALUE, uniforms

    reason, numbers = no_calibration(fit), None
    if not reason:
        numbers = uniforms(fit)
    if numbers is None:
        raise UnsupportedError(reason)
    names, (rows, width) = [column.name for column in images.named(fit.schema)], numbers.values.shape
    number = min(width, max_columns)
    across = {1: 1, 2: 2, 4: 2}.get(number, 3 if number <= 9 else 4)
    fig = plots_style.figure_of(fig, max(2.7 * across, 5.2), 2.2 * -(-number // across) + 1.0)
    bars = int(np.clip(np.sqrt(rows) / 1.5, 5, 20))
    low, high = (binom.ppf(p, rows, 1 / bars) * bars / rows for p in ((1 - BAND) / 2, (1 + BAND) / 2))
    for j, ax in enumerate(plots_style.panels(fig, number, across)):
        heights, edges = np.histogram(numbers.values[:, j], bars, (0.0, 1.0), density=True)
        p_value = metrics.uniformity(numbers.values[:, j]).p_value
        failed = p_value < P_VALUE / width
        ax.axhspan(low, high, color=LIGHT, alpha=0.7, linewidth=0, label=f"{BAND:.0%} band")
        ax.axhline(1, color=SHADE, linewidth=0.8)
        ax.stairs(heights, edges, color=ALARM if failed else MODEL, label=f"held-out {fit.train.unit}s", linewidth=1.4)
        ax.set_title(f"p {p_value:.2g}" + (": not calibrated" if failed else ""))
        ax.set_xlim(0, 1)
        ax.set_ylim(0, max(1.6, 1.05 * heights.max(), 1.05 * high))
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.set_xlabel(f"u of {label(names[j])}")
        if j % across == 0:
            ax.set_ylabel(f"density of {fit.train.unit}s")
    handles, texts = fig.axes[0].get_legend_handles_labels()
    handles[-1] = Line2D([], [], color=MODEL)
    fig.legend(handles, texts, loc="outside lower center", ncols=2)
    more = f"; first {number} of {width} columns" if number < width else ""
    title = (
        f"{fit.family.name} by {fit.engine.name}: {rows:,} {fit.train.unit}s as uniform numbers, under members that "
    )
    return plots_style.finish(fig, f"{title}held them out{more}")


def draw_losses(fit: Fit, fig: Figure | SubFigure | None) -> Figure:
    """The loss of each member, of its training rows (thin) and its validation rows, window by window; a dot marks the
    weights that were kept. Left all windows, right the last half closer, where there are more than two."""
    found = fit.draws.parameters
    train, validation = (np.asarray(found[f"{name}_loss"], np.float64) for name in ("train", "validation"))
    windows, members = train.shape
    steps = np.arange(1, windows + 1) * float(fit.draws.figures["num_steps"]) / windows
    has_validation = bool(found.get("validation_rows", np.ones((1, 1))).shape[1])
    fig = plots_style.figure_of(fig, 8.4, 3.6)
    starts = (0, windows // 2) if windows > 2 else (0,)  # a line has two points
    for ax, first in zip(plots_style.panels(fig, len(starts), 2), starts, strict=True):
        for m in range(members):
            ax.plot(steps[first:], train[first:, m], color=chain_colour(m), linewidth=0.6, alpha=0.8, linestyle="--")
            if not has_validation:
                continue
            ax.plot(steps[first:], validation[first:, m], color=chain_colour(m), linewidth=1.3)
            best = int(np.nanargmin(np.where(np.isfinite(validation[:, m]), validation[:, m], np.inf)))
            if best >= first:
                ax.plot(steps[best], validation[best, m], "o", color=chain_colour(m), markersize=4, zorder=4)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_title("all windows" if first == 0 else "the last half")
        shown = np.concatenate([train[first:], validation[first:]])
        shown = shown[np.isfinite(shown)]
        if len(shown):
            gap = 0.05 * (shown.max() - shown.min()) or 0.5
            ax.set_ylim(shown.min() - gap, shown.max() + gap)
    what = "minus ELBO" if fit.pair.local else "minus log likelihood"
    what = "minus log p(x | corrupted x)" if fit.pair.walk is not None else what
    if fit.pair.noising is not None:
        what = "minus ELBO" if getattr(fit.family, "weighs", "elbo") == "elbo" else "weighted loss of the chain"
    fig.axes[0].set_ylabel(f"{what}, nats {fit.train.a_unit}")
    handles = [Line2D([], [], color=INK, linestyle="--", linewidth=0.6, label=f"training {fit.train.unit}s")]
    if has_validation:
        handles += [
            Line2D([], [], color=INK, label=f"validation {fit.train.unit}s"),
            Line2D([], [], color=INK, marker="o", linestyle="", markersize=4, label="weights kept"),
        ]
    handles += [Line2D([], [], color=chain_colour(m), label=f"member {m}") for m in range(min(members, 6))]
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: losses of {members} "
                              f"member{'s' * (members != 1)}, model space")  # fmt: skip
