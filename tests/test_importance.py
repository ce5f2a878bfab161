"""Densities by importance sampling: of pairs with a local latent whose answer is known, and of dequantized flows."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import ppl_gen as pg
from ppl_gen import backends, importance
from ppl_gen.cli import app
from ppl_gen.family import Pair
from ppl_gen.models.flow import Flow
from ppl_gen.view import View

LOADINGS, NOISE = np.array([[1.0, 0.5, -0.3], [0.2, -0.8, 0.6]]), 0.7  # (latent, column)
ERRORS = 5.4  # standard errors from 8 sets of points: a t of 7 degrees of freedom is beyond this once in a thousand


def factor_pair(backend: str, widened: float = 1.5, tilt: float = 0.1, enumerated: bool = False) -> Pair:
    """z ~ N(0, I), x = z @ loadings + noise, so p(x) is normal; the guide is the posterior, tilted and widened. With
    ``enumerated``, a fair coin of each row moves all its columns by 2."""
    precision = np.eye(2) + LOADINGS @ LOADINGS.T / NOISE**2
    covariance = np.linalg.inv(precision)
    gain, scale = LOADINGS.T @ covariance / NOISE**2, widened * np.sqrt(np.diag(covariance))
    if backend == "numpyro":
        import jax.numpy as xp
        import numpyro as ppl
        import numpyro.distributions as dist

        array = xp.asarray
    else:
        import pyro as ppl
        import pyro.distributions as dist
        import torch

        array = torch.as_tensor

    def model(data: View, **_: int) -> None:
        shift = ppl.param("shift", array(0.0))
        with ppl.plate("obs", len(data.x), dim=-1):
            z = ppl.sample("z", dist.Normal(array(np.zeros(2)), 1.0).to_event(1))
            mean = z @ array(LOADINGS) + shift
            if enumerated:
                coin = ppl.sample("coin", dist.Categorical(array([0.5, 0.5])), infer={"enumerate": "parallel"})
                mean = mean + 2.0 * coin[..., None]
            ppl.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=data.x)

    def guide(data: View, **_: int) -> None:
        with ppl.plate("obs", len(data.x), dim=-1):
            ppl.sample("z", dist.Normal(data.x @ array(gain) + tilt, array(scale)).to_event(1))

    return Pair(pg.GMM(1), backend, model, guide, local=("z",))


def exact(x: np.ndarray, shift: float) -> np.ndarray:
    from scipy.stats import multivariate_normal

    covariance = LOADINGS.T @ LOADINGS + NOISE**2 * np.eye(3)
    return multivariate_normal(np.full(3, shift), covariance).logpdf(x)


def rows(number: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((number, 2)) @ LOADINGS + NOISE * rng.standard_normal((number, 3))


def views(backend: str, x: np.ndarray) -> View:
    if backend == "numpyro":
        return View(x)
    import torch

    return View(torch.as_tensor(x))


def weights_of(pair: Pair, x: np.ndarray, draws: dict[str, np.ndarray], **options: int) -> np.ndarray:
    found = [part for _, part in importance.log_weights(pair, draws, views(pair.backend, x), **options)]
    return np.concatenate(found, axis=2)


DRAWS = {"shift": np.array([0.0, 0.4])}


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_the_estimate_is_within_its_error_of_the_known_density_and_above_its_bound(backend: str, x64: None) -> None:
    x, pair = rows(), factor_pair(backend)
    found = weights_of(pair, x, DRAWS, num_particles=512)
    assert found.shape == (2, 512, 40)
    for s, shift in enumerate(DRAWS["shift"]):
        truth, sure = exact(x, shift), importance.precision(found[[s]])
        estimate = importance.mean_density(found)[s]
        assert (np.abs(estimate - truth) < ERRORS * sure.error).all()
        assert (sure.error < 0.05).all()
        assert (sure.elbo < truth).all()
        assert (sure.elbo < estimate).all()
        assert (sure.k_hat < 0.7).all()
    pooled = importance.precision(found)
    truth = np.logaddexp(*(exact(x, shift) for shift in DRAWS["shift"])) - np.log(2)
    estimate = np.logaddexp(*importance.mean_density(found)) - np.log(2)
    assert (np.abs(estimate - truth) < ERRORS * pooled.error).all()
    assert (pooled.elbo < truth).all()


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_the_true_posterior_as_guide_leaves_no_error(backend: str, x64: None) -> None:
    # One latent at a time: the posterior of two that are correlated is no product.
    x, pair = rows(5), factor_pair(backend, widened=1.0, tilt=0.0)
    found = weights_of(pair, x, {"shift": np.zeros(1)})
    correlated = importance.precision(found)
    assert (correlated.error < 0.02).all()
    assert (exact(x, 0.0) - correlated.elbo < 0.05).all()


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_enumerated_latents_are_summed_out_of_each_weight(backend: str, x64: None) -> None:
    x = rows(20)
    pair = factor_pair(backend, widened=3.0, enumerated=True)
    found = weights_of(pair, x, {"shift": np.zeros(1)}, num_particles=4096)
    truth = np.logaddexp(exact(x, 0.0), exact(x, 2.0)) - np.log(2)
    assert (np.abs(importance.mean_density(found)[0] - truth) < ERRORS * importance.precision(found).error).all()


def test_both_backends_give_the_same_weights(x64: None) -> None:
    x = rows(9)
    for enumerated in (False, True):
        one, other = (weights_of(factor_pair(b, enumerated=enumerated), x, DRAWS) for b in ("numpyro", "pyro"))
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    x, pair = rows(11), factor_pair("numpyro")
    whole = weights_of(pair, x, DRAWS)
    monkeypatch.setattr(importance, "CHUNK_VALUES", 64 * 2 * 4)
    np.testing.assert_allclose(weights_of(pair, x, DRAWS), whole, atol=1e-12)
    np.testing.assert_allclose(weights_of(pair, x[3:4], DRAWS), whole[:, :, 3:4], atol=1e-12)
    np.testing.assert_allclose(
        backends.ops("numpyro").log_prob(pair, DRAWS, View(x)), importance.mean_density(whole), atol=1e-12
    )


def test_points_are_inside_the_cube_and_even() -> None:
    for number, size in ((64, 3), (5, 1), (1000, 2)):
        found = importance.points(number, size, 0)
        assert found.shape == (-(-number // 8) * 8, size)
        assert ((found > 0) & (found < 1)).all()
    np.testing.assert_array_equal(importance.points(64, 3, 0), importance.points(64, 3, 0))
    assert not np.allclose(importance.points(64, 3, 0), importance.points(64, 3, 1))
    # Of 8 points in a set, one lies in each eighth of every coordinate.
    eighths = np.sort(np.floor(8 * importance.points(64, 3, 0).reshape(8, 8, 3)), axis=1)
    np.testing.assert_array_equal(eighths, np.broadcast_to(np.arange(8)[:, None], (8, 8, 3)))


def test_k_hat_of_many_rows_at_once_is_arviz_s_of_each() -> None:
    from ppl_gen.arviz_bridge import psis
    from ppl_gen.metrics import pareto_k

    rng = np.random.default_rng(0)
    for number in (16, 64, 500):
        log_ratios = rng.standard_normal((30, number)) * np.geomspace(0.01, 20, 30)[:, None]
        log_ratios[3] = 1.0  # all alike: minus infinity
        log_ratios[4, : number // 2] = 7.0  # ties in the tail
        np.testing.assert_allclose(pareto_k(log_ratios), psis(log_ratios)[1], rtol=1e-6, atol=1e-8)


# Dequantization


def mixed(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(num_rows)
    return pd.DataFrame({
        "length": 100 + 8 * z, "site": np.array(["a", "b", "c"])[np.clip(np.floor(z + 1.5), 0, 2).astype(int)],
        "visits": rng.poisson(np.exp(0.5 * z + 1)), "smoker": rng.random(num_rows) < 1 / (1 + np.exp(-2 * z)),
    })  # fmt: skip


ENGINE = pg.SVI(num_members=2, max_steps=400, learning_rate=1e-2, batch_size=64)
TINY = Flow(transform="maf", num_layers=2, hidden=(12,))


@cache
def fitted(backend: str = "numpyro") -> pg.Fit:
    return pg.fit(TINY, mixed(), engine=ENGINE, backend=backend, seed=0)


@cache
def coin() -> pg.Fit:
    """One binary column alone."""
    table = pd.DataFrame({"heads": np.random.default_rng(0).random(400) < 0.3})
    return pg.fit(TINY.replace(num_layers=1), table, engine=ENGINE, seed=0)


def test_the_probability_of_a_binary_value_is_the_integral_over_its_cell() -> None:
    """Against Gauss-Legendre quadrature of the flow's own density, 64 nodes a cell."""
    fit = coin()
    nodes, weights = np.polynomial.legendre.leggauss(64)
    # The same weights in the flow of a real column: its density is that of the continuous row.
    real = pg.Data.from_table(np.linspace(0, 1, 50)[:, None], standardize=False).schema
    continuous = TINY.replace(num_layers=1).build("numpyro", real, 400)
    score = fit.score(pd.DataFrame({"heads": [False, True]}), p_values=False, num_particles=64)
    assert score.kind == "importance"
    for value in (0, 1):
        at = value + (nodes + 1) / 2
        density = np.exp(backends.ops("numpyro").log_prob(continuous, fit.posterior, View(at[:, None])))
        exact_probability = (density @ (weights / 2)).mean()
        assert score.log_predictive[value] == pytest.approx(
            np.log(exact_probability), abs=ERRORS * score.error[value] + 1e-5
        )
        assert score.elbo[value] < np.log(exact_probability)
    total = np.exp(score.log_predictive).sum()
    assert 0.9 < total < 1 + 1e-3  # what is missing is the mass outside of both cells
    share = np.exp(score.log_predictive[1]) / total
    # Nats lost against the sample's own share, 0.3, are few: KL of two coins.
    observed = fit.train.x.mean()
    assert observed * np.log(observed / share) + (1 - observed) * np.log((1 - observed) / (1 - share)) < 0.02


def test_scores_of_a_mixed_table_say_what_they_are() -> None:
    score = fitted().score(mixed(50, seed=1), p_values=False)
    frame = score.to_frame()
    assert (frame["kind"] == "importance").all()
    assert (frame["elbo"] < frame["log_prob"]).all()
    assert (frame["log_prob_error"] > 0).all()
    assert (frame["log_prob_error"] < 0.3).all()
    assert (frame["k_hat"] < 0.7).mean() > 0.9
    more = fitted().score(mixed(50, seed=1), p_values=False, num_particles=4096)
    assert (np.abs(more.log_predictive - score.log_predictive) < ERRORS * np.hypot(score.error, more.error)).all()
    assert more.error.mean() < score.error.mean() / 4
    again = fitted().score(mixed(50, seed=1), p_values=False)
    np.testing.assert_array_equal(again.log_predictive, score.log_predictive)
    assert not np.allclose(
        fitted().score(mixed(50, seed=1), p_values=False, seed=5).log_predictive, again.log_predictive
    )


def test_a_real_table_stays_exact() -> None:
    table = mixed()[["length"]].assign(width=mixed(seed=3)["length"])
    family = TINY.replace(transform="realnvp")
    assert family.density_for(family.prepare(table).schema) == "exact"
    assert family.density_for(family.prepare(mixed()).schema) == "importance"
    given = TINY.replace(condition_on=("site", "visits", "smoker"))
    assert given.density_for(given.prepare(mixed()).schema) == "exact"
    pair = family.pair("numpyro", table)
    assert pair.local == ()
    assert pair.collapsed is not None


def test_both_backends_score_a_dequantized_flow_alike(x64: None, tmp_path) -> None:
    fitted().save(tmp_path / "run")
    here, there = (
        pg.load(tmp_path / "run", backend=b).score(mixed(30, seed=2), p_values=False) for b in ("numpyro", "pyro")
    )
    for name in ("log_predictive", "error", "elbo"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), atol=1e-9)


def test_a_rescaled_real_column_shifts_the_score_of_a_mixed_table() -> None:
    engine = ENGINE.replace(max_steps=50)
    plain = pg.fit(TINY, mixed(), engine=engine, seed=0).score(p_values=False)
    longer = pg.fit(TINY, mixed().assign(length=mixed()["length"] * 1000), engine=engine, seed=0).score(p_values=False)
    np.testing.assert_allclose(longer.log_predictive, plain.log_predictive - np.log(1000), atol=5e-3)
    np.testing.assert_allclose(longer.elbo, plain.elbo - np.log(1000), atol=5e-3)
    np.testing.assert_allclose(longer.error, plain.error, rtol=0.02)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_drawn_rows_of_a_mixed_table_are_rows_of_it(backend: str, tmp_path) -> None:
    fitted().save(tmp_path / "run")
    table, drawn = mixed(), pg.load(tmp_path / "run", backend=backend).sample(1500, seed=1)
    assert list(drawn.columns) == list(table.columns)
    assert (drawn.dtypes == table.dtypes).all()
    assert set(drawn["site"]) == {"a", "b", "c"}
    assert drawn["visits"].min() >= 0
    for name in ("visits", "smoker", "length"):  # 300 rows: four standard errors of the table's own mean
        values = table[name].astype(float)
        assert drawn[name].astype(float).mean() == pytest.approx(values.mean(), abs=4.5 * values.std() / 300**0.5)
    assert drawn["length"].corr(drawn["smoker"].astype(float)) > 0.3


def test_the_diagnosis_and_the_command_line_tell_the_error(tmp_path) -> None:
    diagnosis = fitted().diagnose()
    assert diagnosis["density k-hat"].passed
    assert "Monte Carlo error" in diagnosis["density k-hat"].info
    assert list(diagnosis.details["density"]) == ["row", "log_prob_error", "elbo", "k_hat"]
    fitted().save(tmp_path / "run")
    mixed(5, seed=4).to_csv(tmp_path / "new.csv", index=False)
    arguments = ["score", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--num-particles", "128"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert "Monte Carlo error" in told.output
    out = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "scores.csv")])
    assert out.exit_code == 0, out.output
    assert {"log_prob_error", "elbo", "k_hat"} <= set(pd.read_csv(tmp_path / "scores.csv"))


def test_the_particles_asked_for_must_be_a_number() -> None:
    for wrong in (0, 1.5, True, "many"):
        with pytest.raises(pg.SettingError, match="num_particles"):
            fitted().score(num_particles=wrong)


class TestNearlyConstantWeights:
    HEAVY = 1 / (1 - (np.arange(512) + 0.5) / 512) ** 1.5  # Pareto quantiles of shape 1.5

    def test_have_no_tail_that_matters_whatever_its_shape(self) -> None:
        # Beyond the 67 largest of 512 the ratios add a few hundredths of the heavy part to the mean.
        heavy, light = np.log(self.HEAVY), np.log1p(1e-4 * self.HEAVY)
        found = importance.k_hat(np.stack([heavy, light, light + 300, light - 900]))
        assert found[0] > 0.7
        assert (found[1:] == -np.inf).all()

    def test_the_limit_is_a_hundredth_of_the_mean(self) -> None:
        excess = np.sort(self.HEAVY)[-67:].sum() - 67 * np.sort(self.HEAVY)[-68]
        for share, expected in ((0.009, True), (0.011, False)):
            # With w = 1 + c h, the excess over the mean is c excess / (512 + c sum h).
            c = share * 512 / (excess - share * self.HEAVY.sum())
            assert (importance.k_hat(np.log1p(c * self.HEAVY)[None]) == -np.inf).all() == expected


@pytest.mark.parametrize(
    ("family", "advice"),
    [(pg.VAE(), "objective='iwae'"), (pg.DenoisingAutoencoder(), "raise noise"), (pg.Flow(), "num_layers")],
)
def test_advice_names_settings_that_there_are(family: pg.Family, advice: str) -> None:
    assert advice in family.guide_advice
    assert "iwae" not in pg.VAE(label="who").guide_advice  # refused with a label
