"""Rows as numbers: those of latents, in scikit-learn's hands, and in words where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import ppl_gen as pg
from ppl_gen.cli import main
from ppl_gen.models.autoregressive import Autoregressive
from ppl_gen.models.vae import VAE
from ppl_gen.result import Fit


def clusters() -> tuple[pd.DataFrame, np.ndarray]:
    """Three clusters, 6 sds apart, and whose each row is."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 3, 240)
    x = rng.normal(size=(240, 2)) + 6 * np.array([[0, 0], [1, 0], [0, 1]])[which]
    return pd.DataFrame(x, columns=["a", "b"], index=np.arange(240) + 1000), which


@pytest.fixture(scope="module")
def mixture() -> Fit:
    return pg.fit(pg.GMM(3), clusters()[0], engine=pg.EM(num_bootstraps=0), seed=0)


def test_components_of_a_mixture(mixture: Fit) -> None:
    """Clusters that hardly overlap are told by the components; the features are the probabilities of latents."""
    table, which = clusters()
    features = mixture.transform(table)
    assert list(features.columns) == ["z=0", "z=1", "z=2"]
    assert (features.index == table.index).all()
    np.testing.assert_allclose(features.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(features, mixture.latents(table)[list(features.columns)])
    pd.testing.assert_frame_equal(features, mixture.transform())
    model = make_pipeline(FunctionTransformer(mixture.transform), LogisticRegression())
    assert model.fit(table, which).score(table, which) > 0.95


def test_codes_of_an_autoencoder() -> None:
    engine = pg.SVI(num_members=2, max_steps=20)
    fit = pg.fit(VAE(latent_dim=2, hidden=(4,)), clusters()[0], engine=engine, backend="pyro", seed=0)
    features = fit.transform(member=1)
    assert list(features.columns) == ["z0", "z1"]
    np.testing.assert_array_equal(features, fit.latents(member=1)[["z0", "z1"]])


def test_what_has_no_latents_says_so() -> None:
    engine = pg.SVI(num_members=1, max_steps=3)
    fit = pg.fit(Autoregressive(hidden=(4,)), clusters()[0], engine=engine, backend="pyro", seed=0)
    with pytest.raises(pg.UnsupportedError, match="such as gmm, vae, rbm or diffusion"):
        fit.transform()


def test_on_the_command_line(mixture: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture.save(tmp_path / "run")
    out = str(tmp_path / "features.csv")
    assert main(["transform", str(tmp_path / "run"), "-o", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == out
    np.testing.assert_allclose(pd.read_csv(out), mixture.transform(), atol=1e-6)
