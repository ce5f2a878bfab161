"""Samplers of diffusion models: on denoisers known in closed form they draw the rows that they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusion_toys
import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen.errors import SettingError
from ppl_gen.guidance import Guidance
from ppl_gen.pair import Pair
from ppl_gen.samplers import Sampler

BACKENDS = ("numpyro", "pyro")
SHARES, MEANS = np.array([0.3, 0.7]), np.array([[-1.2, 0.5], [0.6, -0.4]])
SDS = np.array([[0.25, 0.3], [0.5, 0.15]])
MEMBERS = {"none": np.zeros((2, 1))}  # parameters that nothing reads
NUMBER = 2000


def pair_of(backend: str, *args: Any, **options: Any) -> Pair:
    noising = diffusion_toys.of_mixture(backend, *(args or (SHARES, MEANS, SDS)), **options)
    return Pair(None, backend, None, noising=noising)  # type: ignore[arg-type]


def reverse(backend: str) -> Any:
    from ppl_gen.registry import import_backend

    return import_backend("ppl_gen.backends", f"{backend}_reverse", backend)


def draw(pair: Pair, sampler: Sampler, context: np.ndarray | None = None, guidance: Guidance | None = None) -> Any:
    index = np.arange(NUMBER) % 2
    return reverse(pair.backend).draw(pair, MEMBERS, index, 5, context, sampler, guidance)


def moments() -> tuple[np.ndarray, np.ndarray]:
    mean = SHARES @ MEANS
    return mean, (SHARES[:, None] * (MEANS - mean)).T @ (MEANS - mean) + np.diag(SHARES @ SDS**2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("sampler", "bias"),
    [(Sampler(), 0.01), (Sampler("ddim"), 0.08), (Sampler("ddim", num_steps=100, eta=0.5), 0.06),
     (Sampler("ancestral"), 0.04), (Sampler("predictor_corrector"), 0.06)],
    ids=str,
)  # fmt: skip
def test_samplers_draw_the_mixture(backend: str, sampler: Sampler, bias: float) -> None:
    """Mean and covariance within 4 standard errors, and a share of the variance for the steps, which are few."""
    x = draw(pair_of(backend), sampler)
    mean, covariance = moments()
    variance = np.diag(covariance)
    assert x.shape == (NUMBER, 2)
    assert (np.abs(x.mean(0) - mean) < 4 * np.sqrt(variance / NUMBER) + bias / 2 * np.sqrt(variance)).all()
    scale = np.sqrt(np.outer(variance, variance))
    assert (np.abs(np.cov(x.T) - covariance) < 4 * scale * np.sqrt(2 / NUMBER) + bias * scale).all()
    share = (((x[:, None] - MEANS) / SDS) ** 2).sum(-1).argmin(1)
    assert abs((share == 0).mean() - SHARES[0]) < 4 * np.sqrt(0.21 / NUMBER) + bias / 4


@pytest.mark.parametrize("sampler", [Sampler(num_steps=13), Sampler("ddim", num_steps=7)], ids=str)
def test_deterministic_samplers_agree_between_backends(x64: None, sampler: Sampler) -> None:
    z = np.random.default_rng(0).standard_normal((20, 2))
    chains = [reverse(backend).follow(pair_of(backend), {"none": np.zeros(1)}, z, 0, None, sampler)
              for backend in BACKENDS]  # fmt: skip
    for one, other in zip(*chains, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9, rtol=0)
    np.testing.assert_array_equal(chains[0].z[0], z)
    np.testing.assert_array_equal(chains[0].rows, chains[0].z[-1])
    assert len(chains[0].log_snr) == sampler.num_steps + 1 == len(chains[0].estimate) + 1


def test_stochastic_steps_agree_between_backends(x64: None) -> None:
    """The steps themselves, given their noise; eta = 1 is a draw of q(z_s | z_t, e)."""
    rng = np.random.default_rng(1)
    z, e, noise = rng.standard_normal((3, 5, 2))
    at, to = -1.0, 0.5
    alpha, sigma = (1 + np.exp(-at)) ** -0.5, (1 + np.exp(at)) ** -0.5
    alpha_to, sigma_to = (1 + np.exp(-to)) ** -0.5, (1 + np.exp(to)) ** -0.5
    kept = alpha / alpha_to  # z_t = kept z_s + noise of this variance
    variance = sigma**2 - kept**2 * sigma_to**2
    mean = kept * sigma_to**2 / sigma**2 * z + alpha_to * variance / sigma**2 * e  # Kingma et al. 2021, eq. 25 to 27
    expected = mean + np.sqrt(variance) * sigma_to / sigma * noise
    score = -(z - alpha * e) / sigma**2
    moved = z + 2 * (0.2 * sigma) ** 2 * score + 2 * 0.2 * sigma * noise
    for backend in BACKENDS:
        asarray, ops = diffusion_toys._functions(backend).asarray, reverse(backend)
        arrays = [asarray(part) for part in (z, e, at, to)]
        np.testing.assert_allclose(ops.step(*arrays, 1.0, asarray(noise)), expected, atol=1e-9)
        np.testing.assert_allclose(ops.correct(*arrays[:3], 0.2, asarray(noise)), moved, atol=1e-9)


def test_levels_of_discrete_time_are_those_of_the_model() -> None:
    pair = pair_of("numpyro", num_steps=10)
    found = reverse("numpyro").levels(pair.noising, {}, "ode", 3)
    np.testing.assert_allclose(found, 10 - 20 * np.array([1.0, 0.7, 0.3, 0.0]), atol=1e-5)
    assert Sampler("ddim").steps_of(pair.noising) == 10
    with pytest.raises(SettingError, match="11 steps are more than the 10 noise levels"):
        Sampler(num_steps=11).steps_of(pair.noising)


@pytest.mark.parametrize("backend", BACKENDS)
def test_guidance_without_a_classifier(backend: str) -> None:
    """Weight 0 draws p(x | y), weight -1 p(x), and a positive one rows further from those that y is not."""
    pair, mean = pair_of(backend, context=True), moments()[0]
    context = np.tile([1 - 1e-12, 1e-12], (NUMBER, 1))  # the first component
    found = {
        weight: draw(pair, Sampler(num_steps=30), context, Guidance("free", weight)) for weight in (0.0, -1.0, 1.0)
    }
    assert (np.abs(found[0.0].mean(0) - MEANS[0]) < 4 * SDS[0] / np.sqrt(NUMBER) + 0.01).all()
    assert (np.abs(found[0.0].std(0) / SDS[0] - 1) < 4 / np.sqrt(2 * NUMBER) + 0.02).all()
    assert (np.abs(found[-1.0].mean(0) - mean) < 4 * np.sqrt(np.diag(moments()[1]) / NUMBER) + 0.02).all()
    assert ((found[1.0].mean(0) - found[0.0].mean(0)) * (MEANS[0] - MEANS[1]) > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_classifier_of_noisy_rows_guides_to_its_label(backend: str) -> None:
    """It learns p(component | z), known in closed form; rows guided at weight 1 are those of the component."""
    from ppl_gen import noisy_classifier as noisy
    from ppl_gen.networks import initial_weights, perceptron_layout

    rng, pair = np.random.default_rng(3), pair_of(backend)
    labels = (rng.random(2000) < SHARES[1]).astype(int)
    e = MEANS[labels] + SDS[labels] * rng.standard_normal((2000, 2))
    layout = perceptron_layout((2 + 1 + 2 * len(noisy.FREQUENCIES), 32, 2))
    start = {name: value[0] for name, value in initial_weights(layout, 0, 1).items()}
    course = noisy.Course(held_out=400, repeats=4, max_steps=800, learning_rate=1e-2)
    module = noisy._module(backend)
    weights, loss = module.train(pair, {"none": np.zeros(1)}, start, course, e, labels, 0)
    level = np.full(500, 1.0)
    alpha, variance = (1 + np.exp(-1.0)) ** -0.5, 1 / (1 + np.exp(1.0))
    z = alpha * e[:500] + np.sqrt(variance) * rng.standard_normal((500, 2))
    total = alpha**2 * SDS**2 + variance
    logits = np.log(SHARES) - 0.5 * ((z[:, None] - alpha * MEANS) ** 2 / total + np.log(total)).sum(-1)
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(module.predict(weights, z, level) - truth).mean() < 0.05
    assert 0 < loss < 0.5
    x = draw(pair, Sampler(num_steps=30), guidance=Guidance("classifier", 1.0, weights, 0))
    nearer = (((x[:, None] - MEANS) / SDS) ** 2).sum(-1).argmin(1)
    assert (nearer == 0).mean() > 0.9  # without it 0.3
    assert np.abs(x.mean(0) - MEANS[0]).max() < 0.3


def test_classifiers_agree_between_backends(x64: None) -> None:
    from ppl_gen import noisy_classifier as noisy
    from ppl_gen.networks import initial_weights, perceptron_layout

    layout = perceptron_layout((3 + 1 + 2 * len(noisy.FREQUENCIES), 8, 8, 2), last=1.0)
    weights = {name: value[0] for name, value in initial_weights(layout, 0, 1).items()}
    z, level = np.random.default_rng(0).standard_normal((6, 3)), np.linspace(-8, 8, 6)
    found, slopes = [], []
    for backend in BACKENDS:
        asarray, module = diffusion_toys._functions(backend).asarray, noisy._module(backend)
        arrays = {name: asarray(value) for name, value in weights.items()}
        found.append(module.predict(weights, z, level))
        slopes.append(np.asarray(module.log_prob_gradient(arrays, asarray(z), asarray(level), 1)))
    np.testing.assert_allclose(*found, atol=1e-9)
    np.testing.assert_allclose(*slopes, atol=1e-9)
    higher = noisy._module("numpyro").predict(weights, z + 1e-5 * slopes[0], level)
    assert (higher[:, 1] >= found[0][:, 1]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_numbers_are_drawn_given_the_others(backend: str) -> None:
    """A mixture whose second column is known: p(component | x_2), mean and variance of x_1 are known in closed form.
    Of 64 weighted particles a mean has a standard error of about 1/8 of the standard deviation."""
    from ppl_gen.inpainting import Moves
    from ppl_gen.registry import import_backend

    rng, number = np.random.default_rng(0), 256
    which = (rng.random(number) < SHARES[1]).astype(int)
    e = MEANS[which] + SDS[which] * rng.standard_normal((number, 2))
    logits = np.log(SHARES) - 0.5 * ((e[:, 1:] - MEANS[:, 1]) / SDS[:, 1]) ** 2 - np.log(SDS[:, 1])
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = share @ MEANS[:, 0]
    variance = share @ (MEANS[:, 0] ** 2 + SDS[:, 0] ** 2) - mean**2
    known = np.tile([False, True], (number, 1))
    module = import_backend("ppl_gen.backends", f"{backend}_inpainting", backend)
    e[:, 0] = 99.0  # what is not known is not looked at
    z, log_weights = (
        part[0]
        for part in module.inpaint(
            pair_of(backend), [{"none": np.zeros(1)}], e[None], known[None], None, Moves(64), [1]
        )
    )
    w = np.exp(log_weights - log_weights.max(0))
    w /= w.sum(0)
    x = z[..., 0]
    found = (w * x).sum(0)
    assert np.abs(z[..., 1] - e[:, 1]).max() < 0.05  # noise of the highest level, standard deviation 0.007
    assert np.sqrt(((found - mean) ** 2 / variance).mean()) < 0.25
    assert abs(((found - mean) / np.sqrt(variance)).mean()) < 4 / 8 / np.sqrt(number) + 0.02
    assert abs((((w * x**2).sum(0) - found**2) / variance).mean() - 1) < 0.15
    component = (w * (x < -0.4)).sum(0)
    assert np.sqrt(((component - share[:, 0]) ** 2).mean()) < 0.08


def untrained(family: pg.Diffusion, table: Any, **options: Any) -> pg.Fit:
    """A fit as it is before training, which takes no time: two members that begin near the standard normal."""
    data = family.prepare(table, **options)
    pair = family.build("numpyro", data.schema, len(data))
    start = pair.initialize(data.view("numpy"), 0, 2)  # type: ignore[misc]
    draws = pg.Draws({name: value[:, None] for name, value in start.items()}, "ensemble")
    return pg.Fit(family, pg.SVI(), "numpyro", 0, data.schema, draws, data, {}, 0.0)


@pytest.fixture(scope="module")
def mixed() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    which = rng.integers(2, size=120)
    return pd.DataFrame({
        "size": 3.0 * which + rng.standard_normal(120), "colour": np.array(["red", "blue"])[which],
        "number": rng.poisson(2 + 5 * which), "kind": np.array(["a", "b"])[which],
    })  # fmt: skip


@pytest.fixture(scope="module")
def plain(mixed: pd.DataFrame) -> pg.Fit:
    return untrained(pg.Diffusion(hidden=(16,), num_steps=20), mixed, drop="kind")


@pytest.fixture(scope="module")
def conditional(mixed: pd.DataFrame) -> pg.Fit:
    return untrained(pg.Diffusion(hidden=(16,), condition_on="kind"), mixed, drop="number")


def test_samples_have_the_columns_of_the_table(plain: pg.Fit, mixed: pd.DataFrame) -> None:
    found = plain.sample(30, sampler="ddim", num_steps=4, seed=1)
    assert list(found) == ["size", "colour", "number"]
    assert (found.dtypes == mixed.dtypes[list(found)]).all()
    assert set(found["colour"]) <= {"red", "blue"}
    assert (found["number"] >= 0).all()
    pd.testing.assert_frame_equal(found, plain.sample(30, sampler="ddim", num_steps=4, seed=1))
    other = plain.sample(30, sampler=pg.Sampler("ddim", num_steps=4), seed=1)
    pd.testing.assert_frame_equal(found, other)


def test_ways_from_noise_to_rows(plain: pg.Fit, conditional: pg.Fit) -> None:
    from ppl_gen.reverse import follow

    way = follow(plain, 5, num_steps=6)
    assert way.rows.shape == (5, 3)
    assert way.noisy.shape == (7, 5, 3)
    assert way.estimates.shape == (6, 5, 3)
    assert (np.diff(way.log_snr) > 0).all()
    np.testing.assert_allclose(way.noisy[-1, :, 0], way.rows[:, 0], atol=1e-4)
    assert follow(conditional, 2, given=pd.DataFrame({"kind": ["a", "b"]}), num_steps=3).rows.shape == (4, 2)


@pytest.mark.parametrize("kind", [None, "free", "classifier"])
def test_chains_of_the_family_agree_between_backends(x64: None, mixed: pd.DataFrame, kind: str | None) -> None:
    """With the same weights and noise, of tables with all kinds of columns, with guidance and without."""
    from ppl_gen import noisy_classifier as noisy
    from ppl_gen.networks import initial_weights, perceptron_layout

    options = {} if kind == "classifier" else {"condition_on": "kind"}
    family = pg.Diffusion(hidden=(8,), **options)
    fit = untrained(family, mixed)
    rng = np.random.default_rng(0)
    weights = {name: value[0] + 0.3 * rng.standard_normal(value.shape[1:]) for name, value in fit.posterior.items()}
    size = fit.pair.noising.size
    z, context = rng.standard_normal((5, size)), None if kind == "classifier" else np.eye(2)[[0, 1, 0, 1, 0]]
    layout = perceptron_layout((size + 1 + 2 * len(noisy.FREQUENCIES), 4, 2), last=1.0)
    network = {name: value[0] for name, value in initial_weights(layout, 0, 1).items()}
    guidance = None if kind is None else Guidance(kind, 1.5, network if kind == "classifier" else None, 1)
    sampler = Sampler("ode" if kind == "free" else "ddim", num_steps=4)
    found = [
        reverse(backend).follow(family.build(backend, fit.schema, 120), weights, z, 0, context, sampler, guidance).z
        for backend in BACKENDS
    ]
    np.testing.assert_allclose(*found, atol=1e-9)


def test_weight_0_is_conditional_sampling(conditional: pg.Fit) -> None:
    given = pd.DataFrame({"kind": ["a", "b"]})
    drawn = {w: conditional.sample(20, given=given, guidance=w, num_steps=5) for w in (None, 0, 2.0)}
    pd.testing.assert_frame_equal(drawn[None], drawn[0])
    assert not drawn[0].equals(drawn[2.0])
    assert list(drawn[2.0]["kind"]) == ["a"] * 20 + ["b"] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [({"guidance": 1.0}, "conditioned on nothing"), ({"label": "a"}, "pass the classifier too"),
     ({"sampler": "odd"}, "did you mean 'ode'"), ({"num_steps": 21}, "more than the 20 noise levels"),
     ({"num_steps": 0}, "num_steps"), ({"sampler": 3}, "sampler must be one of"),
     ({"guidance": "much"}, "guidance must be a number"), ({"classifier": 1, "label": "a"}, "train_classifier")],
)  # fmt: skip
def test_what_a_fit_can_not_be_guided_by_is_refused(plain: pg.Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        plain.sample(3, **options)


def test_other_refusals(plain: pg.Fit, conditional: pg.Fit, mixed: pd.DataFrame) -> None:
    with pytest.raises(SettingError, match="eta is of the sampler 'ddim' alone"):
        pg.Sampler(eta=0.5)
    with pytest.raises(SettingError, match="needs no classifier"):
        conditional.train_classifier(mixed, "kind")
    with pytest.raises(pg.DataError, match="1 label"):
        plain.train_classifier(mixed[mixed["kind"] == "a"], "kind")
    with pytest.raises(pg.DataError, match="3 labels for 120 rows"):
        plain.train_classifier(mixed, ["a", "b", "a"])
    with pytest.raises(SettingError, match="missing= is for images"):
        plain.impute(mixed, missing=np.ones(3, bool))
    mixture = pg.fit(pg.GMM(1), mixed[["size"]], engine="em")
    with pytest.raises(pg.UnsupportedError, match="sampler= is for diffusion models"):
        mixture.sample(3, sampler="ode")
    undropped = pg.Diffusion(hidden=(4,), condition_on="kind", condition_dropout=0.0)
    with pytest.raises(SettingError, match="condition_dropout"):
        untrained(undropped, mixed, drop="number").sample(3, guidance=1.0)


def test_a_classifier_is_kept_on_disk(plain: pg.Fit, conditional: pg.Fit, mixed: pd.DataFrame, tmp_path: Path) -> None:
    found = plain.train_classifier(mixed, "kind", hidden=8, max_steps=200)
    sure = found.predict_proba(mixed)
    assert list(sure) == ["a", "b"]
    np.testing.assert_allclose(sure.sum(axis=1), 1, atol=1e-5)
    assert (sure.idxmax(axis=1) == mixed["kind"]).mean() > 0.9
    noisy = found.predict_proba(mixed, log_snr=-8.0)
    assert noisy["a"].std() < sure["a"].std() / 2  # of noise it can say nothing
    again = pg.NoisyClassifier.load(found.save(tmp_path / "kind.safetensors"), plain)
    pd.testing.assert_frame_equal(again.predict_proba(mixed), sure)
    rows = plain.sample(200, classifier=again, label="b", guidance=2.0, num_steps=10)
    assert rows["size"].mean() > plain.sample(200, num_steps=10)["size"].mean()
    with pytest.raises(SettingError, match="other columns"):
        pg.NoisyClassifier.load(tmp_path / "kind.safetensors", conditional)
    with pytest.raises(SettingError, match="knows no label 'c'"):
        plain.sample(2, classifier=found, label="c")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(pg.StorageError, match="damaged"):
        pg.NoisyClassifier.load(tmp_path / "bad.safetensors", plain)


def test_impute_leaves_what_was_observed(plain: pg.Fit, conditional: pg.Fit, mixed: pd.DataFrame) -> None:
    table = mixed.head(12).copy()
    table.loc[0:3, "size"], table.loc[2:5, "colour"] = np.nan, None
    table["number"] = table["number"].astype("Int64")
    table.loc[6, "number"] = pd.NA
    found = plain.impute(table.drop(columns="kind"), num_draws=3)
    assert len(found) == 36
    assert not found.isna().to_numpy().any()
    for _, whole in found.groupby("draw"):
        kept = table[["size", "colour", "number"]].notna()
        same = whole[kept.columns].reset_index(drop=True) == table[kept.columns].reset_index(drop=True)
        assert same.to_numpy()[kept.to_numpy()].all()
    assert found.loc[6, "number"].nunique() > 1 or len(set(found.loc[0, "size"])) == 3
    whole = conditional.impute(table.drop(columns="number"), num_draws=2)
    assert (whole["kind"] == [*table["kind"]] * 2).all()


def test_numbers_are_placed_by_their_columns(plain: pg.Fit) -> None:
    from ppl_gen.inpainting import places

    parameters = {name: value[0] for name, value in plain.posterior.items()}
    found = places(plain, parameters)  # of a category a number for each label
    assert sorted(found) == [0, 1, 1, 2]
    assert list(found == 0) == list(plain.pair.noising.is_real)


def test_pixels_of_images_are_drawn_given_the_others() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, size=(60, 1, 1)) * 200 + rng.integers(0, 20, size=(60, 2, 3))
    images = images.astype(np.uint8)
    fit = untrained(pg.Diffusion(hidden=(16,)), images)
    missing = np.zeros((2, 3), bool)
    missing[:, 0] = True
    found = fit.impute(images[:4], num_draws=2, missing=missing)
    assert found.shape == (2, 4, 2, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., 1:], np.stack([images[:4, :, 1:]] * 2))
    with pytest.raises(SettingError, match="which pixels"):
        fit.impute(images[:4])
    with pytest.raises(pg.DataError, match="shape"):
        fit.impute(images[:4], missing=np.ones((5, 5), bool))


def test_command_line(
    plain: pg.Fit, conditional: pg.Fit, mixed: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from ppl_gen.cli import main

    monkeypatch.setattr("ppl_gen.cli.options.load_fit", lambda run, backend=None: {"c": conditional}.get(run, plain))

    def run(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        text = " ".join((told.out + told.err).split())
        assert (status == 0) == ("ppl-gen: " not in text), text
        return text

    folder, other, file = "p", "c", tmp_path / "x.csv"
    mixed.to_csv(tmp_path / "rows.csv", index=False)
    run("sample", folder, "-n", 7, "--sampler", "ddim", "--steps", 3, "--sampler-set", "eta=0.5", "-o", file)
    assert len(pd.read_csv(file)) == 7
    run("train-classifier", folder, tmp_path / "rows.csv", "kind", "-o", tmp_path / "c.safetensors", "--max-steps", 100)
    run("sample", folder, "-n", 2, "--steps", 3, "--classifier", tmp_path / "c.safetensors", "--label", "b")
    run("sample", other, "-n", 2, "--guidance", 2, "--steps", 3)
    holes = mixed.head(3).drop(columns=["kind"]).assign(size=[np.nan, 1.0, 2.0])
    holes.to_csv(tmp_path / "holes.csv", index=False)
    run("impute", folder, tmp_path / "holes.csv", "-n", 2, "-o", file, "--overwrite")
    assert pd.read_csv(file)["size"].notna().all()
    assert "--guidance has nothing to guide to" in run("sample", folder, "--guidance", 2)
    assert "ppl-gen train-classifier" in run("sample", folder, "--label", "b")
