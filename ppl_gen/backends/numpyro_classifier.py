"""A classifier of noisy rows in JAX: log p(label | z, noise level), its slope by z, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.noisy_classifier import CHECK, FREQUENCIES, Course, best_of

if TYPE_CHECKING:
    from ppl_gen.pair import Pair

Weights = Mapping[str, Any]


def log_probs(weights: Weights, z: Any, log_snr: Any) -> jax.Array:
    """(n, C): log p(label | z) of z (n, F) at noise levels (n,) or ()."""
    level = jnp.broadcast_to(log_snr, z.shape[:1])[:, None]
    at = level * jnp.asarray(FREQUENCIES, z.dtype)
    h = jnp.concatenate([z, level / 10, jnp.sin(at), jnp.cos(at)], -1)
    last = len(weights) // 2 - 1
    for i in range(last):
        h = jax.nn.silu(h @ weights[f"weight_{i}"] + weights[f"bias_{i}"])
    signal = jnp.sqrt(jax.nn.sigmoid(level))
    return jax.nn.log_softmax(signal * (h @ weights[f"weight_{last}"]) + weights[f"bias_{last}"], -1)


def log_prob_gradient(weights: Weights, z: Any, log_snr: Any, label: Any) -> jax.Array:
    """(n, F): gradient by z of log p(label | z)."""
    return jax.grad(lambda z: log_probs(weights, z, log_snr)[:, label].sum())(z)


def predict(weights: Weights, z: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
    """(n, C): p(label | z) of z (n, F) at noise levels (n,)."""
    return np.exp(np.asarray(jax.jit(log_probs)(as_jax(weights), jnp.asarray(z, float), jnp.asarray(log_snr, float))))


def train(
    pair: Pair, parameters: Mapping[str, np.ndarray], start: Weights, course: Course, e: np.ndarray,
    labels: np.ndarray, seed: int,
) -> tuple[dict[str, np.ndarray], float]:  # fmt: skip
    """The weights with the least cross-entropy on validation rows, and that cross-entropy, nats.

    :param e: (n, F) numbers of the rows, of which the last ``course.held_out`` are for validation.
    :param labels: (n,) numbers of their labels.
    """
    noising, given = pair.noising, as_jax(parameters)
    assert noising is not None
    cut = len(e) - course.held_out
    whole, of = jnp.asarray(e, float), jnp.asarray(labels)
    optimizer = optax.adamw(course.learning_rate, weight_decay=course.weight_decay)

    def loss(weights: Weights, e: Any, of: Any, key: Any) -> Any:
        key_time, key_noise = jax.random.split(key)
        t = jnp.mod(jax.random.uniform(key_time) + jnp.arange(len(e)) / len(e), 1.0)
        log_snr = noising.log_snr(given, t)
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
        z = alpha[:, None] * e + sigma[:, None] * jax.random.normal(key_noise, e.shape, e.dtype)
        found = log_probs(weights, z, log_snr)
        return -jnp.take_along_axis(found, of[:, None], 1).mean()

    def body(state: Any, key: Any) -> Any:
        weights, moments = state
        key_rows, key_loss = jax.random.split(key)
        rows = jax.random.randint(key_rows, (course.batch_size,), 0, cut)
        slope = jax.grad(loss)(weights, whole[rows], of[rows], key_loss)
        updates, moments = optimizer.update(slope, moments, weights)
        return (optax.apply_updates(weights, updates), moments), None

    held_out, held_labels = (jnp.tile(part[cut:], (course.repeats, *[1] * (part.ndim - 1))) for part in (whole, of))

    @partial(jax.jit, donate_argnums=0)
    def some(state: Any, key: Any) -> Any:
        state, _ = jax.lax.scan(body, state, jax.random.split(key, CHECK))
        return state, loss(state[0], held_out, held_labels, jax.random.key(seed))

    weights = as_jax(start)
    state = (weights, optimizer.init(weights))

    def more(number: int) -> tuple[dict[str, np.ndarray], float]:
        nonlocal state
        state, found = some(state, jax.random.fold_in(jax.random.key(seed), number))
        return {name: np.asarray(value) for name, value in state[0].items()}, float(found)

    return best_of(more, course)
