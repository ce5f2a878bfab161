"""The network resolved for a table's columns: groups of columns of a kind, masks, and the layout of its weights."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.conditionals import LEAST_SCALE, UNIT, Group, group_columns, logits, start_units, unit_layout
from ppl_gen.errors import DataError
from ppl_gen.networks import Layout, Weight, degree_masks, initial_weights, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.autoregressive import Autoregressive

START_SCALE = 0.4  # of the components of a mixture at first, in standard deviations of the column
MAX_STARTING_VALUES = 2_000_000  # entries of the table that the starts are found from
PIXELS_AT_ONCE = 64 * 28 * 28  # of images worked on together: in 7 layers of 32 channels their activations take 0.7 GB
NO_IMAGES = (
    "network='pixelcnn' models images, arrays (n, h, w) or (n, h, w, c), and this is a table: reshape it, as in "
    "x.reshape(-1, 28, 28), or choose network='made' for rows, 'causal_conv' for sequences."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """``family`` for D columns, each conditional given ``num_context`` further numbers. Of the masked convolutions of
    images D is the number of channels: the columns of one pixel.

    ``groups``  the columns by kind
    ``layout``  the weights
    ``masks``   (n_i, n_i+1) for each weight of the perceptron
    ``image``   (h, w) where the observations are images, else None
    """

    family: Autoregressive
    num_columns: int
    num_context: int
    groups: tuple[Group, ...]
    layout: Layout
    masks: tuple[np.ndarray, ...]
    image: tuple[int, int] | None = None

    @property
    def row_size(self) -> int:
        """Entries of a row: its columns, of an image those of all pixels."""
        return self.num_columns * int(np.prod(self.image or ()))

    @property
    def num_dense(self) -> int:
        """Dense layers of the perceptron."""
        return len(self.masks)

    @property
    def num_inputs(self) -> int:
        """Numbers that a row is encoded as."""
        return sum(group.num_inputs * group.size for group in self.groups)

    @property
    def places(self) -> list[tuple[int, int]]:
        """For each column of the table: its group, and its place among the columns of that."""
        found = {c: (g, i) for g, group in enumerate(self.groups) for i, c in enumerate(group.columns)}
        return [found[column] for column in range(self.num_columns)]

    @property
    def convolution_names(self) -> tuple[str, ...]:
        """The weights of the convolutions, with a leading axis of layers."""
        if self.image is not None:
            own = ("vertical_weight", "vertical_bias", "horizontal_weight", "horizontal_bias", "link_weight")
            return (*own, "mix_weight", "mix_bias")
        return ("gate_weight", "gate_bias", "mix_weight", "mix_bias")

    @property
    def dilations(self) -> np.ndarray:
        """(L,) time steps between the inputs of each convolution."""
        return np.tile(2 ** np.arange(self.family.num_layers), self.family.num_stacks)

    @property
    def reach(self) -> int:
        """How many time steps back a time step depends on."""
        return 1 + (self.family.kernel_size - 1) * int(self.dilations.sum())


def resolve(family: Autoregressive, schema: Schema) -> Architecture:
    """The architecture for these columns."""
    columns, image = schema.target_columns, None
    if family.network == "pixelcnn":
        if schema.image is None:
            raise DataError(NO_IMAGES)
        image = schema.image[0], schema.image[1]
        columns = columns[: len(columns) // (image[0] * image[1])]
    groups = group_columns(columns, partial(_num_parameters, family), schema.greatest_count)
    num_context = schema.num_context
    layout = unit_layout(groups)
    if family.network != "made":
        convolutions = _convolutions if image is None else _masked_convolutions
        layout |= convolutions(family, sum(group.num_inputs * group.size for group in groups))
        num_context += family.channels
    inputs = [np.repeat(np.array(group.columns) + 1, group.num_inputs) for group in groups]
    outputs = [np.tile(np.array(group.columns) + 1, group.num_parameters) for group in groups]
    degrees = np.concatenate([*inputs, np.zeros(num_context, int)])
    masks = degree_masks(degrees, family.hidden, np.concatenate(outputs))
    layout |= perceptron_layout([len(degrees), *family.hidden, masks[-1].shape[1]])
    return Architecture(family, len(columns), num_context, groups, layout, tuple(masks), image)


def _num_parameters(family: Autoregressive, kind: str, num_categories: int) -> int:
    return {"binary": 1, "categorical": num_categories}.get(kind, 3 * family.num_mixture_components)


def _weight(shape: tuple[int, ...], inputs: int) -> Weight:
    """A weight of a sum over so many inputs: of variance 1 / inputs, at first and by its prior."""
    return Weight(shape, inputs**-0.5, prior=inputs**-0.5)


def _convolutions(family: Autoregressive, num_inputs: int) -> dict[str, Weight]:
    """An embedding of a time step, one of the start, and of each layer the gate and what goes on from it."""
    size, layers, taps = family.channels, family.num_layers * family.num_stacks, family.kernel_size
    return {
        "start": Weight((size,), 1.0),
        "embedding_weight": _weight((num_inputs, size), num_inputs),
        "embedding_bias": Weight((size,)),
        "gate_weight": _weight((layers, taps * size, 2 * size), taps * size),
        "gate_bias": Weight((layers, 2 * size)),
        "mix_weight": _weight((layers, size, 2 * size), size),
        "mix_bias": Weight((layers, 2 * size)),
    }


def _masked_convolutions(family: Autoregressive, num_inputs: int) -> dict[str, Weight]:
    """An embedding of a pixel, and of each layer the two stacks, what goes from the one to the other, and what goes
    on."""
    size, layers, taps = family.channels, family.num_layers, family.kernel_size
    return {
        "embedding_weight": _weight((num_inputs, size), num_inputs),
        "embedding_bias": Weight((size,), 1.0),
        "vertical_weight": _weight((layers, taps, 2 * taps - 1, size, 2 * size), taps * (2 * taps - 1) * size),
        "vertical_bias": Weight((layers, 2 * size)),
        "horizontal_weight": _weight((layers, taps, size, 2 * size), taps * size),
        "horizontal_bias": Weight((layers, 2 * size)),
        "link_weight": _weight((layers, 2 * size, 2 * size), 2 * size),
        "mix_weight": _weight((layers, size, 2 * size), size),
        "mix_bias": Weight((layers, 2 * size)),
    }


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape), at which the conditionals are nearly the columns'
    own distributions: moments, quantiles for the components of mixtures, and frequencies."""
    values = initial_weights(architecture.layout, seed, num_starts)
    x = np.asarray(view.x)
    x = np.asarray(x[:: -(-x.size // MAX_STARTING_VALUES)] if architecture.image else x, np.float64)
    if architecture.image is not None:
        x = x.reshape(-1, architecture.num_columns)
    if x.ndim == 3:
        x = x.reshape(-1, x.shape[-1]) if view.mask is None else x[np.asarray(view.mask).any(-1)]
    bias = values[f"bias_{architecture.num_dense - 1}"]
    for group in architecture.groups:
        columns = x[:, list(group.columns)]
        bias[:, group.outputs] += _marginal(architecture.family, group, columns).ravel()
        start_units(values, group, columns)
    return values


def _marginal(family: Autoregressive, group: Group, x: np.ndarray) -> np.ndarray:
    """(num_parameters, columns): the parameters of each column's own distribution, roughly."""
    if group.kind in ("binary", "categorical"):
        return logits(group, x)
    number = family.num_mixture_components
    spread = np.maximum(x.std(0), LEAST_SCALE[group.kind])
    quantiles = np.quantile((x - x.mean(0)) / spread, (np.arange(number) + 0.5) / number, axis=0)
    raw = np.log(np.expm1(START_SCALE)) - UNIT
    return np.concatenate([np.zeros_like(quantiles), quantiles, np.full_like(quantiles, raw)])
