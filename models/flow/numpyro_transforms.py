"""The layers of a flow in JAX. ``to_base`` maps rows to the base space, ``from_base`` back; both give log |det|."""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from ppl_gen.backends.numpyro_networks import Weights, perceptron_of_columns
from ppl_gen.models.flow import numpyro_cnf
from ppl_gen.models.flow import numpyro_splines as maps
from ppl_gen.models.flow.architecture import COUPLING, REACH, SPLINES, Architecture

if TYPE_CHECKING:
    from collections.abc import Callable

Pairs = tuple[jax.Array, jax.Array]

MAX_UNROLLED = 16  # columns, or layers
BLOCK = 4096  # rows


def to_base(architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None) -> Pairs:
    """(..., D) rows to u, and log |det du / dx| (...)."""
    if architecture.family.transform == "cnf":
        return numpyro_cnf.to_base(architecture, weights, x, context)
    log_scale = weights["log_scale"]
    v, log_det = _layers(architecture, weights, (x - weights["shift"]) * jnp.exp(-log_scale), context, inward=True)
    return v, log_det - log_scale.sum()


def from_base(architecture: Architecture, weights: Weights, u: jax.Array, context: jax.Array | None) -> Pairs:
    """(..., D) points of the base space to x, and log |det dx / du| (...)."""
    if architecture.family.transform == "cnf":
        return numpyro_cnf.from_base(architecture, weights, u, context)
    log_scale = weights["log_scale"]
    v, log_det = _layers(architecture, weights, u, context, inward=False)
    return weights["shift"] + jnp.exp(log_scale) * v, log_det + log_scale.sum()


def _layers(
    architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None, inward: bool
) -> Pairs:
    """(..., D) through all layers, towards the base or away from it, and log |det| (...).

    Inside, columns come first, (D, n), and so do the numbers of a conditioner: each operation then runs along the rows,
    many at once, which halves the time of a step on a CPU. Many rows go through in blocks, which stay in the cache
    from layer to layer.
    """
    lead = x.shape[:-1]
    rows = math.prod(lead)
    columns = x.reshape(rows, x.shape[-1]).T
    if context is not None:
        context = jnp.broadcast_to(context, (*lead, context.shape[-1])).reshape(rows, context.shape[-1]).T
    through = partial(_through, architecture, weights, inward=inward)
    if rows <= 2 * BLOCK:
        columns, log_det = through(columns, context)
    else:
        parts = jax.lax.map(lambda block: through(*block), (_blocks(columns), _blocks(context)))
        columns, log_det = (jnp.moveaxis(part, 0, -2).reshape(*part.shape[1:-1], -1)[..., :rows] for part in parts)
    return columns.T.reshape(x.shape), log_det.reshape(lead)


def _blocks(columns: jax.Array | None) -> jax.Array | None:
    """(number of blocks, columns, BLOCK) of (columns, n), zeros after the last row."""
    if columns is None:
        return None
    padded = jnp.pad(columns, ((0, 0), (0, -columns.shape[1] % BLOCK)))
    return jnp.moveaxis(padded.reshape(len(columns), -1, BLOCK), 1, 0)


def _through(
    architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None, inward: bool
) -> Pairs:
    """(D, n) through all layers, and log |det| (n,). They are written out one after another, up to a number of them: a
    loop of XLA copies what the backward pass needs of each, and takes twice as long."""
    layer = _layer(architecture, inward)
    inputs = (
        {name: weights[name] for name in architecture.conditioner_names},
        tuple(jnp.asarray(mask, x.dtype) for mask in architecture.masks),
        None if architecture.permutations is None else jnp.asarray(architecture.permutations, x.dtype),
        None if architecture.orders is None else jnp.asarray(architecture.orders),
    )

    def step(carry: Pairs, inputs: Any) -> tuple[Pairs, None]:
        x, log_det = carry
        x, log_slopes = layer(architecture, *inputs, x, context)
        return (x, log_det + over_columns(log_slopes)), None

    unroll, start = min(architecture.family.size, MAX_UNROLLED), (x, jnp.zeros(x.shape[1:], x.dtype))
    return jax.lax.scan(step, start, inputs, reverse=not inward, unroll=unroll)[0]


def over_columns(values: jax.Array) -> jax.Array:
    """The sum over the first axis, term by term where it is short: XLA's own is many times slower there."""
    return reduce(jnp.add, list(values)) if len(values) <= MAX_UNROLLED else values.sum(0)


def _layer(architecture: Architecture, inward: bool) -> Callable[..., Pairs]:
    """A layer as a function of its weights, masks, permutation and order, the columns and the context."""
    family = architecture.family
    change: maps.Map
    if family.transform in SPLINES:
        change = partial(maps.spline if inward else maps.spline_inverse, bound=family.bound)
    else:
        change = maps.affine if inward else maps.affine_inverse
    if family.transform in COUPLING:
        return partial(_coupling, change)
    # Whose own columns go into the conditioner: the rows' (maf, nsf_ar) or the base's (iaf).
    at_once = inward == (family.transform != "iaf")
    return partial(_at_once if at_once else _sequential, change)


def _parameters(
    architecture: Architecture, weights: Weights, masks: tuple[jax.Array, ...], x: jax.Array, context: jax.Array | None
) -> jax.Array:
    """(P, columns, n) what the conditioner says of x."""
    inputs = jnp.clip(x if context is None else jnp.concatenate([x, context]), -REACH, REACH)
    out = perceptron_of_columns(weights, inputs, architecture.num_dense, masks)
    return out.reshape(architecture.family.parameters_per_column, -1, out.shape[-1])


def _coupling(
    change: maps.Map, architecture: Architecture, weights: Weights, masks: Any, permutation: jax.Array, _: Any,
    x: jax.Array, context: jax.Array | None,
) -> Pairs:  # fmt: skip
    """One half of the columns, in the layer's order, decides how the other is changed: the same in both directions."""
    number = architecture.num_conditioning
    ordered = permutation.T @ x
    first, second = ordered[:number], ordered[number:]
    second, log_slopes = change(_parameters(architecture, weights, masks, first, context), second)
    return permutation @ jnp.concatenate([first, second]), log_slopes


def _at_once(
    change: maps.Map, architecture: Architecture, weights: Weights, masks: Any, _: Any, order: Any, x: jax.Array,
    context: jax.Array | None,
) -> Pairs:  # fmt: skip
    """Each column is changed as the columns before it, known already, say."""
    return change(_parameters(architecture, weights, masks, x, context), x)


def _sequential(
    change: maps.Map, architecture: Architecture, weights: Weights, masks: Any, _: Any, order: jax.Array, x: jax.Array,
    context: jax.Array | None,
) -> Pairs:  # fmt: skip
    """The inverse of :func:`_at_once`: the columns before one must be known before it can be, so D passes; what the
    last of them says of all columns holds."""

    def step(known: Pairs, place: jax.Array) -> tuple[Pairs, None]:
        changed, log_slopes = change(_parameters(architecture, weights, masks, known[0], context), x)
        return (jnp.where((order == place)[:, None], changed, known[0]), log_slopes), None

    return jax.lax.scan(step, (jnp.zeros_like(x), jnp.zeros_like(x)), jnp.arange(len(x)))[0]


class FlowTransform(Transform):
    """The flow as a transform of NumPyro, from the base space to rows."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, architecture: Architecture, weights: Weights, context: jax.Array | None = None) -> None:
        self.architecture, self.weights, self.context = architecture, dict(weights), context
        self._last: tuple[Any, Any, Any] | None = None  # rows, their u and log |det|: NumPyro asks for both in turn

    def __call__(self, x: jax.Array) -> jax.Array:
        y, log_det = from_base(self.architecture, self.weights, x, self.context)
        self._last = (y, x, log_det)
        return y

    def _inverse(self, y: jax.Array) -> jax.Array:
        x, log_det = to_base(self.architecture, self.weights, y, self.context)
        self._last = (y, x, -log_det)
        return x

    def log_abs_det_jacobian(self, x: jax.Array, y: jax.Array, intermediates: Any = None) -> jax.Array:
        if self._last is None or self._last[0] is not y:
            self._inverse(y)
        assert self._last is not None
        return self._last[2]

    def tree_flatten(self) -> Any:
        return (self.weights, self.context), (
            ("weights", "context"),
            {"architecture": self.architecture, "_last": None},
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__
