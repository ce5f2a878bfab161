"""Labels told by Bayes' rule over a density: against scores, against closed forms, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

import ppl_gen as pg
from ppl_gen.cli import main
from ppl_gen.inference.contrastive import Contrastive
from ppl_gen.models.autoregressive import Autoregressive
from ppl_gen.models.rbm import RBM
from ppl_gen.models.vae import VAE
from ppl_gen.result import Fit

SHORT = pg.SVI(num_members=2, max_steps=300, learning_rate=1e-2)


def two_classes(num_rows: int = 2000, seed: int = 0) -> pd.DataFrame:
    """x is Normal(-1, 1) where y = "a", Normal(1, 1) where y = "b" (0.3 of the rows): log odds 2 x + log(3 / 7)."""
    rng = np.random.default_rng(seed)
    is_b = rng.random(num_rows) < 0.3
    x = rng.normal(size=num_rows) + np.where(is_b, 1.0, -1.0)
    return pd.DataFrame({"x": x, "y": np.where(is_b, "b", "a")}, index=np.arange(num_rows) + 100)


@pytest.fixture(scope="module")
def fit() -> Fit:
    return pg.fit(Autoregressive(hidden=(16,)), two_classes(), engine=SHORT, seed=0)


def grid() -> pd.DataFrame:
    return pd.DataFrame({"x": np.linspace(-2.0, 2.0, 9)}, index=list("abcdefghi"))


def test_the_posterior_of_two_normals(fit: Fit) -> None:
    """Four parameters are told by 2000 rows, so that the log odds have a standard error of at most 0.15, and the
    probability one of 0.15 / 4; twice that and what 300 steps leave."""
    truth = expit(2 * grid().x + np.log(3 / 7))
    found = fit.predict_proba(grid(), "y")
    assert list(found.columns) == ["a", "b"]
    assert list(found.index) == list(grid().index)
    assert np.abs(found["b"] - truth).max() < 0.09


def test_it_is_bayes_rule_over_the_scores(fit: Fit) -> None:
    scores = [fit.score(grid().assign(y=label), keep_draws=True, p_values=False).log_prob for label in "ab"]
    each = softmax(np.stack([np.asarray(part)[:, 0] for part in scores], axis=-1).astype(float), axis=-1)
    frame = fit.predict(grid(), "y")
    np.testing.assert_allclose(frame[["y=a", "y=b"]], each.mean(0), atol=1e-6)
    np.testing.assert_allclose(frame[["y=a_sd", "y=b_sd"]], each.std(0), atol=1e-6)
    np.testing.assert_allclose(frame[["y=a", "y=b"]].sum(axis=1), 1, atol=1e-12)
    assert (frame.y == np.where(frame["y=b"] > 0.5, "b", "a")).all()


def test_what_the_table_says_is_not_looked_at(fit: Fit) -> None:
    expected = fit.predict_proba(grid(), "y")
    for labels in ("a", "b", "never seen", None):
        pd.testing.assert_frame_equal(fit.predict_proba(grid().assign(y=labels), "y"), expected)
    train = two_classes()
    pd.testing.assert_frame_equal(fit.predict_proba(None, "y"), fit.predict_proba(train, "y"))


def test_backends_agree(fit: Fit) -> None:
    other = dataclasses.replace(fit, backend="pyro")
    np.testing.assert_allclose(other.predict_proba(grid(), "y"), fit.predict_proba(grid(), "y"), atol=1e-5)


def test_log_z_cancels() -> None:
    """Of an unnormalised density of known weights: three binary columns, the posterior summed by hand."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 2, (80, 3)), columns=list("uvw"))
    fit = pg.fit(RBM(2), table, engine=Contrastive(max_steps=20), backend="pyro",
                 seed=0)  # fmt: skip
    rows = pd.DataFrame([(u, v) for u in (0, 1) for v in (0, 1)], columns=["u", "v"])
    scores = [fit.score(rows.assign(w=k), keep_draws=True, p_values=False).log_prob for k in (0, 1)]
    each = softmax(np.stack([np.asarray(part).reshape(-1, 4) for part in scores], -1).astype(float), axis=-1)
    np.testing.assert_allclose(fit.predict_proba(rows, "w"), each.mean(0), atol=1e-5)
    without_z = fit.normalize("none")
    np.testing.assert_allclose(without_z.predict_proba(rows, "w"), fit.predict_proba(rows, "w"), atol=1e-5)


def test_the_label_of_a_semi_supervised_family() -> None:
    table = two_classes(200)
    table.loc[table.index[20:], "y"] = None
    fit = pg.fit(VAE(latent_dim=1, hidden=(4,), label="y"), table, engine=SHORT.replace(max_steps=50), backend="pyro",
                 seed=0)  # fmt: skip
    said = fit.latents(table.assign(y=None))
    frame = fit.predict(table, "y")  # labels that are there are left out as well
    for name in ("y=a", "y=b", "y=a_sd"):
        np.testing.assert_allclose(frame[name], said[name], atol=1e-12)


def test_what_is_refused(fit: Fit) -> None:
    with pytest.raises(pg.DataError, match="no column 'z': choose one of x, y"):
        fit.predict_proba(grid(), "z")
    with pytest.raises(pg.UnsupportedError, match=r"was read as real, so it has no labels .* autoregressive, dae"):
        fit.predict_proba(grid(), "x")
    with pytest.raises(pg.DataError, match="missing values"):
        fit.predict_proba(pd.DataFrame({"x": [0.0, None]}), "y")
    given = pg.fit(Autoregressive(hidden=(4,), condition_on=("y",)), two_classes(100),
                   engine=SHORT.replace(max_steps=5), seed=0)  # fmt: skip
    with pytest.raises(pg.UnsupportedError, match="is conditioned on"):
        given.predict(grid(), "y")


def test_on_the_command_line(fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.save(tmp_path / "run")
    grid().to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--column", "y", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    np.testing.assert_allclose([row["y=b"] for row in rows], fit.predict_proba(grid(), "y")["b"], atol=1e-6)
    assert main(["predict", str(tmp_path / "run"), "--column", "x"]) == 2
    assert "no labels" in capsys.readouterr().err
