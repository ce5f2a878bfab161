"""Implicit densities: surrogates, latents and corrected samples of generators whose answers have closed forms."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import ppl_gen as pg
from ppl_gen import corrected
from ppl_gen.engine import Draws
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.models.gan import GAN
from ppl_gen.normalizer import AIS
from ppl_gen.result import Fit
from ppl_gen.view import View

BACKENDS = ("numpyro", "pyro")
LINEAR: dict[str, Any] = {
    "latent_dim": 3, "generator_hidden": (), "discriminator_hidden": (), "observation_sd": 0.2,
    "normalization": "standard",
}  # fmt: skip
QUICK = AIS(num_temperatures=100, num_chains=32, num_leapfrogs=5, target_accept=0.65)
SCALES = np.array([30.0, 0.02])


def rows(number: int = 50, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    return pd.DataFrame({"height": 170 + SCALES[0] * x[:, 0], "mass": 0.07 + SCALES[1] * x[:, 1]})


@cache
def linear(backend: str, num_members: int = 1, slope: tuple[float, float] = (0.8, -0.5)) -> Fit:
    """A fit whose generators are z W + b in model space, and whose log ratio is a linear function: W, b and that
    function are in its weights."""
    family = GAN(**LINEAR)
    data = family.prepare(rows())
    pair = family.build(backend, data.schema, len(data), data.view(backend))
    values = {name: np.array(value) for name, value in pair.initialize(pair.data, 0, num_members).items()}
    rng = np.random.default_rng(3)
    values["generator_weight_0"] = 0.7 * rng.normal(size=values["generator_weight_0"].shape)
    values["generator_bias_0"] = 0.2 * rng.normal(size=values["generator_bias_0"].shape)
    for name in ("real_shift", "real_log_scale"):
        values[name] = np.zeros_like(values[name])
    values["ratio_weight_0"] = np.broadcast_to(np.array(slope)[:, None], values["ratio_weight_0"].shape)
    values["ratio_bias_0"] = np.full_like(values["ratio_bias_0"], 0.3)
    draws = Draws({name: value[:, None].astype(np.float32) for name, value in values.items()}, "ensemble")
    return Fit(family, pg.SVI(), backend, 0, data.schema, draws, data, {}, 0.0)


def moments(fit: Fit, member: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W (L, D), b (D,), and the covariance of rows of the model with observation noise, in model space."""
    w, b = (fit.posterior[f"generator_{name}_0"][member].astype(float) for name in ("weight", "bias"))
    return w, b, w.T @ w + fit.family.observation_sd**2 * np.eye(2)


def closed_form(fit: Fit, table: pd.DataFrame) -> np.ndarray:
    """(members, n): log likelihood of probabilistic PCA, in the units of the table (Tipping & Bishop 1999)."""
    columns = fit.schema.target_columns
    loc, scale = np.array([c.loc for c in columns]), np.array([c.scale for c in columns])
    x = (table.to_numpy() - loc) / scale
    found = [multivariate_normal(b, c).logpdf(x) for _, b, c in (moments(fit, s) for s in range(fit.draws.num_chains))]
    return np.stack(found) - np.log(scale).sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_ais_is_the_likelihood_of_probabilistic_pca(backend: str) -> None:
    """Errors in units of the standard errors: their mean over 50 rows has sd 0.14, none of 50 normal ones is beyond
    4; those of 32 weights are somewhat wider."""
    fit, table = linear(backend), rows(50, seed=1)
    score = fit.score(table, surrogate=QUICK)
    off = (score.log_predictive - closed_form(fit, table)[0]) / score.error
    assert abs(off.mean()) < 3 * 0.14
    assert 0.5 < off.std() < 1.6
    assert abs(off).max() < 5
    assert abs(score.total - closed_form(fit, table).sum()) < 3 * np.sqrt((score.error**2).sum())
    assert (score.elbo <= score.log_predictive).all()
    assert score.unreliable.mean() < 0.2
    assert (score.kind, score.surrogate) == ("implicit", "ais")
    assert "implicit: ais" in repr(score)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ensemble_is_the_mean_density_of_its_members(backend: str) -> None:
    fit, table = linear(backend, 2), rows(5, seed=1)
    exact = closed_form(fit, table)
    score = fit.score(table, surrogate=QUICK)
    assert np.abs((score.log_predictive - np.logaddexp(*exact) + np.log(2)) / score.error).max() < 4
    assert np.allclose(score.sd, exact.std(0), atol=0.3)
    assert score.log_prob.shape == (2, 1, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bracket_holds_the_truth(backend: str) -> None:
    """Bounds are those of averages, so they hold within 3 standard errors of the averages."""
    fit = linear(backend)
    found = fit.bracket(num_rows=50, surrogate=QUICK)
    assert -3 * found.error < found.gap < 0.2
    assert found.to_frame().shape == (50, 3)
    assert "gap" in repr(found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_do_not_depend_on_the_rows_beside_them(backend: str) -> None:
    fit, table = linear(backend), rows(12, seed=1)
    whole = fit.score(table, surrogate=QUICK).log_predictive
    some = fit.score(table.iloc[[7, 2]], surrogate=QUICK).log_predictive
    assert np.allclose(some, whole[[7, 2]], atol=1e-3)
    assert not np.array_equal(whole, fit.score(table, surrogate=QUICK, seed=1).log_predictive)


@pytest.mark.parametrize("backend", BACKENDS)
def test_latents_are_those_of_probabilistic_pca(backend: str) -> None:
    """The posterior of z is normal with covariance M^-1, M = W W' / sigma^2 + I, and mean (x - b) W' M^-1 / sigma^2."""
    fit, table = linear(backend), rows(8, seed=1)
    found = fit.latents(table)
    columns = fit.schema.target_columns
    x = (table.to_numpy() - [c.loc for c in columns]) / [c.scale for c in columns]
    w, b, _ = moments(fit)
    precision = w @ w.T / 0.04 + np.eye(3)
    mean, sd = (x - b) @ w.T @ np.linalg.inv(precision) / 0.04, np.sqrt(np.diag(np.linalg.inv(precision)))
    ours = found[["z0", "z1", "z2"]].to_numpy()
    assert np.abs(ours - mean).max() < 0.2 * sd.max()  # some 400 independent draws of each: 4 standard errors
    assert np.allclose(found[["z0_sd", "z1_sd", "z2_sd"]].to_numpy(), sd, rtol=0.2)
    assert (found["r_hat"] < 1.1).all()
    draws = fit.latents(table.head(2), method="draws", num_draws=7)
    assert draws.shape == (14, 5)
    assert list(draws["draw"]) == [*range(7)] * 2


TARGET_MEAN, TARGET_COV = np.array([0.5, -0.4]), np.array([[0.6, 0.3], [0.3, 0.5]])


@cache
def between_normals(backend: str) -> Fit:
    """A generator of standard normal rows, and the log ratio of a normal with another mean and covariance to those; a
    condition moves that mean."""
    fit = linear(backend)
    precision = np.linalg.inv(TARGET_COV)
    constant = -0.5 * np.log(np.linalg.det(TARGET_COV))

    def ratio(parameters: Any, view: Any) -> Any:
        x = view.x
        off = x - _like(TARGET_MEAN, x) - (0 if view.context is None else view.context)
        return constant - 0.5 * ((off @ _like(precision, x)) * off).sum(-1) + 0.5 * (x**2).sum(-1)

    replaced = dataclasses.replace(
        fit.pair, latent_size=2, model=_MODELS[backend](ratio), generate=lambda parameters, view: view.x,
        log_ratio=ratio, discriminator=ratio, programs={},
    )  # fmt: skip
    other = dataclasses.replace(fit)
    other.__dict__["pair"] = replaced
    return other


def _like(values: np.ndarray, other: Any) -> Any:
    if type(other).__module__.startswith("torch"):
        import torch

        return torch.as_tensor(values, dtype=other.dtype)
    import jax.numpy as jnp

    return jnp.asarray(values, other.dtype)


def _numpyro_model(ratio: Any) -> Any:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model(data: Any, *, num_obs: int, realness: bool = False) -> None:
        with numpyro.plate("obs", num_obs):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.deterministic("x", z)
            if realness:
                numpyro.factor("log_ratio", ratio(None, View(z, context=data and data.context)))

    return model


def _pyro_model(ratio: Any) -> Any:
    import pyro
    import pyro.distributions as dist
    import torch

    def model(data: Any, *, num_obs: int, realness: bool = False) -> None:
        with pyro.plate("obs", num_obs):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.deterministic("x", z, event_dim=1)
            if realness:
                pyro.factor("log_ratio", ratio(None, View(z, context=data and data.context)))

    return model


_MODELS = {"numpyro": _numpyro_model, "pyro": _pyro_model}


@pytest.mark.parametrize("correct", ["rejection", "latent_hmc"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_corrected_samples_are_those_of_the_target(backend: str, correct: str) -> None:
    """Mean and covariance within 4 standard errors: of independent rows by rejection, of 2,048 chains otherwise."""
    fit, number = between_normals(backend), 4000
    frame = fit.sample(number, correct=correct, seed=1)
    columns = fit.schema.target_columns
    x = (frame.to_numpy() - [c.loc for c in columns]) / [c.scale for c in columns]
    independent = number if correct == "rejection" else 2048
    assert (np.abs(x.mean(0) - TARGET_MEAN) < 4 * np.sqrt(np.diag(TARGET_COV) / independent)).all()
    sd = np.sqrt((TARGET_COV**2 + np.outer(np.diag(TARGET_COV), np.diag(TARGET_COV))) / independent)  # of normal rows
    assert (np.abs(np.cov(x.T) - TARGET_COV) < 4 * sd).all()


@pytest.mark.parametrize("correct", ["rejection", "latent_hmc"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_mended_under_the_condition_that_each_is_drawn_for(backend: str, correct: str) -> None:
    """Mean of what is left when the condition is taken off, within 4 standard errors of 160 independent rows."""
    fit, given = between_normals(backend), np.where(np.arange(320) % 2, 0.4, -0.4)[:, None]
    x = corrected.draw(fit.pair, fit.posterior, np.zeros(320, int), 1, given, correct)
    for kept in (given[:, 0] > 0, given[:, 0] < 0):
        off = (x - given)[kept].mean(0) - TARGET_MEAN
        assert (np.abs(off) < 4 * np.sqrt(np.diag(TARGET_COV) / 160)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_uncorrected_samples_are_the_generator_s(backend: str) -> None:
    fit = between_normals(backend)
    same = fit.sample(50, correct="none", seed=1)
    assert same.equals(fit.sample(50, seed=1))
    assert len(fit.sample(3, correct="rejection")) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_chains_in_latent_space_are_of_the_target_too(backend: str) -> None:
    """By nuts; mean within 4 standard errors, at the effective size that ArviZ finds."""
    fit = between_normals(backend)
    chains = fit.chains("nuts", num_samples=400, num_warmup=200, num_chains=2, seed=1)
    table = chains.summary()
    assert list(table.index[:2]) == ["z0", "z1"]
    assert (np.abs(table["mean"][:2] - TARGET_MEAN) < 4 * table["mcse_mean"][:2]).all()
    assert set(chains.data.posterior.data_vars) == {"z", "height", "mass"}
    assert {"diverging", "acceptance_rate"} <= set(chains.sample_stats)
    assert chains.diagnose().checks[0].passed
    frame = chains.to_frame()
    assert np.allclose(frame["height"].to_numpy().reshape(2, -1), chains.data.posterior["height"].to_numpy(), rtol=1e-4)


def test_the_log_ratio_is_no_density() -> None:
    """It is the discriminator's, without units, bits or p-values; of an ensemble that of the mean of its densities."""
    fit, table = linear("numpyro", 2), rows(6, seed=1)
    columns = fit.schema.target_columns
    x = (table.to_numpy() - [c.loc for c in columns]) / [c.scale for c in columns]
    score = fit.score(table, surrogate="log_ratio")
    assert np.allclose(score.log_predictive, x @ [0.8, -0.5] + 0.3, atol=1e-5)
    assert np.isnan(score.bits_per_dim)
    assert score.p_value is None
    assert "log ratios (implicit: log_ratio" in repr(score)
    assert {"log_ratio", "surrogate"} <= set(score.to_frame())
    assert "log_prob" not in score.to_frame()


def test_what_a_fit_does_by_itself_costs_no_chains() -> None:
    fit = dataclasses.replace(linear("numpyro"))
    fit.__dict__["pair"] = dataclasses.replace(linear("numpyro").pair, programs={})
    assert np.isnan(fit.held_out).all()
    assert not hasattr(fit.data, "log_likelihood")
    checks = {check.name: check for check in fit.diagnose().checks}
    assert "fit.bracket()" in checks["AIS gap"].info
    assert not any("anneal" in str(key) for key in fit.pair.programs)
    fit.bracket(num_rows=20, surrogate=QUICK)
    assert fit.diagnose().details["bracket"].shape == (20, 3)


def test_surrogates_and_corrections_are_refused_where_there_are_none() -> None:
    mixture = pg.fit(pg.GMM(1), rows(), engine="em")
    for ask in (
        lambda: mixture.score(surrogate="ais"), lambda: mixture.sample(2, correct="rejection"), mixture.bracket,
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match="gmm"):
            ask()
    assert len(mixture.sample(2, correct="none")) == 2
    with pytest.raises(UnsupportedError, match="no density that could be normalised"):
        linear("numpyro").normalize("smc")
    fit = linear("numpyro")
    for ask, what in (
        (lambda: fit.score(surrogate="aiss"), "ais"), (lambda: fit.score(surrogate=pg.SMC()), "not of SMC"),
        (lambda: fit.sample(2, correct="hmc"), "latent_hmc"),
        (lambda: fit.bracket(surrogate="log_ratio"), "annealed"), (lambda: fit.bracket(num_rows=1), "num_rows"),
        (lambda: fit.latents(method="guide"), "chains, draws"), (lambda: fit.latents(member=1), "member"),
        (lambda: fit.chains("tempered"), "nuts"),
    ):  # fmt: skip
        with pytest.raises(SettingError, match=what):
            ask()


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_corrected_rows_are_of_the_condition_that_they_are_drawn_for(backend: str) -> None:
    table = pd.DataFrame({"y": np.repeat([0.0, 1.0], 50), "x": np.random.default_rng(0).normal(size=100)})
    family = pg.GAN(latent_dim=1, generator_hidden=(), discriminator_hidden=(4,), normalization="standard",
                    condition_on=("y",))  # fmt: skip
    engine = pg.Adversarial(num_members=1, max_steps=50, ratio_steps=50)
    fit = pg.fit(family, table, engine=engine, backend=backend, seed=0)
    given = pd.DataFrame({"y": [0.0, 1.0]}, index=["a", "b"])
    for how in ("rejection", "latent_hmc"):
        with pytest.warns(UserWarning, match="not trained to its end"):
            drawn = fit.sample(2, given=given, correct=how, seed=1)
        assert list(drawn.index) == ["a", "a", "b", "b"]
        assert list(drawn["y"]) == [0, 0, 1, 1]
        assert np.isfinite(drawn["x"]).all()
        assert drawn["x"].nunique() == 4


def test_implicit_densities_are_compared_with_others_only_by_name() -> None:
    fit, mixture, test = linear("numpyro"), pg.fit(pg.GMM(1), rows(), engine="em"), rows(6, seed=1)
    models = {"gan": fit, "gmm": mixture}
    with pytest.raises(SettingError, match="surrogate='ais'"):
        pg.compare(models, test=test)
    with pytest.raises(SettingError, match="no density, and ranks"):
        pg.compare(models, test=test, surrogate="log_ratio")
    with pytest.raises(SettingError, match="not seen as test"):
        pg.compare(models, surrogate="ais")
    with pytest.raises(SettingError, match="leave it out"):
        pg.compare({"gmm": mixture}, test=test, surrogate="ais")
    found = pg.compare(models, test=test, surrogate=QUICK)
    assert dict(found.frame["density"]) == {"gan": "implicit: ais", "gmm": "exact"}
    assert "not the same kind of number" in str(found)
    assert np.allclose(found.pointwise["gan"], closed_form(fit, test)[0], atol=1.5)
