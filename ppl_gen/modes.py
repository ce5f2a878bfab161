"""Which modes of the data samples reach: modes that are known, and clusters where they are not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ppl_gen.errors import DataError, SettingError
from ppl_gen.two_tables import check_count, points

ROWS_A_CLUSTER, MAX_CLUSTERS = 20, 50


class ModeCoverage(NamedTuple):
    """See :func:`mode_coverage`; ``counts`` (K,) are the samples of high quality of each mode."""

    modes: int
    high_quality: float
    reverse_kl: float
    counts: np.ndarray


def mode_coverage(samples: Any, modes: Any, scale: Any, *, within: float = 3.0, weights: Any = None) -> ModeCoverage:
    r"""Of samples from a mixture whose modes are known, as in the grid and ring of the literature (Lin, Khetan, Fanti
    & Oh 2018, PacGAN, arXiv:1712.04086, section 4; Srivastava et al. 2017, arXiv:1705.07761).

    ``modes``          how many have a sample of high quality
    ``high_quality``   the share of samples within 3 standard deviations of the nearest mode. Of draws of the mixture
                       itself in two dimensions it is :math:`1 - e^{-9/2} = 0.989`.
    ``reverse_kl``     :math:`\sum_k q_k \log (q_k / p_k)` nats, q the shares of the modes in the samples of high
                       quality, p those in the mixture; of n draws of the mixture about :math:`(K - 1) / 2 n`.
                       Infinite without such a sample

    :param samples: (n, d), in the units of the modes. :param modes: (K, d).
    :param scale: the standard deviation of each mode, the same in all directions: one number or (K,).
    :param weights: (K,) shares of the modes, equal by default.
    :raises DataError: shapes that don't fit, entries that are not finite.
    """
    centres = np.asarray(modes, np.float64)
    if centres.ndim != 2 or not len(centres) or not np.isfinite(centres).all():
        raise DataError(f"modes must be an array (K, d) of finite numbers, not of shape {centres.shape}.")
    width = np.asarray(scale, np.float64)
    if width.shape not in ((), (len(centres),)) or not (width > 0).all() or not np.isfinite(width).all():
        raise SettingError(f"scale must be a positive number, or one for each of the {len(centres)} modes.")
    share = np.ones(len(centres)) if weights is None else np.asarray(weights, np.float64)
    if share.shape != (len(centres),) or not (share > 0).all():
        raise SettingError(f"weights must be a positive number for each of the {len(centres)} modes.")
    _, x = points(centres, samples, standardize=False, min_rows=1)
    distances = np.sqrt(((x[:, None] - centres) ** 2).sum(-1)) / width
    nearest = distances.argmin(1)
    good = distances[np.arange(len(x)), nearest] < within
    counts = np.bincount(nearest[good], minlength=len(centres))
    reached = counts > 0
    found, expected = counts[reached] / max(counts.sum(), 1), (share / share.sum())[reached]
    kl = float((found * np.log(found / expected)).sum()) if reached.any() else float("inf")
    return ModeCoverage(int(reached.sum()), float(good.mean()), kl, counts)


class ClusterCoverage(NamedTuple):
    """Rows and samples in each of K clusters of the data, the largest first, and whether samples miss it.

    ``rows``, ``samples``  (K,) counts
    ``p_values``           (K,) of so few samples, if both are of one distribution
    ``missed``             (K,) whether that is below 0.01 / K
    ``share``              the share of the rows that lie in clusters which samples miss
    ``p_value``            of all the counts together
    ``centres``            (K, d), as points of :func:`ppl_gen.two_tables.points`
    """

    rows: np.ndarray
    samples: np.ndarray
    p_values: np.ndarray
    missed: np.ndarray
    share: float
    p_value: float
    centres: np.ndarray

    @property
    def num_missed(self) -> int:
        return int(self.missed.sum())


def cluster_coverage(
    first: Any, second: Any, *, num_clusters: int | None = None, p_value: float = 0.01, max_rows: int = 5_000,
    standardize: bool = True, seed: int = 0,
) -> ClusterCoverage:  # fmt: skip
    r"""Which clusters of the data (the first table) samples (the second) reach too seldom: bins that differ
    statistically, of Richardson & Weiss 2018 (arXiv:1805.12462), one-sided.

    Clusters are those of k-means of half of the rows. Given how many of the others and of the samples a cluster holds
    together, the number of samples is hypergeometric if both are of one distribution; a cluster is missed where the
    chance of so few is below ``p_value`` / K (Bonferroni). With about 50 rows a cluster that is a bit more than half of
    them. ``p_value`` of the result is that of the multinomial test of all counts, Pearson's chi-squared by
    permutations.

    :param num_clusters: K; by default one for each 20 rows that are counted, at most 50.
    :param max_rows: of a longer table, so many random rows are used.
    :raises DataError: the tables don't match, or have too few rows for clusters.
    """
    from scipy.stats import hypergeom
    from sklearn.cluster import KMeans

    x, y = points(first, second, standardize=standardize, min_rows=4, max_rows=max_rows, seed=seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    base, held = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
    number = max(2, min(MAX_CLUSTERS, len(held) // ROWS_A_CLUSTER)) if num_clusters is None else num_clusters
    check_count("num_clusters", number, 2)
    distinct = len(np.unique(base, axis=0))
    if number > distinct:
        if num_clusters is not None:
            raise DataError(f"{number} clusters can't be made of {distinct} different rows, half of the table's.")
        number = distinct
    found = KMeans(number, n_init=3, random_state=seed).fit(base)
    where = [found.predict(part) for part in (held, y)]
    rows, samples = (np.bincount(each, minlength=number) for each in where)
    by_size = np.argsort(-rows, kind="stable")
    rows, samples = rows[by_size], samples[by_size]
    total, drawn = len(held) + len(y), len(y)
    chance = hypergeom.cdf(samples, total, rows + samples, drawn)
    missed = chance < p_value / number
    return ClusterCoverage(rows, samples, chance, missed, float(rows[missed].sum() / rows.sum()),
                           _independence_p(rows, samples, seed), found.cluster_centers_[by_size])  # fmt: skip


def _independence_p(rows: np.ndarray, samples: np.ndarray, seed: int, permutations: int = 999) -> float:
    """p-value of Pearson's chi-squared of a 2 x K table, given its margins."""
    both = rows + samples
    share = rows.sum() / both.sum()
    expected = np.maximum(both * share, 1e-300)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(both, int(rows.sum()), size=permutations)
    tables = np.concatenate([rows[None], drawn])
    statistic = ((tables - expected) ** 2 / expected).sum(1)  # the other row's terms are proportional
    return float((statistic >= statistic[0] * (1 - 1e-12)).mean())
