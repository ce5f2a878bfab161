"""The Pyro side of inference on two small pairs whose answers are known, and against its JAX twin."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import pyro
import pytest
import torch
from numpyro import distributions as ndist
from numpyro import handlers
from pyro import distributions as pdist
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_value

from ppl_gen.backends import numpyro_ops, pyro_ops, pyro_programs
from ppl_gen.backends.pyro_unconstrained import Unconstrained
from ppl_gen.data import View
from ppl_gen.errors import FitError, UnsupportedError
from ppl_gen.family import Family, Pair
from ppl_gen.inference.em import EM, numpyro_engine, pyro_engine
from ppl_gen.inference.nuts import NUTS
from ppl_gen.inference.nuts.pyro_engine import run as run_nuts
from ppl_gen.inference.svi import SVI
from ppl_gen.inference.svi.pyro_engine import negative_elbo
from ppl_gen.inference.svi.pyro_engine import run as run_svi
from ppl_gen.models.gmm import GMM
from ppl_gen.progress import Monitor

PATIENT = SVI(learning_rate=0.05, max_steps=1400, window=200, num_samples=2000, num_particles=2)


class Toy(Family):
    name: ClassVar[str] = "toy"
    density: ClassVar[str] = "exact"
    engines: ClassVar[tuple[str, ...]] = ("nuts", "svi", "em")


def normal_model(view: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    """One normal column: loc ~ Normal(0, 2), scale ~ HalfNormal(2)."""
    loc = pyro.sample("loc", pdist.Normal(torch.zeros(1), 2.0).to_event(1))
    scale = pyro.sample("scale", pdist.HalfNormal(torch.tensor(2.0)))
    with pyro.plate("obs", num_obs or len(view.x), subsample_size) as rows:
        pyro.sample("x", pdist.Normal(loc, scale).to_event(1), obs=None if view is None else view.x[rows])


def normal_guide(view: View, **_: Any) -> None:
    """A user's own guide."""
    loc = pyro.param("loc_loc", torch.zeros(1))
    loc_scale = pyro.param("loc_scale", torch.full((1,), 0.1), constraint=pdist.constraints.positive)
    pyro.sample("loc", pdist.Normal(loc, loc_scale).to_event(1))
    log_scale = pyro.param("log_scale", torch.tensor(0.0))
    spread = pyro.param("spread", torch.tensor(0.1), constraint=pdist.constraints.positive)
    pyro.sample("scale", pdist.LogNormal(log_scale, spread))


def row_weights(view: View | None, rows: Any) -> Any:
    return nullcontext() if view is None or view.weights is None else poutine.scale(scale=view.weights[rows])


def mixture_pyro(view: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    """Two normals of unit variance with unknown weights and locations, the label enumerated."""
    weights = pyro.sample("weights", pdist.Dirichlet(torch.full((2,), 2.0)))
    locs = pyro.sample("locs", pdist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("obs", num_obs or len(view.x), subsample_size) as rows, row_weights(view, rows):
        z = pyro.sample("z", pdist.Categorical(weights), infer={"enumerate": "parallel"})
        x = pdist.Normal(locs[z][..., None], 1.0).to_event(1)
        pyro.sample("x", x, obs=None if view is None else view.x[rows])


def collapsed_pyro(view: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    weights = pyro.sample("weights", pdist.Dirichlet(torch.full((2,), 2.0)))
    locs = pyro.sample("locs", pdist.Normal(torch.zeros(2), 3.0).to_event(1))
    x = pdist.MixtureSameFamily(pdist.Categorical(weights), pdist.Normal(locs[:, None], 1.0).to_event(1))
    with pyro.plate("obs", num_obs or len(view.x), subsample_size) as rows, row_weights(view, rows):
        pyro.sample("x", x, obs=None if view is None else view.x[rows])


def mixture_numpyro(view: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    weights = numpyro.sample("weights", ndist.Dirichlet(jnp.full(2, 2.0)))
    locs = numpyro.sample("locs", ndist.Normal(jnp.zeros(2), 3.0).to_event(1))
    with numpyro.plate("obs", num_obs or len(view.x), subsample_size):
        z = numpyro.sample("z", ndist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", ndist.Normal(locs[z][..., None], 1.0).to_event(1), obs=None if view is None else view.x)


def collapsed_numpyro(view: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    weights = numpyro.sample("weights", ndist.Dirichlet(jnp.full(2, 2.0)))
    locs = numpyro.sample("locs", ndist.Normal(jnp.zeros(2), 3.0).to_event(1))
    x = ndist.MixtureSameFamily(ndist.Categorical(weights), ndist.Normal(locs[:, None], 1.0).to_event(1))
    scale = 1.0 if view is None or view.weights is None else view.weights
    with numpyro.plate("obs", num_obs or len(view.x), subsample_size), handlers.scale(scale=scale):
        numpyro.sample("x", x, obs=None if view is None else view.x)


def mixture_hooks(np_like: Any, logsumexp: Any) -> dict[str, Any]:
    """EM of the mixture, in jax.numpy or in torch."""

    def e_step(parameters: dict, view: View) -> Any:
        parts = np_like.log(parameters["weights"]) - 0.5 * (view.x - parameters["locs"]) ** 2 - 0.5 * np.log(2 * np.pi)
        log_prob = logsumexp(parts, 1)
        shares = np_like.exp(parts - log_prob[:, None]) * view.weights[:, None]
        return log_prob, (shares.sum(0), (shares * view.x).sum(0))

    def m_step(parameters: dict, statistics: Any, objective: str) -> dict:
        count, total = statistics
        extra, precision = (1.0, 1 / 9) if objective == "map" else (0.0, 0.0)
        weights = (count + extra) / (count + extra).sum()
        return {"weights": weights, "locs": total / (count + precision)}

    def log_prior(parameters: dict, objective: str) -> Any:
        if objective == "ml":
            return 0.0
        return np_like.log(parameters["weights"]).sum() - (parameters["locs"] ** 2).sum() / 18

    def initialize(view: View, seed: int, num_starts: int) -> dict:
        locs = np.random.default_rng(seed).normal(0, 2, size=(num_starts, 2))
        return {"weights": np.full((num_starts, 2), 0.5), "locs": locs}

    return {"e_step": e_step, "m_step": m_step, "log_prior": log_prior, "initialize": initialize}


def as_pair(model: Any, view: View, collapsed: Any = None, **hooks: Any) -> Pair:
    """A pair in Pyro with automatic guides."""

    def make_guide(kind: str, values: dict | None = None) -> Any:
        init = {name: torch.as_tensor(value, dtype=torch.get_default_dtype()) for name, value in (values or {}).items()}
        auto = {"mean_field": AutoNormal, "multivariate": AutoMultivariateNormal}[kind]
        return auto(poutine.block(model, hide=["z", "x"]), init_loc_fn=init_to_value(values=init))

    return Pair(Toy(), "pyro", model, data=view, collapsed=collapsed, make_guide=make_guide, **hooks)


@pytest.fixture(scope="module")
def column() -> np.ndarray:
    return np.random.default_rng(1).normal(1.5, 0.7, size=(40, 1))


@pytest.fixture(scope="module")
def bumps() -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.concatenate([rng.normal(-2, 1, size=(60, 1)), rng.normal(2, 1, size=(90, 1))])


def torch_view(x: np.ndarray, weights: np.ndarray | None = None) -> View:
    return View(pyro_ops.as_tensor(x), None, None if weights is None else pyro_ops.as_tensor(weights), None, None)


def twins(x: np.ndarray, weights: np.ndarray | None = None) -> tuple[Pair, Pair]:
    """The mixture in NumPyro and in Pyro, with its data."""
    view = View(jnp.asarray(x), None, None if weights is None else jnp.asarray(weights), None, None)
    hooks = mixture_hooks(jnp, jax.scipy.special.logsumexp)
    in_jax = Pair(Toy(), "numpyro", mixture_numpyro, data=view, collapsed=collapsed_numpyro, **hooks)
    hooks = mixture_hooks(torch, torch.logsumexp)
    return in_jax, as_pair(mixture_pyro, torch_view(x, weights), collapsed_pyro, **hooks)


def exact_moments(x: np.ndarray) -> dict[str, tuple[float, float]]:
    """Posterior mean and sd of the normal's loc and scale, by quadrature on a grid."""
    loc, scale = np.meshgrid(np.linspace(0.5, 2.5, 400), np.linspace(0.3, 1.8, 400), indexing="ij")
    log_p = -(loc**2) / 8 - scale**2 / 8
    for value in x[:, 0]:
        log_p = log_p - np.log(scale) - 0.5 * ((value - loc) / scale) ** 2
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    means = {"loc": (p * loc).sum(), "scale": (p * scale).sum()}
    squares = {"loc": (p * loc**2).sum(), "scale": (p * scale**2).sum()}
    return {name: (means[name], float(np.sqrt(squares[name] - means[name] ** 2))) for name in means}


def global_state() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), torch.get_num_threads(),
            sorted(pyro.get_param_store().keys()), torch.distributions.Distribution._validate_args]  # fmt: skip


class TestOps:
    def test_equal_to_numpyro(self, bumps: np.ndarray, x64: None) -> None:
        rng = np.random.default_rng(0)
        draws = {"weights": rng.dirichlet([2, 2], size=5), "locs": rng.normal(0, 2, size=(5, 2))}
        in_jax, in_torch = twins(bumps, rng.uniform(0.5, 2, len(bumps)))
        theirs = numpyro_ops.log_prob(in_jax, draws, in_jax.data)
        for pair in (in_torch, dataclasses.replace(in_torch, collapsed=None)):
            ours = pyro_ops.log_prob(pair, draws, pair.data)
            assert ours.shape == (5, len(bumps))
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
        ours = pyro_ops.local_posterior(in_torch, draws, in_torch.data)["z"]
        np.testing.assert_allclose(ours, numpyro_ops.local_posterior(in_jax, draws, in_jax.data)["z"], rtol=1e-9)
        one = {name: value[0] for name, value in draws.items()}
        joint = pyro_ops.log_joint(in_torch, one, in_torch.data)
        assert joint == pytest.approx(numpyro_ops.log_joint(in_jax, one, in_jax.data), rel=1e-9)
        assert joint == pytest.approx(pyro_ops.log_joint(in_torch, one, in_torch.data, enumerated=True), rel=1e-12)

    def test_models_that_cannot_be_batched_run_draw_by_draw(self, bumps: np.ndarray) -> None:
        def branching(view: View | None, **options: Any) -> None:
            with poutine.trace() as inner:
                collapsed_pyro(view, **options)
            assert float(inner.trace.nodes["locs"]["value"][0]) < 100  # vmap refuses this

        draws = {"weights": np.full((3, 2), 0.5), "locs": np.array([[-2.0, 2.0], [-1.0, 1.0], [0.0, 3.0]])}
        _, pair = twins(bumps)
        other = pyro_ops.log_prob(dataclasses.replace(pair, collapsed=branching), draws, pair.data)
        np.testing.assert_allclose(other, pyro_ops.log_prob(pair, draws, pair.data), rtol=1e-6)

    def test_rows_come_from_the_draw_that_was_asked_for(self, bumps: np.ndarray) -> None:
        draws = {"weights": np.full((3, 2), 0.5), "locs": np.array([[0.0, 0.0], [50.0, 50.0], [100.0, 100.0]])}
        index = np.random.default_rng(0).integers(3, size=200)
        rows = pyro_ops.sample_rows(twins(bumps)[1], draws, index, seed=3)
        assert rows.shape == (200, 1)
        assert np.all(np.abs(rows[:, 0] - 50 * index) < 6)
        np.testing.assert_array_equal(rows, pyro_ops.sample_rows(twins(bumps)[1], draws, index, seed=3))


class TestRecorded:
    def test_value_gradient_and_fresh_noise(self) -> None:
        leaf = torch.tensor([1.0, 2.0], requires_grad=True)
        program = pyro_programs.value_and_gradient(lambda: (leaf**2).sum() + torch.randn(()) * 0.1, (leaf,))
        with torch.random.fork_rng():
            values = [program(torch.tensor([3.0, 0.5])) for _ in range(2)]
        assert values[0][0] != values[1][0]
        torch.testing.assert_close(values[0][1][0], torch.tensor([6.0, 1.0]))

    def test_a_function_that_branches_on_a_value_runs_as_it_is(self) -> None:
        leaf = torch.tensor(1.0, requires_grad=True)
        program = pyro_programs.value_and_gradient(lambda: leaf**2 if leaf.item() > 0 else -leaf, (leaf,))
        assert [float(program(torch.tensor(v))[0]) for v in (3.0, -3.0)] == [9.0, 3.0]
        assert [float(program(torch.tensor(v))[1][0]) for v in (3.0, -3.0)] == [6.0, -1.0]

    def test_no_cholesky_factor_is_not_a_number(self) -> None:
        leaf = torch.eye(2).requires_grad_()
        program = pyro_programs.value_and_gradient(lambda: torch.linalg.cholesky(leaf).sum(), (leaf,))
        assert np.isnan(float(program(-torch.eye(2))[0]))
        assert float(program(4 * torch.eye(2))[0]) == pytest.approx(4)


class TestEM:
    def test_same_optimum_as_jax(self, bumps: np.ndarray, x64: None) -> None:
        weights = np.random.default_rng(0).uniform(0.5, 2, len(bumps))
        settings = EM(objective="map", num_starts=4, tolerance=1e-10, num_bootstraps=8)
        in_jax, in_torch = twins(bumps, weights)
        theirs = numpyro_engine.run(in_jax, bumps, settings, 0, Monitor())
        ours = pyro_engine.run(in_torch, bumps, settings, 0, Monitor())
        assert ours.figures["objective"] == pytest.approx(theirs.figures["objective"], abs=1e-5)
        assert ours.figures["converged"]
        for name, value in ours.point.items():
            np.testing.assert_allclose(np.sort(value), np.sort(theirs.point[name]), atol=1e-3)
        assert np.all(np.diff(ours.losses) < 1e-9)
        assert ours.posterior["locs"].shape == (1, 8, 2)
        np.testing.assert_allclose(ours.held_out, theirs.held_out, atol=1e-3)

    def test_same_optimum_as_jax_for_a_family_with_missing_values(self, iris: pd.DataFrame, x64: None) -> None:
        holes = np.random.default_rng(0).random(iris.shape) < 0.1
        family = GMM(2, covariance="tied")
        data = family.prepare(iris.mask(holes))
        settings, found = EM(num_starts=4, tolerance=1e-9, num_bootstraps=0), []
        for engine, backend in ((pyro_engine, "pyro"), (numpyro_engine, "numpyro")):
            pair = family.build(backend, data.schema, len(data), data.view(backend))
            found.append(engine.run(pair, data, settings, 0, Monitor()))
        assert found[0].figures["objective"] == pytest.approx(found[1].figures["objective"], abs=1e-5)
        assert np.all(np.diff(found[0].losses) < 1e-9)

    def test_hooks_that_cannot_be_batched_run_one_by_one(self, bumps: np.ndarray) -> None:
        _, pair = twins(bumps)

        def m_step(parameters: dict, statistics: Any, objective: str) -> dict:
            return pair.m_step(parameters, statistics, objective) if float(statistics[0].sum()) > 0 else parameters

        settings = EM(num_starts=3, num_bootstraps=0)
        one_by_one = pyro_engine.run(dataclasses.replace(pair, m_step=m_step), bumps, settings, 0, Monitor())
        together = pyro_engine.run(pair, bumps, settings, 0, Monitor())
        assert one_by_one.figures["objective"] == pytest.approx(together.figures["objective"], abs=1e-3)
        assert together.uncertainty == "point"


class Interrupting(Monitor):
    """Ctrl-C at a given call of ``update``, and a checkpoint that stays in memory."""

    def __init__(self, after: int | None = None, state: dict | None = None) -> None:
        super().__init__()
        self.after, self.state, self.calls = after, state, 0

    def update(self, done: int, total: int, **figures: float) -> None:
        self.calls += 1
        if self.calls == self.after:
            raise KeyboardInterrupt

    def save(self, state: dict) -> None:
        self.state = {name: np.array(value) for name, value in state.items()}

    def load(self) -> dict | None:
        return self.state


class TestNUTS:
    settings = NUTS(num_warmup=150, num_samples=300, num_chains=2)

    def test_known_posterior_and_nothing_left_behind(self, column: np.ndarray) -> None:
        pyro.param("mine", torch.ones(1))
        before = global_state()
        draws = run_nuts(as_pair(normal_model, torch_view(column)), column, self.settings, 0, Monitor())
        assert global_state() == before
        assert draws.posterior["loc"].shape == (2, 300, 1)
        for name, (mean, sd) in exact_moments(column).items():
            ours = np.squeeze(draws.posterior[name]).astype(float)
            batches = ours.reshape(20, -1).mean(1)
            assert abs(ours.mean() - mean) < 4 * batches.std(ddof=1) / np.sqrt(len(batches))
            assert ours.std() == pytest.approx(sd, rel=0.2)
        stats = draws.sample_stats
        assert all(value.shape == (2, 300) for value in stats.values())
        assert stats["acceptance_rate"].mean() == pytest.approx(0.85, abs=0.12)
        assert np.all(stats["energy"] >= -stats["lp"].max() - 1e-3)
        assert np.all(stats["n_steps"] < 2 ** stats["tree_depth"])
        assert np.all(stats["n_steps"] >= 2 ** (stats["tree_depth"] - 1))
        pyro.clear_param_store()

    def test_enumerated_and_collapsed_agree_with_row_weights(self, bumps: np.ndarray) -> None:
        _, pair = twins(bumps, np.random.default_rng(0).uniform(0.5, 2, len(bumps)))
        settings = NUTS(num_warmup=60, num_samples=20, num_chains=1, num_starts=2)
        collapsed = run_nuts(pair, bumps, settings, 1, Monitor())
        enumerated = run_nuts(dataclasses.replace(pair, collapsed=None), bumps, settings, 1, Monitor())
        np.testing.assert_allclose(enumerated.sample_stats["lp"][0, 0], collapsed.sample_stats["lp"][0, 0], atol=5)
        with pyro_programs.sandbox(0):
            space = Unconstrained(pair, pair.data)
            point = torch.randn(space.size)
            other = Unconstrained(dataclasses.replace(pair, collapsed=None), pair.data)
            densities = [float(one.log_density(point, pair.data)) for one in (space, other)]
        assert densities[0] == pytest.approx(densities[1], rel=1e-5)

    def test_interrupted_and_resumed_to_the_same_bits(self, column: np.ndarray) -> None:
        pair, settings = as_pair(normal_model, torch_view(column)), NUTS(num_warmup=50, num_samples=50, num_chains=2)
        whole = run_nuts(pair, column, settings, 5, Monitor())
        cut = Interrupting(after=7)  # four looks a chain: this one is in the second chain, at its 25th draw
        partial = run_nuts(pair, column, settings, 5, cut)
        assert partial.interrupted
        assert partial.posterior["loc"].shape[:2] in {(1, 50), (2, 25)}
        resumed = run_nuts(pair, column, settings, 5, Interrupting(state=cut.state))
        for name, value in whole.posterior.items():
            np.testing.assert_array_equal(resumed.posterior[name], value)
        with pytest.raises(KeyboardInterrupt):
            run_nuts(pair, column, settings, 5, Interrupting(after=1))


class TestSVI:
    @pytest.mark.parametrize("guide", ["mean_field", "multivariate", normal_guide])
    def test_posterior_means(self, column: np.ndarray, guide: Any) -> None:
        pyro.param("mine", torch.ones(1))
        before = global_state()
        draws = run_svi(as_pair(normal_model, torch_view(column)), column, PATIENT.replace(guide=guide), 0, Monitor())
        assert global_state() == before
        for name, (mean, sd) in exact_moments(column).items():
            ours = np.squeeze(draws.posterior[name])
            assert abs(ours.mean() - mean) < 0.25 * sd
            assert ours.std() == pytest.approx(sd, rel=0.25)
        assert draws.log_weights.shape == (4000,)
        assert draws.log_weights.std() < 0.6
        assert set(draws.posterior) == {"loc", "scale"}
        assert draws.parameters
        assert "mine" not in draws.parameters
        pyro.clear_param_store()

    def test_batches_of_rows_give_the_same_posterior(self, column: np.ndarray) -> None:
        x = np.tile(column, (10, 1))
        draws = run_svi(as_pair(normal_model, torch_view(x)), x, PATIENT.replace(batch_size=100), 0, Monitor())
        assert np.mean(draws.posterior["loc"]) == pytest.approx(x.mean(), abs=0.05)
        assert np.mean(draws.posterior["scale"]) == pytest.approx(x.std(), abs=0.05)

    def test_the_elbo_is_that_of_pyro(self, bumps: np.ndarray) -> None:
        _, pair = twins(bumps)
        with pyro_programs.sandbox(0):
            guide = pair.make_guide("mean_field")
            guide(pair.data)  # the first call sets it up
            for ours, theirs in ((pair, Trace_ELBO), (dataclasses.replace(pair, collapsed=None), TraceEnum_ELBO)):
                pyro.set_rng_seed(1)
                value = negative_elbo(ours, guide, pair.data, 3).item()
                pyro.set_rng_seed(1)
                loss = theirs(num_particles=3, max_plate_nesting=1).loss(ours.density, guide, pair.data)
                assert loss == pytest.approx(value, rel=1e-5)

    def test_a_guide_without_reparametrized_draws_is_refused(self, column: np.ndarray) -> None:
        def guide(view: View, **_: Any) -> None:
            normal_guide(view)
            pyro.sample("coin", pdist.Bernoulli(0.5), infer={"is_auxiliary": True})

        with pytest.raises(UnsupportedError, match="coin"):
            run_svi(as_pair(normal_model, torch_view(column)), column, PATIENT.replace(guide=guide), 0, Monitor())

    def test_enumerated_elbo(self, bumps: np.ndarray) -> None:
        pair = dataclasses.replace(twins(bumps)[1], collapsed=None)
        draws = run_svi(pair, bumps, PATIENT.replace(max_steps=750, num_particles=2), 0, Monitor())
        np.testing.assert_allclose(np.sort(draws.posterior["locs"].mean((0, 1))), [-2, 2], atol=0.5)

    def test_interrupted_and_resumed_to_the_same_bits(self, column: np.ndarray) -> None:
        pair = as_pair(normal_model, torch_view(column))
        settings = SVI(learning_rate=0.05, max_steps=300, window=100, num_samples=10, num_particles=1)
        whole = run_svi(pair, column, settings, 5, Monitor())
        cut = Interrupting(after=3)
        assert run_svi(pair, column, settings, 5, cut).interrupted
        resumed = run_svi(pair, column, settings, 5, Interrupting(state=cut.state))
        np.testing.assert_array_equal(resumed.losses, whole.losses)
        for name, value in whole.posterior.items():
            np.testing.assert_array_equal(resumed.posterior[name], value)

    def test_a_loss_that_is_no_number_is_said(self, column: np.ndarray) -> None:
        x = column.copy()
        x[3] = np.nan
        with pytest.raises(FitError, match="learning_rate"):
            run_svi(as_pair(normal_model, torch_view(x)), x, PATIENT.replace(guide=normal_guide), 0, Monitor())
