r"""Chains of latent vectors z that go from the prior to the posterior of each row, rows side by side.

A generator makes rows of z, :math:`x = G(z)`, and has no density; with an observation model :math:`p_\sigma(x \mid z)`
around G(z) it has one, :math:`p_\sigma(x) = \int p(z)\, p_\sigma(x \mid z)\, dz`, which annealed importance sampling
estimates (Neal 2001, Stat. Comput. 11; of generators Wu, Burda, Salakhutdinov & Grosse 2017, arXiv:1611.04273). Along
:math:`p(z)\, p_\sigma(x \mid z)^{\beta}`, :math:`0 = \beta_0 < \ldots < \beta_T = 1`, each of K chains has the weight

.. math:: w = \prod_{t=1}^{T} p_\sigma(x \mid z_{t-1})^{\beta_t - \beta_{t-1}}, \qquad E\, w = p_\sigma(x)

and moves by Hamiltonian Monte Carlo at each temperature. A pilot, which resamples, chooses the temperatures and the
step sizes of each row; the estimate is that of a second run along this path, so that it is unbiased. What both
backends share is here.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

LATENT, RATIO, ROW = "z", "log_ratio", "x"  # the latent site; the sites that are targets
RESAMPLE_BELOW = 0.5  # of a row's chains, by effective sample size, in a pilot
BISECTIONS = 30
START_MOVES = 10  # of a pilot, in which it learns the step size of the prior
LOWEST = -1e30  # log density of a row that is out of reach
HOLD = 4  # moves of a pilot at each temperature, so that the step size keeps up with it
FIRST_STEP = 0.5


class RowPath(NamedTuple):
    """Where the chains of R rows go: inverse temperatures and log step sizes (T + 1, R), of which ``length`` steps are
    to be made."""

    beta: np.ndarray
    log_step: np.ndarray
    length: int

    @classmethod
    def empty(cls, length: int, rows: int) -> RowPath:
        """Of a pilot, which chooses them."""
        shape, whole = (length + 1, rows), START_MOVES + (length - START_MOVES) // HOLD * HOLD
        return cls(np.zeros(shape), np.full(shape, np.log(FIRST_STEP)), whole)

    def padded(self, number: int) -> RowPath:
        """The same with room for ``number`` steps, so that one program serves all."""
        extra = number + 1 - len(self.beta)
        beta, log_step = (np.concatenate([part, np.repeat(part[-1:], extra, axis=0)]) for part in self[:2])
        return RowPath(beta, log_step, self.length)

    def reversed_after(self, number: int) -> RowPath:
        """The way back, after ``number`` moves at the end."""
        beta, log_step = (np.concatenate([np.repeat(part[-1:], number, axis=0), part[::-1]]) for part in self[:2])
        return RowPath(beta, log_step, self.length + number)


@dataclasses.dataclass(frozen=True)
class Annealed:
    """What became of K chains of each of R rows.

    ``z`` (R, K, L) where they ended; ``log_weights`` (R, K) there; ``length`` how many steps were made; ``beta``,
    ``log_step``, ``acceptance`` (T + 1, R) on the way.
    """

    z: np.ndarray
    log_weights: np.ndarray
    length: np.ndarray
    beta: np.ndarray
    log_step: np.ndarray
    acceptance: np.ndarray

    def cut(self) -> Annealed:
        """Without the room that was not used, in double precision."""
        stop = int(self.length) + 1
        parts = {name: getattr(self, name)[:stop].astype(np.float64) for name in ("beta", "log_step", "acceptance")}
        return dataclasses.replace(self, log_weights=self.log_weights.astype(np.float64), **parts)

    def refined(self, number: int) -> RowPath:
        """Of a pilot: a path of ``number`` steps as dense everywhere as its own, of each row by itself; steps between
        two of its temperatures have equal ratios, where the first of them is not 0."""
        beta, log_step = np.empty((2, number + 1, self.beta.shape[1]))
        learnt = slice(START_MOVES, None, HOLD)  # the last moves at each temperature
        for row in range(beta.shape[1]):
            stop = int(np.argmax(self.beta[learnt, row] >= 1)) + 1
            ours, sizes = self.beta[learnt, row][:stop], self.log_step[learnt, row][:stop]
            at = np.linspace(0, len(ours) - 1, number + 1)
            low = np.minimum(at.astype(int), len(ours) - 2)
            share, left, right = at - low, ours[low], ours[low + 1]
            ratio = np.where(left > 0, right / np.maximum(left, 1e-300), 1.0)
            beta[:, row] = np.where(left > 0, left * ratio**share, right * share)
            log_step[:, row] = np.interp(at, np.arange(len(ours)), sizes)
        beta[0], beta[-1] = 0.0, 1.0
        return RowPath(beta, log_step, number)
