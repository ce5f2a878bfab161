"""What nearest neighbours tell of two tables: divergences, precision and recall, and copies of the training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.errors import DataError, SettingError
from ppl_gen.two_tables import check_count, points

AT_ONCE = 2_000_000  # distances
MIN_CELL = 20  # rows of either kind, below which a cell is not judged


class Divergence(NamedTuple):
    """A divergence in nats, and its standard error: that of a mean over rows, the bias of neighbours left out."""

    nats: float
    error: float


def kl_divergence(
    first: Any, second: Any, *, num_neighbors: int = 5, max_rows: int | None = 5_000, seed: int = 0
) -> Divergence:
    r"""Kullback-Leibler divergence :math:`\mathrm{KL}(P \,\|\, Q)` of the distribution of the first table from that of
    the second, by nearest neighbours (Pérez-Cruz 2008, ISIT; with one ball for both as in Wang, Kulkarni & Verdú 2009,
    IEEE Trans. Inf. Theory 55).

    With :math:`\epsilon_i` the greater of the distances of row i of n to its k-th neighbours among the first and among
    the m rows of the second table, :math:`l_i` and :math:`k_i` the numbers of rows of each within it, and
    :math:`\rho_i`, :math:`\nu_i` the distances to the farthest of these,

    .. math:: \frac 1n \sum_i \Big[d \log \frac{\nu_i}{\rho_i} + \psi(l_i) - \psi(k_i)\Big] + \log \frac{m}{n - 1}

    The same ball for both densities keeps the bias small, which still grows with the number d of columns: beyond ten
    or so the figure ranks models and is no estimate.

    :param num_neighbors: k. :param max_rows: of a longer table, so many random rows are used.
    :raises DataError: the tables don't match; a column of labels; rows with k exact copies, which have no density.
    """
    check_count("num_neighbors", num_neighbors)
    x, y = _densities(first, second, num_neighbors, max_rows, seed)
    values = _log_ratios(x, x, y, num_neighbors, itself=True)
    return Divergence(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def js_divergence(
    first: Any, second: Any, *, num_neighbors: int = 5, max_rows: int | None = 5_000, seed: int = 0
) -> Divergence:
    r"""Jensen-Shannon divergence of two tables by nearest neighbours, from 0 to :math:`\log 2` nats but for its error.

    .. math:: \tfrac 12 \mathrm{KL}(P \,\|\, M) + \tfrac 12 \mathrm{KL}(Q \,\|\, M), \quad M = \tfrac 12 (P + Q)

    Half of the rows of each table stand for M, the other halves are those whose divergence from it
    :func:`kl_divergence` estimates. The minimax value of an adversarial game at the best discriminator is twice it less
    :math:`2 \log 2` (Goodfellow et al. 2014, theorem 1).

    :raises DataError: as :func:`kl_divergence`.
    """
    check_count("num_neighbors", num_neighbors)
    x, y = _densities(first, second, 2 * num_neighbors + 1, max_rows, seed)
    half, rng = min(len(x), len(y)) // 2, np.random.default_rng(seed)
    x, y = (table[rng.permutation(len(table))[: 2 * half]] for table in (x, y))
    middle = np.concatenate([x[half:], y[half:]])
    parts = [_log_ratios(own[:half], own[:half], middle, num_neighbors, itself=True) for own in (x, y)]
    error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / 2
    return Divergence(float(np.mean([part.mean() for part in parts])), float(error))


def _densities(first: Any, second: Any, least: int, max_rows: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return points(first, second, min_rows=max(least + 1, 4), max_rows=max_rows, seed=seed)


def _log_ratios(x: np.ndarray, own: np.ndarray, other: np.ndarray, k: int, itself: bool) -> np.ndarray:
    """(n,): estimates of log p / q at rows x, of p by the rows ``own``, which x are among, and of q by ``other``."""
    from scipy.special import digamma

    found, columns = [], x.shape[1]
    for start, both in _distances(x, own, other):
        near, far = (np.sort(each, axis=1) for each in both)
        near = near[:, int(itself) :]
        radius = np.maximum(near[:, k - 1], far[:, k - 1])
        if (np.minimum(near[:, k - 1], far[:, k - 1]) == 0).any():
            row = start + int(np.argmin(np.minimum(near[:, k - 1], far[:, k - 1])))
            raise DataError(
                f"Row {row} of those compared has {k} exact copies: neighbours tell densities of real columns only, so "
                "leave out columns of labels and counts, or use mmd or classifier_two_sample_test."
            )
        counts = [(each <= radius[:, None]).sum(1) for each in (near, far)]
        rows = np.arange(len(radius))
        rho, nu = (each[rows, count - 1] for each, count in zip((near, far), counts, strict=True))
        found.append(columns * np.log(nu / rho) + digamma(counts[0]) - digamma(counts[1]))
    return np.concatenate(found) + np.log(len(other) / (len(own) - itself))


def _distances(x: np.ndarray, *others: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Of some rows at a time: the first of them, and their distances to all rows of each of the others."""
    from scipy.spatial.distance import cdist

    size = max(1, AT_ONCE // max(len(other) for other in others))
    for start in range(0, len(x), size):
        yield start, tuple(cdist(x[start : start + size], other) for other in others)


class PrecisionRecall(NamedTuple):
    """How good samples are and how much of the data they reach, as shares: see :func:`precision_recall`."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    first: Any, second: Any, *, num_neighbors: int = 3, max_rows: int = 3_000, standardize: bool = True, seed: int = 0
) -> PrecisionRecall:
    """Improved precision and recall of samples (the second table) against data (the first): the manifold of a table is
    the union of balls around its rows, each as far as the row's k-th neighbour in it; precision is the share of samples
    in the manifold of the data, recall the share of data in that of the samples (Kynkäänniemi, Karras, Laine, Lehtinen
    & Aila 2019, arXiv:1904.06991, equations 1 and 2).

    Beside them ``density``, the mean number of the data's balls that hold a sample, over k, and ``coverage``, the share
    of the data's balls that hold one (Naeem, Oh, Uh, Choi & Yoo 2020, arXiv:2002.09797), which outliers move less. Of
    two samples of one distribution precision and recall are not 1: compare with two halves of the data. The same number
    of rows of either table is used.

    :param num_neighbors: k. :param max_rows: of a longer table, so many random rows are used.
    :raises DataError: the tables don't match, or have too few rows.
    """
    check_count("num_neighbors", num_neighbors)
    check_count("max_rows", max_rows, num_neighbors + 1)
    x, y = points(first, second, standardize=standardize, min_rows=num_neighbors + 1, max_rows=max_rows, seed=seed)
    number, rng = min(len(x), len(y)), np.random.default_rng(seed)
    x, y = (table if len(table) == number else table[rng.permutation(len(table))[:number]] for table in (x, y))
    own, others = (_radii(table, num_neighbors) for table in (x, y))
    held, reached, covered = np.zeros(number), np.zeros(number, bool), np.zeros(number, bool)
    for start, (far,) in _distances(x, y):  # rows of data by samples
        part = slice(start, start + len(far))
        inside = far <= own[part, None]
        held += inside.sum(0)
        covered[part] = inside.any(1)
        reached[part] = (far <= others).any(1)
    return PrecisionRecall(float((held > 0).mean()), float(reached.mean()), float(held.mean() / num_neighbors),
                           float(covered.mean()))  # fmt: skip


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """(n,): the distance of each row to its k-th neighbour in the same table."""
    return np.concatenate([np.partition(near, k, axis=1)[:, k] for _, (near,) in _distances(x, x)])


class CopyingTest(NamedTuple):
    """A z-score that is far below 0 where samples lie nearer to training rows than fresh rows do; the share of (sample,
    fresh row) pairs of which the sample is the nearer one, 1/2 without copying; and how many cells were judged."""

    z: float
    nearer: float
    num_cells: int


def data_copying_test(
    train: Any, samples: Any, held_out: Any = None, *, num_cells: int = 1, max_rows: int = 2_000,
    standardize: bool = True, seed: int = 0,
) -> CopyingTest:  # fmt: skip
    r"""Whether samples are copies of training rows: the distances of samples to the nearest training row against those
    of rows that were not trained on (Meehan, Chaudhuri & Dasgupta 2020, arXiv:2004.05675).

    The z-score of the Mann-Whitney statistic U in each cell of the space (k-means of the training rows) is averaged,
    weighted by the held-out rows in the cell (ibid.). Overfitting pulls it below 0, underfitting above.

    :param held_out: rows that were not trained on; None takes training rows, each against all the others, which
        is the law of a fresh row against one training row fewer.
    :param num_cells: cells, so that samples that crowd where rows are dense are not taken for copies.
    :param max_rows: so many random samples and held-out rows are used at most, but all training rows.
    :raises DataError: the tables don't match, or have too few rows.
    """
    from sklearn.cluster import KMeans

    check_count("num_cells", num_cells)
    check_count("max_rows", max_rows)
    x, y = points(train, samples, standardize=standardize, min_rows=MIN_CELL)
    rng = np.random.default_rng(seed)
    y = y[rng.permutation(len(y))[:max_rows]]
    if held_out is None:
        chosen = rng.permutation(len(x))[:max_rows]
        fresh = x[chosen]
        near = [np.concatenate([d.min(1) for _, (d,) in _distances(y, x)]),
                np.concatenate([np.partition(d, 1, axis=1)[:, 1] for _, (d,) in _distances(fresh, x)])]  # fmt: skip
    else:
        fresh = points(train, held_out, standardize=standardize, min_rows=MIN_CELL)[1]
        fresh = fresh[rng.permutation(len(fresh))[:max_rows]]
        near = [np.concatenate([d.min(1) for _, (d,) in _distances(part, x)]) for part in (y, fresh)]
    if num_cells > len(x):
        raise SettingError(f"num_cells must be at most the number of training rows, {len(x)}, not {num_cells}.")
    cells = KMeans(num_cells, n_init=1, random_state=seed).fit(x) if num_cells > 1 else None
    where = [np.zeros(len(part), int) if cells is None else cells.predict(part) for part in (y, fresh)]
    scores = []
    for c in range(num_cells):
        of_samples, of_rows = (values[place == c] for values, place in zip(near, where, strict=True))
        if min(len(of_samples), len(of_rows)) >= (MIN_CELL if num_cells > 1 else 1):
            scores.append((len(of_rows), *_mann_whitney(of_samples, of_rows)))
    if not scores:
        raise DataError(f"No cell holds {MIN_CELL} samples and as many rows: give more, or fewer num_cells.")
    weight, z, nearer = (np.array(each, np.float64) for each in zip(*scores, strict=True))
    share = weight / weight.sum()
    return CopyingTest(float(share @ z), float(share @ nearer), len(scores))


def _mann_whitney(samples: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """z of U, above 0 where samples are farther, with the variance that ties leave; the share that are nearer."""
    from scipy.stats import rankdata

    n, m = len(samples), len(rows)
    ranks = rankdata(np.concatenate([samples, rows]))
    u = ranks[:n].sum() - n * (n + 1) / 2  # pairs of which the sample is the farther one
    _, ties = np.unique(ranks, return_counts=True)
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return (u - n * m / 2) / np.sqrt(variance) if variance > 0 else 0.0, 1 - u / (n * m)
