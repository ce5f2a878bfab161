"""Columns of counts or truth values that hold one value only: a key that is never played, a fault that never came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen import plots, predictive
from ppl_gen.columns import Column
from ppl_gen.data import Data
from ppl_gen.models.hmm import HMM

BACKENDS = ["numpyro", "pyro"]


def switching(num_steps: int = 150) -> pd.DataFrame:
    """A key that two states play with probability 0.9 and 0.1, and a count."""
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.random(num_steps) < 0.1) % 2
    played = rng.random(num_steps) < np.where(state, 0.9, 0.1)
    return pd.DataFrame({"played": played, "notes": rng.poisson(np.where(state, 9, 2))})


def fitted(table: pd.DataFrame, emission: str = "auto", **job: Any) -> pg.Fit:
    return pg.fit(
        HMM(2, emission=emission), table, **{"engine": pg.EM(num_starts=3, num_bootstraps=4), "seed": 0, **job}
    )


class TestData:
    def test_they_are_kept_and_named(self) -> None:
        table = switching().assign(never=False, always=1, none=0, seven=7)
        with pytest.warns(
            UserWarning, match="^Columns 'never', 'always', 'none', 'seven' never vary: only the one value"
        ):
            data = Data.from_table(table)
        assert data.schema.kinds == ("binary", "count", "binary", "binary", "binary", "count")
        np.testing.assert_array_equal(data.x[:, 2:], np.broadcast_to([0, 1, 0, 7], (150, 4)))
        with pytest.warns(UserWarning, match="^Column 'never' never varies: "):
            pd.testing.assert_frame_equal(
                Data.from_table(table[["never", "notes"]]).to_frame(), table[["never", "notes"]]
            )

    def test_ten_names_are_enough(self) -> None:
        table = switching().assign(**{f"key {i}": 0 for i in range(30)})
        with pytest.warns(UserWarning, match=r"'key 9', \.\.\. \(30 in all\) never vary"):
            Data.from_table(table)

    def test_their_kind_can_be_given(self) -> None:
        table = switching().assign(never=0.0)
        with pytest.raises(pg.DataError, match=r"'never' is constant, 0\.0 in every row: drop it"):
            Data.from_table(table)
        for kind in ("binary", "count"):
            with pytest.warns(UserWarning, match="'never'"):
                assert Data.from_table(table, kinds={"never": kind}).schema.kinds[2] == kind

    def test_rows_without_weight_do_not_count(self) -> None:
        table = pd.DataFrame({"a": [0, 0, 1], "b": [0, 1, 1]})
        with pytest.warns(UserWarning, match="Column 'a' never varies"):
            Data.from_table(table, weights=[1, 1, 0])

    def test_a_family_of_real_columns_refuses_them(self) -> None:
        """A normal has no scale for them, whether the table or the data were read."""
        table = switching().assign(never=0)
        with pytest.raises(pg.DataError, match="'never' is constant"):
            pg.GMM(2).prepare(table)
        with pytest.warns(UserWarning, match="'never'"):
            data = Data.from_table(table, standardize=False)
        with pytest.raises(pg.DataError, match="'never' is constant"):
            pg.GMM(2).prepare(data)


@pytest.mark.filterwarnings("ignore:Column:UserWarning")
class TestFit:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_what_was_always_so_adds_nothing_to_the_density_and_a_surprise_its_odds(self, backend: str) -> None:
        """By maximum likelihood the probability of the other value is the least that is allowed, 1.2e-7 (a rate 1e-8),
        so that a step's log density is that without the column, but for 1e-6, and log 1.2e-7 = -15.9 less after a
        surprise."""
        table = switching()
        whole = table.assign(never=False, always=True, none=0)
        job = {"backend": backend, "kinds": {"none": "count"}}
        plain, fit = fitted(table, backend=backend), fitted(whole, **job)
        before, after = (f.score(t, per_step=True).log_predictive for f, t in ((plain, table), (fit, whole)))
        np.testing.assert_allclose(after, before, atol=1e-3)  # float32, and starts of their own
        for column, value, odds in (("never", True, 1.2e-7), ("always", False, 1.2e-7), ("none", 1, 1e-8)):
            surprise = whole.copy()
            surprise.loc[7, column] = value
            change = fit.score(surprise, per_step=True).log_predictive - after
            assert change[7] == pytest.approx(np.log(odds), abs=0.2), column
            np.testing.assert_allclose(np.delete(change, 7), 0, atol=1e-3)

    def test_every_column_may_be_read_as_the_emission_takes_it(self) -> None:
        table = switching()[["played"]].assign(never=0, seven=1)
        assert fitted(table, "bernoulli").schema.kinds == ("binary",) * 3
        assert fitted(table, "poisson").schema.kinds == ("count",) * 3
        with pytest.raises(pg.DataError, match="'never' is constant"):
            fitted(table, "gaussian")

    def test_a_posterior_learns_how_rare_the_other_value_is(self) -> None:
        """Under a uniform prior it is Beta(1, 151) after 150 steps. Of some 200 effective draws the mean, as large as
        the standard deviation, has relative error 7 %."""
        table = switching()[["played"]].assign(never=False, always=True)
        engine = pg.NUTS(num_samples=150, num_warmup=150, num_chains=2, num_starts=1)
        fit = pg.fit(HMM(1, emission="bernoulli"), table, engine=engine, seed=0)
        assert fit.draws.sample_stats["diverging"].mean() < 0.01
        never, always = fit.posterior["probs"][:, 0, 1:].T
        assert never.mean() == pytest.approx(1 / 152, rel=4 * 0.07)
        assert 1 - always.mean() == pytest.approx(1 / 152, rel=4 * 0.07)

    def test_it_is_diagnosed_and_drawn_as_any_other(self) -> None:
        fit = fitted(switching().assign(never=False, always=True, none=0))
        diagnosis = fit.diagnose()
        assert diagnosis["posterior predictive p"].passed
        assert diagnosis["pseudo-residual p"].passed
        for draw in (plots.plot_posterior_predictive, plots.plot_residuals, plots.plot_forecast):
            assert draw(fit).axes
        drawn = fit.sample(1, length=50)
        assert not drawn["never"].any()
        assert drawn["always"].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_estimate_is_infinite_in_the_coordinates_of_a_sampler(backend: str) -> None:
    """Which starts from EM's solutions, in single precision: a key that one state always plays would be at logit(1)."""
    table = switching(80)
    engine = pg.EM(objective="map", num_starts=2, num_bootstraps=0)
    fit = fitted(table.assign(loud=table["notes"] > 5, quiet=table["notes"] <= 5), backend=backend, engine=engine)
    probs = fit.draws.point["probs"].astype(np.float32)
    assert 0 < probs.min() < 1e-6
    assert 1 - 1e-6 < probs.max() < 1


def test_statistics_that_hardly_vary_hide_no_misfit() -> None:
    """One replicate in ten has a note on a key that was never played, which says nothing; a count that is ten times as
    large as predicted still shows."""
    rng = np.random.default_rng(0)
    columns = (*(Column(f"key {i}", "binary", "bool") for i in range(20)), Column("notes", "count", "int64"))
    observed = np.zeros((100, 21))
    observed[:, -1] = rng.poisson(30, 100)
    replicates = np.zeros((200, 100, 21))
    replicates[..., -1] = rng.poisson(3, (200, 100))
    replicates[np.arange(0, 200, 10), 50, np.arange(20)] = 1.0
    found = predictive.check(observed, replicates, columns)
    assert found.p_value == pytest.approx(1 / 201)
    assert "notes" in found.table["statistic"][0]
    observed[:, -1] = rng.poisson(3, 100)
    assert predictive.check(observed, replicates, columns).p_value > 0.01
