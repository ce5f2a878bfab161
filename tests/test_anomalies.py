"""Anomalies at a false discovery rate: the bound, on rows whose truth is known, and what is said and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

import ppl_gen as pg
from ppl_gen.anomalies import rows_needed
from ppl_gen.anomaly import calibrated_p_values
from ppl_gen.cli import main
from ppl_gen.result import Fit

EM = pg.EM(num_starts=1, num_bootstraps=0)
RATE = 0.2


def normal_rows(number: int, seed: int) -> pd.DataFrame:
    """Rows of a correlated normal."""
    x = np.random.default_rng(seed).normal(size=(number, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    return pd.DataFrame(x, columns=["a", "b"])


def with_outliers(number: int, share: float, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Such rows, of which a share lies 4 farther out, and which do."""
    rng = np.random.default_rng([seed, 1])
    table, is_out = normal_rows(number, seed), np.arange(number) < share * number
    table.loc[is_out, "a"] += 4 * rng.choice([-1, 1], is_out.sum())
    return table, is_out


@pytest.fixture(scope="module")
def fit() -> Fit:
    return pg.fit(pg.GMM(1), normal_rows(300, 0), engine=EM, seed=0)


def shares(called: np.ndarray, is_out: np.ndarray) -> tuple[float, float]:
    """False discovery proportion and power."""
    return float((called & ~is_out).sum() / max(called.sum(), 1)), float((called & is_out).sum() / is_out.sum())


def test_the_rate_is_kept_with_calibration_rows(fit: Fit) -> None:
    """400 replications, each with 150 calibration rows and 100 new ones of which 10 are anomalies."""
    found = []
    for seed in range(40):  # ten replications are scored at once
        known = fit.schema.encode(normal_rows(1500, 1000 + seed))
        tables = [with_outliers(100, 0.1, 5000 + 10 * seed + i) for i in range(10)]
        data = fit.schema.encode(pd.concat([table for table, _ in tables]))
        theirs, ours = (fit.score(rows, p_values=False).log_predictive for rows in (known, data))
        for i, (_, is_out) in enumerate(tables):
            part, own = slice(150 * i, 150 * i + 150), slice(100 * i, 100 * i + 100)
            p_value, number = calibrated_p_values(known.take(part), theirs[part], data.take(own), ours[own])
            assert (number == 150).all()
            found.append(shares(false_discovery_control(p_value) <= RATE, is_out))
    false, power = np.array(found).T
    bound = RATE * 0.9  # the share of normal rows
    assert false.mean() <= bound + 3 * false.std() / np.sqrt(len(false))
    assert false.mean() > bound / 3  # nor is it kept by calling nothing
    assert power.mean() > 0.5


def test_the_rate_is_kept_with_the_training_rows_left_out() -> None:
    found = []
    for seed in range(16):
        fit = pg.fit(pg.GMM(1), normal_rows(300, 300 + seed), engine=EM, seed=seed)
        table, is_out = with_outliers(200, 0.1, 900 + seed)
        found.append(shares(fit.anomalies(table, false_discovery_rate=RATE).is_anomaly.to_numpy(), is_out))
    false, power = np.array(found).T
    assert false.mean() <= RATE * 0.9 + 3 * false.std() / np.sqrt(len(false))
    assert power.mean() > 0.5


def test_adjusted_p_values_are_the_procedure(fit: Fit) -> None:
    """A row is called at a rate if and only if its p-value is at most that of the last one below the line."""
    table, _ = with_outliers(150, 0.2, 7)
    for rate in (0.05, 0.1, 0.3):
        frame = fit.anomalies(table, false_discovery_rate=rate)
        p_value = np.sort(frame.anomaly_p_value)
        below = np.flatnonzero(p_value <= rate * np.arange(1, 151) / 150)
        limit = p_value[below[-1]] if len(below) else -1.0
        assert (frame.is_anomaly == (frame.anomaly_p_value <= limit)).all()
    assert list(frame) == ["row", "log_prob", "anomaly_p_value", "adjusted_p_value", "is_anomaly"]
    np.testing.assert_allclose(frame.log_prob, fit.score(table).log_predictive)


def test_how_many_rows_are_needed(fit: Fit) -> None:
    assert rows_needed(99, 10, 0.1) == 1
    assert rows_needed(99, 200, 0.1) == 20  # with p = 1/100, 20 rows have p <= 0.1 x 20 / 200
    assert rows_needed(9, 5, 0.1) == 5
    assert rows_needed(8, 5, 0.1) == 6  # more than there are
    few = normal_rows(25, 3)
    with pytest.warns(UserWarning, match="No row can be called an anomaly at a rate of 0.01: with 25 rows"):
        frame = fit.anomalies(pd.DataFrame({"a": [50.0], "b": [-50.0]}), false_discovery_rate=0.01, calibration=few)
    assert not frame.is_anomaly.any()
    assert frame.attrs == {"num_ranked_among": 25, "lowest_p_value": 1 / 26, "rows_needed": 4}


def test_rows_that_no_other_is_like_are_not_called(fit: Fit) -> None:
    table = normal_rows(30, 4)
    table.loc[0, "a"] = None
    with pytest.warns(UserWarning, match="1 of 30 rows have no p-value"):
        frame = fit.anomalies(table)
    assert np.isnan(frame.adjusted_p_value[0])
    assert not frame.is_anomaly[0]
    assert frame.adjusted_p_value[1:].notna().all()


def test_what_is_refused(fit: Fit) -> None:
    train = normal_rows(300, 0)
    with pytest.raises(pg.DataError, match="These are the training rows"):
        fit.anomalies(train)
    with pytest.raises(pg.DataError, match="calibration table holds the training rows"):
        fit.anomalies(normal_rows(9, 1), calibration=train)
    with pytest.raises(pg.DataError, match="200 of the 200 rows of the calibration table are training rows"):
        fit.anomalies(normal_rows(9, 1), calibration=train.head(200))
    with pytest.raises(pg.DataError, match="No row has a p-value: each needs 20"):
        fit.anomalies(normal_rows(9, 1), calibration=normal_rows(10, 2))
    with pytest.raises(pg.SettingError, match="false_discovery_rate must be between 0 and 1, not 2"):
        fit.anomalies(train, false_discovery_rate=2)


def test_on_the_command_line(fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.save(tmp_path / "run")
    with_outliers(100, 0.1, 11)[0].to_csv(tmp_path / "new.csv", index=False)
    run, new, out = (str(tmp_path / name) for name in ("run", "new.csv", "out.csv"))
    assert main(["anomalies", run, new, "--fdr", "0.2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["num_anomalies"] == sum(row["is_anomaly"] for row in said["rows"]) > 0
    assert main(["anomalies", run, new, "--fdr", "0.2", "-o", out]) == 0
    shown = capsys.readouterr()
    assert f"{said['num_anomalies']} of 100 rows called, at a false discovery rate of 0.2" in shown.out
    assert "Ranked among 300 rows" in shown.err
    assert list(pd.read_csv(out).is_anomaly) == [row["is_anomaly"] for row in said["rows"]]
