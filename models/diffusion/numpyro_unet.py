"""The U-net of a diffusion model of images in JAX; see :mod:`ppl_gen.models.diffusion.unet`.

Images are (n, h, w, c); a row has them pixel by pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ppl_gen.models.diffusion.numpyro_network import embed
from ppl_gen.models.diffusion.unet import LEAST_SQUARE, blocks, levels
from ppl_gen.models.vae.numpyro_convolution import convolve

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


def output(
    architecture: Architecture, weights: Weights, z: jax.Array, log_snr: jax.Array, given: jax.Array | None
) -> jax.Array:
    """f (n, F) of noisy images z (n, F) at ``log_snr`` (n,) or (); ``given`` is (n, C + 1) or (C + 1,), the context and
    whether it is there, or None of a model without one."""
    read = embed(architecture, weights, log_snr, given)
    sizes, used = levels(architecture), blocks(architecture)
    height, width, _ = sizes[0]
    h = _convolution(weights, "first", z.reshape(-1, height, width, z.shape[-1] // (height * width)))
    passed = []
    for i in range(len(sizes)):
        if i:
            passed.append(h)
            h = _convolution(weights, f"shrink_{i}", jax.nn.silu(h), 2)
        if f"down_{i}" in used:
            h = _block(weights, f"down_{i}", h, read)
    for i in reversed(range(len(sizes))):
        if f"up_{i}" in used:
            h = _block(weights, f"up_{i}", h, read)
        if i:
            skip = passed.pop()
            h = jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)[:, : skip.shape[1], : skip.shape[2]]
            h = _convolution(weights, f"grow_{i}", jax.nn.silu(jnp.concatenate([h, skip], -1)))
            h = _modulate(weights, f"grow_{i}", h, read)
    return _convolution(weights, "last", jax.nn.silu(h)).reshape(z.shape)


def _convolution(weights: Weights, name: str, h: jax.Array, stride: int = 1) -> jax.Array:
    return convolve(h, weights[f"{name}_weight"], stride) + weights[f"{name}_bias"]


def _block(weights: Weights, name: str, h: jax.Array, read: jax.Array) -> jax.Array:
    inner = _convolution(weights, f"{name}_0", jax.nn.silu(h))
    inner = inner / jnp.sqrt((inner**2).mean(-1, keepdims=True) + LEAST_SQUARE)
    return h + _convolution(weights, f"{name}_1", jax.nn.silu(_modulate(weights, name, inner, read)))


def _modulate(weights: Weights, name: str, h: jax.Array, read: jax.Array) -> jax.Array:
    both = read @ weights[f"{name}_modulation_weight"] + weights[f"{name}_modulation_bias"]
    scale, shift = jnp.split(both[..., None, None, :], 2, axis=-1)
    return h * (1 + scale) + shift
