"""HMC in torch: Pyro's own sampler in the loop that nuts has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.inference.hmc import HMC, MAX_STEPS
from ppl_gen.inference.nuts.pyro_engine import Recorded, sample

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: HMC, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.hmc.HMC`."""

    def kernel(potential: Callable) -> Kernel:
        return Kernel(
            potential_fn=potential, trajectory_length=settings.trajectory_length,
            target_accept_prob=settings.target_accept,
        )  # fmt: skip

    return sample(pair, data, settings, seed, monitor, kernel)


class Kernel(Recorded):
    """Pyro's HMC with trajectories of half the length to all of it, at random."""

    @property
    def num_steps(self) -> int:
        length = self.trajectory_length * (0.5 + 0.5 * float(torch.rand(())))
        self.used = min(max(math.ceil(length / float(self.step_size)), 1), MAX_STEPS)
        return self.used

    def details(self) -> dict[str, Any]:
        return {"n_steps": getattr(self, "used", 0)}
