"""Energy-based models: the twins, what is known of a Gaussian, a mixture by a network, and energies that are none."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.inference.contrastive import Contrastive
from ppl_gen.models.ebm import EBM
from ppl_gen.normalizer import SMC

BACKENDS = ("numpyro", "pyro")
MEAN, SD, CORRELATION = np.array([1.0, -2.0]), np.array([0.5, 3.0]), 0.6

FAMILIES = {
    "full": EBM(hidden=(8, 8)),
    "diag": EBM(hidden=(8,), covariance="diag"),
    "uniform": EBM(hidden=(8,), base="uniform"),
    "flow": EBM(hidden=(8,), base="flow", num_layers=2),
    "conv": EBM("conv", hidden=(8,), channels=(4, 6)),
}


def quadratic(x):
    """The energy of a normal with these means, standard deviations and correlation, in either backend."""
    z = [(x[:, j] - MEAN[j]) / SD[j] for j in range(2)]
    return (z[0] ** 2 - 2 * CORRELATION * z[0] * z[1] + z[1] ** 2) / (2 * (1 - CORRELATION**2))


def mixture(number: int, seed: int) -> np.ndarray:
    """Three clusters at the corners of a triangle, 6 of their standard deviations from each other."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0.0, 0.0], [3.0, 0.0], [1.5, 2.6]])
    return corners[rng.integers(3, size=number)] + 0.5 * rng.standard_normal((number, 2))


def rows(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5, 6)) if name == "conv" else rng.normal(size=(60, 3)) * [1.0, 2.0, 0.1] + [0, 5, 0]


@pytest.mark.parametrize("name", FAMILIES)
def test_both_backends_have_the_same_densities_along_the_path_and_gradients(name: str, x64) -> None:
    import jax
    import jax.numpy as jnp
    import torch

    table, found = rows(name), {}
    one, other = (FAMILIES[name].pair(backend, table) for backend in BACKENDS)
    start = {key: value[0] for key, value in one.initialize(one.data, 0, 1).items()}
    start = {key: value + 0.1 * np.random.default_rng(1).standard_normal(value.shape) for key, value in start.items()}
    x = np.array(one.data.x)[:7]

    def of_jax(weights, x, beta):
        return one.tempered(weights, x, beta).sum()

    found["values"] = np.stack([one.tempered(start, jnp.asarray(x), beta) for beta in (0.0, 0.3, 1.0)])
    gradients = jax.jit(jax.grad(of_jax, argnums=(0, 1)))({k: jnp.asarray(v) for k, v in start.items()}, x, 1.0)
    weights = {k: torch.as_tensor(v).requires_grad_() for k, v in start.items()}
    at = torch.as_tensor(x).requires_grad_()
    values = torch.stack([other.tempered(weights, at, beta) for beta in (0.0, 0.3, 1.0)])
    np.testing.assert_allclose(values.detach(), found["values"], rtol=1e-9, atol=1e-9)
    leaves = [at, *weights.values()]
    theirs = torch.autograd.grad(values[2].sum(), leaves, allow_unused=True, materialize_grads=True)
    for ours, their in zip([gradients[1], *(gradients[0][k] for k in weights)], theirs, strict=True):
        np.testing.assert_allclose(their, ours, rtol=1e-8, atol=1e-9)
    ops = [backends.ops(backend) for backend in BACKENDS]
    joint = [op.log_joint(pair, {**start, "log_normalizer": np.float64(0.7)}, pair.data) for op, pair in
             zip(ops, (one, other), strict=True)]  # fmt: skip
    assert joint[0] == pytest.approx(joint[1], rel=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_base_and_factor_are_the_density_on_the_path_at_1(backend: str) -> None:
    table = rows("uniform")
    pair = FAMILIES["uniform"].pair(backend, table)
    start = pair.initialize(pair.data, 0, 1)
    log_z = np.full((1,), 0.7, np.float32)
    found = backends.ops(backend).log_prob(pair, {**start, "log_normalizer": log_z}, pair.data)[0]
    arrays = {k: pair.data.x.new_tensor(v[0]) if backend == "pyro" else v[0] for k, v in start.items()}
    np.testing.assert_allclose(found + 0.7, np.asarray(pair.tempered(arrays, pair.data.x, 1.0)), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(pair.tempered(arrays, pair.data.x + 100.0, 1.0)), -np.inf)


@cache
def given(backend: str) -> tuple[pd.DataFrame, pg.Fit]:
    """Rows near the normal, and its energy normalised from a base that is fitted to them."""
    rng = np.random.default_rng(0)
    near = pd.DataFrame(MEAN + 0.3 * SD + rng.normal(size=(100, 2)) * SD * 1.3, columns=["a", "b"])
    method = SMC(num_particles=4096, num_states=16)
    return near, pg.fit(EBM(quadratic), near, engine=Contrastive(num_members=1, normalizer=method), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quadratic_energy_is_a_normal_with_its_normaliser(backend: str) -> None:
    near, fit = given(backend)
    truth = np.log(2 * np.pi * SD.prod() * np.sqrt(1 - CORRELATION**2))
    estimate, error = (float(fit.posterior[name][0]) for name in ("log_normalizer", "log_normalizer_error"))
    assert abs(estimate - truth) < 3 * error
    assert error < 0.01
    covariance = np.array([[SD[0] ** 2, CORRELATION * SD.prod()], [CORRELATION * SD.prod(), SD[1] ** 2]])
    from scipy.stats import multivariate_normal

    exact = multivariate_normal(MEAN, covariance).logpdf(near)
    np.testing.assert_allclose(fit.score(near, p_values=False).log_predictive, exact, atol=3 * error + 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_base_has_no_part_in_an_energy_of_ones_own(backend: str) -> None:
    near, fit = given(backend)
    x = fit.pair.family.prepare(near).view(backend).x[:9]
    weights = {name: x.new_tensor(v[0]) if backend == "pyro" else v[0] for name, v in fit.posterior.items()}
    one = np.ones((), np.float32)
    beside = fit.pair.tempered(weights, x, x.new_tensor(one) if backend == "pyro" else one)
    np.testing.assert_allclose(
        fit.pair.tempered(weights, x, 1.0), -np.asarray(quadratic(near.to_numpy()[:9])), rtol=1e-4
    )
    np.testing.assert_allclose(np.asarray(beside), -np.asarray(quadratic(near.to_numpy()[:9])), rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_fits_a_mixture_and_integrates_to_one_within_its_error(backend: str) -> None:
    train, test = mixture(1500, 0), mixture(1000, 1)
    engine = Contrastive(num_members=1, num_steps=8, max_steps=300, learning_rate=0.01, validation=0.0,
                         normalizer=SMC(num_particles=2048, num_states=16))  # fmt: skip
    fit = pg.fit(EBM(hidden=(24, 24)), train, engine=engine, backend=backend, seed=0)
    held = fit.score(test, p_values=False).log_predictive.mean()
    from scipy.stats import multivariate_normal

    normal = multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(test).mean()
    # The mixture itself has 0.47 nats more than the normal; the standard error of a difference is 0.02.
    assert held > normal + 0.25
    axis = np.linspace(-8, 10, 121)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(fit.score(grid, p_values=False).log_predictive).reshape(121, 121)
    total = np.trapezoid(np.trapezoid(density, axis), axis)
    error = float(fit.posterior["log_normalizer_error"][0])
    assert abs(np.log(total)) < 3 * error + 1e-3
    assert error < 0.05


def test_what_is_no_energy_is_refused_in_words() -> None:
    table = rows("full")
    bad = {
        r"must have shape \(60,\)": lambda x: x**2,
        "is not a number": lambda x: (x**2).sum(-1) * np.nan,
        "failed on rows": lambda x: x @ np.ones(7),
        "does not grow as fast": lambda x: -(x**2).sum(-1),
        "from .* it goes from": lambda x: 0 * x[:, 0],
        "no finite integral": lambda x: (x[:, 0] + 2 * x[:, 1]) ** 2,  # flat along one direction, which is no axis
        "its density needs": lambda x: 0.9 * jnp.log1p((x**2).sum(-1)),  # like 1 / r^1.8, in three columns
        "gradient failed .* jax.numpy": lambda x: 0.5 * (np.asarray(x) ** 2).sum(-1),
    }
    for message, energy in bad.items():
        with pytest.raises(pg.SettingError, match=message):
            pg.fit(EBM(energy), table, engine=Contrastive(num_members=1))
    for energy in (
        lambda x: 1.6 * jnp.log1p((x**2).sum(-1)),
        lambda x: (100 * x[:, 0] + x[:, 1]) ** 2 + 1e-6 * x[:, 1] ** 2 + x[:, 2] ** 2,
    ):
        pair = EBM(energy).pair("numpyro", table)  # heavy tails, and a narrow ridge
        pair.initialize(pair.data, 0, 1)
    # A box ends the density, so that a constant energy is one.
    pair = EBM(lambda x: 0 * x[:, 0], base="uniform").pair("numpyro", table)
    pair.initialize(pair.data, 0, 1)


def test_tables_that_it_does_not_model_and_settings_that_contradict_are_refused() -> None:
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.random.default_rng(0).normal(size=60)})
    with pytest.raises(pg.DataError, match="missing values"):
        EBM().pair("numpyro", frame.assign(b=frame["b"].where(frame["a"] != 3)))
    with pytest.raises(pg.DataError, match="real"):
        EBM().pair("numpyro", frame.assign(b=np.where(frame["a"] > 3, "x", "y")))
    with pytest.raises(pg.DataError, match="images"):
        EBM("conv").pair("numpyro", frame)
    with pytest.raises(pg.DataError, match="two columns"):
        EBM(base="flow").pair("numpyro", frame[["a"]])
    with pytest.raises(pg.SettingError, match="standardize=False"):
        EBM(quadratic).pair("numpyro", frame, standardize=True)
    with pytest.raises(pg.SettingError, match="not trained"):
        EBM(quadratic, base="flow")
    with pytest.raises(pg.SettingError, match="or a function"):
        EBM(energy=5)
    with pytest.warns(UserWarning, match="'a' holds two values"):
        EBM().pair("numpyro", frame.assign(a=frame["a"] > 3))
    with pytest.raises(pg.UnsupportedError, match="contrastive"):
        pg.fit(EBM(), frame, engine="svi")
    with pytest.raises(pg.UnsupportedError, match="only normalises"):
        pg.fit(EBM(quadratic), frame, engine="score_matching")


def test_a_function_is_not_saved_and_can_be_put_back(tmp_path) -> None:
    table, fit = given("numpyro")
    fit.save(tmp_path / "fit")
    loaded = pg.load(tmp_path / "fit")
    with pytest.raises(pg.UnsupportedError, match="function quadratic, which no file holds"):
        loaded.score(table)
    mended = dataclasses.replace(loaded, family=loaded.family.replace(energy=quadratic))
    np.testing.assert_array_equal(
        mended.score(table, p_values=False).log_predictive, fit.score(table, p_values=False).log_predictive
    )
