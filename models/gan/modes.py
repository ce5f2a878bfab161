"""Modes of real columns: mixtures of normals in one dimension, found before training."""

from __future__ import annotations

import warnings

import numpy as np

MAX_ROWS = 5_000  # that a mixture is fitted to
LEAST_SHARE = 0.005  # of the rows, of a mode that is kept (Xu et al. 2019 keep the same)
PATIENCE = 2  # more modes that are tried beyond the last that were worth it
LEAST_SCALE = 1e-3  # of a mode, in standard deviations of the column
ABSENT = -1e4  # log share of a mode that is not there


def fit_modes(units: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, log standard deviations and log shares, (number, R) each, of a mixture of normals of each column of
    standardized values (n, R), of as many as the Bayesian information criterion has (by scikit-learn). A mode that is
    not there has the log share -1e4.

    Xu et al. 2019, arXiv:1907.00503, sec. 4.2, fit a variational mixture; that keeps ten modes of a normal column of
    5,000 rows, at whose borders a generator leaves steps.
    """
    rng = np.random.default_rng([seed, 2])
    some = units if len(units) <= MAX_ROWS else units[rng.choice(len(units), MAX_ROWS, replace=False)]
    loc, log_scale = np.zeros((number, units.shape[1])), np.zeros((number, units.shape[1]))
    log_share = np.full(loc.shape, ABSENT)
    for j, column in enumerate(some.T):
        mean, variance, share = _mixture(column, min(number, len(np.unique(column))), seed)
        kept = share > LEAST_SHARE
        size = kept.sum()
        loc[:size, j] = mean[kept]
        log_scale[:size, j] = 0.5 * np.log(np.maximum(variance[kept], LEAST_SCALE**2))
        log_share[:size, j] = np.log(share[kept] / share[kept].sum())
    return loc, log_scale, log_share


def _mixture(column: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, variances and shares of the best mixture of up to ``most`` components."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    best = column.mean(keepdims=True), column.var(keepdims=True), np.ones(1)
    lowest, worse, x = np.inf, 0, column[:, None]
    for size in range(1, most + 1):
        mixture = GaussianMixture(size, random_state=seed, reg_covar=LEAST_SCALE**2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # any mixture will do to tell modes apart
            criterion = mixture.fit(x).bic(x)
        if criterion < lowest:
            lowest, worse = criterion, 0
            best = mixture.means_[:, 0], mixture.covariances_[:, 0, 0], mixture.weights_
        elif (worse := worse + 1) > PATIENCE:
            break
    return best
