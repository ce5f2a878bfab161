"""The U-net of a diffusion model of images in torch. The twin of ``numpyro_unet``.

Images are (n, h, w, c); a row has them pixel by pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import silu

from ppl_gen.models.diffusion.pyro_network import embed
from ppl_gen.models.diffusion.unet import LEAST_SQUARE, blocks, levels
from ppl_gen.models.vae.pyro_convolution import convolve

if TYPE_CHECKING:
    from ppl_gen.backends.pyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


def output(
    architecture: Architecture, weights: Weights, z: torch.Tensor, log_snr: torch.Tensor, given: torch.Tensor | None
) -> torch.Tensor:
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
            h = _convolution(weights, f"shrink_{i}", silu(h), 2)
        if f"down_{i}" in used:
            h = _block(weights, f"down_{i}", h, read)
    for i in reversed(range(len(sizes))):
        if f"up_{i}" in used:
            h = _block(weights, f"up_{i}", h, read)
        if i:
            skip = passed.pop()
            h = h.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : skip.shape[1], : skip.shape[2]]
            h = _convolution(weights, f"grow_{i}", silu(torch.cat([h, skip], -1)))
            h = _modulate(weights, f"grow_{i}", h, read)
    return _convolution(weights, "last", silu(h)).reshape(z.shape)


def _convolution(weights: Weights, name: str, h: torch.Tensor, stride: int = 1) -> torch.Tensor:
    return convolve(h, weights[f"{name}_weight"], stride) + weights[f"{name}_bias"]


def _block(weights: Weights, name: str, h: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    inner = _convolution(weights, f"{name}_0", silu(h))
    inner = inner / torch.sqrt((inner**2).mean(-1, keepdim=True) + LEAST_SQUARE)
    return h + _convolution(weights, f"{name}_1", silu(_modulate(weights, name, inner, read)))


def _modulate(weights: Weights, name: str, h: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    both = read @ weights[f"{name}_modulation_weight"] + weights[f"{name}_modulation_bias"]
    scale, shift = both[..., None, None, :].chunk(2, -1)
    return h * (1 + scale) + shift
