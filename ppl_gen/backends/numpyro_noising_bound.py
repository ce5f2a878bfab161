"""The variational bound of a diffusion model in JAX; :mod:`ppl_gen.noising_bound` has its mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.importance import NUM_SETS
from ppl_gen.noising_bound import CENTRE, WIDTH

if TYPE_CHECKING:
    from ppl_gen.noising import Noising
    from ppl_gen.pair import Pair
    from ppl_gen.view import View

BATCH = 8_192  # points x rows worked on at once under one draw


class Terms(NamedTuple):
    """The terms of the bound at K points, nats: ``prior`` (n,) the divergence of z_1, ``diffusion`` (K, n) the loss of
    the chain, each an estimate of the whole sum over time, and ``reconstruction`` (K, n)."""

    prior: Any
    diffusion: Any
    reconstruction: Any


def bounds(pair: Pair, posterior: Mapping[str, np.ndarray], view: View, points: np.ndarray) -> np.ndarray:
    """(draws, sets, rows): the bound of each row by each set of points (K, 1 + F)."""

    def one(parameters: Any, points: jax.Array, view: View) -> jax.Array:
        assert pair.noising is not None
        found = terms(pair.noising, parameters, view, points)
        total = found.reconstruction - found.diffusion - found.prior
        return total.reshape(NUM_SETS, -1, total.shape[-1]).mean(1)

    def run(draws: Any, points: jax.Array, view: View) -> jax.Array:
        return jax.lax.map(lambda parameters: one(parameters, points, view), draws)

    program = pair.cached("noising_bound", lambda: jax.jit(run))
    view = jax.tree.map(jnp.asarray, view._replace(weights=None))
    return np.asarray(program(as_jax(posterior), jnp.asarray(points, dtype=float), view))


def terms(noising: Noising, parameters: Any, view: View, points: jax.Array) -> Terms:
    """The terms of rows at points (K, 1 + F) of the unit cube: times, and quantiles of the noise."""
    e = noising.encode(parameters, view.x)
    tiny = jnp.finfo(e.dtype).eps
    inside = jnp.clip(points, tiny, 1 - tiny)
    real = jnp.asarray(noising.is_real, e.dtype)
    ends = [noising.log_snr(parameters, jnp.asarray(t, e.dtype)) for t in (0.0, 1.0)]

    def one(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = ndtri(point[1:])
        log_snr, weight = _place(noising, parameters, point[0], ends)
        alpha, scale = _signal(log_snr), _signal(-log_snr)
        found = noising.denoise(parameters, alpha * e + scale * noise, log_snr, view.context)
        reference = scale * (scale * e - alpha * noise)
        lost = ((found - e) ** 2 - real * reference**2).sum(-1)
        start = _signal(ends[0]) * e + _signal(-ends[0]) * noise
        kept = noising.log_likelihood(parameters, view.x, start) + 0.5 * (real * (noise**2 - 1)).sum()
        return weight * lost, kept

    batch = max(1, min(len(points), BATCH // len(e)))
    diffusion, reconstruction = jax.lax.map(one, inside, batch_size=batch)
    known = (real * _of_reference(noising, parameters, e, ends)).sum(-1)
    return Terms(_prior(e, ends[1]), diffusion + known, reconstruction)


def _signal(log_snr: jax.Array) -> jax.Array:
    """alpha; of minus a log signal-to-noise ratio sigma."""
    return jnp.sqrt(jax.nn.sigmoid(log_snr))


def _place(noising: Noising, parameters: Any, u: jax.Array, ends: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """lambda at a quantile of the time, and what the squared error there is multiplied by to stand for the whole."""
    if noising.num_steps is None:
        upper, lower = (jax.nn.sigmoid((end - CENTRE) / WIDTH) for end in ends)
        at = upper + (lower - upper) * u
        log_snr = CENTRE + WIDTH * (jnp.log(at) - jnp.log1p(-at))
        return log_snr, 0.5 * jnp.exp(log_snr) * WIDTH * (upper - lower) / (at * (1 - at))
    index = jnp.minimum(jnp.floor(u * noising.num_steps), noising.num_steps - 1)
    before, log_snr = (noising.log_snr(parameters, i / noising.num_steps) for i in (index, index + 1))
    return log_snr, 0.5 * noising.num_steps * (jnp.exp(before) - jnp.exp(log_snr))


def _of_reference(noising: Noising, parameters: Any, e: jax.Array, ends: list[jax.Array]) -> jax.Array:
    """(n, F): the loss of the chain of the standard normal, number by number."""
    if noising.num_steps is None:
        upper, lower = (jax.nn.sigmoid(end) for end in ends)
        rest = jax.nn.softplus(ends[0]) - upper - jax.nn.softplus(ends[1]) + lower
        return 0.5 * ((upper - lower) * e**2 + rest)
    grid = noising.log_snr(parameters, jnp.arange(noising.num_steps + 1, dtype=e.dtype) / noising.num_steps)
    weight = 0.5 * (jnp.exp(grid[:-1]) - jnp.exp(grid[1:]))
    alpha, scale = jax.nn.sigmoid(grid[1:]), jax.nn.sigmoid(-grid[1:])
    return (weight * scale**2).sum() * e**2 + (weight * alpha * scale).sum()


def _prior(e: jax.Array, log_snr: jax.Array) -> jax.Array:
    """(n,): the divergence of q(z_1 | x) from the standard normal."""
    alpha, variance = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
    return 0.5 * (alpha * e**2 + variance - 1 + jax.nn.softplus(log_snr)).sum(-1)
