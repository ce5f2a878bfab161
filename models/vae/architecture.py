"""Encoder, decoder and prior resolved for a table's columns: groups of columns, and layouts of the weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.conditionals import REACH, Group, group_columns, logits, start_units, unit_layout
from ppl_gen.data import Column, Schema
from ppl_gen.errors import DataError
from ppl_gen.labels import SHARE, Label, position, starting_logits
from ppl_gen.models.flow import Flow
from ppl_gen.models.flow import architecture as flow_architecture
from ppl_gen.models.vae import NO_IMAGES
from ppl_gen.networks import Layout, Weight, initial_weights, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.vae import VAE

MIN_POSTERIOR = 1e-4  # the least standard deviation that the encoder says
MAX_STARTING_VALUES = 2_000_000  # entries of the table that the starts are found from
OUTPUTS = {"real": 1, "count": 2, "binary": 1}  # numbers that the decoder says of a column
TAPS = 3  # of a convolution, along each side
PRIOR_HIDDEN = (64,)


@dataclasses.dataclass(frozen=True, eq=False)
class Grouped:
    """D columns by kind, each with a conditional of its own given what a network says."""

    num_columns: int
    groups: tuple[Group, ...]

    @property
    def num_outputs(self) -> int:
        """Numbers that a network says of a row."""
        return sum(group.num_parameters * group.size for group in self.groups)

    @property
    def column_order(self) -> np.ndarray | None:
        """Where each column of the table stands when those of all groups are laid end to end; None where they do so
        in the order of the table."""
        order = np.argsort(np.concatenate([np.array(group.columns) for group in self.groups]))
        return None if (order == np.arange(len(order))).all() else order


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture(Grouped):
    """``family`` for D columns, given ``num_context`` further numbers.

    ``groups``   the columns by kind
    ``units``    the layout of their locations and scales, which encoder and decoder read
    ``encoder``  that of the encoder's own weights, ``decoder`` that of the decoder's, ``prior`` that of the prior's
    ``image``    (h, w, c) where the networks are convolutions, else None
    ``flow``     the flow that is the prior, if one is
    ``label``    which column is a label, whose values stand after z in what the decoder reads; it is in no group
    """

    family: VAE
    num_context: int
    units: Layout
    encoder: Layout
    decoder: Layout
    prior: Layout
    image: tuple[int, int, int] | None = None
    flow: flow_architecture.Architecture | None = None
    label: Label | None = None

    @property
    def model_layout(self) -> Layout:
        """The weights that the model reads: with pseudo-inputs also those of the encoder."""
        own = {**self.units, **self.decoder, **self.prior}
        return {**own, **self.encoder} if self.family.prior == "vamp" else own

    @property
    def guide_layout(self) -> Layout:
        """The weights that the guide reads."""
        return {**self.units, **self.encoder}

    @property
    def layout(self) -> Layout:
        """All weights."""
        return {**self.model_layout, **self.guide_layout}

    @property
    def num_dense(self) -> int:
        """Dense layers of the encoder, and of the decoder."""
        return len(self.family.hidden) + 1

    @property
    def num_labels(self) -> int:
        """How many values the label has, 0 without one."""
        return 0 if self.label is None else self.label.size

    @property
    def num_inputs(self) -> int:
        """Numbers that a row is encoded as."""
        return sum(group.num_inputs * group.size for group in self.groups)

    @cached_property
    def levels(self) -> list[tuple[int, int, int]]:
        """(height, width, channels) of an image as it is read, and after each convolution."""
        assert self.image is not None
        height, width, channels = self.image
        found = [(height, width, channels * self.groups[0].num_inputs)]
        for size in self.family.channels:
            height, width = -(-height // 2), -(-width // 2)
            found.append((height, width, size))
        return found


def part(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The weights whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def resolve(family: VAE, schema: Schema) -> Architecture:
    """The architecture for these columns.

    :raises DataError: convolutions of what is no image.
    """
    columns, image = schema.target_columns, None
    if family.network == "conv":
        if schema.image is None:
            raise DataError(NO_IMAGES)
        height, width, *channels = schema.image
        image = (height, width, channels[0] if channels else 1)
    label = _label(family, schema)
    groups = group_columns(columns, num_outputs, schema.greatest_count) if label is None else _without(label, columns)
    context = schema.num_context
    flow = prior_flow(family) if family.prior == "flow" else None
    units = unit_layout(groups)
    if family.scale == "shared" and "real_log_scale" in units:
        units["real_log_scale"] = Weight((1,))
    bare = Architecture(len(columns), groups, family, context, units, {}, {}, {}, image, flow, label)
    encoder, decoder = _networks(bare) if image is None else _convolutions(bare)
    if schema.image is None:  # images are complete
        width = encoder["encoder_weight_0"].shape[1]
        encoder["encoder_missing_weight"] = Weight((len(columns), width))
    if label is not None:
        encoder |= _label_networks(bare)
    for group in groups:
        if group.kind == "real":
            decoder["real_raw_scale"] = Weight((group.size if family.scale == "column" else 1,))
    prior: dict[str, Weight] = {} if label is None else {"label_logits": Weight((label.size,))}
    if family.prior == "vamp":
        prior["pseudo_inputs"] = Weight((family.num_pseudo_inputs, bare.num_inputs + context), 0.1)
    elif flow is not None:
        prior |= {f"prior_{name}": weight for name, weight in flow.layout.items()}
    return dataclasses.replace(bare, encoder=encoder, decoder=decoder, prior=prior)


def num_outputs(kind: str, num_categories: int) -> int:
    return OUTPUTS.get(kind, num_categories)


def _networks(bare: Architecture) -> tuple[dict[str, Weight], dict[str, Weight]]:
    hidden, dim = bare.family.hidden, bare.family.latent_dim
    there = perceptron_layout([bare.num_inputs + bare.num_context, *hidden, 2 * dim], last=1.0)
    back = perceptron_layout([dim + bare.num_context + bare.num_labels, *hidden[::-1], bare.num_outputs], last=0.5)
    return _named("encoder", there), _named("decoder", back)


def _label(family: VAE, schema: Schema) -> Label | None:
    if family.label is None:
        return None
    column = schema.columns[position(schema, family.label)]
    place = schema.target_columns.index(column)
    others = len(schema.target_columns) - 1
    return Label(len(column.categories or ()) or 2, place, family.classification_weight, others)


def _without(label: Label, columns: Sequence[Column]) -> tuple[Group, ...]:
    """The groups of all columns but the label's."""
    kept = [j for j in range(len(columns)) if j != label.column]
    groups = group_columns([columns[j] for j in kept], num_outputs)
    return tuple(dataclasses.replace(g, columns=tuple(kept[j] for j in g.columns)) for g in groups)


def _label_networks(bare: Architecture) -> dict[str, Weight]:
    """The classifier, a perceptron like the encoder; what the encoder's first layer makes of a label; and the share of
    the rows that have one, which is not trained."""
    hidden, number = bare.family.hidden, bare.num_inputs + bare.num_context
    layout = perceptron_layout([number, *hidden, bare.num_labels], last=1.0)
    width = layout["weight_0"].shape[1]
    layout["missing_weight"] = Weight((bare.num_columns, width))
    first = (hidden or (2 * bare.family.latent_dim,))[0]
    reads = Weight((bare.num_labels, first), (2 / number) ** 0.5)
    return {**_named("classifier", layout), "encoder_label_weight": reads, SHARE: Weight((1,))}


def _convolutions(bare: Architecture) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """Of each convolution a weight (9 channels in, channels out); of the decoder's last a bias of each pixel."""
    hidden, dim, levels = bare.family.hidden, bare.family.latent_dim, bare.levels
    assert bare.image is not None
    flat = int(np.prod(levels[-1]))
    encoder = _named("encoder", perceptron_layout([flat, *hidden, 2 * dim], last=1.0))
    decoder = _named("decoder", perceptron_layout([dim, *hidden[::-1], flat], last=1.4))
    outward = [bare.image[2] * bare.groups[0].num_parameters, *bare.family.channels]
    for i, ((*_, read), (*_, size)) in enumerate(itertools.pairwise(levels)):
        taps = TAPS * TAPS
        encoder[f"encoder_conv_{i}_weight"] = Weight((taps * read, size), (2 / (taps * read)) ** 0.5)
        encoder[f"encoder_conv_{i}_bias"] = Weight((size,))
        gain = 2.0 if i else 1.0  # the last has no rectified linear unit after it
        spread, prior = ((number / (taps * size)) ** 0.5 for number in (gain, 1.0))
        decoder[f"decoder_conv_{i}_weight"] = Weight((taps * size, outward[i]), spread, prior=prior)
        decoder[f"decoder_conv_{i}_bias"] = Weight((outward[i],) if i else (bare.num_outputs,))
    return encoder, decoder


def _named(prefix: str, layout: Layout) -> dict[str, Weight]:
    return {f"{prefix}_{name}": weight for name, weight in layout.items()}


def prior_flow(family: VAE) -> flow_architecture.Architecture:
    """A RealNVP over L columns of real numbers."""
    columns = tuple(Column(f"z{j}", "real", "float64") for j in range(family.latent_dim))
    layers = Flow("realnvp", num_layers=family.prior_layers, hidden=PRIOR_HIDDEN)
    return flow_architecture.resolve(layers, Schema(columns, "array", standardize=False))


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape), at which the decoder's outputs lie about the
    columns' own moments and frequencies; pseudo-inputs are rows of the table at random."""
    values = initial_weights(architecture.layout, seed, num_starts)
    x = np.asarray(view.x)
    step = max(1, -(-x.size // MAX_STARTING_VALUES))
    some = view.take(slice(None, None, step))
    x = np.asarray(some.x, np.float64)
    mask = None if some.mask is None else np.asarray(some.mask)
    convolutions = architecture.image is not None
    bias = values["decoder_conv_0_bias" if convolutions else f"decoder_bias_{architecture.num_dense - 1}"]
    start_outputs(architecture, values, bias, x, mask)
    if architecture.label is not None:
        logits_of_labels, share = starting_logits(view, architecture.label.column, architecture.label.size)
        values["label_logits"] += logits_of_labels
        values[SHARE] += share
    if architecture.family.prior == "vamp":
        rng = np.random.default_rng([seed, 1])
        shape = values["pseudo_inputs"].shape[:2]
        chosen = rng.integers(len(x), size=shape)
        rows = _encoded(architecture, values, x, mask)
        if some.context is not None:
            rows = np.concatenate([rows, np.asarray(some.context, np.float64)], 1)
        values["pseudo_inputs"] += rows[chosen]
    return values


def idle(view: View) -> tuple[str, ...]:
    """What only rows with missing entries read."""
    return () if view.mask is not None else ("encoder_missing_weight",)


def start_outputs(
    architecture: Grouped,
    values: dict[str, np.ndarray],
    bias: np.ndarray,
    x: np.ndarray,
    mask: np.ndarray | None = None,
) -> None:
    """Set the columns' units, and the last biases (num_starts, outputs) of a network that says their conditionals, to
    moments and frequencies of rows x (n, D)."""
    for group in architecture.groups:
        columns, seen = x[:, list(group.columns)], None if mask is None else mask[:, list(group.columns)]
        units = {name: np.zeros((1, group.size)) for name in unit_layout([group])}
        start_units(units, group, columns, seen)
        for name, value in units.items():
            one = values[name].shape[1] < group.size
            values[name] += 0.5 * np.log(np.exp(2 * value).mean(1, keepdims=True)) if one else value
        if group.kind in ("binary", "categorical"):
            bias[:, group.outputs] += logits(group, columns, seen).ravel()


def _encoded(
    architecture: Architecture, values: dict[str, np.ndarray], x: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """Rows as the encoder reads them at the start; see ``backends/numpyro_columns.py``."""
    parts = []
    for group in architecture.groups:
        own = x[:, list(group.columns)]
        seen = np.ones(own.shape, bool) if mask is None else mask[:, list(group.columns)]
        if group.kind == "categorical":
            hot = (own[..., None] == np.arange(group.num_inputs)) & seen[..., None]
            parts.append(hot.reshape(len(x), -1).astype(float))
            continue
        if group.kind != "binary":
            name = "real" if group.kind == "real" else "count_input"
            own = np.log1p(own) if group.kind == "count" and group.upper is None else own
            shift, log_scale = values[f"{name}_shift"][0], values[f"{name}_log_scale"][0]
            own = np.clip((own - shift) * np.exp(-log_scale), -REACH, REACH)
        parts.append(np.where(seen, own, 0.0))
    return np.concatenate(parts, 1)
