"""Markov chains in data space, of densities that are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import widened
from ppl_gen.arviz_bridge import mcse
from ppl_gen.chains import run
from ppl_gen.columns import Column
from ppl_gen.pair import Pair
from ppl_gen.registry import import_backend
from ppl_gen.schema import Schema

LOCS = np.array([1.0, -0.5])
PRECISION = np.array([[4.0, 1.2], [1.2, 2.0]])
UNITS = Schema((Column("width", "real", "float64", 10.0, 2.0), Column("mass", "real", "float64", -1.0, 0.1)),
               "dataframe", standardize=True)  # fmt: skip
RADII, SHARES, SPREAD = np.array([1.0, 4.0]), np.array([0.3, 0.7]), 0.1


@dataclasses.dataclass(frozen=True)
class Energy:
    """Stands for a family."""

    name: str = "energy"


def pair_of(backend: str, log_density: Any, scale: float = 1.0) -> Pair:
    """The density of two columns whose log this function of arrays and their library gives, from a normal base."""
    if backend == "numpyro":
        import jax
        import jax.numpy as library

        def draw(parameters: Any, number: int, key: Any) -> Any:
            return scale * jax.random.normal(key, (number, 2))

    else:
        import torch as library

        def draw(parameters: Any, number: int, key: Any) -> Any:
            return scale * library.randn(number, 2, generator=library.Generator().manual_seed(key))

    def tempered(parameters: Any, x: Any, beta: Any) -> Any:
        base = -0.5 * ((x / scale) ** 2).sum(-1) - np.log(2 * np.pi * scale**2)
        return (1 - beta) * base + beta * log_density(x, library)

    return Pair(Energy(), backend, model=None, tempered=tempered, draw_base=draw, has_weights=True)  # type: ignore


def quadratic(x: Any, library: Any) -> Any:
    a, b = x[..., 0] - LOCS[0], x[..., 1] - LOCS[1]
    return -0.5 * (PRECISION[0, 0] * a**2 + 2 * PRECISION[0, 1] * a * b + PRECISION[1, 1] * b**2)


def rings(x: Any, library: Any) -> Any:
    """Two rings with these shares of the mass: the density at radius r, r times which is normal about each ring."""
    radius = library.sqrt((x**2).sum(-1) + 1e-8)
    parts = [np.log(share / r) - 0.5 * ((radius - r) / SPREAD) ** 2 for r, share in zip(RADII, SHARES, strict=True)]
    return library.logaddexp(*parts)


QUICK = {
    "nuts": pg.NUTS(num_chains=4, num_samples=200, num_warmup=100),
    "hmc": pg.HMC(num_chains=4, num_samples=200, num_warmup=100),
    "sgld": pg.SGLD(num_chains=4, num_samples=300, num_warmup=200, thinning=20, num_pilot=0),
    "sghmc": pg.SGHMC(num_chains=4, num_samples=300, num_warmup=200, thinning=20, num_pilot=0),
    "tempered": pg.Tempered(num_chains=4, num_samples=300, num_warmup=20),
}


@pytest.mark.parametrize("sampler", list(QUICK))
@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_quadratic_energy_is_a_normal_density(backend: str, sampler: str) -> None:
    """Means and second moments within 4 Monte Carlo standard errors, beside the 5 % by which those that never reject
    may overstate a variance."""
    found = run(pair_of(backend, quadratic), {}, UNITS, QUICK[sampler], 3, {})
    assert found.states.shape == (4, QUICK[sampler].num_samples, 2)
    z = (found.states - [10.0, -1.0]) / [2.0, 0.1] - LOCS
    assert (np.abs(z.mean((0, 1))) < 4 * mcse(z)).all()
    products, covariance = z[..., :, None] * z[..., None, :], np.linalg.inv(PRECISION)
    bias = 0.05 * np.abs(covariance).max() if sampler.startswith("sg") else 0.0
    assert (np.abs(products.mean((0, 1)) - covariance) < 4 * mcse(products) + bias).all()
    assert set(found.data.posterior.data_vars) == {"width", "mass"}
    assert found.summary()["r_hat"].max() < 1.05


def test_chains_of_what_is_not_given_are_refused_and_a_single_one_is_judged_by_its_halves() -> None:
    with pytest.raises(pg.UnsupportedError, match="not trained yet"):
        pg.chains(pg.EBM(), columns=("a", "b"))
    given = pg.EBM(energy=lambda x: 0.5 * (x**2).sum(-1))
    with pytest.raises(pg.SettingError, match="in a tuple"):
        pg.chains(given, columns="ab")
    with pytest.raises(pg.SettingError, match="seed"):
        pg.chains(given, columns=("a",), seed=-2)
    one = pg.chains(given, columns=("a",), sampler="hmc", num_chains=1, num_samples=400, num_warmup=50)
    table = one.summary()
    assert list(table.index) == ["a", "log density"]
    assert np.isfinite(table.to_numpy()).all()
    assert one.diagnose()["R-hat"].passed


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_rings_mix_by_tempering_alone(backend: str) -> None:
    """A chain of HMC stays on the ring that it began at, and R-hat tells; tempered chains visit both by their shares,
    within 2 % and 3 standard errors."""
    pair = pair_of(backend, rings, 3.0)
    plain = Schema((Column("a", "real", "float64"), Column("b", "real", "float64")), "dataframe", standardize=False)
    if backend == "numpyro":
        stuck = run(pair, {}, plain, "hmc", 1, {"num_samples": 200, "num_warmup": 100})
        verdict = stuck.diagnose()
        assert not stuck.mixed
        assert verdict["R-hat"].figure > 1.1
        assert "tempered" in verdict["R-hat"].advice
    free = run(pair, {}, plain, pg.Tempered(num_samples=900, num_chains=8, num_warmup=40, num_leapfrogs=3), 1, {})
    inner = (np.linalg.norm(free.states, axis=2) < RADII.mean()).astype(float)
    error = float(mcse(inner))
    assert error < 0.02
    assert abs(inner.mean() - SHARES[0]) < 0.02 + 3 * error
    assert free.diagnose()["R-hat"].passed


def on_rings(number: int, shares: np.ndarray, seed: int) -> np.ndarray:
    """(4, number, 2): exact draws, all chains alike."""
    rng = np.random.default_rng(seed)
    radius = rng.choice(RADII, size=(4, number), p=shares) + SPREAD * rng.normal(size=(4, number))
    angle = 2 * np.pi * rng.random((4, number))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_mass_that_no_chain_has_seen_is_found_from_farther_out(backend: str) -> None:
    """Draws of the inner ring alone agree with each other whatever R-hat one asks for, and their base covers no more
    than that ring; draws of both by their shares pass. The limit is that of one false alarm in 1,000."""
    tempering = import_backend("ppl_gen.backends", f"{backend}_tempering", backend)
    pair, found = pair_of(backend, rings, 0.5), {}
    for name, shares in {"inner": np.array([1.0, 0.0]), "both": SHARES}.items():
        states = on_rings(500, shares, 2)
        lp = tempering.log_density(pair, {}, states.reshape(-1, 2)).reshape(4, 500)
        found[name] = widened.check(["a", "b"], states, lp, widened.particles(tempering, pair, {}, states, 0))
    assert found["inner"].passed is False
    assert "tempered" in found["inner"].advice
    assert found["both"].passed
    if backend == "numpyro":
        plain = Schema((Column("a", "real", "float64"), Column("b", "real", "float64")), "dataframe", standardize=False)
        stuck = run(pair, {}, plain, "hmc", 1, {"num_samples": 600, "num_warmup": 200})
        verdict = stuck.diagnose()
        assert [check.name for check in verdict.failed] == ["mass elsewhere"]
        assert not stuck.mixed


@pytest.mark.parametrize("engine", ["hmc", "sghmc"])
@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_engines_over_parameters_find_a_posterior_known_in_closed_form(backend: str, engine: str) -> None:
    """The mean of a normal of unknown scale, under a vague prior: Student's t with n - 1 degrees of freedom (Gelman et
    al. 2013, sec. 3.2). At least 200 draws count: 4 standard errors of mean and sd, and 3.5 % of prior and step."""
    table = np.random.default_rng(0).normal(3.0, 2.0, (100, 1))
    settings = pg.HMC(num_samples=150, num_warmup=150)
    if engine == "sghmc":
        settings = pg.SGHMC(num_samples=150, num_warmup=500, thinning=20, batch_size=25)
    fit = pg.fit(pg.GMM(1), table, engine=settings, backend=backend)
    draws = fit.family.to_original(fit.draws.posterior, fit.schema)["locs"].ravel()
    sd = table.std(ddof=1) / 10 * np.sqrt(99 / 97)
    assert abs(draws.mean() - table.mean()) < 4 * 0.07 * sd
    assert abs(draws.std() / sd - 1) < 4 * 0.05 + 0.035
    if engine == "hmc":
        assert 0.6 < fit.draws.sample_stats["acceptance_rate"].mean() < 0.97


def test_the_step_of_sghmc_is_the_one_whose_bias_is_stated() -> None:
    """By simulation of the recursion that the settings describe, 4 standard errors of its variance and more."""
    settings = pg.SGHMC(batch_size=25)
    step, rng = settings.largest_step(100), np.random.default_rng(0)
    u, v, total = rng.standard_normal(20_000), rng.standard_normal(20_000), 0.0
    for number in range(400):
        u = u + np.sqrt(step) * v
        noisy = -u + np.sqrt(100 / 25) * rng.standard_normal(len(u))
        v = 0.9 * v + np.sqrt(step) * noisy + np.sqrt(0.19) * rng.standard_normal(len(u))
        total += (u**2).mean() if number >= 200 else 0.0
    assert total / 200 == pytest.approx(1.05, abs=0.012)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_exchanges_are_counted_over_all_sweeps_between_two_states(backend: str) -> None:
    """Of a base that is nearly the density: two temperatures, which may exchange at every second sweep, mostly do."""
    table = np.random.default_rng(0).normal(size=(400, 1))
    sampler = pg.Tempered(num_samples=50, num_warmup=20, thinning=2)
    found = pg.chains(pg.EBM(energy=lambda x: 0.5 * (x**2).sum(-1)), table, sampler=sampler, backend=backend)
    rates = np.asarray(found.sample_stats["swap_rate"])
    assert rates.mean() > 0.8
    assert rates.max() <= 1
