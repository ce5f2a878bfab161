"""The hidden Markov model in Pyro: the same function as its twin in NumPyro, and as its own definition."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from numpyro.infer.util import potential_energy
from zoo import effective

from ppl_gen.data import Data
from ppl_gen.family import Pair
from ppl_gen.models.hmm import EMISSIONS, HMM, INITIALS, KIND_OF, HMMPrior
from ppl_gen.models.hmm import pyro_chain as chain
from ppl_gen.view import View

pytestmark = pytest.mark.usefixtures("x64")

N, T = 4, 6
LENGTHS = np.array([6, 3, 5, 6])
PRIOR = HMMPrior(initial_concentration=1.5, transition_concentration=1.2, stickiness=2.0, loc=0.1)
LEFT_TO_RIGHT = HMMPrior(transition_matrix=[[0.7, 0.3, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]])


def table(kinds: tuple[str, ...], num_rows: int) -> pd.DataFrame:
    """Columns of these kinds, in model space."""
    rng = np.random.default_rng(3)
    make = {
        "real": lambda: rng.normal(size=num_rows),
        "count": lambda: rng.poisson(3, num_rows).astype(float),
        "binary": lambda: rng.integers(0, 2, num_rows).astype(float),
        "categorical": lambda: rng.integers(0, 3, num_rows).astype(float),
    }
    return pd.DataFrame({f"column_{j}": make[kind]() for j, kind in enumerate(kinds)})


def kinds_of(emission: str) -> tuple[str, ...]:
    return ("count", "real", "categorical", "binary", "real") if emission == "auto" else (KIND_OF[emission],) * 2


def fields_of(kinds: tuple[str, ...], missing: bool, weighted: bool) -> dict[str, Any]:
    """The fields of a View: ragged, with missing entries and a wholly missing step; or full."""
    x = table(kinds, N * T).to_numpy().reshape(N, T, -1)
    if not missing:
        return {"x": x, "weights": np.array([1.0, 0.0, 2.0, 0.5])} if weighted else {"x": x}
    mask = np.random.default_rng(5).random(x.shape) > 0.25
    mask[2, 2] = False
    mask &= (np.arange(T) < LENGTHS[:, None])[..., None]
    patterns, pattern = np.unique(mask.reshape(N * T, -1), axis=0, return_inverse=True)
    fields = {"x": np.where(mask, x, 0.0), "mask": mask, "patterns": patterns, "pattern": pattern.reshape(N, T)}
    return fields | {"lengths": LENGTHS} | ({"weights": np.array([1.0, 0.0, 2.0, 0.5])} if weighted else {})


def view_of(backend: str, fields: dict[str, Any]) -> View:
    convert = jnp.asarray if backend == "numpyro" else torch.tensor
    return View(**{name: convert(value) for name, value in fields.items()})


def build(backend: str, family: HMM, kinds: tuple[str, ...]) -> Pair:
    frame = table(kinds, 40)
    chosen = dict(zip(frame.columns, kinds, strict=True))
    frame = frame.astype({name: str for name, kind in chosen.items() if kind == "categorical"})
    schema = Data.from_table(frame, kinds=chosen, accept=family.kinds, standardize=False).schema
    return family.build(backend, schema, N)


def potential(pair: Pair, view: View, enumerated: bool = False) -> tuple[Any, Any]:
    """Minus log p(theta, x) in unconstrained space, by what Pyro's own NUTS uses, and a random point of that space."""
    from pyro.infer.mcmc.util import initialize_model

    model = pair.model if enumerated else pair.collapsed
    shapes, function, _, _ = initialize_model(model, (view,), max_plate_nesting=1)
    rng = np.random.default_rng(1)
    return function, {name: 0.5 * rng.normal(size=value.shape) for name, value in shapes.items()}


def pyro_density(pair: Pair, view: View, enumerated: bool = False) -> tuple[Any, Any, Any]:
    function, point = potential(pair, view, enumerated)
    leaves = {name: torch.as_tensor(value).requires_grad_() for name, value in point.items()}
    value = -function(leaves)
    gradient = torch.autograd.grad(value, list(leaves.values()))
    return point, value.item(), {name: g.numpy() for name, g in zip(leaves, gradient, strict=True)}


def numpyro_density(pair: Pair, view: View, point: dict[str, np.ndarray]) -> tuple[Any, Any]:
    def value(point: Any) -> Any:
        return -potential_energy(pair.collapsed, (view,), {}, point)

    arrays = {name: jnp.asarray(v) for name, v in point.items()}
    lowered = jax.jit(jax.value_and_grad(value)).lower(arrays)
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})(arrays)


def assert_same(left: Any, right: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(float(left[0]), float(right[0]), rtol=tolerance)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        scale = np.abs(np.asarray(gradient)).max(initial=1.0)
        np.testing.assert_allclose(np.asarray(gradient), np.asarray(right[1][name]), atol=tolerance * scale, rtol=0)


def draw(pair: Pair, seed: int = 0) -> dict[str, torch.Tensor]:
    """One draw of the inferred sites from the prior."""
    from ppl_gen.backends.pyro_ops import sample_prior

    return {name: torch.as_tensor(value[0]) for name, value in sample_prior(pair, 1, seed).items()}


CASES = [
    *((HMM(3, emission, "free", prior=effective(PRIOR, emission)), True, True) for emission in EMISSIONS),
    *((HMM(2, emission, "free", prior=effective(PRIOR, emission)), False, False) for emission in EMISSIONS),
    *((HMM(3, "gaussian", initial, prior=effective(PRIOR, initial=initial)), True, True) for initial in INITIALS[1:]),
    (HMM(1, "poisson"), True, False),
    (HMM(3, "poisson", "uniform", prior=LEFT_TO_RIGHT), True, True),
]


@pytest.mark.parametrize(("family", "missing", "weighted"), CASES)
def test_twins_are_one_function(family: HMM, missing: bool, weighted: bool) -> None:
    kinds = kinds_of(family.emission)
    fields = fields_of(kinds, missing, weighted)
    pair, view = build("pyro", family, kinds), view_of("pyro", fields)
    point, *expected = pyro_density(pair, view)
    if family.prior is not LEFT_TO_RIGHT:  # the definition has tiny probabilities where the prior has zeros
        assert_same(expected, pyro_density(pair, view, enumerated=True)[1:])
    twin = build("numpyro", family, kinds)
    assert_same(expected, numpyro_density(twin, view_of("numpyro", fields), point))


@pytest.mark.parametrize("initial", INITIALS)
def test_hooks_equal_those_of_the_twin(initial: str) -> None:
    family, kinds = HMM(3, "auto", initial), kinds_of("auto")
    fields = fields_of(kinds, True, False)
    pair, twin = build("pyro", family, kinds), build("numpyro", family, kinds)
    parameters = draw(pair)
    arrays = {name: jnp.asarray(value.numpy()) for name, value in parameters.items()}
    views = view_of("pyro", fields), view_of("numpyro", fields)
    inside = np.arange(T) < LENGTHS[:, None]
    for name in ("step_log_prob", "filtered", "smoothed", "most_probable_path"):
        left, right = getattr(pair, name)(parameters, views[0]), jax.jit(getattr(twin, name))(arrays, views[1])
        np.testing.assert_allclose(left.numpy()[inside], np.asarray(right)[inside], rtol=1e-9, atol=1e-12)


def paths(num_states: int, num_steps: int) -> np.ndarray:
    return np.array(list(itertools.product(range(num_states), repeat=num_steps)))


@pytest.mark.parametrize(("num_states", "num_steps"), [(3, 6), (2, 5), (2, 1), (1, 4)])
def test_recursions_equal_the_sum_over_all_paths(num_states: int, num_steps: int) -> None:
    torch.manual_seed(num_states)
    transition = torch.rand(num_states, num_states).softmax(-1)
    initial, table = torch.rand(num_states).softmax(-1), 3 * torch.randn(2, num_steps, num_states)
    z = torch.as_tensor(paths(num_states, num_steps))
    steps = torch.arange(num_steps)
    joint = initial.log()[z[:, 0]] + transition.log()[z[:, :-1], z[:, 1:]].sum(-1) + table[:, steps, z].sum(-1)
    expected = torch.logsumexp(joint, -1)
    posterior = torch.softmax(joint, -1)
    smoothed = torch.einsum("np,ptk->ntk", posterior, torch.nn.functional.one_hot(z, num_states).to(joint))
    for exact in (False, True):
        torch.testing.assert_close(chain.chain_log_prob(initial, transition, table, exact), expected)
        torch.testing.assert_close(chain.forward(initial, transition, table, exact)[1].sum(-1), expected)
        torch.testing.assert_close(chain.expectations(initial, transition, table, exact=exact)[3], smoothed)
    from ppl_gen.models.hmm.pyro_walks import most_probable_path

    torch.testing.assert_close(most_probable_path(initial, transition, table), z[joint.argmax(-1)])


def test_forms_of_the_recursion_have_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    parts = [torch.rand(4).softmax(-1), torch.rand(4, 4).softmax(-1), 4 * torch.randn(3, 70, 4)]

    def gradients(**limits: int) -> list[torch.Tensor]:
        for name, value in limits.items():
            monkeypatch.setattr(chain, name, value)
        leaves = [part.clone().requires_grad_() for part in parts]
        value = (chain.chain_log_prob(*leaves, exact=not limits) * torch.arange(1.0, 4)).sum()
        return [value, *torch.autograd.grad(value, leaves)]

    expected = gradients()
    for limits in ({"MAX_TREE": 10**9}, {"MAX_TREE": 0}, {"MAX_TREE": 0, "MAX_BLOCKED": 0}):
        for left, right in zip(expected, gradients(**limits), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


EM_CASES = [
    *((HMM(2, emission, initial), objective)
      for emission in EMISSIONS for initial, objective in (("free", "ml"), ("stationary", "map"))),
]  # fmt: skip


@pytest.mark.parametrize(("family", "objective"), EM_CASES)
def test_em_is_that_of_the_twin(family: HMM, objective: str) -> None:
    """Row log densities, log priors and, after three iterations, parameters; and the objective never falls."""
    if family.emission == "student_t":
        family = family.replace(prior=HMMPrior(df=5.0))
    kinds = kinds_of(family.emission)
    fields = fields_of(kinds, True, True)
    pair, twin = build("pyro", family, kinds), build("numpyro", family, kinds)
    view, arrays = view_of("pyro", fields), view_of("numpyro", fields)
    parameters = {name: value for name, value in draw(pair).items() if name not in ("df",)}
    state = {name: jnp.asarray(value.numpy()) for name, value in parameters.items()}
    last = -np.inf
    for _ in range(3):
        log_prob, statistics = pair.e_step(parameters, view)
        others, theirs = twin.e_step(state, arrays)
        np.testing.assert_allclose(log_prob.numpy(), np.asarray(others), rtol=1e-8)
        prior = float(pair.log_prior(parameters, objective))
        np.testing.assert_allclose(prior, float(twin.log_prior(state, objective)), rtol=1e-7, atol=1e-12)  # flat: 0
        now = float((log_prob * view.weights).sum()) + prior
        assert now > last - 1e-9
        last = now
        parameters = pair.m_step(parameters, statistics, objective)
        state = twin.m_step(state, theirs, objective)
        assert parameters.keys() == state.keys()
        if family.initial == "stationary":  # the ascent of the transition matrix goes by other steps
            state = {name: jnp.asarray(value.numpy()) for name, value in parameters.items()}
    for name, value in parameters.items():
        np.testing.assert_allclose(value.numpy(), np.asarray(state[name]), rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("num_states", "initial", "published"),
    [(2, "stationary", -342.3183), (3, "stationary", -329.4603), (2, "free", -341.8787), (3, "free", -328.5275)],
)
def test_em_reaches_published_maxima(num_states: int, initial: str, published: float, shared_data: Any) -> None:
    """Earthquakes a year; Zucchini, MacDonald & Langrock 2016."""
    from ppl_gen.backends.pyro_ops import sample_prior
    from ppl_gen.inference.em.pyro_engine import Solver
    from ppl_gen.progress import Monitor

    counts = pd.read_csv(shared_data("timeseries/earthquakes.csv")).iloc[:, -1].to_numpy(float)
    pair = build("pyro", HMM(num_states, "poisson", initial), ("count",))
    starts = sample_prior(pair, 20, 0)
    starts["rates"] = np.random.default_rng(0).choice(counts, starts["rates"].shape)
    solve = Solver(pair, View(torch.tensor(counts)[None, :, None]), "ml", 1e-9, 1000)
    with torch.no_grad():
        solutions = solve(starts, np.ones((1, 1)), Monitor())
    assert solutions.objective.max() > published - 1e-4
    assert np.nanmin(np.diff(solutions.trace, axis=1)) > -1e-9
    assert solve.side_by_side  # all runs under vmap


def test_draws_are_batched_and_seeded() -> None:
    """Under vmap each draw of the parameters gets noise of its own; a seed fixes it and leaves torch's state alone."""
    kinds = kinds_of("auto")
    pair, view = build("pyro", HMM(2, "auto"), kinds), view_of("pyro", fields_of(kinds, True, False))
    one = draw(pair)
    same = {name: torch.stack([value] * 50) for name, value in one.items()}
    found = torch.func.vmap(lambda p: pair.forecast(p, view, 4), randomness="different")(same)
    assert found["x"].shape == (50, N, 4, len(kinds))
    assert len(found["x"][:, 0, 0, 1].unique()) == 50
    state = torch.get_rng_state()
    first, second = (pair.sample_paths(one, view, 3) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    drawn = torch.func.vmap(lambda p: pair.sample_paths(p, view), randomness="different")(
        {name: torch.stack([value] * 4000) for name, value in one.items()}
    )
    share = torch.nn.functional.one_hot(drawn, 2).to(torch.get_default_dtype()).mean(0)
    inside = torch.arange(T) < view.lengths[:, None]
    torch.testing.assert_close(share[inside], pair.smoothed(one, view)[inside], atol=0.04, rtol=0)
