"""A sweep is the comparison of its points; restarts agree where there is one optimum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen.cli import main
from ppl_gen.sweeps import points, split_values

QUICK = pg.EM(num_starts=1, num_bootstraps=0)


@pytest.fixture(scope="module")
def two_clusters() -> pd.DataFrame:
    """80 rows of two clusters, eight standard deviations apart."""
    rng = np.random.default_rng(3)
    return pd.DataFrame({"a": rng.normal(np.repeat([-4.0, 4.0], 40)), "b": rng.normal(size=80)})


@pytest.fixture(scope="module")
def swept(two_clusters: pd.DataFrame) -> pg.Comparison:
    return pg.sweep("gmm", two_clusters, {"num_components": [1, 2]}, engine=QUICK, folds=4)


def test_a_sweep_is_the_comparison_of_its_points(two_clusters: pd.DataFrame, swept: pg.Comparison) -> None:
    named = {f"num_components={k}": pg.GMM(k) for k in (1, 2)}
    expected = pg.compare(named, two_clusters, engine=QUICK, folds=4)
    pd.testing.assert_frame_equal(swept.frame, expected.frame)
    pd.testing.assert_frame_equal(swept.pointwise, expected.pointwise)
    assert (swept.how, swept.warnings, swept.unit) == (expected.how, expected.warnings, expected.unit)


def test_the_planted_number_of_clusters_is_found(swept: pg.Comparison) -> None:
    """Eight standard deviations apart: by more than three standard errors of the difference."""
    assert swept.best == "num_components=2"
    assert swept.frame["difference"].iloc[1] < -3 * swept.frame["difference_se"].iloc[1]


def test_weights_and_test_rows_count_as_in_a_comparison(two_clusters: pd.DataFrame) -> None:
    table = two_clusters.assign(w=np.linspace(0.5, 2, 80))
    grid: dict[str, list[Any]] = {"covariance": ["diag"], "engine.num_starts": [2]}
    ours = pg.sweep(pg.GMM(1), table, grid, engine=QUICK, folds=2, weights="w")
    theirs = pg.compare([pg.GMM(1, covariance="diag")], table, engine=QUICK, folds=2, weights="w")
    assert ours.best == "covariance=diag engine.num_starts=2"
    np.testing.assert_allclose(ours.frame["elpd"], theirs.frame["elpd"], rtol=1e-6)
    held_out = pg.sweep(pg.GMM(1), two_clusters[:60], {"covariance": ["diag"]}, engine=QUICK, test=two_clusters[60:])
    assert len(held_out.pointwise) == 20


def test_points_are_all_combinations_and_reach_inside() -> None:
    found = points(pg.GMM(), {"num_components": [2, 3], "prior.loc_scale": (1.0, 2.0)})
    assert len(found) == 4
    assert pg.GMM().with_options(found["num_components=3 prior.loc_scale=2.0"]) == pg.GMM(
        3, prior=pg.models.gmm.GMMPrior(loc_scale=2.0)
    )
    assert split_values("1,2,3") == [1, 2, 3]
    assert split_values("full,tied") == ["full", "tied"]
    assert split_values("auto,3") == ["auto", 3]
    assert split_values("[8,8],[16,16]") == [[8, 8], [16, 16]]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "A sweep needs an option of gmm"),
        ({"num_components": []}, "has no value"),
        ({"num_components": [2, 2]}, "has the value 2 twice"),
        ({"num_component": [2]}, "did you mean 'num_components'"),
        ({"engine.num_start": [2]}, "did you mean 'num_starts'"),
        ({"num_components": [0]}, "at least 1"),
    ],
)
def test_what_a_sweep_refuses(two_clusters: pd.DataFrame, grid: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(pg.SettingError, match=message):
        pg.sweep("gmm", two_clusters, grid, engine="em")


def test_restarts_agree_where_there_is_one_optimum(two_clusters: pd.DataFrame) -> None:
    """One component has its maximum in closed form; of three, one start each, some starts end elsewhere."""
    same = pg.restarts(pg.GMM(1), two_clusters, seeds=[0, 5, 9], engine=pg.EM(num_bootstraps=0))
    assert [fit.seed for fit in same.fits] == [0, 5, 9]
    assert same.disagreement.max() < 1e-4  # float32
    apart = pg.restarts(pg.GMM(3), two_clusters, engine=pg.EM(num_starts=1, num_bootstraps=0))
    assert apart.best.seed == apart.frame.index[0]
    totals = [fit.score().log_predictive.sum() for fit in apart.fits]
    assert apart.best.score().log_predictive.sum() == pytest.approx(max(totals), abs=1e-3)
    assert apart.frame["difference"].iloc[0] == 0.0
    assert apart.disagreement.max() > same.disagreement.max()
    assert "4 restarts of GMM(num_components=3) by em" in str(apart)


def test_what_restarts_refuse(two_clusters: pd.DataFrame) -> None:
    with pytest.raises(pg.SettingError, match="two or more different seeds"):
        pg.restarts("gmm", two_clusters, seeds=[1, 1])
    with pytest.raises(pg.UnsupportedError, match="gan has no density"):
        pg.restarts("gan", two_clusters)


def test_the_command(two_clusters: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.csv"
    two_clusters.to_csv(path, index=False)
    words = ["sweep", str(path), "gmm", "num_components=1,2", "engine.num_starts=2", "--engine", "em", "--folds", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert "--set num_components=2" in out
    assert "--engine-set num_starts=2" in out
    assert main([*words[:3], "num_components=1", *words[5:], "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["best"] == "num_components=1"
    assert main([*words[:3], "num_components", "--jobs", "2"]) == 2
    assert "NAME=A,B" in capsys.readouterr().err
    assert main([*words, "--jobs", "0"]) == 2
    assert "--jobs must be a whole number" in capsys.readouterr().err
