"""Whether to believe a neural fit: rows as uniform numbers, and the checks that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ppl_gen import backends
from ppl_gen.models.flow import BASES, Flow

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_base = pytest.mark.parametrize("base", BASES)


def rough(pair: Any, seed: int = 1) -> dict[str, np.ndarray]:
    """One draw of weights far from the start, where a flow is nearly the identity."""
    rng = np.random.default_rng(seed)
    starts = pair.initialize(pair.data, 0, 1)
    return {name: value + 0.1 * rng.normal(size=value.shape) for name, value in starts.items()}


def small(base: str, **options: Any) -> Flow:
    return Flow(
        **{"transform": "realnvp", "num_layers": 2, "hidden": (4,), "base": base, "num_components": 3, **options}
    )


def to_uniform(backend: str, pair: Any, weights: dict[str, np.ndarray], view: Any) -> np.ndarray:
    return backends.ops(backend).hook_over_draws(pair, "to_uniform", weights, view)[0]


def from_uniform(backend: str, pair: Any, weights: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    if backend == "numpyro":
        import jax

        return np.asarray(jax.jit(pair.from_uniform)({name: v[0] for name, v in weights.items()}, u))

    return pair.from_uniform({name: torch.as_tensor(v[0]) for name, v in weights.items()}, torch.as_tensor(u)).numpy()


def two_columns(number: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 2)) * [1.0, 3.0] + [0.0, 50.0]


@each_base
def test_uniform_numbers_and_rows_determine_each_other(base: str, x64: None) -> None:
    ends, x = {}, two_columns()
    for backend in BACKENDS:
        pair = small(base).pair(backend, x)
        weights = rough(pair)
        ends[backend] = to_uniform(backend, pair, weights, pair.data)
        assert ends[backend].shape == (60, 2, 2)
        assert (ends[backend][..., 0] == ends[backend][..., 1]).all()
        again = from_uniform(backend, pair, weights, ends[backend][..., 0])
        known = (np.abs(ends[backend][..., 0] - 0.5) < 0.5 - 1e-4).all(1)
        assert known.mean() > 0.8
        # The quantile is found to the last digit of p: where the density is 1e-4 that is 1e-12 of u.
        np.testing.assert_allclose(again[known], np.asarray(pair.data.x)[known], atol=1e-9)
    np.testing.assert_allclose(ends["pyro"], ends["numpyro"], atol=1e-9)  # the quadrature of Student's t is that good


@each_backend
def test_students_t_is_that_of_scipy(backend: str, x64: None) -> None:
    """With all other weights 0 the flow is the identity."""
    pair = small("student_t").pair(backend, np.linspace([-30, -3], [30, 3], 61), standardize=False)
    weights = {name: np.zeros((4, *value.shape[1:])) for name, value in pair.initialize(pair.data, 0, 1).items()}
    weights["base_log_df"] += np.array([[-4.0], [0.0], [2.0], [6.0]])  # from Cauchy to all but normal
    found = backends.ops(backend).hook_over_draws(pair, "to_uniform", weights, pair.data)[..., 0]
    expected = stats.t.cdf(np.asarray(pair.data.x), 1 + np.exp(weights["base_log_df"])[:, None])
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize(("backend", "base"), [("numpyro", "normal"), ("pyro", "mixture")])
def test_rows_of_whole_numbers_come_from_points_of_their_cells(backend: str, base: str) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"level": rng.normal(size=1000), "visits": rng.poisson(30.0, 1000)})
    pair = small(base).pair(backend, table)
    weights = {name: np.asarray(value, np.float32) for name, value in rough(pair).items()}
    x = from_uniform(backend, pair, weights, rng.random((1000, 2), np.float32))
    assert (x[:, 1] == np.round(x[:, 1])).all()
    assert (x[:, 1] == 0).mean() < 0.01  # hardly any moved to the nearest count there is
    as_array = {"numpyro": np.asarray, "pyro": torch.as_tensor}[backend]
    u = to_uniform(backend, pair, weights, pair.data._replace(x=as_array(x)))[..., 0]
    again = from_uniform(backend, pair, weights, u)
    assert (again[:, 1] == x[:, 1]).mean() > 0.99  # float32 may put a point on the edge of its cell into the next one
    # Three looks each, at rows that the model has drawn: p-values below 1e-4 come once in 3,000 seeds.
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-4
    assert stats.spearmanr(u)[1] > 1e-4
