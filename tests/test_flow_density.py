"""The density of flows: the same in both backends, and finite wherever an outlier falls."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ppl_gen import backends
from ppl_gen.models.flow import BASES, TRANSFORMS, Flow

BACKENDS = ("numpyro", "pyro")
QUICK = {"xla_backend_optimization_level": 0}  # compiling is most of the work here
PARITY = [(name, 3, "normal") for name in TRANSFORMS] + [(name, 1, "normal") for name in ("maf", "nsf_ar", "iaf")]
PARITY += [(name, 2, base) for name in TRANSFORMS for base in BASES[1:]]
EXACT = 1e-9  # float64: some hundred operations, each with a rounding error of 1e-16 of numbers up to some thousands


def rows(columns: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, columns)) * 2


def rough(pair: Any) -> dict[str, np.ndarray]:
    """Weights far from the start, where a flow is nearly the identity."""
    rng = np.random.default_rng(1)
    starts = pair.initialize(pair.data, 0, 1)
    return {name: value[0] + 0.3 * rng.normal(size=value.shape[1:]) for name, value in starts.items()}


@pytest.mark.parametrize(("transform", "columns", "base"), PARITY)
def test_both_backends_are_one_function(transform: str, columns: int, base: str, x64: None) -> None:
    family = Flow(transform=transform, num_layers=2, hidden=(8,), base=base, num_components=3, num_bins=2)
    x, found = rows(columns), []
    for backend in BACKENDS:
        pair = family.pair(backend, x)
        starts = pair.initialize(pair.data, 0, 2)
        values = {k: v + 0.1 * np.random.default_rng(1).normal(size=v.shape) for k, v in starts.items()}
        found.append(backends.ops(backend).log_prob(pair, values, pair.data))
    np.testing.assert_allclose(found[1], found[0], rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_an_outlier_has_a_finite_density_and_gradient(transform: str, base: str) -> None:
    """In float32, at x = 1e6 standard deviations, for weights far from the start and as many layers as by default."""
    family = Flow(transform=transform, hidden=(8,), base=base, num_components=3, num_bins=2)
    x = np.array([[1e6, -1e6], [0.0, 1e6], [-1e6, 0.3], [1e6, 1e6]])
    # A base sees no more than u: in JAX, where each case is compiled, two kinds of layer have all of them.
    for backend in BACKENDS if base == "normal" or transform in ("realnvp", "nsf_ar") else BACKENDS[1:]:
        pair = family.pair(backend, rows(2))
        values = rough(pair)
        value, gradients = log_density_and_gradient(backend, pair, values, x)
        assert np.isfinite(value), backend
        assert all(np.isfinite(gradient).all() for gradient in gradients), backend


def log_density_and_gradient(backend: str, pair: Any, values: dict[str, np.ndarray], x: np.ndarray) -> Any:
    """The joint log density, and its gradient with respect to each weight and to the rows."""
    ops = backends.ops(backend)
    if backend == "numpyro":

        def both(w: Any, x: Any) -> Any:
            return ops.log_joint_fn(pair)(w, pair.data._replace(x=x))

        arrays = {name: jnp.asarray(value, float) for name, value in values.items()}
        value, found = jax.jit(jax.value_and_grad(both, argnums=(0, 1)), compiler_options=QUICK)(
            arrays, jnp.asarray(x, float)
        )
        return float(value), [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
    tensors = {name: ops.as_tensor(value).requires_grad_() for name, value in values.items()}
    leaf = ops.as_tensor(x).requires_grad_()
    total = ops.log_density(pair, tensors, pair.data._replace(x=leaf))
    return float(total.detach()), [g.numpy() for g in torch.autograd.grad(total, [*tensors.values(), leaf])]
