"""Multivariate normals in torch, many at a time and with missing entries: the twin of ``numpyro_normal``."""

from __future__ import annotations

import math
from typing import Any

import torch

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def as_float(value: Any) -> torch.Tensor:
    """A number, array or tensor in torch's default float type."""
    return torch.as_tensor(value, dtype=torch.get_default_dtype())


def marginal_tril(scale_tril: torch.Tensor, patterns: torch.Tensor) -> torch.Tensor:
    """Cholesky factors (P, K, D, D) of the observed block of each covariance, for each pattern of missing entries.

    A missing entry keeps its place with variance 1 / (2 pi), where a normal has log density 0 at its mean: a row
    whose missing entries and their locations are set to 0 gets the marginal density of what was observed.
    """
    seen = patterns.to(scale_tril.dtype)[:, None, :]
    guard = 2 * seen.shape[-1] * torch.finfo(scale_tril.dtype).eps  # the rounding error of the product, no more
    covariance = scale_tril @ scale_tril.mT
    diagonal = seen * covariance.diagonal(dim1=-2, dim2=-1) * guard + (1 - seen) / (2 * math.pi)
    block = covariance * seen[..., :, None] * seen[..., None, :] + torch.diag_embed(diagonal)
    factor, info = torch.linalg.cholesky_ex(block)
    return torch.where((info == 0)[..., None, None], factor, torch.nan)  # as in JAX: no error for one bad matrix


def inverse_tril(tril: torch.Tensor) -> torch.Tensor:
    """Inverses of a batch of lower triangular matrices."""
    eye = torch.eye(tril.shape[-1], dtype=tril.dtype).expand(tril.shape)
    return torch.linalg.solve_triangular(tril, eye, upper=False)


def whiten(
    x: Any, locs: torch.Tensor, scale: torch.Tensor, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Residuals of each row under each component in units of its covariance, y = L^-1 (x - mu).

    :returns: y (n, K, D), 0 at missing entries; the log density at y = 0 (n or 1, K or 1), so that what was observed
        has log density ``peak - |y|^2 / 2``; and the L^-1 (P or nothing, K or 1, D, D), None of independent columns.
    """
    if scale.dim() == 2:
        y = (x[:, None, :] - locs) / scale
        if mask is None:
            return y, -(scale.log() + HALF_LOG_2PI).sum(-1)[None], None
        seen = mask[:, None, :]
        return torch.where(seen, y, 0.0), -torch.where(seen, scale.log() + HALF_LOG_2PI, 0.0).sum(-1), None
    if mask is None:
        inverse = inverse_tril(scale)
        # A common shift of rows and locations changes nothing but keeps the difference of products accurate.
        centre = locs.detach().mean(0)
        y = ((x - centre) @ inverse.reshape(-1, x.shape[-1]).mT).reshape(len(x), -1, x.shape[-1])
        y = y - (inverse @ (locs - centre)[..., None])[..., 0]
        return y, _peak(scale)[None], inverse
    factor = marginal_tril(scale, patterns)
    residual = torch.where(mask[:, None, :], x[:, None, :] - locs, 0.0)
    inverse = inverse_tril(factor)
    return (inverse[pattern] @ residual[..., None])[..., 0], _peak(factor)[pattern], inverse


def _peak(tril: torch.Tensor) -> torch.Tensor:
    """Log density of normals at their mean."""
    return -(tril.diagonal(dim1=-2, dim2=-1).log() + HALF_LOG_2PI).sum(-1)


def component_log_prob(
    x: Any, locs: torch.Tensor, scale: torch.Tensor, mask: Any = None, patterns: Any = None, pattern: Any = None
) -> torch.Tensor:
    """(n, K): log density of the observed entries of each row under each component.

    :param x: (n, D) rows, 0 at missing entries.
    :param locs: (K, D) locations.
    :param scale: Cholesky factors (K or 1, D, D), or standard deviations (K or 1, D) of independent columns.
    :param mask: (n, D), True where observed; ``patterns`` (P, D) its different rows, ``pattern`` (n,) which is whose.
    """
    y, peak, _ = whiten(x, locs, scale, mask, patterns, pattern)
    return peak - 0.5 * (y * y).sum(-1)
