"""Denoising autoencoders: against a linear one of normal columns, of which all is known in closed form."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.special import logsumexp
from scipy.stats import norm

import ppl_gen as pg
from ppl_gen import backends, denoising, importance
from ppl_gen.cli import main
from ppl_gen.engine import Draws
from ppl_gen.models.dae import DenoisingAutoencoder, pyro_network

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
UNIT, MIN_SCALE = np.log(np.expm1(1.0)), 1e-3  # softplus(UNIT) = 1
NOISE = 0.8
LINEAR = DenoisingAutoencoder(noise=NOISE, hidden=(), num_states=200, num_warmup=100, thinning=8)
RHO = 0.6


def normals(num_rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Two columns of correlation 0.6, in units of 10 and 0.01."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 2)) @ np.array([[1.0, RHO], [0.0, np.sqrt(1 - RHO**2)]])
    return pd.DataFrame({"height": 170 + 10 * x[:, 0], "mass": 0.07 + 0.01 * x[:, 1]})


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """The best linear reconstruction of model space, of covariance S: E[x | x~] = A x~ with A = S (S + noise^2)^-1, and
    the variances of x - A x~."""

    covariance: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        return self.covariance @ np.linalg.inv(self.covariance + NOISE**2 * np.eye(len(self.covariance)))

    @property
    def variance(self) -> np.ndarray:
        return np.diag(self.covariance - self.gain @ self.covariance)

    def weights(self, chain: np.ndarray) -> dict[str, np.ndarray]:
        """The weights of :data:`LINEAR` that are this reconstruction, one draw; columns have mean 0 and sd 1."""
        zeros = np.zeros(len(self.covariance))
        found = {
            "real_shift": zeros, "real_log_scale": zeros, "noise_shift": zeros, "noise_log_scale": zeros,
            "network_weight_0": self.gain.T - np.eye(len(zeros)), "network_bias_0": zeros,
            "real_raw_scale": np.log(np.expm1(np.sqrt(self.variance) - MIN_SCALE)) - UNIT, "chain": chain,
        }  # fmt: skip
        return {name: value[None] for name, value in found.items()}


EXACT = Denoiser(np.array([[1.0, RHO], [RHO, 1.0]]))
STATES = np.random.default_rng(3).normal(size=(4, 200, 2))


def sliceable(data: pg.Data, backend: str) -> object:
    return data.view("numpy" if backend == "numpyro" else backend)


@each_backend
def test_the_density_is_that_of_a_step_from_the_states_of_the_chain(backend: str, x64: None) -> None:
    # A step from x_s is normal: mean A x_s, covariance noise^2 A A' + diag(v). Columns are independent here, so that
    # both are diagonal; k-hat is low, as the corruption is nearly the posterior of x~.
    truth, data = Denoiser(np.eye(2)), pg.Data.from_table(normals())
    pair = LINEAR.build(backend, data.schema, len(data))
    weights, view = truth.weights(STATES), sliceable(data.take(np.arange(40)), backend)
    (found,) = (part for _, part in importance.log_weights(pair, weights, view, 1024))
    gain, sd = truth.gain[0, 0], np.sqrt(NOISE**2 * truth.gain[0, 0] ** 2 + truth.variance[0])
    each = norm(gain * STATES.reshape(-1, 1, 2), sd).logpdf(np.asarray(view.x)).sum(-1)
    exact = logsumexp(each, axis=0) - np.log(len(each))
    estimate, error = importance.mean_density(found)[0], importance.precision(found)
    # 40 rows: the standard error is itself an estimate of 8 sets, so 5 of them and a floor.
    assert (np.abs(estimate - exact) < 5 * error.error + 1e-4).all()
    assert np.median(error.k_hat) < 0.5


@each_backend
def test_the_walk_has_the_stationary_covariance_of_its_recursion(backend: str) -> None:
    # x' = A (x + noise e) + sqrt(v) e': V solves V = A (V + noise^2 I) A' + diag(v). 8,000 states of an effective
    # size of at least a fifth of them: standard errors of 0.025 V at most; 5 of them.
    family = LINEAR.replace(num_chains=40, num_states=200, num_warmup=60, thinning=3)
    data = pg.Data.from_table(normals())
    pair = family.build(backend, data.schema, len(data))
    start = {**EXACT.weights(np.zeros((40, 200, 2)))}
    chain = backends.ops(backend).hook_over_draws(pair, "walk", start, data.view(backend).take(slice(0, 2)), 5)[0]
    assert chain.shape == (40, 200, 2)
    gain = EXACT.gain
    expected = solve_discrete_lyapunov(gain, NOISE**2 * gain @ gain.T + np.diag(EXACT.variance))
    assert not np.allclose(expected, EXACT.covariance, atol=0.05)  # columns are drawn apart: less correlation is left
    np.testing.assert_allclose(np.cov(chain.reshape(-1, 2).T), expected, atol=0.125)
    np.testing.assert_allclose(chain.mean((0, 1)), 0, atol=0.125)


def fit_of(weights: dict[str, np.ndarray], backend: str) -> pg.Fit:
    """A fit whose weights are these, to a table of the columns of :func:`normals` that has exactly mean 0 and sd 1."""
    return dataclasses.replace(
        trained(backend), family=LINEAR,
        draws=Draws({name: value[:, None] for name, value in weights.items()}, uncertainty="ensemble"),
    )  # fmt: skip


@cache
def trained(backend: str) -> pg.Fit:
    engine = pg.SVI(num_members=2, max_steps=400, learning_rate=2e-2)
    return pg.fit(LINEAR, normals(), engine=engine, backend=backend, seed=0)


@each_backend
def test_the_score_of_normal_rows_is_in_units_of_the_table(backend: str) -> None:
    # (A - I) / noise^2 = -(S + noise^2 I)^-1, and per unit of the table over the column's scale.
    fit, table = fit_of(EXACT.weights(STATES), backend), normals().head(7)
    x = (table.to_numpy() - [c.loc for c in fit.schema.columns]) / fit.schema.scales
    expected = -x @ np.linalg.inv(EXACT.covariance + NOISE**2 * np.eye(2)) / fit.schema.scales
    found = fit.score_function(table)
    assert found.columns.tolist() == ["row", "height", "height_sd", "mass", "mass_sd"]
    np.testing.assert_allclose(found[["height", "mass"]], expected, rtol=1e-3)  # single precision


@each_backend
def test_training_finds_the_best_linear_reconstruction(backend: str) -> None:
    # The gradient of log N(0, S + noise^2) at the rows; 400 rows, each seen with about 200 corruptions, leave standard
    # errors of 0.05 in A: a root mean square error of 15 % of the score's own is three of them.
    fit = trained(backend)
    x = np.asarray(fit.train.x)
    expected = -x @ np.linalg.inv(np.cov(x.T, bias=True) + NOISE**2 * np.eye(2)) / fit.schema.scales
    found = fit.score_function()[["height", "mass"]].to_numpy()
    error = ((found - expected) ** 2).mean(0) / (expected**2).mean(0)
    assert (np.sqrt(error) < 0.15).all()
    diagnosis = fit.diagnose()
    assert diagnosis["walk-back R-hat"].passed
    assert diagnosis["walk-back bulk ESS"].passed
    walk = diagnosis.details["walk"]
    assert walk["column"].tolist() == ["height", "mass"] * 2
    np.testing.assert_allclose(walk["mean"], [170, 0.07] * 2, atol=5)
    # A normal of less correlation than the rows': a KL divergence of half of log(1 - r^2) at most from the truth.
    assert abs(fit.score().log_predictive.mean() - norm_log_prob(fit).mean()) < 0.5 * np.log(1 / (1 - RHO**2)) + 0.1


def norm_log_prob(fit: pg.Fit) -> np.ndarray:
    from scipy.stats import multivariate_normal

    x = np.asarray(fit.train.x)
    return multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x) - np.log(fit.schema.scales).sum()


def test_a_chain_that_stays_where_it_began_fails() -> None:
    # Two groups 40 of their sds apart, hardly any noise: no chain leaves its group, and R-hat is far above 1.
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": np.r_[rng.normal(size=100), rng.normal(size=100) + 40], "y": rng.normal(size=200)})
    family = DenoisingAutoencoder(noise=0.05, hidden=(16,), num_states=50, thinning=5)
    fit = pg.fit(family, table, engine=pg.SVI(num_members=1, max_steps=300), backend="pyro", seed=0)
    checks, _ = denoising.of_walk(fit)
    assert not checks[0].passed
    assert "x" in checks[0].info
    assert "raise noise" in checks[0].advice


def mixed(num_rows: int = 150) -> pd.DataFrame:
    """A column of each kind, all of them about one hidden number."""
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=num_rows)
    return pd.DataFrame({
        "sky": np.array(["clear", "cloud", "rain"])[np.clip(np.round(hidden + 1), 0, 2).astype(int)],
        "height": 170 + 10 * (hidden + 0.3 * rng.normal(size=num_rows)), "visits": rng.poisson(np.exp(1 + hidden / 2)),
        "open": rng.random(num_rows) < 1 / (1 + np.exp(-2 * hidden)),
    })  # fmt: skip


def weights_of(pair: pg.Pair) -> dict[str, np.ndarray]:
    """The starts, moved at random, so that no weight is 0; the chain stays rows of the table."""
    start, rng = pair.initialize(pair.data, 0, 2), np.random.default_rng(7)
    return {name: v if name == "chain" else v + 0.3 * rng.normal(size=v.shape) for name, v in start.items()}


def test_both_backends_are_the_same_function(x64: None) -> None:
    table, family = mixed(), DenoisingAutoencoder(hidden=(8,), num_states=20)
    found, scores = [], []
    for backend in BACKENDS:
        pair = family.pair(backend, table)
        weights, ops = weights_of(pair), backends.ops(backend)
        view = pg.Data.from_table(table).view("numpy" if backend == "numpyro" else backend)
        assert family.pair(backend, table).data.x.shape == view.x.shape
        found.append(np.concatenate([part for _, part in importance.log_weights(pair, weights, view, 16)], -1))
        scores.append(ops.hook_over_draws(pair, "score_function", weights, pair.data))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-9, atol=1e-9)
    assert (np.isnan(scores[0]) == np.array([True, False, True, True])).all()


def test_a_corruption_has_the_probabilities_that_it_says(x64: None) -> None:
    # Of evenly spaced quantiles the share that is kept is 1 - flip and that of each other label flip / 2, within the
    # spacing; numbers are normal about where they stood. The density sums to 1 over the labels. That the other backend
    # has the same corruption is part of the test above.
    pair = DenoisingAutoencoder(flip=0.3, noise=0.7).pair("pyro", mixed())
    weights = {name: torch.as_tensor(value[0]) for name, value in pair.initialize(pair.data, 0, 1).items()}
    architecture = pair.model.args[0]
    u = torch.as_tensor((np.arange(1000) + 0.5)[:, None] / 1000 + np.zeros(4))
    centre = pyro_network.standard(architecture, weights, pair.data.x[:1])
    corruption = pyro_network.Corruption(architecture, centre)
    drawn, at = corruption.icdf(u).numpy(), centre.numpy()[0]
    assert (drawn[:, 0] == at[0]).mean() == pytest.approx(0.7, abs=2e-3)
    for other in {0.0, 1.0, 2.0} - {at[0]}:
        assert (drawn[:, 0] == other).mean() == pytest.approx(0.15, abs=2e-3)
    assert (drawn[:, 3] == 1 - at[3]).mean() == pytest.approx(0.3, abs=2e-3)
    np.testing.assert_allclose(drawn[:, 1], norm(at[1], 0.7).ppf(u[:, 1]), rtol=1e-6)
    labels = torch.tensor([[sky, at[1], at[2], opened] for sky in range(3) for opened in range(2)])
    density = corruption.log_prob(labels).exp() * (0.7 * np.sqrt(2 * np.pi)) ** 2
    assert float(density.sum()) == pytest.approx(1.0, abs=1e-9)
    # A chain whose states are those labels, corrupted, is a mixture of such corruptions.
    some = torch.as_tensor(drawn[:9])
    mixture = pyro_network.Corrupted(architecture, labels[None]).log_prob(some)
    parts = [pyro_network.Corruption(architecture, state[None]).log_prob(some).numpy() for state in labels]
    np.testing.assert_allclose(mixture, logsumexp(parts, axis=0) - np.log(6), rtol=1e-9)


def test_mixed_columns_are_drawn_and_scored(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    table = mixed()
    family = DenoisingAutoencoder(hidden=(16,), num_states=20)
    engine = pg.SVI(num_members=1, max_steps=300, learning_rate=1e-2)
    fit = pg.fit(family, table, engine=engine, backend="pyro", seed=0)
    drawn = fit.sample(500, seed=1)
    assert (drawn.dtypes == table.dtypes).all()
    assert drawn["visits"].min() >= 0
    # 80 states, so the shares of labels have standard errors of 0.06 at most: 4 of them.
    assert drawn["open"].mean() == pytest.approx(table["open"].mean(), abs=0.24)
    score = fit.score(table.head(20), p_values=False)
    assert score.kind == "importance"
    assert np.isfinite(score.log_predictive).all()
    frame = fit.score_function(table.head(3))
    assert frame.columns.tolist() == ["row", "height", "height_sd"]
    # The direction to the data is back from far above them.
    high = table.head(3).assign(height=230.0)
    assert (fit.score_function(high)["height"] < 0).all()
    assert main(["score-function", str(fit.save(tmp_path / "fit")), "--json"]) == 0
    (rows,) = (value for value in json.loads(capsys.readouterr().out).values() if isinstance(value, list))
    assert rows[0]["height"] == pytest.approx(frame["height"][0], rel=1e-4)


def test_what_is_refused() -> None:
    for options in ({"noise": 0.0}, {"flip": 1.0}, {"hidden": (0,)}, {"num_chains": 1}):
        with pytest.raises(pg.SettingError, match=next(iter(options))):
            DenoisingAutoencoder(**options)
    table = normals(60)
    table.iloc[3, 1] = np.nan
    with pytest.raises(pg.DataError, match="missing"):
        LINEAR.prepare(table)
    with pytest.raises(pg.DataError, match="at least 50"):
        LINEAR.prepare(normals(30))
    fit = pg.fit(pg.GMM(1), normals(), engine=pg.EM(num_starts=1, num_bootstraps=0))
    with pytest.raises(pg.UnsupportedError, match="dae"):
        fit.score_function()
    labels = pd.DataFrame({"a": ["x", "y"] * 40, "b": [True, False, False, True] * 20})
    engine = pg.SVI(num_members=1, max_steps=50)
    fit = pg.fit(LINEAR.replace(num_states=4), labels, engine=engine, backend="pyro", seed=0)
    with pytest.raises(pg.UnsupportedError, match="real columns"):
        fit.score_function()
