"""A flow's layers resolved for a number of columns: sizes, masks, orders and the layout of its weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.models.flow import cnf
from ppl_gen.networks import Layout, Weight, autoregressive_masks, initial_weights, perceptron_layout

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.flow import Flow

COUPLING = ("realnvp", "nsf")
SPLINES = ("nsf", "nsf_ar")
REACH = 10.0  # conditioners see columns as within +-REACH: what they say of an outlier is bounded, and can't overflow
BASE_SPREAD = 1.0  # of the centres of a mixture base at first
HIGHEST = {"real": np.nan, "count": np.inf, "binary": 1.0}
START_DF = 10.0  # degrees of freedom of a Student's t base at first
HALVINGS = {4: 40, 8: 70}  # of a bracket, by the bytes of a number, until it is as narrow as numbers can tell
PARTICLES = 32  # points of a cell of whole numbers that one is drawn from


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """``family`` for D modelled columns and C that are conditioned on.

    ``layout``        the weights
    ``masks``         of autoregressive layers: (L, n_i, n_i+1) for each weight of the conditioner
    ``permutations``  of coupling layers: (L, D, D); x @ P has the conditioning half first
    ``orders``        of autoregressive layers: (L, D) the place of each column
    ``highest``       (D,) the largest code of a binary or categorical column, infinite for a count, NaN for a real one
    """

    family: Flow
    num_columns: int
    num_context: int
    layout: Layout
    masks: tuple[np.ndarray, ...] = ()
    permutations: np.ndarray | None = None
    orders: np.ndarray | None = None
    highest: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

    @property
    def is_discrete(self) -> np.ndarray:
        """(D,): which columns hold whole numbers, to which noise is added."""
        return ~np.isnan(self.highest)

    @property
    def spread(self) -> np.ndarray:
        """(number of discrete columns, D): noise @ spread has the noise of each in its column, and 0 elsewhere."""
        return np.eye(self.num_columns)[self.is_discrete]

    def cell_noise(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (K, n, number of discrete columns) of the cells of n rows, and Gumbel noise (K, n) with which the
        largest of log weights plus noise is a draw in proportion to the weights: always the same numbers."""
        rng = np.random.default_rng(0)
        noise = rng.random((PARTICLES, num_rows, int(self.is_discrete.sum())))
        return noise, rng.gumbel(size=(PARTICLES, num_rows))

    @property
    def num_conditioning(self) -> int:
        """Columns that a coupling layer leaves as they are."""
        return self.num_columns // 2

    @property
    def conditioner_names(self) -> tuple[str, ...]:
        """The weights that have a leading axis of layers."""
        return tuple(name for name in self.layout if name.startswith(("weight_", "bias_")))

    @property
    def num_dense(self) -> int:
        """Dense layers in a conditioner."""
        return len(self.conditioner_names) // 2


def resolve(family: Flow, schema: Schema) -> Architecture:
    """The architecture for these columns."""
    columns, context = len(schema.targets), schema.num_context
    highest = np.array([HIGHEST.get(c.kind, len(c.categories or ()) - 1) for c in schema.target_columns], float)
    sizes = list(family.hidden)
    layers, per_column = family.size, family.parameters_per_column
    layout: dict[str, Weight] = {"shift": Weight((columns,)), "log_scale": Weight((columns,))}
    if family.transform in COUPLING:
        inside = columns // 2
        layout |= perceptron_layout([inside + context, *sizes, (columns - inside) * per_column], layers)
        return Architecture(family, columns, context, layout | _base(family, columns),
                            permutations=_permutations(layers, columns), highest=highest)  # fmt: skip
    if family.transform == "cnf":
        layout |= cnf.layout(family, columns, context) | _base(family, columns)
        return Architecture(family, columns, context, layout, highest=highest)
    orders = np.stack([np.arange(columns)[:: -1 if layer % 2 else 1] for layer in range(layers)])
    each = [autoregressive_masks(order, context, sizes, per_column) for order in orders]
    layout |= perceptron_layout([columns + context, *sizes, columns * per_column], layers)
    masks = tuple(np.stack(parts) for parts in zip(*each, strict=True))
    layout |= _base(family, columns)
    return Architecture(family, columns, context, layout, masks, orders=orders, highest=highest)


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Independent starts of the weights, each (num_starts, *shape); the first layer maps the columns to mean 0 and
    standard deviation 1 (Kingma & Dhariwal 2018, arXiv:1807.03039, sec. 3.1)."""
    values = initial_weights(architecture.layout, seed, num_starts)
    x, noisy = np.asarray(view.x, np.float64), architecture.is_discrete
    values["shift"] += x.mean(0) + 0.5 * noisy
    values["log_scale"] += 0.5 * np.log(np.maximum(x.var(0) + noisy / 12, 1e-12))  # uniform noise has variance 1/12
    return values


def _base(family: Flow, columns: int) -> dict[str, Weight]:
    if family.base == "student_t":
        return {"base_log_df": Weight((columns,), centre=float(np.log(START_DF)))}
    if family.base == "mixture":
        m = family.num_components
        return {
            "base_logits": Weight((m,)), "base_locs": Weight((m, columns), BASE_SPREAD),
            "base_log_scales": Weight((m, columns)),
        }  # fmt: skip
    return {}


def _permutations(layers: int, columns: int) -> np.ndarray:
    """(L, D, D): a random order for every other layer and its reverse for the next, so that two layers in a row
    transform every column. The orders belong to the architecture: they are the same in every fit."""
    rng, result, order = np.random.default_rng(0), [], np.arange(columns)
    for layer in range(layers):
        order = order[::-1] if layer % 2 else (rng.permutation(columns) if layer else order)
        result.append(np.eye(columns)[:, order])
    return np.stack(result)
