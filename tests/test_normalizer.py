"""log Z of densities whose log Z is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import multivariate_normal

import ppl_gen as pg
from ppl_gen import plots
from ppl_gen.errors import SettingError, UnsupportedError
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


def energy(x: Any) -> Any:
    """Of a normal density with means 1 and -2, standard deviations 0.5 and 1, and no correlation; of any library."""
    return 2.0 * (x[:, 0] - 1.0) ** 2 + 0.5 * (x[:, 1] + 2.0) ** 2


TRUTH = multivariate_normal([1.0, -2.0], np.diag([0.25, 1.0]))


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_scores_have_the_error_of_log_z_and_say_where_there_is_none(backend: str) -> None:
    table = pd.DataFrame(TRUTH.rvs(60, random_state=0), columns=["a", "b"])
    fit = pg.fit(pg.EBM(energy=energy), table, engine=pg.Contrastive(normalizer=SMALL["smc"]), backend=backend)
    found = fit.score(p_values=False)
    assert found.kind == "unnormalised"
    assert found.normalized
    assert np.ptp(found.error) < 1e-6
    assert (np.abs(found.log_predictive - TRUTH.logpdf(table)) < 3 * found.error + 0.01).all()
    assert not found.unreliable.any()
    verdict = fit.diagnose()
    names = ("log Z standard error", "log Z k-hat", "AIS effective sample size", "log Z forward-reverse gap")
    assert all(verdict[name].passed for name in names)
    assert isinstance(plots.plot_annealing(fit), Figure)
    drawn = fit.sample(2000, seed=1)
    # Standard errors of 2,000 draws that share 1,024 starts; 4 of them.
    assert (np.abs(drawn.mean() - [1.0, -2.0]) < 4 * np.array([0.5, 1.0]) / np.sqrt(1000)).all()
    bare = fit.normalize("none")
    with pytest.warns(UserWarning, match="only differences"):
        without = bare.score(p_values=False)
    assert not without.normalized
    assert np.isinf(without.error).all()
    assert np.isnan(without.bits_per_dim)
    np.testing.assert_allclose(np.diff(without.log_predictive), np.diff(found.log_predictive), atol=1e-4)
    np.testing.assert_allclose(without.log_predictive.mean(), 0, atol=0.01)  # beside the mean training row
    assert without.precision.startswith("without log Z")
    assert "held-out ELPD" not in [check.name for check in bare.diagnose().checks]
    with pytest.raises(SettingError, match="log Z of this fit"):
        pg.compare({"bare": bare, "fit": fit})


def test_a_density_without_a_fit_has_chains_in_its_own_units() -> None:
    found = pg.chains(pg.EBM(energy=energy), columns=("a", "b"), sampler="hmc", num_samples=500, num_warmup=150)
    assert found.mixed
    assert list(found.to_frame().columns) == ["a", "b"]
    assert (
        np.abs(found.summary()["mean"][["a", "b"]] - [1.0, -2.0]) < 4 * found.summary()["mcse_mean"][["a", "b"]]
    ).all()
    assert isinstance(plots.plot_trace(found), Figure)
    assert isinstance(plots.plot_rank(found), Figure)


def test_what_can_not_be_normalised_is_told() -> None:
    table = pd.DataFrame(TRUTH.rvs(60, random_state=0), columns=["a", "b"])
    normal = pg.fit(pg.GMM(1), table, engine=pg.EM(num_bootstraps=0))
    with pytest.raises(UnsupportedError, match="normalised as it is"):
        normal.normalize()
    with pytest.raises(UnsupportedError, match=r"use fit.sample"):
        normal.chains()
    posterior = {"precision": PRECISION[None].astype(np.float32)}
    with pytest.raises(SettingError, match="did you mean 'smc'"):
        normalize(quadratic("numpyro"), posterior, method="scm")
    with pytest.raises(SettingError, match="no log Z in closed form"):
        normalize(quadratic("numpyro"), posterior, method="exact")
    with pytest.raises(SettingError, match="num_chains"):
        pg.AIS(num_chains=3)
