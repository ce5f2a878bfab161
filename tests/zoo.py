"""The table of constructors that feeds the property tests: whoever adds a family adds a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

import ppl_gen as pg


def clusters(num_rows: int = 120, seed: int = 0) -> pd.DataFrame:
    """Two correlated clusters in two named columns, in units far from 1."""
    rng = np.random.default_rng(seed)
    label = rng.random(num_rows) < 0.4
    x = rng.normal(size=(num_rows, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    x[label] += [4.0, -3.0]
    return pd.DataFrame({"height": 170 + 10 * x[:, 0], "mass": 0.07 + 0.004 * x[:, 1]})


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, a table for it, and an engine that fits it in about a second."""

    family: pg.Family
    table: Callable[[], pd.DataFrame]
    engine: pg.Engine


CASES = {
    "gmm-full": Case(pg.GMM(2), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-tied": Case(pg.GMM(2, covariance="tied"), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-diag": Case(pg.GMM(2, covariance="diag"), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-spherical": Case(pg.GMM(2, covariance="spherical"), clusters, pg.EM(num_starts=3, num_bootstraps=8)),
    "gmm-auto": Case(
        pg.GMM("auto", max_components=6, expected_components=2.0),
        clusters,
        pg.EM(objective="map", num_starts=3, num_bootstraps=8),
    ),
}
