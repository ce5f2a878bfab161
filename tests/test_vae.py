"""Variational autoencoders: against probabilistic PCA, which a linear one is, and against what must hold of any."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import ppl_gen as pg
from ppl_gen import importance
from ppl_gen.models.vae import VAE
from ppl_gen.models.vae.architecture import MIN_POSTERIOR

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
UNIT, MIN_SCALE = np.log(np.expm1(1.0)), 1e-3  # softplus(UNIT) = 1
LINEAR = VAE(latent_dim=2, hidden=(), scale="shared")


def correlated(num_rows: int = 400, seed: int = 0) -> np.ndarray:
    """Five columns about a plane, with noise of sd 0.5 in each."""
    rng = np.random.default_rng(seed)
    w = np.array([[1.5, 0.0], [1.0, 1.0], [0.0, -1.2], [0.5, 0.5], [-1.0, 0.3]])
    return rng.normal(size=(num_rows, 2)) @ w.T + 0.5 * rng.normal(size=(num_rows, 5))


@dataclasses.dataclass(frozen=True)
class PCA:
    """Probabilistic PCA of model space (Tipping & Bishop 1999, eq. 7 and 8), whose posterior has a diagonal
    covariance, as the columns of W are orthogonal."""

    w: np.ndarray
    variance: float

    @classmethod
    def of(cls, x: np.ndarray, dim: int = 2) -> PCA:
        values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
        variance = float(values[:-dim].mean())
        return cls(vectors[:, -dim:] * np.sqrt(values[-dim:] - variance), variance)

    @property
    def covariance(self) -> np.ndarray:
        return self.w @ self.w.T + self.variance * np.eye(len(self.w))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return multivariate_normal(np.zeros(len(self.w)), self.covariance).logpdf(x)

    def weights(self, wrong: float = 1.0) -> dict[str, np.ndarray]:
        """The weights of :data:`LINEAR` that are this model and its posterior, one draw; the encoder's standard
        deviations ``wrong`` times as large."""
        m = self.w.T @ self.w + self.variance * np.eye(self.w.shape[1])
        gain, sd = np.linalg.solve(m, self.w.T), wrong * np.sqrt(self.variance / np.diag(m))
        dim, columns = gain.shape
        found = {
            "real_shift": np.zeros(columns), "real_log_scale": np.zeros(columns),
            "real_raw_scale": np.log(np.expm1([np.sqrt(self.variance) - MIN_SCALE])) - UNIT,
            "decoder_weight_0": self.w.T, "decoder_bias_0": np.zeros(columns),
            "encoder_weight_0": np.concatenate([gain.T, np.zeros((columns, dim))], 1),
            "encoder_bias_0": np.concatenate([np.zeros(dim), np.log(np.expm1(sd - MIN_POSTERIOR)) - UNIT]),
            "encoder_missing_weight": np.zeros((columns, 2 * dim)),
        }  # fmt: skip
        return {name: value[None] for name, value in found.items()}


def bounds(pair: pg.family.Pair, weights: dict, view: object, number: int = 64) -> tuple[np.ndarray, ...]:
    """Importance estimate, ELBO, error and k-hat of each row, in model space."""
    (found,) = (part for _, part in importance.log_weights(pair, weights, view, number))
    precise = importance.precision(found)
    return importance.mean_density(found)[0], precise.elbo, precise.error, precise.k_hat


def sliceable(data: pg.Data, backend: str) -> object:
    return data.view("numpy" if backend == "numpyro" else backend)


class TestAgainstPCA:
    @each_backend
    def test_with_its_weights_elbo_and_estimate_are_the_log_likelihood(self, backend: str, x64: None) -> None:
        data = LINEAR.prepare(correlated())
        pair, pca = LINEAR.build(backend, data.schema, len(data)), PCA.of(data.x)
        estimate, elbo, error, _ = bounds(pair, pca.weights(), sliceable(data, backend))
        np.testing.assert_allclose(elbo, pca.log_prob(data.x), atol=1e-6)
        np.testing.assert_allclose(estimate, pca.log_prob(data.x), atol=1e-6)
        assert error.max() < 1e-6

    @each_backend
    def test_a_wrong_encoder_shows_in_gap_error_and_k_hat(self, backend: str, x64: None) -> None:
        data = LINEAR.prepare(correlated(60))
        pair, pca = LINEAR.build(backend, data.schema, len(data)), PCA.of(data.x)
        view, truth = sliceable(data, backend), pca.log_prob(data.x)
        wide = bounds(pair, pca.weights(wrong=1.5), view, 512)
        narrow = bounds(pair, pca.weights(wrong=0.1), view, 1024)
        # KL(q || p(z | x)) of a normal whose two sds are r times right: 2 (r^2 / 2 - 1 / 2 - log r).
        for found, r in ((wide, 1.5), (narrow, 0.1)):
            np.testing.assert_allclose(truth - found[1], r * r - 1 - 2 * np.log(r), atol=0.03)
        # The ratio of a wide proposal is bounded; that of a narrow one has no variance: k of the limit is 1 - 0.1^2.
        assert np.abs(wide[0] - truth).max() < 4 * wide[2].max()
        assert wide[3].max() < 0.5
        assert np.median(narrow[3]) > 0.7

    @each_backend
    def test_missing_entries_are_integrated_out(self, backend: str, x64: None) -> None:
        table = correlated(60)
        table[::2, 1], table[::3, 4] = np.nan, np.nan
        data = LINEAR.prepare(table)
        pair, pca = LINEAR.build(backend, data.schema, len(data)), PCA.of(LINEAR.prepare(correlated()).x)
        estimate, _, error, _ = bounds(pair, pca.weights(wrong=1.5), sliceable(data, backend), 4096)
        truth = [
            multivariate_normal(np.zeros(seen.sum()), pca.covariance[np.ix_(seen, seen)]).logpdf(row[seen])
            for row, seen in zip(data.x, data.mask, strict=True)
        ]
        # Of 60 standard errors estimated from 8 sets of points the greatest t is below 6 in all but 3 of 100 cases.
        assert np.abs((estimate - truth) / np.maximum(error, 1e-4)).max() < 6
        assert np.median(error) < 0.01

    @each_backend
    def test_a_fit_reaches_the_maximum(self, backend: str) -> None:
        x = correlated()
        engine = pg.SVI(num_members=1, validation=0.0, learning_rate=0.02, max_steps=3000)
        fit = pg.fit(LINEAR, x, engine=engine, backend=backend, seed=0)
        best = PCA.of(fit.train.x).log_prob(fit.train.x).mean() + fit.schema.log_jacobian()
        score = fit.score(p_values=False)
        assert score.elbo.mean() == pytest.approx(best, abs=0.01)
        assert score.log_predictive.mean() == pytest.approx(best, abs=0.01)


def mixed(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Columns of all kinds that hang together by one number, with missing entries."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=num_rows)
    table = pd.DataFrame({
        "height": 170 + 10 * (z + 0.3 * rng.normal(size=num_rows)), "visits": rng.poisson(np.exp(1 + 0.5 * z)),
        "ill": rng.random(num_rows) < 1 / (1 + np.exp(-3 * z)),
        "site": np.array(["a", "b", "c"])[(z + 0.5 * rng.normal(size=num_rows) > [[-0.5], [0.5]]).sum(0)],
    })  # fmt: skip
    table.loc[3::7, "height"] = np.nan
    table.loc[5::11, "site"] = None
    return table


SMALL = VAE(latent_dim=2, hidden=(8,))
FAMILIES = {
    "normal": SMALL, "vamp": SMALL.replace(prior="vamp", num_pseudo_inputs=5),
    "flow": SMALL.replace(prior="flow", prior_layers=2), "given": SMALL.replace(condition_on=("ill",)),
}  # fmt: skip


class TestParity:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_weights_of_one_backend_are_the_same_function_in_the_other(self, name: str, x64: None) -> None:
        data = FAMILIES[name].prepare(mixed(50))
        found = []
        for backend in BACKENDS:
            pair = FAMILIES[name].build(backend, data.schema, len(data))
            rng, weights = np.random.default_rng(0), pair.initialize(data.view(), 1, 2)
            weights = {key: value + 0.1 * rng.normal(size=value.shape) for key, value in weights.items()}
            found.append(bounds(pair, weights, sliceable(data, backend), 16))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9, rtol=1e-9)
