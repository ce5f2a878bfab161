"""The continuous flow in JAX; :mod:`ppl_gen.models.flow.cnf` has its mathematics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.models.flow.cnf import probes
from ppl_gen.runge_kutta import step

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.models.flow.architecture import Architecture

Pairs = tuple[jax.Array, jax.Array]


def to_base(architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None) -> Pairs:
    """(..., D) rows to u, and log |det du / dx| (...)."""
    u, log_dets = into_base(architecture, weights, x, context, architecture.family.size)
    return u, log_dets.mean(-1)


def from_base(architecture: Architecture, weights: Weights, u: jax.Array, context: jax.Array | None) -> Pairs:
    """(..., D) points of the base space to x, and log |det dx / du| (...)."""
    v, log_dets = _solve(architecture, weights, u, context, architecture.family.size, backward=False)
    log_scale = weights["log_scale"]
    return weights["shift"] + jnp.exp(log_scale) * v, log_dets.mean(-1) + log_scale.sum()


def into_base(
    architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None, num_steps: int
) -> Pairs:
    """As :func:`to_base`, in so many steps and with each probe's own log |det du / dx|, (..., K); K is 1 where the
    trace is exact."""
    log_scale = weights["log_scale"]
    start = (x - weights["shift"]) * jnp.exp(-log_scale)
    u, log_dets = _solve(architecture, weights, start, context, num_steps, backward=True)
    return u, log_dets - log_scale.sum()


def log_prob_error(architecture: Architecture, weights: Weights, log_base: Callable, view: Any) -> jax.Array:
    """(n,): how far log p(x) may be off, in nats: what half the step changes it by, and the standard error over the
    probes where the trace is estimated."""
    number = architecture.family.size
    (u, log_dets), (u_half, log_dets_half) = (
        into_base(architecture, weights, view.x, view.context, steps) for steps in (number, 2 * number)
    )
    change = log_base(u) - log_base(u_half) + (log_dets - log_dets_half).mean(-1)
    variance = log_dets.var(-1, ddof=1) / log_dets.shape[-1] if log_dets.shape[-1] > 1 else 0.0
    return jnp.sqrt(change**2 + variance)


def _solve(
    architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None, num_steps: int,
    backward: bool,
) -> Pairs:  # fmt: skip
    """x at the other end of the time, and the integral of the trace on the way."""
    field, number = _field(architecture, weights, x.dtype, context)
    origin, span = (1.0, -1.0 / num_steps) if backward else (0.0, 1.0 / num_steps)

    @partial(jax.checkpoint, prevent_cse=False)  # to keep the stages' values costs more than to find them again
    def once(state: Pairs, index: jax.Array) -> tuple[Pairs, None]:
        return step(field, origin, index, span, *state), None

    start = (x, jnp.zeros((*x.shape[:-1], number), x.dtype))
    return jax.lax.scan(once, start, jnp.arange(num_steps, dtype=x.dtype))[0]


def _field(
    architecture: Architecture, weights: Weights, dtype: Any, context: jax.Array | None
) -> tuple[Callable[[jax.Array, jax.Array], Pairs], int]:
    """``f(t, x) -> (dx/dt (..., D), trace (..., K))``, and K."""
    columns, dense = architecture.num_columns, architecture.num_dense
    kernels, biases = ([weights[f"{kind}_{i}"] for i in range(dense)] for kind in ("weight", "bias"))
    first, of_time = kernels[0][:columns], kernels[0][columns]
    offset = biases[0] if context is None else biases[0] + context @ kernels[0][columns + 1 :]
    directions, exact = probes(architecture.family, columns)
    if directions is None:
        coupled = first.T * kernels[1] if dense == 2 else kernels[1] * (kernels[2] @ first).T
        trace_of = _one_hidden if dense == 2 else _two_hidden
    else:
        vectors = jnp.asarray(directions, dtype)
        coupled, trace_of = vectors @ first, partial(_along, vectors, kernels, exact)

    def field(t: jax.Array, x: jax.Array) -> Pairs:
        value = jnp.tanh(x @ first + (offset + t * of_time))
        slopes = [1 - value**2]
        for kernel, bias in zip(kernels[1:-1], biases[1:-1], strict=True):
            value = jnp.tanh(value @ kernel + bias)
            slopes.append(1 - value**2)
        return value @ kernels[-1] + biases[-1], trace_of(coupled, slopes)

    return field, 1 if exact or directions is None else len(directions)


def _one_hidden(coupled: jax.Array, slopes: list[jax.Array]) -> jax.Array:
    return slopes[0] @ coupled.sum(1, keepdims=True)


def _two_hidden(coupled: jax.Array, slopes: list[jax.Array]) -> jax.Array:
    return ((slopes[0] @ coupled) * slopes[1]).sum(-1, keepdims=True)


def _along(
    vectors: jax.Array, kernels: list[jax.Array], exact: bool, coupled: jax.Array, slopes: list[jax.Array]
) -> jax.Array:
    """v' (df/dx) v of each direction, by forward-mode differentiation; their sum where that is the trace."""
    tangents = coupled * slopes[0][..., None, :]
    for kernel, slope in zip(kernels[1:-1], slopes[1:], strict=True):
        tangents = (tangents @ kernel) * slope[..., None, :]
    products = ((tangents @ kernels[-1]) * vectors).sum(-1)
    return products.sum(-1, keepdims=True) if exact else products
