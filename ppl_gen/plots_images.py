"""The picture of a model of images: some of the table's beside some that were drawn from the fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure, SubFigure

from ppl_gen import plots_style
from ppl_gen.errors import UnsupportedError
from ppl_gen.plots_style import styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit

SIDE = 6  # images along each side of a grid
NO_IMAGES = "the rows are no images"


def no_images(fit: Fit) -> str:
    """Why there is no such picture; an empty string where there is."""
    return "" if fit.schema.image is not None else NO_IMAGES


@styled
def plot_images(fit: Fit, *, fig: Figure | SubFigure | None = None, side: int = SIDE) -> Figure:
    """A grid of random training images beside one of images drawn from the fit, on one scale of grey: black is the
    least of both, white the greatest. Three channels are red, green and blue; of another number the first is shown.

    :param side: images along each side of a grid.
    :raises UnsupportedError: the rows are no images.
    """
    from ppl_gen import images
    from ppl_gen.evidence import random_rows

    if no_images(fit):
        raise UnsupportedError(no_images(fit))
    chosen = random_rows(len(fit.train), side * side, fit.seed)
    both = [images.decode(fit.schema, fit.train.x[chosen]), fit.sample(side * side, seed=fit.seed)]
    both = [np.asarray(part, np.float64) for part in both]
    low, high = min(part.min() for part in both), max(part.max() for part in both)
    fig = plots_style.figure_of(fig, 8.4, 4.6)
    titles = (f"{len(chosen)} of {len(fit.train):,} images of the table", f"{side * side} images drawn from the fit")
    for ax, part, title in zip(plots_style.panels(fig, 2, 2), both, titles, strict=True):
        whole = mosaic((part - low) / max(high - low, 1e-300), side)
        ax.imshow(whole, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xlim(-0.5, 1.03 * whole.shape[1] - 0.5)  # a gap between the grids
        ax.set_title(title)
        ax.set_axis_off()
    return plots_style.finish(fig, f"{fit.family.name} by {fit.engine.name}: images of "
                              f"{images.describe(fit.schema.image or ())}")  # fmt: skip


def mosaic(values: np.ndarray, side: int) -> np.ndarray:
    """Images (n, h, w) or (n, h, w, c) with values from 0 to 1 as one, a grid with grey lines between; (H, W), or
    (H, W, 3) of three channels."""
    values = values[..., None] if values.ndim == 3 else values
    values = values if values.shape[-1] == 3 else values[..., :1]
    number, height, width, channels = values.shape
    grid = np.full((side, height + 1, side, width + 1, channels), 0.5)
    for i in range(min(number, side * side)):
        grid[i // side, :height, i % side, :width] = values[i]
    whole = grid.reshape(side * (height + 1), side * (width + 1), channels)[:-1, :-1]
    return whole if channels == 3 else whole[..., 0]
