"""SGHMC in torch, over the gradients that sgld has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ppl_gen.inference.sghmc import SGHMC
from ppl_gen.inference.sgld.pyro_engine import walk

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: SGHMC, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.sghmc.SGHMC`."""
    return walk(pair, data, settings, seed, monitor, 2, _dynamics)


def _dynamics(settings: SGHMC, state: torch.Tensor, gradient: Callable, size: float) -> torch.Tensor:
    """Chen, Fox & Guestrin's eq. 15, with the momentum v over the root of the step size."""
    position, momentum = state
    root, kept = size**0.5, 1.0 - settings.friction
    position = position + root * momentum
    noise = (1.0 - kept**2) ** 0.5 * torch.randn_like(momentum)
    return torch.stack([position, kept * momentum + root * gradient(position) + noise])
