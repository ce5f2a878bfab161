"""The M-step of normals in JAX, and what it needs of missing entries: for every family that fits them by EM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_normal import inverse_tril

if TYPE_CHECKING:
    from ppl_gen.data import View


def conditional_moments(
    resp: jax.Array, view: View, y: jax.Array, locs: jax.Array, scale: jax.Array, inverse: jax.Array, tied: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Expected first (K, D) and second moments (K, D, D) about the mean of ``locs``, of rows with missing entries.

    Missing entries of a full covariance: regression on the observed ones, pattern by pattern. ``y`` and ``inverse``
    are those of :func:`~ppl_gen.backends.numpyro_normal.whiten`. With one covariance for all (``tied``) the second
    moments are summed over components, (D, D).
    """
    centre = locs.mean(0)
    seen = view.patterns.astype(scale.dtype)[:, None, :]
    covariance = scale @ jnp.swapaxes(scale, -1, -2)
    weight = (
        covariance * seen[..., None, :] @ jnp.swapaxes(inverse, -1, -2)
    )  # (P, K, D, D): E[x - mu | observed] = weight @ y
    residual = jnp.where(
        view.mask[:, None, :], view.x[:, None, :] - locs, (weight[view.pattern] @ y[..., None])[..., 0]
    )
    filled = locs - centre + residual
    left = (1 - seen)[..., :, None] * (1 - seen)[..., None, :]
    conditional = (covariance - weight @ jnp.swapaxes(weight, -1, -2)) * left
    per_pattern = jax.ops.segment_sum(resp, view.pattern, num_segments=len(view.patterns))
    weighted = resp[:, :, None] * filled
    first = weighted.sum(0)
    if tied:
        spread = jnp.einsum("pk,pij->ij", per_pattern, conditional[:, 0])
        return first, jnp.einsum("nki,nkj->ij", weighted, filled) + spread
    spread = jnp.einsum("pk,pkij->kij", per_pattern, conditional)
    return first, jnp.einsum("nki,nkj->kij", weighted, filled) + spread


def positive_root(b: jax.Array, e: jax.Array) -> jax.Array:
    """The positive root of v^2 + b v = e, without cancellation for either sign of b."""
    root = jnp.sqrt(b * b + 4 * e)
    safe = jnp.maximum(jnp.abs(b) + root, jnp.finfo(root.dtype).tiny)
    return jnp.where(b > 0, 2 * e / safe, (root - b) / 2)


def map_factor(
    count: jax.Array, scatter: jax.Array, scales: jax.Array, corr: jax.Array, *, tau: Any, eta: Any, floor: float
) -> jax.Array:
    r"""Cholesky factor of the covariance that maximizes the expected log density plus log prior.

    With :math:`\log p(s, R) = -\sum_i \Sigma_{ii} / 2 \tau_i^2 + (\eta - 1)(\log|\Sigma| - \sum_i \log \Sigma_{ii})`
    and the last term replaced by its tangent at the old covariance, the stationary point solves

    .. math:: \Sigma \Delta \Sigma + N' \Sigma = S, \quad N' = N - 2 (\eta - 1), \quad
              \Delta = \mathrm{diag}(1 / \tau_i^2 + 2 (\eta - 1) / \Sigma^{old}_{ii})

    which in the basis of :math:`\Delta^{1/2} S \Delta^{1/2}` is one quadratic equation for each eigenvalue. Where the
    floor on the eigenvalues acts, the old covariance is kept if the new one is no better.
    """
    tau = jnp.asarray(tau, count.dtype)
    slope = jnp.asarray(eta - 1, count.dtype)[..., None] * 2
    delta = tau**-2 + slope / scales**2
    pull, root = count[..., None] - slope, jnp.sqrt(delta)
    scaled = root[..., :, None] * scatter * root[..., None, :]
    values, vectors = jnp.linalg.eigh(scaled)
    solution = positive_root(pull, jnp.maximum(values, 0.0))
    bound = floor * delta.max(-1, keepdims=True)
    new = triangular(vectors * jnp.sqrt(jnp.maximum(solution, bound))[..., None, :] / root[..., :, None])
    # The objective at both, for the new one in the basis where all is diagonal.
    inside = jnp.maximum(solution, bound)
    gain = -0.5 * (pull * jnp.log(inside) + values / inside + inside).sum(-1)
    inverse = inverse_tril(root[..., :, None] * scales[..., None] * corr)
    log_det = -2 * jnp.log(jnp.diagonal(inverse, axis1=-2, axis2=-1)).sum(-1)
    fit = ((inverse @ scaled) * inverse).sum((-2, -1))
    gain += 0.5 * (pull[..., 0] * log_det + fit + (delta * scales**2).sum(-1))
    accept = ~(solution < bound).any(-1) | (gain >= 0)
    return jnp.where(accept[..., None, None], new, scales[..., None] * corr)


def triangular(root: jax.Array) -> jax.Array:
    """The Cholesky factor L of A A^T by the QR decomposition of A^T, which a tiny eigenvalue can't break."""
    upper = jnp.linalg.qr(jnp.swapaxes(root, -1, -2), mode="r")
    sign = jnp.where(jnp.diagonal(upper, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return jnp.swapaxes(upper * sign[..., :, None], -1, -2)
