"""The two networks resolved for a table's columns: what they read and say of each, the layouts of their weights, and
where these start."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.conditionals import LEAST_SCALE, Group, group_columns, logits, start_units, unit_layout
from ppl_gen.models.gan.modes import fit_modes
from ppl_gen.models.vae.architecture import MAX_STARTING_VALUES, TAPS, Grouped
from ppl_gen.networks import Layout, Weight, initial_weights, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.gan import GAN

MODES = ("mode_loc", "mode_log_scale", "mode_log_share")


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture(Grouped):
    """``family`` for D columns, given ``num_context`` further numbers. The networks see F numbers of a row.

    ``groups``         the columns by kind; their parameters are what the generator says of them: of real columns and
                       counts a number (and a logit of each of K modes), of labels logits
    ``observed``       the same columns, with the parameters of their distributions given what the generator says
    ``generator``      the layout of its weights; ``discriminator``, ``ratio``: of theirs
    ``fixed``          that of what is known of the columns, which training leaves as it is: units, and modes (K, R) of
                       the R real columns, of standardized values
    ``num_modes``      K, 0 where real columns are seen as they are
    ``levels``         (height, width, channels) of an image, and after each convolution; () where there is none
    """

    family: GAN
    num_context: int
    observed: Grouped
    num_modes: int = 0
    generator: Layout = dataclasses.field(default_factory=dict)
    discriminator: Layout = dataclasses.field(default_factory=dict)
    ratio: Layout = dataclasses.field(default_factory=dict)
    fixed: Layout = dataclasses.field(default_factory=dict)
    levels: tuple[tuple[int, int, int], ...] = ()

    @property
    def layout(self) -> Layout:
        """All weights."""
        return {**self.generator, **self.discriminator, **self.ratio, **self.fixed}

    @property
    def model_layout(self) -> Layout:
        """Those that rows depend on."""
        return {**self.generator, **self.fixed}

    def has_modes(self, group: Group) -> bool:
        """Whether these are real columns that are normalised by modes."""
        return group.kind == "real" and self.num_modes > 0

    @cached_property
    def noise(self) -> tuple[slice, ...]:
        """Which coordinates of z are the noise of each group's labels, (labels, columns) in a row; empty where it has
        none. The first ``latent_dim`` are those that the network reads."""
        found, first = [], self.family.latent_dim
        for group in self.groups:
            labels = group.num_parameters if group.kind in ("binary", "categorical") else 0
            size = group.size * (self.num_modes if self.has_modes(group) else labels)
            found.append(slice(first, first + size))
            first += size
        return tuple(found)

    @property
    def latent_size(self) -> int:
        """L, the length of z."""
        return self.noise[-1].stop


def resolve(family: GAN, schema: Schema) -> Architecture:
    """The architecture for these columns."""
    columns = schema.target_columns
    modes = family.max_modes if family.has_modes(schema) else 0
    said = {"real": 1 + modes, "count": 1, "binary": 1}
    observed = {"real": 3 * max(modes, 1), "count": 3, "binary": 1}
    groups, raw = (group_columns(columns, partial(_number, own), schema.greatest_count) for own in (said, observed))
    bare = Architecture(len(columns), groups, family, schema.num_context, Grouped(len(columns), raw), modes)
    fixed = unit_layout(groups)
    for group in groups:
        if bare.has_modes(group):
            fixed |= dict.fromkeys(MODES, Weight((modes, group.size)))
    if schema.image is not None:
        bare = dataclasses.replace(bare, levels=_levels(family, schema.image))
    return dataclasses.replace(
        bare, fixed=fixed, generator=_generator(bare), discriminator=_discriminator(bare, "discriminator", family.pack),
        ratio=_discriminator(bare, "ratio", 1),
    )  # fmt: skip


def _number(own: dict[str, int], kind: str, num_categories: int) -> int:
    return own.get(kind, num_categories)


def _levels(family: GAN, image: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    height, width, *channels = image
    found = [(height, width, channels[0] if channels else 1)]
    for size in family.channels:
        height, width = -(-height // 2), -(-width // 2)
        found.append((height, width, size))
    return tuple(found)


def _generator(bare: Architecture) -> dict[str, Weight]:
    family, reads = bare.family, bare.family.latent_dim + bare.num_context
    if family.generator == "mlp":
        return _named("generator", perceptron_layout([reads, *family.generator_hidden, bare.num_outputs], last=1.0))
    flat = int(np.prod(bare.levels[-1]))
    layout = _named("generator", perceptron_layout([reads, *family.generator_hidden, flat], last=2.0**0.5))
    for i, ((*_, outward), (*_, size)) in enumerate(itertools.pairwise(bare.levels)):
        taps, gain = TAPS**2 * size, 2.0 if i else 1.0  # the last has no rectified linear unit after it
        layout[f"generator_conv_{i}_weight"] = Weight((taps, outward), (gain / taps) ** 0.5)
        layout[f"generator_conv_{i}_bias"] = Weight((outward,) if i else (bare.num_outputs,))
    return layout


def _discriminator(bare: Architecture, name: str, pack: int) -> dict[str, Weight]:
    """The layout of a discriminator of ``pack`` rows at once, under this name."""
    family, layout = bare.family, {}
    reads = pack * (bare.num_outputs + bare.num_context)
    if family.discriminator == "conv":
        for i, ((*_, size), (*_, outward)) in enumerate(itertools.pairwise(bare.levels)):
            taps = TAPS**2 * size * (1 if i else pack)
            layout[f"conv_{i}_weight"] = Weight((taps, outward), (2 / taps) ** 0.5)
            layout[f"conv_{i}_bias"] = Weight((outward,))
        reads = int(np.prod(bare.levels[-1]))
    layout |= perceptron_layout([reads, *family.discriminator_hidden, 1], last=1.0)
    if name == "discriminator" and family.regularizer == "spectral_norm":
        for each, weight in list(layout.items()):
            if len(weight.shape) == 2:
                layout[f"direction_{each}"] = Weight((weight.shape[1],), 1.0)
    return _named(name, layout)


def _named(prefix: str, layout: Layout) -> dict[str, Weight]:
    return {f"{prefix}_{name}": weight for name, weight in layout.items()}


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape): units and modes are those of the columns, and
    labels as frequent as in the table."""
    values = initial_weights(architecture.layout, seed, num_starts)
    x, rng = np.asarray(view.x), np.random.default_rng([seed, 1])
    if view.weights is None:
        x = x[:: max(1, -(-x.size // MAX_STARTING_VALUES))]
    else:  # as a table without weights would have them
        share = np.asarray(view.weights, np.float64)
        x = x[rng.choice(len(x), min(len(x), MAX_STARTING_VALUES // x.shape[1] + 1), p=share / share.sum())]
    x = np.asarray(x, np.float64)
    convolutions = architecture.family.generator == "conv"
    last = "conv_0_bias" if convolutions else f"bias_{len(architecture.family.generator_hidden)}"
    for group in architecture.groups:
        columns = x[:, list(group.columns)]
        start_units(values, group, columns)
        if architecture.levels:
            _share_units(values, group, columns)
        if group.kind in ("binary", "categorical"):
            values[f"generator_{last}"][:, group.outputs] += logits(group, columns).ravel()
        if architecture.has_modes(group):
            units = (columns - values["real_shift"][0]) * np.exp(-values["real_log_scale"][0])
            for name, found in zip(MODES, fit_modes(units, architecture.num_modes, seed), strict=True):
                values[name] += found
    return values


def _share_units(values: dict[str, np.ndarray], group: Group, pixels: np.ndarray) -> None:
    """All pixels have the same units: of one that hardly varies its own would be none."""
    for name in unit_layout([group]):
        moment = pixels.mean() if name.endswith("_shift") else np.log(max(pixels.std(), LEAST_SCALE[group.kind]))
        values[name] = np.full_like(values[name], moment)


def idle(architecture: Architecture, view: Any) -> tuple[str, ...]:
    """The weights that are not trained: what is known of the columns."""
    return tuple(architecture.fixed)
