"""Flows as functions: bijections whose log-determinants are right, the same in both backends, that bear outliers."""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from jax.test_util import check_grads
from scipy import stats

from ppl_gen import backends
from ppl_gen.models.flow import TRANSFORMS, Flow, numpyro_splines, pyro_splines
from ppl_gen.models.flow.architecture import Architecture, resolve
from ppl_gen.networks import autoregressive_masks

BACKENDS = ("numpyro", "pyro")
LAYERED = [name for name in TRANSFORMS if name != "cnf"]  # which is inverted by a solver, see test_cnf.py
# The fewest columns of a kind of layer once, and an odd number of all.
COLUMNS = dict.fromkeys(LAYERED, (3,)) | {"realnvp": (2, 3), "nsf_ar": (1, 3)}
CASES = [(name, columns) for name, allowed in COLUMNS.items() for columns in allowed]
EXACT = 1e-9  # float64: some hundred operations, each with a rounding error of 1e-16 of numbers up to some thousands
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_case = pytest.mark.parametrize(("transform", "columns"), CASES)


QUICK = {"xla_backend_optimization_level": 0}  # compiling is most of the work here


class Trip(NamedTuple):
    """Rows (n, D) to the base space and back, each with log |det|, and the Jacobian (n, D, D) of the way there."""

    u: np.ndarray
    log_det: np.ndarray
    again: np.ndarray
    back: np.ndarray
    jacobian: np.ndarray


def trip(backend: str, architecture: Architecture, weights: Any, x: np.ndarray, context: Any = None) -> Trip:
    y = np.zeros((len(x), 0)) if context is None else context
    if backend == "numpyro":
        from ppl_gen.models.flow.numpyro_transforms import from_base, to_base

        def run(weights: Any, x: Any, y: Any) -> Any:
            there = to_base(architecture, weights, x, y)
            back = from_base(architecture, weights, there[0], y)
            one = jax.jacfwd(lambda row, y: to_base(architecture, weights, row, y)[0])
            return *there, *back, jax.vmap(one)(x, y)

        return Trip(*map(np.asarray, jax.jit(run, compiler_options=QUICK)(weights, x, y)))
    from ppl_gen.models.flow import pyro_transforms

    w, rows, given = {k: torch.as_tensor(v) for k, v in weights.items()}, torch.as_tensor(x), torch.as_tensor(y)
    there = pyro_transforms.to_base(architecture, w, rows, given)
    back = pyro_transforms.from_base(architecture, w, there[0], given)
    one = torch.func.jacfwd(lambda row, y: pyro_transforms.to_base(architecture, w, row, y)[0])
    return Trip(*(part.numpy() for part in (*there, *back, torch.func.vmap(one)(rows, given))))


def rows(columns: int, number: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, columns)) * 2


def rough(layout: Any, seed: int = 1, spread: float = 0.3) -> dict[str, np.ndarray]:
    """Weights far from the start, where a flow is nearly the identity."""
    rng = np.random.default_rng(seed)
    return {name: w.centre + (w.spread + spread) * rng.normal(size=w.shape) for name, w in layout.items()}


def flow(transform: str, columns: int, conditions: int = 0, **options: Any) -> Architecture:
    family = Flow(**{"transform": transform, "num_layers": 3, "hidden": (8,), "num_bins": 2, "bound": 3.0, **options})
    schema = Flow("nsf_ar").prepare(rows(columns + conditions)).schema
    return resolve(family, dataclasses.replace(schema, conditions=schema.names[columns:]))


@each_backend
@each_case
def test_round_trip_and_log_determinant(transform: str, columns: int, backend: str, x64: None) -> None:
    architecture, x = flow(transform, columns), rows(columns, 40)
    found = trip(backend, architecture, rough(architecture.layout), x)
    np.testing.assert_allclose(found.again, x, atol=EXACT)
    np.testing.assert_allclose(found.back, -found.log_det, atol=EXACT)
    np.testing.assert_allclose(found.log_det, np.linalg.slogdet(found.jacobian)[1], atol=EXACT)
    assert (np.abs(found.u - x) > 1e-3).any()  # far from the identity


@each_backend
@pytest.mark.parametrize("transform", LAYERED)
def test_what_is_conditioned_on_matters_and_is_not_transformed(transform: str, backend: str, x64: None) -> None:
    architecture, x = flow(transform, 2, conditions=1), rows(2, 40) / 2
    weights, context = rough(architecture.layout), rows(1, 40, seed=3)
    one, other = (trip(backend, architecture, weights, x, y) for y in (context, context + 1))
    np.testing.assert_allclose(one.again, x, atol=EXACT)
    np.testing.assert_allclose(one.back, -one.log_det, atol=EXACT)
    np.testing.assert_allclose(one.log_det, np.linalg.slogdet(one.jacobian)[1], atol=EXACT)
    assert (np.abs(other.u - one.u) > 1e-6).any(1).mean() > 0.5  # of the rows; those beyond the splines' bound stay


@each_backend
@pytest.mark.parametrize("transform", ["maf", "nsf_ar", "iaf"])
def test_a_layer_sees_the_columns_before_each_only(transform: str, backend: str, x64: None) -> None:
    architecture = flow(transform, 3, num_layers=1)
    jacobian = trip(backend, architecture, rough(architecture.layout), rows(3, 20) / 4).jacobian
    assert (np.triu(jacobian, 1) == 0).all()
    lower = np.tril_indices(3, -1)
    assert (jacobian[:, lower[0], lower[1]] != 0).any(0).all()  # and all of those
    assert (np.diagonal(jacobian, axis1=1, axis2=2) > 0).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [0]])
def test_masks_let_an_output_see_what_comes_before_it_and_all_of_the_context(order: list[int]) -> None:
    first, *rest = autoregressive_masks(np.array(order), 2, (16, 16), 3)
    paths = first
    for mask in rest:
        paths = paths @ mask
    place = np.array(order)
    for output in paths.T.reshape(3, len(order), -1):
        assert ((output[:, : len(order)] > 0) == (place[None, :] < place[:, None])).all()
        assert (output[:, len(order) :] > 0).all()


def spline(backend: str, name: str, parameters: np.ndarray, x: np.ndarray, bound: float) -> Any:
    if backend == "numpyro":
        program = jax.jit(partial(getattr(numpyro_splines, name), bound=bound), compiler_options=QUICK)
        return tuple(map(np.asarray, program(parameters, x)))
    tensors = torch.as_tensor(parameters), torch.as_tensor(x)
    return tuple(part.numpy() for part in getattr(pyro_splines, name)(*tensors, bound))


@each_backend
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_splines_rise_and_join_the_identity_smoothly(backend: str, spread: float, x64: None) -> None:
    bound, bins = 3.0, 6
    raw = spread * np.random.default_rng(0).normal(size=(3 * bins - 1, 1, 5))
    edges = np.array([-bound - 1, -bound - 1e-9, -bound + 1e-9, bound - 1e-9, bound + 1e-9, bound + 1])
    x = np.sort(np.concatenate([edges, np.linspace(-3.5, 3.5, 2001)]))[:, None] * np.ones(5)
    parameters = raw + np.zeros(x.shape)
    u, log_slope = spline(backend, "spline", parameters, x, bound)
    beyond = np.abs(x) >= bound
    assert (u[beyond] == x[beyond]).all()
    assert (log_slope[beyond] == 0).all()
    assert (np.diff(u, axis=0) > 0).all()
    near = np.abs(np.abs(x) - bound) < 2e-9
    # Slopes at knots are below 30 and bins wider than 1e-3 of the interval, so 1e-9 moves either by less than 1e-4.
    np.testing.assert_allclose(u[near], x[near], atol=1e-4)
    np.testing.assert_allclose(log_slope[near], 0, atol=1e-2)
    again, back = spline(backend, "spline_inverse", parameters, u, bound)
    np.testing.assert_allclose(again, x, atol=1e-8)
    np.testing.assert_allclose(back, -log_slope, atol=1e-6)
    if spread == 0.0:
        np.testing.assert_allclose(u, x, atol=EXACT)


@each_backend
@pytest.mark.parametrize("transform", ["realnvp", "nsf_ar", "iaf"])
def test_rows_that_are_drawn_come_from_the_base(transform: str, backend: str, x64: None) -> None:
    family = Flow(transform=transform, num_layers=2, hidden=(8,), num_bins=2)
    pair = family.pair(backend, rows(2))
    architecture = resolve(family, family.prepare(rows(2)).schema)
    weights = rough(architecture.layout)
    drawn = backends.ops(backend).sample_rows(
        pair, {name: value[None] for name, value in weights.items()}, np.zeros(2000, int), 4
    )
    u = trip(backend, architecture, weights, drawn).u
    # One look at each of two columns: p-values below 1e-4 come once in 5,000 seeds.
    assert min(stats.kstest(column, "norm").pvalue for column in u.T) > 1e-4
    assert abs(np.corrcoef(u.T)[0, 1]) < 4 / 2000**0.5


@pytest.mark.parametrize("function", [numpyro_splines.spline, numpyro_splines.spline_inverse])
def test_the_derivative_of_a_spline_is_that_of_differences(function: Any, x64: None) -> None:
    """It is written by hand in JAX. Central differences of step 1e-6 err by some 1e-10 / 1e-6."""
    rng = np.random.default_rng(4)
    parameters, x = rng.normal(size=(11, 2, 5)), rng.normal(size=(2, 5)) * 2
    check_grads(jax.jit(partial(function, bound=3.0)), (parameters, x), order=1, atol=1e-4, rtol=1e-4, eps=1e-6)


@each_backend
def test_rows_that_go_through_in_blocks_are_the_same(backend: str, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, x = flow("maf", 3), rows(3, 11)
    weights, module = rough(architecture.layout), importlib.import_module(f"ppl_gen.models.flow.{backend}_transforms")
    kind = {"numpyro": np.asarray, "pyro": torch.as_tensor}[backend]
    given = {name: kind(value) for name, value in weights.items()}
    whole = module.to_base(architecture, given, kind(x), None)
    monkeypatch.setattr(module, "BLOCK", 4)
    for at_once, in_blocks in zip(whole, module.to_base(architecture, given, kind(x), None), strict=True):
        np.testing.assert_allclose(np.asarray(in_blocks), np.asarray(at_once), rtol=0, atol=EXACT)
