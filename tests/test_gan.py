"""Generative adversarial networks: the twins, losses and regularizers in closed form, rows and what the model is."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ppl_gen as pg
from ppl_gen.models.gan import GAN
from ppl_gen.models.gan.modes import fit_modes
from ppl_gen.view import View

BACKENDS = ("numpyro", "pyro")
ROWS = 60
SMALL: dict[str, Any] = {"latent_dim": 2, "generator_hidden": (6,), "discriminator_hidden": (6, 5)}

FAMILIES = {
    "real": GAN(**SMALL, normalization="standard"),
    "wasserstein": GAN(**SMALL, normalization="standard", loss="wasserstein", regularizer="gradient_penalty", pack=2),
    "hinge": GAN(**SMALL, loss="hinge", regularizer="spectral_norm", max_modes=2),
    "mixed": GAN(**SMALL, loss="least_squares", regularizer="clip", pack=3, max_modes=3),
    "given": GAN(**SMALL, condition_on=("p",), normalization="standard", pack=2, regularizer="gradient_penalty"),
    "images": GAN(**SMALL, generator="conv", discriminator="conv", channels=(3, 4), pack=2, loss="minimax"),
    "counts": GAN(**SMALL, generator="conv", channels=(3, 4), regularizer="jacobian_clamping"),
}


def mixed(number: int = ROWS) -> pd.DataFrame:
    """Columns of each kind; u has two peaks."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "u": rng.normal(size=number) + 9 * (rng.random(number) < 0.4), "p": rng.choice(list("abc"), number),
        "a": rng.integers(0, 2, number), "k": rng.poisson(30, number), "q": rng.choice(list("xyz"), number),
        "v": rng.normal(size=number),
    })  # fmt: skip


def table(name: str) -> Any:
    rng = np.random.default_rng(0)
    if name in ("mixed", "given"):
        return mixed()
    if name in ("images", "counts"):
        return rng.normal(size=(ROWS, 5, 6)) if name == "images" else rng.integers(0, 256, (ROWS, 5, 6))
    return rng.normal(size=(ROWS, 3)) * [1.0, 2.0, 0.1] + [0, 5, 0]


def arrays(backend: str, *values: Any) -> Any:
    """Arrays of the backend; of a dictionary of arrays each."""
    if len(values) > 1:
        return [arrays(backend, value) for value in values]
    if isinstance(values[0], dict):
        return {name: arrays(backend, value) for name, value in values[0].items()}
    if backend == "numpyro":
        import jax.numpy as jnp

        return jnp.asarray(values[0], float)
    import torch

    return torch.as_tensor(np.array(values[0]), dtype=torch.get_default_dtype())


def graded(backend: str, function: Any, weights: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The value of a function of weights, and its gradient."""
    if backend == "numpyro":
        import jax

        return jax.value_and_grad(function)(weights)
    import torch

    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    value = function(leaves)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True))


def once(backend: str, function: Any, *values: Any) -> Any:
    """The function of arrays, compiled as one program where the backend compiles."""
    if backend == "numpyro":
        import jax

        function = jax.jit(function)
    found = function(*arrays(backend, *values)) if len(values) > 1 else function(arrays(backend, *values))
    return plain(found) if isinstance(found, dict) else plain({"": found})[""]


def plain(values: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(v.detach() if hasattr(v, "detach") else v) for name, v in values.items()}


def source(backend: str) -> Any:
    """A source of randomness."""
    if backend == "pyro":
        return 0
    import jax

    return jax.random.key(0)


def network(backend: str, module: str = "network") -> Any:
    """The functions of the backend's networks, or of its losses."""
    return importlib.import_module(f"ppl_gen.models.gan.{backend}_{module}")


def start(pair: pg.Pair, jitter: float = 0.1) -> dict[str, np.ndarray]:
    """Weights off their starts, but for what is known of the columns."""
    values = {name: value[0] for name, value in pair.initialize(pair.data, 0, 1).items()}
    rng, kept = np.random.default_rng(1), pair.idle(pair.data)
    return {n: v if n in kept else v + jitter * rng.standard_normal(v.shape) for n, v in values.items()}


def everything(name: str, backend: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All that the hooks of a pair give at these weights and the same noise, and gradients of each loss."""
    pair, rng = FAMILIES[name].pair(backend, table(name)), np.random.default_rng(2)
    game, view = pair.adversary, pair.data
    number = len(view.x) // game.pack
    z = rng.standard_normal((ROWS, pair.latent_size))
    along, share = arrays(backend, rng.random((number, 1)), rng.random(ROWS))
    if name in ("mixed", "real"):
        view = view._replace(weights=share)
    architecture, losses = pair.model.args[0], network(backend, "losses")

    def penalised(w: Any, z: Any) -> Any:
        if FAMILIES[name].regularizer != "gradient_penalty":
            return game.discriminator_loss(w, view, z)
        data, fake = game.relax(w, view), game.forge(w, z, view.context)
        return losses.gradient_penalty(architecture, w, data, fake, along, view)

    def compute(weights: Any, z: Any) -> dict[str, Any]:
        codes = View(z, context=view.context)
        found = {
            "generate": pair.generate(weights, codes), "log_ratio": pair.log_ratio(weights, codes),
            "discriminator": pair.discriminator(weights, view), "relax": game.relax(weights, view),
            "forge": game.forge(weights, z, view.context),
            "judge": game.judge(weights, game.relax(weights, view), view.context),
        }  # fmt: skip
        found |= {f"project {key}": value for key, value in game.project(weights).items() if key in game.discriminator}
        functions = {
            "discriminator": lambda w: penalised(w, z), "generator": lambda w: game.generator_loss(w, view, z),
            "log_ratio_loss": lambda w: game.log_ratio_loss(w, view, z),
        }  # fmt: skip
        for key, loss in functions.items():
            found[key], gradient = graded(backend, loss, weights)
            found |= {f"{key} by {site}": value for site, value in gradient.items() if site not in pair.idle(view)}
        return found

    return once(backend, compute, values, z)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_backends_have_the_same_rows_losses_and_gradients(name: str, x64) -> None:
    values = start(FAMILIES[name].pair("numpyro", table(name)))
    ours, theirs = (everything(name, backend, values) for backend in BACKENDS)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-9, atol=1e-9, err_msg=key)
    assert any(np.abs(v).max() > 0 for k, v in ours.items() if k.startswith("generator by generator_"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mixed", "given", "counts", "real"])
def test_rows_come_back_from_what_the_networks_see_of_them(name: str, backend: str, x64) -> None:
    pair = FAMILIES[name].pair(backend, table(name))
    restore, architecture = network(backend).restore, pair.model.args[0]
    back = once(backend, lambda w: restore(architecture, w, pair.adversary.relax(w, pair.data)), start(pair))
    np.testing.assert_allclose(back, np.asarray(pair.data.x), atol=1e-9)


def linear(backend: str, family: GAN, x: np.ndarray, **values: np.ndarray) -> tuple[pg.Pair, dict[str, Any]]:
    """A pair of linear networks of standardized columns, with these weights beside its starts."""
    family = family.replace(generator_hidden=(), discriminator_hidden=(), normalization="standard")
    pair = family.pair(backend, x, standardize=False)
    found = start(pair) | {"real_shift": np.zeros(x.shape[1]), "real_log_scale": np.zeros(x.shape[1])}
    assert values.keys() <= found.keys()
    return pair, arrays(backend, found | values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_penalties_of_linear_networks_are_those_of_their_slopes(backend: str, x64) -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(ROWS, 3)), rng.normal(size=(ROWS, 2))
    slope = np.array([[0.5], [-1.0], [2.0], [0.1], [0.2], [-0.3]])  # of packs of two rows
    rule = {"gradient_penalty": 10.0 * (np.linalg.norm(slope) - 1) ** 2, "r1": 0.5 * np.sum(slope**2), None: 0.0}
    found = {}
    for regularizer in rule:
        family = GAN(latent_dim=2, loss="hinge", regularizer=regularizer, pack=2)
        pair, weights = linear(backend, family, x, discriminator_weight_0=slope)
        loss = pair.adversary.discriminator_loss(weights, pair.data, arrays(backend, z), source(backend))
        found[regularizer] = float(loss)
    for regularizer, value in rule.items():
        assert found[regularizer] - found[None] == pytest.approx(value, rel=1e-9)

    low, high = 1.0, 1.5
    matrix = rng.normal(size=(2, 3))
    family = GAN(latent_dim=2, regularizer="jacobian_clamping", regularizer_weight=3.0, jacobian_range=(low, high))
    pair, weights = linear(backend, family, x, generator_weight_0=matrix)
    free, _ = linear(backend, GAN(latent_dim=2, regularizer=None), x)
    step = np.roll(z, 1, axis=0)
    rate = np.linalg.norm(step @ matrix, axis=1) / np.linalg.norm(step, axis=1)
    both = [float(p.adversary.generator_loss(weights, pair.data, arrays(backend, z))) for p in (pair, free)]
    expected = 3.0 * np.mean(np.maximum(rate - high, 0) ** 2 + np.maximum(low - rate, 0) ** 2)
    assert both[0] - both[1] == pytest.approx(expected, rel=1e-9)
    assert (rate > high).any()
    assert (rate < low).any()


@pytest.mark.parametrize("name", ["wasserstein", "given", "images"])
def test_slopes_by_hand_are_those_of_automatic_differentiation(name: str, x64) -> None:
    import jax

    pair = FAMILIES[name].pair("numpyro", table(name))
    weights, game = arrays("numpyro", start(pair)), pair.adversary
    rows, context = game.relax(weights, pair.data), pair.data.context
    gradient = jax.jit(jax.grad(lambda rows: game.judge(weights, rows, context).sum()))(rows)
    by_pack = (np.asarray(gradient).reshape(len(rows) // game.pack, -1) ** 2).sum(1)
    found = network("numpyro", "losses").slopes(pair.model.args[0], weights, rows, context)
    np.testing.assert_allclose(found, by_pack, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_put_back_into_their_bounds(backend: str, x64) -> None:
    pair = FAMILIES["hinge"].pair(backend, table("hinge"))
    weights = arrays(backend, start(pair, jitter=1.0))
    for _ in range(30):  # of training, between which weights hardly move
        weights = pair.adversary.project(weights)
    for name in ("discriminator_weight_0", "discriminator_weight_1", "discriminator_weight_2"):
        assert np.linalg.svd(np.asarray(weights[name]), compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)
    pair = FAMILIES["mixed"].pair(backend, table("mixed"))
    before = arrays(backend, start(pair))
    after = pair.adversary.project(before)
    for name, value in plain(before).items():
        bound = 0.01 if name in pair.adversary.discriminator else np.inf
        np.testing.assert_array_equal(plain(after)[name], np.clip(value, -bound, bound))


def jensen_shannon(mean: float) -> float:
    """Between normals of standard deviation 1 at 0 and at ``mean``, in nats."""
    from scipy.integrate import quad
    from scipy.stats import norm

    def integrand(x: float) -> float:
        p, q = norm.pdf(x, mean), norm.pdf(x)
        return 0.5 * (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)))

    return quad(integrand, -10, 10 + mean, epsabs=1e-12)[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_value_at_the_best_discriminator_is_that_of_the_divergence(backend: str, x64) -> None:
    # Rows and noise are the points of a quadrature, its weights those of the rows: means are integrals.
    mean = 1.3
    points, weights_of = np.polynomial.hermite_e.hermegauss(60)
    best = {"weight_0": np.array([[mean]]), "bias_0": np.array([-(mean**2) / 2])}
    values = {f"{name}_{key}": value for name in ("discriminator", "ratio") for key, value in best.items()}
    values |= {"generator_weight_0": np.ones((1, 1)), "generator_bias_0": np.zeros(1)}
    family = GAN(latent_dim=1, loss="minimax", regularizer=None)
    pair, weights = linear(backend, family, points[:, None] + mean, **values)
    view = View(arrays(backend, points[:, None] + mean), weights=arrays(backend, weights_of))
    z = arrays(backend, points[:, None])
    for loss, sites in (("discriminator_loss", "discriminator"), ("log_ratio_loss", "ratio")):
        value, gradient = graded(backend, lambda w, loss=loss: getattr(pair.adversary, loss)(w, view, z), weights)
        assert -float(value) == pytest.approx(2 * jensen_shannon(mean) - 2 * np.log(2), abs=1e-9)
        for name in ("weight_0", "bias_0"):
            np.testing.assert_allclose(plain(gradient)[f"{sites}_{name}"], 0.0, atol=1e-9)
    exact = mean * points - mean**2 / 2
    np.testing.assert_allclose(plain({"r": pair.log_ratio(weights, View(z))})["r"], exact, rtol=1e-12)
    exact = mean * np.clip(points + mean, -10, 10) - mean**2 / 2
    np.testing.assert_allclose(plain({"r": pair.discriminator(weights, view)})["r"], exact, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_are_as_frequent_as_the_softmax_says(backend: str) -> None:
    number, pair = 20_000, FAMILIES["mixed"].pair(backend, mixed())
    values = start(pair, jitter=0.0)
    values["generator_weight_1"] = 0.0 * values["generator_weight_1"]  # what the generator says is the same everywhere
    z = np.random.default_rng(0).standard_normal((number, pair.latent_size))
    x = once(backend, lambda w, z: pair.generate(w, View(z)), values, z)
    architecture, table = pair.model.args[0], np.asarray(pair.data.x)
    for group in architecture.groups:
        for column in group.columns if group.kind in ("binary", "categorical") else ():
            for label in range(max(group.num_parameters, 2)):
                # The starts are frequencies, with half a row more of each label.
                share = ((table[:, column] == label).sum() + 0.5) / (ROWS + 0.5 * max(group.num_parameters, 2))
                error = np.sqrt(share * (1 - share) / number)
                assert abs((x[:, column] == label).mean() - share) < 4 * error
    low = (values["mode_loc"] < 0) & (values["mode_log_share"] > -100)
    share = np.exp(values["mode_log_share"][:, 0])[low[:, 0]].sum()
    assert abs((x[:, 0] < 0).mean() - share) < 4 * np.sqrt(share * (1 - share) / number)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_observation_model_is_normal_about_the_generators_rows(backend: str, x64) -> None:
    from scipy.stats import norm

    def observed(weights: Any, z: Any, x: Any) -> Any:
        return network(backend).observe(pair.model.args[0], weights, z, None).log_prob(x)

    pair, rng = FAMILIES["real"].pair(backend, table("real")), np.random.default_rng(0)
    values, z = start(pair), rng.standard_normal((5, pair.latent_size))
    rows = once(backend, lambda w, z: pair.generate(w, View(z)), values, z)
    sd = 0.1 * np.exp(values["real_log_scale"])
    found = once(backend, observed, values, z, rows + 0.07)
    np.testing.assert_allclose(found, norm.logpdf(rows + 0.07, rows, sd).sum(1), rtol=1e-9)

    # Columns are independent given z: the integrals of p(row) as a function of one column each, over p(row), have the
    # product 1 / p(row) if the distribution of each integrates to 1.
    pair = FAMILIES["mixed"].pair(backend, mixed())
    real, labels = np.linspace(-30, 30, 12001), [np.arange(3.0), np.arange(2.0)]
    grids = [real, labels[0], labels[1], np.arange(3000.0), labels[0], real]
    row = np.asarray(pair.data.x)[:1]
    x = np.concatenate([row, *(np.repeat(row, len(grid), axis=0) for grid in grids)])
    ends = np.cumsum([1, *map(len, grids)])
    for column, grid in enumerate(grids):
        x[ends[column] : ends[column + 1], column] = grid
    density = once(backend, observed, start(pair), rng.standard_normal((1, pair.latent_size)), x)
    at, total = density[0], 0.0
    for column, grid in enumerate(grids):
        own = np.exp(density[ends[column] : ends[column + 1]] - at)
        total += np.log(own.sum() * (grid[1] - grid[0]))
    assert total == pytest.approx(-at, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_drawn_given_what_is_conditioned_on(backend: str, x64) -> None:
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.normal(size=ROWS), rng.normal(size=ROWS)])
    matrix, bias = np.array([[0.5], [2.0]]), np.array([1.0])
    family = GAN(latent_dim=1, condition_on=("x1",), generator_hidden=(), normalization="standard")
    pair = family.pair(backend, table, standardize=False)
    values = start(pair) | {"real_shift": np.zeros(1), "real_log_scale": np.zeros(1)}
    weights = arrays(backend, values | {"generator_weight_0": matrix, "generator_bias_0": bias})
    z, y = rng.normal(size=(ROWS, 1)), table[:, 1:]
    found = pair.generate(weights, View(arrays(backend, z), context=arrays(backend, y)))
    np.testing.assert_allclose(np.asarray(found), 0.5 * z + 2.0 * y + 1.0, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_makes_rows_of_noise_and_observes_them_under_noise(backend: str) -> None:
    pair = FAMILIES["given"].pair(backend, table("given"))
    context, kinds = pair.data.context, {}

    def drawn(weights: Any) -> dict[str, Any]:
        sites = traced(backend, pair, weights, View(None, context=context), realness=True)
        kinds["drawn"] = [name for name in sites if name in ("z", "x", "log_ratio")]
        z = sites["z"]["value"]
        codes, factor = View(z, context=context), sites["log_ratio"]
        return {
            "z": z, "x": sites["x"]["value"], "log_ratio": factor["fn"].log_prob(factor["value"]),
            "generate": pair.generate(weights, codes), "ratio": pair.log_ratio(weights, codes),
        }  # fmt: skip

    def given(weights: Any) -> Any:
        sites = traced(backend, pair, weights, pair.data)
        kinds["given"], kinds["is_observed"] = list(sites), sites["x"]["is_observed"]
        return sites["x"]["value"]

    found = once(backend, drawn, start(pair))
    assert kinds["drawn"] == ["z", "x", "log_ratio"]
    assert found["z"].shape == (ROWS, pair.latent_size)
    np.testing.assert_array_equal(found["x"], found["generate"])
    np.testing.assert_allclose(found["log_ratio"], found["ratio"], rtol=1e-6)
    np.testing.assert_array_equal(once(backend, given, start(pair)), np.asarray(pair.data.x))
    assert kinds["is_observed"]
    assert not [name for name in kinds["given"] if name.startswith(("log_ratio", "ratio", "discriminator"))]


def traced(backend: str, pair: pg.Pair, weights: dict[str, Any], data: Any, **options: Any) -> dict[str, Any]:
    """The sites of a run of the model."""
    if backend == "numpyro":
        from numpyro import handlers

        model = handlers.seed(handlers.substitute(pair.model, data=weights), 0)
        return handlers.trace(model).get_trace(data, **options)
    from pyro import poutine

    model = poutine.substitute(pair.model, data=weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*did not find params.*")  # the discriminator's
        return dict(poutine.trace(model).get_trace(data, **options).nodes)


def test_a_column_has_as_many_modes_as_it_has_peaks() -> None:
    rng = np.random.default_rng(0)
    peaks = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], 1000) + 0.05 * rng.normal(size=1000)
    loc, log_scale, log_share = fit_modes(np.column_stack([rng.normal(size=1000), peaks, np.zeros(1000)]), 8, 0)
    assert ((log_share > -100).sum(0) == [1, 5, 1]).all()
    # Standard errors of a mode of 200 rows: 0.05 / sqrt(200) of its mean, 0.05 / sqrt(400) of its standard deviation.
    found = np.sort(loc[log_share[:, 1] > -100, 1])
    np.testing.assert_allclose(found, [-2, -1, 0, 1, 2], atol=4 * 0.05 / 200**0.5)
    np.testing.assert_allclose(np.exp(log_scale[:5, 1]), 0.05, atol=4 * 0.05 / 400**0.5)
    np.testing.assert_allclose(np.exp(log_share).sum(0), 1.0)


def test_what_it_does_not_model_and_settings_that_contradict_are_refused() -> None:
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.random.default_rng(0).normal(size=60)})
    with pytest.raises(pg.DataError, match="missing values"):
        GAN().pair("numpyro", frame.assign(b=frame["b"].where(frame["a"] != 3)))
    with pytest.raises(pg.DataError, match="at least 50 rows"):
        GAN().pair("numpyro", frame[:40])
    with pytest.raises(pg.DataError, match="models images"):
        GAN(generator="conv").pair("numpyro", frame)
    with pytest.raises(pg.SettingError, match="the table has none"):
        GAN(normalization="modes").pair("numpyro", frame > 0)
    with pytest.raises(pg.SettingError, match="temperature is of labels"):
        GAN(temperature=0.3, normalization="standard").pair("numpyro", frame)
    wrong = {
        "did you mean 'minimax'": {"loss": "minmax"},
        "regularizer_weight is of": {"regularizer": "clip", "regularizer_weight": 1.0},
        "clip is of regularizer='clip'": {"clip": 0.1},
        "jacobian_range is of": {"jacobian_range": (0.5, 2.0)},
        "two numbers": {"regularizer": "jacobian_clamping", "jacobian_range": (2.0, 1.0)},
        "max_modes is of": {"normalization": "standard", "max_modes": 5},
        "channels is of": {"channels": (4,)},
        "for the columns of a table": {"generator": "conv", "normalization": "modes"},
        "no bound": {"loss": "wasserstein", "regularizer": None},
        "whole number of at least 1": {"pack": 0},
    }
    assert GAN().with_options({"regularizer": "none"}) == GAN(regularizer=None)
    for message, options in wrong.items():
        with pytest.raises(pg.SettingError, match=message):
            GAN(**options)


def test_after_training_the_largest_singular_values_are_one() -> None:
    family = GAN(latent_dim=2, generator_hidden=(8,), discriminator_hidden=(8, 8), regularizer="spectral_norm")
    engine = pg.Adversarial(num_members=1, max_steps=200, batch_size=30, ratio_steps=50)
    fit = pg.fit(family, table("real"), engine=engine, seed=0)
    for i in range(3):
        matrix = fit.draws.posterior[f"discriminator_weight_{i}"][0, 0]
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)


def test_a_clamped_generator_moves_within_its_range() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.choice([-1.0, 1.0], 200), rng.normal(size=200)]) + 0.05 * rng.normal(size=(200, 2))
    low, high, rates = 0.5, 1.2, {}
    options = {"regularizer": "jacobian_clamping", "regularizer_weight": 10.0, "jacobian_range": (low, high)}
    z = rng.standard_normal((500, 2))
    step = rng.standard_normal((500, 2))
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    for name, own in (("clamped", options), ("free", {"regularizer": None})):
        family = GAN(latent_dim=2, generator_hidden=(16,), discriminator_hidden=(16,), normalization="standard", **own)
        engine = pg.Adversarial(num_members=1, max_steps=500, batch_size=50, ratio_steps=50)
        fit = pg.fit(family, x, engine=engine, backend="pyro", seed=0)
        weights = arrays("pyro", {key: value[0, 0] for key, value in fit.draws.posterior.items()})
        ends = [plain({"f": fit.pair.adversary.forge(weights, arrays("pyro", at), None)})["f"] for at in (z, z + step)]
        rates[name] = np.linalg.norm(ends[1] - ends[0], axis=1)
    # A penalty is no wall: what is left of the game pulls beyond it by some hundredths.
    outside = {name: np.maximum(rate - high, low - rate).clip(0) for name, rate in rates.items()}
    assert np.quantile(outside["clamped"], 0.95) < 0.15
    assert outside["clamped"].mean() < 0.2 * outside["free"].mean()
