"""A machine resolved for a table's columns: groups of columns, layout of the weights, which states are enumerated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.conditionals import LEAST_SCALE, Group, group_columns, logits
from ppl_gen.networks import Layout, Weight, initial_weights

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.rbm import RBM

MAX_STATES = 2**20  # that log Z is summed over: those of 20 hidden units
CHUNK = 2**10  # states at once
SPREAD = 0.01  # of the weights at first (Hinton 2012, sec. 8)
BASE = ("base_bias", "base_log_scale")


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """``family`` for D columns, read as F numbers: of a categorical column one per label.

    ``groups``  the columns by kind; their numbers stand group after group
    ``layout``  the weights: those of the machine, and those of the base, which training leaves as they are
    """

    family: RBM
    num_columns: int
    groups: tuple[Group, ...]
    layout: Layout

    @property
    def num_features(self) -> int:
        """F."""
        return sum(group.num_inputs * group.size for group in self.groups)

    @property
    def real(self) -> Group | None:
        """The group of real columns, if there are any."""
        return next((group for group in self.groups if group.kind == "real"), None)

    @property
    def guide_layout(self) -> Layout:
        """The weights that the posterior of the hidden units depends on."""
        return {name: self.layout[name] for name in ("weight", "hidden_bias", "visible_log_scale")
                if name in self.layout}  # fmt: skip

    @cached_property
    def is_plain(self) -> bool:
        """Whether a row is its own features: all columns are binary."""
        return all(group.kind == "binary" for group in self.groups)

    @cached_property
    def column_order(self) -> np.ndarray | None:
        """Where each column of the table stands when those of all groups are laid end to end; None if right there."""
        order = np.argsort(np.concatenate([np.array(group.columns) for group in self.groups]))
        return None if (order == np.arange(len(order))).all() else order

    @cached_property
    def visible_states(self) -> tuple[int, ...] | None:
        """How many values each column has; None where some column is real."""
        if self.real is not None:
            return None
        sizes = np.full(self.num_columns, 2)
        for group in self.groups:
            sizes[list(group.columns)] = max(group.num_inputs, 2)
        return tuple(int(size) for size in sizes)

    @cached_property
    def enumerated(self) -> tuple[str, tuple[int, ...]] | None:
        """The layer whose states log Z is summed over, ``"hidden"`` or ``"visible"``, and how many values each of its
        units has; None where both have too many states."""
        layers = {"hidden": (2,) * self.family.num_hidden, "visible": self.visible_states}
        bits = {name: sum(map(math.log2, sizes)) for name, sizes in layers.items() if sizes is not None}
        least = min(bits, key=lambda name: bits[name])
        if bits[least] > math.log2(MAX_STATES) + 1e-9:
            return None
        sizes = layers[least]
        assert sizes is not None
        return least, sizes

    def parts(self) -> Iterator[tuple[Group, slice]]:
        """Each group and where its features stand among all."""
        for group in self.groups:
            yield group, slice(group.first_input, group.first_input + group.num_inputs * group.size)


def resolve(family: RBM, schema: Schema) -> Architecture:
    """The architecture for these columns."""
    columns = schema.target_columns
    groups = group_columns(columns, lambda _, size: size or 1)
    bare = Architecture(family, len(columns), groups, {})
    features, real = bare.num_features, bare.real
    layout = {
        "weight": Weight((features, family.num_hidden), SPREAD), "visible_bias": Weight((features,)),
        "hidden_bias": Weight((family.num_hidden,)), "base_bias": Weight((features,)),
    }  # fmt: skip
    if real is not None:
        layout |= dict.fromkeys(("visible_log_scale", "base_log_scale"), Weight((real.size,)))
    return dataclasses.replace(bare, layout=layout)


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape): those between the layers are close to 0, the
    columns' own are the data's log odds, means and log standard deviations; and so are those of the base."""
    values = initial_weights(architecture.layout, seed, num_starts)
    x = np.asarray(view.x, np.float64)
    weights = None if view.weights is None else np.asarray(view.weights, np.float64)
    for group, where in architecture.parts():
        own = x[:, list(group.columns)]
        if group.kind == "real":
            mean = np.average(own, axis=0, weights=weights)
            sd = np.sqrt(np.average((own - mean) ** 2, axis=0, weights=weights))
            bias, log_scale = mean, np.log(np.maximum(sd, LEAST_SCALE["real"]))
            values["visible_log_scale"] += log_scale
            values["base_log_scale"] += log_scale
        else:
            bias = _log_odds(group, own, weights)
        values["visible_bias"][:, where] += bias
        values["base_bias"][:, where] += bias
    return values


def _log_odds(group: Group, x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Of a group of labels (n, size) with row weights: (size * num_inputs,), from shares that half a row of each value
    is added to."""
    if weights is None:
        return logits(group, x).T.ravel()
    size = max(group.num_inputs, 2)
    counts = np.stack([weights @ (x == value) for value in range(size)], 1) + 0.5
    found = np.log(counts / counts.sum(1, keepdims=True))
    return np.asarray(found[:, 1] - found[:, 0] if group.kind == "binary" else found.ravel())


def idle(architecture: Architecture, view: Any) -> tuple[str, ...]:
    """The weights that training leaves as they are: the base's, and standard deviations that are fixed."""
    fixed = ("visible_log_scale",) if architecture.family.scale == "fixed" else ()
    return tuple(name for name in (*BASE, *fixed) if name in architecture.layout)


def chunks(sizes: tuple[int, ...]) -> tuple[int, int, np.ndarray]:
    """How states, the digits of numbers with these bases, are counted: states at once, how many times, and what one
    step of each digit is worth."""
    number = math.prod(sizes)
    strides = np.array([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], np.int32)
    size = min(number, CHUNK)
    return size, -(-number // size), strides
