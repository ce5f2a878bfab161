"""What trained diffusion models come to: densities that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import ppl_gen as pg

ROWS = 3_000
MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[4.0, 1.8], [1.8, 1.0]])
CENTRES, SDS, SHARES = np.array([[-2.0, 0.0], [2.0, 1.0]]), np.array([[0.6, 0.9], [1.0, 0.5]]), np.array([0.6, 0.4])


def mixture_log_density(x: np.ndarray) -> np.ndarray:
    away = (x[:, None] - CENTRES) / SDS
    each = -0.5 * (away**2).sum(-1) - np.log(2 * np.pi * SDS.prod(1)) + np.log(SHARES)
    return np.asarray(logsumexp(each, axis=1))


def mixture_rows(number: int, rng: np.random.Generator) -> np.ndarray:
    label = rng.choice(len(SHARES), number, p=SHARES)
    return CENTRES[label] + SDS[label] * rng.standard_normal((number, 2))


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_normal_data_gets_its_closed_form(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, fresh = (rng.multivariate_normal(MEAN, COVARIANCE, number) for number in (ROWS, 400))
    engine = pg.SVI(num_members=1, max_steps=800, batch_size=512)
    fit = pg.fit(pg.Diffusion(hidden=(32, 32)), x, backend=backend, engine=engine, seed=0)
    truth = multivariate_normal(MEAN, COVARIANCE).logpdf(fresh)
    score = fit.score(fresh, p_values=False)
    # Five moments fitted to 3,000 rows alone are off by 5 / (2 * 3,000) = 0.001 nats in the mean.
    assert abs((score.log_predictive - truth).mean()) < 0.05
    assert np.abs(score.log_predictive - truth).mean() < 0.2
    # The bound of the last digits of noise is an estimate: 512 times of each row.
    error = np.sqrt((score.elbo_error**2).mean() / len(fresh))
    assert -0.2 < (score.elbo - truth).mean() < 0.05 + 4 * error
    found = fit.score_function(fresh)[["x0", "x1"]].to_numpy()
    noisy = COVARIANCE + 0.01 * np.diag(np.diag(COVARIANCE))  # that score is of rows with noise of a tenth
    exact = -(fresh - MEAN) @ np.linalg.inv(noisy)
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < 0.2


def test_mixture_is_learnt_to_within_a_twentieth_of_a_nat() -> None:
    rng = np.random.default_rng(0)
    x, fresh = mixture_rows(ROWS, rng), mixture_rows(1_000, rng)
    engine = pg.SVI(num_members=1, max_steps=2_000)
    fit = pg.fit(pg.Diffusion(hidden=(64, 64)), x, engine=engine, seed=0)
    found = fit.score(fresh, p_values=False).log_predictive
    lacking = mixture_log_density(fresh) - found  # its mean is KL(truth || model)
    assert -4 * lacking.std() / np.sqrt(len(fresh)) < lacking.mean() < 0.05
