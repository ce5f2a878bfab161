"""Measures: calibration, coverage, sums of row scores with their errors, and the distance between two tables.

Of two tables, usually data and samples: :func:`frechet_distance` over any features, :func:`mmd`,
:func:`energy_distance`, :func:`sliced_wasserstein`, :func:`kl_divergence`, :func:`js_divergence`,
:func:`precision_recall`, :func:`classifier_two_sample_test`, :func:`data_copying_test`, :func:`cluster_coverage`, and
:func:`mode_coverage` where the modes are known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_gen.frechet import frechet_distance, gaussian_frechet
from ppl_gen.modes import ClusterCoverage, ModeCoverage, cluster_coverage, mode_coverage
from ppl_gen.neighbours import (
    CopyingTest,
    Divergence,
    PrecisionRecall,
    data_copying_test,
    js_divergence,
    kl_divergence,
    precision_recall,
)
from ppl_gen.two_samples import MMD, ClassifierTest, classifier_two_sample_test, mmd, sliced_wasserstein

__all__ = [
    "MMD", "ClassifierTest", "ClusterCoverage", "CopyingTest", "Divergence", "Independence", "ModeCoverage",
    "PrecisionRecall", "Uniformity", "autocorrelation", "classifier_two_sample_test", "cluster_coverage", "coverage",
    "data_copying_test", "energy_distance", "envelope", "frechet_distance", "gaussian_frechet",
    "highest_density_interval", "independence", "js_divergence", "kl_divergence", "mmd", "mode_coverage", "pareto_k",
    "precision_recall", "sliced_wasserstein", "stacking_weights", "standard_deviation", "total_and_error", "uniformity",
]  # fmt: skip

MAX_LAGS = 30  # of an autocorrelation
SIMULATED = 1_000  # samples that a simultaneous band is found from
QUANTILES = 200  # order statistics that it is held at
BAND = 0.95  # its probability


class Uniformity(NamedTuple):
    """Whether values that should be uniform on (0, 1) are: the Kolmogorov-Smirnov distance and its p-value."""

    distance: float
    p_value: float


def uniformity(pit: np.ndarray) -> Uniformity:
    """Kolmogorov-Smirnov test of probability integral transforms (or scaled ranks) against the uniform distribution.

    :param pit: (n,) values in [0, 1]; NaN (a missing entry) is left out.
    """
    from scipy.stats import kstest

    known = np.asarray(pit, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return Uniformity(0.0, 1.0)
    distance, p_value = kstest(np.clip(known, 0.0, 1.0), "uniform")
    return Uniformity(float(distance), float(p_value))


class Independence(NamedTuple):
    """The two columns that depend most on each other, the p-value of that test, and how many tests there were."""

    columns: tuple[int, int]
    p_value: float
    number: int


def independence(pit: np.ndarray) -> Independence:
    r"""Rank correlations of all pairs of columns that should be uniform and independent: of the values u, and of their
    distances from the middle :math:`|u - 1/2|`, which find spreads that depend on another column.

    Spearman's :math:`r \sqrt{n - 1}` is standard normal then (Kendall & Gibbons 1990, Rank Correlation Methods, ch. 4).

    :param pit: (n, D) values in [0, 1], D at least 2.
    """
    from scipy.stats import norm, rankdata

    values = np.asarray(pit, np.float64)
    length, columns = values.shape
    ranks = rankdata(np.concatenate([values, np.abs(values - 0.5)], axis=1), axis=0)
    correlation = np.corrcoef(ranks.T)
    which = np.tile(np.arange(columns), 2)
    first, second = np.nonzero(np.triu(which[:, None] != which[None, :]))
    found = np.abs(np.nan_to_num(correlation[first, second]))
    worst = int(found.argmax())
    p_value = 2 * norm.sf(found[worst] * np.sqrt(length - 1))
    pair = sorted((int(which[first[worst]]), int(which[second[worst]])))
    return Independence((pair[0], pair[1]), float(p_value), len(found))


def coverage(intervals: np.ndarray, truth: np.ndarray, prob: float) -> tuple[float, float]:
    """Share of intervals (..., 2) that hold the truth (...), and the standard error it would have were it ``prob``."""
    intervals, truth = np.asarray(intervals), np.asarray(truth)
    inside = (intervals[..., 0] <= truth) & (truth <= intervals[..., 1])
    return float(inside.mean()), float(np.sqrt(prob * (1 - prob) / inside.size))


def energy_distance(first: np.ndarray, second: np.ndarray, max_rows: int = 2_000, seed: int = 0) -> float:
    r"""Energy distance between two tables of numbers, 0 if and only if their distributions are equal.

    .. math:: 2\,\mathrm{E}\|X - Y\| - \mathrm{E}\|X - X'\| - \mathrm{E}\|Y - Y'\|

    with unbiased means over distinct pairs, so it may fall a little below 0 (Székely & Rizzo 2013, J. Stat. Plan.
    Inference 143). Columns are scaled by the standard deviation of ``first``.

    :param first: (n, d) without missing values. :param second: (m, d).
    :param max_rows: of a longer table, so many random rows are used.
    """
    from scipy.spatial.distance import cdist, pdist

    rng = np.random.default_rng(seed)
    x, y = (np.asarray(table, np.float64).reshape(len(table), -1) for table in (first, second))
    scale = x.std(axis=0)
    x, y = (table / np.where(scale > 0, scale, 1.0) for table in (x, y))
    x, y = (t if len(t) <= max_rows else t[rng.choice(len(t), max_rows, replace=False)] for t in (x, y))
    return float(2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean())


def total_and_error(values: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """The sum of values over rows and its standard error, sqrt(n Var); a row of weight ``share`` m counts as m rows."""
    number = share.sum()
    mean = share @ values / number
    variance = share @ np.square(values - mean) / max(number - 1, 1e-300)
    return float(number * mean), float(np.sqrt(number * variance))


def stacking_weights(log_density: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    r"""(models,) weights on the simplex that maximize :math:`\sum_i m_i \log \sum_k w_k p_k(x_i)` (Yao et al. 2018).

    :param log_density: (obs, model), held out. :param share: (obs,) row weights m, all 1 by default.
    """
    from scipy.optimize import minimize

    rows, number = log_density.shape
    share = np.ones(rows) / rows if share is None else share / share.sum()
    highest = log_density.max(axis=1, keepdims=True)
    density = np.exp(log_density - np.where(np.isfinite(highest), highest, 0.0))

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(density @ w, 1e-300)
        return -float(share @ np.log(mixed)), -(share / mixed) @ density

    start = np.full(number, 1 / number)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    result = minimize(objective, start, jac=True, method="SLSQP", bounds=[(0, 1)] * number, constraints=simplex,
                      options={"ftol": 1e-12, "maxiter": 1000})  # fmt: skip
    found = np.clip(result.x, 0, None)
    return found / found.sum()


def standard_deviation(values: np.ndarray) -> np.ndarray:
    """(rows,): of (draws, rows); 0 where all are -inf (log densities that underflowed), infinite where some are."""
    with np.errstate(invalid="ignore"):
        found = values.std(axis=0, dtype=np.float64)
    impossible = np.isnan(found) & ~np.isnan(values).any(axis=0)
    if impossible.any():
        found[impossible] = np.where((values[:, impossible] == values[0, impossible]).all(axis=0), 0.0, np.inf)
    return found


def highest_density_interval(values: np.ndarray, prob: float) -> np.ndarray:
    """(rows, 2): the shortest interval that holds ``prob`` of the draws of each column of (draws, rows)."""
    number = len(values)
    inside = min(int(np.floor(prob * number)), number - 1)
    ordered = np.sort(np.ascontiguousarray(values.T), axis=1)
    low, high = ordered[:, : number - inside], ordered[:, inside:]
    widths = np.subtract(high, low, out=np.zeros_like(ordered, shape=low.shape), where=high != low)  # of -inf as well
    left = np.argmin(widths, axis=1)
    rows = np.arange(len(ordered))
    return np.stack([ordered[rows, left], ordered[rows, left + inside]], axis=1)


def pareto_k(log_ratios: np.ndarray) -> np.ndarray:
    r"""(rows,): Pareto k-hat of the importance ratios of each row, the shape of a generalized Pareto distribution of
    their upper tail, for many rows at once: what :func:`ppl_gen.arviz_bridge.psis` finds one row at a time.

    The tail are the :math:`M = \min(K / 5, 3 \sqrt{K})` largest of K ratios, rounded as ArviZ does (Vehtari, Simpson,
    Gelman, Yao & Gabry 2024, JMLR 25), their shape the posterior mean of Zhang & Stephens (2009, Technometrics 51),
    with a prior worth 10 observations at 0.5.

    :param log_ratios: (rows, K).
    """
    from ppl_gen.arviz_bridge import psis, tail_size

    rows, number = log_ratios.shape
    size = tail_size(number)
    if size <= 4 or not rows:
        return psis(log_ratios)[1] if rows else np.empty(0)
    ordered = np.sort(log_ratios, axis=1)[:, -size - 1 :]
    ordered = np.exp(ordered - ordered[:, -1:])
    tail = ordered[:, 1:] - ordered[:, :1]
    # Neither ties at the threshold, nor underflow, nor a tail that is all alike.
    plain = (tail[:, 0] > 0) & (ordered[:, 0] > np.finfo(float).tiny) & (tail[:, -1] > 1.001 * tail[:, 0])
    result = np.empty(rows)
    if not plain.all():
        result[~plain] = psis(log_ratios[~plain])[1]
    tail = tail[plain]
    count = 30 + int(np.sqrt(size))
    grid = 1 - np.sqrt(count / (np.arange(count) + 0.5))
    theta = 1 / tail[:, -1:] + grid / (3 * tail[:, [int(size / 4 + 0.5) - 1]])
    shapes = np.log1p(-theta[:, :, None] * tail[:, None]).mean(2)
    profile = size * (np.log(-theta / shapes) - shapes - 1)
    share = np.exp(profile - profile.max(1, keepdims=True))
    share[share < 10 * np.finfo(float).eps * share.sum(1, keepdims=True)] = 0.0
    mean = (theta * share).sum(1) / share.sum(1)
    shape = np.log1p(-mean[:, None] * tail).mean(1)
    result[plain] = (size * shape + 10 * 0.5) / (size + 10)
    return result


def envelope(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks (from 1), and the ends of intervals of those uniform order statistics, which all of them lie in together
    with probability 0.95: each has the same chance of its own to fall out, found by simulation."""
    from scipy.stats import beta

    rng = np.random.default_rng(seed)
    ranks = np.unique(np.rint(np.linspace(1, number, min(number, QUANTILES))).astype(int))
    worst = np.empty(SIMULATED)
    for s in range(SIMULATED):
        sums = np.cumsum(rng.standard_exponential(number + 1))
        below = beta.cdf(sums[ranks - 1] / sums[-1], ranks, number + 1 - ranks)
        worst[s] = np.minimum(below, 1 - below).min()
    tail = float(np.quantile(worst, 1 - BAND))
    return ranks, beta.ppf(tail, ranks, number + 1 - ranks), beta.isf(tail, ranks, number + 1 - ranks)


def autocorrelation(values: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of values (R,) with those 1, 2, ... steps later in the same sequence, and how many pairs each is
    of; entries that are missing are left out."""
    whose = np.repeat(np.arange(len(lengths)), lengths)
    centred = values - np.nanmean(values)
    variance = np.nanmean(centred**2) or 1.0
    found, pairs = [], []
    for lag in range(1, min(MAX_LAGS, int(lengths.max()) // 3 or 1) + 1):
        products = (centred[lag:] * centred[:-lag])[whose[lag:] == whose[:-lag]]
        there = np.isfinite(products)
        pairs.append(int(there.sum()))
        found.append(products[there].mean() / variance if there.any() else np.nan)
    return np.array(found), np.array(pairs)
