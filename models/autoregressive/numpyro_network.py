"""The masked perceptron in JAX: densities of rows, and the uniform numbers that rows are drawn by.

Rows are (..., D) in model space; ``context`` (..., C) is what every column may depend on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl_gen.backends import numpyro_columns as conditionals
from ppl_gen.backends.numpyro_networks import Weights, perceptron
from ppl_gen.conditionals import REACH, Group
from ppl_gen.models.autoregressive.architecture import Architecture


def encode(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(..., num_inputs): rows as the network reads them."""
    return jnp.concatenate([conditionals.encode(g, weights, x[..., g.where]) for g in architecture.groups], -1)


def _bounded(architecture: Architecture, context: jax.Array | None) -> jax.Array | None:
    """What is conditioned on, within +-REACH; what the layers of sequences and images hand on is left alone."""
    if context is None or not architecture.family.condition_on:
        return context
    return jnp.clip(context, -REACH, REACH)


def raw_parameters(
    architecture: Architecture, weights: Weights, encoded: jax.Array, context: jax.Array | None = None
) -> list[jax.Array]:
    """For each group (num_parameters, ..., columns): the parameters of the conditionals, each of the columns before."""
    context = _bounded(architecture, context)
    if context is not None:
        encoded = jnp.concatenate([encoded, jnp.broadcast_to(context, (*encoded.shape[:-1], context.shape[-1]))], -1)
    masks = [jnp.asarray(mask, encoded.dtype) for mask in architecture.masks]
    out = perceptron(weights, encoded, architecture.num_dense, masks)
    parts = [out[..., g.outputs].reshape(*out.shape[:-1], g.num_parameters, g.size) for g in architecture.groups]
    return [jnp.moveaxis(part, -2, 0) for part in parts]


def log_prob(
    architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None = None,
    encoded: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """(...): log p(x), nats in model space.

    :param encoded: the rows encoded, where they are so already.
    """
    encoded = encode(architecture, weights, x) if encoded is None else encoded
    found = zip(architecture.groups, raw_parameters(architecture, weights, encoded, context), strict=True)
    real = architecture.family.real
    parts = [conditionals.log_prob(g, weights, raw, x[..., g.where], real).sum(-1) for g, raw in found]
    return jnp.stack(parts).sum(0)


def to_uniform(
    architecture: Architecture, weights: Weights, x: jax.Array, context: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """F(x_j- | x_<j) and F(x_j | x_<j), (..., D) both: :func:`from_uniform` gives x for all u between them. For real
    columns they are equal, and u uniform where x is drawn from the model (Rosenblatt 1952, Ann. Math. Stat. 23)."""
    found = raw_parameters(architecture, weights, encode(architecture, weights, x), context)
    ends = [
        conditionals.cdf(g, weights, raw, x[..., g.where], architecture.family.real)
        for g, raw in zip(architecture.groups, found, strict=True)
    ]
    low, high = (
        jnp.stack([ends[group][side][..., place] for group, place in architecture.places], -1) for side in (0, 1)
    )
    return low, high


def from_uniform(
    architecture: Architecture, weights: Weights, u: jax.Array, context: jax.Array | None = None
) -> jax.Array:
    """(..., D): each column in turn by the inverse of its distribution function, from u in [0, 1), (..., D).

    Nothing is computed twice: the first layer's sums grow by one column's part a time, and of the last layer only that
    column's outputs are found.
    """
    dtype, last = u.dtype, architecture.num_dense - 1
    masked = [weights[f"weight_{i}"] * jnp.asarray(m, dtype) for i, m in enumerate(architecture.masks)]
    number = architecture.num_inputs
    context = _bounded(architecture, context)
    sums = weights["bias_0"] if context is None else weights["bias_0"] + context @ masked[0][number:]
    sums = jnp.broadcast_to(sums, (*u.shape[:-1], sums.shape[-1]))
    inner = {f"weight_{i - 1}": masked[i] for i in range(1, last)}
    inner |= {f"bias_{i - 1}": weights[f"bias_{i}"] for i in range(1, last)}

    def branch(group: Group) -> Callable[..., Any]:
        shape = (masked[last].shape[0], group.num_parameters, group.size)
        out = masked[last][:, group.outputs].reshape(shape)
        bias = weights[f"bias_{last}"][group.outputs].reshape(shape[1:])

        def draw(place: jax.Array, sums: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = {
                f"weight_{last - 1}": jax.lax.dynamic_index_in_dim(out, place, 2, keepdims=False),
                f"bias_{last - 1}": jax.lax.dynamic_index_in_dim(bias, place, 1, keepdims=False),
            }
            raw = jnp.moveaxis(perceptron({**inner, **own}, jax.nn.relu(sums), last), -1, 0)[..., None]
            units = _units(group, weights, place)
            x = conditionals.quantile(group, units, raw, u[..., None], architecture.family.real)
            start = group.first_input + place * group.num_inputs
            rows = jax.lax.dynamic_slice_in_dim(masked[0], start, group.num_inputs)
            return sums + conditionals.encode(group, units, x) @ rows, x[..., 0]

        return draw

    branches = [branch(group) for group in architecture.groups]

    def step(sums: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        which, place, u = inputs
        return jax.lax.switch(which, branches, place, sums, u)

    which, place = (jnp.array(part) for part in zip(*architecture.places, strict=True))
    _, x = jax.lax.scan(step, sums, (which, place, jnp.moveaxis(u, -1, 0)))
    return jnp.moveaxis(x, 0, -1)


def _units(group: Group, weights: Weights, place: jax.Array) -> dict[str, jax.Array]:
    """The locations and scales of one column of a group."""
    names = [name for name in weights if name.startswith(group.kind) and name.endswith(("_shift", "_log_scale"))]
    return {name: jax.lax.dynamic_slice_in_dim(weights[name], place, 1) for name in names}
