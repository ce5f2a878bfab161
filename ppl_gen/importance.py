r"""Densities of models with local latents that a guide proposes, by importance sampling.

With K particles :math:`z_k \sim q(z \mid x)` for each row,

.. math::
    \hat p(x) = \frac{1}{K} \sum_k w_k, \quad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad
    \mathrm{ELBO} = \frac{1}{K} \sum_k \log w_k \le \log p(x)

(Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, sec. 3). :math:`\hat p` is unbiased, its logarithm is below
log p(x) on average. Latents that are enumerated are summed out of each weight.

The particles are the same points of the unit cube for all rows, draws and backends: a row's number does not depend on
the rows beside it, and draws differ by their parameters alone. They are several sets of Sobol points, each scrambled
for itself (Owen 1997, Ann. Stat. 25); how far the sets differ says how sure their mean is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import qmc

from ppl_gen import backends
from ppl_gen.metrics import pareto_k
from ppl_gen.probability_flow import NUM_PROBES

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.view import View

NUM_PARTICLES = 64
NUM_BY_FLOW = 16  # where the density of each is an integral along a path; two in each set
NUM_SETS = 8  # of points, scrambled independently
NEGLIGIBLE = 0.01  # of the mean weight; nats
CHUNK_VALUES = 1_000_000  # draws x particles x rows at once


class Precision(NamedTuple):
    """How sure the log of a mean density is, each (rows,): its Monte Carlo standard error, the ELBO (nats), and Pareto
    k-hat of the weights, see :func:`k_hat`."""

    error: np.ndarray
    elbo: np.ndarray
    k_hat: np.ndarray


def points(num_particles: int, size: int, seed: int) -> np.ndarray:
    """(K, size) points inside the unit cube, set after set, K a multiple of :data:`NUM_SETS` of at least
    ``num_particles``; each is uniform by itself, those of a set are spread evenly."""
    each, sets = -(-num_particles // NUM_SETS), np.random.default_rng(seed).spawn(NUM_SETS)
    if size > qmc.Sobol.MAXDIM:
        return np.concatenate([rng.random((each, size)) for rng in sets])
    power = (each - 1).bit_length()
    found = [qmc.Sobol(size, scramble=True, rng=rng).random_base2(power)[:each] for rng in sets]
    return np.concatenate(found) + 0.5**31  # multiples of 2**-30 from 0 on, moved to the middles of their cells


def num_particles(pair: Pair) -> int:
    """How many particles a row has by default."""
    return NUM_PARTICLES if pair.noising is None else NUM_BY_FLOW


def has_tail(number: int) -> bool:
    """Whether so many weights are enough for k-hat, five of them its tail."""
    from ppl_gen.arviz_bridge import tail_size

    return bool(tail_size(-(-number // NUM_SETS) * NUM_SETS) > 4)


def windows(num_rows: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows, and for each what to compute: all of one length, so that one compiled program serves them; the
    last begins earlier."""
    size = max(1, min(num_rows, size))
    for start in range(0, num_rows, size):
        stop = min(start + size, num_rows)
        yield slice(start, stop), slice(stop - size, stop)


def log_weights(
    pair: Pair, posterior: Mapping[str, np.ndarray], view: View, num_particles: int = NUM_PARTICLES, seed: int = 0
) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, log w (draws, particles, rows)) chunk by chunk, in model space, float64.

    :param view: of arrays whose slices cost nothing.
    """
    ops, num_rows = backends.ops(pair.backend), len(view.x)
    if not num_rows:
        return
    uniforms = points(num_particles, ops.local_size(pair, posterior, view.take(slice(0, 1))), seed)
    size = CHUNK_VALUES // (len(uniforms) * len(next(iter(posterior.values()))))
    if pair.noising is not None and pair.noising.is_dear:
        size //= pair.noising.size * NUM_PROBES  # what a row's trace takes
    for rows, window in windows(num_rows, size):
        found = ops.log_weights(pair, posterior, view.take(window), uniforms, seed)
        yield rows, found[:, :, rows.start - window.start :].astype(np.float64)


def log_prob(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> np.ndarray:
    """(draws, rows): the estimates of log p(x | theta_s)."""
    parts = [mean_density(found) for _, found in log_weights(pair, posterior, view, num_particles(pair))]
    return np.concatenate(parts, axis=1) if parts else np.empty((len(next(iter(posterior.values()))), 0))


def mean_density(found: np.ndarray) -> np.ndarray:
    """(draws, rows): log of the mean over the particles of (draws, particles, rows)."""
    return np.asarray(logsumexp(found, axis=1) - np.log(found.shape[1]))


def precision(found: np.ndarray) -> Precision:
    r"""Of the log of the mean density over draws, from log weights (draws, particles, rows).

    The draws share their particles, so particle k weighs :math:`\bar w_k = \frac{1}{S} \sum_s w_{sk}`. With the means
    :math:`m_1 \ldots m_J` of these weights over each set of points, the delta method gives the standard error
    :math:`\mathrm{sd}(m) / (\sqrt{J}\, \mathrm{mean}(m))`. The ELBO is the log of the mean of the draws' exponentiated
    ELBOs, which bounds the log of their mean density.
    """
    pooled = logsumexp(found, axis=0) - np.log(len(found))
    number = len(pooled)
    with np.errstate(invalid="ignore"):  # a row of density 0
        ratios = np.exp(pooled - (logsumexp(pooled, axis=0) - np.log(number)))
        elbo = logsumexp(found.mean(1), axis=0) - np.log(len(found))
    means = ratios.reshape(NUM_SETS, number // NUM_SETS, -1).mean(1)
    error = means.std(axis=0, ddof=1) / np.sqrt(NUM_SETS)
    return Precision(error, np.asarray(elbo), k_hat(pooled.T))


def k_hat(log_ratios: np.ndarray) -> np.ndarray:
    r"""(rows,): Pareto k-hat of the importance ratios (rows, K), minus infinity where they are nearly constant.

    k-hat is the shape of the tail, whatever its size: it says how far the mean of what stands out of the ratios can be
    trusted, not how much that is. What stands out is :math:`\frac1K \sum_k (w_k - u)_+`, u being where the tail begins.
    Where that is below 1 % of the mean, a tail of twice the weight would move log p(x) by less than 0.01 nats, so that
    its shape does not matter.
    """
    from ppl_gen.arviz_bridge import tail_size

    found, size = pareto_k(log_ratios), tail_size(log_ratios.shape[1])
    if 4 < size < log_ratios.shape[1]:
        with np.errstate(invalid="ignore"):  # a row of density 0
            ratios = np.sort(np.exp(log_ratios - log_ratios.max(1, keepdims=True)), axis=1)
        excess = (ratios[:, -size:] - ratios[:, [-size - 1]]).sum(1)
        found = np.where(excess < NEGLIGIBLE * ratios.sum(1), -np.inf, found)
    return found
