"""Semi-supervised autoencoders: against quadrature and Bayes' rule, and on clusters of which few rows have a label."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax

import ppl_gen as pg
from ppl_gen import importance, labelled, latents, plots
from ppl_gen.cli import main
from ppl_gen.engine import Draws
from ppl_gen.models.vae import VAE
from ppl_gen.result import Fit

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
UNIT, MIN_SCALE = np.log(np.expm1(1.0)), 1e-3  # softplus(UNIT) = 1
SMALL = VAE(latent_dim=1, hidden=(3,), label="who")
NAMES = np.array(["u", "v"], object)


def clusters(num_rows: int = 200, num_known: int = 4, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Two clusters 4 sds and more apart, and the labels of all rows; the table has those of ``num_known`` rows."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.arange(num_rows) % 2)
    x = rng.normal(size=(num_rows, 2)) * 0.5 + np.where(which == 1, 2.0, -2.0)[:, None]
    known = np.concatenate([np.flatnonzero(which == k)[: num_known // 2] for k in (0, 1)])
    given = np.full(num_rows, None, object)
    given[known] = NAMES[which[known]]
    return pd.DataFrame({"a": x[:, 0], "who": given, "b": x[:, 1]}), NAMES[which]


def weights_at_random(family: VAE, data: pg.Data, draws: int = 1) -> dict[str, np.ndarray]:
    pair, rng = family.build("numpyro", data.schema, len(data)), np.random.default_rng(0)
    start = pair.initialize(data.view(), 1, draws)
    return {k: v + (0 if k == "label_share" else 0.3) * rng.normal(size=v.shape) for k, v in start.items()}


def as_fit(family: VAE, data: pg.Data, weights: dict[str, np.ndarray], backend: str) -> Fit:
    draws = Draws({k: v[:, None] for k, v in weights.items()}, "ensemble", parameters={}, figures={"num_steps": 1})
    return Fit(family, pg.SVI(), backend, 0, data.schema, draws, data, versions={}, seconds=1.0)


def perceptron(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    one = {key.removeprefix(f"{name}_"): value[0] for key, value in weights.items() if key.startswith(f"{name}_")}
    hidden = np.maximum(x @ one["weight_0"] + one["bias_0"], 0)
    return hidden @ one["weight_1"] + one["bias_1"]


def log_conditional(weights: dict[str, np.ndarray], x: np.ndarray, z: np.ndarray, y: int) -> np.ndarray:
    """(len(z), n): log p(x | z, y) of two real columns x (n, 2)."""
    mean = perceptron(weights, "decoder", np.column_stack([z, np.tile(np.eye(2)[y], (len(z), 1))]))
    unit = np.exp(weights["real_log_scale"][0])
    centre = weights["real_shift"][0] + unit * mean
    scale = unit * (MIN_SCALE + np.log1p(np.exp(weights["real_raw_scale"][0] + UNIT)))
    each = -0.5 * ((x - centre[:, None]) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    return np.asarray(each.sum(-1))


class TestAgainstQuadrature:
    @each_backend
    def test_densities_and_labels(self, backend: str, x64: None) -> None:
        table, _ = clusters(60)
        data = SMALL.prepare(table)
        weights = weights_at_random(SMALL, data)
        for name in ("encoder_weight_0", "encoder_weight_1", "encoder_bias_1"):  # q is p(z): all weights are bounded
            weights[name] = np.zeros_like(weights[name])
        fit = as_fit(SMALL, data, weights, backend)
        z = np.linspace(-9, 9, 4001)
        prior, step = -0.5 * z * z - 0.5 * np.log(2 * np.pi), z[1] - z[0]
        x = data.x[:, [0, 2]]
        truth = np.stack([
            logsumexp(prior[:, None] + log_conditional(weights, x, z, y), axis=0) + np.log(step) for y in (0, 1)
        ])  # fmt: skip
        truth += log_softmax(weights["label_logits"][0])[:, None] + data.schema.log_jacobian()
        asked = {"who": [None] * 60, "u": ["u"] * 60, "v": ["v"] * 60}
        score = {k: fit.score(table.assign(who=v), p_values=False) for k, v in asked.items()}
        expected = {"who": logsumexp(truth, axis=0), "u": truth[0], "v": truth[1]}
        for name, found in score.items():
            gap = np.abs(found.log_predictive - expected[name])
            assert gap.mean() < 3 * found.error.mean()  # of 60 rows
            assert gap.max() < 6 * found.error.max()
            assert (found.elbo <= found.log_predictive + 1e-12).all()
        np.testing.assert_allclose(
            score["who"].log_predictive, np.logaddexp(score["u"].log_predictive, score["v"].log_predictive), rtol=1e-9
        )
        said = fit.latents(table.assign(who=None))
        np.testing.assert_allclose(
            said["who=v"], np.exp(score["v"].log_predictive - score["who"].log_predictive), rtol=1e-9
        )
        error = np.hypot(score["u"].error, score["v"].error)  # of the log odds
        bayes, share = expit(truth[1] - truth[0]), said["who=v"].to_numpy()
        assert (np.abs(share - bayes) < 6 * (error + 1e-6) * np.maximum(share * (1 - share), 0.02)).all()
        np.testing.assert_array_equal(said["who"], NAMES[(said["who=v"] > 0.5).astype(int)])
        np.testing.assert_allclose(said["z0"], 0.0, atol=1e-12)  # what the guide says: the prior
        read = (x - weights["real_shift"][0]) * np.exp(-weights["real_log_scale"][0])
        guess = softmax(perceptron(weights, "classifier", read), axis=1)
        np.testing.assert_array_equal(said["who_classifier"], NAMES[guess.argmax(1)])
        np.testing.assert_allclose(said["who_classifier_prob"], guess.max(1), rtol=1e-9)

    @each_backend
    def test_a_label_that_is_there_is_certain(self, backend: str, x64: None) -> None:
        table, which = clusters(60)
        data = SMALL.prepare(table)
        fit = as_fit(SMALL, data, weights_at_random(SMALL, data), backend)
        said = fit.latents(table.assign(who=which))
        np.testing.assert_array_equal(said["who"], which)
        np.testing.assert_array_equal(said["who_prob"], 1.0)
        np.testing.assert_array_equal(said["who_classifier"], which)
        np.testing.assert_array_equal(said["who_classifier_prob"], 1.0)
        weighted = fit.latents(table.assign(who=which), method="importance")
        draws = fit.latents(table.assign(who=which), method="draws", num_draws=3)
        np.testing.assert_array_equal(draws["who"], which.repeat(3))
        assert np.isfinite(weighted[["z0", "z0_sd", "k_hat"]]).all(axis=None)


def mixed(num_rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    z = rng.normal(size=num_rows)
    table = pd.DataFrame({
        "height": z + rng.normal(size=num_rows), "visits": rng.poisson(np.exp(z)), "ill": (z > 0).astype(float),
        "site": np.array(["a", "b", "c"], object)[rng.integers(3, size=num_rows)],
    })  # fmt: skip
    table.loc[3::7, "height"] = np.nan
    table.loc[1::4, "ill"] = np.nan
    table.loc[::2, "site"] = None
    return table


FAMILIES = {
    "of text": VAE(latent_dim=2, hidden=(4,), label="site"), "of 0 and 1": VAE(latent_dim=2, hidden=(), label="ill"),
    "flow": VAE(latent_dim=2, hidden=(4,), label="site", prior="flow", prior_layers=2),
    "given": VAE(latent_dim=1, hidden=(4,), label="site", condition_on=("visits",)),
}  # fmt: skip


def sliceable(data: pg.Data, backend: str) -> Any:
    return data.view("numpy" if backend == "numpyro" else backend)


class TestParity:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_weights_of_one_backend_are_the_same_function_in_the_other(self, name: str, x64: None) -> None:
        family, found = FAMILIES[name], []
        data = family.prepare(mixed())
        weights = weights_at_random(family, data, 2)
        for backend in BACKENDS:
            fit = as_fit(family, data, weights, backend)
            ((_, log_weights),) = importance.log_weights(fit.pair, weights, sliceable(data, backend), 16)
            shares = labelled.probabilities(fit, data, weights, 0)
            found.append((log_weights, shares, *latents.codes(fit, data, weights)))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9, rtol=1e-9)
        seen = data.target_mask[:, data.schema.targets.index(family.label)]
        np.testing.assert_array_equal(found[0][1][:, seen].max(-1), 1.0)

    @pytest.mark.parametrize(("particles", "weight"), [(1, None), (3, 0.7)])
    def test_the_objective_is_that_of_the_paper(self, particles: int, weight: float | None, x64: None) -> None:
        """Where the decoder takes no notice of z, nothing is left to chance."""
        family = SMALL.replace(classification_weight=weight, beta=0.8)
        table, _ = clusters(60, num_known=20)
        data = family.prepare(table)
        weights = weights_at_random(family, data)
        weights["decoder_weight_0"][:, 0] = 0.0
        x, seen = data.x[:, [0, 2]], data.mask[:, 1]
        unit = np.exp(weights["real_log_scale"][0])
        read = np.clip((x - weights["real_shift"][0]) / unit, -10, 10)
        log_q = log_softmax(perceptron(weights, "classifier", read), axis=1)
        log_p = log_softmax(weights["label_logits"][0])
        likelihood = np.stack([log_conditional(weights, x, np.zeros(1), y)[0] for y in (0, 1)], 1)
        kl = np.empty((60, 2))
        for y in (0, 1):
            shifted = {**weights, "encoder_bias_0": weights["encoder_bias_0"] + weights["encoder_label_weight"][:, y]}
            loc, raw = perceptron(shifted, "encoder", read).T
            sd = 1e-4 + np.log1p(np.exp(raw + UNIT))
            kl[:, y] = 0.5 * (sd**2 + loc**2 - 1) - np.log(sd)
        bound = likelihood - 0.8 * kl
        unlabelled = (np.exp(log_q) * (bound + 0.8 * (log_p - log_q))).sum(1)
        y = np.where(seen, data.x[:, 1], 0).astype(int)
        of_label, alpha = (np.arange(60), y), 2 * 60 / 20 if weight is None else weight
        whole = np.where(seen, bound[of_label] + log_p[y] + alpha * log_q[of_label], unlabelled)
        for backend in BACKENDS:
            found, gradient = loss_and_gradient(family, data, weights, backend, pg.SVI(num_particles=particles))
            assert found == pytest.approx(-whole.mean(), abs=1e-9)
            assert all(np.isfinite(value).all() for value in gradient.values())
            assert gradient["label_share"] == 0
            assert np.abs(gradient["classifier_weight_0"]).max() > 1e-6


@each_backend
def test_the_pair_has_an_enumerating_elbo_of_its_ppl(backend: str) -> None:
    data = SMALL.prepare(clusters(60)[0])
    pair, view = SMALL.build(backend, data.schema, len(data)), data.view(backend)
    if backend == "numpyro":
        import jax
        import numpyro

        svi = numpyro.infer.SVI(pair.model, pair.guide, numpyro.optim.Adam(0.01), numpyro.infer.TraceEnum_ELBO())
        losses = svi.evaluate(svi.init(jax.random.key(0), view), view)
    else:
        import pyro

        from ppl_gen.backends.pyro_programs import sandbox

        with sandbox(0):
            elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
            svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
            losses = [svi.step(view) for _ in range(5)]
    assert np.isfinite(losses).all()
    assert np.max(losses) < 1e4  # no label that a row can't have is proposed for it


def loss_and_gradient(
    family: VAE, data: pg.Data, weights: dict[str, np.ndarray], backend: str, settings: pg.SVI
) -> tuple[float, dict[str, np.ndarray]]:
    pair, view = family.build(backend, data.schema, len(data)), data.view(backend)
    if backend == "numpyro":
        import jax

        from ppl_gen.inference.svi import numpyro_objective

        one = {name: jax.numpy.asarray(value[0]) for name, value in weights.items()}
        loss = lambda one: numpyro_objective.loss(pair, settings, one, jax.random.key(0), view)[0]  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(loss))(one)
    else:
        import torch

        from ppl_gen.backends.pyro_programs import sandbox
        from ppl_gen.inference.svi import pyro_objective

        with sandbox(0):
            one = {name: torch.as_tensor(value[0]) for name, value in weights.items()}
            both = torch.func.grad_and_value(lambda one: pyro_objective.loss(pair, settings, one, view)[0])
            gradient, value = both(one)
    return float(value), {name: np.asarray(each) for name, each in gradient.items()}


def legend_texts(figure: Any) -> list[Any]:
    return [text for ax in figure.axes if ax.get_legend() is not None for text in ax.get_legend().get_texts()]


@cache
def fitted(backend: str) -> Fit:
    engine = pg.SVI(num_members=2, max_steps=600, learning_rate=0.01, validation=0.0)
    return pg.fit(
        SMALL.replace(hidden=(8,), classification_weight=20.0), clusters()[0], engine=engine, backend=backend, seed=0
    )


class TestFits:
    @each_backend
    def test_few_labels_are_enough_for_clusters(self, backend: str) -> None:
        fit, which = fitted(backend), clusters()[1]
        assert (fit.latents()["who"] == which).mean() > 0.95
        drawn = fit.sample(400, seed=1)
        assert drawn.columns.tolist() == ["a", "who", "b"]
        # A row drawn with a label lies on its side: the share of 400 rows has a standard error of 0.015 at 0.9.
        assert ((drawn["a"] > 0) == (drawn["who"] == "v")).mean() > 0.9

    def test_new_rows_imputations_and_decoded_rows(self) -> None:
        fit, (table, which), (new, others) = fitted("pyro"), clusters(), clusters(seed=1)
        assert (fit.latents(new.assign(who=None))["who"] == others).mean() > 0.95
        imputed = fit.impute(table, num_draws=2)
        assert (imputed["who"].to_numpy() == np.tile(which, 2)).mean() > 0.95
        known = table["who"].notna().to_numpy()
        assert (imputed["who"].to_numpy()[:200][known] == which[known]).all()
        assert (fit.reconstruct(new.assign(who=None))["who"] == others).mean() > 0.95
        path = fit.interpolate(table[which == "u"].head(1), table[which == "v"].head(1), 5)
        assert path["who"].tolist()[::4] == ["u", "v"]
        assert path["a"].is_monotonic_increasing

    def test_checks_and_pictures(self) -> None:
        fit = fitted("pyro")
        assert {"active units", "latent KL", "ELBO gap"} <= {check.name for check in fit.diagnose().checks}
        assert {"u", "v"} <= {text.get_text() for text in legend_texts(plots.plot_codes(fit))}
        assert "who = " in plots.plot_traversals(fit).get_suptitle()
        plots.plot_reconstructions(fit)
        assert any("who = v" in text.get_text() for text in legend_texts(plots.plot_latents(fit)))
        assert [ax.get_title(loc="left") for ax in plots.plot_loss_parts(fit).axes] == [
            "minus E log p(x | z, y), and p(y) if known",
            "KL(q(z, y | x) || p(z, y))",
        ]

    def test_saved_loaded_and_by_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit, (table, _) = fitted("pyro"), clusters()
        back = pg.load(fit.save(tmp_path / "run"))
        pd.testing.assert_frame_equal(back.latents(table.head(5)), fit.latents(table.head(5)))
        table.to_csv(tmp_path / "table.csv", index=False)
        command = ["fit", str(tmp_path / "table.csv"), "vae", "--set", "label=who", "--set", "hidden=4",
                   "--engine", "svi", "--backend", "pyro", "--engine-set", "max_steps=60",
                   "--engine-set", "num_members=1", "-o", str(tmp_path / "other")]  # fmt: skip
        assert main([*command, "--json"]) == 0
        capsys.readouterr()
        assert main(["latents", str(tmp_path / "other"), str(tmp_path / "table.csv"), "--json"]) == 0
        assert "who=u" in json.dumps(json.loads(capsys.readouterr().out))


class TestRefusals:
    @pytest.mark.parametrize(("options", "words"), [
        ({"condition_on": ("who",)}, "leave it out of one"), ({"network": "conv"}, "network='mlp'"),
        ({"prior": "vamp"}, "prior='normal' or 'flow'"), ({"label": ""}, "the name of a column"),
        ({"label": None, "classification_weight": 1.0}, "set label="), ({"classification_weight": -1}, "at least 0"),
    ])  # fmt: skip
    def test_options(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(pg.SettingError, match=words):
            SMALL.replace(**options)

    @pytest.mark.parametrize(("column", "words"), [
        ([None] * 60, "no row has"), (["u", "v"] * 30, "condition_on='who'"), ([0.5, np.nan, 2] * 20, "kinds={'who'"),
        ([3, 4] * 30, "kinds={'who': 'categorical'}"),
    ])  # fmt: skip
    def test_columns(self, column: list[Any], words: str) -> None:
        with pytest.raises(pg.DataError, match=words):
            SMALL.prepare(clusters(60)[0].assign(who=column))
        with pytest.raises(pg.DataError, match="no column 'whom'"):
            SMALL.replace(label="whom").prepare(clusters(60)[0])

    def test_images_numbers_and_iwae(self) -> None:
        with pytest.raises(pg.DataError, match="a table of pixels"):
            SMALL.prepare(np.random.default_rng(0).random((60, 4, 4)))
        table = clusters(60)[0]
        numbers = table.assign(who=table["who"].map({"u": 3.0, "v": 7.0}))
        data = SMALL.prepare(numbers, kinds={"who": "categorical"})
        assert data.schema.columns[1].kind == "categorical"
        assert SMALL.prepare(numbers.assign(who=numbers["who"] / 4 - 0.75)).schema.columns[1].kind == "binary"
        with pytest.raises(pg.DataError, match="kinds="):
            SMALL.prepare(pg.Data.from_table(numbers))
        with pytest.raises(pg.SettingError, match="objective='elbo'"):
            pg.fit(SMALL, table, engine=pg.SVI(objective="iwae"))


@pytest.mark.parametrize("label", [None, "who"])
def test_pictures_of_tables_and_rows_without_the_label(label: str | None, tmp_path: Path) -> None:
    """Every picture that applies is drawn with and without a label; new rows need no column for it."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(80, 2)), columns=["a", "b"])
    table["c"] = table["a"] > 0
    if label is not None:
        table[label] = np.where(np.arange(80) < 20, np.array(["x", "y"])[np.arange(80) % 2], None)
    fit = pg.fit(pg.VAE(2, hidden=(4,), label=label), table, engine=pg.SVI(max_steps=20, num_members=1), seed=0)
    shown = plots.plot_codes(fit, colour_by="c")
    assert {"False", "True"} <= {text.get_text() for text in legend_texts(shown)}
    pairs = plots.plot_pairs(fit).axes
    assert any([tick.get_text() for tick in ax.get_xticklabels()] == ["False", "True"] for ax in pairs)
    loss = plots.plot_loss(fit).axes  # a single window or two: no line would be in the last half
    windows = len(fit.draws.parameters["train_loss"])
    assert len(loss) == (1 if windows <= 2 else 2)
    assert "1 member" in fit.diagnose().title
    assert "1 members" not in str(fit.diagnose())
    names = {path.stem for path in pg.plots.plot_all(fit, tmp_path)}
    assert {"pairs", "codes"} <= names
    assert ("latents" in names) == (label is not None)
    if label is not None:
        without, empty = table[["a", "b", "c"]], table.assign(who=None)
        np.testing.assert_array_equal(fit.score(without).log_predictive, fit.score(empty).log_predictive)
        assert fit.score(without).unreliable.shape == (80,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_table_may_lack_other_entries(backend: str) -> None:
    """Programs are shared by tables of one schema, whichever entries they lack, if any."""
    rng = np.random.default_rng(0)
    one = pd.DataFrame(rng.normal(size=(90, 3)), columns=["a", "b", "c"])
    two, whole = one.copy(), one
    one = one.copy()
    one.loc[::5, "a"] = np.nan
    two.loc[::5, "a"] = np.nan
    two.loc[1::7, "b"] = np.nan
    for table in (whole, one, two, whole):
        fit = pg.fit(
            pg.VAE(1, hidden=(4,)), table, engine=pg.SVI(max_steps=10, num_members=1), seed=0, backend=backend,
            standardize=False,
        )  # fmt: skip
        assert np.isfinite(fit.score().log_predictive).all()


def test_too_few_rows_for_a_refit_have_no_held_out_density() -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    engine = pg.SVI(max_steps=10, num_members=1, validation=0)
    fit = pg.fit(pg.VAE(1, hidden=(4,)), table, engine=engine, seed=0)
    assert np.isfinite(fit.score().log_predictive).all()
    assert np.isnan(fit.held_out).all()


@pytest.mark.parametrize(("values", "message"), [(None, "no row has one"), ("a", "all 5 labels are 'a'")])
def test_labels_that_say_nothing_are_refused(values: str | None, message: str) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    table["who"] = np.where(np.arange(60) < 5, values, None)
    with pytest.raises(pg.DataError, match=message):
        pg.fit(pg.VAE(1, label="who"), table)


def test_images_of_unequal_size_are_refused() -> None:
    pictures = [np.zeros((8, 8), np.uint8)] * 60
    pictures[5] = np.zeros((7, 8), np.uint8)
    ragged = np.empty(60, object)
    ragged[:] = pictures
    for given in (pictures, ragged):
        with pytest.raises(pg.DataError, match="Image 5 is 7 x 8, image 0 is 8 x 8"):
            pg.fit(pg.VAE(2, network="conv"), given)


def test_pixels_that_are_no_truth_values_are_named() -> None:
    pictures = np.zeros((60, 4, 4), np.uint8)
    pictures[3, 1, 2] = 47
    with pytest.raises(pg.DataError, match=r"Image 3, pixel \(1, 2\) is 47"):
        pg.fit(pg.VAE(2, likelihood="bernoulli"), pictures)
