"""The M-step of normals in torch, and what it needs of missing entries: for every family that fits them by EM.

The twin of ``numpyro_normal_em``, with the parts of M-steps that the families' own files hold there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppl_gen.backends.pyro_normal import inverse_tril

if TYPE_CHECKING:
    from ppl_gen.view import View

EMPTY = 1e-6  # rows
MIN_WEIGHT = 1e-8


def conditional_moments(
    resp: torch.Tensor, view: View, y: torch.Tensor, locs: torch.Tensor, scale: torch.Tensor, inverse: torch.Tensor,
    tied: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Expected first (K, D) and second moments (K, D, D) about the mean of ``locs``, of rows with missing entries.

    Missing entries of a full covariance: regression on the observed ones, pattern by pattern. ``y`` and ``inverse``
    are those of :func:`~ppl_gen.backends.pyro_normal.whiten`. With one covariance for all (``tied``) the second moments
    are summed over components, (D, D).
    """
    seen = view.patterns.to(scale.dtype)[:, None, :]
    covariance = scale @ scale.mT
    weight = covariance * seen[..., None, :] @ inverse.mT  # (P, K, D, D): E[x - mu | observed] = weight @ y
    residual = torch.where(
        view.mask[:, None, :], view.x[:, None, :] - locs, (weight[view.pattern] @ y[..., None])[..., 0]
    )
    filled = locs - locs.mean(0) + residual
    left = (1 - seen)[..., :, None] * (1 - seen)[..., None, :]
    conditional = (covariance - weight @ weight.mT) * left
    empty = torch.zeros(len(view.patterns), resp.shape[1], dtype=resp.dtype)
    per_pattern = empty.index_add(0, view.pattern, resp)
    weighted = resp[:, :, None] * filled
    first = weighted.sum(0)
    if tied:
        spread = torch.einsum("pk,pij->ij", per_pattern, conditional[:, 0])
        return first, torch.einsum("nki,nkj->ij", weighted, filled) + spread
    spread = torch.einsum("pk,pkij->kij", per_pattern, conditional)
    return first, torch.einsum("nki,nkj->kij", weighted, filled) + spread


def variances(count: torch.Tensor, scatter: torch.Tensor, floor: float, prior: torch.Tensor | None) -> torch.Tensor:
    """Variances v of independent columns from N and S: the root of v^2 / tau^2 + N v = S, tau the scale of the
    half-normal prior of the standard deviation; without a prior S / N."""
    if prior is None:
        return (scatter / count.clamp(min=EMPTY)).clamp(min=floor)
    precision = prior**-2.0
    return (positive_root(count, scatter * precision) / precision).clamp(min=floor)


def positive_root(b: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """The positive root of v^2 + b v = e, without cancellation for either sign of b."""
    root = (b * b + 4 * e).sqrt()
    safe = (b.abs() + root).clamp(min=torch.finfo(root.dtype).tiny)
    return torch.where(b > 0, 2 * e / safe, (root - b) / 2)


def ml_factor(count: torch.Tensor, scatter: torch.Tensor, floor: float) -> torch.Tensor:
    """Cholesky factors of the covariances S / N, no eigenvalue below the floor."""
    values, vectors = torch.linalg.eigh(scatter / count.clamp(min=EMPTY)[..., None, None])
    return triangular(vectors * values.clamp(min=floor).sqrt()[..., None, :])


def map_factor(
    count: torch.Tensor, scatter: torch.Tensor, scales: torch.Tensor, corr: torch.Tensor, *,
    tau: torch.Tensor, eta: torch.Tensor, floor: float,
) -> torch.Tensor:  # fmt: skip
    """Cholesky factor of the covariance that maximizes the expected log density plus log prior: half-normal of the
    scales (``tau``), LKJ of the correlations (``eta``). The mathematics stands with ``numpyro_normal_em``.
    """
    slope = 2 * (eta - 1)[..., None]
    delta = tau**-2 + slope / scales**2
    pull, root = count[..., None] - slope, delta.sqrt()
    scaled = root[..., :, None] * scatter * root[..., None, :]
    values, vectors = torch.linalg.eigh(scaled)
    solution = positive_root(pull, values.clamp(min=0.0))
    bound = floor * delta.amax(-1, keepdim=True)
    new = triangular(vectors * torch.maximum(solution, bound).sqrt()[..., None, :] / root[..., :, None])
    # The objective at both, for the new one in the basis where all is diagonal.
    inside = torch.maximum(solution, bound)
    gain = -0.5 * (pull * inside.log() + values / inside + inside).sum(-1)
    inverse = inverse_tril(root[..., :, None] * scales[..., None] * corr)
    log_det = -2 * inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    fit = ((inverse @ scaled) * inverse).sum((-2, -1))
    gain = gain + 0.5 * (pull[..., 0] * log_det + fit + (delta * scales**2).sum(-1))
    accept = ~(solution < bound).any(-1) | (gain >= 0)
    return torch.where(accept[..., None, None], new, scales[..., None] * corr)


def triangular(root: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor L of A A^T by the QR decomposition of A^T, which a tiny eigenvalue can't break."""
    upper = torch.linalg.qr(root.mT, mode="r").R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (upper * sign[..., :, None]).mT


def floor_simplex(weights: torch.Tensor) -> torch.Tensor:
    """The nearest points of the simplex (..., C) in likelihood with no weight below the floor: those at it, the rest in
    scale."""
    low = weights < MIN_WEIGHT
    rest = torch.where(low, 0.0, weights).sum(-1, keepdim=True)
    left = 1 - low.sum(-1, keepdim=True) * MIN_WEIGHT
    scaled = torch.where(low, MIN_WEIGHT, weights * left / rest.clamp(min=MIN_WEIGHT))
    return torch.where(rest > 0, scaled, 1.0 / weights.shape[-1])
