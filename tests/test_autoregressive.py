"""Autoregressive networks: the chain of conditionals as oracle, exact sums, uniform numbers, sequences."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen.backends import numpyro_ops
from ppl_gen.models.autoregressive import Autoregressive
from ppl_gen.models.autoregressive.architecture import Architecture, resolve

TINY: dict[str, Any] = {"hidden": (9, 8), "num_mixture_components": 3}
CONVOLUTION: dict[str, Any] = {**TINY, "network": "causal_conv", "channels": 5, "num_layers": 2, "num_stacks": 2}
QUICK = pg.SVI(num_members=2, max_steps=400, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def _double(x64: None) -> None:
    """All in double precision."""


def mixed(num_rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """A column of each kind and more, kinds not side by side."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "height": 170 + 10 * rng.normal(size=num_rows), "open": rng.random(num_rows) < 0.4,
        "sky": rng.choice(["clear", "cloud", "rain"], num_rows), "mass": rng.gamma(2.0, size=num_rows),
        "wind": rng.choice(["n", "e", "s", "w"], num_rows), "quakes": rng.poisson(3.0, num_rows),
        "shut": rng.random(num_rows) < 0.7,
    })  # fmt: skip


def steps(num: int = 10, length: int = 9) -> pd.DataFrame:
    """The same as sequences, of different lengths."""
    lengths = np.resize([length, length - 4], num)
    return mixed(int(lengths.sum())).assign(who=np.repeat(np.arange(num), lengths))


def made(table: pd.DataFrame, **options: Any) -> tuple[Any, Architecture, dict[str, Any]]:
    """A pair, its architecture, and weights far enough from their start for columns to depend on each other."""
    family = Autoregressive(**options)
    data = family.prepare(table, **({"sequence": "who"} if family.sequences else {}))
    pair = family.build("numpyro", data.schema, len(data), data.view("numpyro"))
    values = {name: value[0] for name, value in pair.initialize(pair.data, 3, 1).items()}
    rng = np.random.default_rng(4)
    values = {name: jnp.asarray(value + 0.3 * rng.normal(size=value.shape)) for name, value in values.items()}
    return pair, resolve(family, data.schema), values


def row_log_prob(pair: Any, values: dict[str, Any], x: Any) -> np.ndarray:
    one = {name: np.asarray(value)[None] for name, value in values.items()}
    return numpyro_ops.log_prob(pair, one, pair.data._replace(x=jnp.asarray(x)))[0]


@pytest.mark.parametrize("hidden", [(9, 8), (3,)])
def test_the_parameters_of_a_column_depend_on_the_columns_before_it_only(hidden: tuple[int, ...]) -> None:
    from ppl_gen.models.autoregressive import numpyro_network as network

    pair, architecture, values = made(mixed(), **{**TINY, "hidden": hidden})
    encoded = network.encode(architecture, values, pair.data.x[7])

    def flat(encoded: jax.Array) -> list[jax.Array]:
        found = network.raw_parameters(architecture, values, encoded)
        return [found[group][:, place] for group, place in architecture.places]

    starts = {c: g.first_input + i * g.num_inputs for g in architecture.groups for i, c in enumerate(g.columns)}
    for column, gradient in enumerate(jax.jit(jax.jacobian(flat))(encoded)):
        for other, (group, _) in enumerate(architecture.places):
            start = starts[other]
            part = gradient[:, start : start + architecture.groups[group].num_inputs]
            assert not part.any() or other < column
    # Something does get through to the last column, from the first and from the one before it.
    if len(hidden) > 1:
        assert np.any(gradient[:, starts[0]])
        assert np.any(gradient[:, starts[5]])


def test_every_column_depends_on_the_context() -> None:
    from ppl_gen.networks import autoregressive_masks

    for order in (np.arange(1), np.arange(4), np.array([2, 0, 1])):
        reach = np.linalg.multi_dot([np.eye(len(order) + 2), *autoregressive_masks(order, 2, [6, 5], 1)])
        expected = np.concatenate([order[:, None] < order, np.ones((2, len(order)), bool)])
        np.testing.assert_array_equal(reach > 0, expected)


@pytest.mark.parametrize("real", ["logistic", "gaussian"])
def test_log_prob_is_the_chain_of_conditionals(real: str) -> None:
    """The network called once a column, with all that comes later set to 0."""
    from ppl_gen.backends import numpyro_columns as conditionals
    from ppl_gen.models.autoregressive import numpyro_network as network

    pair, architecture, values = made(mixed(), real=real, **TINY)
    x, total = pair.data.x, 0.0

    @jax.jit
    def given(known: jax.Array) -> list[jax.Array]:
        raw = network.raw_parameters(architecture, values, network.encode(architecture, values, known))
        parts = zip(architecture.groups, raw, strict=True)
        return [conditionals.log_prob(g, values, part, x[:, g.where], real) for g, part in parts]

    for column, (which, place) in enumerate(architecture.places):
        total = total + given(jnp.where(jnp.arange(x.shape[1]) < column, x, 0.0))[which][:, place]
    np.testing.assert_allclose(row_log_prob(pair, values, x), total, atol=1e-10)


def test_probabilities_of_all_states_sum_to_one() -> None:
    table = mixed().drop(columns=["height", "mass", "quakes"])
    pair, _, values = made(table, **TINY)
    states = np.array(list(itertools.product(range(2), range(3), range(4), range(2))), float)
    assert np.exp(row_log_prob(pair, values, states)).sum() == pytest.approx(1, abs=1e-12)


def test_probabilities_of_counts_sum_to_one() -> None:
    pair, _, values = made(mixed()[["open", "quakes"]], **TINY)
    # Logistic tails: beyond 400 lie less than exp(-(400 - 3) / s) with scales s of a few counts.
    states = np.array(list(itertools.product(range(2), range(400))), float)
    assert np.exp(row_log_prob(pair, values, states)).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("real", ["logistic", "gaussian"])
def test_densities_integrate_to_one(real: str) -> None:
    pair, _, values = made(mixed()[["open", "mass"]], real=real, **TINY)
    grid = np.linspace(-60, 60, 40_001)
    rows = np.array(list(itertools.product(range(2), grid)))
    density = np.exp(row_log_prob(pair, values, rows)).reshape(2, -1).sum(0)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("options", [TINY, {**TINY, "real": "gaussian"}, CONVOLUTION])
def test_uniform_numbers_and_samples_determine_each_other(options: dict[str, Any]) -> None:
    pair, architecture, values = made(steps() if "network" in options else mixed(), **options)
    shape = (300, 6, architecture.num_columns) if "network" in options else (300, architecture.num_columns)
    u = np.random.default_rng(0).random(shape)
    x = jax.jit(pair.from_uniform)(values, jnp.asarray(u))
    view = pair.data._replace(x=x, lengths=None, mask=None)
    low, high = np.moveaxis(np.asarray(jax.jit(pair.to_uniform)(values, view)), -1, 0)
    real = [c for g in architecture.groups if g.kind == "real" for c in g.columns]
    np.testing.assert_allclose(low[..., real], u[..., real], atol=1e-9)
    # The interval of an ordered column holds its u, up to the rounding of sums taken in another order.
    assert (low <= u + 1e-9).all()
    assert (u <= high + 1e-9).all()
    other = [c for c in range(architecture.num_columns) if c not in real]
    assert (high[..., other] > low[..., other]).all()
    # Any number of those intervals gives the same sample.
    inner = low + (high - low) * np.random.default_rng(1).uniform(0.01, 0.99, shape)
    np.testing.assert_allclose(jax.jit(pair.from_uniform)(values, jnp.asarray(inner)), x, atol=1e-6)


def test_samples_have_the_density() -> None:
    """By chi-square over states and by Kolmogorov-Smirnov on the uniform numbers, each at level 1e-3 (fixed seed)."""
    pair, _, values = made(mixed()[["sky", "open", "quakes"]], **TINY)
    u = np.random.default_rng(5).random((20_000, 3))
    x = np.asarray(jax.jit(pair.from_uniform)(values, jnp.asarray(u)))
    states = np.array(list(itertools.product(range(3), range(2), range(40))), float)
    expected = np.exp(row_log_prob(pair, values, states)) * len(x)
    seen = np.array([(x == state).all(1).sum() for state in states])
    rare = expected < 5
    expected = np.append(expected[~rare], max(len(x) - expected[~rare].sum(), 1e-9))
    assert stats.chisquare(np.append(seen[~rare], seen[rare].sum()), expected).pvalue > 1e-3

    pair, _, values = made(mixed()[["open", "height"]], **TINY)
    u = np.random.default_rng(6).random((20_000, 2))
    u[:, 0] = 0.0  # one state of the first column, so that one distribution function holds for the second
    x = np.asarray(jax.jit(pair.from_uniform)(values, jnp.asarray(u)))
    grid = np.linspace(-60, 60, 40_001)
    density = np.exp(row_log_prob(pair, values, np.stack([np.zeros_like(grid), grid], 1)))
    share = np.cumsum(density) / density.sum()
    assert stats.kstest(np.interp(x[:, 1], grid, share), "uniform").pvalue > 1e-3


def in_pyro(family: Autoregressive, data: Any, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import torch

    pair = family.build("pyro", data.schema, len(data), data.view("pyro"))
    return pair, {name: torch.as_tensor(np.array(value)) for name, value in values.items()}


@pytest.mark.parametrize(
    "options", [TINY, {**TINY, "real": "gaussian"}, CONVOLUTION, {**CONVOLUTION, "kernel_size": 3}]
)
def test_both_backends_are_the_same_function(options: dict[str, Any]) -> None:
    import torch

    from ppl_gen.backends import pyro_ops

    table = steps() if "network" in options else mixed()
    pair, _, values = made(table, **options)
    data = pair.family.prepare(table, **({"sequence": "who"} if "network" in options else {}))
    twin, tensors = in_pyro(pair.family, data, values)
    draws = {name: np.stack([value, 0.7 * value]) for name, value in values.items()}
    ours, theirs = numpyro_ops.log_prob(pair, draws, pair.data), pyro_ops.log_prob(twin, draws, twin.data)
    np.testing.assert_allclose(theirs, ours, atol=1e-9)
    for hook in ("to_uniform", *(("step_log_prob",) if "network" in options else ())):
        ours, theirs = jax.jit(getattr(pair, hook))(values, pair.data), getattr(twin, hook)(tensors, twin.data)
        np.testing.assert_allclose(theirs, ours, atol=1e-9)
    u = np.random.default_rng(2).random((20, *pair.data.x.shape[1:]))
    np.testing.assert_allclose(
        twin.from_uniform(tensors, torch.as_tensor(u)), jax.jit(pair.from_uniform)(values, jnp.asarray(u)), atol=1e-7
    )
    model = pyro_ops.sample_rows(twin, {n: v[:1] for n, v in draws.items()}, np.zeros(5, int), 0,
                                 **({"num_steps": 4} if "network" in options else {}))  # fmt: skip
    assert model.shape == (5, *((4,) if "network" in options else ()), pair.data.x.shape[-1])
    trained = torch.func.grad(lambda w: pyro_ops.log_density(twin, w, twin.data))(tensors)
    gradient = jax.jit(jax.grad(lambda w: numpyro_ops.log_joint_fn(pair)(w, pair.data)))(values)
    for name, part in gradient.items():
        np.testing.assert_allclose(trained[name], part, rtol=1e-7, atol=1e-7)
        assert np.any(np.asarray(part) != 0)


def test_a_known_joint_distribution_is_recovered() -> None:
    """Three binary columns: KL(truth || fit) below 0.01 nats. With n rows a fit of 7 free parameters is 7 / 2n =
    0.0018 nats away on average; the bound is five times as much."""
    joint = np.array([0.30, 0.02, 0.05, 0.20, 0.01, 0.15, 0.17, 0.10])
    states = np.array(list(itertools.product((0, 1), repeat=3)))
    rows = states[np.random.default_rng(0).choice(8, 2000, p=joint)].astype(bool)
    family = Autoregressive(hidden=(16,))
    table = pd.DataFrame(rows, columns=["a", "b", "c"])
    fit = pg.fit(family, table, engine=QUICK, seed=0)
    score = fit.score(pd.DataFrame(states.astype(bool), columns=["a", "b", "c"]), p_values=False)
    assert np.exp(score.log_predictive).sum() == pytest.approx(1, abs=1e-6)
    assert (joint * (np.log(joint) - score.log_predictive)).sum() < 0.01
    again = pg.fit(family, table, engine=QUICK, seed=0)
    for name, value in fit.draws.posterior.items():
        np.testing.assert_array_equal(again.draws.posterior[name], value)


CHAIN = np.array([[0.8, 0.2, 0.0], [0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])


@pytest.fixture(scope="module")
def tokens() -> pg.Fit:
    """A network fitted to a Markov chain of three tokens, that starts in the first."""
    rng = np.random.default_rng(1)
    rows = []
    for who in range(150):
        state = 0
        for _ in range(int(rng.integers(10, 30))):
            rows.append((who, "abc"[state]))
            state = rng.choice(3, p=CHAIN[state])
    family = Autoregressive("causal_conv", hidden=(16,), channels=8, num_layers=2)
    return pg.fit(family, pd.DataFrame(rows, columns=["who", "token"]), sequence="who", engine=QUICK, seed=0)


def test_a_markov_chain_is_recovered(tokens: pg.Fit) -> None:
    """Kullback-Leibler divergence below 0.03 nats a token, each at its own history: 6 parameters, had their form been
    known, would cost 6 / 2n = 0.001 with n = 2900 tokens; the network has hundreds, held back by early stopping only.
    """
    rng, text = np.random.default_rng(7), [0]
    while len(text) < 1000:
        text.append(int(rng.choice(3, p=CHAIN[text[-1]])))
    table = pd.DataFrame({"who": np.arange(1000) // 20, "token": ["abc"[state] for state in text]})
    score = tokens.score(table, per_step=True)
    truth = np.array([CHAIN[i, j] for i, j in itertools.pairwise(text)])
    inside = np.arange(1, 1000) % 20 > 0
    assert np.mean((np.log(truth) - score.log_predictive[1:])[inside]) < 0.03
    sample = tokens.sample(400, seed=1, length=12)
    assert (sample.groupby("who")["token"].first() == "a").mean() > 0.99
    inside = sample["who"] == sample["who"].shift()
    after = pd.crosstab(sample["token"].shift()[inside], sample["token"][inside], normalize="index")
    # About 1000 transitions from each token in the table and 1500 in the sample: standard errors 0.016 and 0.013.
    np.testing.assert_allclose(after, CHAIN, atol=0.08)


def test_futures_go_on_from_where_a_sequence_ends(tokens: pg.Fit) -> None:
    table = pd.DataFrame({"who": [0, 0, 1, 2, 2, 2], "token": list("abacca")})
    found = tokens.forecast(2, table, num_draws=2000, seed=3).filter(like="token=").to_numpy().reshape(3, 2, 3)
    # 2000 draws: standard errors up to 0.011; and the fit's own error, as above.
    np.testing.assert_allclose(found[:, 0], CHAIN[[1, 0, 0]], atol=0.12)
    np.testing.assert_allclose(found[:, 1], CHAIN[[1, 0, 0]] @ CHAIN, atol=0.12)


def test_perplexity_and_bits(tokens: pg.Fit) -> None:
    score, each = tokens.score(), tokens.score(per_step=True)
    assert score.perplexity == pytest.approx(np.exp(-each.log_predictive.mean()), rel=1e-5)
    assert score.bits_per_dim == pytest.approx(np.log2(score.perplexity))
    assert each.perplexity == pytest.approx(score.perplexity, rel=1e-5)


def test_what_needs_states_is_refused(tokens: pg.Fit) -> None:
    with pytest.raises(pg.UnsupportedError, match="no hidden states"):
        tokens.latents()


def test_a_short_sequence_scores_the_same_alone_and_beside_longer_ones() -> None:
    pair, _, values = made(steps(), **CONVOLUTION)
    log_prob = jax.jit(pair.step_log_prob)
    together = np.asarray(log_prob(values, pair.data))
    for i, length in enumerate(np.asarray(pair.data.lengths)):
        alone = pair.data._replace(x=pair.data.x[i : i + 1, :length], lengths=None, mask=None)
        np.testing.assert_allclose(together[i, :length], log_prob(values, alone)[0], atol=1e-12)
        assert not together[i, length:].any()
    np.testing.assert_allclose(row_log_prob(pair, values, pair.data.x), together.sum(1), atol=1e-12)


def test_a_step_depends_on_the_steps_before_it_as_far_back_as_the_layers_reach() -> None:
    pair, architecture, values = made(steps(), **CONVOLUTION)
    assert architecture.reach == 1 + 2 * (1 + 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 14, 7)) ** 2)
    view = pair.data._replace(lengths=None, mask=None)
    gradient = jax.jit(jax.jacobian(lambda v: pair.step_log_prob(values, view._replace(x=v))[0]))(x)
    at = np.subtract.outer(np.arange(14), np.arange(14))
    for column in (0, 3):  # the real ones
        np.testing.assert_array_equal(gradient[:, 0, :, column] != 0, (at >= 0) & (at <= architecture.reach))


def refused(table: pd.DataFrame, match: str, **options: Any) -> None:
    with pytest.raises(pg.DataError, match=match):
        Autoregressive(**options).prepare(table)


def test_bad_input_is_refused_in_words() -> None:
    gap = mixed()
    gap.loc[3, "mass"] = np.nan
    refused(gap, "missing values .row 3, column 'mass'.*gmm, hmm")
    refused(mixed(20), "at least 50 rows")
    refused(mixed().assign(mass=1.0), "constant")
    with pytest.raises(pg.SettingError, match="made"):
        Autoregressive("mad")
    fit = pg.fit(
        Autoregressive(hidden=(4,), num_mixture_components=1), mixed(), engine=pg.SVI(num_members=1, max_steps=50)
    )
    with pytest.raises(pg.DataError, match="missing values"):
        fit.score(gap)
    with pytest.raises(pg.UnsupportedError, match="models rows"):
        fit.forecast(3)
    assert np.isnan(fit.score().perplexity)
    assert fit.score().bits_per_dim == pytest.approx(-fit.score().total / (60 * 7 * np.log(2)))
