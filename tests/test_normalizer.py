"""log Z of densities whose log Z is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.normalizer import SITES, normalize
from ppl_gen.pair import Pair

LOCS = np.array([1.0, -0.5, 0.3])
PRECISION = np.array([[4.0, 1.2, 0.0], [1.2, 2.0, -0.6], [0.0, -0.6, 1.0]])
LOG_Z = 1.5 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(PRECISION)[1]
SMALL = {
    "smc": pg.SMC(num_particles=1024, max_temperatures=200),
    "ais": pg.AIS(num_temperatures=200, num_chains=512),
}


@dataclasses.dataclass(frozen=True)
class Energy:
    """Stands for a family."""

    name: str = "energy"


def quadratic(backend: str) -> Pair:
    """Energy (x - m) P (x - m) / 2 from a standard normal base: a normal density."""
    if backend == "numpyro":
        import jax
        import jax.numpy as np_

        def draw(parameters: Any, number: int, key: Any) -> Any:
            return jax.random.normal(key, (number, 3))

        locs = np_.asarray(LOCS)
    else:
        import torch as np_

        def draw(parameters: Any, number: int, key: Any) -> Any:
            return np_.randn(number, 3, generator=np_.Generator().manual_seed(key))

        locs = np_.as_tensor(LOCS, dtype=np_.get_default_dtype())

    def tempered(parameters: Any, x: Any, beta: Any) -> Any:
        base = -0.5 * (x**2).sum(-1) - 1.5 * np.log(2 * np.pi)
        return (1 - beta) * base - beta * 0.5 * (((x - locs) @ parameters["precision"]) * (x - locs)).sum(-1)

    return Pair(Energy(), backend, model=None, tempered=tempered, draw_base=draw, has_weights=True)  # type: ignore


@pytest.mark.parametrize("method", ["smc", "ais"])
@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_quadratic_energy_is_a_normal_density(backend: str, method: str) -> None:
    posterior = {"precision": PRECISION[None].astype(np.float32)}
    found = normalize(quadratic(backend), posterior, method=SMALL[method], seed=1)
    assert set(found) == {"precision", *SITES}
    off, error = found["log_normalizer"][0] - LOG_Z, found["log_normalizer_error"][0]
    assert abs(off) < 3 * error + 0.01
    assert error < 0.03
    assert found["log_normalizer_k_hat"][0] < 0.7
    reverse, reverse_error = found["annealing"][0, -1, -2:]
    assert abs(reverse - LOG_Z) < 3 * np.hypot(error, reverse_error) + 0.01
    chains = found["chain"][0].astype(np.float64)
    flat, covariance = chains.reshape(-1, 3), np.linalg.inv(PRECISION)
    from ppl_gen.arviz_bridge import ess, mcse, rhat

    assert (np.abs(flat.mean(0) - LOCS) < 4 * mcse(chains)).all()
    products = (chains - LOCS)[..., :, None] * (chains - LOCS)[..., None, :]
    assert (np.abs(products.mean((0, 1)) - covariance) < 4 * mcse(products)).all()
    assert (ess(chains) > 100).all()
    assert (rhat(chains) < 1.05).all()
