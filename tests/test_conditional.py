"""Conditional models p(x | y): what is conditioned on is neither modelled nor scored, and drawn rows keep it."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import ppl_gen as pg
from ppl_gen import plots
from ppl_gen.cli import app
from ppl_gen.data import Data, Schema
from ppl_gen.errors import UnsupportedError
from ppl_gen.evidence import Evidence
from ppl_gen.models.flow import Flow

NOISE = 2.0
ENGINE = pg.SVI(num_members=1, max_steps=1000, batch_size=128, learning_rate=1e-2)
TINY = Flow(transform="maf", num_layers=2, hidden=(16,), condition_on=("dose",))


def doses(num_rows: int = 1500, seed: int = 0) -> pd.DataFrame:
    """response = 2 dose + noise, in units far from 1; a second response that has nothing to do with the dose."""
    rng = np.random.default_rng(seed)
    dose = 10 + 3 * rng.standard_normal(num_rows)
    return pd.DataFrame({
        "dose": dose, "response": 2 * dose + NOISE * rng.standard_normal(num_rows),
        "other": 5 * rng.standard_normal(num_rows),
    })  # fmt: skip


def mixed(num_rows: int = 80, seed: int = 0) -> pd.DataFrame:
    """A condition of every kind about one real column."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "visits": rng.poisson(5, num_rows), "x": rng.standard_normal(num_rows),
        "site": rng.choice(["a", "b", "c"], num_rows), "smoker": rng.random(num_rows) < 0.4,
        "dose": rng.uniform(0, 100, num_rows),
    })  # fmt: skip


@cache
def fitted() -> pg.Fit:
    return pg.fit(TINY, doses(), engine=ENGINE, seed=0)


def true_log_density(table: pd.DataFrame) -> np.ndarray:
    z = (table["response"] - 2 * table["dose"]) / NOISE
    return -0.5 * z**2 - 0.5 * (table["other"] / 5) ** 2 - np.log(2 * np.pi * NOISE * 5)


def test_the_density_given_the_condition_is_the_true_one() -> None:
    fresh = doses(4000, seed=1)
    lost = true_log_density(fresh) - fitted().score(fresh, p_values=False).log_predictive
    # KL(truth || fit), to a standard error of 0.003; the marginal density of the response, which ignores the dose,
    # would be log(sqrt(36 + 4) / 2) = 1.15 nats away.
    assert -0.01 < lost.mean() < 0.03


def test_it_integrates_to_one_over_the_targets_for_each_condition() -> None:
    for dose in (6.0, 12.5):
        response, other = np.linspace(2 * dose - 14, 2 * dose + 14, 161), np.linspace(-40, 40, 161)
        grid = np.stack(np.meshgrid(response, other, indexing="ij"), -1).reshape(-1, 2)
        table = pd.DataFrame({"dose": dose, "response": grid[:, 0], "other": grid[:, 1]})
        density = np.exp(fitted().score(table, p_values=False).log_predictive).reshape(161, 161)
        assert np.trapezoid(np.trapezoid(density, other, axis=1), response) == pytest.approx(1, abs=5e-3)


def test_rescaling_a_target_shifts_the_density_and_rescaling_a_condition_changes_nothing() -> None:
    engine, table = ENGINE.replace(max_steps=100), doses(300)
    plain = pg.fit(TINY, table, engine=engine, seed=0).score().log_predictive
    target = pg.fit(TINY, table.assign(response=table["response"] * 1000), engine=engine, seed=0).score().log_predictive
    given = pg.fit(TINY, table.assign(dose=table["dose"] * 1000 + 7), engine=engine, seed=0).score().log_predictive
    # Standardized tables are alike but for rounding, which a hundred steps in single precision let grow a little.
    np.testing.assert_allclose(target, plain - np.log(1000), atol=5e-3)
    np.testing.assert_allclose(given, plain, atol=5e-3)


def test_conditions_of_every_kind_become_context_and_leave_the_targets() -> None:
    table = mixed()
    data = Flow(transform="maf", condition_on="visits, site, smoker, dose").prepare(table)
    assert data.schema.conditions == ("visits", "site", "smoker", "dose")
    assert data.schema.targets == ("x",)
    assert dict(zip(data.schema.names, data.schema.kinds, strict=True))["visits"] == "real"
    view = data.view()
    assert view.x.shape == (80, 1)
    assert view.context.shape == (80, data.schema.num_context) == (80, 6)
    np.testing.assert_allclose(view.context[:, [0, 5]].mean(0), 0, atol=1e-12)  # counts and real numbers, standardized
    np.testing.assert_allclose(view.context[:, [0, 5]].std(0), 1)
    np.testing.assert_array_equal(view.context[:, 1:4], pd.get_dummies(table["site"]).to_numpy(float))
    np.testing.assert_array_equal(view.context[:, 4], table["smoker"])
    assert data.log_jacobian() == pytest.approx(np.full(80, -np.log(table["x"].std(ddof=0))))
    pd.testing.assert_frame_equal(data.to_frame(), table)


def test_the_schema_of_a_conditional_model_survives_storage_and_loses_units() -> None:
    schema = Flow(transform="maf", condition_on=("site", "dose")).prepare(mixed()[["x", "site", "dose"]]).schema
    assert Schema.from_config(json.loads(json.dumps(schema.to_config()))) == schema
    bare = schema.without_units()
    assert bare.conditions == ("x1", "x2")
    assert bare.num_context == schema.num_context == 4
    with pytest.raises(pg.DataError, match="damaged"):
        Schema.from_config({**schema.to_config(), "conditions": ["elsewhere"]})
    plain = pg.GMM(2).prepare(mixed()[["x", "dose"]]).schema
    assert "conditions" not in plain.to_config()


def test_a_table_is_read_once_and_conditioned_on_in_several_ways() -> None:
    data = Data.from_table(doses(60))
    assert TINY.prepare(data).schema.conditions == ("dose",)
    assert TINY.prepare(TINY.prepare(data)).schema.conditions == ("dose",)
    assert TINY.replace(condition_on=()).prepare(TINY.prepare(data)).schema == data.schema
    array = Flow(transform="maf", condition_on=(0, 2)).prepare(doses(60).to_numpy())
    assert array.schema.conditions == ("x0", "x2")
    chosen = TINY.prepare(doses(60), columns=["other"])
    assert (chosen.schema.targets, chosen.schema.conditions) == (("other",), ("dose",))


def test_rows_are_drawn_for_what_is_given_in_its_order() -> None:
    given = pd.DataFrame({"dose": [14.0, 4.0, 9.0]}, index=["high", "low", "middle"])
    drawn = fitted().sample(200, given=given, seed=1)
    assert list(drawn.columns) == ["dose", "response", "other"]
    assert list(drawn.index) == ["high"] * 200 + ["low"] * 200 + ["middle"] * 200
    np.testing.assert_allclose(drawn["dose"], np.repeat(given["dose"], 200), rtol=1e-12)
    # 200 draws: a standard error of 0.14 of the mean, four of them.
    means = drawn.groupby(level=0, sort=False)["response"].mean()
    np.testing.assert_allclose(means, 2 * given["dose"], atol=0.6)
    pd.testing.assert_frame_equal(drawn, fitted().sample(200, given=given, seed=1))


def test_other_columns_of_what_is_given_are_not_looked_at() -> None:
    rows = doses(5, seed=3)
    whole = fitted().sample(1, given=rows.assign(response=np.nan), seed=2)
    pd.testing.assert_frame_equal(whole, fitted().sample(1, given=rows[["dose"]], seed=2))
    encoded = fitted().schema.encode(rows)
    pd.testing.assert_frame_equal(whole, fitted().sample(1, given=encoded, seed=2))


def test_without_given_rows_conditions_are_those_of_training_rows() -> None:
    drawn = fitted().sample(500, seed=4)
    there = np.sort(doses()["dose"].to_numpy())
    nearest = there[np.clip(np.searchsorted(there, drawn["dose"] - 1e-9), 0, len(there) - 1)]
    np.testing.assert_allclose(drawn["dose"], nearest, rtol=1e-9)
    assert drawn["dose"].nunique() > 300
    spread = np.std(drawn["response"] - 2 * drawn["dose"])
    assert spread == pytest.approx(NOISE, rel=0.15)  # 500 draws: a standard error of 3 %


def test_replicated_tables_have_the_conditions_of_the_observed_one() -> None:
    evidence = Evidence.of(fitted())
    assert evidence.observed.shape == (1000, 2)
    assert evidence.replicates.shape[-2:] == (1000, 2)
    # Two responses to one dose correlate by 36 / (36 + 4); to doses of other rows they would not at all.
    correlation = np.corrcoef(evidence.replicates[0, 0, :, 0], evidence.observed[:, 0])[0, 1]
    assert correlation == pytest.approx(0.9, abs=0.03)
    diagnosis = fitted().diagnose()
    assert set(diagnosis.details["pit"].columns) == {"response", "other"}
    assert not diagnosis.details["predictive"]["statistic"].str.contains("dose").any()


def test_the_picture_of_conditionals_follows_the_condition() -> None:
    figure = plots.plot_conditionals(fitted())
    assert [ax.get_ylabel() for ax in figure.axes] == ["response", "other"]
    assert figure.axes[1].get_xlabel() == "dose"
    places, median = figure.axes[0].lines[0].get_data()
    # A median of 400 draws has standard error 1.25 * NOISE / 20 = 0.125; the fit is 0.3 off at the ends of the doses.
    np.testing.assert_allclose(median[5:-5], 2 * places[5:-5], atol=0.8)
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata()[5:-5], 0, atol=2)  # of standard deviation 5
    with pytest.raises(UnsupportedError, match="nothing is conditioned on"):
        plots.plot_conditionals(pg.fit(pg.GMM(1), doses(60), engine=pg.EM(num_bootstraps=0), seed=0))


def test_a_saved_conditional_fit_comes_back(tmp_path) -> None:
    fit = fitted()
    fit.save(tmp_path / "run")
    loaded = pg.load(tmp_path / "run")
    assert loaded.family == fit.family
    assert loaded.schema == fit.schema
    rows = doses(20, seed=5)
    np.testing.assert_array_equal(
        loaded.score(rows, p_values=False).log_predictive, fit.score(rows, p_values=False).log_predictive
    )
    given = rows[["dose"]]
    pd.testing.assert_frame_equal(loaded.sample(2, given=given, seed=1), fit.sample(2, given=given, seed=1))
    assert list(fit.data["posterior_predictive"]["column_name"].values) == ["response", "other"]


def test_the_command_line_conditions_and_draws_for_a_file(tmp_path) -> None:
    doses(60).to_csv(tmp_path / "trial.csv", index=False)
    pd.DataFrame({"dose": [4.0, 14.0]}).to_csv(tmp_path / "given.csv", index=False)
    run, out = str(tmp_path / "run"), str(tmp_path / "drawn.csv")
    options = ["transform=maf", "num_layers=1", "hidden=[4]", "condition_on=dose"]
    steps = ["--engine", "svi", "--engine-set", "max_steps=20", "--engine-set", "num_members=1"]
    arguments = ["fit", str(tmp_path / "trial.csv"), "flow", *(f"--set={option}" for option in options), *steps]
    found = CliRunner().invoke(app, [*arguments, "-o", run, "--json"])
    assert found.exit_code == 0, found.output
    found = CliRunner().invoke(app, ["sample", run, "-n", "3", "--given", str(tmp_path / "given.csv"), "-o", out])
    assert found.exit_code == 0, found.output
    drawn = pd.read_csv(out)
    assert list(drawn.columns) == ["dose", "response", "other"]
    np.testing.assert_allclose(drawn["dose"], [4, 4, 4, 14, 14, 14])


@pytest.mark.parametrize(
    ("condition_on", "options", "message"),
    [
        (("dosis",), {}, "no column 'dosis': did you mean 'dose'"),
        (("dose", "response", "other"), {}, "Every column is conditioned on"),
        (("dose",), {"drop": "dose"}, "can't be left out"),
    ],
)
def test_conditions_that_make_no_model_are_refused(condition_on: tuple, options: dict, message: str) -> None:
    with pytest.raises(pg.DataError, match=message):
        TINY.replace(condition_on=condition_on).prepare(doses(60), **options)


def test_missing_conditions_are_refused_in_training_and_in_new_rows() -> None:
    table = doses(60)
    table.loc[7, "dose"] = np.nan
    with pytest.raises(pg.DataError, match=r"'dose', row 7.*conditioned on"):
        TINY.prepare(table)
    with pytest.raises(pg.DataError, match=r"'dose', row 7.*conditioned on"):
        TINY.prepare(Data.from_table(table))
    with pytest.raises(pg.DataError, match=r"'dose', row 7.*conditioned on"):
        fitted().score(table)
    with pytest.raises(pg.DataError, match=r"'dose', row 7.*conditioned on"):
        fitted().sample(1, given=table)
    with pytest.raises(pg.DataError, match="'dose' is missing"):
        fitted().sample(1, given=table[["response"]])


def test_what_is_given_to_a_model_of_no_conditions_is_refused() -> None:
    plain = pg.fit(pg.GMM(2), doses(60), engine=pg.EM(num_starts=1, num_bootstraps=0))
    with pytest.raises(pg.SettingError, match="without condition_on"):
        plain.sample(1, given=doses(2))
    with pytest.raises(pg.SettingError, match="names of columns"):
        Flow(condition_on=("a", "a"))
    assert Flow(condition_on='"a, b", c').condition_on == ("a, b", "c")


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
@pytest.mark.parametrize(
    "family", [Flow("maf", num_layers=1), Flow("realnvp", num_layers=2), pg.Autoregressive(), pg.VAE(1)]
)
def test_a_condition_far_outside_says_no_more_than_one_at_the_limit(family: pg.Family, backend: str) -> None:
    narrow = family.replace(hidden=(4,), condition_on=("dose",))
    table = doses(60)
    fit = pg.fit(narrow, table, engine=ENGINE.replace(max_steps=20), backend=backend, seed=0)
    far = table.iloc[[0, 0, 0]].assign(dose=[1e3, 1e6, 1e12])  # the limit is 10 standard deviations of 3 from 10
    log_prob = fit.score(far, p_values=False).log_predictive
    np.testing.assert_array_equal(log_prob, log_prob[0])
    drawn = fit.sample(3, given=far[["dose"]].iloc[2:], seed=0)
    same = fit.sample(3, given=far[["dose"]].iloc[:1], seed=0)
    np.testing.assert_array_equal(drawn["response"], same["response"])
