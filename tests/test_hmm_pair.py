"""The hidden Markov model's pairs: the right function, beside every path of short sequences, and the same in both."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import pytest
from numpyro.contrib.funsor import config_enumerate, enum
from numpyro.infer.util import potential_energy, unconstrain_fn
from scipy.special import logsumexp
from scipy.stats import bernoulli, multivariate_normal, norm, poisson
from scipy.stats import t as student
from zoo import effective

from ppl_gen.data import Data, View
from ppl_gen.family import Pair
from ppl_gen.models.hmm import HMM, HMMPrior
from ppl_gen.models.hmm import numpyro_chain as chain
from ppl_gen.models.hmm.numpyro_emission import complete, emission_log_prob

pytestmark = pytest.mark.usefixtures("x64")

N, T, D = 3, 5, 2
EMISSIONS = ("gaussian", "gaussian_full", "student_t", "mixture", "poisson", "bernoulli", "categorical", "auto")
PRIOR = HMMPrior(
    initial_concentration=1.5, transition_concentration=1.3, stickiness=2.0, loc_scale=1.5, scale=0.8, rate_rate=0.2,
    rate_concentration=1.2, prob_concentration=1.4, category_concentration=1.6, correlation_concentration=1.5,
)  # fmt: skip


def table(emission: str, rows: int = N * T, seed: int = 0) -> pd.DataFrame:
    """Rows of which each column has the kind that the emission models."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.normal(size=-(-rows // 4)), 4)[:rows]
    columns: dict[str, Any] = {
        "real": level + 0.5 * rng.normal(size=rows), "real2": 0.4 * level + rng.normal(size=rows),
        "count": rng.poisson(3 * np.exp(level)), "count2": rng.poisson(20, size=rows),
        "binary": rng.integers(0, 2, rows).astype(bool), "binary2": (level > 0),
        "label": np.array(list("abc"))[rng.integers(0, 3, rows)], "label2": np.where(level > 0, "u", "v"),
    }  # fmt: skip
    chosen = {
        "poisson": ["count", "count2"], "bernoulli": ["binary", "binary2"], "categorical": ["label", "label2"],
        "auto": ["real", "count", "label", "real2", "binary"],
    }.get(emission, ["real", "real2"])  # fmt: skip
    return pd.DataFrame({name: columns[name] for name in chosen})


def fields_of(emission: str, missing: bool = False, weighted: bool = False, shape: tuple[int, int] = (N, T)) -> Any:
    """The schema, and sequences as the fields of a View; a whole step is missing where any is."""
    data = Data.from_table(table(emission, shape[0] * shape[1]), accept=("real", "count", "binary", "categorical"))
    rng = np.random.default_rng(3)
    fields: dict[str, Any] = {"x": np.asarray(data.x, float).reshape(*shape, -1)}
    if missing:
        mask = rng.random(fields["x"].shape) > 0.3
        mask[0, 1] = mask[1, 0] = False
        patterns, pattern = np.unique(mask.reshape(-1, mask.shape[-1]), axis=0, return_inverse=True)
        fields |= {"mask": mask, "x": np.where(mask, fields["x"], 0.0), "patterns": patterns}
        fields["pattern"] = pattern.reshape(shape)
    if weighted:
        fields["weights"] = np.array([2.0, 0.0, 1.0])[: shape[0]]
    return data.schema, fields


def view_of(fields: dict[str, Any]) -> View:
    return View(**{name: jnp.asarray(value) for name, value in fields.items()})


def drawn(pair: Pair, seed: int = 1) -> dict[str, jax.Array]:
    """The global sites drawn from the prior."""
    sites = numpyro.handlers.trace(numpyro.handlers.seed(pair.collapsed, seed)).get_trace(None, num_obs=1, num_steps=2)
    return {n: s["value"] for n, s in sites.items() if s["type"] in ("sample", "deterministic") and n != "x"}


def compiled(function: Any, *args: Any) -> Any:
    """The function's value at these arguments; compiling is what takes time here, so little is optimized."""
    return jax.jit(function).lower(*args).compile(compiler_options={"xla_backend_optimization_level": 0})(*args)


def _independent(kind: str, value: np.ndarray, state: dict[str, np.ndarray], at: list[int]) -> float:
    if kind == "poisson":
        return poisson.logpmf(value, state["rates"][at]).sum()
    if kind == "bernoulli":
        return bernoulli.logpmf(value, state["probs"][at]).sum()
    place = state["locs"][at], state["scales"][at]
    return (norm.logpdf(value, *place) if kind == "gaussian" else student.logpdf(value, state["df"], *place)).sum()


def scipy_table(family: HMM, schema: Any, sites: Any, fields: dict[str, Any]) -> np.ndarray:
    """(N, T, K): log densities of time steps by scipy, entry by entry."""
    from ppl_gen.models.hmm.hyperparameters import blocks_of

    s = {name: np.asarray(value) for name, value in sites.items()}
    x, mask = fields["x"], fields.get("mask", np.ones(fields["x"].shape, bool))
    result = np.zeros((*x.shape[:2], family.num_states))
    for n, t, k in np.ndindex(result.shape):
        for block in blocks_of(family, schema):
            seen = [j for j in block.columns if mask[n, t, j]]
            at = [block.columns.index(j) for j in seen]
            if not seen:
                continue
            value = x[n, t, seen]
            if block.kind == "gaussian_full":
                factor = s["scales"][k][:, None] * s["corr_cholesky"][k]
                covariance = (factor @ factor.T)[np.ix_(at, at)]
                result[n, t, k] += multivariate_normal.logpdf(value, s["locs"][k, at], covariance)
            elif block.kind == "mixture":
                parts = norm.logpdf(value, s["locs"][k][:, at], s["scales"][k][:, at]).sum(-1)
                result[n, t, k] += logsumexp(parts + np.log(s["mixture_weights"][k]))
            elif block.kind == "categorical":
                result[n, t, k] += sum(np.log(s[f"category_probs_{j}"][k, int(x[n, t, j])]) for j in seen)
            else:
                result[n, t, k] += _independent(block.kind, value, {name: v[k] for name, v in s.items()}, at)
    return result


def first_probs(family: HMM, sites: Any) -> np.ndarray:
    k, matrix = family.num_states, np.asarray(sites["transition_matrix"])
    if family.initial == "stationary":
        return np.linalg.solve((np.eye(k) - matrix + 1).T, np.ones(k))
    return {"uniform": np.full(k, 1 / k), "none": np.ones(k)}.get(family.initial, sites.get("initial_probs"))


def paths_of(family: HMM, sites: Any, emission: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All paths (P, T) and their joint log densities with each sequence (N, P)."""
    paths = np.array(list(itertools.product(range(family.num_states), repeat=emission.shape[1])))
    with np.errstate(divide="ignore"):
        start, step = np.log(np.asarray(first_probs(family, sites))), np.log(np.asarray(sites["transition_matrix"]))
    chain_part = start[paths[:, 0]] + step[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, chain_part + np.stack([e[np.arange(len(e)), paths].sum(1) for e in emission])


CASES = [
    *((HMM(3, e, "free", prior=effective(PRIOR, e)), missing) for e in EMISSIONS for missing in (False, True)),
    *((HMM(2, "gaussian", i, prior=effective(PRIOR, initial=i)), True) for i in ("stationary", "uniform", "none")),
    (HMM(1, "gaussian", prior=effective(PRIOR)), True),
]


def name_of(value: Any) -> str:
    return f"{value.num_states}-{value.emission}-{value.initial}" if isinstance(value, HMM) else str(value)


@pytest.mark.parametrize(("family", "missing"), CASES, ids=name_of)
def test_log_density_beside_every_path(family: HMM, missing: bool) -> None:
    schema, fields = fields_of(family.emission, missing)
    pair, view = family.build("numpyro", schema, N), view_of(fields)
    sites = drawn(pair)
    paths, joint = paths_of(family, sites, scipy_table(family, schema, sites, fields))
    expected = logsumexp(joint, axis=1)
    hooks = (pair.step_log_prob, pair.smoothed, pair.filtered, pair.most_probable_path)
    steps, found, filtered, best = compiled(lambda sites, view: [hook(sites, view) for hook in hooks], sites, view)
    np.testing.assert_allclose(steps.sum(1), expected, rtol=1e-10)

    def prefix(length: int) -> np.ndarray:
        cut = {n: v if n == "patterns" else v[:, :length] for n, v in fields.items()}
        return logsumexp(paths_of(family, sites, scipy_table(family, schema, sites, cut))[1], axis=1)

    np.testing.assert_allclose(steps[:, :2].sum(1), prefix(2), rtol=1e-9, atol=1e-12)
    posterior = np.exp(joint - expected[:, None])
    smoothed = np.stack([(posterior[:, :, None] * (paths == k)).sum(1) for k in range(family.num_states)], -1)
    np.testing.assert_allclose(found, smoothed, atol=1e-10)
    np.testing.assert_allclose(found.sum(-1), 1.0)
    np.testing.assert_allclose(filtered[:, -1], smoothed[:, -1], atol=1e-10)
    np.testing.assert_array_equal(best, paths[joint.argmax(1)])


def density(pair: Pair, view: View, point: Any, enumerated: bool) -> Any:
    """log p(theta, x) with the Jacobians of the transforms, and its gradient."""
    function = enum(config_enumerate(pair.model), first_available_dim=-2) if enumerated else pair.collapsed

    def value(point: Any) -> Any:
        return -potential_energy(function, (view,), {}, point, enum=enumerated)

    return compiled(jax.value_and_grad(value), point)


ENUMERATED = [
    *((family, missing, False) for family, missing in CASES if missing or family.emission == "gaussian_full"),
    (HMM(3, prior=effective(PRIOR)), True, True),
]


@pytest.mark.parametrize(("family", "missing", "weighted"), ENUMERATED, ids=name_of)
def test_collapsed_is_enumerated(family: HMM, missing: bool, weighted: bool) -> None:
    schema, fields = fields_of(family.emission, missing, weighted)
    pair, view = family.build("numpyro", schema, N), view_of(fields)
    latent = {n: v for n, v in drawn(pair).items() if n not in hyper_of(pair).fixed}
    point = unconstrain_fn(pair.collapsed, (view,), {}, latent)
    (left, left_grad), (right, right_grad) = (density(pair, view, point, e) for e in (False, True))
    np.testing.assert_allclose(left, right, rtol=1e-9)
    for name, gradient in left_grad.items():
        scale = np.abs(gradient).max(initial=1.0)
        np.testing.assert_allclose(gradient, right_grad[name], atol=1e-9 * scale, rtol=0, err_msg=name)


def hyper_of(pair: Pair) -> Any:
    return pair.collapsed.args[0]


def random_chain(k: int, steps: int, sequences: int = 2, spread: float = 2.0) -> tuple[Any, ...]:
    """First state, transition matrix and a table of log densities."""
    rng = np.random.default_rng(k * steps)
    initial, matrix = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), k)
    return tuple(map(jnp.asarray, (initial, matrix, spread * rng.normal(size=(sequences, steps, k)))))


@pytest.mark.parametrize(("k", "steps"), [(1, 4), (2, 1), (3, 2), (4, 33), (40, 7)])
def test_forms_of_the_recursion_agree(k: int, steps: int) -> None:
    """Sequential, parallel in time, and in log space; the derivatives too, and those of the derivatives."""
    initial, matrix, table = random_chain(k, steps)
    for left, middle, right in zip(
        compiled(chain.forward, initial, matrix, table), compiled(chain.forward_parallel, initial, matrix, table),
        compiled(partial(chain.forward, exact=True), initial, matrix, table), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(left, middle, atol=1e-11)
        np.testing.assert_allclose(left, right, atol=1e-11)

    def total(exact: bool, *args: Any) -> Any:
        return (chain.chain_log_prob(*args, exact=exact) * jnp.array([1.0, 0.5])).sum()

    # The chain's parameters as free numbers: their derivatives agree along the simplex.
    args = jnp.log(initial), jnp.log(matrix), table

    def free(exact: bool, *args: Any) -> Any:
        return total(exact, jax.nn.softmax(args[0]), jax.nn.softmax(args[1]), args[2])

    gradients = [compiled(jax.grad(partial(free, exact), argnums=(0, 1, 2)), *args) for exact in (False, True)]
    for left, right in zip(*gradients, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-10)
    if k == 3:
        both = [compiled(jax.hessian(partial(free, exact), argnums=1), *args) for exact in (False, True)]
        np.testing.assert_allclose(*both, atol=1e-9)


def test_impossible_transitions_stay_impossible() -> None:
    """A left-to-right chain whose second state alone explains the last steps, too far away for linear space."""
    matrix = np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]])
    family = HMM(3, prior=HMMPrior(transition_matrix=matrix, initial_probs=[1.0, 0.0, 0.0], scales=1e-2))
    schema, fields = fields_of("gaussian")
    pair = family.build("numpyro", schema, N)
    sites = {"locs": jnp.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])}
    view = view_of(fields)
    full = {
        **sites,
        "transition_matrix": matrix,
        "initial_probs": np.array([1.0, 0, 0]),
        "scales": np.full((3, 2), 1e-2),
    }
    paths, joint = paths_of(family, full, scipy_table(family, schema, full, fields))
    np.testing.assert_allclose(compiled(pair.step_log_prob, sites, view).sum(1), logsumexp(joint, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(compiled(pair.most_probable_path, sites, view), paths[joint.argmax(1)])
    gradient = compiled(jax.grad(lambda s: pair.step_log_prob(s, view).sum()), sites)["locs"]
    assert np.isfinite(gradient).all()
    parameters, values = sites, []
    for _ in range(5):
        log_prob, statistics = compiled(pair.e_step, parameters, view)
        values.append(log_prob.sum())
        parameters = pair.m_step(parameters, statistics, "ml")
    assert np.all(np.diff(values) >= -1e-9 * np.abs(values[0]))


@pytest.mark.parametrize("k", [2, 5, 20])
def test_stationary_distribution(k: int) -> None:
    matrix = np.random.default_rng(k).dirichlet(np.full(k, 0.3), k) * 1e-6 + (1 - 1e-6) * np.eye(k)
    values, vectors = np.linalg.eig((np.eye(k) - matrix).T * 1e6)  # the same eigenvectors, far apart
    expected = np.real(vectors[:, np.abs(values).argmin()])
    found = compiled(chain.stationary, jnp.asarray(matrix))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.sum(), 1.0)


def ragged(emission: str, lengths: tuple[int, ...] = (5, 2, 4)) -> tuple[Any, dict[str, Any]]:
    schema, fields = fields_of(emission)
    inside = np.arange(T) < np.array(lengths)[:, None]
    mask = np.repeat(inside[:, :, None], fields["x"].shape[2], axis=2)
    fields |= {"mask": mask, "x": np.where(mask, fields["x"], 0.0), "lengths": np.array(lengths, np.int32)}
    columns = fields["x"].shape[2]
    return schema, fields | {"patterns": np.tile([[False], [True]], columns), "pattern": inside.astype(np.int32)}


@pytest.mark.parametrize("emission", EMISSIONS)
def test_ragged_is_each_sequence_by_itself(emission: str) -> None:
    schema, fields = ragged(emission)
    family = HMM(2, emission, prior=effective(PRIOR.replace(df=4.0), emission))
    pair, view = family.build("numpyro", schema, N), view_of(fields)
    sites = {n: v for n, v in drawn(pair).items() if n not in hyper_of(pair).fixed}
    hooks = (pair.step_log_prob, pair.filtered, pair.smoothed, pair.most_probable_path, pair.e_step)

    def everything(sites: Any, view: View) -> Any:
        return [hook(sites, view) for hook in hooks]

    together, added = jax.tree.map(np.asarray, compiled(everything, sites, view)), None
    assert (together[0][~fields["mask"].any(-1)] == 0).all()
    for n, length in enumerate(fields["lengths"]):
        alone = jax.tree.map(np.asarray, compiled(everything, sites, view_of({"x": fields["x"][n : n + 1, :length]})))
        for left, right in zip(together[:3], alone[:3], strict=True):
            np.testing.assert_allclose(left[n, :length], right[0], atol=1e-12)
        np.testing.assert_array_equal(together[3][n, :length], alone[3][0])
        np.testing.assert_allclose(together[4][0][n], alone[4][0][0])
        added = alone[4][1] if added is None else jax.tree.map(np.add, added, alone[4][1])
    close = partial(np.testing.assert_allclose, atol=1e-10)
    jax.tree.map(close, together[4][1], added)
    # Where nothing is missing the lengths alone say as much as the mask, and EM goes without it.
    unmasked = compiled(pair.e_step, sites, view._replace(mask=None, patterns=None, pattern=None))
    jax.tree.map(close, together[4], jax.tree.map(np.asarray, unmasked))


def test_a_missing_step_leaves_only_its_own_factor_out() -> None:
    schema, fields = fields_of("gaussian", missing=True)
    pair = HMM(3, prior=effective(PRIOR)).build("numpyro", schema, N)
    sites = complete(hyper_of(pair), drawn(pair))
    before = emission_log_prob(hyper_of(pair), sites, view_of(fields))
    gone = {**fields, "mask": fields["mask"].copy(), "x": fields["x"].copy()}
    gone["mask"][2, 3], gone["x"][2, 3] = False, 0.0
    after = emission_log_prob(hyper_of(pair), sites, view_of(gone))
    expected = np.array(before)
    expected[2, 3] = 0.0
    np.testing.assert_array_equal(after, expected)
    # The density is then the sum over all values of that step: of binary ones, two.
    schema, fields = fields_of("bernoulli")
    pair = HMM(3, "bernoulli", prior=effective(PRIOR, "bernoulli")).build("numpyro", schema, N)
    sites, x = drawn(pair), fields["x"][:1]
    mask = np.ones(x.shape, bool)
    mask[0, 2] = False
    value = pair.step_log_prob(sites, view_of({"x": x * mask, "mask": mask})).sum()
    options = [np.where(mask, x, np.array(pair_of)) for pair_of in itertools.product((0.0, 1.0), repeat=2)]
    sums = [pair.step_log_prob(sites, view_of({"x": option})).sum() for option in options]
    np.testing.assert_allclose(value, logsumexp(sums))


EM_CASES = [
    *((HMM(2, e, prior=effective(PRIOR.replace(df=4.0), e)), True) for e in EMISSIONS),
    *((HMM(3, "gaussian_full", i, prior=effective(PRIOR, "gaussian_full", i)), False) for i in ("stationary", "none")),
    (HMM(3, "poisson", "stationary", prior=effective(PRIOR, "poisson", "stationary")), True),
    (HMM(1, "mixture", prior=effective(PRIOR, "mixture")), False),
]


@pytest.mark.parametrize("objective", ["ml", "map"])
@pytest.mark.parametrize(("family", "missing"), EM_CASES, ids=name_of)
def test_em_never_lowers_its_objective(family: HMM, missing: bool, objective: str) -> None:
    schema, fields = fields_of(family.emission, missing, weighted=True, shape=(N, 20))
    pair, view = family.build("numpyro", schema, N), view_of(fields)
    start = {name: jnp.asarray(value[1]) for name, value in pair.initialize(view, 0, 2).items()}
    sites = drawn(pair)
    assert {n: v.shape for n, v in start.items()} == {
        n: v.shape for n, v in sites.items() if n not in hyper_of(pair).fixed
    }

    def step(parameters: Any, _: Any) -> Any:
        log_prob, statistics = pair.e_step(parameters, view)
        value = (log_prob * view.weights).sum() + pair.log_prior(parameters, objective)
        return pair.m_step(parameters, statistics, objective), value

    last, values = compiled(lambda start: jax.lax.scan(step, start, length=60), start)
    assert all(np.isfinite(v).all() for v in last.values())
    assert np.all(np.diff(values) >= -1e-9 * np.abs(values[:-1]))
    assert values[-1] > values[0]


def test_weights_are_repetitions() -> None:
    schema, fields = fields_of("auto", missing=True, weighted=True)
    pair = HMM(2, "auto", prior=effective(PRIOR, "auto")).build("numpyro", schema, N)
    sites = drawn(pair)
    rows = np.array([0, 0, 2])
    twice = {n: v if n == "patterns" else v[rows] for n, v in fields.items() if n != "weights"}
    weighted, repeated = (compiled(pair.e_step, sites, view_of(f))[1] for f in (fields, twice))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), weighted, repeated)


@pytest.mark.parametrize(
    ("states", "initial", "published"),
    [(2, "stationary", -342.3183), (3, "stationary", -329.4603), (2, "free", -341.8787), (3, "free", -328.5275)],
)
def test_published_maxima_of_the_earthquakes(shared_data: Any, states: int, initial: str, published: float) -> None:
    """Zucchini & MacDonald, Hidden Markov Models for Time Series: counts of large earthquakes, 1900 to 2006."""
    from ppl_gen.inference.em.numpyro_engine import Solver
    from ppl_gen.progress import Monitor

    counts = pd.read_csv(shared_data("timeseries/earthquakes.csv"))[["count"]]
    schema = Data.from_table(counts, accept=("count",)).schema
    view = View(x=jnp.asarray(counts.to_numpy(float))[None])
    pair = HMM(states, "poisson", initial).build("numpyro", schema, 1)
    solve = Solver(pair, view, "ml", 1e-9, 2000)
    solutions = solve(pair.initialize(view, 0, 20), np.ones((1, 1)), Monitor())
    assert solutions.converged.all()
    assert solutions.objective.max() == pytest.approx(published, abs=6e-5)


def test_single_precision_is_close() -> None:
    """Five thousand steps, of which many states are very unlikely."""
    initial, matrix, table = random_chain(4, 5000, 1, spread=30.0)
    (double,) = compiled(chain.chain_log_prob, initial, matrix, table)
    single = [jnp.asarray(value, jnp.float32) for value in (initial, matrix, table)]
    value, gradient = compiled(jax.value_and_grad(lambda *a: chain.chain_log_prob(*a)[0], argnums=(0, 1, 2)), *single)
    np.testing.assert_allclose(value, double, rtol=1e-5)
    assert all(np.isfinite(g).all() for g in gradient)


def test_paths_are_drawn_from_their_posterior() -> None:
    schema, fields = fields_of("gaussian", missing=True)
    pair, view = HMM(2, prior=effective(PRIOR)).build("numpyro", schema, N), view_of(fields)
    sites, number = drawn(pair), 4000
    keys = jax.random.split(jax.random.key(0), number)
    draws = compiled(jax.vmap(lambda key: pair.sample_paths(sites, view, key)), keys)
    assert draws.shape == (number, N, T)
    smoothed = pair.smoothed(sites, view)[..., 1]
    np.testing.assert_allclose((draws == 1).mean(0), smoothed, atol=4 * 0.5 / number**0.5)
    ahead = compiled(jax.vmap(lambda key: pair.forecast(sites, view, 3, key)), keys)
    assert ahead["z"].shape == (number, N, 3)
    assert ahead["x"].shape == (number, N, 3, D)
    last, matrix = pair.filtered(sites, view)[:, -1], np.asarray(sites["transition_matrix"])
    expected = np.stack([np.asarray(last @ np.linalg.matrix_power(matrix, h))[:, 1] for h in (1, 2, 3)], 1)
    np.testing.assert_allclose((ahead["z"] == 1).mean(0), expected, atol=4 * 0.5 / number**0.5)
    np.testing.assert_allclose(ahead["x"][..., 0][ahead["z"] == 1].mean(), sites["locs"][1, 0], atol=0.2)


@pytest.mark.parametrize("emission", EMISSIONS)
def test_sequences_are_drawn(emission: str) -> None:
    schema, _ = fields_of(emission)
    pair = HMM(2, emission, prior=effective(PRIOR, emission)).build("numpyro", schema, N)
    for form, shape in (("collapsed", (4, 6)), ("model", (6, 4))):
        function = numpyro.handlers.seed(getattr(pair, form), 0)
        sites = numpyro.handlers.trace(function).get_trace(None, num_obs=4, num_steps=6)
        assert sites["x"]["value"].shape == (*shape, schema.num_columns)
        assert np.isfinite(sites["x"]["value"]).all()


@pytest.mark.parametrize("kind", ["mean_field", "multivariate"])
def test_a_users_own_svi_and_nuts(kind: str) -> None:
    schema, fields = ragged("gaussian")
    pair, view = HMM(2, prior=effective(PRIOR)).build("numpyro", schema, N), view_of(fields)
    svi = numpyro.infer.SVI(pair.collapsed, pair.make_guide(kind), numpyro.optim.Adam(0.01), numpyro.infer.Trace_ELBO())
    state = svi.init(jax.random.key(0), view)
    np.testing.assert_allclose(
        svi.guide._init_locs["locs"], pair.initialize(view, 0, 1)["locs"][0], err_msg="starts at k-means"
    )
    _, loss = jax.jit(svi.update)(state, view)
    assert np.isfinite(loss)
    if kind == "mean_field":
        mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(pair.collapsed), num_warmup=5, num_samples=5, progress_bar=False)
        mcmc.run(jax.random.key(0), view)
        assert all(np.isfinite(value).all() for value in mcmc.get_samples().values())
