r"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin 2014, ICML).

Beside the parameters u, in unconstrained space and in the units that sgld has, there is a velocity v. With
:math:`\hat g` the gradient of the log joint density, estimated from B of the N rows (drawn anew at each step),

.. math::
    u_{t+1} = u_t + v_t, \qquad
    v_{t+1} = (1 - \alpha) v_t + \epsilon \hat g(u_{t+1}) + \eta_t, \qquad
    \eta_t \sim \mathrm{Normal}(0, \epsilon\, \alpha (2 - \alpha))

(their eq. 15, with their :math:`\hat\beta = 0` and the exact noise of the friction). Along a direction with precision
:math:`\lambda` this is a linear recursion in :math:`(\sqrt\lambda u, v \sqrt{\lambda / s})`, :math:`s = \epsilon
\lambda`, whose gradients have noise of variance :math:`s N / B`; its stationary variance is found by Lyapunov's
equation, and the step chosen so that in the stiffest direction the variance is 5 % too large. Everything else, units,
starts and draws, is as with :mod:`sgld <ppl_gen.inference.sgld>`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from ppl_gen.inference.sgld.walking import INFLATION, Walking

__all__ = ["SGHMC"]


@dataclasses.dataclass(frozen=True)
class SGHMC(Walking):
    r"""Settings of stochastic gradient Hamiltonian Monte Carlo.

    :param num_samples: draws kept per chain.
    :param num_warmup: steps before the first of them.
    :param num_chains: independent chains.
    :param thinning: steps from one kept draw to the next.
    :param batch_size: rows per step; None: all rows up to 1,000, else 500.
    :param friction: :math:`\alpha`, the share of the velocity that a step loses; 1 is sgld.
    :param precondition: walk in units of the Fisher information's diagonal (tables of 20 rows or more).
    :param step_size: :math:`\epsilon` of the first step in these units; None: such that the variance in the stiffest
        direction is overstated by 5 %; half of it, up to six times, where chains run away at that.
    :param decay: the exponent with which steps shrink, from 0 (they do not) to 1.
    :param decay_start: the number of steps after which they begin to.
    :param num_pilot: steps of Adam that each chain climbs first, where the pair has no EM.
    :param learning_rate: Adam's, at first; it goes to 0 along a cosine.
    :param num_starts: k-means starts per chain, the best EM solution of which the chain starts from.
    :param num_particles: of local latents, as a vae has them: K, particles of the bound that stands for the likelihood;
        None: 16.
    """

    name: ClassVar[str] = "sghmc"
    title: ClassVar[str] = "stochastic gradient Hamiltonian Monte Carlo: draws from near the posterior"

    friction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_number("friction", 0.0, 1.0)

    def inflation(self, step: float, num_obs: int) -> float:
        """By how much the variance is too large where the precision is 1."""
        noise = self.noise_factor(num_obs) - 1.0
        root, a = np.sqrt(step), self.friction
        # x' = x + root p; p' = (1 - a) p - root x' + noise
        move = np.array([[1.0, root], [-root, 1.0 - a - step]])
        if np.abs(np.linalg.eigvals(move)).max() >= 1:
            return np.inf
        driven = np.zeros((2, 2))
        driven[1, 1] = a * (2 - a) + step * noise
        stationary = np.linalg.solve(np.eye(4) - np.kron(move, move), driven.ravel())
        return float(stationary[0] - 1.0)

    def largest_step(self, num_obs: int) -> float:
        """Where the precision is 1, the step that inflates the variance by :data:`INFLATION`, by bisection."""
        low, high = 1e-12, 4.0
        for _ in range(60):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if self.inflation(middle, num_obs) <= INFLATION else (low, middle)
        return float(low)
