"""Engines of implicit densities: the log ratio is right, generators go where they should, and training stops well."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.inference.adversarial import Adversarial
from ppl_gen.inference.adversarial.course import Plan
from ppl_gen.inference.discrepancy import Discrepancy, median_distance
from ppl_gen.models.gan import GAN
from ppl_gen.progress import Monitor
from ppl_gen.view import View

BACKENDS = ("numpyro", "pyro")
LINEAR = GAN(latent_dim=1, generator_hidden=(), discriminator_hidden=(16,), normalization="standard")
QUICK: dict[str, Any] = {"num_members": 1, "max_steps": 1, "batch_size": 200, "ratio_steps": 400, "validation": 0.2}


def arrays(backend: str, x: np.ndarray) -> Any:
    if backend == "numpyro":
        return np.asarray(x, np.float32)
    import torch

    return torch.as_tensor(x, dtype=torch.get_default_dtype())


def normal_density(x: np.ndarray, mean: float, sd: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_log_ratio_of_two_known_normals_is_the_true_one(backend: str) -> None:
    """Rows from a normal of mean 0 and sd 1; the generator is held at mean 0.8 and sd 1.3."""
    x = np.random.default_rng(0).normal(size=(8000, 1))
    pair, data = LINEAR.pair(backend, x, standardize=False), LINEAR.prepare(x, standardize=False)
    start = {name: np.array(value) for name, value in pair.initialize(pair.data, 0, 1).items()}
    shift, scale = start["real_shift"].item(), np.exp(start["real_log_scale"]).item()
    start["generator_weight_0"][:], start["generator_bias_0"][:] = 1.3 / scale, (0.8 - shift) / scale
    pair = dataclasses.replace(pair, initialize=lambda *_: start)
    # Steps of length 1e-20 move nothing in single precision.
    engine = Adversarial(**{**QUICK, "ratio_steps": 2000}, learning_rate=1e-20, ratio_learning_rate=1e-2)
    draws = engine.run(pair, data, seed=0, monitor=Monitor())
    weights = {name: arrays(backend, value[0, 0]) for name, value in draws.posterior.items()}
    grid = np.linspace(-2, 2.5, 46)[:, None]
    found = np.asarray(pair.discriminator(weights, View(arrays(backend, grid)))).astype(float)
    truth = np.log(normal_density(grid, 0, 1) / normal_density(grid, 0.8, 1.3))[:, 0]
    # The log ratio is a parabola; of one fitted to 6,400 rows the standard error is 0.03 at the centre, 0.1 at the
    # ends. Seventeen linear pieces add about as much. Within, it goes from -2.5 to 1.3.
    assert np.abs(found - truth).mean() < 0.1
    assert np.abs(found - truth).max() < 0.35
    # The same log ratio at rows that the generator makes.
    z = np.random.default_rng(1).normal(size=(50, 1))
    noise = View(arrays(backend, z))
    made = pair.generate(weights, noise)
    np.testing.assert_allclose(np.asarray(made)[:, 0], 0.8 + 1.3 * z[:, 0], atol=1e-5)
    again = np.asarray(pair.discriminator(weights, View(made)))
    np.testing.assert_allclose(np.asarray(pair.log_ratio(weights, noise)), again, atol=1e-4)
    # At its minimum the logistic loss is 2 log 2 - 2 JS. That of 1,600 validation rows has a standard error of 0.015.
    fine = np.linspace(-8, 10, 20001)
    p, q = normal_density(fine, 0, 1), normal_density(fine, 0.8, 1.3)
    js = 0.5 * np.trapezoid(p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)), fine)
    assert draws.figures["ratio_loss"] == pytest.approx(2 * np.log(2) - 2 * js, abs=0.045)
    assert draws.figures["jensen_shannon"] == pytest.approx(js, abs=0.0225)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["adversarial", "mmd", "energy"])
def test_a_linear_generator_becomes_the_normal_that_the_rows_are_of(engine: str, backend: str) -> None:
    cov = np.array([[1.0, 0.6], [0.6, 0.8]])
    x = np.random.default_rng(0).multivariate_normal([2, -1], cov, size=2000)
    family = LINEAR.replace(latent_dim=2, discriminator_hidden=(32,))
    options = {**QUICK, "max_steps": 1000, "ratio_steps": 50, "learning_rate": 0.01, "ema": 0.98}
    less = {"max_steps": 400, "batch_size": 100}
    chosen = Adversarial(**options) if engine == "adversarial" else Discrepancy(engine, **{**options, **less})
    fit = pg.fit(family, x, engine=chosen, backend=backend, standardize=False)
    weight, bias = (fit.posterior[f"generator_{name}_0"][0] for name in ("weight", "bias"))
    scale = np.exp(fit.posterior["real_log_scale"][0])
    found = (weight * scale).T @ (weight * scale)
    # Standard errors of 1,600 rows: 0.025 of a mean, 0.035 of a variance; as much again from the last steps' noise, and
    # a distance or a small discriminator sees spread less well than the likelihood does.
    np.testing.assert_allclose(fit.posterior["real_shift"][0] + scale * bias, [2, -1], atol=0.12)
    np.testing.assert_allclose(found, cov, atol=0.2)


def options_of(engine: str) -> Any:
    few = {"num_members": 2, "max_steps": 150, "ratio_steps": 100, "batch_size": 32}
    return Adversarial(**few, num_discriminator_steps=2) if engine == "adversarial" else Discrepancy(**few)


def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(100, 2)) * [3, 1] + 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["adversarial", "discrepancy"])
def test_a_run_that_resumes_gives_the_same_bits_and_ctrl_c_keeps_what_there_is(engine, backend, tmp_path, ctrl_c):
    pack = 2 if engine == "adversarial" else 1
    family = GAN(latent_dim=2, generator_hidden=(8,), discriminator_hidden=(8,), pack=pack)
    settings = options_of(engine)
    whole = pg.fit(family, table(), engine=settings, backend=backend, seed=3)
    again = pg.fit(family, table(), engine=settings, backend=backend, seed=3)
    windows = len(whole.draws.parameters["generator_loss"])
    update = Monitor.update
    for stop in (2, windows + 1):  # in the first phase, and in the second
        calls: list[int] = []

        def interrupting(
            self: Monitor, *args: Any, calls: list[int] = calls, stop: int = stop, **figures: float
        ) -> None:
            calls.append(1)
            if len(calls) == stop:
                ctrl_c()
            update(self, *args, **figures)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Monitor, "update", interrupting)
            job = {"engine": settings, "backend": backend, "seed": 3, "checkpoint": tmp_path / f"state{stop}"}
            if stop == 2:
                with pytest.warns(UserWarning, match="before the log ratio was trained"):
                    part = pg.fit(family, table(), keep_partial=True, **job)
            else:
                part = pg.fit(family, table(), keep_partial=True, **job)
        assert part.draws.interrupted
        assert stop != 2 or (part.score(surrogate="log_ratio").log_predictive == 0).all()  # as the warning says
        assert len(part.draws.parameters["generator_loss"]) == min(stop, windows)
        resumed = pg.fit(family, table(), **job)
        for name, value in whole.draws.posterior.items():
            np.testing.assert_array_equal(resumed.draws.posterior[name], value)
            np.testing.assert_array_equal(again.draws.posterior[name], value)
        for name, value in whole.draws.parameters.items():
            np.testing.assert_array_equal(resumed.draws.parameters[name], value)
    # Members differ, and samples of the course are of both.
    shots = whole.draws.parameters["snapshots"]
    assert shots.shape == (len(whole.draws.parameters["snapshot_steps"]), 2, 100, 2)
    assert (whole.posterior["generator_weight_0"][0] != whole.posterior["generator_weight_0"][1]).all()
    assert np.abs(shots[-1, 0] - shots[-1, 1]).mean() > 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_member_that_diverges_stops_and_keeps_the_weights_of_the_window_before(backend: str) -> None:
    family = GAN(latent_dim=1, generator_hidden=(), discriminator_hidden=(8,), normalization="standard")
    pair, data = family.pair(backend, table()), family.prepare(table())
    settings = Adversarial(num_members=2, max_steps=300, ratio_steps=50, batch_size=32)

    start = {name: np.array(value) for name, value in pair.initialize(pair.data, 0, 2).items()}
    start["generator_bias_0"][:] = 3.0  # from where it goes to 0, by 0.001 a step

    def breaking(limit: float) -> Any:
        def loss(parameters: Any, view: Any, z: Any) -> Any:
            found = pair.adversary.generator_loss(parameters, view, z)
            return found / (parameters["generator_bias_0"] > limit).all()  # infinite from some step on

        adversary = dataclasses.replace(pair.adversary, generator_loss=loss)
        return dataclasses.replace(pair, adversary=adversary, initialize=lambda *_: start, programs={})

    with pytest.raises(pg.FitError, match=r"no longer finite within .* lower learning_rate"):
        settings.run(breaking(4.0), data, seed=0, monitor=Monitor())
    with pytest.warns(UserWarning, match=r"2 of 2 members diverged .* lower learning_rate"):
        draws = settings.run(breaking(2.9), data, seed=0, monitor=Monitor())
    losses = draws.parameters["generator_loss"]
    assert draws.figures["num_diverged"] == 2
    assert draws.figures["num_steps"] < 300
    assert not np.isfinite(losses[-1]).any()
    assert np.isfinite(draws.figures["last_generator_loss"])
    assert all(np.isfinite(value).all() for value in draws.posterior.values())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("engine", ["adversarial", "discrepancy"])
def test_twins_take_the_same_steps_where_their_noise_is_the_same(engine: str) -> None:
    rng = np.random.default_rng(0)
    frame = np.column_stack([rng.normal(size=60), rng.integers(0, 2, 60)])
    family = GAN(latent_dim=2, generator_hidden=(4,), discriminator_hidden=(4,), normalization="standard", pack=1)
    options = {"num_members": 1, "max_steps": 50, "ratio_steps": 50, "batch_size": 60, "validation": 0.0}
    settings = Adversarial(**options) if engine == "adversarial" else Discrepancy(**options)
    found, z = [], rng.normal(size=(60, family.pair("numpyro", frame).latent_size))
    for backend in BACKENDS:
        pair, data = family.pair(backend, frame), family.prepare(frame)
        noise = as_array(backend, z)
        adversary = dataclasses.replace(pair.adversary, noise=lambda number, _, noise=noise: noise[:number])
        fixed = dataclasses.replace(pair, adversary=adversary, programs={})
        found.append(settings.run(fixed, data, seed=0, monitor=Monitor()))
    # All rows are in each batch, in an order that sums hardly see.
    for name, value in found[0].posterior.items():
        np.testing.assert_allclose(found[1].posterior[name], value, rtol=1e-7, atol=1e-9)
    for name in ("generator_loss", "ratio_validation_loss"):
        np.testing.assert_allclose(found[1].parameters[name], found[0].parameters[name], rtol=1e-7)


def as_array(backend: str, x: np.ndarray) -> Any:
    if backend == "numpyro":
        import jax.numpy as jnp

        return jnp.asarray(x)
    import torch

    return torch.as_tensor(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distance", ["mmd", "energy"])
def test_discrepancies_are_those_of_their_formulas_and_have_no_bias(distance: str) -> None:
    from ppl_gen.inference.discrepancy import numpyro_engine, pyro_engine

    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(6, 2)), rng.normal(size=(5, 2)) + 0.5, rng.random(6) + 0.5
    settings, scale = Discrepancy(distance), 1.7

    def value(a: np.ndarray, b: np.ndarray) -> float:
        gap = np.linalg.norm(a - b)
        if distance == "energy":
            return -gap
        return np.mean([np.exp(-(gap**2) / (2 * (width * scale) ** 2)) for width in settings.bandwidths])

    def reference(w: np.ndarray) -> float:
        pairs = [(w[i] * w[j], value(x[i], x[j])) for i in range(6) for j in range(6) if i != j]
        same = sum(a * b for a, b in pairs) / sum(a for a, _ in pairs)
        fakes = np.mean([value(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
        across = sum(w[i] * np.mean([value(x[i], b) for b in y]) for i in range(6)) / w.sum()
        return same + fakes - 2 * across

    for w in (None, weights):
        for engine, backend in ((numpyro_engine, "numpyro"), (pyro_engine, "pyro")):
            view = View(None, weights=None if w is None else as_array(backend, w))
            found = engine.discrepancy(settings, scale, as_array(backend, x), as_array(backend, y), view)
            assert float(found) == pytest.approx(reference(np.ones(6) if w is None else w), abs=1e-7)
    draws = [
        float(numpyro_engine.discrepancy(settings, scale, *rng.normal(size=(2, 20, 2)), View(None))) for _ in range(200)
    ]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 200**0.5  # both samples are of one distribution
    assert median_distance(np.zeros((4, 2))) == 1.0


def test_batches_are_whole_packs_and_settings_are_checked() -> None:
    x = table()
    pair = GAN(pack=3).pair("numpyro", x)
    plan = Plan.of(pair, Adversarial(batch_size=32, num_discriminator_steps=5), len(x), 0)
    assert (plan.size, plan.batches) == (30, 3)
    assert plan.steps * 5 <= plan.passes * plan.batches
    assert plan.steps >= 50
    with pytest.raises(pg.SettingError, match=r"has 2 rows, .* judges 3 at once"):
        Plan.of(pair, Adversarial(batch_size=2), len(x), 0)
    with pytest.raises(pg.SettingError, match="betas must be two numbers"):
        Adversarial(betas=(0.5, 1.0))
    with pytest.raises(pg.SettingError, match="ema must be"):
        Discrepancy(ema=1.0)
    with pytest.raises(pg.SettingError, match="did you mean 'energy'"):
        Discrepancy("enrgy")
    with pytest.raises(pg.SettingError, match="bandwidths is of distance='mmd' alone"):
        Discrepancy("energy", bandwidths=(1.0,))
    with pytest.raises(pg.SettingError, match="pack of gan is of adversarial training alone"):
        pg.fit(GAN(pack=2), x, engine=Discrepancy())
    for engine in ("svi", "nuts", "contrastive"):
        with pytest.raises(pg.UnsupportedError, match="use adversarial or discrepancy"):
            pg.fit(GAN(), x, engine=engine)
    with pytest.raises(pg.UnsupportedError, match="can't fit gmm"):
        pg.fit(pg.GMM(2), x, engine=Adversarial())
