"""Whether two tables are draws of one distribution, and how far apart they are: kernels, projections, classifiers.

Each function takes two tables with the same columns, the first usually data and the second samples, and reads them by
:func:`ppl_gen.two_tables.points`: numbers in standard deviations of the first table, labels as indicators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.errors import SettingError, did_you_mean
from ppl_gen.two_tables import check_count, points

MIN_ROWS = 20  # of either table, for a classifier
PERMUTED_AT_ONCE = 128


class MMD(NamedTuple):
    """Squared maximum mean discrepancy (it may fall below 0), its p-value by permutations, and the bandwidth."""

    squared: float
    p_value: float
    bandwidth: float


def mmd(
    first: Any, second: Any, *, bandwidth: float | str = "median", kernel: Callable | None = None,
    num_permutations: int = 999, max_rows: int = 1_000, standardize: bool = True, seed: int = 0,
) -> MMD:  # fmt: skip
    r"""Maximum mean discrepancy between two samples, unbiased, and the permutation test that both are of one
    distribution (Gretton, Borgwardt, Rasch, Schölkopf & Smola 2012, J. Mach. Learn. Res. 13, equation 3).

    .. math:: \mathrm{MMD}^2 = \mathrm{E}\,k(X, X') + \mathrm{E}\,k(Y, Y') - 2\,\mathrm{E}\,k(X, Y), \quad
              k(x, y) = e^{-\|x - y\|^2 / 2 h^2}

    Under the same distribution its mean is 0 and the p-value, the rank of the squared discrepancy among those of random
    divisions of all rows, is uniform, whatever the kernel.

    :param bandwidth: h, in the units of the points, or ``"median"``: the median distance between two rows (ibid.,
        section 8).
    :param kernel: another kernel, ``(n, d), (m, d) -> (n, m)``, positive definite; h is then NaN.
    :param num_permutations: 0 leaves the test out, and the p-value is NaN.
    :param max_rows: of a longer table, so many random rows are used. Time grows with its square.
    :raises DataError: the tables don't match; see :func:`ppl_gen.two_tables.points`.
    """
    check_count("num_permutations", num_permutations, 0)
    check_count("max_rows", max_rows, 2)
    x, y = points(first, second, standardize=standardize, max_rows=max_rows, seed=seed)
    whole, number = np.concatenate([x, y]), len(x)
    if kernel is None:
        values, bandwidth = _gaussian(whole, bandwidth)
    else:
        values, bandwidth = np.asarray(kernel(whole, whole), np.float64), float("nan")
        if values.shape != (len(whole), len(whole)) or not np.isfinite(values).all():
            raise SettingError(
                f"kernel must give {len(whole)} x {len(whole)} finite numbers for so many rows, not an array of shape "
                f"{values.shape}."
            )
    np.fill_diagonal(values, 0.0)
    total, rng = float(values.sum()), np.random.default_rng(seed)
    found = np.empty(num_permutations + 1)
    for start in range(0, len(found), PERMUTED_AT_ONCE):
        size = min(PERMUTED_AT_ONCE, len(found) - start)
        chosen = np.zeros((size, len(whole)))
        chosen[:, :number] = 1.0
        first_random = int(start == 0)  # the division as it is comes first
        chosen[first_random:] = rng.permuted(chosen[first_random:], axis=1)
        found[start : start + size] = _discrepancy(values, total, chosen, number)
    # An exact copy of a division must count as one, whatever the rounding.
    p_value = (found >= found[0] - 1e-12 * max(abs(found[0]), 1e-300)).mean() if num_permutations else np.nan
    return MMD(float(found[0]), float(p_value), float(bandwidth))


def _discrepancy(values: np.ndarray, total: float, chosen: np.ndarray, number: int) -> np.ndarray:
    """Of divisions (P, N) of all rows into those that are 1 and those that are 0; the kernel's diagonal is 0."""
    rest = chosen.shape[1] - number
    sums = chosen @ values
    within = np.einsum("pi,pi->p", sums, chosen)
    between = sums.sum(1) - within
    others = total - within - 2 * between
    return within / (number * (number - 1)) + others / (rest * (rest - 1)) - 2 * between / (number * rest)


def _gaussian(whole: np.ndarray, bandwidth: float | str) -> tuple[np.ndarray, float]:
    from scipy.spatial.distance import pdist, squareform

    squares = pdist(whole, "sqeuclidean")
    if bandwidth == "median":
        width = float(np.sqrt(np.median(squares)))
        width = width if width > 0 else float(np.sqrt(squares.mean())) or 1.0  # most rows alike
    elif isinstance(bandwidth, str | bool) or not 0 < float(bandwidth) < np.inf:
        raise SettingError(f"bandwidth must be a positive number or 'median', not {bandwidth!r}.")
    else:
        width = float(bandwidth)
    return squareform(np.exp(-squares / (2 * width**2))), width


def sliced_wasserstein(
    first: Any, second: Any, *, order: float = 2.0, num_projections: int = 256, max_rows: int | None = None,
    standardize: bool = True, seed: int = 0,
) -> float:  # fmt: skip
    r"""Sliced Wasserstein distance: that of the rows projected on random directions, in the units of the points
    (Bonneel, Rabin, Peyré & Pfister 2015, J. Math. Imaging Vis. 51).

    .. math:: \mathrm{SW}_p(X, Y) = \Big(\mathrm{E}_\theta\, W_p^p(\theta^\top X, \theta^\top Y)\Big)^{1/p},
              \quad \theta \text{ uniform on the sphere}

    A shift by :math:`\delta` alone has :math:`\mathrm{SW}_2 = \|\delta\| / \sqrt d`. Directions come in orthogonal
    bases, which lowers the error. Two samples of one distribution are not 0 apart: compare with two halves of the data.

    :param order: p, at least 1. :param num_projections: rounded up to a multiple of the number d of columns.
    :raises DataError: the tables don't match; see :func:`ppl_gen.two_tables.points`.
    """
    check_count("num_projections", num_projections)
    if isinstance(order, bool) or not isinstance(order, int | float) or not 1 <= order < np.inf:
        raise SettingError(f"order must be a number of at least 1, not {order!r}.")
    x, y = points(first, second, standardize=standardize, max_rows=max_rows, seed=seed)
    rng, size = np.random.default_rng(seed), x.shape[1]
    n, m = len(x), len(y)
    # Both quantile functions are constant between these levels.
    levels = np.union1d(np.arange(n + 1) / n, np.arange(m + 1) / m)
    width, middle = np.diff(levels), (levels[1:] + levels[:-1]) / 2
    rank = [np.minimum((middle * length).astype(int), length - 1) for length in (n, m)]
    total, bases = 0.0, -(-num_projections // size)
    for _ in range(bases):
        basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
        ordered = [np.sort(table @ basis, axis=0) for table in (x, y)]
        total += float((width @ np.abs(ordered[0][rank[0]] - ordered[1][rank[1]]) ** order).mean())
    return float((total / bases) ** (1 / order))


class ClassifierTest(NamedTuple):
    """The share of held-out rows whose table a classifier tells, the p-value of a share as high under one
    distribution, and how many rows were held out."""

    accuracy: float
    p_value: float
    num_test: int


def classifier_two_sample_test(
    first: Any, second: Any, *, classifier: Any = "neural", max_rows: int = 2_000, standardize: bool = True,
    seed: int = 0,
) -> ClassifierTest:  # fmt: skip
    r"""Classifier two-sample test: a classifier learns on half of the rows which table a row is of, and its accuracy on
    the other half is 1/2 if both are of one distribution (Lopez-Paz & Oquab 2017, arXiv:1610.06545).

    As many rows of either table are used, and the number of rows that are told right is then Binomial(n, 1/2); the
    p-value is that of this law, one-sided. :math:`2\,\mathrm{accuracy} - 1` is a lower bound of the total variation.

    :param classifier: ``"neural"`` (20 hidden units, as ibid.), ``"neighbors"`` (as many as the square root of
        the number of training rows), or a classifier of scikit-learn's kind, of which a copy is fitted.
    :param max_rows: of a longer table, so many random rows are used.
    :raises DataError: the tables don't match, or are shorter than 20 rows.
    """
    from scipy.stats import binom

    check_count("max_rows", max_rows, MIN_ROWS)
    x, y = points(first, second, standardize=standardize, min_rows=MIN_ROWS, max_rows=max_rows, seed=seed)
    number, rng = min(len(x), len(y)) // 2 * 2, np.random.default_rng(seed)
    x, y = (table[rng.permutation(len(table))[:number]] for table in (x, y))
    half = number // 2
    train, test = (np.concatenate([x[part], y[part]]) for part in (slice(half), slice(half, None)))
    label = np.repeat([0, 1], half)
    found = _fitted(_classifier(classifier, len(train), seed), train, label).predict(test)
    right = int((np.asarray(found) == label).sum())
    return ClassifierTest(right / len(test), float(binom.sf(right - 1, len(test), 0.5)), len(test))


def _classifier(classifier: Any, number: int, seed: int) -> Any:
    from sklearn.base import clone
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if classifier == "neural":
        return make_pipeline(StandardScaler(), MLPClassifier((20,), learning_rate_init=0.01, max_iter=100,
                                                             random_state=seed))  # fmt: skip
    if classifier == "neighbors":
        return KNeighborsClassifier(max(1, int(np.sqrt(number))))
    if isinstance(classifier, str):
        raise SettingError(f"Unknown classifier {classifier!r}: {did_you_mean(classifier, ('neural', 'neighbors'))}")
    if not (hasattr(classifier, "fit") and hasattr(classifier, "predict")):
        raise SettingError(f"classifier must have fit and predict, as scikit-learn's have, not {classifier!r}.")
    return clone(classifier)


def _fitted(classifier: Any, x: np.ndarray, label: np.ndarray) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of passes is what the test asks for
        return classifier.fit(x, label)
