"""The base distribution of a flow in torch, and its distribution functions: the twin of ``numpyro_base``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch.nn import functional

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.flow.architecture import HALVINGS, Architecture
from ppl_gen.models.flow.pyro_splines import UNIT

NODES = 64  # of the quadrature of Student's t
WIDEST = 9.0  # standard deviations of a normal beyond which no double can tell its tail from 0


def base(architecture: Architecture, weights: Weights) -> dist.TorchDistribution:
    """The distribution of u, of event shape (D,)."""
    zeros, ones = torch.zeros_like(weights["shift"]), torch.ones_like(weights["shift"])
    if architecture.family.base == "student_t":
        return dist.StudentT(1 + torch.exp(weights["base_log_df"]), zeros, ones).to_event(1)
    if architecture.family.base == "mixture":
        parts = dist.Normal(weights["base_locs"], _scales(weights)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=weights["base_logits"]), parts)
    return dist.Normal(zeros, ones).to_event(1)


def base_cdf(architecture: Architecture, weights: Weights, u: torch.Tensor) -> torch.Tensor:
    r"""(..., D): :math:`F(u_j \mid u_{<j})`. The columns of a mixture depend on one another: given those before, its
    components have the weights :math:`w_m \prod_{k<j} N(u_k; \mu_{mk}, \sigma_{mk})`, normalized."""
    if architecture.family.base == "student_t":
        df = 1 + torch.exp(weights["base_log_df"])
        return _student_cdf(df, torch.atan(u / torch.sqrt(df)))
    if architecture.family.base == "normal":
        return torch.special.ndtr(u)
    parts = dist.Normal(weights["base_locs"], _scales(weights))
    log_density = parts.log_prob(u[..., None, :])  # (..., m, D)
    before = weights["base_logits"][:, None] + log_density.cumsum(-1) - log_density
    return (before.softmax(-2) * parts.cdf(u[..., None, :])).sum(-2)


def base_quantile(architecture: Architecture, weights: Weights, p: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`base_cdf`. Where p and 1 - p are parts of the last digit, tails can't be told apart."""
    p = p.clamp(torch.finfo(p.dtype).eps / 4, 1 - torch.finfo(p.dtype).eps / 2)
    if architecture.family.base == "normal":
        return torch.special.ndtri(p)
    if architecture.family.base == "student_t":
        df = 1 + torch.exp(weights["base_log_df"])
        right = torch.full_like(p, np.pi / 2)
        return torch.sqrt(df) * torch.tan(_bisect(lambda a: _student_cdf(df, a), p, -right, right))
    logits, columns = weights["base_logits"], []
    for loc, scale, of_column in zip(weights["base_locs"].T, _scales(weights).T, p.unbind(-1), strict=True):
        parts, share = dist.Normal(loc, scale), logits.softmax(-1)
        ends = parts.icdf(of_column[..., None])

        def cdf(u: torch.Tensor, parts: Any = parts, share: torch.Tensor = share) -> torch.Tensor:
            return (share * parts.cdf(u[..., None])).sum(-1)

        u = _bisect(cdf, of_column, ends.amin(-1), ends.amax(-1))
        logits = logits + parts.log_prob(u[..., None])
        columns.append(u)
    return torch.stack(columns, -1)


def _scales(weights: Weights) -> torch.Tensor:
    return functional.softplus(weights["base_log_scales"] + UNIT)


def _student_cdf(df: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    r"""Student's t at :math:`\sqrt\nu \tan a`: torch has no incomplete beta function, but the density of the angle is
    :math:`c \cos^{\nu - 1} a`, smooth on its bounded interval, so that Gauss-Legendre quadrature finds its integral."""
    nodes, shares = (torch.as_tensor(v, dtype=angle.dtype) for v in np.polynomial.legendre.leggauss(NODES))
    end = angle.abs().minimum(WIDEST / torch.sqrt(df - 1).clamp(min=1e-12))
    log_norm = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * np.log(np.pi)
    at = 0.5 * end[..., None] * (1 + nodes)
    integral = 0.5 * end * (shares * torch.exp((df[..., None] - 1) * torch.log(torch.cos(at)))).sum(-1)
    return (0.5 + torch.sign(angle) * torch.exp(log_norm) * integral).clamp(0.0, 1.0)


def _bisect(
    cdf: Callable[[torch.Tensor], torch.Tensor], p: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Where an increasing function has the values p, between two bounds."""
    for _ in range(HALVINGS[p.dtype.itemsize]):
        middle = 0.5 * (low + high)
        below = cdf(middle) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)
