"""Restricted Boltzmann machines: against sums over all states of small ones, and quadrature."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pytest
import torch
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate, enum, log_density
from pyro.infer import TraceEnum_ELBO
from scipy.special import expit, logsumexp
from zoo import columns_of as table

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.family import Pair
from ppl_gen.models.rbm import RBM, numpyro_machine, pyro_machine
from ppl_gen.models.rbm.architecture import resolve

BACKENDS = ("numpyro", "pyro")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
EXACT = 1e-9  # float64: some thousand operations on numbers of some tens
each_kind = pytest.mark.parametrize("kind", ["binary", "mixed"])


@pytest.fixture(autouse=True)
def _double(x64: None) -> None:
    pass


def machine(kind: str, num_hidden: int = 4, seed: int = 1) -> tuple[RBM, pg.Data, dict[str, np.ndarray]]:
    """A family, its data, and weights of standard deviation 0.7, so that no unit is nearly independent."""
    family = RBM(num_hidden)
    data = family.prepare(table(kind))
    rng = np.random.default_rng(seed)
    layout = resolve(family, data.schema).layout
    weights = {name: 0.7 * rng.standard_normal(weight.shape) for name, weight in layout.items()}
    return family, data, weights


def network(backend: str) -> Any:
    return numpyro_machine if backend == "numpyro" else pyro_machine


def arrays(backend: str, values: Any) -> Any:
    make = jnp.asarray if backend == "numpyro" else torch.as_tensor
    return {name: make(value) for name, value in values.items()} if isinstance(values, dict) else make(values)


def hook(backend: str, function: Any, weights: dict[str, np.ndarray], *arguments: Any) -> np.ndarray:
    given = [arrays(backend, a) if isinstance(a, np.ndarray) else a for a in arguments]
    if backend == "numpyro" and not any(isinstance(a, int) for a in arguments):
        function = jax.jit(function)
    return np.asarray(function(arrays(backend, weights), *given))


def grid(data: pg.Data) -> tuple[np.ndarray, float]:
    """All states of model space (n, D), and what one is worth: 1, or of real columns the cell of a fine grid."""
    line, axes, cell = np.linspace(-15, 15, 101), [], 1.0
    for column in data.schema.columns:
        real = column.kind == "real"
        axes.append(line if real else np.arange(len(column.categories or ()) or 2))
        cell *= line[1] - line[0] if real else 1.0
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)).astype(np.float64), cell


def joint(data: pg.Data, weights: dict[str, np.ndarray], x: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """(n, 2^H): log of the tempered joint density of rows and hidden units, column by column as its docstring has it.
    The features of the family stand group after group, groups in the order in which their kinds come first."""
    h = np.array(list(itertools.product((0.0, 1.0), repeat=len(weights["hidden_bias"]))))
    kinds = list(dict.fromkeys(c.kind for c in data.schema.columns))
    places = [j for kind in kinds for j, c in enumerate(data.schema.columns) if c.kind == kind]
    total = beta * h @ weights["hidden_bias"] - (1 - beta) * len(h.T) * np.log(2)
    total, at, real = np.repeat(total[None], len(x), 0), 0, 0
    for j in places:
        column, size = data.schema.columns[j], max(len(data.schema.columns[j].categories or ()), 1)
        where, value = slice(at, at + size), x[:, [j]]
        b, base, pull = (weights[name][where] for name in ("visible_bias", "base_bias", "weight"))
        if column.kind == "real":
            scale, base_scale = (np.exp(weights[f"{name}_log_scale"][real]) for name in ("visible", "base"))
            own = -((value - b) ** 2) / (2 * scale**2) + value / scale * (pull @ h.T)
            q = -((value - base) ** 2) / (2 * base_scale**2) - np.log(base_scale * np.sqrt(2 * np.pi))
            real += 1
        else:
            hot = value if size == 1 else np.eye(size)[value[:, 0].astype(int)]
            own = hot @ b[:, None] + hot @ pull @ h.T
            each = np.array([0.0, base[0]]) if size == 1 else base
            q = hot @ base[:, None] - logsumexp(each)
        total, at = total + beta * own + (1 - beta) * q, at + size
    return total


@each_backend
@each_kind
def test_hidden_units_are_summed_out_as_enumeration_does(backend: str, kind: str) -> None:
    family, data, weights = machine(kind)
    weights["log_normalizer"] = np.array(2.5)
    for row_weights in (None, np.random.default_rng(0).uniform(0.2, 3.0, len(data))):
        pair = family.pair(backend, table(kind), weights=row_weights)
        truth = logsumexp(joint(data, weights, np.asarray(pair.data.x)), axis=1) - 2.5
        each = np.ones(len(data)) if row_weights is None else row_weights
        assert enumerated(pair, weights) == pytest.approx(each @ truth, abs=1e-8)
        assert backends.ops(backend).log_joint(pair, weights, pair.data) == pytest.approx(each @ truth, abs=1e-8)
    rows = backends.ops(backend).log_prob(pair, {k: v[None] for k, v in weights.items()}, pair.data)[0]
    np.testing.assert_allclose(rows, truth, atol=EXACT)


def enumerated(pair: Pair, weights: dict[str, np.ndarray]) -> float:
    """The log joint density of the definition, hidden units summed out by the library."""
    if pair.backend == "numpyro":
        model = enum(config_enumerate(pair.model), first_available_dim=-3)
        return float(log_density(model, (pair.data,), {}, arrays("numpyro", weights))[0])
    model = pyro.poutine.substitute(pair.model, data=arrays("pyro", weights))
    with sandbox(0):
        return -float(TraceEnum_ELBO(max_plate_nesting=2).loss(model, lambda _: None, pair.data))


@each_backend
def test_the_guide_is_the_exact_posterior(backend: str) -> None:
    # Of any h: log p(x, h) - log q(h | x) = log p(x).
    family, data, weights = machine("mixed")
    pair = family.pair(backend, table("mixed"))
    h = np.random.default_rng(2).integers(0, 2, (family.num_hidden, len(data))).astype(float)
    truth = logsumexp(joint(data, weights, data.x), axis=1)
    if backend == "numpyro":
        given = arrays(backend, {**weights, "h": h})
        sites = [handlers.trace(handlers.seed(handlers.substitute(f, data=given), 0)).get_trace(pair.data)
                 for f in (pair.model, pair.guide)]  # fmt: skip
        terms = [{k: s["fn"].log_prob(s["value"]) for k, s in t.items() if s["type"] == "sample"} for t in sites]
    else:
        given, known = arrays(backend, weights), arrays(backend, {"h": h})
        with sandbox(0):
            traces = [pyro.poutine.trace(pyro.poutine.condition(pyro.poutine.substitute(f, data=given), data=known))
                      .get_trace(pair.data) for f in (pair.model, pair.guide)]  # fmt: skip
        terms = [{k: t.nodes[k]["fn"].log_prob(t.nodes[k]["value"]) for k in ("x", "h", "hidden_energy", "energy")
                  if k in t.nodes} for t in traces]  # fmt: skip
    both = [sum(_rows(v) for v in part.values()) for part in terms]
    np.testing.assert_allclose(both[0] - both[1], truth, atol=EXACT)
    share = np.exp(joint(data, weights, data.x) - truth[:, None])
    states = np.array(list(itertools.product((0.0, 1.0), repeat=family.num_hidden)))
    found = backends.ops(backend).hook_over_draws(pair, "features", {k: v[None] for k, v in weights.items()}, pair.data)
    np.testing.assert_allclose(found[0], share @ states, atol=EXACT)


def _rows(value: Any) -> np.ndarray:
    """(n,) of a site in the plate of rows, or that of hidden units within it."""
    value = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
    return value.sum(0) if value.ndim == 2 else value


@each_backend
@pytest.mark.parametrize("kind", ["binary", "real", "mixed"])
def test_the_path_goes_from_the_normalised_base_to_the_machine(backend: str, kind: str) -> None:
    family, data, weights = machine(kind)
    pair, (states, cell) = family.pair(backend, table(kind)), grid(data)
    for beta in (0.0, 0.3, 1.0):
        truth = logsumexp(joint(data, weights, data.x, beta), axis=1)
        np.testing.assert_allclose(hook(backend, pair.tempered, weights, data.x, beta), truth, atol=EXACT)
    # The trapezoidal rule errs by exp(-(2 pi sd / cell)^2 / 2) of a normal: 1e-16 of an sd of 0.4, the least here.
    base = logsumexp(hook(backend, pair.tempered, weights, states, 0.0)) + np.log(cell)
    assert base == pytest.approx(0.0, abs=1e-7 if cell != 1 else EXACT)
    brute = logsumexp(hook(backend, pair.tempered, weights, states, 1.0)) + np.log(cell)
    assert float(hook(backend, pair.log_normalizer, weights)) == pytest.approx(brute, abs=1e-7 if cell != 1 else EXACT)


@each_backend
def test_the_log_normalizer_is_summed_in_parts_over_either_layer(backend: str) -> None:
    # 2^12 states, in four parts: of 12 hidden units beside 14 columns, and the other way about.
    rng = np.random.default_rng(0)
    for hidden, columns in ((12, 14), (14, 12)):
        family = RBM(hidden)
        data = family.prepare(rng.integers(0, 2, (60, columns)))
        pair = family.build(backend, data.schema, len(data))
        weights = {name: 0.5 * rng.standard_normal(w.shape) for name, w in resolve(family, data.schema).layout.items()}
        states = np.array(list(itertools.product((0.0, 1.0), repeat=hidden)))
        inputs = states @ weights["weight"].T + weights["visible_bias"]
        brute = logsumexp(states @ weights["hidden_bias"] + np.logaddexp(0, inputs).sum(1))
        assert float(hook(backend, pair.log_normalizer, weights)) == pytest.approx(brute, abs=EXACT)
    assert RBM(21).pair(backend, rng.integers(0, 2, (60, 21))).log_normalizer is None
    assert RBM(21).pair(backend, rng.integers(0, 2, (60, 20))).log_normalizer is not None


@each_backend
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_gibbs_conditionals_are_those_of_enumeration(backend: str, kind: str) -> None:
    family, data, weights = machine(kind)
    architecture, (states, _) = resolve(family, data.schema), grid(data)
    hidden = np.array(list(itertools.product((0.0, 1.0), repeat=family.num_hidden)))
    module = network(backend)
    for beta in (0.0, 0.4, 1.0):
        log_joint = joint(data, weights, states, beta)
        given_x = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
        given_h = np.exp(log_joint - logsumexp(log_joint, axis=0, keepdims=True))
        logits = beta * hook(backend, lambda w, x: module.hidden_logits(architecture, w, x), weights, states)
        np.testing.assert_allclose(expit(logits), given_x @ hidden, atol=EXACT)
        at = hook(backend, lambda w, h: module.given_hidden(architecture, w, h, beta)[0], weights, hidden)  # noqa: B023
        if kind == "binary":
            np.testing.assert_allclose(expit(at), given_h.T @ states, atol=EXACT)
        else:
            shares = np.exp(at.reshape(len(hidden), 2, 3))
            hot = np.eye(3)[states.astype(int)]
            truth = np.einsum("sh,sjk->hjk", given_h, hot)
            np.testing.assert_allclose(shares / shares.sum(-1, keepdims=True), truth, atol=EXACT)


@each_backend
@each_kind
def test_gibbs_sweeps_leave_the_tempered_density_as_it_is(backend: str, kind: str) -> None:
    # From 4,000 draws of the tempered density, by sums over all states, one sweep: moments of rows as before. A mean
    # of 4,000 draws is 1/63 of a standard deviation off, the two together 1/45; 5 of them.
    family, data, weights = machine(kind)
    pair, (states, _) = family.pair(backend, table(kind)), grid(data)
    log_density = hook(backend, pair.tempered, weights, states, 0.6)
    share, rng = np.exp(log_density - logsumexp(log_density)), np.random.default_rng(4)
    start = states[rng.choice(len(states), 4000, p=share / share.sum())]
    key = jax.random.key(3) if backend == "numpyro" else 3
    after = hook(backend, pair.gibbs, weights, start, 0.6, key)
    assert after.shape == start.shape
    pairs = list(itertools.combinations(range(start.shape[1]), 2))
    for one in ([start, after], [np.stack([x[:, i] * x[:, j] for i, j in pairs], 1) for x in (start, after)]):
        sd = np.sqrt(share @ (_columns(states, pairs, one[0].shape[1]) ** 2) - (share @ _columns(
            states, pairs, one[0].shape[1])) ** 2)  # fmt: skip
        assert (np.abs(one[0].mean(0) - one[1].mean(0)) < 5 * sd / 45).all()
    again = hook(backend, pair.gibbs, weights, start, 0.6, key)
    np.testing.assert_array_equal(after, again)


def _columns(states: np.ndarray, pairs: list[tuple[int, int]], number: int) -> np.ndarray:
    return states if number == states.shape[1] else np.stack([states[:, i] * states[:, j] for i, j in pairs], 1)


@each_backend
def test_the_base_has_the_rates_of_the_data_and_is_drawn_so(backend: str) -> None:
    family, data, _ = machine("mixed")
    pair = family.pair(backend, table("mixed"))
    start = {name: value[0] for name, value in pair.initialize(pair.data, 0, 1).items()}
    x = hook(backend, pair.draw_base, start, 8000, jax.random.key(0) if backend == "numpyro" else 0)
    # A rate of 60 rows has half a row added to each value: 0.01 at most; and 8,000 draws are 0.006 off, 5 of them.
    for j, column in enumerate(data.schema.columns):
        if column.kind == "real":
            assert x[:, j].mean() == pytest.approx(0, abs=5 / 8000**0.5)
            assert x[:, j].std() == pytest.approx(1, abs=5 / 16000**0.5)
            continue
        for value in range(len(column.categories or ()) or 2):
            assert (x[:, j] == value).mean() == pytest.approx((data.x[:, j] == value).mean(), abs=0.04)
    weighted = family.pair(backend, table("mixed"), weights=np.r_[np.full(30, 2.0), np.zeros(30)])
    other = family.pair(backend, table("mixed")[:30].loc[np.repeat(np.arange(30), 2)])
    one, two = (each.initialize(each.data, 0, 1) for each in (weighted, other))
    for name in one:  # a table without the last rows has other units of its real columns, which are left out
        if "log_scale" not in name:
            same = np.r_[0:3, 5:9]
            at = (slice(None), same) if name.endswith("e_bias") else slice(None)
            np.testing.assert_allclose(one[name][at], two[name][at], atol=1e-6)


@each_backend
def test_the_gradient_of_the_likelihood_by_long_chains_is_the_exact_one(backend: str) -> None:
    # 6 x 4: the gradient is a mean over the data less that over p(x). 4,000 chains from rows of the data, 60 sweeps
    # each, after which the second eigenvalue of a sweep (below 0.8) has left 1e-5 of the start: independent draws.
    family, data, weights = machine("binary")
    pair = family.pair(backend, table("binary"))
    x = np.random.default_rng(5).choice(data.x, 4000)
    if backend == "numpyro":
        w, keys = arrays(backend, weights), jax.random.split(jax.random.key(1), 60)
        sweep = jax.jit(lambda x, key: (pair.gibbs(w, x, 1.0, key), None))
        x = jax.lax.scan(sweep, jnp.asarray(x), keys)[0]
        likelihood = jax.jit(jax.grad(lambda w, x: pair.tempered(w, x, 1.0).mean() - pair.log_normalizer(w)))
        exact = likelihood(w, jnp.asarray(data.x))
        by_row = jax.jit(jax.vmap(jax.grad(lambda w, one: pair.tempered(w, one[None], 1.0)[0]), (None, 0)))
        of_data, of_model = by_row(w, jnp.asarray(data.x)), by_row(w, x)
    else:
        w, x = arrays(backend, weights), torch.as_tensor(x)
        for i in range(60):
            x = pair.gibbs(w, x, 1.0, 100 + i)
        rows = torch.as_tensor(data.x)
        exact = torch.func.grad(lambda w: pair.tempered(w, rows, 1.0).mean() - pair.log_normalizer(w))(w)
        by_row = torch.func.vmap(torch.func.grad(lambda w, one: pair.tempered(w, one[None], 1.0)[0]), (None, 0))
        of_data, of_model = by_row(w, rows), by_row(w, x)
    for name in ("weight", "visible_bias", "hidden_bias"):
        each = np.asarray(of_model[name])
        estimate, error = np.asarray(of_data[name]).mean(0) - each.mean(0), each.std(0) / 4000**0.5
        # The worst of 34: 5 standard errors.
        assert (np.abs(estimate - np.asarray(exact[name])) < 5 * error).all()
    assert not np.asarray(exact["base_bias"]).any()


@each_backend
@each_kind
def test_probabilities_sum_to_one(backend: str, kind: str) -> None:
    family, data, weights = machine(kind)
    pair, (states, cell) = family.pair(backend, table(kind)), grid(data)
    weights["log_normalizer"] = hook(backend, pair.log_normalizer, weights)
    view = pg.Data(data.schema, states, None, None, None).view(backend)
    found = backends.ops(backend).log_prob(pair, {k: v[None] for k, v in weights.items()}, view)[0]
    assert np.exp(logsumexp(found)) * cell == pytest.approx(1.0, abs=1e-7 if cell != 1 else EXACT)


@each_kind
def test_both_backends_are_the_same_function(kind: str) -> None:
    family, data, weights = machine(kind)
    one, other = (family.pair(backend, table(kind)) for backend in BACKENDS)
    for name, value in one.initialize(one.data, 3, 2).items():
        np.testing.assert_array_equal(value, other.initialize(other.data, 3, 2)[name])
    values = [backends.ops(pair.backend).log_joint(pair, weights, pair.data) for pair in (one, other)]
    assert values[0] == pytest.approx(values[1], abs=EXACT)

    def total(pair: Pair, backend: str) -> Any:
        x = arrays(backend, data.x)
        return lambda w: pair.tempered(w, x, 0.7).sum() + pair.log_normalizer(w)

    gradient = jax.jit(jax.grad(total(one, "numpyro")))(arrays("numpyro", weights))
    twin = torch.func.grad(total(other, "pyro"))(arrays("pyro", weights))
    for name, value in gradient.items():
        np.testing.assert_allclose(np.asarray(value), np.asarray(twin[name]), atol=EXACT)
