r"""The variational bound of a diffusion model, apart from a backend.

With the numbers e (F,) of a row, :math:`z_t = \alpha_t e + \sigma_t \epsilon` and
:math:`\mathrm{SNR}_t = e^{\lambda_t}`,

.. math::
    \log p(x) \ge \mathrm{E} \log p(x \mid z_0) - \mathrm{KL}(q(z_1 \mid x) \| \mathrm{N}(0, I))
        - \tfrac{1}{2} \sum_{i=1}^T (\mathrm{SNR}_{(i-1)/T} - \mathrm{SNR}_{i/T})\,
          \mathrm{E} \| e - \hat e(z_{i/T}) \|^2

and in continuous time, as T grows, half the integral of :math:`e^\lambda \mathrm{E} \| e - \hat e \|^2` over
:math:`\lambda` (Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630, eqs. 11, 14 and 18), whatever the schedule.

The expectations are means over the same points :math:`(\lambda_k, \epsilon_k)` for all rows, draws and backends:
several sets of Sobol points, each scrambled for itself (:mod:`ppl_gen.importance`), and how far the sets differ says
how sure their mean is. In continuous time :math:`\lambda` has a logistic law within its range, with more points where
the error of a denoiser varies most. In discrete time a set takes each step of the chain once where it has so many
points, else steps at even distances. A control variate takes from the terms of real columns what the denoiser of a
standard normal, :math:`\hat e = \alpha z`, would lose at the same points, and gives back its sum over time in closed
form: in continuous time :math:`\frac12 [\alpha^2 (e^2 - 1) + \mathrm{softplus}(\lambda)]` at the beginning less that at
the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_gen import importance
from ppl_gen.registry import import_backend

if TYPE_CHECKING:
    from ppl_gen.pair import Pair
    from ppl_gen.view import View

CENTRE, WIDTH = 1.5, 2.0  # of the logistic law of lambda
BESIDE = 128  # points of each row where the bound stands beside another number
NUM_POINTS = 512  # where it is the number
CHUNK_VALUES = 1_000_000  # draws x points x rows at once


class Bounds(NamedTuple):
    """Bounds of rows: ``by_draw`` (draws, rows) of log p(x | theta_s), and of the log of the mean density over draws
    ``log_predictive`` (rows,) with its standard error ``error`` (rows,), nats."""

    by_draw: np.ndarray
    log_predictive: np.ndarray
    error: np.ndarray


def points(num_points: int, size: int, num_steps: int | None, seed: int) -> np.ndarray:
    """(K, 1 + F) points inside the unit cube, set after set: the time, and the quantiles of the noise. The times of a
    set are one in each of equal parts; in discrete time no set has more than T points."""
    sets = importance.NUM_SETS
    each = max(1, -(-num_points // sets))
    if num_steps is not None and each >= num_steps:
        each = num_steps
    found = importance.points(each * sets, 1 + size, seed).reshape(sets, each, -1)
    # Sobol points are one in each part only where they are a power of two.
    rank = found[..., 0].argsort(axis=1).argsort(axis=1)
    found[..., 0] = (rank + found[:, :1, 0]) / each
    return found.reshape(sets * each, -1)


def bounds(
    pair: Pair, posterior: Mapping[str, np.ndarray], view: View, num_points: int, seed: int
) -> Iterator[tuple[slice, Bounds]]:
    """(rows, their bounds) chunk by chunk, in model space, float64.

    :param view: of arrays whose slices cost nothing.
    """
    noising, num_rows, draws = pair.noising, len(view.x), len(next(iter(posterior.values())))
    assert noising is not None
    if not num_rows:
        return
    at, backend = points(num_points, noising.size, noising.num_steps, seed), backend_of(pair)
    for rows, window in importance.windows(num_rows, CHUNK_VALUES // (draws * len(at))):
        found = backend.bounds(pair, posterior, view.take(window), at)[..., rows.start - window.start :]
        yield rows, summary(found.astype(np.float64))


def summary(found: np.ndarray) -> Bounds:
    """Of estimates (draws, sets, rows). The bounds' own mean density over draws is bounded by the log of the mean of
    their exponentials; its error follows from that of each by the delta method."""
    by_draw = found.mean(1)
    log_predictive = logsumexp(by_draw, axis=0) - np.log(len(by_draw))
    with np.errstate(invalid="ignore"):  # a row of density 0
        share = np.exp(by_draw - logsumexp(by_draw, axis=0))
        away = (share[:, None] * (found - by_draw[:, None])).sum(0)
    error = away.std(axis=0, ddof=1) / np.sqrt(len(away))
    return Bounds(by_draw, np.asarray(log_predictive), error)


def backend_of(pair: Pair) -> Any:
    """The module of the pair's backend: ``bounds``, ``terms``."""
    return import_backend("ppl_gen.backends", f"{pair.backend}_noising_bound", pair.backend)
