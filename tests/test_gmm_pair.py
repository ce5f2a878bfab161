"""The Gaussian mixture's two pairs: the same function, and the right one."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from numpyro.contrib.funsor import config_enumerate, enum
from numpyro.infer.util import potential_energy, unconstrain_fn
from scipy.special import logsumexp
from scipy.stats import beta, dirichlet, halfnorm, multivariate_normal, norm

from ppl_gen.data import Data, View
from ppl_gen.errors import DataError, SettingError
from ppl_gen.family import Pair
from ppl_gen.models.gmm import COVARIANCES, GMM, GMMPrior
from ppl_gen.models.gmm.hyperparameters import stick_concentration

pytestmark = pytest.mark.usefixtures("x64")

N = 24
PRIOR = GMMPrior(concentration=1.5, loc=0.1, loc_scale=1.5, scale=0.8, correlation_concentration=2.0)
AUTO = GMM("auto", "full", PRIOR, max_components=5, expected_components=2.0)


def rows(columns: int, missing: bool = False, weighted: bool = False, num_rows: int = N) -> dict[str, Any]:
    """Two clusters of rows as the fields of a View, numpy; some of the weights are 0."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(num_rows, columns)) @ (np.eye(columns) + 0.4 * np.tri(columns, k=-1))
    x[: num_rows // 3] += 2.5
    view: dict[str, Any] = {"x": (x - x.mean(0)) / x.std(0)}
    if missing:
        mask = rng.random(x.shape) > 0.3
        view["patterns"], pattern = np.unique(mask, axis=0, return_inverse=True)
        view |= {"mask": mask, "pattern": pattern.reshape(-1), "x": np.where(mask, view["x"], 0.0)}
    if weighted:
        view["weights"] = rng.integers(0, 4, num_rows).astype(float)
    return view


def view_of(backend: str, fields: dict[str, Any]) -> View:
    convert = jnp.asarray if backend == "numpyro" else torch.as_tensor
    return View(**{name: convert(value) for name, value in fields.items()})


def build(backend: str, family: GMM, columns: int, num_obs: int = N) -> Pair:
    schema = Data.from_table(np.random.default_rng(0).normal(size=(5, columns))).schema
    return family.build(backend, schema, num_obs)


def unconstrained(pair: Pair, view: View, seed: int = 1) -> dict[str, np.ndarray]:
    """A random point of the space in which samplers move."""
    start = {name: value[0] for name, value in pair.initialize(view, seed, 1).items()}
    shapes = jax.eval_shape(lambda start: unconstrain_fn(pair.collapsed, (view,), {}, start), start)
    rng = np.random.default_rng(seed)
    return {name: 0.5 * rng.normal(size=leaf.shape) for name, leaf in shapes.items()}


def compiled(function: Any, *args: Any) -> Any:
    """The function's value at these arguments; compiling is what takes time here, so little is optimized."""
    return jax.jit(function).lower(*args).compile(compiler_options={"xla_backend_optimization_level": 0})(*args)


def numpyro_density(pair: Pair, view: View, point: dict[str, np.ndarray], enumerated: bool = False) -> Any:
    """log p(theta, x) with the Jacobians of the transforms, and its gradient."""
    model = enum(config_enumerate(pair.model), first_available_dim=-2) if enumerated else pair.collapsed

    def value(point: Any) -> Any:
        return -potential_energy(model, (view,), {}, point, enum=enumerated)

    return compiled(jax.value_and_grad(value), {name: jnp.asarray(v) for name, v in point.items()})


def pyro_density(pair: Pair, view: View, point: dict[str, np.ndarray], enumerated: bool = False) -> Any:
    """The same by the potential that Pyro's own NUTS uses."""
    from pyro.infer.mcmc.util import initialize_model

    model = pair.model if enumerated else pair.collapsed
    _, potential, _, _ = initialize_model(model, (view,), max_plate_nesting=1)
    leaves = {name: torch.as_tensor(np.array(v)).requires_grad_() for name, v in point.items()}
    value = -potential(leaves)
    gradient = torch.autograd.grad(value, list(leaves.values()))
    return value.item(), dict(zip(leaves, (g.numpy() for g in gradient), strict=True))


def assert_same(left: Any, right: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(float(left[0]), float(right[0]), rtol=tolerance)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        scale = np.abs(np.asarray(gradient)).max(initial=1.0)
        np.testing.assert_allclose(np.asarray(gradient), np.asarray(right[1][name]), atol=tolerance * scale, rtol=0)


CASES = [
    *((GMM(k, c, PRIOR), d, True, True) for k, c, d in itertools.product((1, 3), COVARIANCES, (1, 3))),
    *((GMM(3, c, PRIOR), 3, False, c == "full") for c in COVARIANCES),
    (AUTO, 3, False, False),
    (AUTO.replace(covariance="diag"), 3, True, True),
]


@pytest.mark.parametrize(("family", "columns", "missing", "weighted"), CASES)
def test_twins_are_one_function(family: GMM, columns: int, missing: bool, weighted: bool) -> None:
    fields = rows(columns, missing, weighted)
    jax_pair, torch_pair = build("numpyro", family, columns), build("pyro", family, columns)
    jax_view, torch_view = view_of("numpyro", fields), view_of("pyro", fields)
    point = unconstrained(jax_pair, jax_view)
    expected = numpyro_density(jax_pair, jax_view, point)
    assert_same(expected, pyro_density(torch_pair, torch_view, point))
    if family.size > 1 and columns == 3:  # the enumerated forms, which define the model
        assert_same(expected, pyro_density(torch_pair, torch_view, point, enumerated=True))
        assert_same(expected, numpyro_density(jax_pair, jax_view, point, enumerated=True))


def start_of(pair: Pair, view: View) -> dict[str, Any]:
    """The first k-means solution as arrays of the pair's backend."""
    convert = jnp.asarray if pair.backend == "numpyro" else torch.as_tensor
    return {name: convert(value[0]) for name, value in pair.initialize(view, 0, 1).items()}


def evaluate(pair: Pair, function: Any, *args: Any) -> Any:
    """The function's value as numpy arrays, compiled in JAX."""
    return jax.tree.map(np.asarray, compiled(function, *args) if pair.backend == "numpyro" else function(*args))


def prior_draw(pair: Pair, form: str, num_obs: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """One draw of every site, and the types of the sites."""
    function, kinds = getattr(pair, form), {}

    def draw() -> Any:
        if pair.backend == "numpyro":
            sites = numpyro.handlers.trace(numpyro.handlers.seed(function, 0)).get_trace(None, num_obs=num_obs)
        else:
            pyro.set_rng_seed(0)
            sites = pyro.poutine.trace(function).get_trace(None, num_obs=num_obs).nodes
        sites = {
            name: site for name, site in sites.items() if site["type"] != "plate" and site.get("value") is not None
        }
        kinds.update({name: site["type"] for name, site in sites.items()})
        return {name: site["value"] for name, site in sites.items() if name != "obs"}

    return evaluate(pair, draw), kinds


EM_CASES = [(GMM(3, c, PRIOR), c in ("full", "diag")) for c in COVARIANCES] + [
    (GMM(3, "full", PRIOR), False),
    (AUTO, False),
]


@pytest.mark.parametrize(("family", "missing"), EM_CASES)
def test_em_hooks_are_twins(family: GMM, missing: bool) -> None:
    fields = rows(3, missing, weighted=True)
    results = []
    for backend in ("numpyro", "pyro"):
        pair, view = build(backend, family, 3), view_of(backend, fields)

        def step(parameters: Any, pair: Pair = pair, view: View = view) -> Any:
            log_prob, statistics = pair.e_step(parameters, view)
            new = [pair.m_step(parameters, statistics, objective) for objective in ("ml", "map")]
            return log_prob, statistics, *new, pair.log_prior(new[1], "map"), pair.is_degenerate(new[0])

        results.append(jax.tree.leaves(evaluate(pair, step, start_of(pair, view))))
    for left, right in zip(*results, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("eta", [1.0, 2.0])
@pytest.mark.parametrize("objective", ["ml", "map"])
@pytest.mark.parametrize("family", [*(GMM(3, c) for c in COVARIANCES), AUTO, GMM(2, "full")])
def test_em_never_lowers_its_objective(family: GMM, objective: str, eta: float, missing: bool) -> None:
    family = family.replace(prior=PRIOR.replace(correlation_concentration=eta))
    columns = 1 if family.num_components == 2 else 3
    pair, view = build("pyro", family, columns), view_of("pyro", rows(columns, missing, weighted=True))
    parameters, last = start_of(pair, view), -np.inf
    for _ in range(40):
        log_prob, statistics = pair.e_step(parameters, view)
        value = (log_prob * view.weights).sum().item() + pair.log_prior(parameters, objective).item()
        assert value >= last - 1e-10 * abs(value)
        parameters, last = pair.m_step(parameters, statistics, objective), value
    assert all(torch.isfinite(p).all() for p in parameters.values())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_map_is_where_the_gradient_vanishes(covariance: str) -> None:
    """With the log joint of the model itself, less the Jacobian from Cholesky factors to correlations."""
    pair, view = build("pyro", GMM(1, covariance, PRIOR), 3), view_of("pyro", rows(3, missing=True))
    sites = start_of(pair, view)
    for _ in range(800):
        sites = pair.m_step(sites, pair.e_step(sites, view)[1], "map")
    locs, scales = sites["locs"].clone().requires_grad_(), sites["scales"].clone().requires_grad_()
    free = {"locs": locs, "scales": scales}
    if "corr_cholesky" in sites:
        tril = sites["corr_cholesky"]
        corr = (tril @ tril.mT).tril(-1).requires_grad_()
        free["corr_cholesky"] = torch.linalg.cholesky(corr + corr.mT + torch.eye(3))
    objective = pair.e_step(free, view)[0].sum() + pair.log_prior(free, "map")
    gradients = list(torch.autograd.grad(objective, [locs, scales], retain_graph=True))
    if "corr_cholesky" in sites:
        gradients += [torch.autograd.grad(objective, corr)[0].tril(-1)]
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_log_prior_against_scipy(backend: str) -> None:
    prior = GMMPrior([1.5, 2.0], [[0.1, 0.2], [0.3, 0.4]], [1.0, 2.0], [[0.5, 0.6]], [1.5, 3.0])
    pair, view = build(backend, GMM(2, prior=prior), 2), view_of(backend, rows(2))
    sites = start_of(pair, view)
    value = {name: np.asarray(v) for name, v in sites.items()}
    expected = dirichlet.logpdf(value["weights"], [1.5, 2.0])
    expected += norm.logpdf(value["locs"], [[0.1, 0.2], [0.3, 0.4]], [[1.0], [2.0]]).sum()
    expected += halfnorm.logpdf(value["scales"], scale=[[0.5, 0.6]]).sum()
    correlation = value["corr_cholesky"][:, 1, 0]
    expected += (beta.logpdf((correlation + 1) / 2, [1.5, 3.0], [1.5, 3.0]) - np.log(2)).sum()  # LKJ in 2 dimensions
    actual = evaluate(pair, lambda sites: pair.log_prior(sites, "map"), sites)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    assert float(pair.log_prior(sites, "ml")) == 0.0


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
@pytest.mark.parametrize(("covariance", "columns"), [("full", 3), ("tied", 3), ("spherical", 2), ("full", 1)])
def test_density_against_a_sum_of_marginal_normals(backend: str, covariance: str, columns: int) -> None:
    """Components, mixture and missing entries against scipy; rows may miss some, all or none of their entries."""
    fields = rows(columns, missing=True, num_rows=12)
    pair, view = build(backend, GMM(2, covariance), columns), view_of(backend, fields)
    sites = start_of(pair, view)
    log_prob = evaluate(pair, lambda sites: pair.e_step(sites, view)[0], sites)
    value = {name: np.asarray(v) for name, v in sites.items()}
    scales = np.broadcast_to(value["scales"].reshape(1 if covariance == "tied" else 2, -1), (2, columns))
    factor = scales[..., None] * value.get("corr_cholesky", np.eye(columns))
    sigma = factor @ np.swapaxes(factor, -1, -2)
    for i, seen in enumerate(fields["mask"]):
        x, parts = fields["x"][i, seen], np.log(value["weights"])
        for k in range(2 if seen.any() else 0):
            parts[k] += multivariate_normal(value["locs"][k, seen], sigma[k][np.ix_(seen, seen)]).logpdf(x)
        np.testing.assert_allclose(log_prob[i], logsumexp(parts), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
@pytest.mark.parametrize("form", ["model", "collapsed"])
def test_prior_draws_have_the_sites_and_moments_of_the_mixture(backend: str, form: str) -> None:
    prior = GMMPrior(weights=[0.3, 0.7], locs=[[-1.0, 0.0], [2.0, 1.0]], scales=[[1.0, 0.5], [0.4, 0.8]],
                     correlation=[[1.0, 0.6], [0.6, 1.0]])  # fmt: skip
    n = 20_000
    sites, kinds = prior_draw(build(backend, GMM(2, prior=prior), 2), form, n)
    fixed = {kinds[name] for name in ("weights", "locs", "scales", "corr_cholesky")}
    assert fixed == ({"deterministic"} if backend == "numpyro" else {"sample"})  # Pyro has no other kind of site
    x = sites["x"]
    assert x.shape == (n, 2)
    loc = np.array([-0.3 + 1.4, 0.7])
    second = [
        w * (np.outer(m, m) + np.outer(s, s) * [[1, 0.6], [0.6, 1]])
        for w, m, s in zip(prior.weights, np.array(prior.locs), np.array(prior.scales), strict=True)
    ]
    np.testing.assert_allclose(x.mean(0), loc, atol=5 * 1.5 / n**0.5)
    np.testing.assert_allclose(np.cov(x.T), sum(second) - np.outer(loc, loc), atol=0.1)


@pytest.mark.parametrize(("family", "columns"), [(GMM(3, c), d) for c in COVARIANCES for d in (1, 3)] + [(AUTO, 3)])
def test_sites_are_the_same_in_both(family: GMM, columns: int) -> None:
    pyro_sites, jax_sites = [], []
    for form in ("model", "collapsed"):
        sites, kinds = prior_draw(build("pyro", family, columns), form, 4)
        pyro_sites.append({name: v.shape for name, v in sites.items() if kinds[name] == "sample"})
        pair = build("numpyro", family, columns)
        function = numpyro.handlers.seed(getattr(pair, form), 0)

        def draw(function: Any = function) -> Any:
            sites = numpyro.handlers.trace(function).get_trace(None, num_obs=4)
            return {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}

        jax_sites.append({name: leaf.shape for name, leaf in jax.eval_shape(draw).items()})
    assert pyro_sites == jax_sites
    assert pyro_sites[0].pop("z") == (4,)
    assert pyro_sites[0] == pyro_sites[1]
    assert pyro_sites[0].pop("x") == (4, columns)
    start = pair.initialize(view_of("numpyro", rows(columns)), 0, 2)
    assert {name: value.shape[1:] for name, value in start.items()} == pyro_sites[0]
    labelled = set(start) - ({"scales", "corr_cholesky"} if family.covariance == "tied" else set())
    assert labelled <= set(family.label_axes())
    assert all(pyro_sites[0][name][0] == family.size for name in labelled)


@pytest.mark.parametrize("missing", [False, True])
def test_weight_two_is_the_row_twice(missing: bool) -> None:
    fields = rows(3, missing)
    twice = {n: v if n == "patterns" else np.concatenate([v, v[:9]]) for n, v in fields.items()}
    pair = build("pyro", GMM(2), 3)
    once = view_of("pyro", fields | {"weights": np.where(np.arange(N) < 9, 2.0, 1.0)})
    double = view_of("pyro", twice)
    sites = start_of(pair, once)
    statistics = [pair.e_step(sites, view)[1] for view in (once, double)]
    for name in statistics[0]:
        torch.testing.assert_close(statistics[0][name], statistics[1][name])
    point = unconstrained(build("numpyro", GMM(2), 3), view_of("numpyro", fields))
    assert_same(pyro_density(pair, once, point), pyro_density(pair, double, point))
    assert_same(pyro_density(pair, once, point), pyro_density(pair, double, point, enumerated=True))


def test_a_weight_of_zero_is_no_trouble() -> None:
    from ppl_gen.models.gmm import numpyro_density, pyro_density

    x, locs, scale = np.zeros((2, 1)), np.zeros((2, 1)), np.ones((2, 1))

    def total(weights: Any) -> Any:
        return numpyro_density.GaussianMixture(weights, jnp.asarray(locs), jnp.asarray(scale)).log_prob(x).sum()

    value, gradient = compiled(jax.value_and_grad(total), jnp.array([1.0, 0.0]))
    assert np.isclose(value, 2 * norm.logpdf(0.0))
    assert np.isfinite(gradient).all()
    weights = torch.tensor([1.0, 0.0], requires_grad=True)
    mixture = pyro_density.GaussianMixture(weights, torch.as_tensor(locs), torch.as_tensor(scale))
    log_prob = mixture.log_prob(torch.as_tensor(x)).sum()
    assert log_prob.item() == pytest.approx(2 * norm.logpdf(0.0))
    assert torch.isfinite(torch.autograd.grad(log_prob, weights)[0]).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_initial_values_are_deterministic_and_inside_the_support(covariance: str) -> None:
    fields = rows(3, missing=True, weighted=True)
    pair, other = build("numpyro", GMM(4, covariance), 3), build("pyro", GMM(4, covariance), 3)
    values = pair.initialize(view_of("numpyro", fields), 3, 5)
    for name, value in other.initialize(view_of("pyro", fields), 3, 5).items():
        np.testing.assert_array_equal(value, values[name])
    assert np.ptp(values["locs"], axis=0).max() > 0
    assert any(np.any(v != values[n]) for n, v in pair.initialize(view_of("numpyro", fields), 4, 5).items())
    assert values["weights"].min() > 1e-4
    np.testing.assert_allclose(values["weights"].sum(-1), 1.0)
    assert np.all(np.diff(values["weights"], axis=-1) <= 1e-12)
    assert values["scales"].min() > 1e-3
    if "corr_cholesky" in values:
        assert np.diagonal(values["corr_cholesky"], axis1=-2, axis2=-1).min() > 1e-3


def test_fewer_different_rows_than_components_still_start() -> None:
    view = View(x=np.repeat([[0.0, 1.0], [2.0, 3.0]], 3, axis=0))
    values = build("pyro", GMM(5), 2).initialize(view, 0, 2)
    assert values["locs"].shape == (2, 5, 2)
    assert all(np.isfinite(value).all() for value in values.values())


def test_components_start_where_their_prior_says() -> None:
    fields = rows(1)
    prior = GMMPrior(loc=[2.0, -1.0], loc_scale=0.5)
    first, second = build("pyro", GMM(2, prior=prior), 1).initialize(View(**fields), 0, 1)["locs"][0, :, 0]
    assert first > second
    values = build("pyro", GMM(2, prior=GMMPrior(weights=[0.1, 0.9])), 1).initialize(View(**fields), 0, 1)
    assert "weights" not in values
    assert abs(values["locs"][0, 0, 0]) > abs(values["locs"][0, 1, 0])  # the smaller cluster is the outer one


FIXED = [
    GMMPrior(weights=[0.4, 0.6]),
    GMMPrior(locs=[[1.0, 0.0], [-1.0, 0.0]]),
    GMMPrior(scales=[[1.0, 0.5], [0.7, 0.7]], correlation=[[1.0, 0.3], [0.3, 1.0]]),
]


@pytest.mark.parametrize("prior", FIXED)
def test_fixed_parameters_stay(prior: GMMPrior) -> None:
    pairs = {b: build(b, GMM(2, prior=prior), 2) for b in ("numpyro", "pyro")}
    views = {b: view_of(b, rows(2)) for b in pairs}
    point = unconstrained(pairs["numpyro"], views["numpyro"])
    assert_same(
        numpyro_density(pairs["numpyro"], views["numpyro"], point), pyro_density(pairs["pyro"], views["pyro"], point)
    )
    pair, view = pairs["pyro"], views["pyro"]
    parameters, last = start_of(pair, view), -np.inf
    fixed = {name for name in ("weights", "locs", "scales", "corr_cholesky") if name not in parameters}
    assert fixed
    for _ in range(10):
        log_prob, statistics = pair.e_step(parameters, view)
        value = log_prob.sum().item() + pair.log_prior(parameters, "map").item()
        assert value >= last - 1e-9
        parameters, last = pair.m_step(parameters, statistics, "map"), value
        assert not fixed & set(parameters)
    assert GMM(2, prior=prior).num_parameters(2) < GMM(2).num_parameters(2)


def test_em_has_no_closed_form_with_half_a_covariance_fixed() -> None:
    pair = build("numpyro", GMM(2, prior=GMMPrior(correlation=np.eye(2))), 2)
    assert pair.e_step is None
    assert pair.m_step is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GMM(0), "at least 1"),
        (lambda: GMM(2.5), "whole number"),
        (lambda: GMM("many"), "'auto'"),
        (lambda: GMM(True), "whole number"),
        (lambda: GMM(2, "ful"), "did you mean 'full'"),
        (lambda: GMM(2, prior=3), "GMMPrior"),
        (lambda: GMM("auto", expected_components=15.0), "half of max_components"),
        (lambda: GMM(2, covariance_floor=0.0), "above 0"),
        (lambda: GMM(3, prior=GMMPrior(concentration=[1.0, 2.0])), "2 entries for 3 components"),
        (lambda: GMM(3, prior=GMMPrior(weights=[0.5, 0.5])), "2 entries for 3 components"),
        (lambda: GMM("auto", prior=GMMPrior(weights=[0.5, 0.5])), "weights"),
        (lambda: GMM(2, "diag", GMMPrior(correlation=np.eye(2))), "no correlation"),
        (lambda: GMMPrior(scale=-1.0), "positive"),
        (lambda: GMMPrior(loc="left"), "numbers"),
        (lambda: GMMPrior(loc=[[1.0], [1.0, 2.0]]), "evenly nested"),
        (lambda: GMMPrior(loc=float("nan")), "numbers"),
        (lambda: GMMPrior(correlation_concentration=0.5), "at least 1"),
        (lambda: GMMPrior(weights=[0.5, 0.6]), "sum to 1"),
        (lambda: GMMPrior(correlation=[[1.0, 2.0], [2.0, 1.0]]), "correlation"),
        (lambda: build("numpyro", GMM(2, prior=GMMPrior(loc=[[1.0, 2.0]])), 3), "does not fit"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="at least 9 rows"):
        GMM(9).prepare(np.arange(8.0))
    with pytest.raises(DataError, match="3 different rows, the table has 2"):
        GMM(3).prepare(np.tile([1.0, 2.0], 5))
    GMM("auto").prepare(np.arange(8.0))


def test_settings_survive_json() -> None:
    family = GMM(2, "tied", GMMPrior(loc=[[0.0, 1.0], [1.0, 0.0]], scale=np.array(0.5)))
    assert GMM.from_config(family.to_config()) == family
    assert hash(family) == hash(GMM.from_config(family.to_config()))


def test_counts_of_parameters_and_the_default_engine() -> None:
    counts = {c: GMM(3, c).num_parameters(4) for c in COVARIANCES}
    assert counts == {"full": 2 + 12 + 30, "tied": 2 + 12 + 10, "diag": 2 + 12 + 12, "spherical": 2 + 12 + 3}
    small, large = (Data.from_table(np.random.default_rng(0).normal(size=(n, 2))) for n in (100, 5000))
    assert GMM(3).default_engine(small)[0] == "nuts"
    assert GMM(3).default_engine(large)[0] == "em"
    assert GMM("auto").default_engine(small)[0] == "svi"


def test_a_collapsed_or_dead_component_is_degenerate() -> None:
    pair = build("pyro", GMM(2), 2)
    sites = start_of(pair, view_of("pyro", rows(2)))
    assert not pair.is_degenerate(sites)
    thin = torch.tensor([[1.0, 1.0], [1.0, 1e-3]])
    assert pair.is_degenerate({**sites, "scales": thin})
    assert pair.is_degenerate({**sites, "weights": torch.tensor([0.99, 0.01])})
    auto = build("pyro", GMM("auto", max_components=4, expected_components=1.5), 2)
    sites = start_of(auto, view_of("pyro", rows(2)))
    assert not auto.is_degenerate({**sites, "weights": torch.tensor([0.5, 0.49, 0.005, 0.005])})


def test_ml_stops_at_the_floor() -> None:
    """Two equal rows far from the rest: without the floor the likelihood would have no bound."""
    x = np.concatenate([rows(2)["x"], [[6.0, 6.0], [6.0, 6.0]]])
    pair, view = build("pyro", GMM(2), 2, len(x)), View(x=torch.as_tensor(x))
    sites = start_of(pair, view)
    for _ in range(50):
        sites = pair.m_step(sites, pair.e_step(sites, view)[1], "ml")
    assert pair.is_degenerate(sites)
    assert sites["scales"].min().item() == pytest.approx(1e-3)


def test_stick_breaking_density_and_expectation() -> None:
    """The density is that of independent Beta(1, alpha) sticks; alpha gives the expected number of components."""
    from ppl_gen.models.gmm.numpyro_density import StickBreaking as JaxSticks
    from ppl_gen.models.gmm.pyro_density import StickBreaking as TorchSticks

    alpha, sticks = 1.7, torch.tensor([0.3, 0.6, 0.2])

    def break_sticks(v: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.ones(1), (1 - v).cumprod(0)])[:3] * v

    jacobian = torch.linalg.slogdet(torch.autograd.functional.jacobian(break_sticks, sticks)).logabsdet.item()
    expected = beta.logpdf(sticks.numpy(), 1, alpha).sum() - jacobian
    weights = torch.cat([break_sticks(sticks), 1 - break_sticks(sticks).sum().reshape(1)])
    assert TorchSticks(alpha, 4).log_prob(weights).item() == pytest.approx(expected)
    assert float(JaxSticks(alpha, 4).log_prob(jnp.asarray(weights.numpy()))) == pytest.approx(expected)

    alpha = stick_concentration(5.0, 100)
    torch.manual_seed(0)
    for draws in (
        TorchSticks(alpha, 20).sample((2000,)).numpy(),
        np.asarray(JaxSticks(alpha, 20).sample(jax.random.key(0), (2000,))),
    ):
        np.testing.assert_allclose(draws.sum(-1), 1.0)
        occupied = (1 - (1 - draws) ** 100).sum(-1)
        assert abs(occupied.mean() - 5.0) < 4 * occupied.std() / 2000**0.5


def test_a_users_own_nuts_in_numpyro() -> None:
    pair, view = build("numpyro", GMM(2, "diag"), 1), view_of("numpyro", rows(1))
    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(pair.model), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), view)
    assert {name: v.shape for name, v in mcmc.get_samples().items()} == {
        "weights": (5, 2),
        "locs": (5, 2, 1),
        "scales": (5, 2, 1),
    }


@pytest.mark.parametrize("kind", ["mean_field", "multivariate"])
def test_a_users_own_svi_in_numpyro(kind: str) -> None:
    """Row weights included: the enumerated loss is the collapsed one, at the same draws."""
    from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO

    pair, view = build("numpyro", GMM(2), 2), view_of("numpyro", rows(2, weighted=True))
    start, losses = start_of(pair, view), []
    for model, elbo in ((pair.model, TraceEnum_ELBO()), (pair.collapsed, Trace_ELBO())):
        svi = SVI(model, pair.make_guide(kind, start), numpyro.optim.Adam(0.01), elbo)

        def step(key: Any, svi: Any = svi) -> Any:
            state = svi.init(key, view)
            return svi.evaluate(state, view), svi.update(state, view)[1]

        losses.append(compiled(step, jax.random.key(0)))
    np.testing.assert_allclose(*losses, rtol=1e-8)


def test_a_guide_starts_at_kmeans_by_itself() -> None:
    for backend in ("numpyro", "pyro"):
        pair, view = build(backend, GMM(2, "diag"), 1), view_of(backend, rows(1))
        expected = pair.initialize(view, 0, 1)["locs"][0]
        if backend == "numpyro":
            numpyro.handlers.seed(pair.guide, 0)(view)
            centre = pair.guide._init_locs["locs"]
        else:
            pair.guide(view)
            centre = pair.guide.locs.locs.detach()
        np.testing.assert_allclose(np.asarray(centre), expected)


@pytest.mark.parametrize("kind", ["mean_field", "multivariate"])
@pytest.mark.parametrize("size", [None, 8])
def test_a_users_own_svi_in_pyro(kind: str, size: int | None) -> None:
    from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO

    pair, view, losses = build("pyro", GMM(2), 2), view_of("pyro", rows(2, missing=True, weighted=True)), []
    for model, elbo in ((pair.model, TraceEnum_ELBO(max_plate_nesting=1)), (pair.collapsed, Trace_ELBO())):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            svi = SVI(model, pair.make_guide(kind), pyro.optim.Adam({"lr": 0.01}), elbo)
            losses.append([svi.step(view, subsample_size=size) for _ in range(3)])
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-8)
    assert np.isfinite(losses).all()


def test_mini_batches_are_unbiased() -> None:
    """The scaled log density of a batch, averaged over all batches of a partition, is that of the table."""
    pair, view = build("numpyro", GMM(2), 2), view_of("numpyro", rows(2, missing=True, weighted=True))
    sites = start_of(pair, view)

    def density(seed: Any, size: int | None) -> Any:
        seeded = numpyro.handlers.seed(pair.collapsed, seed)
        return numpyro.infer.util.log_density(seeded, (view,), {"subsample_size": size}, sites)[0]

    whole = float(compiled(lambda key: density(key, None), jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 3000)
    parts = compiled(jax.vmap(lambda key: density(key, 8)), keys)
    assert abs(parts.mean() - whole) < 4 * parts.std() / 3000**0.5
