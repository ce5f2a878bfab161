r"""Hamiltonian Monte Carlo with trajectories of one length (Duane, Kennedy, Pendleton & Roweth 1987, Phys. Lett. B 195;
Neal 2011, Handbook of MCMC, ch. 5).

Step size and diagonal mass matrix are adapted in Stan's three windows, as those of nuts are; a trajectory of length L
is :math:`\lceil L / \epsilon \rceil` leapfrog steps, so that L counts in standard deviations. In JAX with blackjax, in
torch with Pyro's own. Chains start as those of nuts do.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.engine import Engine

__all__ = ["HMC"]

MAX_STEPS = 1000  # of a trajectory


@dataclasses.dataclass(frozen=True)
class HMC(Engine):
    """Settings of Hamiltonian Monte Carlo.

    :param num_samples: draws kept per chain.
    :param num_warmup: adaptation steps per chain, not kept.
    :param num_chains: independent chains.
    :param trajectory_length: of each proposal, in standard deviations of the posterior; a quarter of the period of a
        normal one is 1.57. Half of it to all of it is used, at random, so that no trajectory is a period.
    :param target_accept: acceptance rate that the step size is adapted to; raise it when there are divergences.
    :param num_starts: k-means starts per chain, the best EM solution of which the chain starts from.
    """

    name: ClassVar[str] = "hmc"
    title: ClassVar[str] = "Hamiltonian Monte Carlo: draws from the posterior"

    num_samples: int = 1000
    num_warmup: int = 500
    num_chains: int = 4
    trajectory_length: float = 2.0
    target_accept: float = 0.8
    num_starts: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_samples", 4)
        self.require_integer("num_warmup", 20)
        self.require_integer("num_chains", 1)
        self.require_integer("num_starts", 1)
        self.require_number("trajectory_length", 0.0)
        self.require_number("target_accept", 0.0, 1.0)
