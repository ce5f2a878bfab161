"""Hidden Markov models whose transitions depend on covariates: beside every path, beside known answers, in both
backends."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from numpyro.infer.util import unconstrain_fn
from scipy.special import log_softmax, logsumexp, softmax
from test_hmm_pair import compiled, density, drawn, scipy_table
from typer.testing import CliRunner

import ppl_gen as pg
from ppl_gen.cli import app
from ppl_gen.cli.wording import in_options
from ppl_gen.data import Data
from ppl_gen.models.hmm import HMM, HMMPrior
from ppl_gen.one_step_ahead import pseudo_residuals
from ppl_gen.plots import plot_durations, plot_forecast, plot_transitions
from ppl_gen.view import View

N, T = 3, 5
QUICK: Any = {"compiler_options": {"xla_backend_optimization_level": 0}}
GIVEN = ("dose", "site")
PRIOR = HMMPrior(transition_concentration=1.3, stickiness=2.0, loc_scale=1.5, prob_concentration=1.4, coef_scale=0.7)
each_backend = pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.pyro)])


def visits(lengths: tuple[int, ...] = (T, 3, T), seed: int = 0) -> pd.DataFrame:
    """Two columns to model and two covariates, with a missing step and a missing entry."""
    rng, number = np.random.default_rng(seed), sum(lengths)
    table = pd.DataFrame({
        "who": np.repeat(list("abcdefghijkl")[: len(lengths)], lengths), "x": rng.normal(size=number),
        "open": rng.integers(0, 2, number).astype(float), "dose": rng.normal(10, 3, number),
        "site": np.array(["u", "v", "w"])[np.arange(number) % 3],
    })  # fmt: skip
    table.loc[1, ["x", "open"]] = np.nan
    table.loc[3, "x"] = np.nan
    return table


def prepared(family: HMM, weighted: bool = False, **options: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The schema, and the fields of the view."""
    options |= {"weights": np.array([2.0, 0.5, 1.0])} if weighted else {}
    data = family.prepare(visits(), sequence="who", kinds={"open": "binary"}, **options)
    return data.schema, {name: value for name, value in data.view()._asdict().items() if value is not None}


def view_of(backend: str, fields: dict[str, np.ndarray]) -> View:
    if backend == "numpyro":
        return View(**{name: jnp.asarray(value) for name, value in fields.items()})
    import torch

    return View(**{name: torch.as_tensor(np.asarray(value)) for name, value in fields.items()})


def sites_of(backend: str, sites: dict[str, Any]) -> dict[str, Any]:
    if backend == "numpyro":
        return {name: jnp.asarray(value) for name, value in sites.items()}
    import torch

    return {name: torch.tensor(np.asarray(value)) for name, value in sites.items()}


def log_matrices(sites: dict[str, Any], context: np.ndarray) -> np.ndarray:
    """(N, T, K, K): by the formula."""
    with np.errstate(divide="ignore"):
        log_matrix = np.log(np.asarray(sites["transition_matrix"]))
    return log_softmax(log_matrix + np.einsum("ntc,kjc->ntkj", context, sites["transition_coefs"]), axis=-1)


def paths_of(family: HMM, schema: Any, sites: dict[str, Any], fields: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """All paths (P, T) and their joint log densities with each sequence (N, P)."""
    table = scipy_table(family, schema, sites, fields)
    paths = np.array(list(itertools.product(range(family.num_states), repeat=T)))
    steps = log_matrices(sites, fields["context"])
    joint = np.log(np.asarray(sites["initial_probs"]))[paths[:, 0]] + np.zeros((N, 1))
    for t in range(T):
        joint = joint + table[:, t][:, paths[:, t]]
        joint = joint + (steps[:, t][:, paths[:, t], paths[:, t + 1]] if t < T - 1 else 0.0)
    return paths, joint


FIXED = HMMPrior(transition_matrix=[[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.2, 0.2, 0.6]])
FAMILIES = [HMM(2, "auto", condition_on=GIVEN, prior=PRIOR), HMM(3, "auto", condition_on=GIVEN, prior=FIXED)]


@each_backend
@pytest.mark.parametrize("family", FAMILIES, ids=["free", "zeros"])
@pytest.mark.usefixtures("x64")
def test_beside_every_path(family: HMM, backend: str) -> None:
    schema, fields = prepared(family)
    pair, twin = family.build(backend, schema, N), family.build("numpyro", schema, N)
    sites = {name: np.asarray(value) for name, value in drawn(twin).items()}
    paths, joint = paths_of(family, schema, sites, fields)
    expected = logsumexp(joint, axis=1)
    latent = {name: value for name, value in sites.items() if name not in twin.collapsed.args[0].fixed}
    hooks = (pair.step_log_prob, pair.smoothed, pair.filtered, pair.most_probable_path, pair.e_step)
    run = compiled if backend == "numpyro" else (lambda function, *args: function(*args))
    steps, smooth, filtered, best, (log_prob, statistics) = run(
        lambda sites, view: [hook(sites, view) for hook in hooks], sites_of(backend, latent), view_of(backend, fields)
    )
    np.testing.assert_allclose(np.asarray(steps).sum(1), expected, rtol=1e-10)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-10)
    posterior = np.exp(joint - expected[:, None])
    k, inside = family.num_states, np.arange(T) < fields["lengths"][:, None]
    states = np.eye(k)[paths]  # (P, T, K)
    np.testing.assert_allclose(
        np.asarray(smooth)[inside], np.einsum("np,ptk->ntk", posterior, states)[inside], atol=1e-10
    )
    last = fields["lengths"] - 1
    np.testing.assert_allclose(np.asarray(filtered)[range(N), last], np.asarray(smooth)[range(N), last], atol=1e-10)
    for n, length in enumerate(fields["lengths"]):
        np.testing.assert_array_equal(np.asarray(best)[n, :length], paths[joint[n].argmax()][:length])
    pairs = np.einsum("np,ptk,ptj->ntkj", posterior, states[:, :-1], states[:, 1:]) * inside[:, 1:, None, None]
    found = np.asarray(statistics["pairs" if backend == "numpyro" else "transition"])
    np.testing.assert_allclose(found, pairs, atol=1e-10)


@pytest.mark.pyro
@pytest.mark.usefixtures("x64")
def test_collapsed_is_enumerated_and_the_twins_are_one_function() -> None:
    from test_hmm_pyro import assert_same, numpyro_density, pyro_density

    family = FAMILIES[0]
    schema, fields = prepared(family, weighted=True)
    pair, view = family.build("pyro", schema, N), view_of("pyro", fields)
    point, *expected = pyro_density(pair, view)
    assert point["transition_coefs"].shape == (2, 2, 4)
    assert_same(expected, pyro_density(pair, view, enumerated=True)[1:])
    twin = family.build("numpyro", schema, N)
    assert_same(expected, numpyro_density(twin, view_of("numpyro", fields), point))


@pytest.mark.usefixtures("x64")
def test_collapsed_is_enumerated_in_numpyro() -> None:
    family = FAMILIES[0]
    schema, fields = prepared(family, weighted=True)
    pair, view = family.build("numpyro", schema, N), view_of("numpyro", fields)
    point = unconstrain_fn(pair.collapsed, (view,), {}, drawn(pair))
    (left, left_grad), (right, right_grad) = (density(pair, view, point, e) for e in (False, True))
    np.testing.assert_allclose(left, right, rtol=1e-9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9 * max(1, np.abs(a).max())), left_grad, right_grad
    )


@each_backend
@pytest.mark.usefixtures("x64")
def test_without_slopes_it_is_the_homogeneous_model(backend: str) -> None:
    family = FAMILIES[0]
    schema, fields = prepared(family)
    sites = {name: np.asarray(value) for name, value in drawn(family.build("numpyro", schema, N)).items()}
    sites["transition_coefs"] = np.broadcast_to(
        np.array([0.3, 0.1, -2.0, 0.4]), (2, 2, 4)
    )  # the same for all j: nothing
    pair, plain = family.build(backend, schema, N), HMM(2, "auto").build(backend, schema.only_targets(), N)
    run = compiled if backend == "numpyro" else (lambda function, *args: function(*args))
    found = run(pair.step_log_prob, sites_of(backend, sites), view_of(backend, fields))
    del sites["transition_coefs"], fields["context"]
    expected = run(plain.step_log_prob, sites_of(backend, sites), view_of(backend, fields))
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-12)


@pytest.mark.pyro
@pytest.mark.usefixtures("x64")
def test_em_rises_and_its_steps_end_at_the_maximum_in_both_backends() -> None:
    family = HMM(2, "auto", condition_on="dose", prior=PRIOR)
    data = family.prepare(visits((25, 15), seed=3), sequence="who", kinds={"open": "binary"})
    fields = {name: value for name, value in data.view()._asdict().items() if value is not None}
    starts = {
        name: value[0] for name, value in family.build("numpyro", data.schema, 2).initialize(data.view(), 0, 1).items()
    }
    ends: dict[str, list[Any]] = {"ml": [], "map": []}
    for backend in ("numpyro", "pyro"):
        pair, view = family.build(backend, data.schema, 2), view_of(backend, fields)
        e_step, m_step = pair.e_step, pair.m_step
        if backend == "numpyro":
            e_step, m_step = jax.jit(e_step, **QUICK), jax.jit(m_step, static_argnums=2, **QUICK)
        for objective, found in ends.items():
            parameters, values = sites_of(backend, starts), []
            for _ in range(12):
                log_prob, statistics = e_step(parameters, view)
                values.append(float(log_prob.sum()) + float(pair.log_prior(parameters, objective)))
                parameters = m_step(parameters, statistics, objective)
            assert (np.diff(values) >= -1e-9).all()
            np.testing.assert_allclose(np.asarray(parameters["transition_coefs"]).sum(1), 0.0, atol=1e-12)
            found.append({name: np.asarray(value) for name, value in parameters.items()})
            for _ in range(6):  # repeated under the same statistics, the M-step ends at their maximum
                parameters = m_step(parameters, statistics, objective)
            if backend == "numpyro":
                slope = jax.grad(partial(surrogate, statistics, objective), argnums=1)
                matrix, coefs = parameters["transition_matrix"], parameters["transition_coefs"]
                np.testing.assert_allclose(slope(matrix, coefs), 0.0, atol=1e-5)
    for left, right in ends.values():
        for name, value in left.items():
            np.testing.assert_allclose(value, right[name], atol=1e-7, err_msg=name)


def surrogate(statistics: Any, objective: str, matrix: Any, coefs: Any) -> Any:
    """What the M-step is to maximize over the coefficients."""
    slopes = jnp.einsum("ntc,kjc->ntkj", statistics["context"], coefs)
    total = (statistics["pairs"] * jax.nn.log_softmax(jnp.log(matrix) + slopes)).sum()
    return total - (0.5 * ((coefs / 0.7) ** 2).sum() if objective == "map" else 0.0)


MATRIX = np.array([[0.9, 0.1], [0.2, 0.8]])
SLOPES = np.array([1.2, -0.8])  # of the log odds of state 1, from states 0 and 1, for a dose one sd higher
LOCS = np.array([-5.0, 5.0])


def walk(dose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """States of a chain that each dose, in standard units, moves on."""
    z = np.zeros(len(dose), int)
    for t in range(1, len(z)):
        odds = np.log(MATRIX[z[t - 1], 1] / MATRIX[z[t - 1], 0]) + SLOPES[z[t - 1]] * dose[t - 1]
        z[t] = rng.random() < 1 / (1 + np.exp(-odds))
    return z


@pytest.fixture(scope="module")
def treated() -> tuple[pg.Fit, np.ndarray]:
    """A fit to two series whose states are plain to see, and those states."""
    rng = np.random.default_rng(0)
    frames, states = [], []
    for who, length in (("a", 900), ("b", 700)):
        dose = rng.normal(size=length)
        states.append(walk(dose, rng))
        x = LOCS[states[-1]] + rng.normal(size=length)
        frames.append(pd.DataFrame({"who": who, "day": np.arange(length), "x": x, "dose": 50 + 10 * dose}))
    engine = pg.EM(num_starts=2, num_bootstraps=0)
    table = pd.concat(frames, ignore_index=True)
    return pg.fit(HMM(2, condition_on="dose"), table, sequence="who", order="day", engine=engine), np.concatenate(
        states
    )


def parts(fit: pg.Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix, slopes of log odds, and the order of the states by location."""
    order = np.argsort(fit.draws.point["locs"][:, 0])
    matrix = fit.draws.point["transition_matrix"][np.ix_(order, order)]
    coefs = fit.draws.point["transition_coefs"][np.ix_(order, order)][..., 0]
    return matrix, coefs[:, 1] - coefs[:, 0], order


def test_coefficients_are_recovered(treated: tuple[pg.Fit, np.ndarray]) -> None:
    """Within 4 standard errors of a logistic regression on the states, which are as good as seen."""
    fit, z = treated
    matrix, slopes, _ = parts(fit)
    dose, starts = fit.train.x[:, 1], np.array([0, 900])
    for k in (0, 1):
        rows = np.setdiff1d(np.flatnonzero(z == k), [899, 1599])
        design = np.stack([np.ones(len(rows)), dose[rows]], axis=1)
        odds = np.log(MATRIX[k, 1] / MATRIX[k, 0])
        p = 1 / (1 + np.exp(-(odds + SLOPES[k] * dose[rows])))
        errors = np.sqrt(np.diag(np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))))
        assert abs(np.log(matrix[k, 1] / matrix[k, 0]) - odds) < 4 * errors[0]
        assert abs(slopes[k] - SLOPES[k]) < 4 * errors[1]
    assert fit.information_criteria()["num_parameters"] == 1 + 2 + 2 + 4
    _, high = pseudo_residuals(fit, fit.train)
    assert high.shape == (1600, 1)
    # Uniform numbers: their sd is 0.289, to a standard error of 0.289 / sqrt(2 n) at most.
    assert abs(high.std() - 12**-0.5) < 4 * 0.289 / np.sqrt(2 * 1600)
    assert abs(high[starts[1] :].mean() - 0.5) < 4 * 0.289 / np.sqrt(700)


@each_backend
def test_samples_and_forecasts_follow_the_covariates(
    treated: tuple[pg.Fit, np.ndarray], backend: str, tmp_path: Path
) -> None:
    fit = treated[0] if backend == "numpyro" else pg.load(treated[0].save(tmp_path / "fit"), backend=backend)
    matrix, slopes, order = parts(fit)
    column = fit.schema.columns[1]
    given = pd.DataFrame({"dose": np.tile([35.0, 65.0], 20)})
    drawn = fit.sample(100, given=given, seed=1)
    np.testing.assert_allclose(drawn["dose"].to_numpy().reshape(100, 40)[7], given["dose"], rtol=1e-6)
    states = (drawn["x"].to_numpy().reshape(100, 40) > 0).astype(int)
    for k, odd in itertools.product((0, 1), (0, 1)):
        before, after = states[:, odd:-1:2], states[:, odd + 1 :: 2]
        y = (given["dose"][odd] - column.loc) / column.scale
        p = 1 / (1 + np.exp(-(np.log(matrix[k, 1] / matrix[k, 0]) + slopes[k] * y)))
        number = (before == k).sum()
        assert abs(after[before == k].mean() - p) < 4 * np.sqrt(p * (1 - p) / number)
    # Sequence b ends in a known state, and its last dose leads to the first step ahead; that of the last step ahead
    # leads beyond it.
    ahead = pd.DataFrame({"who": ["b"] * 3 + ["a"] * 3, "dose": [65.0, 65.0, 0.0, 35.0, 35.0, 0.0]})
    found = fit.forecast(3, given=ahead, num_draws=2000)
    assert found["who"].tolist() == ["a"] * 3 + ["b"] * 3
    assert "dose_mean" not in found
    last = fit.latents(method="filtering")[["z=0", "z=1"]].to_numpy()[[899, 1599]][:, order]
    doses = {0: [fit.train.x[899, 1], *([(35 - column.loc) / column.scale] * 2)],
             1: [fit.train.x[1599, 1], *([(65 - column.loc) / column.scale] * 2)]}  # fmt: skip
    for i in (0, 1):
        probs = last[i]
        for step, y in enumerate(doses[i]):
            probs = probs @ softmax(np.log(matrix) + np.stack([0 * slopes, slopes * y], -1), axis=-1)
            share = found[f"z={order[1]}"].to_numpy()[3 * i + step]
            assert abs(share - probs[1]) < 4 * np.sqrt(0.25 / 2000)


def test_pictures_say_at_which_covariates(treated: tuple[pg.Fit, np.ndarray]) -> None:
    fit = treated[0]
    assert "dose at the mean" in str([text.get_text() for text in plot_transitions(fit).findobj(Text)])
    assert plot_durations(fit, max_draws=3).axes
    assert len(plot_forecast(fit, horizon=2, num_draws=20).axes) == 2  # of x alone, for two sequences


def test_what_is_wrong_is_said(treated: tuple[pg.Fit, np.ndarray]) -> None:
    fit = treated[0]
    ahead = pd.DataFrame({"who": ["a", "a"], "dose": [1.0, 2.0]})
    with pytest.raises(pg.SettingError, match="depends on 'dose': pass given="):
        fit.forecast(2)
    with pytest.raises(pg.DataError, match="no time steps of sequence 'b': add the 2"):
        fit.forecast(2, given=ahead)
    with pytest.raises(pg.DataError, match="has 2 time steps of sequence 'a', but the horizon is 3"):
        fit.forecast(3, given=ahead)
    with pytest.raises(pg.SettingError, match="length has no effect with condition_on"):
        fit.sample(2, length=5)
    table = fit.train.to_frame()
    with pytest.raises(pg.DataError, match="Column 'dose', row 3: the value is missing, but the column is conditioned"):
        fit.score(table.assign(dose=table["dose"].where(table.index != 3)))
    plain = pg.fit(HMM(1), table[:50]["x"].to_numpy(), engine=pg.EM(num_starts=1, num_bootstraps=0))
    for verb in (plain.sample, plain.forecast):
        with pytest.raises(pg.SettingError, match="without condition_on"):
            verb(2, given=ahead)


def test_covariates_ahead_are_later_than_the_sequence() -> None:
    """A table with the past as well would otherwise give the steps ahead the covariates of the first steps."""
    days = pd.date_range("2025-01-01", periods=24)
    table = pd.DataFrame({"day": days, "x": np.arange(24.0) % 5, "dose": np.arange(24.0) % 7})
    fit = pg.fit(HMM(2, condition_on="dose"), table[:20], order="day", engine=pg.EM(num_starts=1, num_bootstraps=0))
    given = table[["day", "dose"]]
    with pytest.raises(pg.DataError, match=r"starts at 2025-01-01.*ends at 2025-01-20.*leave out what is over"):
        fit.forecast(3, given=given)
    with pytest.raises(pg.DataError, match=r"starts at 2025-01-23.*not at 2025-01-21.*add what is between"):
        fit.forecast(2, given=given[22:])
    with pytest.raises(pg.DataError, match="starts at 2025-01-20"):
        fit.forecast(3, given=given[19:])
    assert fit.forecast(3, given=given[20:])["day"].tolist() == list(days[20:23])
    assert len(fit.forecast(3, given=given[["dose"]])) == 3  # no times, nothing to compare
    fit.forecast(3, given=given.assign(day=np.arange(24)))  # nor with times of another sort


def test_the_command_line(tmp_path: Path) -> None:
    table, run, ahead = tmp_path / "visits.csv", tmp_path / "run", tmp_path / "ahead.csv"
    visits((30, 25), seed=1).drop(columns=["open", "site"]).to_csv(table, index=False)
    pd.DataFrame({"who": ["a", "a", "b", "b"], "dose": [9.0, 10.0, 11.0, 12.0]}).to_csv(ahead, index=False)

    def call(*words: Any) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    options = ["--set", "condition_on=dose", "--set", "num_states=2", "--sequence", "who", "--engine", "em"]
    fitted = call(
        "fit",
        table,
        "hmm",
        *options,
        "--engine-set",
        "num_bootstraps=0",
        "--engine-set",
        "num_starts=1",
        "-o",
        run,
        "--json",
    )
    assert fitted.exit_code == 0, fitted.output
    refused = call("forecast", run, "-n", 2)
    assert refused.exit_code != 0
    assert "pass --given" in in_options(str(refused.exception))
    done = call("forecast", run, "-n", 2, "--given", ahead, "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(tmp_path / "out.csv")) == 4
    assert isinstance(pg.load(run).train, Data)
