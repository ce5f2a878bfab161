"""Convolutions of images in JAX, as products of matrices: XLA's own are many times slower inside of a loop on a CPU.

Images are (..., h w c) in a row, pixel by pixel. A convolution reads 3 x 3 pixels, 0 beyond the border.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_networks import Weights
from ppl_gen.models.vae.architecture import TAPS, Architecture


def shrink(architecture: Architecture, weights: Weights, rows: jax.Array) -> jax.Array:
    """(n, numbers) of images (n, h w c): each convolution halves height and width, rounded up."""
    h = rows.reshape(-1, *architecture.levels[0])
    for i in range(len(architecture.levels) - 1):
        h = convolve(h, weights[f"conv_{i}_weight"], 2) + weights[f"conv_{i}_bias"]
        h = jax.nn.relu(h)
    return h.reshape(len(rows), -1)


def grow(architecture: Architecture, weights: Weights, out: jax.Array) -> jax.Array:
    """(..., P h w c) outputs of the decoder from its dense layers': each pixel twice along each side, then a
    convolution (Odena, Dumoulin & Olah 2016, doi:10.23915/distill.00003), back through the levels."""
    levels = architecture.levels
    h = jax.nn.relu(out).reshape(-1, *levels[-1])
    for i in reversed(range(len(levels) - 1)):
        height, width, _ = levels[i]
        h = jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)[:, :height, :width]
        h = convolve(h, weights[f"conv_{i}_weight"], 1)
        if i:
            h = jax.nn.relu(h + weights[f"conv_{i}_bias"])
    number, pixels = architecture.groups[0].num_parameters, levels[0][0] * levels[0][1]
    h = h.reshape(len(h), pixels, number, -1).swapaxes(1, 2).reshape(len(h), -1)
    return (h + weights["conv_0_bias"]).reshape(*out.shape[:-1], -1)


def convolve(h: jax.Array, weight: jax.Array, stride: int) -> jax.Array:
    """(n, ceil(height / stride), ceil(width / stride), channels out)."""
    height, width = (-(-size // stride) for size in h.shape[1:3])
    padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    reads = [
        padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(TAPS)
        for j in range(TAPS)
    ]
    return jnp.concatenate(reads, -1) @ weight
