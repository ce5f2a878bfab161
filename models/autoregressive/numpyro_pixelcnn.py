r"""Gated masked convolutions in JAX: what a pixel knows of those before it (van den Oord et al. 2016b).

Images are (N, h w c) in model space. Two stacks start from the embedded image, v from that shifted down by a row, h
from that shifted right by a pixel, 0 beyond the border. With k = ``kernel_size`` a layer is

    v' = gate(a)    with  a = vertical convolution of v: k rows up to a pixel's own, 2 k - 1 columns about it
    z = gate(b)     with  b = horizontal convolution of h: k columns up to the pixel's own; + link of a
    h' = h + residual(z);  skip(z) is summed up;  gate(a_1, a_2) = tanh(a_1) * sigmoid(a_2)

so v knows a rectangle of the rows above, which has no blind spot, and h that and the pixels to the left (figure 2).
Convolutions are products of matrices: XLA's own take 70 times as long inside of a loop, as training is, on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.autoregressive import numpyro_network as network
from ppl_gen.models.autoregressive.architecture import PIXELS_AT_ONCE, Architecture


def log_prob(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(N,): log p(x) of images (N, h w c), nats in model space."""

    def some(x: jax.Array) -> jax.Array:
        pixels, encoded, context = _contexts(architecture, weights, x)
        return network.log_prob(architecture, weights, pixels, context, encoded).sum((1, 2))

    return _in_parts(some, x, PIXELS_AT_ONCE, architecture)


def to_uniform(architecture: Architecture, weights: Weights, x: jax.Array) -> jax.Array:
    """(N, h w c, 2): see :func:`ppl_gen.models.autoregressive.numpyro_network.to_uniform`."""

    def some(x: jax.Array) -> jax.Array:
        pixels, _, context = _contexts(architecture, weights, x)
        ends = network.to_uniform(architecture, weights, pixels, context)
        return jnp.stack([end.reshape(x.shape) for end in ends], -1)

    return _in_parts(some, x, PIXELS_AT_ONCE, architecture)


def from_uniform(architecture: Architecture, weights: Weights, u: jax.Array) -> jax.Array:
    """(N, h w c): pixels drawn in turn, each from u of that shape by the inverse of its conditionals.

    Each stack keeps what it will read again, so all pixels together cost about one pass of the network.
    """
    return _in_parts(lambda u: _draw(architecture, weights, u), u, PIXELS_AT_ONCE, architecture)


def _in_parts(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, limit: int, architecture: Architecture
) -> jax.Array:
    """``function`` of some images at a time, so that memory does not grow with their number. For a gradient each part
    is computed twice, since all of them would not fit."""
    assert architecture.image is not None
    number, (height, width) = len(x), architecture.image
    size = max(limit // (height * width), 1)
    if number <= size:
        return function(x)
    parts = -(-number // size)
    filled = x[jnp.minimum(jnp.arange(parts * size), number - 1)]
    found = jax.lax.map(jax.checkpoint(function), filled.reshape(parts, size, -1))
    return found.reshape(parts * size, *found.shape[2:])[:number]


def _contexts(
    architecture: Architecture, weights: Weights, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Pixels (N, h, w, c), encoded (N, h, w, inputs), and what each knows of those before it (N, h, w, channels)."""
    assert architecture.image is not None
    pixels = x.reshape(len(x), *architecture.image, architecture.num_columns)
    encoded = network.encode(architecture, weights, pixels)
    h = _embed(weights, encoded)
    down = jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    right = jnp.pad(h[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    reach = architecture.family.kernel_size - 1

    def layer(carry: Any, own: Weights) -> tuple[Any, None]:
        v, h, total = carry
        height = v.shape[1]
        above = jnp.pad(v, ((0, 0), (reach, 0), (0, 0), (0, 0)))
        a = _vertical(own, [above[:, i : i + height] for i in range(reach + 1)])
        left = jnp.pad(h, ((0, 0), (0, 0), (reach, 0), (0, 0)))
        reads = [left[:, :, j : j + h.shape[2]] for j in range(reach + 1)]
        h, total = _horizontal(own, reads, a @ own["link_weight"], total)
        return (_gate(a), h, total), None

    carry, _ = jax.lax.scan(layer, (down, right, jnp.zeros_like(h)), _layers(architecture, weights))
    return pixels, encoded, jax.nn.relu(carry[2])


def _layers(architecture: Architecture, weights: Weights) -> dict[str, jax.Array]:
    """The weights to be scanned over: compile time does not grow with the number of layers."""
    return {name: weights[name] for name in architecture.convolution_names}


def _embed(weights: Weights, encoded: jax.Array) -> jax.Array:
    return encoded @ weights["embedding_weight"] + weights["embedding_bias"]


def _gate(a: jax.Array) -> jax.Array:
    first, second = jnp.split(a, 2, -1)
    return jnp.tanh(first) * jax.nn.sigmoid(second)


def _vertical(own: Weights, rows: list[jax.Array]) -> jax.Array:
    """(..., w, 2 channels): the vertical convolution where it reads ``rows``, (..., w, channels) each."""
    reach, width = len(rows) - 1, rows[0].shape[-2]
    wide = [jnp.pad(row, (*[(0, 0)] * (row.ndim - 2), (reach, reach), (0, 0))) for row in rows]
    reads = [row[..., j : j + width, :] for row in wide for j in range(2 * reach + 1)]
    weight = own["vertical_weight"]
    return jnp.concatenate(reads, -1) @ weight.reshape(-1, weight.shape[-1]) + own["vertical_bias"]


def _horizontal(
    own: Weights, reads: list[jax.Array], link: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The horizontal stack's output and the sum of skips; of ``reads`` the last is its input at the pixel itself."""
    weight = own["horizontal_weight"]
    b = jnp.concatenate(reads, -1) @ weight.reshape(-1, weight.shape[-1]) + own["horizontal_bias"] + link
    residual, skip = jnp.split(_gate(b) @ own["mix_weight"] + own["mix_bias"], 2, -1)
    return reads[-1] + residual, total + skip


def _draw(architecture: Architecture, weights: Weights, u: jax.Array) -> jax.Array:
    """:func:`from_uniform` of a part of the images: row by row, and in a row pixel by pixel.

    Of each layer the vertical stack keeps its inputs in the last k - 1 rows, the horizontal one at the last k - 1
    pixels.
    """
    assert architecture.image is not None
    number, (height, width), size = len(u), architecture.image, architecture.family.channels
    layers, reach = _layers(architecture, weights), architecture.family.kernel_size - 1
    depth, nothing = architecture.family.num_layers, jnp.zeros((number, size), u.dtype)

    def down(v: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        own, kept = inputs
        a = _vertical(own, [*kept, v])
        return _gate(a), (a @ own["link_weight"], jnp.concatenate([kept[1:], v[None]]))

    def across(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
        (h, total), (own, kept, link) = carry, inputs
        return _horizontal(own, [*kept, h], link, total), jnp.concatenate([kept[1:], h[None]])

    def pixel(carry: Any, inputs: Any) -> tuple[Any, Any]:
        (h, kept), (u, links) = carry, inputs
        (_, total), kept = jax.lax.scan(across, (h, nothing), (layers, kept, links))
        x = network.from_uniform(architecture, weights, u, jax.nn.relu(total))
        h = _embed(weights, network.encode(architecture, weights, x))
        return (h, kept), (x, h)

    def row(carry: Any, u: jax.Array) -> tuple[Any, jax.Array]:
        above, kept = carry
        _, (links, kept) = jax.lax.scan(down, above, (layers, kept))
        start = (nothing, jnp.zeros((depth, reach, number, size), u.dtype))
        _, (x, h) = jax.lax.scan(pixel, start, (u, jnp.moveaxis(links, 2, 0)))
        return (jnp.moveaxis(h, 0, 1), kept), x

    start = (jnp.zeros((number, width, size), u.dtype), jnp.zeros((depth, reach, number, width, size), u.dtype))
    _, x = jax.lax.scan(row, start, jnp.moveaxis(u.reshape(number, height, width, -1), 0, 2))
    return jnp.moveaxis(x, 2, 0).reshape(u.shape)
