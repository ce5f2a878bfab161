"""The log signal-to-noise ratio over time in JAX; :mod:`ppl_gen.models.diffusion.schedule` has its mathematics."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from ppl_gen.models.diffusion.architecture import SHARES
from ppl_gen.models.diffusion.schedule import BETAS, LEAST_SHARE, angles, times

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


def log_snr(architecture: Architecture, weights: Weights, t: jax.Array) -> jax.Array:
    """lambda at times t in [0, 1], of any shape."""
    return with_slope(architecture, weights, t)[0]


def with_slope(architecture: Architecture, weights: Weights, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """lambda and minus its derivative at times t in [0, 1]."""
    kind, ends = architecture.family.schedule, architecture.log_snr_range
    if kind == "cosine":
        first, last = angles(ends)
        angle = first + (last - first) * t
        return -2 * jnp.log(jnp.tan(angle)), 4 * (last - first) / jnp.sin(2 * angle)
    if kind == "linear":
        first, last = times(ends)
        at = first + (last - first) * t
        rise = BETAS[1] - BETAS[0]
        total = (BETAS[0] + 0.5 * rise * at) * at
        rate = (last - first) * (BETAS[0] + rise * at)
        return -jnp.log(jnp.expm1(total)), rate / -jnp.expm1(-total)
    share = shares(weights)
    edges = jnp.concatenate([jnp.zeros(1, share.dtype), jnp.cumsum(share)])
    piece = (t[..., None] >= edges[1:-1]).sum(-1)
    length = (ends[1] - ends[0]) / SHARES
    return ends[1] - length * (piece + (t - edges[piece]) / share[piece]), length / share[piece]


def shares(weights: Weights) -> jax.Array:
    """(SHARES,): those of the time that the pieces of a learned schedule take."""
    return (1 - LEAST_SHARE) * jax.nn.softmax(weights["schedule_raw"]) + LEAST_SHARE / SHARES


def log_share(architecture: Architecture, weights: Weights, log_snr: jax.Array) -> jax.Array:
    """Log of the time that the piece at lambda takes."""
    least, greatest = architecture.log_snr_range
    piece = jnp.clip(jnp.floor((greatest - log_snr) / (greatest - least) * SHARES), 0, SHARES - 1)
    return jnp.log(shares(weights))[piece.astype(int)]


class Step(NamedTuple):
    """A step of the chain from t to s = t - 1/T, or the rate of the process at t in continuous time.

    ``log_snr``   (n,) lambda at t
    ``before``    (n,) lambda at s; None in continuous time
    ``rate``      (n,) T (SNR(s) - SNR(t)) / SNR(t), in continuous time minus the derivative of lambda
    ``scale``     (n,) what the step's KL divergence is multiplied by: T, or 1, times the weighting
    """

    log_snr: jax.Array
    before: jax.Array | None
    rate: jax.Array
    scale: jax.Array


def step_at(architecture: Architecture, weights: Weights, u: jax.Array, num_rows: int) -> Step:
    """A step for each row, from one uniform number u: the times are spread evenly over [0, 1] (Kingma et al. 2021,
    appendix I.1)."""
    number, family = architecture.family.num_steps, architecture.family
    t = (u + jnp.arange(num_rows, dtype=u.dtype) / num_rows) % 1.0
    if number is None:
        if family.schedule == "learned":  # its shares have a gradient of their own
            weights = {**weights, "schedule_raw": jax.lax.stop_gradient(weights["schedule_raw"])}
        at, rate = with_slope(architecture, weights, t)
        return Step(at, None, rate, weight(family.weighs, at, rate))
    index = jnp.minimum(jnp.floor(t * number), number - 1) + 1
    at, before = (log_snr(architecture, weights, i / number) for i in (index, index - 1))
    rate = number * jnp.expm1(before - at)
    return Step(at, before, rate, number * weight(family.weighs, at, rate))


def weight(weighting: str, log_snr: jax.Array, rate: jax.Array) -> jax.Array:
    """What the terms of the bound, rate / 2 times the squared errors of the noise, are multiplied by in training."""
    if weighting == "elbo":
        return jnp.ones_like(rate)
    return (1.0 if weighting == "simple" else jnp.minimum(1.0, 5.0 * jnp.exp(-log_snr))) * 2 / rate
