"""Multivariate normals in JAX, many at a time and with missing entries: what more than one family needs."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

MAX_PRODUCT_COLUMNS = 16  # independent columns up to which whitening is a product of matrices
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_WORK_OF_ONE_THREAD = 100_000  # operations; jaxlib spreads more than twice as many


def marginal_tril(scale_tril: jax.Array, patterns: jax.Array) -> jax.Array:
    """Cholesky factors (P, K, D, D) of the observed block of each covariance, for each pattern of missing entries.

    A missing entry keeps its place with variance 1 / (2 pi), where a normal has log density 0 at its mean: a row
    whose missing entries and their locations are set to 0 gets the marginal density of what was observed.
    """
    seen = patterns.astype(scale_tril.dtype)[:, None, :]
    guard = 2 * seen.shape[-1] * jnp.finfo(scale_tril.dtype).eps  # the rounding error of the product, no more
    covariance = scale_tril @ jnp.swapaxes(scale_tril, -1, -2)
    diagonal = seen * jnp.diagonal(covariance, axis1=-2, axis2=-1) * guard + (1 - seen) / (2 * math.pi)
    eye = jnp.eye(seen.shape[-1], dtype=seen.dtype)
    return _cholesky(covariance * seen[..., :, None] * seen[..., None, :] + diagonal[..., None] * eye)


def _cholesky(matrices: jax.Array) -> jax.Array:
    """Cholesky factors of a batch.

    jaxlib 0.10 spreads a large batch over XLA's threads and blocks one of them meanwhile: chains in several threads of
    a small machine would wait for each other for ever. So no call gets a batch that is worth spreading.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    most = max(_WORK_OF_ONE_THREAD // flat.shape[-1] ** 3, 1)
    if jax.default_backend() != "cpu" or len(flat) <= most:
        return jnp.linalg.cholesky(matrices)
    return jax.lax.map(jnp.linalg.cholesky, flat, batch_size=most).reshape(matrices.shape)


def inverse_tril(tril: jax.Array) -> jax.Array:
    """Inverses of a batch of lower triangular matrices, by blocks of 1, 2, 4, ... rows.

    The inverse of [[A, 0], [C, B]] is [[A^-1, 0], [-B^-1 C A^-1, B^-1]]. Products of matrices only: as fast as LAPACK
    here, and free of what ``_cholesky`` has to work around.
    """
    d = tril.shape[-1]
    size, block = 1 << (d - 1).bit_length(), 1
    pad = [(0, 0)] * (tril.ndim - 2) + [(0, size - d)] * 2
    tril = jnp.pad(tril, pad) + jnp.diag(jnp.arange(size) >= d).astype(tril.dtype)
    inverse = (1 / jnp.diagonal(tril, axis1=-2, axis2=-1))[..., None, None]
    while block < size:
        pairs = tril.reshape(*tril.shape[:-2], *2 * (size // (2 * block), 2 * block))
        pairs = jnp.moveaxis(jnp.diagonal(pairs, axis1=-4, axis2=-2), -1, -3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        lower = -second @ pairs[..., block:, :block] @ first
        upper = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        inverse = jnp.concatenate([upper, jnp.concatenate([lower, second], -1)], -2)
        block *= 2
    return inverse[..., 0, :d, :d]


def whiten(
    x: Any, locs: Any, scale: Any, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Residuals of each row under each component in units of its covariance, y = L^-1 (x - mu).

    :returns: y (n, K, D), 0 at missing entries; the log density at y = 0 (n or 1, K or 1), so that what was observed
        has log density ``peak - |y|^2 / 2``; and the L^-1 (P or nothing, K or 1, D, D), None of independent columns.
    """
    independent = scale.ndim == 2
    if independent and (mask is not None or x.shape[-1] > MAX_PRODUCT_COLUMNS):
        y = (x[:, None, :] - locs) / scale
        if mask is None:
            return y, -(jnp.log(scale) + HALF_LOG_2PI).sum(-1)[None], None
        seen = mask[:, None, :]
        return jnp.where(seen, y, 0.0), -jnp.where(seen, jnp.log(scale) + HALF_LOG_2PI, 0.0).sum(-1), None
    if mask is None:
        # Few independent columns too: a product of matrices keeps XLA from fusing what made the parameters (random
        # draws, transforms) into the loop over rows, where it would be made anew for every row.
        inverse = jnp.eye(x.shape[-1], dtype=scale.dtype) / scale[..., None] if independent else inverse_tril(scale)
        # A common shift of rows and locations changes nothing but keeps the difference of products accurate.
        centre = jax.lax.stop_gradient(locs.mean(0))
        y = ((x - centre) @ inverse.reshape(-1, x.shape[-1]).T).reshape(len(x), -1, x.shape[-1])
        y = y - (inverse @ (locs - centre)[..., None])[..., 0]
        if independent:
            return y, -(jnp.log(scale) + HALF_LOG_2PI).sum(-1)[None], None
        return y, _peak(scale)[None], inverse
    factor = marginal_tril(scale, patterns)
    residual = jnp.where(mask[:, None, :], x[:, None, :] - locs, 0.0)
    inverse = inverse_tril(factor)
    return (inverse[pattern] @ residual[..., None])[..., 0], _peak(factor)[pattern], inverse


def _peak(tril: jax.Array) -> jax.Array:
    """Log density of normals at their mean."""
    return -(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)) + HALF_LOG_2PI).sum(-1)


def component_log_prob(
    x: Any, locs: Any, scale: Any, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> jax.Array:
    """(n, K): log density of the observed entries of each row under each component.

    :param x: (n, D) rows, 0 at missing entries.
    :param locs: (K, D) locations.
    :param scale: Cholesky factors (K or 1, D, D), or standard deviations (K or 1, D) of independent columns.
    :param mask: (n, D), True where observed; ``patterns`` (P, D) its different rows, ``pattern`` (n,) which is whose.
    """
    y, peak, _ = whiten(x, locs, scale, mask, patterns, pattern)
    return peak - 0.5 * (y * y).sum(-1)
