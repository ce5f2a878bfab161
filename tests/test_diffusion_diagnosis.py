"""Denoisers that are exact pass the checks of diffusion models; those that are miscalibrated, worse than linear, or
that know rows by heart are caught; pictures show what they say."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from diffusion_fits import HELD, MEANS, MEMBERS, ROWS, SDS, SHARES, UNITS, fit_of, mixture
from diffusion_toys import of_mixture
from scipy.special import logsumexp
from scipy.stats import norm
from test_plots import check

import ppl_gen as pg
from ppl_gen import checks_diffusion, noise_levels, plots, reverse
from ppl_gen.diagnostics import Check
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.models.diffusion import Diffusion

OF_DENOISERS = {"ELBO", "prior KL", "denoiser calibration", "linear denoiser", "denoising gap"}
OF_SAMPLES = {"MMD p", "classifier two-sample p", "Fréchet distance", "copies of rows"}


@cache
def good() -> pg.Fit:
    return fit_of()


@cache
def found(kind: str) -> dict[str, Check]:
    fit = {
        "good": good,
        "shrunk": lambda: fit_of(lambda exact: lambda p, z, level, y=None: 0.8 * exact(p, z, level, y)),
        "constant": lambda: fit_of(lambda exact: lambda p, z, level, y=None: 0 * z),
        "pyro": lambda: fit_of(backend="pyro"),
    }[kind]()
    levels = noise_levels.of(fit)
    table = checks_diffusion.by_level(levels)
    part = [checks_diffusion._bound(fit, levels), checks_diffusion._prior(fit, levels),
            *checks_diffusion._calibration(table), checks_diffusion._linear(fit, levels),
            *checks_diffusion._memory(fit, levels, table)]  # fmt: skip
    part += checks_diffusion._of_samples(fit)[0] if kind in ("good", "shrunk") else []
    return {check.name: check for check in part}


def failed(kind: str) -> set[str]:
    return {name for name, check in found(kind).items() if check.passed is False}


def log_density(x: np.ndarray) -> np.ndarray:
    each = norm.logpdf(x[:, None], MEANS, SDS).sum(-1) + np.log(SHARES)
    return np.asarray(logsumexp(each, axis=1) - np.log(UNITS).sum())


def test_an_exact_denoiser_passes_every_check() -> None:
    assert set(found("good")) == OF_DENOISERS | OF_SAMPLES
    assert not failed("good")
    assert "held-out rows" in found("good")["ELBO"].info


def test_the_bound_of_an_exact_denoiser_is_the_log_density() -> None:
    """In continuous time, in the mean over rows, within 4 standard errors; the difference at each row has mean 0."""
    levels = noise_levels.of(good())
    truth = log_density(mixture()[levels.rows])
    away = (levels.bound + good().schema.log_jacobian(None)).mean(0) - truth
    assert abs(away.mean()) < 4 * away.std() / np.sqrt(len(away))
    assert away.std() / np.sqrt(len(away)) < 0.1  # sd of a row 1.3 nats


def test_rows_are_looked_at_by_members_that_held_them_out() -> None:
    levels = noise_levels.of(good())
    held = good().draws.parameters["validation_rows"]
    for m in range(MEMBERS):
        assert np.array_equal(levels.rows[levels.fresh[m]], np.intersect1d(levels.rows, held[m]))
    assert noise_levels.of(fit_of(held_out=False)).fresh.all()
    assert levels.nats.shape == (MEMBERS, noise_levels.NUM_PARTS, len(levels.rows))
    assert len(levels.rows) <= min(ROWS, MEMBERS * HELD)


def test_the_parts_of_discrete_time_sum_to_the_bound_over_all_steps() -> None:
    """Against every step at one draw of noise for each row and step, as the bound is defined; 4 standard errors."""
    num_steps = 50
    fit = fit_of(num_steps=num_steps)
    levels = noise_levels.of(fit)
    noising, e = fit.pair.noising, levels.encoded[0]
    rng, total = np.random.default_rng(5), np.zeros(len(e))
    for i in range(1, num_steps + 1):
        after, before = (float(noising.log_snr({}, t / num_steps)) for t in (i, i - 1))
        alpha, sigma = noise_levels.signal_and_noise(np.full((len(e), 1), after))
        z = alpha * e + sigma * rng.standard_normal(e.shape)
        error = e - np.asarray(noising.denoise({}, z, np.full(len(e), after)))
        total += 0.5 * (np.exp(before) - np.exp(after)) * (error**2).sum(1)
    away = levels.nats[0].sum(0) - total
    assert abs(away.mean()) < 4 * away.std() / np.sqrt(len(away))
    assert levels.width.sum(1) == pytest.approx(20)  # all of the log signal-to-noise ratios
    assert np.allclose(noise_levels.times(7, 20), np.arange(1, 8)[:, None] / 7)
    assert np.concatenate(noise_levels.times(50, 20)) == pytest.approx(np.arange(1, 51) / 50)


def test_estimates_that_are_shrunk_have_the_slope_of_their_inverse() -> None:
    assert "denoiser calibration" in failed("shrunk")
    levels = noise_levels.of(fit_of(lambda exact: lambda p, z, level, y=None: 0.8 * exact(p, z, level, y)))
    exact = checks_diffusion.by_level(noise_levels.of(good()))
    shrunk = checks_diffusion.by_level(levels)
    assert np.allclose(0.8 * shrunk["slope"], exact["slope"], rtol=1e-3)
    assert "have slope 1.2" in found("shrunk")["denoiser calibration"].info
    assert "grow" in found("shrunk")["denoiser calibration"].advice


def test_a_denoiser_that_says_nothing_is_worse_than_a_linear_one() -> None:
    """It leaves all the variance of the rows, which the linear one does at most."""
    assert "linear denoiser" in failed("constant")
    assert found("constant")["denoiser calibration"].passed is None


def test_the_linear_denoiser_is_that_of_the_rows_covariance() -> None:
    """Of normal rows it is exact: its errors are those of the closed form, up to those of mean and covariance."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]]) + 3
    linear = noise_levels._Linear(rows, None)
    z = rng.normal(size=(4, 2))
    covariance = np.cov(rows.T)
    alpha, sigma = noise_levels.signal_and_noise(np.array(0.7))
    gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(2))
    truth = rows.mean(0) + (z - alpha * rows.mean(0)) @ gain.T
    assert np.allclose(linear(z, np.full(4, 0.7), None), truth, atol=1e-3)


def test_a_denoiser_that_knows_its_rows_by_heart_is_caught() -> None:
    """The exact denoiser of the training rows' own distribution, a narrow normal at each."""
    plain = fit_of(alike=True)
    rows = np.delete(plain.train.x, plain.draws.parameters["validation_rows"][0], axis=0).astype(float)
    number = len(rows)
    own = of_mixture("numpyro", np.full(number, 1 / number), rows, np.full((number, 2), 0.05))
    fit = fit_of(lambda exact: own.denoise, alike=True)
    levels = noise_levels.of(fit)
    (check,) = checks_diffusion._memory(fit, levels, checks_diffusion.by_level(levels))
    assert not check.passed
    assert check.figure > 0.5
    assert checks_diffusion._memory(fit_of(held_out=False), noise_levels.of(fit_of(held_out=False)), None) == []


def test_samples_of_another_spread_are_told_apart() -> None:
    assert {"MMD p", "Fréchet distance"} <= failed("shrunk")
    assert "copies of rows" not in failed("shrunk")


def test_the_density_is_held_against_the_bound() -> None:
    """The toy's density is exact whatever its denoiser: the bound is as high where that is exact too."""
    (check,) = checks_diffusion._density(good())
    assert check.passed, check
    (low,) = checks_diffusion._density(fit_of(lambda exact: lambda p, z, level, y=None: 0.9 * exact(p, z, level, y)))
    assert not low.passed
    assert "above the ELBO" in low.info


def test_the_frechet_limit_holds_for_rows_of_one_distribution() -> None:
    rng = np.random.default_rng(3)
    first, second, third = rng.normal(size=(3, 300, 4))
    figure, usual, limit = checks_diffusion.frechet(first, second, third, images=False, seed=0)
    assert figure <= limit
    assert usual < 2 * limit
    shifted = checks_diffusion.frechet(first, second, third + 0.5, images=False, seed=0)
    assert shifted[0] > shifted[2]


def test_the_backends_agree() -> None:
    pytest.importorskip("torch")
    for name, other in found("pyro").items():
        assert other.figure == pytest.approx(found("good")[name].figure, rel=1e-3, abs=1e-3)


def test_a_slope_and_its_error() -> None:
    """y = 1.5 x + noise of sd 0.5, x of sd 1: the error is 0.5 / sqrt(n), here within a tenth."""
    rng: Any = np.random.default_rng(0)
    x = rng.normal(size=(1, 4_000, 1))
    y = 1.5 * x + 0.5 * rng.normal(size=x.shape)
    slope, error, told = checks_diffusion.calibration(y, x, np.ones((1, 4_000)), np.ones(4_000))
    assert error == pytest.approx(0.5 / np.sqrt(4_000), rel=0.1)
    assert slope == pytest.approx(1.5, abs=4 * error)
    assert told == pytest.approx(1 - 0.5 / 2.5, abs=0.03)


OF_DENOISER = {"trajectory", "field", "loss_by_time", "steps"}


@cache
def given() -> pg.Fit:
    """A model of one column given another, hardly trained."""
    rng = np.random.default_rng(0)
    group = rng.choice(["low", "high"], 120)
    table = pd.DataFrame({"group": group, "size": np.where(group == "low", 0.0, 100.0) + 10 * rng.normal(size=120)})
    family = Diffusion(hidden=(8,), condition_on=("group",))
    return pg.fit(family, table, engine=pg.SVI(num_members=1, max_steps=20), seed=0)


def test_pictures_of_a_denoiser() -> None:
    reasons = plots.applicable(good())
    assert not any(reasons[kind] for kind in OF_DENOISER)
    for kind in ("field", "loss_by_time"):
        check(plots.KINDS[kind](good()))


def test_pictures_that_a_fit_has_not() -> None:
    reasons = plots.applicable(good())
    assert "conditioned on nothing" in reasons["guidance"]
    with pytest.raises(UnsupportedError, match="depend on what is conditioned on"):
        plots.plot_field(given())
    assert "conditioned on" in plots.applicable(given())["field"]
    assert "noise that rows come of" in plots.applicable(given())["latents"]
    with pytest.raises(UnsupportedError, match="noise that rows come of"):
        plots.plot_latents(given())
    with pytest.raises(SettingError, match="at most 8"):
        plots.plot_steps(fit_of(num_steps=8), steps=(10, 20))
    with pytest.raises(SettingError, match="member"):
        plots.plot_trajectory(good(), member=7)


def test_the_loss_is_drawn_with_its_sum() -> None:
    figure = plots.plot_loss_by_time(good())
    loss, slopes = figure.axes
    table = checks_diffusion.by_level(noise_levels.of(good()))
    texts = [text.get_text() for text in loss.get_legend().get_texts()]
    assert f"held-out rows: {table['held_out'].sum():.3g} nats" in texts
    drawn = {line.get_label(): line for line in loss.lines}
    assert np.trapezoid(*drawn[texts[2]].get_data()[::-1]) == pytest.approx(table["held_out"].sum(), rel=0.1)
    assert slopes.get_ylabel().startswith("slope")


def test_the_arrows_are_those_of_the_score() -> None:
    """Of the exact denoiser: the gradient of the log density of noisy rows, by differences of it."""
    figure = plots.plot_field(good())
    arrows = figure.axes[0].collections[1]
    fit, level = good(), -3.0
    scale = np.array([c.scale for c in fit.schema.columns])
    loc = np.array([c.loc for c in fit.schema.columns])
    alpha, sigma = noise_levels.signal_and_noise(np.array(level))
    means, sds = (MEANS * UNITS - loc) / scale, SDS * UNITS / scale

    def density(z: np.ndarray) -> np.ndarray:
        each = norm.logpdf(z[:, None], alpha * means, np.sqrt(alpha**2 * sds**2 + sigma**2)).sum(-1) + np.log(SHARES)
        return np.asarray(logsumexp(each, axis=1))

    z = (arrows.XY - loc) / scale
    steps = 1e-4 * np.eye(2)
    score = np.stack([(density(z + step) - density(z - step)) / 2e-4 for step in steps], axis=1)
    assert np.allclose(arrows.get_array(), np.linalg.norm(sigma * score, axis=1), rtol=1e-2, atol=1e-2)
    ours = np.stack([arrows.U, arrows.V], axis=1) / scale
    inside = np.linalg.norm(score, axis=1) > 0.1
    cosine = (ours * score).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(score, axis=1))
    assert (cosine[inside] > 0.9).all()  # panels are not square: lengths of a step differ by column


def test_ways_end_in_the_rows_that_are_drawn() -> None:
    figure = plots.plot_trajectory(good(), num_steps=20)
    check(figure)
    assert [ax.get_title(loc="left") for ax in figure.axes][::5] == ["log SNR -10", "log SNR 10"]
    way = reverse.follow(good(), 400, num_steps=20, seed=good().seed)
    last = np.asarray(figure.axes[-1].collections[0].get_offsets())
    columns = good().schema.columns
    expected = way.noisy[-1] * [c.scale for c in columns] + [c.loc for c in columns]
    assert np.allclose(last, expected, rtol=1e-5)


def test_more_steps_bring_draws_nearer_to_the_rows() -> None:
    figure = plots.plot_steps(good(), steps=(1, 20))
    check(figure)
    away = [float(ax.get_title(loc="left").rsplit(": ")[1]) for ax in figure.axes]
    assert away[0] > 2 * away[1]


def test_guidance_is_drawn_for_each_condition() -> None:
    assert plots.applicable(given())["guidance"] == ""
    figure = plots.plot_guidance(given(), weights=(0.0, 2.0))
    check(figure)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["guidance 0", "guidance 2"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"low", "high"}
    check(plots.plot_trajectory(given(), num_steps=5))
    with pytest.raises(UnsupportedError, match="conditioned on nothing"):
        plots.plot_guidance(good())
