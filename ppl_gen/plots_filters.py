"""The picture of hidden units: the weights by which each reads a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure, SubFigure

from ppl_gen import plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.latents import member_of
from ppl_gen.plots_images import mosaic
from ppl_gen.plots_style import label, styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit

MAX_UNITS, MAX_ROWS = 64, 60
COLOURS = "RdBu_r"


def no_filters(fit: Fit) -> str:
    """Why there is no such picture; an empty string where there is."""
    if fit.pair.features is None:
        return f"{fit.family.name} has no hidden units with weights of their own"
    if fit.schema.image is not None and fit.schema.columns[0].categories is not None:
        return "pixels that are labels have no one weight each"
    return ""


@styled
def plot_filters(fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0) -> Figure:
    """How much the log odds of each hidden unit rise with each column: per standard deviation of a real column, from 0
    to 1 of a binary one, and of a categorical one with each label. Of images a grid with an image for each unit, of
    tables units from left to right; red is up, blue down. The units of largest weights come first.

    :param member: of an ensemble, whose: each has hidden units of its own.
    :raises UnsupportedError: the family has no hidden units.
    :raises SettingError: there is no such member.
    """
    if no_filters(fit):
        raise UnsupportedError(no_filters(fit))
    found = fit.family.filters(member_of(fit, member), fit.schema)
    assert found is not None
    names, values = found[0], found[1][0]
    number = values.shape[1]
    order = np.argsort(-np.linalg.norm(values, axis=0), kind="stable")[:MAX_UNITS]
    fig = _of_images(fit, fig, values[:, order]) if fit.schema.image is not None else _of_columns(
        fig, names, values[:, order], order)  # fmt: skip
    more = f"; the {len(order)} of largest weights" if len(order) < number else ""
    more += f"; first {MAX_ROWS} of {len(names)} rows" if fit.schema.image is None and len(names) > MAX_ROWS else ""
    title = f"{fit.family.name} by {fit.engine.name}: what {number} hidden units read, member {member}{more}"
    return plots_style.finish(fig, title)


def _of_images(fit: Fit, fig: Figure | SubFigure | None, values: np.ndarray) -> Figure | SubFigure:
    image, number, reach = fit.schema.image, values.shape[1], float(np.abs(values).max()) or 1.0
    assert image is not None
    side = int(np.ceil(np.sqrt(number)))
    high = -(-number // side) * (image[0] + 1) - 1  # rows of the grid that have units
    whole = mosaic((0.5 + 0.5 * values.T / reach).reshape(number, *image), side)[:high]
    fig = plots_style.figure_of(fig, 5.8, 5.4)
    (ax,) = plots_style.panels(fig, 1, 1)
    scaled = reach * (2 * whole - 1) if whole.ndim == 2 else whole
    drawn = ax.imshow(scaled, cmap=COLOURS, vmin=-reach, vmax=reach, interpolation="nearest")
    ax.set_axis_off()
    if whole.ndim == 2:
        fig.colorbar(drawn, ax=ax, label="rise of the log odds of the unit, nats", shrink=0.8)
    return fig


def _of_columns(
    fig: Figure | SubFigure | None, names: list[str], values: np.ndarray, order: np.ndarray
) -> Figure | SubFigure:
    shown, reach = min(len(names), MAX_ROWS), float(np.abs(values).max()) or 1.0
    wide, high = 3.0 + 0.24 * len(order), 1.4 + 0.2 * shown
    fig = plots_style.figure_of(fig, min(max(wide, 5.0), 12.0), min(max(high, 2.6), 11.0))
    (ax,) = plots_style.panels(fig, 1, 1)
    drawn = ax.imshow(values[:shown], cmap=COLOURS, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(shown), [label(name) for name in names[:shown]])
    every = -(-len(order) // 32)
    ax.set_xticks(range(0, len(order), every), [f"h{j}" if every == 1 and len(order) <= 16 else str(j)
                                                for j in order[::every]])  # fmt: skip
    ax.set_xlabel("hidden unit")
    fig.colorbar(drawn, ax=ax, label="rise of the log odds, nats")
    return fig
