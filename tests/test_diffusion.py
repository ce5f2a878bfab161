"""Diffusion models: schedules, noise, encoding, and the terms that they are trained by, against their formulas."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import norm

import ppl_gen as pg
from ppl_gen.family import _build
from ppl_gen.models.diffusion.architecture import SHARES, resolve

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
FAMILY = pg.Diffusion(hidden=(8, 6))
LEAST, GREATEST = FAMILY.log_snr_range


def normals(num_rows: int = 80, seed: int = 0) -> pd.DataFrame:
    """Two columns of correlation 0.6, in units of 10 and 0.01."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    return pd.DataFrame({"height": 170 + 10 * x[:, 0], "mass": 0.07 + 0.01 * x[:, 1]})


def mixed(num_rows: int = 80, seed: int = 0) -> pd.DataFrame:
    """A column of each kind, two of labels, in an order in which kinds do not stand together."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "p": rng.choice(["red", "green", "blue"], num_rows), "u": 5 + rng.normal(size=num_rows),
        "k": rng.poisson(3, num_rows), "b": rng.integers(0, 2, num_rows), "q": rng.choice(["n", "s", "w"], num_rows),
        "v": rng.normal(size=num_rows),
    })  # fmt: skip


def module(backend: str, name: str) -> Any:
    import importlib

    return importlib.import_module(f"ppl_gen.models.diffusion.{backend}_{name}")


def array(backend: str, values: Any) -> Any:
    if backend == "numpyro":
        import jax.numpy as jnp

        return jnp.asarray(values)
    import torch

    return torch.as_tensor(np.array(values))


def compiled(backend: str, function: Any) -> Any:
    """As one program in JAX, which takes operations one by one slowly."""
    if backend == "numpyro":
        import jax

        return jax.jit(function)
    return function


def built(family: pg.Diffusion, table: pd.DataFrame, backend: str) -> tuple[Any, dict[str, Any]]:
    """A pair, and weights that are away from their start, the same in both backends."""
    pair, rng = family.pair(backend, table), np.random.default_rng(1)
    start = pair.initialize(pair.data, 0, 1)
    return pair, {name: array(backend, v[0] + 0.2 * rng.normal(size=v[0].shape)) for name, v in start.items()}


def sites_of(pair: Any, weights: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """A draw of the guide in NumPyro."""
    import jax
    from numpyro import handlers

    @jax.jit
    def draw(weights: Any, key: Any) -> dict[str, Any]:
        guide = handlers.seed(handlers.substitute(pair.guide, data=weights), key)
        trace = handlers.trace(guide).get_trace(pair.data)
        return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}

    return {name: np.asarray(value) for name, value in draw(weights, jax.random.key(seed)).items()}


def loss_and_gradient(pair: Any, weights: dict[str, Any], values: dict[str, np.ndarray]) -> tuple[float, dict]:
    """Minus the mean-field ELBO a row, where the guide draws these values, and its gradient."""
    number = len(pair.data.x)
    if pair.backend == "numpyro":
        import jax
        from numpyro import handlers
        from numpyro.infer import TraceMeanField_ELBO

        guide = handlers.substitute(pair.guide, data={name: array("numpyro", v) for name, v in values.items()})

        def loss(w: Any) -> Any:
            return TraceMeanField_ELBO().loss(jax.random.key(0), w, pair.model, guide, pair.data) / number

        value, gradient = jax.jit(jax.value_and_grad(loss))(weights)
        return float(value), {name: np.asarray(g) for name, g in gradient.items()}
    from pyro.poutine.messenger import Messenger

    from ppl_gen.backends.pyro_programs import sandbox
    from ppl_gen.inference.svi.pyro_objective import mean_field

    class Put(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            msg["value"] = array("pyro", values[msg["name"]]) if msg["name"] in values else msg["value"]

    def put(view: Any) -> None:
        with Put():
            pair.guide(view)

    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    with sandbox(0):
        value = mean_field(dataclasses.replace(pair, guide=put), leaves, pair.data)
        value.backward()
    zero = {name: np.zeros(leaf.shape) for name, leaf in leaves.items()}
    return value.item(), zero | {n: leaf.grad.numpy() for n, leaf in leaves.items() if leaf.grad is not None}


@each_backend
@pytest.mark.parametrize("kind", ["cosine", "linear", "learned"])
def test_schedules_fall_from_one_end_of_the_range_to_the_other(backend: str, kind: str, x64: None) -> None:
    # With beta from 0.1 to 20, alpha^2 = exp(-B) falls to exp(-10.05), a ratio of exp(-10.05): just past the range.
    pair, weights = built(FAMILY.replace(schedule=kind), normals(), backend)
    t = np.linspace(0, 1, 401)
    schedule, architecture = module(backend, "schedule"), pair.model.args[0]
    found, slope = (np.asarray(v) for v in schedule.with_slope(architecture, weights, array(backend, t)))
    assert found[[0, -1]] == pytest.approx([GREATEST, LEAST], abs=1e-9)
    assert (np.diff(found) < 0).all()
    if kind == "learned":  # straight between its knots, so the step is too long over these alone
        assert slope.mean() == pytest.approx(GREATEST - LEAST, rel=0.05)
        even = schedule.log_snr(architecture, {"schedule_raw": 0 * weights["schedule_raw"]}, array(backend, t))
        np.testing.assert_allclose(even, GREATEST + (LEAST - GREATEST) * t, atol=1e-9)
        return
    near = np.asarray(schedule.log_snr(architecture, weights, array(backend, np.stack([t - 1e-7, t + 1e-7]))))
    np.testing.assert_allclose(slope[1:-1], (near[0] - near[1])[1:-1] / 2e-7, rtol=1e-5)
    alpha = np.sqrt(expit(found))
    if kind == "cosine":  # alpha is the cosine of an angle that grows evenly
        np.testing.assert_allclose(np.diff(np.arccos(alpha), 2), 0, atol=1e-9)
    else:  # the rate at which log alpha^2 falls grows evenly
        np.testing.assert_allclose(np.diff(np.log(alpha), 3), 0, atol=1e-9)


@each_backend
def test_noise_added_in_two_steps_is_noise_added_in_one(backend: str, x64: None) -> None:
    # z_s drawn given z_t, itself drawn given e, has the marginal of z_s; and z_t given z_s is alpha_t / alpha_s z_s and
    # noise: Cov(z_s, z_t) = alpha_t / alpha_s sigma_s^2.
    chain, (before, log_snr, e) = module(backend, "chain"), (1.3, -0.7, 0.8)
    one = [array(backend, np.array([[value]])) for value in (1.0, e, before, log_snr)]
    zero = [0 * one[0], *one[1:]]
    (at_one, sd), (at_zero, _) = chain.posterior_moments(*one), chain.posterior_moments(*zero)
    slope, shift, sd = at_one.item() - at_zero.item(), at_zero.item(), sd.item()
    alpha, sigma = np.sqrt(expit([before, log_snr])), np.sqrt(expit([-before, -log_snr]))
    assert shift + slope * alpha[1] * e == pytest.approx(alpha[0] * e, abs=1e-12)
    assert sd**2 + (slope * sigma[1]) ** 2 == pytest.approx(sigma[0] ** 2, abs=1e-12)
    assert slope * sigma[1] ** 2 == pytest.approx(alpha[1] / alpha[0] * sigma[0] ** 2, abs=1e-12)


OPTIONS: list[dict[str, Any]] = [
    {}, {"num_steps": 4}, {"weighting": "simple", "parametrization": "noise"},
    {"weighting": "min_snr", "parametrization": "score"}, {"weighting": "simple", "num_steps": 4, "schedule": "linear"},
    {"schedule": "learned", "parametrization": "data"},
]  # fmt: skip


@each_backend
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_is_the_bound_with_one_step_of_each_row(backend: str, options: dict[str, Any], x64: None) -> None:
    family = FAMILY.replace(**options)
    pair, weights = built(family, normals(), backend)
    values = sites_of(*built(family, normals(), "numpyro"))
    noising, x, number = pair.noising, np.asarray(pair.data.x), family.num_steps
    e = np.asarray(noising.encode(weights, array(backend, x)))
    t = (values["u"] + np.arange(len(e)) / len(e)) % 1
    if number is not None:
        t = (np.floor(t * number) + 1) / number
    assert np.histogram(t, 4, (0, 1 + 1e-9))[0] == pytest.approx(len(e) / 4, abs=1)
    log_snr = np.asarray(noising.log_snr(weights, array(backend, t)))
    denoise = compiled(backend, noising.denoise)
    estimate = denoise(weights, array(backend, values["z_t"]), array(backend, log_snr))
    error = ((e - np.asarray(estimate)) ** 2).sum(-1)
    snr = np.exp(log_snr)
    if number is None:
        slope = module(backend, "schedule").with_slope(pair.model.args[0], weights, array(backend, t))[1]
        steps = 0.5 * np.asarray(slope) * snr * error  # -1/2 dSNR/dt
    else:
        before = np.asarray(noising.log_snr(weights, array(backend, t - 1 / number)))
        steps = 0.5 * number * (np.exp(before) - snr) * error
    steps = {"elbo": steps, "simple": snr * error, "min_snr": np.minimum(snr, 5) * error}[family.weighs]
    prior = 0.5 * (expit(LEAST) * e**2 + expit(-LEAST) - 1 - np.log(expit(-LEAST))).sum(-1)
    scale = np.exp(np.asarray(weights["real_log_scale"]))
    centre = np.asarray(weights["real_shift"]) + scale * values["z_0"] / np.sqrt(expit(GREATEST))
    rows = norm.logpdf(x, centre, scale * np.exp(-GREATEST / 2)).sum(-1)
    loss, _ = loss_and_gradient(pair, weights, values)
    assert loss == pytest.approx((prior + steps - rows).mean(), rel=1e-9)


def test_many_steps_are_continuous_time(x64: None) -> None:
    # The same noise, and times that differ by 1e-6 at most, as terms do relatively times d log SNR' / dt < 2e3.
    pair, weights = built(FAMILY, normals(), "numpyro")
    values = sites_of(pair, weights)
    fine, _ = built(FAMILY.replace(num_steps=1_000_000), normals(), "numpyro")
    assert loss_and_gradient(fine, weights, {n: v for n, v in values.items() if n != "dz"})[0] == pytest.approx(
        loss_and_gradient(pair, weights, values)[0], rel=3e-3
    )


PARITY: list[dict[str, Any]] = [
    {"num_steps": 7, "schedule": "learned"}, {"schedule": "learned", "condition_on": ("v", "q")},
    {"hidden": (7,), "weighting": "min_snr", "parametrization": "score", "condition_on": ("k",)},
]  # fmt: skip


@pytest.mark.parametrize("options", PARITY, ids=str)
def test_both_backends_have_the_same_loss_and_gradient(options: dict[str, Any], x64: None) -> None:
    family = FAMILY.replace(**options)
    values = sites_of(*built(family, mixed(), "numpyro"))
    (one, ours), (other, theirs) = (
        loss_and_gradient(*built(family, mixed(), backend), values) for backend in BACKENDS
    )  # fmt: skip
    assert one == pytest.approx(other, rel=1e-12, abs=1e-9)
    for name, gradient in ours.items():
        np.testing.assert_allclose(gradient, theirs[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert not any(ours[name].any() for name in ("real_shift", "real_log_scale"))


def test_a_learned_schedule_evens_out_the_terms_of_the_bound(x64: None) -> None:
    # The gradient is that of the log second moment of the terms, 1 / share of a piece each, at the same noise levels:
    # sum_i (L_i p_i / p)^2 p / p_i over the rows, p the shares of time and p_i those that the rows' times come of.
    import jax
    import jax.numpy as jnp

    pair, weights = built(FAMILY.replace(schedule="learned"), normals(), "numpyro")
    values, schedule, architecture = sites_of(pair, weights), module("numpyro", "schedule"), pair.model.args[0]
    e = pair.noising.encode(weights, pair.data.x)
    step = schedule.step_at(architecture, weights, jnp.asarray(values["u"]), len(e))
    error = ((e - pair.noising.denoise(weights, values["z_t"], step.log_snr)) ** 2).sum(-1)
    terms = 0.5 * step.rate * jnp.exp(step.log_snr) * error
    piece = ((GREATEST - step.log_snr) / (GREATEST - LEAST) * SHARES).astype(int)
    share = schedule.shares(weights)[piece]

    def log_moment(raw: Any) -> Any:
        return jnp.log((terms**2 * share / schedule.shares({"schedule_raw": raw})[piece]).sum())

    _, gradient = loss_and_gradient(pair, weights, values)
    np.testing.assert_allclose(gradient["schedule_raw"], jax.grad(log_moment)(weights["schedule_raw"]), atol=1e-9)


@each_backend
def test_a_hidden_condition_is_none(backend: str, x64: None) -> None:
    family = FAMILY.replace(condition_on=("mass",), condition_dropout=0.3)
    pair, weights = built(family, normals(), backend)
    values = sites_of(*built(family, normals(), "numpyro"))
    kept = values["kept"] >= 0.3
    assert kept.sum() == pytest.approx(0.7 * len(kept), abs=3 * np.sqrt(0.21 * len(kept)))
    z, level = array(backend, values["z_t"]), array(backend, np.zeros(len(kept)))
    seen, alone = (np.asarray(pair.noising.denoise(weights, z, level, y)) for y in (pair.data.context, None))
    denoiser = module(backend, "denoiser")
    given = denoiser.given(pair.model.args[0], pair.data.context, array(backend, kept.astype(float)))
    found = np.asarray(denoiser.estimate(pair.model.args[0], weights, z, level, given))
    np.testing.assert_allclose(found, np.where(kept[:, None], seen, alone), atol=1e-12)
    assert np.abs(seen - alone).min() > 1e-6
    assert pair.noising.drops_context
    assert (
        not FAMILY.replace(condition_on=("mass",), condition_dropout=0.0).pair(backend, normals()).noising.drops_context
    )


@each_backend
def test_rows_come_back_from_their_numbers(backend: str, x64: None) -> None:
    pair, weights = built(FAMILY, mixed(), backend)
    e = pair.noising.encode(weights, pair.data.x)
    assert e.shape == (80, pair.noising.size) == (80, 10)
    assert pair.noising.is_real.sum() == 2
    np.testing.assert_allclose(pair.noising.decode(weights, e), pair.data.x, atol=1e-9)


@each_backend
def test_labels_and_counts_given_z0_have_the_probabilities_of_the_noise(backend: str, x64: None) -> None:
    # With much noise left. p(label | z) is q(z | label) over its sum; a count has the normal's mass between the numbers
    # of k - 1/2 and k + 1/2, so that all add up to 1.
    family = FAMILY.replace(log_snr_range=(-5.0, 4.0))
    table = mixed()[["p", "k", "b"]]
    pair, weights = built(family, table, backend)
    x, rng = np.repeat(np.asarray(pair.data.x)[:1], 60, axis=0), np.random.default_rng(0)
    e = np.asarray(pair.noising.encode(weights, array(backend, x)))
    alpha, sigma = np.sqrt(expit(4.0)), np.sqrt(expit(-4.0))
    z = np.repeat(alpha * e[:1] + 4 * sigma * rng.normal(size=(1, e.shape[1])), 60, axis=0)

    likelihood = compiled(backend, pair.noising.log_likelihood)

    def log_likelihood(column: int, value: np.ndarray) -> np.ndarray:
        rows = x.copy()
        rows[: len(value), column] = value
        return np.asarray(likelihood(weights, array(backend, rows), array(backend, z)))[: len(value)]

    codes = 3 / np.sqrt(2) * (np.eye(3) - 1 / 3)
    own = norm.logpdf(z[0, :3], alpha * codes, sigma).sum(-1)
    np.testing.assert_allclose(np.diff(log_likelihood(0, np.arange(3.0))), np.diff(log_softmax(own)), atol=1e-9)
    own = norm.logpdf(z[0, 4], alpha * np.array([-1.0, 1.0]), sigma)
    np.testing.assert_allclose(np.diff(log_likelihood(2, np.arange(2.0))), np.diff(own), atol=1e-9)
    labels = [logsumexp(log_likelihood(column, np.arange(size))) for column, size in ((0, 3.0), (2, 2.0))]
    first = log_likelihood(0, x[:1, 0])[0]
    counts = log_likelihood(1, np.arange(60.0))
    # The three sums share the row's other columns: their product over the joint of the row itself is 1.
    assert sum(labels) + logsumexp(counts) - 2 * first == pytest.approx(0.0, abs=1e-9)


@each_backend
@pytest.mark.parametrize("hidden", [(6,), (6, 5)])
@pytest.mark.parametrize("kind", ["velocity", "noise", "data", "score"])
def test_the_trace_in_closed_form_is_that_of_the_derivative(backend: str, hidden: tuple, kind: str, x64: None) -> None:
    family = FAMILY.replace(hidden=hidden, parametrization=kind, condition_on=("mass",))
    table = normals().assign(size=np.arange(80.0) % 7)
    pair, weights = built(family, table, backend)
    z, level = array(backend, np.random.default_rng(0).normal(size=(80, 2))), array(backend, 0.4)
    context = pair.data.context
    denoise = compiled(backend, pair.noising.denoise)
    estimate, trace = compiled(backend, pair.noising.linearize)(weights, z, level, context)
    np.testing.assert_allclose(estimate, denoise(weights, z, level, context), atol=1e-12)
    step = 1e-5
    moved = [
        (np.asarray(denoise(weights, z + sign * step * array(backend, axis), level, context)))
        for axis in np.eye(2) for sign in (1, -1)
    ]  # fmt: skip
    slope = (moved[0] - moved[1])[:, 0] + (moved[2] - moved[3])[:, 1]
    np.testing.assert_allclose(trace, slope / (2 * step), atol=1e-7)


@each_backend
def test_a_path_of_the_chain_has_the_density_of_its_steps(backend: str, x64: None) -> None:
    family = FAMILY.replace(num_steps=3)
    pair, weights = built(family, normals(), backend)
    chain, architecture, rng = module(backend, "chain"), pair.model.args[0], np.random.default_rng(0)
    path = rng.normal(size=(4, 5, 2))
    law = chain.ReverseChain(architecture, weights, array(backend, path[0]), None)
    assert law.event_shape == (3, 2)
    denoise, total = compiled(backend, pair.noising.denoise), 0.0
    for i in range(3):
        at, after = (array(backend, np.asarray(float(pair.noising.log_snr(weights, array(backend, t)))))
                     for t in (1 - i / 3, 1 - (i + 1) / 3))  # fmt: skip
        e = denoise(weights, array(backend, path[i]), at)
        loc, scale = chain.posterior_moments(array(backend, path[i]), e, after, at)
        total = total + norm.logpdf(path[i + 1], loc, scale).sum(-1)
    np.testing.assert_allclose(law.log_prob(array(backend, np.moveaxis(path[1:], 0, 1))), total, atol=1e-9)


def test_the_pairs_train_by_each_ppl_s_own_svi() -> None:
    import jax
    import numpyro
    import pyro
    from numpyro.infer import SVI, TraceMeanField_ELBO

    family, table = FAMILY.replace(schedule="linear", weighting="simple", parametrization="noise"), normals()
    pair = family.pair("numpyro", table)
    svi = SVI(pair.model, pair.guide, numpyro.optim.Adam(1e-2), TraceMeanField_ELBO())
    losses = np.asarray(svi.run(jax.random.key(0), 400, pair.data, progress_bar=False).losses)
    # Of the noise, of variance 1 a column, nothing is told at first.
    assert losses[-100:].mean() < losses[:20].mean() - 0.3 * len(table)
    pair = family.pair("pyro", table)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    own = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.TraceMeanField_ELBO())
    found = np.array([own.step(pair.data) for _ in range(120)])
    pyro.clear_param_store()
    assert found[-40:].mean() < found[:20].mean() - 0.3 * len(table)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"schedule": "cosin"}, "cosine"), ({"parametrization": "eps"}, "velocity"), ({"num_steps": 1}, "num_steps"),
        ({"weighting": "simple", "schedule": "learned"}, "makes another loss"),
        ({"condition_dropout": 1.0, "condition_on": ("a",)}, "below 1"), ({"condition_dropout": 0.5}, "condition_on"),
        ({"log_snr_range": (3.0, 10.0)}, "from -20 to -4"), ({"channels": (8,)}, "unet"),
        ({"network": "unet", "hidden": (8,)}, "mlp"), ({"hidden": ()}, "hidden"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(pg.SettingError, match=match):
        pg.Diffusion(**options)


def test_tables_and_settings_that_it_cannot_take_are_refused() -> None:
    table = normals()
    with pytest.raises(pg.DataError, match="missing"):
        pg.fit(FAMILY, table.mask(np.arange(160).reshape(80, 2) == 3))
    with pytest.raises(pg.DataError, match="network='mlp'"):
        pg.fit(pg.Diffusion(network="unet"), table)
    for option in ({"objective": "iwae"}, {"annealing": 10}, {"free_bits": 0.1}, {"num_particles": 4}):
        with pytest.raises(pg.SettingError, match="its guide is given"):
            pg.fit(FAMILY, table, engine=pg.SVI(**option))
    with pytest.raises(ValueError, match="give it the data"):
        FAMILY.pair("numpyro", table).guide(None, num_obs=3)


def test_its_density_is_exact_of_real_columns_only() -> None:
    data = [pg.Data.from_table(table).schema for table in (normals(), mixed())]
    assert [FAMILY.density_for(schema) for schema in data] == ["exact", "importance"]
    assert FAMILY.replace(condition_on=("p", "k", "b", "q")).density_for(
        pg.Data.from_table(mixed(), condition_on=("p", "k", "b", "q")).schema
    ) == "exact"  # fmt: skip
    assert resolve(FAMILY, data[1]).size == 10


@each_backend
def test_a_fit_does_not_depend_on_those_before_it(backend: str) -> None:
    """Compiled programs are kept for tables of one shape; units, which are not trained, are those of each table."""
    rng, engine = np.random.default_rng(0), pg.SVI(num_members=1, max_steps=3)
    one, other = (pd.DataFrame({"x": scale * rng.normal(size=60), "n": rng.poisson(scale, 60)}) for scale in (1, 30))
    family = pg.Diffusion(hidden=(4,))
    alone = pg.fit(family, other, engine=engine, backend=backend, seed=0)
    _build.cache_clear()
    pg.fit(family, one, engine=engine, backend=backend, seed=0)
    after = pg.fit(family, other, engine=engine, backend=backend, seed=0)
    for name, value in alone.posterior.items():
        np.testing.assert_array_equal(after.posterior[name], value)
    np.testing.assert_array_equal(after.draws.losses, alone.draws.losses)
