"""Corruption, reconstruction and walk-back chain in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import logsumexp, ndtri
from numpyro.distributions import constraints

from ppl_gen.backends.numpyro_networks import Weights, perceptron
from ppl_gen.conditionals import REACH
from ppl_gen.models.dae.architecture import Architecture
from ppl_gen.models.vae.architecture import part
from ppl_gen.models.vae.numpyro_network import Columns, parameters

LOG_SQRT_TAU = 0.9189385332046727


def standard(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """Rows (..., D) of model space as corrupted rows are, before any noise."""
    value = jnp.where(architecture.is_logged, jnp.log1p(jnp.maximum(x, 0.0)), x)
    scaled = (value - weights["noise_shift"]) * jnp.exp(-weights["noise_log_scale"])
    return jnp.where(architecture.is_number, scaled, x)


class Corruption(dist.Distribution):
    """C(x~ | x) about ``centre`` (..., D). What it draws is data: no gradient passes through."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)
    pytree_data_fields = ("centre",)
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Architecture, centre: jax.Array, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture, self.centre = architecture, centre
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        family, others = self.architecture.family, jnp.asarray(self.architecture.others, self.centre.dtype)
        number = -0.5 * ((value - self.centre) / family.noise) ** 2 - LOG_SQRT_TAU - jnp.log(family.noise)
        label = jnp.where(value == self.centre, jnp.log1p(-family.flip), jnp.log(family.flip / others))
        return jnp.where(self.architecture.is_number, number, label).sum(-1)

    def icdf(self, u: jax.Array) -> jax.Array:
        """Column by column, the value at u (..., D)."""
        family, others = self.architecture.family, jnp.asarray(self.architecture.others, self.centre.dtype)
        kept = 1 - family.flip
        which = jnp.clip(jnp.floor((u - kept) / family.flip * others), 0.0, others - 1)
        label = jnp.where(u < kept, self.centre, which + (which >= self.centre))
        number = self.centre + family.noise * ndtri(u)
        return jax.lax.stop_gradient(jnp.where(self.architecture.is_number, number, label))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        shape, dtype = (*sample_shape, *self.batch_shape, *self.event_shape), self.centre.dtype
        return self.icdf(jax.random.uniform(key, shape, dtype, minval=jnp.finfo(dtype).tiny))


class Corrupted(dist.Distribution):
    """p(x~): the corruption of a state of the chain, each as likely; ``centres`` (C, T, D)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)
    pytree_data_fields = ("centres",)
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Architecture, centres: jax.Array, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture, self.centres = architecture, centres
        super().__init__((), centres.shape[-1:], validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        # Chain by chain, as (rows, states) of all at once would not fit into memory.
        found = [logsumexp(log_kernel(self.architecture, value, states), axis=-1) for states in self.centres]
        return logsumexp(jnp.stack(found), axis=0) - jnp.log(self.centres.shape[0] * self.centres.shape[1])

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        key_state, key_noise = jax.random.split(key)
        states = self.centres.reshape(-1, self.centres.shape[-1])
        chosen = states[jax.random.randint(key_state, sample_shape, 0, len(states))]
        return Corruption(self.architecture, chosen).sample(key_noise)


def log_kernel(architecture: Architecture, value: jax.Array, centres: jax.Array) -> jax.Array:
    """(..., T): log C of corrupted rows (..., D) about each of the centres (T, D), by products of matrices."""
    family, numbers = architecture.family, architecture.numbers
    one, other = value[..., numbers], centres[:, numbers]
    square = (one**2).sum(-1, keepdims=True) + (other**2).sum(-1) - 2 * one @ other.T
    total = -0.5 * jnp.maximum(square, 0.0) / family.noise**2
    total = total - len(numbers) * (LOG_SQRT_TAU + jnp.log(family.noise))
    for group in architecture.labels:
        size = max(group.num_inputs, 2)
        equal = hot(value[..., group.where], size) @ hot(centres[:, group.where], size).T
        total = total + equal * jnp.log1p(-family.flip)
        total = total + (group.size - equal) * jnp.log(family.flip / (size - 1))
    return total


def hot(labels: jax.Array, size: int) -> jax.Array:
    """(..., columns * size): one-hot."""
    found = (labels[..., None] == jnp.arange(size)).astype(labels.dtype)
    return found.reshape(*labels.shape[:-1], -1)


def reconstruct(architecture: Architecture, weights: Weights, corrupted: jax.Array) -> Columns:
    """p(x | x~) of corrupted rows (..., D): of real columns the network says how far x is from x~."""
    reached, rows = jnp.clip(corrupted, -REACH, REACH), []
    for group in architecture.groups:
        own = reached[..., group.where]
        rows.append(hot(own, group.num_inputs) if group.kind == "categorical" else own)
    out = perceptron(part(weights, "network_"), jnp.concatenate(rows, -1), architecture.num_dense)
    for group in architecture.groups:
        if group.kind == "real":
            out = out.at[..., group.outputs].add(reached[..., group.where])
    return Columns(architecture, weights, parameters(architecture, weights, out))


def mean_reconstruction(architecture: Architecture, weights: Weights, corrupted: jax.Array) -> jax.Array:
    """(..., R): the mean of p(x | x~) of each real column, in model space."""
    columns = reconstruct(architecture, weights, corrupted)
    (raw,) = (raw for group, raw in zip(architecture.groups, columns.raw, strict=True) if group.kind == "real")
    return weights["real_shift"] + jnp.exp(weights["real_log_scale"]) * raw[1]


def walk(architecture: Architecture, weights: Weights, start: jax.Array, key: jax.Array) -> jax.Array:
    """(C, T, D): chains from ``start`` (C, D), rows of model space, corrupted and reconstructed by turns."""
    warmup, thinning = architecture.num_steps

    def step(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        key_noise, key_row = jax.random.split(key)
        corrupted = Corruption(architecture, standard(architecture, weights, x)).sample(key_noise)
        return reconstruct(architecture, weights, corrupted).sample(key_row), None

    def kept(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jax.lax.scan(step, x, jax.random.split(key, thinning))[0]
        return x, x

    key_warmup, key_kept = jax.random.split(key)
    x = jax.lax.scan(step, start, jax.random.split(key_warmup, warmup))[0]
    states = jax.lax.scan(kept, x, jax.random.split(key_kept, architecture.family.num_states))[1]
    return jnp.moveaxis(states, 0, 1)
