"""Pictures of intervals: the parameters of a fit, and the models of a comparison."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import ALARM, INK, MODEL, SHADE, colour, label, styled

if TYPE_CHECKING:
    from ppl_gen.compare import Comparison
    from ppl_gen.result import Fit

MAX_PANELS = 12
MAX_ROWS = 24
ROUNDING = 1e-6  # a spread, relative to the value, that is none
NO_SPREAD = "a point estimate has no intervals"
ALL_FIXED = "no parameter varies over the draws"


class Panel(NamedTuple):
    """Parameters that share an axis: draws (S, rows), point estimates (rows,) or None, each row's name and label, and
    what the names are of."""

    title: str
    unit: str
    draws: np.ndarray
    point: np.ndarray | None
    names: list[str]
    labels: list[int]
    axis: str


@styled
def plot_parameters(fit: Fit, *, fig: Figure | SubFigure | None = None, max_panels: int = MAX_PANELS) -> Figure:
    """Parameters in original units: 50 and 90 % intervals over the draws, their median (dot), and the point estimate
    where there is one (diamond). A panel for each site, or for each of its columns, since those differ in units.

    :param max_panels: of more, the first so many.
    :raises UnsupportedError: a point estimate has no intervals; or no parameter varies.
    """
    if fit.uncertainty == "point":
        raise UnsupportedError(NO_SPREAD)
    found = panels_of(fit)
    if not found:
        raise UnsupportedError(ALL_FIXED)
    shown = found[:max_panels]
    across = min(4, len(shown))
    rows = [shown[start : start + across] for start in range(0, len(shown), across)]
    texts = [max(len(panel.axis) for panel in row) for row in rows]
    lines = [min(MAX_ROWS, max(len(panel.names) for panel in row)) for row in rows]
    # Inches; a panel of few lines still has room for what they are of, at its side.
    heights = [0.75 + max(0.18 * number, 0.075 * longest) for number, longest in zip(lines, texts, strict=True)]
    fig = plots_style.figure_of(fig, max(2.6 * across, 5.0), sum(heights) + 0.4)
    # A figure of its own for each row: the long names of one do not narrow the others.
    strips = np.atleast_1d(fig.subfigures(len(rows), 1, height_ratios=heights))
    for strip, row, number in zip(strips, rows, lines, strict=True):
        grid = strip.add_gridspec(1, max(len(row), 2))
        for place, panel in enumerate(row):
            own = min(len(panel.names), MAX_ROWS)
            cells = [own + 1.5, number - own] if own < number else [1]  # 1.5 lines for the labels of the axis
            _draw_intervals(strip.add_subplot(grid[place].subgridspec(len(cells), 1, height_ratios=cells)[0]), panel)
    what = plots_style.interval_name(fit)
    title = f"{fit.family.name} by {fit.engine.name}: parameters, 50 and 90 % of {what}"
    if len(found) > len(shown):
        title += f"; {len(shown)} panels of {len(found)}"
    return plots_style.finish(fig, title)


def panels_of(fit: Fit) -> list[Panel]:
    """The posterior cut into panels, short ones first; elements that the model holds constant are left out."""
    posterior = fit.family.to_original(fit.posterior, fit.schema)
    point = None if fit.draws.point is None else fit.family.to_original(fit.draws.point, fit.schema)
    dims, labels = fit.family.site_dims(), fit.family.label_axes()
    found = []
    for site, values in posterior.items():
        draws = np.asarray(values, np.float64)
        axes = dims.get(site, ("",) * (draws.ndim - 1))
        texts = [fit.schema.axis_names(axis) for axis in axes]
        columns = next(filter(None, texts), [])
        axes = tuple("column" if axis.endswith("_column") else axis for axis in axes)
        where = [a for a, name in enumerate(axes) if name.startswith("column")]
        estimate = None if point is None else np.asarray(point[site], np.float64)
        cuts: list[int | None] = list(range(draws.shape[1 + where[0]])) if len(where) == 1 else [None]
        for cut in cuts:
            unit = "value" if cut is None else columns[cut]
            index = [(..., cut) if a in where and cut is not None else None for a in range(len(axes))]
            found.append(_panel((site, unit), draws, estimate, index, axes, texts, labels.get(site, ())))
    return sorted((panel for panel in found if panel.names), key=lambda panel: len(panel.names))


def _panel(title: tuple[str, str], draws: np.ndarray, point: np.ndarray | None, index: list[Any], axes: tuple[str, ...],
           names_of: list[list[str] | None], label_axes: tuple[int, ...]) -> Panel:  # fmt: skip
    """The elements of one site (or of one of its columns), labels innermost so that like stands beside like."""
    kept, names, marks = [], [], []
    free = [a for a in range(len(axes)) if index[a] is None]
    order = [a for a in free if a not in label_axes] + [a for a in free if a in label_axes]
    for place in np.ndindex(*(draws.shape[1 + a] for a in order)):
        at = [0 if slot is None else slot[1] for slot in index]
        for a, i in zip(order, place, strict=True):
            at[a] = i
        matrix = [at[a] for a in range(len(axes)) if axes[a].startswith("column") and index[a] is None]
        values = draws[(slice(None), *at)]
        mirrored = len(matrix) == 2 and matrix[0] < matrix[1]
        if mirrored or np.ptp(values) <= ROUNDING * np.abs(values).max():
            continue
        kept.append((values, None if point is None else point[tuple(at)]))
        texts = [str((names_of[a] or range(draws.shape[1 + a]))[at[a]]) for a in order]
        names.append(", ".join(label(text, 18) for text in texts))
        marks.append(at[label_axes[0]] if label_axes else 0)
    stacked = np.stack([values for values, _ in kept], axis=1) if kept else np.empty((len(draws), 0))
    what = ", ".join(dict.fromkeys(re.sub(r"_(other|\d+)$", "", axes[a]) or "element" for a in order)) or "value"
    return Panel(*title, stacked, None if point is None else np.array([p for _, p in kept]), names, marks, what)


def _draw_intervals(ax: Axes, panel: Panel) -> None:
    number = min(len(panel.names), MAX_ROWS)
    at = np.arange(number)
    ends = np.quantile(panel.draws[:, :number], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    colours = [colour(k) for k in panel.labels[:number]]
    ax.hlines(at, ends[0], ends[4], colors=colours, linewidth=1)
    ax.hlines(at, ends[1], ends[3], colors=colours, linewidth=3)
    ax.scatter(ends[2], at, s=14, c=colours, zorder=3, linewidths=0.6, edgecolors="white")
    if panel.point is not None:
        ax.scatter(panel.point[:number], at, s=16, marker="D", facecolors="none", edgecolors=INK, linewidths=0.8,
                   zorder=4)  # fmt: skip
    ax.set_yticks(at, panel.names[:number])
    ax.set_ylim(number - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    more = "" if number == len(panel.names) else f" (first {number} of {len(panel.names)})"
    ax.set_title(label(panel.title, 28) + more)
    ax.set_xlabel(label(panel.unit))
    ax.set_ylabel(panel.axis)


@styled
def plot_compare(comparison: Comparison, *, ax: Axes | None = None, max_models: int = 40) -> Figure:
    """Held-out density of each model less that of the best, with one and two standard errors of the paired difference;
    a model whose thin bar reaches the line can't be told apart from the best. At the right, total and stacking weight.

    :param max_models: of more, the best so many.
    """
    frame = comparison.frame.iloc[:max_models]
    number = len(frame)
    at = np.arange(number)
    ax = plots_style.axes_of(ax, 7.6, 0.34 * number + 1.9)
    difference, error = frame["difference"].to_numpy(float), frame["difference_se"].to_numpy(float)
    tied = (difference + 2 * error >= 0) & (at > 0)
    colours = [MODEL if place == 0 else SHADE if same else ALARM for place, same in zip(at, tied, strict=True)]
    ax.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    ax.hlines(at, difference - 2 * error, difference + 2 * error, colors=colours, linewidth=1)
    ax.hlines(at, difference - error, difference + error, colors=colours, linewidth=3.5)
    ax.scatter(difference, at, s=30, c=colours, zorder=3, linewidths=0.8, edgecolors="white")
    ax.set_yticks(at, [label(name, 40) for name in frame.index])
    ax.set_ylabel("model")
    ax.set_ylim(number - 0.4, -0.6)
    ax.set_xlabel(
        f"held-out log density less that of the best\n(nats, all {comparison.unit}s; bars: 1 and 2 standard errors)"
    )
    right = ax.secondary_yaxis("right")
    figures = zip(frame["elpd"], frame["weight"], strict=True)
    right.set_yticks(at, [f"ELPD {elpd:,.1f}, weight {weight:.2f}" for elpd, weight in figures])
    right.spines["right"].set_visible(False)
    right.tick_params(length=0)
    if number == 1:
        ax.set_xlim(-1, 1)
    more = "" if number == len(comparison.frame) else f"; best {number} of {len(comparison.frame)}"
    return plots_style.finish(ax, f"Held-out ELPD, {comparison.how}: {label(comparison.best, 40)} is highest{more}")
