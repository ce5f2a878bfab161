"""Whether to believe a neural fit: rows as uniform numbers, and the checks that are made of them."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import ppl_gen as pg
from ppl_gen import backends, checks_networks, metrics, plots
from ppl_gen.checks_networks import of_networks
from ppl_gen.errors import UnsupportedError
from ppl_gen.models.autoregressive import Autoregressive
from ppl_gen.models.flow import BASES, Flow

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_base = pytest.mark.parametrize("base", BASES)


def rough(pair: Any, seed: int = 1) -> dict[str, np.ndarray]:
    """One draw of weights far from the start, where a flow is nearly the identity."""
    rng = np.random.default_rng(seed)
    starts = pair.initialize(pair.data, 0, 1)
    return {name: value + 0.1 * rng.normal(size=value.shape) for name, value in starts.items()}


def small(base: str, **options: Any) -> Flow:
    return Flow(
        **{"transform": "realnvp", "num_layers": 2, "hidden": (4,), "base": base, "num_components": 3, **options}
    )


def to_uniform(backend: str, pair: Any, weights: dict[str, np.ndarray], view: Any) -> np.ndarray:
    return backends.ops(backend).hook_over_draws(pair, "to_uniform", weights, view)[0]


def from_uniform(backend: str, pair: Any, weights: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    if backend == "numpyro":
        import jax

        return np.asarray(jax.jit(pair.from_uniform)({name: v[0] for name, v in weights.items()}, u))

    return pair.from_uniform({name: torch.as_tensor(v[0]) for name, v in weights.items()}, torch.as_tensor(u)).numpy()


def two_columns(number: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 2)) * [1.0, 3.0] + [0.0, 50.0]


@each_base
def test_uniform_numbers_and_rows_determine_each_other(base: str, x64: None) -> None:
    ends, x = {}, two_columns()
    for backend in BACKENDS:
        pair = small(base).pair(backend, x)
        weights = rough(pair)
        ends[backend] = to_uniform(backend, pair, weights, pair.data)
        assert ends[backend].shape == (60, 2, 2)
        assert (ends[backend][..., 0] == ends[backend][..., 1]).all()
        again = from_uniform(backend, pair, weights, ends[backend][..., 0])
        known = (np.abs(ends[backend][..., 0] - 0.5) < 0.5 - 1e-4).all(1)
        assert known.mean() > 0.8
        # The quantile is found to the last digit of p: where the density is 1e-4 that is 1e-12 of u.
        np.testing.assert_allclose(again[known], np.asarray(pair.data.x)[known], atol=1e-9)
    np.testing.assert_allclose(ends["pyro"], ends["numpyro"], atol=1e-9)  # the quadrature of Student's t is that good


@each_backend
def test_students_t_is_that_of_scipy(backend: str, x64: None) -> None:
    """With all other weights 0 the flow is the identity."""
    pair = small("student_t").pair(backend, np.linspace([-30, -3], [30, 3], 61), standardize=False)
    weights = {name: np.zeros((4, *value.shape[1:])) for name, value in pair.initialize(pair.data, 0, 1).items()}
    weights["base_log_df"] += np.array([[-4.0], [0.0], [2.0], [6.0]])  # from Cauchy to all but normal
    found = backends.ops(backend).hook_over_draws(pair, "to_uniform", weights, pair.data)[..., 0]
    expected = stats.t.cdf(np.asarray(pair.data.x), 1 + np.exp(weights["base_log_df"])[:, None])
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize(("backend", "base"), [("numpyro", "normal"), ("pyro", "mixture")])
def test_rows_of_whole_numbers_come_from_points_of_their_cells(backend: str, base: str) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"level": rng.normal(size=1000), "visits": rng.poisson(30.0, 1000)})
    pair = small(base).pair(backend, table)
    weights = {name: np.asarray(value, np.float32) for name, value in rough(pair).items()}
    x = from_uniform(backend, pair, weights, rng.random((1000, 2), np.float32))
    assert (x[:, 1] == np.round(x[:, 1])).all()
    assert (x[:, 1] == 0).mean() < 0.01  # hardly any moved to the nearest count there is
    as_array = {"numpyro": np.asarray, "pyro": torch.as_tensor}[backend]
    u = to_uniform(backend, pair, weights, pair.data._replace(x=as_array(x)))[..., 0]
    again = from_uniform(backend, pair, weights, u)
    assert (again[:, 1] == x[:, 1]).mean() > 0.99  # float32 may put a point on the edge of its cell into the next one
    # Three looks each, at rows that the model has drawn: p-values below 1e-4 come once in 3,000 seeds.
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-4
    assert stats.spearmanr(u)[1] > 1e-4


QUICK = pg.SVI(max_steps=250, num_members=2, learning_rate=1e-2)
AFFINE = Flow("maf", num_layers=1, hidden=(2,))


def correlated(number: int = 500) -> pd.DataFrame:
    z = np.random.default_rng(0).normal(size=(number, 2))
    return pd.DataFrame({"a": 10 * z[:, 0], "b": z[:, 1] + 2 * z[:, 0]})


def ring(number: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, number)
    x = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(size=(number, 2))
    return pd.DataFrame(x, columns=["a", "b"])


@cache
def right() -> pg.Fit:
    """A flow that holds the truth: two affine maps of a normal."""
    return pg.fit(AFFINE, correlated(), engine=QUICK, backend="pyro", seed=0)


@cache
def wrong() -> pg.Fit:
    """Two affine maps can't make a ring of a normal."""
    return pg.fit(AFFINE, ring(), engine=QUICK, backend="pyro", seed=0)


@cache
def overfitted() -> pg.Fit:
    """60 rows of noise, and splines that have learnt them by heart before the loss is first looked at."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    family = Flow("nsf_ar", num_layers=1, hidden=(64,), num_bins=8)
    engine = pg.SVI(max_steps=50, num_members=2, learning_rate=3e-2, validation=0.3)
    return pg.fit(family, x, engine=engine, backend="pyro", seed=0)


def verdicts(fit: pg.Fit) -> dict[str, bool | None]:
    return {check.name: check.passed for check in of_networks(fit)[0]}


def test_a_right_model_passes_and_the_diagnosis_asks() -> None:
    diagnosis = right().diagnose()
    names = ["broken members", "training gap", "member disagreement", "calibration p", "independence p"]
    assert [check.name for check in diagnosis.checks if check.name in names] == names
    assert all(diagnosis[name].passed for name in names)
    rows = diagnosis.details["calibration"].index
    held = checks_networks.held_out_by(right())
    assert held.sum(1).tolist() == [50, 50]  # a tenth of the rows, drawn for each member
    assert rows.tolist() == np.flatnonzero(held.any(0)).tolist()


def test_a_wrong_model_fails_calibration_and_says_what_to_change() -> None:
    found, _ = of_networks(wrong())
    failed = {check.name: check for check in found if not check.passed}
    assert "calibration p" in failed
    assert "more layers" in failed["calibration p"].advice


def test_a_network_that_has_learnt_its_rows_by_heart_fails() -> None:
    (gap,) = [check for check in of_networks(overfitted())[0] if check.name == "training gap"]
    assert not gap.passed
    assert gap.threshold >= 3 * checks_networks.GAP
    assert "smaller network" in gap.advice
    # Rows that a member saw against others that it did not see, of which the standard error is 0.3.
    members, held = overfitted().score().log_prob.values[:, 0], checks_networks.held_out_by(overfitted())
    assert gap.figure == pytest.approx(members[~held].mean() - members[held].mean(), abs=0.9)


def test_a_broken_member_fails() -> None:
    assert verdicts(right())["broken members"]
    draws = dataclasses.replace(right().draws, figures={**right().draws.figures, "num_broken": 1})
    (broken,) = [c for c in of_networks(dataclasses.replace(right(), draws=draws))[0] if c.name == "broken members"]
    assert not broken.passed
    assert "learning_rate" in broken.advice


def test_without_rows_held_out_there_is_nothing_to_compare() -> None:
    none = {**right().draws.parameters, "validation_rows": np.zeros((2, 0), int)}
    fit = dataclasses.replace(right(), draws=dataclasses.replace(right().draws, parameters=none))
    assert verdicts(fit) == {"broken members": True, "training gap": None}
    assert "validation above 0" in plots.applicable(fit)["calibration"]


def test_the_gap_compares_rows_with_themselves() -> None:
    rng = np.random.default_rng(0)
    likely = 10 * rng.normal(size=200)  # what sets rows apart is none of the gap's business
    seen = rng.random((4, 200)) < 0.5
    seen[:2] = [[True], [False]]
    gap, error = checks_networks.difference(likely + 0.3 * seen, seen)
    assert gap == pytest.approx(0.3)
    assert error < 1e-9
    alone, error = checks_networks.difference(likely[None] + 0.3 * seen[2:3], seen[2:3])
    assert abs(alone - 0.3) < 4 * error
    assert error == pytest.approx(10 * np.sqrt(4 / 200), rel=0.2)  # of the difference of two means of 100 rows


def test_independence_finds_what_depends_and_spares_what_does_not() -> None:
    rng = np.random.default_rng(0)
    u = rng.random((1000, 3))
    worst = metrics.independence(u)
    assert worst.number == 12
    assert worst.p_value > 0.01 / 12
    u[:, 2] = np.where(
        np.abs(u[:, 0] - 0.5) > 0.25, u[:, 2], 0.5 + (u[:, 2] - 0.5) / 2
    )  # its spread depends on another
    assert metrics.independence(u)[:2] == ((0, 2), pytest.approx(0, abs=1e-6))


def test_autoregressive_networks_are_asked_by_the_same_hook() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=400), "visits": rng.poisson(2.0, 400)})
    family = Autoregressive(hidden=(4,), num_mixture_components=2)
    fit = pg.fit(family, table, engine=QUICK, backend="pyro", seed=0)
    assert {"calibration p", "independence p"} <= {name for name, passed in verdicts(fit).items() if passed}
    values = checks_networks.uniforms(fit).values
    assert len(np.unique(values[:, 1])) == len(values)  # counts anywhere in their steps


@pytest.mark.parametrize("kind", ["pairs", "density", "grid", "calibration", "loss", "posterior_predictive", "score"])
def test_pictures_of_an_ensemble(kind: str) -> None:
    figure = plots.KINDS[kind](right())
    figure.draw_without_rendering()
    assert all(ax.get_xlabel() for ax in figure.axes if ax.axison and ax.get_subplotspec().is_last_row())
    texts = " ".join([figure.get_suptitle(), *(text.get_text() for g in figure.legends for text in g.get_texts())])
    assert "posterior" not in texts
    assert "point estimate" not in texts


def test_a_density_is_drawn_only_where_it_is_known() -> None:
    reasons = plots.applicable(overfitted())
    assert reasons["density"] == "flow can't integrate its other columns out (see the pairs picture)"
    assert reasons["grid"] == "a grid is of two real columns"
    with pytest.raises(UnsupportedError, match="integrate"):
        plots.plot_density(overfitted())
    figure = plots.plot_pairs(overfitted())
    assert "rows drawn from the fit" in figure.get_suptitle()
    assert not any("density" in text.get_text() for ax in figure.axes if ax.get_legend() for text in
                   ax.get_legend().get_texts())  # fmt: skip


def test_the_grid_holds_the_masses_that_it_says() -> None:
    (first, _) = plots.plot_grid(right()).axes
    middle = first.lines[5].get_xydata()  # u1 = 0.5: of an autoregressive flow a straight line at the first column's
    drawn = right().sample(4000, seed=1)["a"]
    assert np.ptp(middle[:, 0]) < 1e-3 * drawn.std()
    # Half of the draws lie below it, but for the error of 4,000 of them and what sets the second member apart.
    assert abs((drawn < middle[0, 0]).mean() - 0.5) < 0.05


def test_the_interval_of_few_members_is_called_their_range() -> None:
    fit = pg.fit(small("normal"), two_columns(), engine=pg.SVI(num_members=3, max_steps=10), seed=0, backend="pyro")
    legends = []
    for prob in (0.9, 0.3):
        legend = plots.plot_score(fit, hdi_prob=prob).axes[0].get_legend()
        legends.append([text.get_text() for text in legend.get_texts()])
    assert "range of all 3 members of the ensemble" in legends[0]
    assert "30% interval over members of the ensemble" in legends[1]
