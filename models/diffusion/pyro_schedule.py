"""The log signal-to-noise ratio over time in torch. The twin of ``numpyro_schedule``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from ppl_gen.models.diffusion.architecture import SHARES
from ppl_gen.models.diffusion.schedule import BETAS, LEAST_SHARE, angles, times

if TYPE_CHECKING:
    from ppl_gen.backends.pyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


def log_snr(architecture: Architecture, weights: Weights, t: torch.Tensor) -> torch.Tensor:
    """lambda at times t in [0, 1], of any shape."""
    return with_slope(architecture, weights, t)[0]


def with_slope(architecture: Architecture, weights: Weights, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """lambda and minus its derivative at times t in [0, 1]."""
    kind, ends = architecture.family.schedule, architecture.log_snr_range
    if kind == "cosine":
        first, last = angles(ends)
        angle = first + (last - first) * t
        return -2 * torch.log(torch.tan(angle)), 4 * (last - first) / torch.sin(2 * angle)
    if kind == "linear":
        first, last = times(ends)
        at = first + (last - first) * t
        rise = BETAS[1] - BETAS[0]
        total = (BETAS[0] + 0.5 * rise * at) * at
        rate = (last - first) * (BETAS[0] + rise * at)
        return -torch.log(torch.expm1(total)), rate / -torch.expm1(-total)
    share = shares(weights)
    edges = torch.cat([torch.zeros(1, dtype=share.dtype), torch.cumsum(share, 0)])
    piece = (t[..., None] >= edges[1:-1]).sum(-1)
    length = (ends[1] - ends[0]) / SHARES
    return ends[1] - length * (piece + (t - edges[piece]) / share[piece]), length / share[piece]


def shares(weights: Weights) -> torch.Tensor:
    """(SHARES,): those of the time that the pieces of a learned schedule take."""
    return (1 - LEAST_SHARE) * torch.softmax(weights["schedule_raw"], -1) + LEAST_SHARE / SHARES


def log_share(architecture: Architecture, weights: Weights, log_snr: torch.Tensor) -> torch.Tensor:
    """Log of the time that the piece at lambda takes."""
    least, greatest = architecture.log_snr_range
    piece = torch.floor((greatest - log_snr) / (greatest - least) * SHARES).clamp(0, SHARES - 1)
    return torch.log(shares(weights))[piece.long()]


class Step(NamedTuple):
    """A step of the chain from t to s = t - 1/T, or the rate of the process at t in continuous time.

    ``log_snr``   (n,) lambda at t
    ``before``    (n,) lambda at s; None in continuous time
    ``rate``      (n,) T (SNR(s) - SNR(t)) / SNR(t), in continuous time minus the derivative of lambda
    ``scale``     (n,) what the step's KL divergence is multiplied by: T, or 1, times the weighting
    """

    log_snr: torch.Tensor
    before: torch.Tensor | None
    rate: torch.Tensor
    scale: torch.Tensor


def step_at(architecture: Architecture, weights: Weights, u: torch.Tensor, num_rows: int) -> Step:
    """A step for each row, from one uniform number u: the times are spread evenly over [0, 1] (Kingma et al. 2021,
    appendix I.1)."""
    number, family = architecture.family.num_steps, architecture.family
    t = (u + torch.arange(num_rows, dtype=u.dtype) / num_rows) % 1.0
    if number is None:
        if family.schedule == "learned":  # its shares have a gradient of their own
            weights = {**weights, "schedule_raw": weights["schedule_raw"].detach()}
        at, rate = with_slope(architecture, weights, t)
        return Step(at, None, rate, weight(family.weighs, at, rate))
    index = torch.floor(t * number).clamp(max=number - 1) + 1
    at, before = (log_snr(architecture, weights, i / number) for i in (index, index - 1))
    rate = number * torch.expm1(before - at)
    return Step(at, before, rate, number * weight(family.weighs, at, rate))


def weight(weighting: str, log_snr: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """What the terms of the bound, rate / 2 times the squared errors of the noise, are multiplied by in training."""
    if weighting == "elbo":
        return torch.ones_like(rate)
    return (1.0 if weighting == "simple" else (5.0 * torch.exp(-log_snr)).clamp(max=1.0)) * 2 / rate
