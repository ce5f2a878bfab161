"""The conditionals of columns in JAX: density, distribution function and its inverse, for a group of columns at once.

``raw`` is (P, ..., columns), what the network says; ``weights`` hold the units of exactly these columns; x is
(..., columns) in model space.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.conditionals import MIN_SCALE, REACH, STEPS, UNIT, Group

LOG_SQRT_TAU = 0.9189385332046727


def encode(group: Group, weights: Weights, x: jax.Array) -> jax.Array:
    """(..., columns * num_inputs): numbers standardized, counts without a greatest value after log(1 + x);
    labels one-hot."""
    if group.kind == "categorical":
        hot = (x[..., None] == jnp.arange(group.num_inputs)).astype(x.dtype)
        return hot.reshape(*x.shape[:-1], -1)
    if group.kind == "binary":
        return x
    name = "real" if group.kind == "real" else "count_input"
    value = jnp.log1p(x) if group.kind == "count" and group.upper is None else x
    return jnp.clip((value - weights[f"{name}_shift"]) * jnp.exp(-weights[f"{name}_log_scale"]), -REACH, REACH)


def log_prob(group: Group, weights: Weights, raw: jax.Array, x: jax.Array, real: str) -> jax.Array:
    """(..., columns), nats in model space."""
    if group.kind == "binary":
        return -jax.nn.softplus((1 - 2 * x) * raw[0])
    if group.kind == "categorical":
        number = jnp.arange(len(raw)).reshape(-1, *[1] * (raw.ndim - 1))
        return jnp.where(x == number, jax.nn.log_softmax(raw, axis=0), 0.0).sum(0)
    log_share, loc, scale = _mixture(group, weights, raw)
    z = (x - loc) / scale
    if group.kind == "count":
        return jax.nn.logsumexp(log_share + _log_cell(x, z, 0.5 / scale, group.upper), axis=0)
    far = jnp.abs(z)
    log_density = -0.5 * z * z - LOG_SQRT_TAU if real == "gaussian" else -far - 2 * jax.nn.softplus(-far)
    return jax.nn.logsumexp(log_share + log_density - jnp.log(scale), axis=0)


def cdf(group: Group, weights: Weights, raw: jax.Array, x: jax.Array, real: str) -> tuple[jax.Array, jax.Array]:
    """F(x-) and F(x), (..., columns) both: the uniform numbers that x is drawn by lie between; equal of reals."""
    if group.kind == "binary":
        none = jax.nn.sigmoid(-raw[0])
        return jnp.where(x > 0.5, none, 0.0), jnp.where(x > 0.5, 1.0, none)
    if group.kind == "categorical":
        steps = _steps(raw)
        number = jnp.arange(len(raw)).reshape(-1, *[1] * (raw.ndim - 1))
        low, high = (jnp.where(x == number, ends, 0.0).sum(0) for ends in (steps[:-1], steps[1:]))
        return low, high
    mixture = _mixture(group, weights, raw)
    if group.kind == "count":
        low = jnp.where(x > 0.5, _mixture_cdf(mixture, x - 0.5, "logistic"), 0.0)
        high = _mixture_cdf(mixture, x + 0.5, "logistic")
        return low, high if group.upper is None else jnp.where(x < group.upper - 0.5, high, 1.0)
    middle = _mixture_cdf(mixture, x, real)
    return middle, middle


def quantile(group: Group, weights: Weights, raw: jax.Array, u: jax.Array, real: str) -> jax.Array:
    """(..., columns): the least x whose F(x) is at least u."""
    if group.kind == "binary":
        return (u >= jax.nn.sigmoid(-raw[0])).astype(u.dtype)
    if group.kind == "categorical":
        return (u >= _steps(raw)[1:-1]).sum(0).astype(u.dtype)
    mixture = _mixture(group, weights, raw)
    if group.kind == "count":
        return jnp.clip(jnp.ceil(_mixture_quantile(mixture, u, "logistic") - 0.5), 0.0, group.upper)
    return _mixture_quantile(mixture, u, real)


Mixture = tuple[jax.Array, jax.Array, jax.Array]


def _mixture(group: Group, weights: Weights, raw: jax.Array) -> Mixture:
    """Log shares, locations and scales, (M, ..., columns) each."""
    logits, locs, scales = jnp.split(raw, 3)
    unit = jnp.exp(weights[f"{group.kind}_log_scale"])
    loc = weights[f"{group.kind}_shift"] + unit * locs
    return jax.nn.log_softmax(logits, axis=0), loc, unit * (MIN_SCALE + jax.nn.softplus(scales + UNIT))


def _log_cell(x: jax.Array, z: jax.Array, half: jax.Array, upper: int | None) -> jax.Array:
    r"""Log of a logistic's mass from z - half to z + half, of all below at 0, and of all above at ``upper``. From
    :math:`\sigma(b) - \sigma(a) = \sigma(b)\, \sigma(-a) (1 - e^{a - b})`, which cancels nowhere."""
    below = -jax.nn.softplus(-(z + half))
    width = jnp.maximum(-jnp.expm1(-2 * half), jnp.finfo(z.dtype).tiny)
    above = -jax.nn.softplus(z - half)
    cell = jnp.where(x > 0.5, below + above + jnp.log(width), below)
    return cell if upper is None else jnp.where(x < upper - 0.5, cell, above)


def _steps(raw: jax.Array) -> jax.Array:
    """(C + 1, ...): 0, the cumulative probabilities of labels, 1."""
    inner = jnp.cumsum(jax.nn.softmax(raw, axis=0), axis=0)[:-1]
    return jnp.concatenate([jnp.zeros_like(raw[:1]), jnp.minimum(inner, 1.0), jnp.ones_like(raw[:1])])


def _mixture_cdf(mixture: Mixture, x: jax.Array, kind: str) -> jax.Array:
    log_share, loc, scale = mixture
    z = (x - loc) / scale
    return (jnp.exp(log_share) * (ndtr(z) if kind == "gaussian" else jax.nn.sigmoid(z))).sum(0)


def _mixture_quantile(mixture: Mixture, u: jax.Array, kind: str) -> jax.Array:
    """By Newton's method within a bracket that every other step halves. The quantile of a mixture lies between the
    least and the greatest of its components'."""
    log_share, loc, scale = mixture
    # Where F and 1 - F are halves of the last digit nothing beyond can be told apart.
    u = jnp.clip(u, jnp.finfo(u.dtype).eps / 4, 1 - jnp.finfo(u.dtype).eps / 2)
    ends = loc + scale * (ndtri(u) if kind == "gaussian" else jnp.log(u) - jnp.log1p(-u))
    if len(ends) == 1:
        return ends[0]
    low, high = ends.min(0), ends.max(0)

    def step(i: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        low, high, x = state
        z = (x - loc) / scale
        if kind == "gaussian":
            share, slope = ndtr(z), jnp.exp(-0.5 * z * z - LOG_SQRT_TAU)
        else:
            share = jax.nn.sigmoid(z)
            slope = share * (1 - share)
        probs = jnp.exp(log_share)
        excess, density = (probs * share).sum(0) - u, (probs * slope / scale).sum(0)
        low, high = jnp.where(excess < 0, x, low), jnp.where(excess < 0, high, x)
        newton = x - excess / jnp.maximum(density, jnp.finfo(x.dtype).tiny)
        halve = (i % 2 == 0) & (i < STEPS[u.dtype.itemsize] - 4)
        inside = (newton >= low) & (newton <= high) & ~halve
        return low, high, jnp.where(inside, newton, 0.5 * (low + high))

    return jax.lax.fori_loop(0, STEPS[u.dtype.itemsize], step, (low, high, 0.5 * (low + high)))[2]
