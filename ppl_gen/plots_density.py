"""Pictures of the density itself, and of how a family's map lays equal masses over the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ppl_gen import plots_data, plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import INK, LIGHT, MODEL, SHADE, label, styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MASSES = (0.95, 0.8, 0.5)
FILLS = ("#E3EFF8", "#B7D5EB", "#7FB5DB")  # of regions that hold these masses
LINES = (0.01, *(k / 10 for k in range(1, 10)), 0.99)  # of the grid, as shares of mass
POINTS = 1001  # along a line of the grid
MAX_GRIDS = 4  # members whose grid is drawn


def no_density(fit: Fit) -> str:
    """Why there is no picture of the density; an empty string where there is."""
    if fit.family.sequences:
        return "a sequence has too many entries for a picture of its density"
    if fit.schema.conditions:
        return "the density is p(x | y), another one for each y"
    columns = real_columns(fit)
    if not columns:
        return "no column is real"
    return plots_data.no_marginal(fit, columns[:2])


def real_columns(fit: Fit) -> list[int]:
    return [j for j, column in enumerate(fit.schema.columns) if column.kind == "real"]


def columns_of_density(fit: Fit) -> tuple[int, ...]:
    """One column where there is one; else two, of several those that depend on one another most by rank."""
    from scipy.stats import rankdata

    columns = real_columns(fit)
    if len(columns) <= 2:
        return tuple(columns)
    _, rows, _ = plots_data.subset(fit)
    values = rows.x[:, columns] if rows.mask is None else np.where(rows.mask, rows.x, np.nan)[:, columns]
    values = values[np.isfinite(values).all(1)]
    if len(values) < 3:
        return tuple(columns[:2])
    strength = np.triu(np.abs(np.nan_to_num(np.corrcoef(rankdata(values, axis=0).T))), 1)
    first, second = np.unravel_index(int(strength.argmax()), strength.shape)
    return (columns[int(first)], columns[int(second)])


@styled
def plot_density(
    fit: Fit, *, fig: Figure | SubFigure | None = None, columns: tuple[int, int] | None = None, grid: int = 100
) -> Figure:
    """Of two columns, the regions that hold 50, 80 and 95 % of the predictive mass in the table's units, under the rows
    (left) and under as many rows drawn from the fit (right). Of a single column, its density with the interval of the
    draws over the histogram.

    :param columns: positions of two real columns; by default, of several, those that depend most on one another.
    :param grid: points per axis at which the density is evaluated.
    :raises UnsupportedError: there is no such density; the message says why.
    """
    reason = no_density(fit)
    chosen = columns_of_density(fit) if columns is None and not reason else tuple(columns or ())
    reason = reason or plots_data.no_marginal(fit, chosen)
    if reason:
        raise UnsupportedError(reason)
    _, rows, note = plots_data.subset(fit)
    values = plots_data.original_units(fit, rows.x, rows.mask)[:, list(chosen)]
    values = values[np.isfinite(values).all(1)]
    title = f"{fit.family.name} by {fit.engine.name}: predictive density" + (f"; {note}" if note else "")
    if len(chosen) == 1:
        fig = plots_style.figure_of(fig, 6.4, 3.8)
        draw_curve(fit, fig.add_subplot(), chosen[0], values[:, 0], 3 * grid)
        return plots_style.finish(fig, title)
    if fit.schema.num_columns > 2:
        title += f"; 2 of {fit.schema.num_columns} columns, the others integrated out"
    fig = plots_style.figure_of(fig, 8.6, 4.6)
    drawn = plots_data.drawn_rows(fit, len(values))[:, list(chosen)]
    every = np.concatenate([values, drawn[np.abs(drawn - np.median(drawn, 0)).max(1) < np.inf]])
    xs, ys = (plots_data.axis_values(_without_tails(every[:, k]), "real", grid, pad=0.1) for k in (0, 1))
    density = plots_data.density_grid(fit, (chosen[0], chosen[1]), xs, ys)
    axes = plots_style.panels(fig, 2, 2)
    axes[1].sharex(axes[0])
    axes[1].sharey(axes[0])
    for ax, points, name in zip(axes, (values, drawn), ("the table", "drawn from the fit"), strict=True):
        _draw_regions(ax, xs, ys, density)
        ax.scatter(*points.T, s=float(np.clip(1800 / max(len(points), 1), 2, 10)), color=INK, alpha=0.5, linewidths=0)
        ax.set_title(f"{len(points):,} rows, {name}")
        ax.set_xlabel(label(fit.schema.columns[chosen[0]].name))
        ax.set_xlim(xs[0], xs[-1])
        ax.set_ylim(ys[0], ys[-1])
    axes[1].tick_params(labelleft=False)
    axes[0].set_ylabel(label(fit.schema.columns[chosen[1]].name))
    handles = [Patch(color=face, label=f"{mass:.0%} of the mass") for mass, face in zip(MASSES, FILLS, strict=True)]
    fig.legend(handles=handles[::-1], loc="outside lower center", ncols=3)
    return plots_style.finish(fig, title)


def _without_tails(values: np.ndarray) -> np.ndarray:
    """All but what lies ten times as far out as the middle half is wide: one stray point would leave no picture."""
    low, high = np.quantile(values, [0.25, 0.75])
    return values[np.abs(values - (low + high) / 2) <= 10 * max(high - low, 1e-300)]


def _draw_regions(ax: Axes, xs: np.ndarray, ys: np.ndarray, density: np.ndarray) -> None:
    levels = plots_data.mass_levels(density, (xs[1] - xs[0]) * (ys[1] - ys[0]), MASSES)
    kept = [(level, face) for level, face in zip(levels, FILLS, strict=True) if 0 < level < density.max()]
    for level, face in kept:
        ax.contourf(xs, ys, density, levels=[level, np.inf], colors=[face])
        ax.contour(xs, ys, density, levels=[level], colors=MODEL, linewidths=0.5)


def draw_curve(fit: Fit, ax: Axes, column: int, values: np.ndarray, size: int) -> None:
    """The density of one column over the histogram of its values."""
    from ppl_gen.predictive import resolution

    xs = plots_data.axis_values(values, "real", size)
    mean, draws = plots_data.density_draws(fit, (column,), xs[:, None])
    edges = plots_style.bins(values, resolution(values), values.min(), values.max())
    ax.hist(values, edges, density=True, color=LIGHT, label="histogram of rows")
    if len(draws) > 1:
        name = plots_style.score_interval(fit, 0.9)
        ax.fill_between(xs, *plots_style.band(fit, draws), color=MODEL, alpha=0.25, linewidth=0, label=name)
    ax.plot(xs, mean, color=MODEL, label="predictive density")
    ax.set_xlim(xs[0], xs[-1])
    ax.set_ylim(0, None)
    ax.set_xlabel(label(fit.schema.columns[column].name))
    ax.set_ylabel("density, per unit")
    ax.legend(loc="best")


def no_grid(fit: Fit) -> str:
    """Why there is no picture of the grid; an empty string where there is."""
    if fit.pair.from_uniform is None:
        return f"{fit.family.name} makes no rows from uniform numbers"
    if fit.schema.conditions:
        return "the map depends on what is conditioned on"
    if fit.family.sequences or fit.schema.kinds != ("real", "real"):
        return "a grid is of two real columns"
    return ""


@styled
def plot_grid(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """The image of a regular grid of uniform numbers in the plane of two columns, over the rows: of a flow, lines of
    its base space. Cells between lines a tenth apart hold a hundredth of the mass each, so they are narrow where the
    density is high. Each of the first members of an ensemble has a map of its own.

    :raises UnsupportedError: there are not two real columns, or the family has no such map.
    """
    from scipy.stats import norm

    from ppl_gen import backends

    reason = no_grid(fit)
    if reason:
        raise UnsupportedError(reason)
    number = min(MAX_GRIDS, len(next(iter(fit.posterior.values()))))
    posterior = {name: value[:number] for name, value in fit.posterior.items()}
    along = norm.cdf(np.linspace(norm.ppf(0.002), norm.ppf(0.998), POINTS))
    lines = np.stack([np.stack(np.broadcast_arrays(level, along), -1) for level in LINES])  # (lines, points, 2)
    u = np.stack([lines, lines[..., ::-1]])
    found = backends.ops(fit.backend).from_uniform(fit.pair, posterior, u.reshape(-1, 2)).reshape(number, *u.shape)
    found = plots_data.original_units(fit, found, None)
    _, rows, note = plots_data.subset(fit)
    values = plots_data.original_units(fit, rows.x, rows.mask)
    across = number if number < 4 else 2
    fig = plots_style.figure_of(fig, 3.7 * across + 0.8, 3.4 * -(-number // across) + 0.7)
    reaches = [_without_tails(np.concatenate([values[:, k], found[..., k].ravel()])) for k in (0, 1)]
    for i, ax in enumerate(plots_style.panels(fig, number, across)):
        ax.scatter(*values.T, s=float(np.clip(1800 / len(values), 2, 8)), color=SHADE, alpha=0.6, linewidths=0)
        for images, colour in zip(found[i], plots_style.PALETTE, strict=False):
            for line in images:
                ax.plot(*line.T, color=colour, linewidth=0.7)
        for set_limits, reach in zip((ax.set_xlim, ax.set_ylim), reaches, strict=True):
            set_limits(reach.min(), reach.max())
        if number > 1:
            ax.set_title(f"member {i}")
        if i % across == 0:
            ax.set_ylabel(label(fit.schema.columns[1].name))
        if i >= number - across:
            ax.set_xlabel(label(fit.schema.columns[0].name))
    handles = [Line2D([], [], color=plots_style.PALETTE[k], label=f"u{k + 1} = 0.01, 0.1, 0.2, ... 0.9, 0.99")
               for k in (0, 1)]  # fmt: skip
    rows_handle = Line2D([], [], marker="o", linestyle="", color=SHADE, markersize=4, label="rows")
    fig.legend(handles=[*handles, rows_handle], loc="outside lower center", ncols=3 if number > 1 else 1)
    members = fit.draws.num_chains * fit.draws.num_draws
    more = f"; first {number} of {members} members" if members > number else ""
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: where a grid of uniform numbers goes"
                              + more + (f"; {note}" if note else ""))  # fmt: skip
