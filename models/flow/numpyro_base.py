"""The base distribution of a flow in JAX, and its distribution functions: of each column given those before it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import ndtr, ndtri

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.flow.architecture import HALVINGS, Architecture
from ppl_gen.models.flow.numpyro_splines import UNIT


def base(architecture: Architecture, weights: Weights) -> dist.Distribution:
    """The distribution of u, of event shape (D,)."""
    zeros, ones = jnp.zeros_like(weights["shift"]), jnp.ones_like(weights["shift"])
    if architecture.family.base == "student_t":
        return dist.StudentT(1 + jnp.exp(weights["base_log_df"]), zeros, ones).to_event(1)
    if architecture.family.base == "mixture":
        parts = dist.Normal(weights["base_locs"], _scales(weights)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=weights["base_logits"]), parts)
    return dist.Normal(zeros, ones).to_event(1)


def base_cdf(architecture: Architecture, weights: Weights, u: jax.Array) -> jax.Array:
    r"""(..., D): :math:`F(u_j \mid u_{<j})`. The columns of a mixture depend on one another: given those before, its
    components have the weights :math:`w_m \prod_{k<j} N(u_k; \mu_{mk}, \sigma_{mk})`, normalized."""
    if architecture.family.base == "student_t":
        return dist.StudentT(1 + jnp.exp(weights["base_log_df"])).cdf(u)
    if architecture.family.base == "normal":
        return ndtr(u)
    parts = dist.Normal(weights["base_locs"], _scales(weights))
    log_density = parts.log_prob(u[..., None, :])  # (..., m, D)
    before = weights["base_logits"][:, None] + jnp.cumsum(log_density, axis=-1) - log_density
    return (jax.nn.softmax(before, axis=-2) * parts.cdf(u[..., None, :])).sum(-2)


def base_quantile(architecture: Architecture, weights: Weights, p: jax.Array) -> jax.Array:
    """The inverse of :func:`base_cdf`. Where p and 1 - p are parts of the last digit, tails can't be told apart."""
    p = jnp.clip(p, jnp.finfo(p.dtype).eps / 4, 1 - jnp.finfo(p.dtype).eps / 2)
    if architecture.family.base == "normal":
        return ndtri(p)
    if architecture.family.base == "student_t":
        df = 1 + jnp.exp(weights["base_log_df"])
        angle = _bisect(lambda a: dist.StudentT(df).cdf(jnp.sqrt(df) * jnp.tan(a)), p, -jnp.pi / 2, jnp.pi / 2)
        return jnp.sqrt(df) * jnp.tan(angle)

    def column(logits: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        parts, p = dist.Normal(*inputs[:2]), inputs[2]
        ends = parts.icdf(p[..., None])
        share = jax.nn.softmax(logits, axis=-1)
        u = _bisect(lambda u: (share * parts.cdf(u[..., None])).sum(-1), p, ends.min(-1), ends.max(-1))
        return logits + parts.log_prob(u[..., None]), u

    logits = jnp.broadcast_to(weights["base_logits"], (*p.shape[:-1], len(weights["base_logits"])))
    by_column = (weights["base_locs"].T, _scales(weights).T, jnp.moveaxis(p, -1, 0))
    return jnp.moveaxis(jax.lax.scan(column, logits, by_column)[1], 0, -1)


def _scales(weights: Weights) -> jax.Array:
    return jax.nn.softplus(weights["base_log_scales"] + UNIT)


def _bisect(
    cdf: Callable[[jax.Array], jax.Array], p: jax.Array, low: jax.Array | float, high: jax.Array | float
) -> jax.Array:
    """Where an increasing function has the values p, between two bounds."""

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = cdf(middle) < p
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    start = (jnp.full_like(p, low), jnp.full_like(p, high))
    left, right = jax.lax.fori_loop(0, HALVINGS[p.dtype.itemsize], halve, start)
    return 0.5 * (left + right)
