"""Models are ranked on the same rows, and the error of a difference is that of paired differences."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from ppl_gen.compare import Comparison, compare, labels
from ppl_gen.engine import Draws
from ppl_gen.errors import DataError, SettingError
from ppl_gen.inference.em import EM
from ppl_gen.metrics import stacking_weights
from ppl_gen.models.gmm import GMM
from ppl_gen.result import Fit

ROWS = 120


@pytest.fixture(scope="module")
def two_clusters():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": 100 + rng.normal(size=ROWS) + 8 * (np.arange(ROWS) % 2)})


@pytest.fixture(scope="module")
def ranked(two_clusters):
    families = {f"k={k}": GMM(k, covariance="diag") for k in (1, 2, 3)}
    return compare(families, two_clusters, folds=3, engine=EM(num_starts=4), seed=1)


def fit_with(table, held_out, density="exact"):
    """A fit whose held-out densities are given."""

    class Stub(GMM):
        pass

    Stub.density = density
    family = Stub(1, covariance="diag")
    data = family.prepare(table)
    draws = Draws(posterior={"locs": np.zeros((1, 1, 1, 1)), "scales": np.ones((1, 1, 1, 1))}, uncertainty="point")
    fit = Fit(family=family, engine=EM(), backend="numpyro", seed=0, schema=data.schema, draws=draws, train=data,
              versions={}, seconds=0.0)  # fmt: skip
    fit.__dict__["held_out"] = np.asarray(held_out, float)
    return fit


class TestFolds:
    def test_the_true_number_of_components_wins(self, ranked):
        assert ranked.best == "k=2"
        assert ranked.frame["difference"].iloc[0] == 0.0
        assert ranked.frame.loc["k=1", "difference"] < -5 * ranked.frame.loc["k=1", "difference_se"]
        assert ranked.frame.loc["k=2", "weight"] > 0.5

    def test_every_row_is_scored_once_by_each_model(self, ranked):
        assert ranked.pointwise.shape == (ROWS, 3)
        np.testing.assert_allclose(ranked.pointwise.sum(), ranked.frame["elpd"][ranked.pointwise.columns])

    def test_densities_are_those_of_the_raw_table(self, ranked, two_clusters):
        """A row's density is near the true one: 0.5 N(100, 1) + 0.5 N(108, 1), nats."""
        from scipy.stats import norm

        x = two_clusters["a"].to_numpy()
        truth = np.log(0.5 * norm.pdf(x, 100) + 0.5 * norm.pdf(x, 108))
        assert ranked.pointwise["k=2"].mean() == pytest.approx(truth.mean(), abs=0.1)

    def test_test_rows_are_scored_instead_where_they_are_given(self, two_clusters):
        train, test = two_clusters.iloc[:80], two_clusters.iloc[80:]
        families = [GMM(1, covariance="diag"), GMM(2, covariance="diag")]
        result = compare(families, train, test=test, engine=EM(num_starts=2))
        assert result.best == "gmm num_components=2 covariance=diag"
        assert len(result.pointwise) == 40
        assert "40 test rows" in result.how
        with pytest.raises(DataError, match="20 of the 60 rows of the test table are training rows"):
            compare(families, train, test=two_clusters.iloc[60:], engine=EM(num_starts=2))

    def test_the_same_seed_gives_the_same_numbers(self, ranked, two_clusters):
        again = compare({"k=2": GMM(2, covariance="diag")}, two_clusters, folds=3, engine=EM(num_starts=4), seed=1)
        np.testing.assert_array_equal(again.pointwise["k=2"], ranked.pointwise["k=2"])


class TestFits:
    def test_the_error_of_a_difference_is_paired(self):
        """Two models whose rows vary wildly together differ by a constant and a little noise: known exactly."""
        rng = np.random.default_rng(0)
        common, noise = 50 * rng.normal(size=ROWS), rng.normal(size=ROWS)
        table = rng.normal(size=(ROWS, 1))
        models = {"better": fit_with(table, common), "worse": fit_with(table, common - 1 + noise)}
        row = compare(models).frame.loc["worse"]
        assert row["difference"] == pytest.approx(np.sum(noise - 1))
        assert row["difference_se"] == pytest.approx(np.sqrt(ROWS * np.var(noise, ddof=1)))
        assert row["se"] > 10 * row["difference_se"]

    def test_models_too_near_to_tell_apart_are_named(self):
        rng = np.random.default_rng(0)
        table = rng.normal(size=(ROWS, 1))
        models = {name: fit_with(table, rng.normal(size=ROWS) + shift) for name, shift in
                  {"a": 0.0, "b": 0.0, "far": -9.0}.items()}  # fmt: skip
        (warning,) = compare(models).warnings
        assert "Can't be told apart" in warning
        assert "far" not in warning

    def test_different_kinds_of_density_are_warned_about(self):
        table = np.random.default_rng(0).normal(size=(ROWS, 1))
        models = {"a": fit_with(table, np.zeros(ROWS)), "b": fit_with(table, np.full(ROWS, -3.0), "importance")}
        assert "not the same kind of number" in compare(models).warnings[0]

    def test_rows_that_one_model_can_not_judge_are_left_out_for_all(self):
        table = np.random.default_rng(0).normal(size=(ROWS, 1))
        gappy = np.where(np.arange(ROWS) < 7, np.nan, -1.0)
        result = compare({"a": fit_with(table, np.zeros(ROWS)), "b": fit_with(table, gappy)})
        assert len(result.pointwise) == ROWS - 7
        assert "7 rows" in result.warnings[-1]

    def test_fits_of_different_tables_are_refused(self):
        rng = np.random.default_rng(0)
        first, second = rng.normal(size=(ROWS, 1)), rng.normal(size=(ROWS, 1))
        models = [fit_with(first, np.zeros(ROWS)), fit_with(second, np.zeros(ROWS))]
        with pytest.raises(DataError, match="same rows"):
            compare(models)
        with pytest.raises(DataError, match="not made from this table"):
            compare(models, first)

    def test_rows_that_a_fit_has_seen_are_no_test(self):
        table = np.random.default_rng(0).normal(size=(ROWS, 1))
        with pytest.raises(DataError, match="has not seen"):
            compare([fit_with(table, np.zeros(ROWS))], test=table)

    def test_row_weights_count_rows_more_than_once(self):
        table = np.random.default_rng(0).normal(size=(ROWS, 1))
        weights = np.random.default_rng(1).integers(1, 4, size=ROWS)
        values = np.random.default_rng(2).normal(size=ROWS)
        fit = fit_with(table, values)
        weighted = dataclasses.replace(fit, train=dataclasses.replace(fit.train, weights=weights.astype(float)))
        weighted.__dict__["held_out"] = values
        row = compare({"m": weighted}).frame.iloc[0]
        repeated = np.repeat(values, weights)
        assert row["elpd"] == pytest.approx(repeated.sum())
        assert row["se"] == pytest.approx(np.sqrt(len(repeated) * repeated.var(ddof=1)))


class TestStacking:
    def test_weights_are_the_best_mixture(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(200, 2))
        found = stacking_weights(values)
        best = minimize_scalar(lambda w: -np.log(np.exp(values) @ [w, 1 - w]).mean(), bounds=(0, 1), method="bounded",
                               options={"xatol": 1e-8})  # fmt: skip
        assert found == pytest.approx([best.x, 1 - best.x], abs=1e-3)

    def test_a_model_that_is_never_best_gets_nothing(self):
        values = np.random.default_rng(0).normal(size=(100, 1)) + np.array([0.0, -2.0, -5.0])
        assert stacking_weights(values) == pytest.approx([1, 0, 0], abs=1e-6)

    def test_densities_far_below_what_a_float_holds_are_fine(self):
        values = np.array([[-5000.0, -5001.0], [-9000.0, -9003.0], [-np.inf, -4.0]])
        assert stacking_weights(values).sum() == pytest.approx(1)


class TestAsking:
    def test_bad_requests_are_named(self, two_clusters):
        with pytest.raises(SettingError, match="at least one"):
            compare({})
        with pytest.raises(SettingError, match="family such as"):
            compare({"a": 3})
        with pytest.raises(SettingError, match="number of folds"):
            compare([GMM(1)], two_clusters, folds=1)
        with pytest.raises(SettingError, match="needs a table"):
            compare([GMM(1)])

    def test_families_are_named_by_what_differs(self):
        assert labels([GMM()]) == ["gmm"]
        assert labels([GMM(2), GMM(3)]) == ["gmm num_components=2", "gmm num_components=3"]
        assert labels([GMM(3), GMM(3)]) == ["gmm num_components=3 #1", "gmm num_components=3 #2"]

    def test_it_reads_as_text_json_and_rich(self, ranked):
        from rich.console import Console

        assert "k=2" in str(ranked)
        assert json.loads(json.dumps(ranked.to_dict(), allow_nan=False))["best"] == "k=2"
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(ranked)
        assert "difference" in console.export_text()
        assert isinstance(ranked, Comparison)
