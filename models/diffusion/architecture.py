"""A diffusion model resolved for a table's columns: their encoding, the network's layout, and where weights start."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.conditionals import LEAST_SCALE, Group, group_columns, start_units, unit_layout
from ppl_gen.errors import DataError
from ppl_gen.models.diffusion import NO_IMAGES, unet
from ppl_gen.models.vae.architecture import MAX_STARTING_VALUES, Grouped
from ppl_gen.networks import Layout, Weight, initial_weights

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.diffusion import Diffusion

UNITS = ("real_shift", "real_log_scale", "count_input_shift", "count_input_log_scale")
SCORE_LEVEL = 4.6  # log signal-to-noise ratio, that scores are told at: noise of a tenth, by which errors are divided
PATH_STEPS = 250  # of the chain that is drawn in continuous time
SHARES = 32  # pieces of a learned schedule
FREQUENCIES = 8  # of the features of a log signal-to-noise ratio
MARGIN = 4.0  # standard deviations of the noise about a cell that rows of it may have come from
EMBEDDING = 32  # width of the layer that reads them


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture(Grouped):
    """``family`` for D columns, given ``num_context`` further numbers. Rows are encoded as F numbers, group by group.

    ``groups``  the columns by kind: the inputs of the groups are what they are encoded as
    ``layout``  that of the weights: units, network, schedule
    ``image``   (h, w, c) of images, else None
    """

    family: Diffusion
    num_context: int
    layout: Layout
    image: tuple[int, int, int] | None = None

    @property
    def size(self) -> int:
        """F, the numbers that a row is encoded as."""
        return sum(group.num_inputs * group.size for group in self.groups)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The least and the greatest log signal-to-noise ratio."""
        least, greatest = self.family.log_snr_range
        return float(least), float(greatest)

    @property
    def is_free(self) -> bool:
        """Whether the schedule is learned and the bound does not depend on it, as in continuous time."""
        return self.family.schedule == "learned" and self.family.num_steps is None

    @property
    def num_given(self) -> int:
        """Numbers that the network reads besides the noisy row: the context, and whether it is there; 0 without one."""
        return self.num_context + 1 if self.num_context else 0

    @property
    def drops(self) -> bool:
        """Whether conditions are hidden from the network at times."""
        return self.num_context > 0 and self.family.condition_dropout > 0

    @cached_property
    def is_real(self) -> np.ndarray:
        """(F,) bool."""
        return np.concatenate([np.full(g.num_inputs * g.size, g.kind == "real") for g in self.groups])

    @cached_property
    def labels(self) -> tuple[Group, ...]:
        """The groups of binary and categorical columns."""
        return tuple(group for group in self.groups if group.kind in ("binary", "categorical"))

    @property
    def path_steps(self) -> int:
        """Steps of a path that is drawn: those of the chain."""
        return self.family.num_steps or PATH_STEPS

    @property
    def of_images(self) -> bool:
        """Whether the network is the U-net."""
        return self.family.network == "unet"


def inputs(group: Group) -> slice:
    """Where a group's numbers stand among all."""
    return slice(group.first_input, group.first_input + group.num_inputs * group.size)


def code_scale(group: Group) -> float:
    """c of the codes c (indicator - 1/K) of K labels: each number has variance 1 where all labels are as frequent."""
    return group.num_inputs / float(np.sqrt(max(group.num_inputs - 1, 1)))


def unit_names(group: Group) -> tuple[str, str]:
    """The weights that hold the shift and the log scale of a group of numbers."""
    name = "real" if group.kind == "real" else "count_input"
    return f"{name}_shift", f"{name}_log_scale"


def resolve(family: Diffusion, schema: Schema) -> Architecture:
    """The architecture for these columns.

    :raises DataError: a U-net of what is no image.
    """
    columns, image = schema.target_columns, None
    if schema.image is not None:
        height, width, *channels = schema.image
        image = (height, width, channels[0] if channels else 1)
    if family.network == "unet" and image is None:
        raise DataError(NO_IMAGES)
    groups = group_columns(columns, lambda kind, size: size or 1, schema.greatest_count)
    units = {name: weight for name, weight in unit_layout(groups).items() if name in UNITS}
    bare = Architecture(len(columns), groups, family, schema.num_context, {}, image)
    network = {**_embedding(bare), **(unet.layout(bare, EMBEDDING) if bare.of_images else _perceptron(bare))}
    schedule = {"schedule_raw": Weight((SHARES,))} if family.schedule == "learned" else {}
    return dataclasses.replace(bare, layout={**units, **network, **schedule})


def _embedding(bare: Architecture) -> dict[str, Weight]:
    """What reads the log signal-to-noise ratio and what is given."""
    reads = 1 + 2 * FREQUENCIES + bare.num_given
    spread = float(1 / np.sqrt(reads))
    return {"embedding_weight": Weight((reads, EMBEDDING), spread), "embedding_bias": Weight((EMBEDDING,))}


def _perceptron(bare: Architecture) -> dict[str, Weight]:
    """Dense layers ``weight_i``, ``bias_i``; ``modulation_i`` says the scale and the shift of hidden layer i from the
    embedding. The last layer is near 0 at first."""
    family, layout = bare.family, {}
    fan_in = bare.size
    for i, width in enumerate(family.hidden):
        layout[f"weight_{i}"] = Weight((fan_in, width), float(np.sqrt(2 / fan_in)))
        layout[f"modulation_{i}_weight"] = Weight((EMBEDDING, 2 * width), float(1 / np.sqrt(EMBEDDING)))
        layout[f"modulation_{i}_bias"] = Weight((2 * width,))
        fan_in = width
    layout[f"weight_{len(family.hidden)}"] = Weight((fan_in, bare.size), float(1e-2 / np.sqrt(fan_in)))
    layout[f"bias_{len(family.hidden)}"] = Weight((bare.size,))
    return layout


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape): units are the columns' own moments, those of images
    the same for every pixel, so that one that is seldom lit is no outlier when it is."""
    starts = initial_weights(architecture.layout, seed, num_starts)
    x = np.asarray(view.x)
    some = np.asarray(x[:: max(1, -(-x.size // MAX_STARTING_VALUES))], np.float64)
    for group in architecture.groups:
        if group.kind not in LEAST_SCALE:
            continue
        found: dict[str, Any] = {name: np.zeros((1, group.size)) for name in unit_layout([group])}
        start_units(found, group, some[:, list(group.columns)])
        shift, log_scale = unit_names(group)
        if architecture.image is not None:
            square = np.exp(2 * found[log_scale]) + (found[shift] - found[shift].mean()) ** 2
            found |= {shift: found[shift].mean(), log_scale: 0.5 * np.log(square.mean())}
        starts[shift] += found[shift]
        starts[log_scale] += found[log_scale]
    return starts
