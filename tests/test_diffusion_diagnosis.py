"""Denoisers that are exact pass the checks of diffusion models; those that are miscalibrated, worse than linear, or
that know rows by heart are caught; pictures show what they say."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from diffusion_fits import HELD, MEANS, MEMBERS, ROWS, SDS, SHARES, UNITS, fit_of, mixture
from diffusion_toys import of_mixture
from scipy.special import logsumexp
from scipy.stats import norm

import ppl_gen as pg
from ppl_gen import checks_diffusion, noise_levels
from ppl_gen.diagnostics import Check

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
        "wide": lambda: fit_of(spread=2.5),
        "pyro": lambda: fit_of(backend="pyro"),
    }[kind]()
    levels = noise_levels.of(fit)
    table = checks_diffusion.by_level(levels)
    part = [checks_diffusion._bound(fit, levels), checks_diffusion._prior(levels),
            *checks_diffusion._calibration(table), checks_diffusion._linear(fit, levels),
            *checks_diffusion._memory(fit, levels, table)]  # fmt: skip
    part += checks_diffusion._of_samples(fit)[0] if kind in ("good", "wide") else []
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
    assert {"MMD p", "Fréchet distance"} <= failed("wide")
    assert not OF_DENOISERS & failed("wide")


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
    for name, check in found("pyro").items():
        assert check.figure == pytest.approx(found("good")[name].figure, rel=1e-3, abs=1e-3)


def test_a_slope_and_its_error() -> None:
    """y = 1.5 x + noise of sd 0.5, x of sd 1: the error is 0.5 / sqrt(n), here within a tenth."""
    rng: Any = np.random.default_rng(0)
    x = rng.normal(size=(1, 4_000, 1))
    y = 1.5 * x + 0.5 * rng.normal(size=x.shape)
    slope, error, told = checks_diffusion.calibration(y, x, np.ones((1, 4_000)), np.ones(4_000))
    assert error == pytest.approx(0.5 / np.sqrt(4_000), rel=0.1)
    assert slope == pytest.approx(1.5, abs=4 * error)
    assert told == pytest.approx(1 - 0.5 / 2.5, abs=0.03)
