"""Pictures of what a conditional model says: how the columns that it models follow those that it is conditioned on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ppl_gen import plots_data, plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import INK, MODEL, label, styled

if TYPE_CHECKING:
    from ppl_gen.columns import Column
    from ppl_gen.result import Fit

MASSES = (0.95, 0.8, 0.5)
FILLS = ("#E3EFF8", "#B7D5EB", "#7FB5DB")  # of the central intervals of these masses
MOST = 3  # columns that are modelled, and columns that are conditioned on, in one picture
PLACES = 25  # values of a real condition
DRAWN = 400  # rows for each


def no_conditionals(fit: Fit) -> str:
    """Why there is no picture of conditionals; an empty string where there is."""
    if not fit.schema.conditions:
        return "nothing is conditioned on"
    if fit.family.sequences:
        return "it is of rows, not of sequences"
    return "" if _positions(fit)[0] else "no column that is modelled is a number"


def _positions(fit: Fit) -> tuple[list[int], list[int]]:
    """The columns that are modelled and are numbers, and those that are conditioned on."""
    columns, is_target = fit.schema.columns, fit.schema.is_target
    targets = [j for j, column in enumerate(columns) if is_target[j] and column.kind in ("real", "count")]
    return targets[:MOST], [j for j in range(len(columns)) if not is_target[j]][:MOST]


@styled
def plot_conditionals(fit: Fit, *, fig: Figure | SubFigure | None = None) -> Figure:
    """Median and central 50, 80 and 95 % intervals of each column that is modelled, against each column that is
    conditioned on, over the rows of the table: of 400 rows drawn from the fit for each value. The other conditions stay
    at their medians, or at their most frequent label, so rows scatter more than the intervals say where these matter.

    :raises UnsupportedError: nothing is conditioned on, or no column that is modelled is a number.
    """
    reason = no_conditionals(fit)
    if reason:
        raise UnsupportedError(reason)
    schema, (targets, conditions) = fit.schema, _positions(fit)
    _, rows, note = plots_data.subset(fit)
    values = plots_data.original_units(fit, rows.x, rows.mask)
    fig = plots_style.figure_of(fig, 3.4 * len(conditions) + 1.0, 2.6 * len(targets) + 1.0)
    panels = plots_style.panels(fig, len(targets) * len(conditions), len(conditions))
    for across, j in enumerate(conditions):
        places, drawn = _drawn(fit, j)
        for down, target in enumerate(targets):
            ax = panels[down * len(conditions) + across]
            bands = np.quantile(drawn[:, :, target], _levels(), axis=1)
            _draw(ax, schema.columns[j], places, bands, values[:, [j, target]], fit.seed)
            if across == 0:
                ax.set_ylabel(label(schema.columns[target].name))
            if down == len(targets) - 1:
                ax.set_xlabel(label(schema.columns[j].name))
    fills = [Patch(color=face, label=f"{mass:.0%} of draws") for mass, face in zip(MASSES, FILLS, strict=True)]
    marks = [Line2D([], [], color=MODEL, label="median"),
             Line2D([], [], marker="o", linestyle="", color=INK, alpha=0.5, markersize=3, label="rows")]  # fmt: skip
    fig.legend(handles=[*marks, *fills[::-1]], loc="outside lower center", ncols=5 if len(conditions) > 1 else 3)
    others = "; the other conditions at typical values" if len(schema.conditions) > 1 else ""
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: what is drawn for each condition" + others
                              + (f"; {note}" if note else ""))  # fmt: skip


def _levels() -> np.ndarray:
    """Both ends of each interval, outermost first, and the median last."""
    return np.array([level for mass in MASSES for level in (0.5 - mass / 2, 0.5 + mass / 2)] + [0.5])


def _drawn(fit: Fit, position: int) -> tuple[np.ndarray, np.ndarray]:
    """(m,) values of a condition in the table's units (codes of labels), and rows drawn for each (m, DRAWN, d)."""
    columns, x = fit.schema.columns, fit.train.x
    column = columns[position]
    if column.kind == "real":
        low, high = np.quantile(x[:, position], [0.01, 0.99])
        places = np.linspace(low, high, PLACES)
    else:
        places = np.arange(len(column.levels), dtype=float)
    typical = [np.median(x[:, j]) if c.kind == "real" else _most_frequent(x[:, j]) for j, c in enumerate(columns)]
    grid = np.tile(np.asarray(typical, x.dtype), (len(places), 1))
    grid[:, position] = places
    first = fit.train.take(np.zeros(len(places), int))
    drawn = fit.schema.encode(fit.sample(DRAWN, seed=fit.seed, given=dataclasses.replace(first, x=grid, mask=None)))
    values = plots_data.original_units(fit, drawn.x, drawn.mask).reshape(len(places), DRAWN, -1)
    return values[:, 0, position], values


def _most_frequent(codes: np.ndarray) -> float:
    values, counts = np.unique(codes, return_counts=True)
    return float(values[counts.argmax()])


def _draw(ax: Axes, column: Column, places: np.ndarray, bands: np.ndarray, rows: np.ndarray, seed: int) -> None:
    """Bands against a real condition, bars against labels."""
    x, lows, highs, median = rows[:, 0], bands[0:-1:2], bands[1:-1:2], bands[-1]
    size = float(np.clip(1800 / max(len(rows), 1), 2, 8))
    if column.kind == "real":
        for low, high, face in zip(lows, highs, FILLS, strict=True):
            ax.fill_between(places, low, high, color=face, linewidth=0)
        ax.plot(places, median, color=MODEL)
        margin = 0.02 * (places[-1] - places[0])
        ax.set_xlim(places[0] - margin, places[-1] + margin)
    else:
        for low, high, face in zip(lows, highs, FILLS, strict=True):
            ax.bar(places, high - low, width=0.7, bottom=low, color=face)
        ax.hlines(median, places - 0.35, places + 0.35, color=MODEL)
        names = column.levels
        ax.set_xticks(places, [label(name, 10) for name in names], rotation=30 if len(names) > 4 else 0)
        x = x + np.random.default_rng(seed).uniform(-0.25, 0.25, len(x))
    ax.scatter(x, rows[:, 1], s=size, color=INK, alpha=0.5, linewidths=0)
    seen = np.concatenate([bands.ravel(), rows[np.isfinite(rows[:, 1]), 1]])
    pad = 0.04 * (np.ptp(seen) or 1.0)
    ax.set_ylim(seen.min() - pad, seen.max() + pad)
