"""Base and energy in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.ebm.architecture import Architecture
from ppl_gen.models.flow.numpyro_pair import flow
from ppl_gen.models.vae.architecture import part
from ppl_gen.models.vae.numpyro_convolution import convolve


def base(architecture: Architecture, weights: Weights) -> dist.Distribution:
    """The distribution that the density is relative to, of event shape (D,)."""
    if architecture.flow is not None:
        return flow(architecture.flow, part(weights, "base_"), None)
    if architecture.family.base == "uniform":
        half = jnp.exp(weights["base_log_half_width"])
        low, high = weights["base_centre"] - half, weights["base_centre"] + half
        return dist.Uniform(low, high, validate_args=False).to_event(1)  # rows outside have density 0
    if architecture.is_full:
        return dist.MultivariateNormal(weights["shift"], scale_tril=cholesky(weights))
    return dist.Normal(weights["shift"], jnp.exp(weights["log_scale"])).to_event(1)


def is_inside(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(n,): whether the base has a density at these rows."""
    if architecture.family.base != "uniform":
        return jnp.ones(x.shape[:-1], bool)
    return (jnp.abs(x - weights["base_centre"]) <= jnp.exp(weights["base_log_half_width"])).all(-1)


def minus_energy(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(n,): of rows (n, D) of model space."""
    if architecture.family.is_given:
        return -given(architecture, x)
    h = (x - weights["shift"]) * jnp.exp(-weights["log_scale"])
    own = part(weights, "energy_")
    if architecture.levels:
        h = h.reshape(-1, *architecture.levels[0])
        for i in range(len(architecture.family.channels)):
            h = jax.nn.silu(convolve(h, own[f"conv_{i}_weight"], 2) + own[f"conv_{i}_bias"])
        h = h.reshape(len(x), -1)
    for i in range(architecture.num_dense):
        h = h @ own[f"weight_{i}"] + own[f"bias_{i}"]
        if i < architecture.num_dense - 1:
            h = jax.nn.silu(h)
    return h[..., 0]


def given(architecture: Architecture, x: jax.Array) -> jax.Array:
    """(n,): the user's energy of rows (n, D)."""
    function: Any = architecture.family.energy
    return jnp.asarray(function(x))


def tilt(architecture: Architecture, weights: Weights, x: jax.Array, log_base: jax.Array) -> jax.Array:
    """(n,): log of what the base's density is multiplied by, up to log Z."""
    minus = minus_energy(architecture, weights, x)
    if architecture.family.is_given:
        minus = minus - log_base
    return jnp.where(is_inside(architecture, weights, x) & (minus > -jnp.inf), minus, -jnp.inf)


def tempered(architecture: Architecture, weights: Weights, x: jax.Array, inverse_temperature: Any) -> jax.Array:
    """(n,): log of the base's density times the tilt to the power of the inverse temperature."""
    inside = is_inside(architecture, weights, x)
    if architecture.family.is_given and isinstance(inverse_temperature, float) and inverse_temperature == 1.0:
        found = minus_energy(architecture, weights, x)  # the base cancels: chains need not evaluate it
        return jnp.where(inside & jnp.isfinite(found), found, -jnp.inf)
    log_base = base(architecture, weights).log_prob(x)
    found = tilt(architecture, weights, x, log_base)
    there = jnp.isfinite(found)
    total = log_base + inverse_temperature * jnp.where(there, found, 0.0)
    return jnp.where(inside & (there | (inverse_temperature == 0)), total, -jnp.inf)


def draw_base(architecture: Architecture, weights: Weights, number: int, key: Any) -> jax.Array:
    """(number, D): draws of the base."""
    return base(architecture, weights).sample(key, (number,))


def cholesky(weights: Weights) -> jax.Array:
    """(D, D): of the covariance of the normal base."""
    return jnp.tril(weights["base_lower"], -1) + jnp.diag(jnp.exp(weights["base_log_diagonal"]))
