"""What must hold for every family of sequences, in every backend, parametrized over the table in zoo.py."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from zoo import SEQUENCE_CASES

import ppl_gen as pg

COLUMNS = {"sequence": "who", "order": "day"}
each = pytest.mark.parametrize("name", SEQUENCE_CASES)
each_backend = pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.pyro)])


@cache
def fitted(name: str, backend: str) -> pg.Fit:
    case = SEQUENCE_CASES[name]
    return pg.fit(case.family, case.table(), engine=case.engine, backend=backend, seed=1, **COLUMNS)


@each
@each_backend
def test_samples_come_back_as_the_table_went_in_and_score_as_the_table_does(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), SEQUENCE_CASES[name].table()
    sample = fit.sample(60, seed=3)
    assert list(sample.columns) == list(table.columns)
    kept = [column for column in table if column != "who"]  # the samples' names are numbers
    assert (sample[kept].dtypes == table[kept].dtypes).all()
    pd.testing.assert_frame_equal(sample, fit.sample(60, seed=3))
    ours = fit.score(sample, per_step=True, p_values=False).log_predictive
    theirs = fit.score(per_step=True, p_values=False).log_predictive
    error = np.hypot(ours.std() / len(ours) ** 0.5, theirs.std() / len(theirs) ** 0.5)
    # Steps of a sequence are correlated, so 8 standard errors of independent ones; and the fit's optimism on its own
    # rows, about a nat per parameter over all 120 of them.
    assert abs(ours.mean() - theirs.mean()) < 8 * error + 30 / len(theirs)


@each
def test_rescaling_a_real_column_shifts_each_step_by_log_1000(name: str) -> None:
    case = SEQUENCE_CASES[name]
    table = case.table()
    if "height" not in table:
        pytest.skip("counts and labels have no units")
    scaled = table.assign(height=table["height"] * 1000)
    one = fitted(name, "numpyro").score(per_step=True, p_values=False).log_predictive
    other = (
        pg.fit(case.family, scaled, engine=case.engine, seed=1, **COLUMNS)
        .score(per_step=True, p_values=False)
        .log_predictive
    )
    # The standardized tables differ by the rounding of the multiplication only, the engine's stopping by as little.
    np.testing.assert_allclose(other, one - np.log(1000), atol=0.02)


@each
@pytest.mark.pyro
def test_a_fit_of_one_backend_scores_the_same_in_the_other(name: str, tmp_path: Path) -> None:
    for here, there in (("numpyro", "pyro"), ("pyro", "numpyro")):
        fit = fitted(name, here)
        loaded = pg.load(fit.save(tmp_path / here), backend=there)
        steps, others = (f.score(per_step=True, p_values=False).log_predictive for f in (fit, loaded))
        np.testing.assert_allclose(others, steps, atol=2e-4)
        np.testing.assert_allclose(
            loaded.score(p_values=False).log_predictive, fit.score(p_values=False).log_predictive, rtol=2e-6, atol=1e-3
        )
        if not fit.family.num_labels:
            continue
        smoothed = [f.latents().filter(regex=r"^z=\d+$").to_numpy() for f in (fit, loaded)]
        np.testing.assert_allclose(*smoothed, atol=1e-3)


@each
@each_backend
def test_same_seed_same_bits_and_save_keeps_them(name: str, backend: str, tmp_path: Path) -> None:
    case, fit = SEQUENCE_CASES[name], fitted(name, backend)
    again = pg.fit(case.family, case.table(), engine=case.engine, backend=backend, seed=1, **COLUMNS)
    loaded = pg.load(fit.save(tmp_path / "fit"))
    for site, value in fit.draws.posterior.items():
        np.testing.assert_array_equal(again.draws.posterior[site], value)
        np.testing.assert_array_equal(loaded.draws.posterior[site], value)
    pd.testing.assert_frame_equal(loaded.train.to_frame(), case.table())


@each
@each_backend
def test_missing_entries_count_for_nothing(name: str, backend: str) -> None:
    fit, table = fitted(name, backend), SEQUENCE_CASES[name].table()
    columns = [column for column in table if column not in COLUMNS.values()]
    gap = table.astype(dict.fromkeys(columns, object))
    gap.loc[20, columns] = None
    if not fit.family.allows_missing:
        with pytest.raises(pg.DataError, match="missing values"):
            fit.score(gap, p_values=False)
        return
    assert abs(fit.score(gap, per_step=True, p_values=False).log_predictive[20]) < 1e-4
    before = fit.score(table, per_step=True, p_values=False).log_predictive
    np.testing.assert_allclose(
        fit.score(gap, per_step=True, p_values=False).log_predictive[:20], before[:20], atol=1e-4
    )


@each
def test_the_states_are_found(name: str) -> None:
    """Of all but the labels alone, whose two states overlap, the columns tell the states apart in most steps."""
    if not SEQUENCE_CASES[name].family.num_labels:
        pytest.skip("it has no states")
    sharpness = fitted(name, "numpyro").latents()["z_prob"].mean()
    assert sharpness > (0.6 if name == "hmm-categorical" else 0.85)
