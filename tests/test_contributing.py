"""The skeletons of CONTRIBUTING.md are a family and an engine that work: written to a folder, fitted, compared."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_packaging import signature

import ppl_gen as pg
import ppl_gen.inference
import ppl_gen.models
from ppl_gen import backends, registry

ROOT = Path(__file__).parent.parent
BLOCKS = dict(
    re.findall(
        r"^\*\*`((?:models|inference)/\w+/\w+\.py)`\*\*\n\n```python\n(.*?)^```$",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
BACKENDS = ("numpyro", "pyro")


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the skeletons, which are part of the zoo while this module's tests run."""
    root = tmp_path_factory.mktemp("skeletons")
    for name, text in BLOCKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppl_gen.models, "__path__", [*ppl_gen.models.__path__, str(root / "models")])
        patch.setattr(ppl_gen.inference, "__path__", [*ppl_gen.inference.__path__, str(root / "inference")])
        registry._folders.cache_clear()
        importlib.invalidate_caches()
        yield root
    registry._folders.cache_clear()
    for name in [n for n in sys.modules if re.match(r"ppl_gen\.(models\.normal|inference\.laplace)\b", n)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Two columns in units of their own, with missing entries."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"height": rng.normal(170, 9, 150), "mass": rng.normal(0.07, 0.01, 150)})
    table.iloc[[3, 8], 1] = np.nan
    return table


def test_the_recipe_holds_a_whole_family_and_a_whole_engine() -> None:
    assert sorted(BLOCKS) == [
        "inference/laplace/__init__.py", "inference/laplace/numpyro_engine.py", "inference/laplace/pyro_engine.py",
        "models/normal/__init__.py", "models/normal/numpyro_pair.py", "models/normal/pyro_pair.py",
    ]  # fmt: skip


def test_the_skeletons_keep_the_house_rules(skeletons: Path) -> None:
    for backend in BACKENDS:
        pair, engine = (
            skeletons / part for part in (f"models/normal/{backend}_pair.py", f"inference/laplace/{backend}_engine.py")
        )
        assert signature(pair, "build_pair") == "(family, schema, num_obs) -> Pair"
        assert signature(engine, "run") == "(pair, data, settings, seed, monitor) -> Draws"
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(skeletons)]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, *config], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_skeletons_are_found_by_their_folders(skeletons: Path) -> None:
    assert {"normal", "gmm"} <= set(registry.families())
    assert "laplace" in registry.engines()
    assert pg.Normal().name == "normal"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["laplace", "svi"])
def test_family_and_engine_give_the_closed_form(
    skeletons: Path, table: pd.DataFrame, engine: str, backend: str
) -> None:
    """With a flat prior on location and scale the predictive density is Student's t with n - 2 degrees of freedom
    (Gelman et al. 2013, section 3.2, whose prior is 1/scale); 150 rows outweigh ours. In original units."""
    fit = pg.fit("normal", table, engine=engine, backend=backend, seed=1)
    score = fit.score(p_values=False)
    columns = []
    for _, column in table.items():
        n = column.count()
        scale = np.sqrt(((column - column.mean()) ** 2).sum() / (n - 2) * (1 + 1 / n))
        columns.append(stats.t(n - 2, column.mean(), scale).logpdf(column))
    np.testing.assert_allclose(score.log_predictive, np.nansum(columns, axis=0), atol=0.03, rtol=0.03)
    assert fit.draws.uncertainty == "guide"
    # sd of the posterior of a location is scale / sqrt(n), in model space 1 / sqrt(n).
    np.testing.assert_allclose(fit.posterior["locs"].std(axis=0), 1 / np.sqrt(table.count()), rtol=0.2)
    # The normal at the mode is close to this posterior: the importance ratios hardly vary.
    assert np.std(fit.draws.log_weights) < 0.3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_skeleton_family_is_sampled(skeletons: Path, table: pd.DataFrame, backend: str) -> None:
    engine = pg.NUTS(num_samples=100, num_warmup=100, num_chains=2)
    fit = pg.fit("normal", table, engine=engine, backend=backend, seed=1)
    np.testing.assert_allclose(fit.posterior["locs"].mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(fit.posterior["scales"].mean(axis=0), 1.0, atol=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_skeleton_engine_fits_another_family(skeletons: Path, table: pd.DataFrame, backend: str) -> None:
    fit = pg.fit(pg.GMM(1, covariance="diag"), table, engine="laplace", backend=backend, seed=2)
    np.testing.assert_allclose(fit.posterior["locs"].mean(axis=0), 0.0, atol=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_skeleton_engine_gives_the_same_bits_for_the_same_seed(
    skeletons: Path, table: pd.DataFrame, backend: str
) -> None:
    one, other = (pg.fit("normal", table, engine="laplace", backend=backend, seed=2) for _ in range(2))
    for site, value in one.posterior.items():
        np.testing.assert_array_equal(other.posterior[site], value)


def test_the_twins_of_the_skeleton_are_one_function(skeletons: Path, table: pd.DataFrame, x64: None) -> None:
    family = registry.family("normal")()
    weights = np.random.default_rng(1).random(len(table)) + 0.5
    values = {"locs": np.array([0.3, -0.2]), "scales": np.array([0.9, 1.4])}
    joints = []
    for backend in BACKENDS:
        pair = family.pair(backend, table, weights=weights)
        joints.append(backends.ops(backend).log_joint(pair, values, pair.data))
    assert joints[0] == pytest.approx(joints[1], rel=1e-9)


def test_the_skeletons_travel_through_storage(skeletons: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    fit = pg.fit("normal", table, engine="laplace", seed=1)
    path = fit.save(tmp_path / "run")
    assert json.loads((path / "fit.json").read_text(encoding="utf-8"))
    loaded = pg.load(path)
    np.testing.assert_array_equal(loaded.score(p_values=False).log_predictive, fit.score(p_values=False).log_predictive)
