"""Convolutions of images in torch, the twin of ``numpyro_convolution``: products of matrices, as those batch over the
members of an ensemble.

Images are (..., h w c) in a row, pixel by pixel. A convolution reads 3 x 3 pixels, 0 beyond the border.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.vae.architecture import TAPS, Architecture


def shrink(architecture: Architecture, weights: Weights, rows: torch.Tensor) -> torch.Tensor:
    """(n, numbers) of images (n, h w c): each convolution halves height and width, rounded up."""
    h = rows.reshape(-1, *architecture.levels[0])
    for i in range(len(architecture.levels) - 1):
        h = convolve(h, weights[f"conv_{i}_weight"], 2) + weights[f"conv_{i}_bias"]
        h = torch.relu(h)
    return h.reshape(len(rows), -1)


def grow(architecture: Architecture, weights: Weights, out: torch.Tensor) -> torch.Tensor:
    """(..., P h w c) outputs of the decoder from its dense layers': each pixel twice along each side, then a
    convolution (Odena, Dumoulin & Olah 2016, doi:10.23915/distill.00003), back through the levels."""
    levels = architecture.levels
    h = torch.relu(out).reshape(-1, *levels[-1])
    for i in reversed(range(len(levels) - 1)):
        height, width, _ = levels[i]
        h = h.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]
        h = convolve(h, weights[f"conv_{i}_weight"], 1)
        if i:
            h = torch.relu(h + weights[f"conv_{i}_bias"])
    number, pixels = architecture.groups[0].num_parameters, levels[0][0] * levels[0][1]
    h = h.reshape(len(h), pixels, number, -1).transpose(1, 2).reshape(len(h), -1)
    return (h + weights["conv_0_bias"]).reshape(*out.shape[:-1], -1)


def convolve(h: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """(n, ceil(height / stride), ceil(width / stride), channels out)."""
    height, width = (-(-size // stride) for size in h.shape[1:3])
    padded = pad(h, (0, 0, 1, 1, 1, 1))
    reads = [
        padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(TAPS)
        for j in range(TAPS)
    ]
    return torch.cat(reads, -1) @ weight
