"""Energies, conditionals and the log normalizer of a machine in JAX."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.nn import sigmoid, softplus
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.rbm.architecture import Architecture, chunks

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
LOG_2 = math.log(2)


def features(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(..., F): rows (..., D) of model space as the hidden units read them."""
    if architecture.is_plain:
        return x
    found = []
    for group in architecture.groups:
        own = x[..., group.where]
        if group.kind == "real":
            own = own * jnp.exp(-weights["visible_log_scale"])
        elif group.kind == "categorical":
            own = (own[..., None] == jnp.arange(group.num_inputs)).astype(x.dtype).reshape(*x.shape[:-1], -1)
        found.append(own)
    return jnp.concatenate(found, -1)


def hidden_logits(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(..., H): a, the log odds of the hidden units given rows."""
    return features(architecture, weights, x) @ weights["weight"] + weights["hidden_bias"]


def own_terms(architecture: Architecture, weights: Weights, x: jax.Array, layer: str = "visible") -> jax.Array:
    """(...,): sum of the columns' own u, without the hidden units; of the ``"base"``, whose density this is but for
    its normalizer."""
    bias, total = weights[f"{layer}_bias"], jnp.zeros(x.shape[:-1], x.dtype)
    for group, where in architecture.parts():
        own = x[..., group.where]
        if group.kind == "binary":
            total = total + own @ bias[where]
        elif group.kind == "real":
            total = total - 0.5 * (((own - bias[where]) * jnp.exp(-weights[f"{layer}_log_scale"])) ** 2).sum(-1)
        else:
            hot = (own[..., None] == jnp.arange(group.num_inputs)).astype(x.dtype)
            total = total + hot.reshape(*x.shape[:-1], -1) @ bias[where]
    return total


def log_partition(
    architecture: Architecture, weights: Weights, inputs: jax.Array | float, layer: str = "visible"
) -> jax.Array:
    """(...,): log of the sum, or integral, of exp(u + phi * input) over all values of a row, for inputs (..., F)."""
    bias = weights[f"{layer}_bias"]
    at, total = bias + inputs, jnp.zeros(())
    for group, where in architecture.parts():
        own = at[..., where]
        if group.kind == "binary":
            total = total + softplus(own).sum(-1)
        elif group.kind == "real":
            shift, log_scale = own - bias[where], weights[f"{layer}_log_scale"]
            each = log_scale + HALF_LOG_TAU + shift * (0.5 * shift + bias[where] * jnp.exp(-log_scale))
            total = total + each.sum(-1)
        else:
            total = total + logsumexp(own.reshape(*own.shape[:-1], group.size, -1), axis=-1).sum(-1)
    return total


class BaseRates(dist.Distribution):
    """The base: independent columns, with the data's own frequencies, means and standard deviations."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)
    pytree_data_fields = ("weights",)
    pytree_aux_fields = ("architecture",)

    def __init__(
        self, architecture: Architecture, weights: Weights, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture = architecture
        self.weights = {name: value for name, value in weights.items() if name.startswith("base_")}
        super().__init__((), (architecture.num_columns,), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        own = own_terms(self.architecture, self.weights, value, "base")
        return own - log_partition(self.architecture, self.weights, 0.0, "base")

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        bias = self.weights["base_bias"]
        logits = jnp.broadcast_to(bias, (*sample_shape, len(bias)))
        return draw(self.architecture, logits, self.weights.get("base_log_scale"), key)


def draw(architecture: Architecture, at: jax.Array, log_scale: jax.Array | None, key: jax.Array) -> jax.Array:
    """(..., D): rows of independent columns; ``at`` (..., F) are log odds, log probabilities and means."""
    found = []
    for (group, where), now in zip(architecture.parts(), jax.random.split(key, len(architecture.groups)), strict=True):
        own = at[..., where]
        if group.kind == "real":
            assert log_scale is not None
            found.append(own + jnp.exp(log_scale) * jax.random.normal(now, own.shape, own.dtype))
        elif group.kind == "binary":
            found.append(coins(own, now))
        else:
            logits = own.reshape(*own.shape[:-1], group.size, -1)
            found.append(jax.random.categorical(now, logits).astype(own.dtype))
    whole = found[0] if len(found) == 1 else jnp.concatenate(found, -1)
    return whole if architecture.column_order is None else whole[..., architecture.column_order]


def coins(logits: jax.Array, key: jax.Array) -> jax.Array:
    """0 or 1, with these log odds."""
    return (jax.random.uniform(key, logits.shape, logits.dtype) < sigmoid(logits)).astype(logits.dtype)


def tempered(architecture: Architecture, weights: Weights, x: jax.Array, inverse_temperature: Any) -> jax.Array:
    """(...,): log density of rows (..., D) on the path from the base to the machine, normalised at 0 alone."""
    rest = 1 - inverse_temperature
    if isinstance(rest, float) and rest == 0:  # most calls, in training
        return -free_energy(architecture, weights, x)
    base = BaseRates(architecture, weights).log_prob(x)
    hidden = softplus(inverse_temperature * hidden_logits(architecture, weights, x)) - rest * LOG_2
    return rest * base + inverse_temperature * own_terms(architecture, weights, x) + hidden.sum(-1)


def free_energy(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(...,): F(x), with p(x) = exp(-F(x)) / Z."""
    hidden = softplus(hidden_logits(architecture, weights, x)).sum(-1)
    return -own_terms(architecture, weights, x) - hidden


def draw_base(architecture: Architecture, weights: Weights, number: int, key: jax.Array) -> jax.Array:
    """(number, D)."""
    return BaseRates(architecture, weights).sample(key, (number,))


def gibbs(
    architecture: Architecture, weights: Weights, x: jax.Array, inverse_temperature: Any, key: jax.Array
) -> jax.Array:
    """(n, D): all hidden units given rows, and all columns given those, which leaves the tempered density as it is."""
    key_hidden, key_visible = jax.random.split(key)
    h = coins(inverse_temperature * hidden_logits(architecture, weights, x), key_hidden)
    return draw(architecture, *given_hidden(architecture, weights, h, inverse_temperature), key_visible)


def given_hidden(
    architecture: Architecture, weights: Weights, h: jax.Array, inverse_temperature: Any
) -> tuple[jax.Array, jax.Array | None]:
    """What columns are given hidden units (..., H), under the tempered density: log odds, log probabilities but for a
    constant, and means (..., F), and log standard deviations of real columns (R,), None where there are none."""
    rest, inputs = 1 - inverse_temperature, h @ weights["weight"].T
    at = rest * weights["base_bias"] + inverse_temperature * (weights["visible_bias"] + inputs)
    log_scale = None
    for group, where in architecture.parts():
        if group.kind == "real":
            base = rest * jnp.exp(-2 * weights["base_log_scale"])
            scale = jnp.exp(weights["visible_log_scale"])
            precision = base + inverse_temperature / scale**2
            pull = (weights["visible_bias"][where] / scale + inputs[..., where]) / scale
            mean = (base * weights["base_bias"][where] + inverse_temperature * pull) / precision
            at, log_scale = at.at[..., where].set(mean), -0.5 * jnp.log(precision)
    return at, log_scale


def log_normalizer(architecture: Architecture, weights: Weights) -> jax.Array:
    """(): log Z, summed over all states of the smaller layer, some at a time.

    :raises ValueError: both layers have too many.
    """
    if architecture.enumerated is None:
        raise ValueError("Both layers have too many states to sum over: estimate log Z.")
    layer, sizes = architecture.enumerated
    size, number, strides = chunks(sizes)

    def part(start: jax.Array) -> jax.Array:
        index = start + jnp.arange(size, dtype=jnp.int32)
        states = (index[:, None] // strides % jnp.asarray(sizes, jnp.int32)).astype(weights["weight"].dtype)
        if layer == "visible":
            found = -free_energy(architecture, weights, states)
        else:
            inputs = states @ weights["weight"].T
            found = states @ weights["hidden_bias"] + log_partition(architecture, weights, inputs)
        return logsumexp(jnp.where(index < math.prod(sizes), found, -jnp.inf))

    return logsumexp(jax.lax.map(part, jnp.arange(number, dtype=jnp.int32) * size))
