"""Missing numbers of rows under a diffusion model in torch, by particles; see :mod:`ppl_gen.inpainting`.

The twin of ``numpyro_inpainting``, with the same signatures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.backends.pyro_reverse import alpha_sigma, even_levels

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
    noising, found = pair.noising, []
    assert noising is not None
    for i, seed in enumerate(seeds):
        with sandbox(int(seed), threads=1), torch.no_grad():
            one = {name: as_tensor(value) for name, value in parameters[i].items()}
            given = None if context is None else as_tensor(context[i])
            z, log_weights = _run(noising, moves, one, as_tensor(e[i]), torch.as_tensor(observed[i]), given)
            found.append((z.numpy(), log_weights.numpy()))
    z, log_weights = (np.stack(part) for part in zip(*found, strict=True))
    return z, log_weights


def _run(noising: Noising, moves: Moves, parameters: Any, e: Any, observed: Any, context: Any) -> Any:
    count, (number, size) = moves.num_particles, e.shape
    log_snr = even_levels(noising, parameters, moves.num_steps)
    given = None if context is None else context.repeat(count, 1)
    gaps = torch.diff(log_snr)
    ratios = torch.cat([gaps.new_zeros(1), gaps[1:] / (2 * gaps[:-1])])

    def estimate(z: Any, at: Any) -> Any:
        return noising.denoise(parameters, z.reshape(-1, size), at, given).reshape(z.shape)

    alpha, sigma = alpha_sigma(log_snr[0])
    known = alpha * e + sigma * torch.randn_like(e)
    z = torch.where(observed, known, torch.randn(count, number, size, dtype=e.dtype))
    before, log_weights = torch.zeros_like(z), torch.zeros(count, number, dtype=e.dtype)
    for at, to, ratio in zip(log_snr[:-1], log_snr[1:], ratios, strict=True):
        found = estimate(z, at)
        guess = found + ratio * (found - before)
        (alpha, sigma), (alpha_to, sigma_to) = alpha_sigma(at), alpha_sigma(to)
        noise = -torch.expm1(at - to)
        drift = sigma_to * torch.sqrt(1 - noise) / sigma
        mean = alpha_to * guess + drift * (z - alpha * guess)
        sd = sigma_to * torch.sqrt(noise)
        # What is known is noised for all particles alike: weights say which of them could have led there.
        deviate = torch.randn_like(e)
        known = alpha_to * e + drift * (z[0] - alpha * e) + sd * deviate
        away = torch.where(observed, deviate**2 - ((known - mean) / sd) ** 2, 0.0)
        z = torch.where(observed, known, mean + sd * torch.randn_like(z))
        chosen, log_weights = _resampled(log_weights + 0.5 * away.sum(-1))
        z, before = (torch.take_along_dim(part, chosen[..., None], 0) for part in (z, found))
    return z, log_weights


def _resampled(log_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which particle (K, n) each is to be: systematically by their weights in rows where these are worth fewer than
    K / 2; and the weights after that, whose mean stays."""
    count, number = log_weights.shape
    share = torch.softmax(log_weights, 0)
    due = 1 / (share**2).sum(0) < count / 2
    at = (torch.arange(count)[:, None] + torch.rand(number, dtype=share.dtype)) / count
    found = torch.searchsorted(torch.cumsum(share, 0).T.contiguous(), at.T.contiguous()).T
    chosen = torch.where(due, found.clamp(max=count - 1), torch.arange(count)[:, None])
    mean = torch.logsumexp(log_weights, 0) - math.log(count)
    return chosen, torch.where(due, mean, log_weights)
