"""Networks in JAX: weights as sites of a NumPyro model, and perceptrons over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpyro
import numpyro.distributions as dist

from ppl_gen.backends.numpyro_pairs import make_guide
from ppl_gen.networks import GUIDE_SCALE, Layout, Weight, check_guide

Weights = Mapping[str, jax.Array]


def weight_sites(layout: Layout, prior_scale: float | None = None) -> dict[str, jax.Array]:
    """The weights as ``param`` sites, that start at random where nothing else is substituted; with a ``prior_scale`` as
    sample sites, normal about their centres with ``prior_scale`` times the standard deviations of the layout."""

    def site(name: str, weight: Weight) -> jax.Array:
        if prior_scale is None:
            return numpyro.param(
                name, lambda key: weight.centre + weight.spread * jax.random.normal(key, weight.shape, float)
            )
        prior = dist.Normal(weight.centre, prior_scale * weight.prior).expand(weight.shape)
        return numpyro.sample(name, prior.to_event(len(weight.shape)))

    return {name: site(name, weight) for name, weight in layout.items()}


def weight_guide(
    layout: Layout, model: Callable[..., Any], initialize: Callable[..., Mapping[str, Any]], kind: str,
    values: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """A guide over weights that have priors; see :func:`ppl_gen.backends.numpyro_pairs.make_guide`.

    :raises SettingError: it would not fit into memory.
    """
    check_guide(kind, layout)
    return make_guide(model, initialize, kind, values, scale=GUIDE_SCALE)


def perceptron(weights: Weights, x: jax.Array, num_dense: int, masks: Sequence[jax.Array] = ()) -> jax.Array:
    """(..., n_0) through ``num_dense`` dense layers with rectified linear units between them."""
    for i in range(num_dense):
        weight = weights[f"weight_{i}"]
        x = x @ (weight * masks[i] if masks else weight) + weights[f"bias_{i}"]
        if i < num_dense - 1:
            x = jax.nn.relu(x)
    return x


def perceptron_of_columns(weights: Weights, x: jax.Array, num_dense: int, masks: Sequence[jax.Array] = ()) -> jax.Array:
    """:func:`perceptron` of (n_0, rows): the same function where its inputs and outputs lie column by column."""
    for i in range(num_dense):
        weight = weights[f"weight_{i}"]
        x = jax.lax.dot_general(weight * masks[i] if masks else weight, x, (((0,), (0,)), ((), ())))
        x = x + weights[f"bias_{i}"][:, None]
        if i < num_dense - 1:
            x = jax.nn.relu(x)
    return x
