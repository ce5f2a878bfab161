"""Dilated causal convolutions in JAX: what a time step knows of those before it (van den Oord et al. 2016).

Sequences are (N, T, D) in model space. A layer reads its input h at a time step and d, 2 d, ... steps before it, 0
before the first:

    z = tanh(a) * sigmoid(b)  with  (a, b) = gate of (h_t, h_t-d, ...);    h + residual(z) goes on, skip(z) is summed up
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.autoregressive import numpyro_network as network
from ppl_gen.models.autoregressive.architecture import Architecture


def step_log_prob(
    architecture: Architecture, weights: Weights, x: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
    """(N, T): log p(x_t | x_<t), nats in model space, 0 past the end of a sequence."""
    encoded = network.encode(architecture, weights, x)
    found = network.log_prob(architecture, weights, x, contexts(architecture, weights, encoded), encoded)
    return found if lengths is None else jnp.where(jnp.arange(x.shape[1]) < lengths[:, None], found, 0.0)


def to_uniform(architecture: Architecture, weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(N, T, D) both: see :func:`ppl_gen.models.autoregressive.numpyro_network.to_uniform`."""
    encoded = network.encode(architecture, weights, x)
    return network.to_uniform(architecture, weights, x, contexts(architecture, weights, encoded))


def contexts(architecture: Architecture, weights: Weights, encoded: jax.Array) -> jax.Array:
    """(N, T, channels): of each time step what came before it, from the steps (N, T, num_inputs)."""
    h = encoded[:, :-1] @ weights["embedding_weight"] + weights["embedding_bias"]
    first = jnp.broadcast_to(weights["start"], (len(encoded), 1, h.shape[-1]))
    h = jnp.concatenate([first, h], axis=1)
    steps, taps = h.shape[1], architecture.family.kernel_size
    margin = min((taps - 1) * int(architecture.dilations.max()), steps)

    def layer(carry: tuple[jax.Array, jax.Array], inputs: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
        (h, total), (dilation, own) = carry, inputs
        padded = jnp.pad(h, ((0, 0), (margin, 0), (0, 0)))
        starts = [jnp.maximum(margin - tap * dilation, 0) for tap in range(1, taps)]
        reads = [h, *(jax.lax.dynamic_slice_in_dim(padded, start, steps, 1) for start in starts)]
        h, total = _layer(own, h, total, reads)
        return (h, total), None

    (_, total), _ = jax.lax.scan(layer, (h, jnp.zeros_like(h)), _layers(architecture, weights))
    return jax.nn.relu(total)


def _layers(architecture: Architecture, weights: Weights) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Dilations and weights, to be scanned over: compile time does not grow with the number of layers."""
    return jnp.asarray(architecture.dilations), {name: weights[name] for name in architecture.convolution_names}


def _layer(weights: Weights, h: jax.Array, total: jax.Array, reads: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The layer's output and the sum of skips, (..., channels) both (van den Oord et al. 2016, eq. 2 and figure 4)."""
    a, b = jnp.split(jnp.concatenate(reads, -1) @ weights["gate_weight"] + weights["gate_bias"], 2, -1)
    mixed = (jnp.tanh(a) * jax.nn.sigmoid(b)) @ weights["mix_weight"] + weights["mix_bias"]
    residual, skip = jnp.split(mixed, 2, -1)
    return h + residual, total + skip


def from_uniform(
    architecture: Architecture, weights: Weights, u: jax.Array, known: jax.Array | None = None,
    first: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """(N, T, D): time steps drawn in turn, each from u (T of N, D) by the inverse of its conditionals.

    Each layer keeps as many of its inputs as it reads back to, so a step costs the same wherever it is.

    :param known: (N, W, D) the first W steps, which are taken as they are.
    :param first: (N,) number of the step that the first is of its own sequence, 0 by default; steps of negative number
        come before the sequence, and are 0 to it.
    """
    number, steps, columns = u.shape
    window = 0 if known is None else known.shape[1]
    given = jnp.zeros((number, steps, columns), u.dtype)
    given = given if known is None else given.at[:, :window].set(known)
    first = jnp.zeros(number, int) if first is None else first
    sizes = (architecture.family.kernel_size - 1) * architecture.dilations
    offsets = jnp.asarray(sizes.cumsum() - sizes)
    cache = jnp.zeros((int(sizes.sum()), number, architecture.family.channels), u.dtype)
    layers = _layers(architecture, weights)

    def step(carry: tuple[jax.Array, jax.Array], inputs: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (cache, before), (time, u, given) = carry, inputs
        place = (time + first)[:, None]
        h = network.encode(architecture, weights, before) @ weights["embedding_weight"] + weights["embedding_bias"]
        h = jnp.where(place == 0, weights["start"], h)
        cache, context = _advance(architecture, layers, offsets, cache, h, time, place >= 0)
        drawn = network.from_uniform(architecture, weights, u, context)
        x = jnp.where(time < window, given, drawn)
        return (cache, x), x

    by_time = (jnp.arange(steps), jnp.swapaxes(u, 0, 1), jnp.swapaxes(given, 0, 1))
    _, x = jax.lax.scan(step, (cache, jnp.zeros((number, columns), u.dtype)), by_time)
    return jnp.swapaxes(x, 0, 1)


def _advance(
    architecture: Architecture, layers: Any, offsets: jax.Array, cache: jax.Array, h: jax.Array, time: jax.Array,
    begun: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """One time step through all layers: the cache with what they have read, and the context (N, channels).

    A layer's part of the cache is a ring; the oldest entry is read before the new one takes its place.
    """
    taps = architecture.family.kernel_size

    def layer(carry: Any, inputs: Any) -> tuple[Any, None]:
        (h, total, cache), (offset, (dilation, own)) = carry, inputs
        h = jnp.where(begun, h, 0.0)
        size = (taps - 1) * dilation
        slots = [offset + (time - tap * dilation) % size for tap in range(taps)]
        reads = [h, *(jax.lax.dynamic_index_in_dim(cache, slot, 0, keepdims=False) for slot in slots[1:])]
        cache = jax.lax.dynamic_update_index_in_dim(cache, h, slots[0], 0)
        h, total = _layer(own, h, total, reads)
        return (h, total, cache), None

    (_, total, cache), _ = jax.lax.scan(layer, (h, jnp.zeros_like(h), cache), (offsets, layers))
    return cache, jax.nn.relu(total)


def forecast(
    architecture: Architecture, weights: Weights, x: jax.Array, lengths: jax.Array | None, u: jax.Array
) -> jax.Array:
    """(N, horizon, D): how sequences go on, drawn from u of that shape. Only what a next step depends on is read."""
    number, steps, columns = x.shape
    lengths = jnp.full(number, steps) if lengths is None else lengths
    window = min(architecture.reach, steps)
    first = lengths - window
    past = jnp.take_along_axis(x, jnp.maximum(first[:, None] + jnp.arange(window), 0)[..., None], axis=1)
    u = jnp.concatenate([jnp.full((number, window, columns), 0.5, u.dtype), u], axis=1)
    return from_uniform(architecture, weights, u, past, first)[:, window:]
