"""Modes of real columns: mixtures of normals in one dimension, found before training."""

from __future__ import annotations

import warnings

import numpy as np

MAX_ROWS = 5_000  # that a mixture is fitted to
LEAST_SHARE = 0.005  # of the rows, of a mode that is kept (Xu et al. 2019 keep the same)
CONCENTRATION = 1e-3  # of the prior of the shares: modes that are not needed go empty
LEAST_SCALE = 1e-3  # of a mode, in standard deviations of the column
ABSENT = -1e4  # log share of a mode that is not there


def fit_modes(units: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, log standard deviations and log shares, (number, R) each, of a variational mixture of normals of each
    column of standardized values (n, R), as Xu et al. 2019, arXiv:1907.00503, sec. 4.2, have it (by scikit-learn). A
    mode that is not there has the log share -1e4."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture

    rng = np.random.default_rng([seed, 2])
    some = units if len(units) <= MAX_ROWS else units[rng.choice(len(units), MAX_ROWS, replace=False)]
    loc, log_scale = np.zeros((number, units.shape[1])), np.zeros((number, units.shape[1]))
    log_share = np.full(loc.shape, ABSENT)
    for j, column in enumerate(some.T):
        components = min(number, len(np.unique(column)))
        if components < 2:
            loc[0, j], log_scale[0, j], log_share[0, j] = column[0], np.log(LEAST_SCALE), 0.0
            continue
        mixture = BayesianGaussianMixture(
            n_components=components, weight_concentration_prior_type="dirichlet_process", n_init=1, max_iter=200,
            weight_concentration_prior=CONCENTRATION, random_state=seed, reg_covar=LEAST_SCALE**2,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # any mixture will do to tell modes apart
            mixture.fit(column[:, None])
        kept = np.flatnonzero(mixture.weights_ > LEAST_SHARE)
        share = mixture.weights_[kept] / mixture.weights_[kept].sum()
        loc[: len(kept), j] = mixture.means_[kept, 0]
        log_scale[: len(kept), j] = 0.5 * np.log(np.maximum(mixture.covariances_[kept].ravel(), LEAST_SCALE**2))
        log_share[: len(kept), j] = np.log(share)
    return loc, log_scale, log_share
