"""Variational autoencoders: against probabilistic PCA, which a linear one is, and against what must hold of any."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import ppl_gen as pg
from ppl_gen import checks_latents, importance, plots
from ppl_gen.cli import main
from ppl_gen.engine import Draws
from ppl_gen.models.vae import VAE
from ppl_gen.models.vae.architecture import MIN_POSTERIOR
from ppl_gen.result import Fit

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
    table = mixed_without_gaps(num_rows, seed)
    table.loc[3::7, "height"] = np.nan
    table.loc[5::11, "site"] = None
    return table


def mixed_without_gaps(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=num_rows)
    return pd.DataFrame({
        "height": 170 + 10 * (z + 0.3 * rng.normal(size=num_rows)), "visits": rng.poisson(np.exp(1 + 0.5 * z)),
        "ill": rng.random(num_rows) < 1 / (1 + np.exp(-3 * z)),
        "site": np.array(["a", "b", "c"])[(z + 0.5 * rng.normal(size=num_rows) > [[-0.5], [0.5]]).sum(0)],
    })  # fmt: skip


SMALL = VAE(latent_dim=2, hidden=(8,))
FAMILIES = {
    "normal": SMALL.replace(hidden=(8, 8)), "vamp": SMALL.replace(prior="vamp", num_pseudo_inputs=5),
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


class TestOptions:
    @pytest.mark.parametrize(("options", "words"), [
        ({"num_pseudo_inputs": 5}, "set prior='vamp'"), ({"prior_layers": 2}, "set prior='flow'"),
        ({"channels": (3,)}, "set network='conv'"), ({"scale": "shared", "likelihood": "bernoulli"}, "'normal' or"),
    ])  # fmt: skip
    def test_that_nothing_uses_are_refused(self, options: dict[str, object], words: str) -> None:
        with pytest.raises(pg.SettingError, match=words):
            pg.VAE(**options)
        assert pg.VAE(num_pseudo_inputs=100, prior_layers=4, channels=[32, 64]) == pg.VAE()

    def test_a_categorical_likelihood_reads_whole_numbers_as_labels(self) -> None:
        family, rng = pg.VAE(2, likelihood="categorical"), np.random.default_rng(0)
        table = pd.DataFrame({"a": rng.integers(3, size=60) - 1, "b": rng.random(60) < 0.5, "c": list("uv") * 30})
        table["d"] = np.where(np.arange(60) == 3, np.nan, np.arange(60) % 4)
        data = family.prepare(table)
        assert set(data.schema.kinds) == {"categorical"}
        pd.testing.assert_frame_equal(data.to_frame(), table)
        with pytest.raises(pg.DataError, match="'e' holds real numbers"):
            family.prepare(table.assign(e=rng.normal(size=60)))
        pictures = rng.integers(3, size=(60, 2, 3)).astype(np.uint8)
        pictures[:, 0, 0] = 1
        with pytest.warns(UserWarning, match="1 of 6 pixels never vary"):
            data = family.prepare(pictures)
        assert data.schema.columns[0].categories == (0, 1, 2)
        with pytest.warns(UserWarning, match="1 of 6 pixels never vary"):
            assert pg.VAE(2).prepare(pictures, kinds={"pixel": "categorical"}).schema == data.schema
        with pytest.raises(pg.DataError, match=r"Image 0, pixel \(0, 0\) is 0.5.*round"):
            family.prepare(pictures / 2)

    def test_images_are_complete(self) -> None:
        pictures = np.random.default_rng(0).random((60, 2, 3))
        family = pg.VAE(2)
        data = family.prepare(pictures)
        draws = Draws({"u": np.zeros((1, 1, 1))}, "ensemble", parameters={}, figures={"num_steps": 1})
        fit = Fit(family, pg.SVI(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)
        with pytest.raises(pg.UnsupportedError, match="a table of their pixels"):
            fit.impute(pictures)
        pictures[4, 1, 1] = np.nan
        with pytest.raises(pg.DataError, match=r"Image 4, pixel \(1, 1\) is missing .*reshape"):
            family.prepare(pictures)
        assert family.prepare(pictures.reshape(60, -1)).mask is not None

    @pytest.mark.parametrize("kind", [pg.VAE, pg.SVI, pg.GMM, pg.HMMPrior, pg.NUTS])
    def test_that_there_are_not_are_named(self, kind: type) -> None:
        field = dataclasses.fields(kind)[0].name
        with pytest.raises(pg.SettingError, match=f"no option '{field}s': did you mean '{field}'"):
            kind(**{f"{field}s": 3})
        assert list(inspect.signature(kind).parameters) == [f.name for f in dataclasses.fields(kind) if f.init]
        assert copy.deepcopy(kind()) == kind()


@cache
def fitted(backend: str) -> pg.Fit:
    engine = pg.SVI(num_members=2, max_steps=600, learning_rate=0.01)
    return pg.fit(SMALL, mixed(), engine=engine, backend=backend, seed=0)


@cache
def exact() -> pg.Fit:
    """Probabilistic PCA as a fit of one member, and a second whose encoder is wrong."""
    data = LINEAR.prepare(pd.DataFrame(correlated(), columns=list("abcde")))
    pca = PCA.of(data.x)
    both = zip(pca.weights().items(), pca.weights(wrong=1.5).values(), strict=True)
    posterior = {name: np.stack([one, other]).astype(np.float32) for (name, one), other in both}
    draws = Draws(posterior, "ensemble", parameters={}, figures={"num_steps": 1})
    return pg.result.Fit(LINEAR, pg.SVI(), "numpyro", 0, data.schema, draws, data, versions={}, seconds=1.0)


class TestObjectives:
    @each_backend
    def test_the_bound_rises_with_the_number_of_particles(self, backend: str, x64: None) -> None:
        data = LINEAR.prepare(correlated())
        pair, pca = LINEAR.build(backend, data.schema, len(data)), PCA.of(data.x)
        truth, weights = pca.log_prob(data.x).mean(), pca.weights(wrong=0.5)
        settings = {"num_particles": 50}, {"objective": "iwae", "num_particles": 2}, {"objective": "iwae"}
        elbo, *rising = (-loss_of(pair, pg.SVI(**each), weights, data.view(backend)) for each in settings)
        # The terms in z1 and z2 of the ELBO are closed forms; what is left to chance is the mean of 400 x 50 draws.
        assert elbo == pytest.approx(truth - (0.25 - 1 - 2 * np.log(0.5)), abs=0.02)
        assert elbo + 0.05 < rising[0] < rising[1] - 0.05 < truth

    @each_backend
    def test_beta_weighs_the_divergence_and_free_bits_cap_it(self, backend: str, x64: None) -> None:
        data = LINEAR.prepare(correlated(100))
        weights, view = PCA.of(data.x).weights(), data.view(backend)
        found = {}
        for beta in (1.0, 3.0):
            pair = LINEAR.replace(beta=beta).build(backend, data.schema, len(data))
            for bits in (0.0, 50.0):
                found[beta, bits] = loss_of(pair, pg.SVI(free_bits=bits), weights, view)
        divergence = (found[3.0, 0.0] - found[1.0, 0.0]) / 2
        match = found[1.0, 0.0] - divergence
        assert divergence > 0.5
        # Far more bits than there are: each of the two dimensions costs them all, whatever it says.
        assert found[1.0, 50.0] == pytest.approx(match + 2 * 50, rel=1e-6)

    def test_they_are_refused_where_they_change_nothing(self) -> None:
        x = correlated(60)
        for options in ({"objective": "iwae"}, {"annealing": 10}, {"free_bits": 0.1}):
            with pytest.raises(pg.SettingError, match=f"{next(iter(options))} is for families .* such as vae"):
                pg.fit(pg.Flow("maf", num_layers=1, hidden=(4,)), x, engine=pg.SVI(**options))
            with pytest.raises(pg.SettingError, match="leave it out"):
                pg.fit(pg.GMM(2), x, engine=pg.SVI(**options))
        for wrong in (
            {"objective": "iwae", "free_bits": 0.1}, {"objective": "iwae", "num_particles": 1}, {"free_bits": -1.0},
            {"annealing": 30_000}, {"objective": "vimco"},
        ):  # fmt: skip
            with pytest.raises(pg.SettingError):
                pg.SVI(**wrong)

    @each_backend
    def test_while_beta_rises_no_member_stops(self, backend: str) -> None:
        engine = pg.SVI(num_members=1, max_steps=200, annealing=110, patience=1, objective="iwae", validation=0.0)
        fit = pg.fit(LINEAR, correlated(80), engine=engine, backend=backend)
        assert fit.draws.figures["num_steps"] >= 110
        assert fit.draws.parameters["validation_parts"].shape[1:] == (1, 2)


def loss_of(pair: pg.family.Pair, settings: pg.SVI, weights: dict[str, np.ndarray], view: object) -> float:
    if pair.backend == "numpyro":
        import jax

        from ppl_gen.inference.svi import numpyro_objective

        one = {name: jax.numpy.asarray(value[0]) for name, value in weights.items()}
        found = jax.jit(lambda one, key: numpyro_objective.loss(pair, settings, one, key, view)[0])
        return float(found(one, jax.random.key(0)))
    import torch

    from ppl_gen.backends.pyro_programs import sandbox
    from ppl_gen.inference.svi import pyro_objective

    with sandbox(0):
        one = {name: torch.as_tensor(value[0]) for name, value in weights.items()}
        return float(pyro_objective.loss(pair, settings, one, view)[0])


class TestVerbs:
    def test_codes_of_the_encoder_and_of_the_posterior(self) -> None:
        fit, rows = exact(), slice(0, 50)
        pca, x = PCA.of(fit.train.x), fit.train.x[rows]
        m = pca.w.T @ pca.w + pca.variance * np.eye(2)
        mean, sd = np.linalg.solve(m, pca.w.T @ x.T).T, np.sqrt(pca.variance / np.diag(m))
        table = fit.train.take(rows)
        encoder, wrong = fit.latents(table), fit.latents(table, member=1)
        np.testing.assert_allclose(encoder[["z0", "z1"]], mean, atol=1e-5)
        np.testing.assert_allclose(wrong[["z0_sd", "z1_sd"]], np.tile(1.5 * sd, (50, 1)), rtol=1e-4)
        found = fit.latents(table, member=1, method="importance")
        np.testing.assert_allclose(found[["z0_sd", "z1_sd"]], np.tile(sd, (50, 1)), rtol=0.05)
        assert found["k_hat"].max() < 0.7
        draws = fit.latents(table, member=1, method="draws", num_draws=400).groupby("row")[["z0", "z1"]]
        # The standard deviation of 400 draws errs by sqrt(1 / 800) of itself, of 100 such numbers by 3.5 times that.
        np.testing.assert_allclose(draws.std(), np.tile(sd, (50, 1)), rtol=0.17)

    def test_missing_entries_are_drawn_given_the_others(self) -> None:
        fit = exact()
        table = pd.DataFrame(correlated()[:30], columns=list("abcde"))
        table.loc[::2, "b"] = np.nan
        found = fit.impute(table, num_draws=400, seed=1)
        assert list(found.columns) == ["draw", *"abcde"]
        assert (found["draw"].value_counts() == 30).all()
        pd.testing.assert_frame_equal(found[found["draw"] == 7].drop(columns=["draw", "b"]), table.drop(columns="b"))
        pca, x, b = PCA.of(fit.train.x), fit.schema.encode(table).x[0], np.arange(5) == 1
        across = pca.covariance[np.ix_(b, ~b)] @ np.linalg.inv(pca.covariance[np.ix_(~b, ~b)])
        scale = fit.schema.columns[1].scale
        sd = scale * np.sqrt((pca.covariance[np.ix_(b, b)] - across @ pca.covariance[np.ix_(~b, b)])[0, 0])
        drawn = found.loc[[0], "b"]
        # 400 draws, 4 standard errors; the particles' own error is less than that of the draws.
        assert drawn.mean() == pytest.approx((across @ x[~b])[0] * scale + fit.schema.columns[1].loc, abs=5 * sd / 20)
        assert drawn.std() == pytest.approx(sd, rel=0.2)
        assert fit.impute(table, num_draws=2, seed=1).equals(fit.impute(table, num_draws=2, seed=1))

    @each_backend
    def test_a_mixed_table_from_end_to_end(self, backend: str, tmp_path) -> None:
        fit, table = fitted(backend), mixed()
        score = fit.score()
        assert score.kind == "importance"
        assert (score.elbo < score.log_predictive + 1e-6).all()
        found = fit.impute(table, num_draws=3)
        assert not found.isna().to_numpy().any()
        kept = found[found["draw"] == 2].drop(columns="draw")
        assert kept.where(table.notna()).equals(table)
        # A height is known by the other columns: its sd of 10.4 is halved by them.
        truth = mixed_without_gaps()["height"]
        gap = table["height"].isna()
        error = (fit.impute(table, num_draws=30).groupby(level=0)["height"].mean() - truth)[gap]
        assert np.sqrt((error**2).mean()) < 0.8 * truth.std()
        back = fit.reconstruct(table)
        assert list(back.columns) == list(table.columns)
        assert (back["site"] == table["site"]).mean() > 0.5
        line = fit.interpolate(table.iloc[:1], table.iloc[1:2], 5)
        assert len(line) == 5
        np.testing.assert_allclose(line["height"][0], back["height"][0], rtol=1e-5)
        fit.save(tmp_path / "fit")
        pd.testing.assert_frame_equal(pg.load(tmp_path / "fit").latents(), fit.latents())

    def test_the_command_line_has_the_same_verbs(self, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
        run, rows = str(tmp_path / "run"), str(tmp_path / "rows.csv")
        fitted("pyro").save(run)
        mixed(6).to_csv(rows, index=False)
        for command, number in (
            (["latents", run, rows, "--member", "1"], 6), (["latents", run, rows, "--method", "importance"], 6),
            (["reconstruct", run, rows], 6), (["interpolate", run, rows, rows, "-n", "3"], 18),
            (["impute", run, rows, "-n", "2"], 12),
        ):  # fmt: skip
            assert main([*command, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["num_rows"] == number
        assert main(["reconstruct", run, rows, "-o", str(tmp_path / "x.npz")]) == 2
        assert "fitted to a table" in capsys.readouterr().err

    def test_families_without_codes_say_so(self) -> None:
        fit = pg.fit(pg.GMM(2), correlated(60), engine=pg.EM(num_bootstraps=0))
        for ask in (fit.reconstruct, fit.impute, lambda: fit.interpolate(None, None)):
            with pytest.raises(pg.UnsupportedError, match=r"families that can: .*vae"):
                ask()
        with pytest.raises(pg.SettingError, match="member"):
            fit.latents(member=1)
        for wrong in ({"member": 2}, {"method": "viterbi"}, {"num_draws": 0}):
            with pytest.raises(pg.SettingError, match=next(iter(wrong))):
                exact().latents(**wrong)
        with pytest.raises(pg.DataError, match="as many of both"):
            exact().interpolate(exact().train.take(slice(0, 1)), exact().train.take(slice(0, 2)))

    @each_backend
    def test_conditions_are_read_by_both_networks(self, backend: str) -> None:
        rng = np.random.default_rng(0)
        dose = rng.integers(0, 2, 300).astype(bool)
        table = pd.DataFrame({"dose": dose, "a": 4.0 * dose + rng.normal(size=300), "b": rng.normal(size=300)})
        family, engine = SMALL.replace(condition_on=("dose",)), pg.SVI(num_members=1, max_steps=500, learning_rate=0.01)
        fit = pg.fit(family, table, engine=engine, backend=backend)
        drawn = fit.sample(2000, given=pd.DataFrame({"dose": [False, True]})).groupby("dose")["a"].mean()
        assert drawn[True] - drawn[False] == pytest.approx(4.0, abs=0.5)
        with pytest.raises(pg.DataError, match="'dose' is conditioned on, and differs"):
            fit.interpolate(table[~dose].head(1), table[dose].head(1))


class TestChecks:
    def test_an_exact_encoder_passes_and_a_useless_one_fails(self) -> None:
        fit = exact()
        found, details = checks_latents.of_latents(fit)
        assert [check.name for check in found if check.passed] == [
            "active units", "posterior collapse", "ELBO gap", "aggregate posterior p",
        ]  # fmt: skip
        assert details["latents"].shape == (4, 6)
        dead = {name: np.where(name.startswith("encoder"), 0, value) for name, value in fit.draws.posterior.items()}
        dead["decoder_weight_0"] = 0 * dead["decoder_weight_0"]
        found, _ = checks_latents.of_latents(
            dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, posterior=dead))
        )
        figures = {check.name: check.figure for check in found if check.passed is False}
        assert figures == {"active units": 0, "posterior collapse": 1}

    def test_codes_that_are_not_spread_like_the_prior_are_found(self) -> None:
        rng = np.random.default_rng(0)
        prior, other = rng.normal(size=(2, 300, 3))
        assert checks_latents.permutation_p(prior, other, rng) > 0.01
        assert checks_latents.permutation_p(prior + np.array([0.5, 0, 0]), other, rng) <= 0.002

    @pytest.mark.parametrize("kind", ["reconstructions", "codes", "traversals", "loss_parts"])
    def test_pictures(self, kind: str) -> None:
        assert not plots.applicable(fitted("pyro"))[kind]
        figure = plots.KINDS[kind](fitted("pyro"))
        figure.draw_without_rendering()
        assert figure.get_suptitle()


class TestInput:
    @pytest.mark.parametrize(
        ("options", "match"),
        [({"prior": "flow", "latent_dim": 1}, "latent_dim"), ({"hidden": (0,)}, "hidden"), ({"beta": 0.0}, "beta"),
         ({"likelihood": "poisson"}, "likelihood"), ({"scale": "row"}, "scale")],
    )  # fmt: skip
    def test_options(self, options: dict[str, object], match: str) -> None:
        with pytest.raises(pg.SettingError, match=match):
            VAE(**options)

    def test_values_outside_the_likelihood_are_named(self) -> None:
        table = pd.DataFrame({"a": np.arange(60) % 2, "b": np.arange(60) % 2})
        table.loc[7, "b"] = 3
        with pytest.raises(pg.DataError, match=r"'b'.*row 7.*3"):
            VAE(likelihood="bernoulli").prepare(table)
        with pytest.raises(pg.DataError, match="images"):
            VAE(network="conv").prepare(table)
        with pytest.raises(pg.DataError, match="at least 50 rows"):
            VAE().prepare(table.head(20))


def test_convolutions_of_images_of_odd_sizes(x64: None) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(60, 5, 3)).astype(np.uint8)
    family = VAE(latent_dim=2, hidden=(8,), network="conv", channels=(3, 4))
    data, found = family.prepare(images), []
    weights = family.build("pyro", data.schema, 60).initialize(data.view(), 0, 1)
    for backend in BACKENDS:
        found.append(bounds(family.build(backend, data.schema, 60), weights, sliceable(data, backend), 8)[0])
    np.testing.assert_allclose(*found, rtol=1e-9)
    fit = pg.fit(family, images, engine=pg.SVI(num_members=1, max_steps=50), backend="pyro")
    assert fit.reconstruct(images[:4]).shape == fit.interpolate(images[:1], images[1:2], 4).shape == (4, 5, 3)
    # Of 256 equally likely values an ideal code has 8 bits; a single logistic can't be much worse.
    assert 7.9 < fit.score(images).bits_per_dim < 8.8
