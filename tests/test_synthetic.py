"""Synthetic rows: copies are caught, good ones pass, few rows show nothing, and attacks find what there is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import ppl_gen as pg
from ppl_gen import membership
from ppl_gen.cli import main
from ppl_gen.result import Fit
from ppl_gen.synthetic import evaluate_synthetic
from ppl_gen.two_tables import refuse_training_rows
from ppl_gen.usefulness import train_on_each

PRIVATE = ("copies of training rows", "nearer to training than to other rows, 95 % bound",
           "advantage by distance, 95 % bound", "advantage by density, 95 % bound")  # fmt: skip


def rows(number: int, seed: int) -> pd.DataFrame:
    """Three correlated normals, the last told by the others up to a standard deviation of 0.5."""
    x = np.random.default_rng(seed).normal(size=(number, 3))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 0] - x[:, 1] + 0.5 * x[:, 2]})


@pytest.fixture(scope="module")
def fit() -> Fit:
    return pg.fit(pg.GMM(1), rows(1500, 0), engine=pg.EM(num_starts=1, num_bootstraps=0), seed=0)


class TestAttacks:
    def test_the_advantage_of_two_normals(self) -> None:
        """By a shift of d sds the best threshold has the advantage 2 Phi(d / 2) - 1, without a shift 0."""
        rng = np.random.default_rng(0)
        for shift in (0.0, 0.5, 2.0):
            found = membership.advantage(rng.normal(shift, 1, 3000), rng.normal(0, 1, 3000))
            truth = 2 * norm.cdf(shift / 2) - 1
            assert abs(found.value - truth) < 3 * found.error + 0.01  # the threshold is chosen, too
            assert 0.005 < found.error < 0.02

    def test_it_is_not_above_zero_for_having_been_chosen(self) -> None:
        rng = np.random.default_rng(1)
        found = [membership.advantage(*rng.normal(size=(2, 60)), seed) for seed in range(400)]
        values, errors = (np.array([each[k] for each in found]) for k in (0, 1))
        assert abs(values.mean()) < 3 * values.std() / 20
        assert 0.8 < errors.mean() / values.std() < 1.25

    def test_closeness_of_fresh_rows_and_of_copies(self) -> None:
        found = []
        for seed in range(60):
            train, fresh, samples = np.random.default_rng(seed).normal(size=(3, 100, 3))
            found.append(membership.closeness(train, fresh, samples, seed))
        shares, errors = (np.array([getattr(each, name) for each in found]) for name in ("nearer", "error"))
        assert abs(shares.mean() - 0.5) < 3 * shares.std() / np.sqrt(60)
        assert errors.mean() > 0.8 * shares.std()
        copied = membership.closeness(train, fresh, train[:50])
        assert copied.copies == copied.nearer == 1.0
        assert copied.chance_copies == 0.0
        assert copied.samples == (0.0, 0.0)


def test_rows_of_the_truth_pass(fit: Fit) -> None:
    found = fit.synthesize(1500, holdout=rows(1500, 1), target="c", seed=2)
    report = found.report
    assert report.privacy == "no leak found"
    assert report.passed
    assert report.verdict.startswith("No leak found by 4 tests, which is no guarantee")
    assert list(found.table.columns) == ["a", "b", "c"]
    assert [check.name for check in report.checks if check.name.startswith("privacy")] == [
        f"privacy: {name}" for name in PRIVATE
    ]
    lost = report["utility: R squared of c lost"]
    assert abs(lost.figure) < 3 * float(lost.info.rpartition("± ")[2])


def test_copies_are_caught(fit: Fit) -> None:
    copies = fit.train.to_frame().sample(750, random_state=0)
    report = evaluate_synthetic(fit, copies, rows(1500, 1))
    assert report.privacy == "leak"
    assert report.verdict.startswith("LEAKS TRAINING ROWS")
    assert report[f"privacy: {PRIVATE[0]}"].figure == 1.0
    for name in PRIVATE[1:3]:
        assert not report[f"privacy: {name}"].passed
    blurred = copies + np.random.default_rng(0).normal(size=copies.shape) * 0.01  # copies no longer, but as close
    report = evaluate_synthetic(fit, blurred, rows(1500, 1))
    assert report.privacy == "leak"
    assert report[f"privacy: {PRIVATE[0]}"].passed
    assert not report[f"privacy: {PRIVATE[1]}"].passed


def test_a_density_that_has_learned_rows_by_heart_is_caught() -> None:
    """40 rows under 8 components that may be as narrow as they like."""
    narrow = pg.GMM(8, covariance="full")
    fit = pg.fit(narrow, rows(80, 0), engine=pg.EM(num_starts=2, num_bootstraps=0), seed=0)
    report = fit.synthesize(200, holdout=rows(80, 1)).report
    assert report.privacy == "leak"
    assert not report[f"privacy: {PRIVATE[3]}"].passed


def test_nothing_is_called_private_that_was_not_tested(fit: Fit) -> None:
    untested = fit.synthesize(100).report
    assert untested.privacy == "untested"
    assert untested.verdict.startswith("NOT SHOWN TO BE PRIVATE: without a holdout")
    assert not untested.passed
    few = fit.synthesize(100, holdout=rows(30, 1), seed=1).report
    assert few.privacy == "not shown"
    bounds = evaluate_synthetic(fit, rows(1500, 0).head(100), rows(20, 1))
    assert all(check.figure <= 1 for check in bounds.checks if check.name.endswith("95 % bound"))
    assert few.verdict.startswith("NOT SHOWN TO BE PRIVATE")


def test_labels_are_told_by_their_own_measure() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    table = pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "y": np.where(x[:, 0] > 0, "high", "low")})
    parts = [table[i : i + 200].reset_index(drop=True) for i in (0, 200, 400)]
    found = train_on_each(*parts, "y", 0)
    assert found.measure == "AUROC"
    assert min(found.real, found.synthetic) > 0.95
    one_label = train_on_each(parts[0], parts[1].assign(y="high"), parts[2], "y", 0)
    assert one_label.synthetic == 0.5
    digits = [part.assign(y=np.digitize(part.u, [-0.5, 0.5])) for part in parts]
    assert train_on_each(*digits, "y", 0).measure == "accuracy"


def test_what_is_refused(fit: Fit) -> None:
    with pytest.raises(pg.DataError, match="holdout holds the training rows"):
        fit.synthesize(100, holdout=rows(1500, 0))
    with pytest.raises(pg.DataError, match="60 of the 300 rows of the holdout are training rows"):
        fit.synthesize(100, holdout=pd.concat([rows(1500, 0).tail(60), rows(240, 1)]))
    with pytest.raises(pg.DataError, match="no column 'd'"):
        fit.synthesize(100, holdout=rows(50, 1), target="d")
    with pytest.raises(pg.DataError, match="The holdout has 5 rows, and at least 20"):
        fit.synthesize(100, holdout=rows(5, 1))
    with pytest.raises(pg.SettingError, match="num_samples"):
        fit.synthesize(3)


def test_rows_that_lack_entries_are_left_out_of_the_tests() -> None:
    holes = rows(400, 0).mask(np.random.default_rng(0).random((400, 3)) < 0.1)
    fit = pg.fit(pg.GMM(1), holes, engine=pg.EM(num_starts=1, num_bootstraps=0), seed=0)
    whole = int(holes.notna().all(axis=1).sum())
    untested = fit.synthesize(100).report
    assert untested["rows left out"].info.startswith(f"{400 - whole} of 400 training rows: ")
    new = rows(100, 1)
    new.iloc[:30, 0] = np.nan
    report = fit.synthesize(100, holdout=new, target="c").report
    assert f"{400 - whole} of 400 training rows and 30 of 100 held-out rows" in report["rows left out"].info
    assert np.isfinite([check.figure for check in report.checks if check.figure is not None]).all()
    with pytest.raises(pg.DataError, match=r"The holdout has 10 rows of 40 without missing entries, .* whole rows"):
        fit.synthesize(100, holdout=new.head(40))
    few = rows(40, 0)
    few.iloc[:30, 0] = np.nan
    sparse = pg.fit(pg.GMM(1), few, engine=pg.EM(num_starts=1, num_bootstraps=0), seed=0)
    with pytest.raises(pg.DataError, match="The training table has 10 rows of 40 without missing entries"):
        sparse.synthesize(100)


def test_on_the_command_line(fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.save(tmp_path / "run")
    rows(200, 1).to_csv(tmp_path / "test.csv", index=False)
    run, out = str(tmp_path / "run"), str(tmp_path / "out.csv")
    given = ["synthesize", run, "-n", "100", "-o", out]
    assert main([*given, "--strict"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT SHOWN TO BE PRIVATE: without a holdout" in said
    assert len(pd.read_csv(out)) == 100
    assert main([*given, "--overwrite", "--holdout", str(tmp_path / "test.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["privacy"] in ("not shown", "no leak found")


def test_rows_that_coincide_by_chance_are_no_overlap() -> None:
    """New rows of a few labels are among the training rows as often as those are among each other."""
    rng = np.random.default_rng(0)
    found = [pg.Data.from_table(pd.DataFrame(rng.integers(0, 4, (300, 3)), columns=list("abc"))) for _ in range(2)]
    known = found[0].schema.encode(found[1].to_frame())
    refuse_training_rows(known, found[0], "holdout")
    wide = pg.Data.from_table(pd.DataFrame(rng.integers(0, 40, (300, 3)), columns=list("abc")))
    with pytest.raises(pg.DataError, match="40 of the 40 rows of the holdout are training rows"):
        refuse_training_rows(wide.take(slice(0, 40)), wide, "holdout")
