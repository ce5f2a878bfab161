"""Missing numbers of rows under a diffusion model in JAX, by particles; see :mod:`ppl_gen.inpainting`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.backends.numpyro_programs import one_per_core
from ppl_gen.backends.numpyro_reverse import alpha_sigma, even_levels

if TYPE_CHECKING:
    from ppl_gen.inpainting import Moves
    from ppl_gen.noising import Noising
    from ppl_gen.pair import Pair


def inpaint(
    pair: Pair, parameters: list[Mapping[str, np.ndarray]], e: np.ndarray, observed: np.ndarray,
    context: np.ndarray | None, moves: Moves, seeds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """z_0 (B, K, n, F) of K particles a row, and their log weights (B, K, n), which are comparable between members.

    :param parameters: those of each of B blocks of rows. :param e: (B, n, F) numbers of the rows.
    :param observed: (B, n, F) which are known. :param context: (B, n, C). :param seeds: (B,).
    """
    noising = pair.noising
    assert noising is not None
    program = pair.cached(("inpaint", moves), lambda: jax.jit(partial(_run, noising, moves)))
    dtype = jnp.result_type(float)
    given = [None] * len(e) if context is None else [jnp.asarray(part, dtype) for part in context]
    blocks = [jnp.asarray(part, dtype) for part in e], [jnp.asarray(part) for part in observed], given
    keys = [jax.random.key(int(seed)) for seed in seeds]
    found = one_per_core(program, [as_jax(one) for one in parameters], *blocks, keys)
    z, log_weights = (np.stack([np.asarray(part[i]) for part in found]) for i in (0, 1))
    return z, log_weights


def _run(noising: Noising, moves: Moves, parameters: Any, e: Any, observed: Any, context: Any, key: Any) -> Any:
    count, (number, size) = moves.num_particles, e.shape
    log_snr = even_levels(noising, parameters, moves.num_steps)
    given = None if context is None else jnp.tile(context, (count, 1))
    gaps = jnp.diff(log_snr)
    ratios = jnp.concatenate([jnp.zeros(1, gaps.dtype), gaps[1:] / (2 * gaps[:-1])])
    key_known, key_start, key_way = jax.random.split(key, 3)

    def estimate(z: Any, at: Any) -> Any:
        return noising.denoise(parameters, z.reshape(-1, size), at, given).reshape(z.shape)

    def body(carry: Any, inputs: Any) -> Any:
        (z, before, log_weights), (at, to, ratio, key) = carry, inputs
        key_own, key_known, key_resample = jax.random.split(key, 3)
        found = estimate(z, at)
        guess = found + ratio * (found - before)
        (alpha, sigma), (alpha_to, sigma_to) = alpha_sigma(at), alpha_sigma(to)
        noise = -jnp.expm1(at - to)
        drift = sigma_to * jnp.sqrt(1 - noise) / sigma
        mean = alpha_to * guess + drift * (z - alpha * guess)
        sd = sigma_to * jnp.sqrt(noise)
        # What is known is noised for all particles alike: weights say which of them could have led there.
        deviate = jax.random.normal(key_known, e.shape, e.dtype)
        known = alpha_to * e + drift * (z[0] - alpha * e) + sd * deviate
        away = jnp.where(observed, deviate**2 - ((known - mean) / sd) ** 2, 0.0)
        z = jnp.where(observed, known, mean + sd * jax.random.normal(key_own, z.shape, z.dtype))
        log_weights = log_weights + 0.5 * away.sum(-1)
        chosen, log_weights = _resampled(key_resample, log_weights)
        z, found = (jnp.take_along_axis(part, chosen[..., None], 0) for part in (z, found))
        return (z, found, log_weights), None

    alpha, sigma = alpha_sigma(log_snr[0])
    known = alpha * e + sigma * jax.random.normal(key_known, e.shape, e.dtype)
    start = jnp.where(observed, known, jax.random.normal(key_start, (count, number, size), e.dtype))
    carry = (start, jnp.zeros_like(start), jnp.zeros((count, number), e.dtype))
    keys = jax.random.split(key_way, len(gaps))
    return jax.lax.scan(body, carry, (log_snr[:-1], log_snr[1:], ratios, keys))[0][::2]


def _resampled(key: Any, log_weights: Any) -> tuple[Any, Any]:
    """Which particle (K, n) each is to be: systematically by their weights in rows where these are worth fewer than
    K / 2; and the weights after that, whose mean stays."""
    count, number = log_weights.shape
    share = jax.nn.softmax(log_weights, axis=0)
    due = 1 / (share**2).sum(0) < count / 2
    at = (jnp.arange(count)[:, None] + jax.random.uniform(key, (number,), share.dtype)) / count
    found = (jnp.cumsum(share, 0)[:, None] < at).sum(0)
    chosen = jnp.where(due, jnp.minimum(found, count - 1), jnp.arange(count)[:, None])
    mean = jax.scipy.special.logsumexp(log_weights, axis=0) - jnp.log(count)
    return chosen, jnp.where(due, mean, log_weights)
