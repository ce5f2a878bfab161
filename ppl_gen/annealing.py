r"""Particles that follow a path of densities from a base, which is normalised, to one that is not.

With :math:`f_\beta` the unnormalised density at inverse temperature :math:`\beta` and particles :math:`x_n`, a step
from :math:`\beta` to :math:`\beta'` weighs each by :math:`f_{\beta'}(x_n) / f_\beta(x_n)`, resamples where weights
differ much, and moves each by a Markov kernel that leaves :math:`f_{\beta'}` as it is. The mean weight estimates
:math:`Z_{\beta'} / Z_\beta` without bias, and so does their product :math:`Z_1`, whether it resamples (sequential Monte
Carlo; Del Moral, Doucet & Jasra 2006, J. R. Stat. Soc. B 68) or not (annealed importance sampling; Neal 2001, Stat.
Comput. 11). Here are the settings and records that both backends share.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_gen.metrics import pareto_k

RESAMPLE_BELOW = 0.5  # of the particles, by effective sample size
BISECTIONS = 16
JITTER = 0.3  # of a step size, either way, so that no trajectory is a period
ALIKE = 0.999  # effective share of weights that are
START_MOVES = 10  # of a pilot, in which it learns the step size at the base


class Moves(NamedTuple):
    """How particles move at one temperature: ``number`` sweeps of Gibbs where the pair has them, else so many
    trajectories of Hamiltonian Monte Carlo of ``num_leapfrogs`` steps, in units of each column's standard deviation
    among the particles; ``rate`` adapts the log step size to ``target_accept``. ``conditional_ess`` is the share of
    particles that a pilot's steps in temperature leave effective (Zhou, Johansen & Aston 2016, J. Comput. Graph. Stat.
    25, sec. 3.3)."""

    number: int = 1
    num_leapfrogs: int = 5
    target_accept: float = 0.8
    rate: float = 0.5
    conditional_ess: float = 0.9


class Walk(NamedTuple):
    """Chains at one temperature: ``thinning`` times ``moves`` between states."""

    moves: Moves
    num_warmup: int
    num_states: int
    thinning: int


class Swaps(NamedTuple):
    """Chains at several temperatures that change places: ``thinning`` times ``moves`` and an exchange between states,
    after ``num_warmup`` of them."""

    moves: Moves
    num_warmup: int
    num_states: int
    thinning: int


class Path(NamedTuple):
    """Where to go: inverse temperatures (T + 1,), and for each the scales (T + 1, size) and log step size of the moves
    there. ``length`` of the T steps are to be made."""

    beta: np.ndarray
    scale: np.ndarray
    log_step: np.ndarray
    length: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.beta, self.scale, self.log_step

    def padded(self, number: int) -> Path:
        """The same with room for ``number`` steps, so that one program serves paths of any length."""
        extra = number + 1 - len(self.beta)
        parts = (np.concatenate([part, np.repeat(part[-1:], extra, axis=0)]) for part in self.arrays)
        beta, scale, log_step = parts
        return Path(beta, scale, log_step, self.length)

    def reversed(self) -> Path:
        return Path(self.beta[::-1], self.scale[::-1], self.log_step[::-1], self.length)

    def after_ones(self, number: int) -> Path:
        """The same after ``number`` moves at the temperature where it begins."""
        beta, scale, log_step = (np.concatenate([np.repeat(part[:1], number, axis=0), part]) for part in self.arrays)
        return Path(beta, scale, log_step, self.length + number)


@dataclasses.dataclass(frozen=True)
class Run:
    """What became of N particles in G groups on T steps.

    ``x``               (N, *row) where they ended
    ``log_weights``     (N,) their weights there, of their group's estimate included: their mean is that of Z
    ``length``          T
    ``beta``            (T + 1,) inverse temperatures
    ``total``           (T + 1, N) those weights as each temperature is reached, before resampling
    ``gain``            (T + 1, N) the part of the last step in it
    ``log_normalizer``  (T + 1, G) each group's estimate of log Z so far
    ``ess``             (T + 1,) effective share of the particles of a group
    ``acceptance``, ``log_step`` (T + 1,), ``scale`` (T + 1, size): of the moves
    """

    x: np.ndarray
    log_weights: np.ndarray
    length: np.ndarray
    beta: np.ndarray
    total: np.ndarray
    gain: np.ndarray
    log_normalizer: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray
    scale: np.ndarray
    log_step: np.ndarray

    def cut(self, first: int = 0) -> Run:
        """Without the room that was not used, nor the ``first`` steps; in double precision."""
        stop = int(self.length) + 1
        rows = ("beta", "total", "gain", "log_normalizer", "ess", "acceptance", "scale", "log_step")
        parts = {name: getattr(self, name)[first:stop].astype(np.float64) for name in rows}
        return dataclasses.replace(self, log_weights=self.log_weights.astype(np.float64), **parts)

    @property
    def path(self) -> Path:
        """The same steps again."""
        return Path(self.beta, self.scale, self.log_step, len(self.beta) - 1)

    def refined(self, number: int) -> Path:
        """A path of ``number`` steps between the same ends, as dense as this one everywhere."""
        old, new = np.linspace(0, 1, len(self.beta)), np.linspace(0, 1, number + 1)
        scale = np.stack([np.interp(new, old, column) for column in self.scale.T], axis=1)
        return Path(np.interp(new, old, self.beta), scale, np.interp(new, old, self.log_step), number)


def first_step(size: int) -> float:
    """Of a normal target, in units of its standard deviations (Neal 2011, Handbook of MCMC, ch. 5, sec. 4.2)."""
    return float(size**-0.25)


def worst_k(run: Run) -> float:
    """Pareto k-hat of the weights within groups, the worst of those that led to resampling and of the last; minus
    infinity of weights that are all but alike."""
    looked = np.flatnonzero(run.ess < RESAMPLE_BELOW)
    looked = np.unique([*looked, len(run.ess) - 1])
    looked = looked[run.ess[looked] < ALIKE]
    within = run.total - np.repeat(run.log_normalizer, run.total.shape[1] // run.log_normalizer.shape[1], axis=1)
    return float(np.max(pareto_k(within[looked]), initial=-np.inf))


def estimates(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(T + 1,) the log of the mean estimate of Z at each temperature, and its standard error: from the groups, or from
    the weights of independent chains."""
    parts = run.log_normalizer if run.log_normalizer.shape[1] > 1 else run.total
    value = logsumexp(parts, axis=1) - np.log(parts.shape[1])
    with np.errstate(invalid="ignore"):
        error = np.exp(parts - value[:, None]).std(axis=1, ddof=1) / np.sqrt(parts.shape[1])
    return value, error
