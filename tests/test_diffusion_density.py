"""The density of a diffusion model: its probability flow and its bound against closed forms, their stated errors, the
twins, and what a score says of them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from diffusion_toys import GREATEST, LEAST, of_mixture
from scipy.special import expit, logsumexp
from scipy.stats import norm

import ppl_gen as pg
from ppl_gen import importance, noising_bound, noising_codes
from ppl_gen import probability_flow as constants
from ppl_gen.backends import numpyro_noising_bound, numpyro_probability_flow
from ppl_gen.noising import Noising
from ppl_gen.view import View

SHARES = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.5], [1.0, 0.0]])
SDS = np.array([[0.5, 0.8], [0.3, 1.0]])
WITH_CONTEXT = np.eye(2)[[0, 1, 0, 1, 1, 0, 1]] * 0.98 + 0.01


def modules(backend: str) -> tuple[Any, Any, Any]:
    """The backend's flow and bound, and how it makes arrays."""
    if backend == "numpyro":
        return numpyro_probability_flow, numpyro_noising_bound, jnp.asarray
    torch = pytest.importorskip("torch")
    from ppl_gen.backends import pyro_noising_bound, pyro_probability_flow

    return pyro_probability_flow, pyro_noising_bound, torch.as_tensor


def rows(number: int = 7, means: np.ndarray = MEANS, sds: np.ndarray = SDS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = rng.choice(len(means), number, p=SHARES)
    return means[k] + sds[k] * rng.normal(size=(number, means.shape[1]))


def log_mixture(z: np.ndarray, log_snr: float, shares: np.ndarray = SHARES) -> np.ndarray:
    """(n,): log density of the mixture's rows with the noise of this level."""
    alpha, variance = np.sqrt(expit(log_snr)), expit(-log_snr)
    each = norm.logpdf(z[:, None], alpha * MEANS, np.sqrt(alpha**2 * SDS**2 + variance)).sum(-1)
    return np.asarray(logsumexp(each + np.log(shares), axis=-1))


def in_units(toy: Noising, shift: float, scale: float) -> Noising:
    return dataclasses.replace(
        toy, encode=lambda parameters, x: (x - shift) / scale, decode=lambda parameters, e: shift + scale * e
    )


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_the_flow_s_density_of_a_mixture_is_its_closed_form(backend: str, x64: None) -> None:
    """But for what sets noise apart from the law of z_1, which is known too."""
    flow, _, array = modules(backend)
    toy, x = in_units(of_mixture(backend, SHARES, MEANS, SDS), 3.0, 2.0), rows()
    found = np.asarray(flow.ProbabilityFlow(toy, {}, of_rows=True).log_prob(array(3.0 + 2.0 * x)))
    codes = np.asarray(flow.code_of(toy, {}, array(3.0 + 2.0 * x), None))
    alpha = np.sqrt(expit(GREATEST))
    truth = log_mixture(alpha * x, GREATEST) + 2 * np.log(alpha) - 2 * np.log(2.0)
    noise = log_mixture(codes, LEAST) - norm.logpdf(codes).sum(-1)
    np.testing.assert_allclose(found + noise, truth, atol=1e-4)
    assert abs(noise.mean()) < 0.01  # alpha_1 is 0.0067
    np.testing.assert_allclose(np.asarray(flow.row_of(toy, {}, array(codes), None)), 3.0 + 2.0 * x, atol=1e-4)


def test_a_context_is_each_row_s_own(x64: None) -> None:
    toy, x = of_mixture("numpyro", SHARES, MEANS, SDS, context=True), rows()
    found = numpyro_probability_flow.ProbabilityFlow(toy, {}, jnp.asarray(WITH_CONTEXT), of_rows=True)
    assert found.batch_shape == (7,)
    assert found.event_shape == (2,)
    truth = [log_mixture(one[None], GREATEST, shares)[0] for one, shares in zip(x, WITH_CONTEXT, strict=True)]
    np.testing.assert_allclose(found.log_prob(jnp.asarray(x)), truth, atol=0.05)  # of the noise at the other end


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_drawn_rows_have_the_mixture_s_moments(backend: str, x64: None) -> None:
    flow, _, _ = modules(backend)
    found = flow.ProbabilityFlow(of_mixture(backend, SHARES, MEANS, SDS), {}, of_rows=True)
    if backend == "numpyro":
        x = np.asarray(jax.jit(lambda key: found.sample(key, (2_000,)))(jax.random.key(0)))
    else:
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = found.sample((2_000,)).numpy()
    mean, second = SHARES @ MEANS, SHARES @ (MEANS**2 + SDS**2)
    assert (abs(x.mean(0) - mean) < 4 * np.sqrt(second - mean**2) / np.sqrt(2_000)).all()
    assert (abs((x**2).mean(0) - second) < 4 * (x**2).std(0) / np.sqrt(2_000)).all()


def normal(backend: str, sds: np.ndarray) -> Noising:
    """Rows of independent normals, whose denoiser is linear: with the trace of its derivative in closed form."""
    toy = of_mixture(backend, np.ones(1), np.zeros((1, len(sds))), sds[None])

    def linearize(parameters: Any, z: Any, log_snr: Any, context: Any) -> Any:
        alpha, variance = jnp.sqrt(jax.nn.sigmoid(log_snr)), jax.nn.sigmoid(-log_snr)
        slope = alpha * sds**2 / (alpha**2 * sds**2 + variance)
        return slope * z, jnp.full(len(z), slope.sum())

    return dataclasses.replace(toy, linearize=linearize)


def test_a_trace_in_closed_form_is_that_of_the_derivatives(x64: None) -> None:
    toy, x = normal("numpyro", np.array([0.2, 1.0, 1.5])), np.random.default_rng(1).normal(size=(5, 3))
    closed, derived = (
        numpyro_probability_flow.ProbabilityFlow(each, {}).log_prob(jnp.asarray(x))
        for each in (toy, dataclasses.replace(toy, linearize=None))
    )
    np.testing.assert_allclose(closed, derived, atol=1e-10)


def test_the_estimate_of_the_trace_is_within_its_error(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, size = np.random.default_rng(2), constants.MAX_EXACT + 1
    means, sds = rng.normal(size=(2, size)), 0.4 + rng.random((2, size))
    toy, x = of_mixture("numpyro", SHARES, means, sds), rows(9, means, sds)
    view = SimpleNamespace(x=jnp.asarray(x), context=None)
    estimate = numpyro_probability_flow.ProbabilityFlow(toy, {}, of_rows=True).log_prob(view.x)
    error = numpyro_probability_flow.log_prob_error(toy, {}, view)
    monkeypatch.setattr(constants, "MAX_EXACT", size)
    exact = numpyro_probability_flow.ProbabilityFlow(toy, {}, of_rows=True).log_prob(view.x)
    ratio = np.asarray((estimate - exact) / error)
    assert (abs(ratio) < 4).all()
    assert 0.2 < np.sqrt((ratio**2).mean()) < 3  # nine rows share eight probes


def test_the_solver_s_error_is_stated(x64: None) -> None:
    """Of narrow components, where it matters: the error is above what it stands for, but for rounding."""
    sds = np.array([[0.02, 0.1], [0.3, 1.0]])
    toy, x = of_mixture("numpyro", SHARES, MEANS, sds), jnp.asarray(rows(40, sds=sds))
    fine, found = (
        numpyro_probability_flow.ProbabilityFlow(toy, {}, of_rows=True, num_steps=steps).log_prob(x)
        for steps in (4 * constants.NUM_STEPS, constants.NUM_STEPS)
    )
    error = numpyro_probability_flow.log_prob_error(toy, {}, SimpleNamespace(x=x, context=None))
    off = np.asarray(abs(found - fine))
    assert off.max() > 1e-4
    assert (off <= error + 1e-6).mean() > 0.9
    assert off.max() <= 2 * error.max()


def found_bound(toy: Noising, x: np.ndarray, number: int) -> noising_bound.Bounds:
    points = noising_bound.points(number, toy.size, toy.num_steps, 0)
    terms = jax.jit(lambda x, at: numpyro_noising_bound.terms(toy, {}, View(x), at))(
        jnp.asarray(x), jnp.asarray(points)
    )
    total = np.asarray(terms.reconstruction - terms.diffusion - terms.prior)
    return noising_bound.summary(total.reshape(importance.NUM_SETS, -1, len(x)).mean(1)[None])


def test_the_bound_of_the_true_denoiser_is_the_density_in_continuous_time(x64: None) -> None:
    x = rows(20)
    found = found_bound(of_mixture("numpyro", SHARES, MEANS, SDS), x, 512)
    assert found.by_draw.shape == (1, 20)
    away = found.log_predictive - log_mixture(x, GREATEST)
    assert (abs(away) < 5 * found.error + 0.02).all()  # which all rows share; 0.02 of the noise at the other end
    assert abs(away.mean()) < 4 * np.sqrt((found.error**2).mean())
    assert found.error.max() < 0.2


def test_the_bound_rises_to_the_density_as_steps_grow(x64: None) -> None:
    """Of a standard normal: the control variate leaves no error, and the gap falls as 1 / T."""
    x = np.random.default_rng(3).normal(size=(4, 2))
    truth, gaps = norm.logpdf(x).sum(-1), []
    for steps in (250, 500, 1_000, None):
        toy = dataclasses.replace(of_mixture("numpyro", np.ones(1), np.zeros((1, 2)), np.ones((1, 2))), num_steps=steps)
        found = found_bound(toy, x, 64)
        assert found.error.max() < 1e-9
        gaps.append(truth - found.log_predictive)
    assert (gaps[2] > 0).all()
    np.testing.assert_allclose(gaps[0] / gaps[1], 2, rtol=0.05)
    np.testing.assert_allclose(gaps[1] / gaps[2], 2, rtol=0.05)
    np.testing.assert_allclose(gaps[3], 0, atol=1e-3)  # alpha_1^2 is 5e-5


@pytest.mark.parametrize("steps", [5, 32, 1_000])
def test_times_of_a_set_are_even(steps: int) -> None:
    sets = importance.NUM_SETS
    points = noising_bound.points(256, 3, steps, 1).reshape(sets, -1, 4)
    index = np.sort(np.floor(points[..., 0] * steps), axis=1)
    if steps <= 32:  # each step once
        assert (index == np.arange(steps)).all()
    else:
        assert np.ptp(np.diff(index, axis=1)) <= 1
    assert ((points > 0) & (points < 1)).all()


@pytest.mark.parametrize("steps", [None, 20])
def test_both_backends_give_the_same_numbers(steps: int | None, x64: None) -> None:
    found = []
    for backend in ("numpyro", "pyro"):
        flow, bound, array = modules(backend)
        toy = in_units(of_mixture(backend, SHARES, MEANS, SDS, steps, context=True), 1.0, 3.0)
        view = View(array(rows()), context=array(WITH_CONTEXT))
        at = array(noising_bound.points(40, 2, steps, 0))
        density = flow.ProbabilityFlow(toy, {}, view.context, of_rows=True)
        found.append([
            density.log_prob(view.x), flow.log_prob_error(toy, {}, view), flow.to_uniform(toy, {}, view),
            flow.from_uniform(toy, {}, array(expit(rows())), view.context), *bound.terms(toy, {}, view, at),
        ])  # fmt: skip
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-9, atol=1e-9)


def mixed(number: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    k = rng.poisson(3, number)
    return pd.DataFrame({
        "y": k + rng.normal(size=number), "k": k, "c": rng.choice(list("abc"), number), "b": rng.random(number) < 0.3,
    })  # fmt: skip


def fitted(table: pd.DataFrame, **options: Any) -> pg.Fit:
    """Tiny, and hardly trained: what is true of scores is so of any weights."""
    return pg.fit(pg.Diffusion(hidden=(6,), **options), table, engine=pg.SVI(num_members=2, max_steps=50), seed=0)


@pytest.fixture(scope="module")
def real() -> pg.Fit:
    return fitted(pd.DataFrame(10 + 5 * rows(60), columns=["p", "q"]))


@pytest.fixture(scope="module")
def of_kinds() -> pg.Fit:
    return fitted(mixed())


def test_a_score_has_the_bound_beside_the_density(real: pg.Fit) -> None:
    new = pd.DataFrame(10 + 5 * rows(20, seed=1), columns=["p", "q"])
    score, bound = real.score(new), real.score(new, method="bound")
    assert (score.kind, bound.kind) == ("exact", "bound")
    assert {"log_prob_error", "elbo", "elbo_error", "anomaly_p_value"} <= set(score.to_frame())
    assert score.k_hat is None
    assert "error of the solver" in score.precision
    assert bound.p_value is None  # densities of rows held out are no bounds
    assert score.error.max() < 0.01
    assert (abs(score.elbo - bound.log_predictive) < 5 * np.hypot(score.elbo_error, bound.error)).all()
    backwards = real.score(new[::-1], p_values=False)  # of as many rows, whose program there is
    np.testing.assert_allclose(score.log_predictive[::-1], backwards.log_predictive, atol=1e-4)


def test_a_bound_is_asked_for_of_diffusion_models_alone(real: pg.Fit) -> None:
    with pytest.raises(pg.SettingError, match="did you mean 'bound'"):
        real.score(method="bounds")
    other = pg.fit(pg.GMM(num_components=1), pd.DataFrame(rows(30)), engine=pg.EM(num_bootstraps=0))
    with pytest.raises(pg.SettingError, match="of diffusion models"):
        other.score(method="bound")


def test_rows_and_their_codes_stand_for_each_other(real: pg.Fit) -> None:
    table = pd.DataFrame(10 + 5 * rows(6, seed=2), columns=["p", "q"])
    codes = real.latents(table, member=1)
    assert codes.columns.tolist() == ["row", "z0", "z1"]
    pd.testing.assert_frame_equal(real.reconstruct(table, member=1), table, check_exact=False, atol=1e-3)
    between = real.interpolate(table.head(2), table.tail(2), 3, member=1)
    assert len(between) == 6
    np.testing.assert_allclose(between.iloc[[0, 3]], table.head(2), atol=1e-3)
    np.testing.assert_allclose(between.iloc[[2, 5]], table.tail(2), atol=1e-3)
    with pytest.raises(pg.SettingError, match="leave method out"):
        real.latents(table, method="importance")


def test_a_great_circle_keeps_the_length_of_noise() -> None:
    ends = np.random.default_rng(0).normal(size=(2, 3, 5))
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    path = noising_codes.between(*ends, 7)
    np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(path[:, [0, -1]], ends.swapaxes(0, 1), atol=1e-12)
    np.testing.assert_allclose(noising_codes.between(ends[0], ends[0], 3), np.stack([ends[0]] * 3, 1), atol=1e-6)


def test_mixed_columns_are_scored_by_importance_and_sum_to_one(of_kinds: pg.Fit) -> None:
    """Over the counts that there are and each label, of the other column's integral over a grid: particles are where a
    count's mass is, all over its cell. Of 2,400 points some stand for all."""
    at = np.linspace(-12, 24, 25)
    grid = pd.MultiIndex.from_product([at, range(16), list("abc"), [False, True]], names=["y", "k", "c", "b"])
    table = grid.to_frame(index=False).sample(400, random_state=0)
    found = of_kinds.score(table, p_values=False, keep_draws=False)
    other = of_kinds.score(table[:100], p_values=False, keep_draws=False, seed=1)
    assert found.kind == "importance"
    assert found.k_hat is None  # of 16 particles
    assert importance.has_tail(64)
    away = (found.log_predictive[:100] - other.log_predictive) / np.hypot(found.error[:100], other.error)
    assert (abs(away) < 5).mean() > 0.98  # errors of eight sets
    density = np.exp(found.log_predictive) * len(grid) * (at[1] - at[0])
    error = density.std() / np.sqrt(len(table))
    assert error < 0.3
    assert abs(density.mean() - 1) < 4 * error


def test_both_backends_score_the_same_fit_alike(of_kinds: pg.Fit, real: pg.Fit, x64: None, tmp_path: Any) -> None:
    """Densities of mixed columns, whose particles' densities are those of the flow, and codes of real ones: each is a
    program in double precision that no other test has compiled."""
    pytest.importorskip("torch")
    one, other = (pg.load(of_kinds.save(tmp_path / backend), backend=backend).score(mixed().head(3), p_values=False)
                  for backend in ("numpyro", "pyro"))  # fmt: skip
    for name in ("log_predictive", "error", "elbo", "elbo_error"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-9)
    table = pd.DataFrame(10 + rows(5), columns=["p", "q"])
    codes = [pg.load(real.save(tmp_path / f"real-{backend}"), backend=backend).latents(table)
             for backend in ("numpyro", "pyro")]  # fmt: skip
    np.testing.assert_allclose(*codes, atol=1e-9)


def table_of(kinds: dict[str, str], number: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    drawn = {
        "real": lambda: rng.normal(size=number), "count": lambda: rng.poisson(4, number),
        "label": lambda: rng.choice(list("abcd"), number),
    }  # fmt: skip
    return pd.DataFrame({name: drawn[kind]() for name, kind in kinds.items()})


@pytest.mark.parametrize(
    ("kinds", "hidden", "density"),
    [
        ({f"x{j}": "real" for j in range(21)}, (4, 4), "exact"),
        ({f"x{j}": "real" for j in range(20)}, (4, 4, 4), "exact"),
        ({f"x{j}": "real" for j in range(21)}, (4, 4, 4), "bound"),
        ({f"x{j}": "count" for j in range(21)}, (4,), "importance"),
        ({f"x{j}": "label" for j in range(5)}, (4,), "importance"),
        ({f"x{j}": "label" for j in range(6)}, (4,), "bound"),
    ],
)
def test_the_bound_is_told_where_the_flow_would_take_long(kinds: dict[str, str], hidden: tuple[int, ...],
                                                          density: str) -> None:  # fmt: skip
    family, table = pg.Diffusion(hidden=hidden), table_of(kinds)
    data = family.prepare(table)
    pair = family.build("numpyro", data.schema, len(data))
    assert pair.noising is not None
    assert (family.density_for(data.schema), pair.noising.is_dear) == (density, density == "bound")


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_bounds_told_as_densities_rank_rows_among_bounds(backend: str) -> None:
    if backend == "pyro":
        pytest.importorskip("torch")
    table = table_of({f"x{j}": "label" for j in range(6)}, number=100)
    engine = pg.SVI(num_members=1, max_steps=2, validation=0.5)
    fit = pg.fit(pg.Diffusion(hidden=(4,)), table, engine=engine, backend=backend)
    score, bound = fit.score(table), fit.score(table, method="bound")
    assert score.kind == bound.kind == "bound"
    np.testing.assert_allclose(score.log_predictive, bound.log_predictive, rtol=1e-6)
    # Of untrained networks rows held out and rows trained on are alike, and p-values are ranks among them.
    held_out = np.isfinite(fit.held_out)
    assert held_out.any()
    assert score.p_value is not None
    assert 0 < np.nanmin(score.p_value) < 0.5 < np.nanmax(score.p_value) <= 1
    assert fit.score(table.head(2), method="flow", p_values=False).kind == "importance"
