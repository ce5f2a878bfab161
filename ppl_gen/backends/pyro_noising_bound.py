"""The variational bound of a diffusion model in torch, the twin of ``numpyro_noising_bound``;
:mod:`ppl_gen.noising_bound` has its mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import softplus

from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.importance import NUM_SETS
from ppl_gen.noising_bound import CENTRE, WIDTH

if TYPE_CHECKING:
    from ppl_gen.noising import Noising
    from ppl_gen.pair import Pair
    from ppl_gen.view import View


class Terms(NamedTuple):
    """The terms of the bound at K points, nats: ``prior`` (n,) the divergence of z_1, ``diffusion`` (K, n) the loss of
    the chain, each an estimate of the whole sum over time, and ``reconstruction`` (K, n)."""

    prior: Any
    diffusion: Any
    reconstruction: Any


def bounds(pair: Pair, posterior: Mapping[str, np.ndarray], view: View, points: np.ndarray) -> np.ndarray:
    """(draws, sets, rows): the bound of each row by each set of points (K, 1 + F)."""
    draws = {name: as_tensor(value) for name, value in posterior.items()}
    at, found = as_tensor(points), []
    assert pair.noising is not None
    with sandbox(0), torch.no_grad():
        for s in range(len(next(iter(draws.values())))):
            parts = terms(pair.noising, {name: value[s] for name, value in draws.items()}, view, at)
            total = parts.reconstruction - parts.diffusion - parts.prior
            found.append(total.reshape(NUM_SETS, -1, total.shape[-1]).mean(1))
    return torch.stack(found).numpy()


def terms(noising: Noising, parameters: Any, view: View, points: torch.Tensor) -> Terms:
    """The terms of rows at points (K, 1 + F) of the unit cube: times, and quantiles of the noise."""
    e = noising.encode(parameters, view.x)
    tiny = torch.finfo(e.dtype).eps
    inside = points.clamp(tiny, 1 - tiny)
    real = torch.as_tensor(noising.is_real, dtype=e.dtype)
    ends = [noising.log_snr(parameters, torch.tensor(t, dtype=e.dtype)) for t in (0.0, 1.0)]

    def one(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.special.ndtri(point[1:])
        log_snr, weight = _place(noising, parameters, point[0], ends)
        alpha, scale = _signal(log_snr), _signal(-log_snr)
        found = noising.denoise(parameters, alpha * e + scale * noise, log_snr, view.context)
        reference = scale * (scale * e - alpha * noise)
        lost = ((found - e) ** 2 - real * reference**2).sum(-1)
        start = _signal(ends[0]) * e + _signal(-ends[0]) * noise
        kept = noising.log_likelihood(parameters, view.x, start) + 0.5 * (real * (noise**2 - 1)).sum()
        return weight * lost, kept

    diffusion, reconstruction = (torch.stack(part) for part in zip(*map(one, inside), strict=True))
    known = (real * _of_reference(noising, parameters, e, ends)).sum(-1)
    return Terms(_prior(e, ends[1]), diffusion + known, reconstruction)


def _signal(log_snr: torch.Tensor) -> torch.Tensor:
    """alpha; of minus a log signal-to-noise ratio sigma."""
    return torch.sigmoid(log_snr).sqrt()


def _place(
    noising: Noising, parameters: Any, u: torch.Tensor, ends: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """lambda at a quantile of the time, and what the squared error there is multiplied by to stand for the whole."""
    if noising.num_steps is None:
        upper, lower = (torch.sigmoid((end - CENTRE) / WIDTH) for end in ends)
        at = upper + (lower - upper) * u
        log_snr = CENTRE + WIDTH * (at.log() - (-at).log1p())
        return log_snr, 0.5 * log_snr.exp() * WIDTH * (upper - lower) / (at * (1 - at))
    index = (u * noising.num_steps).floor().clamp(max=noising.num_steps - 1)
    before, log_snr = (noising.log_snr(parameters, i / noising.num_steps) for i in (index, index + 1))
    return log_snr, 0.5 * noising.num_steps * (before.exp() - log_snr.exp())


def _of_reference(noising: Noising, parameters: Any, e: torch.Tensor, ends: list[torch.Tensor]) -> torch.Tensor:
    """(n, F): the loss of the chain of the standard normal, number by number."""
    if noising.num_steps is None:
        upper, lower = (torch.sigmoid(end) for end in ends)
        rest = softplus(ends[0]) - upper - softplus(ends[1]) + lower
        return 0.5 * ((upper - lower) * e**2 + rest)
    grid = noising.log_snr(parameters, torch.arange(noising.num_steps + 1, dtype=e.dtype) / noising.num_steps)
    weight = 0.5 * (grid[:-1].exp() - grid[1:].exp())
    alpha, scale = torch.sigmoid(grid[1:]), torch.sigmoid(-grid[1:])
    return (weight * scale**2).sum() * e**2 + (weight * alpha * scale).sum()


def _prior(e: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """(n,): the divergence of q(z_1 | x) from the standard normal."""
    alpha, variance = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
    return 0.5 * (alpha * e**2 + variance - 1 + softplus(log_snr)).sum(-1)
