"""Gated masked convolutions in torch: what a pixel knows of those before it (van den Oord et al. 2016b).

The twin of ``numpyro_pixelcnn``, which has the formulas. Images are (N, h w c) in model space. Whole images are
convolved by torch's own convolution, which takes a third of the time of products of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import conv2d, pad

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.autoregressive import pyro_network as network
from ppl_gen.models.autoregressive.architecture import PIXELS_AT_ONCE, Architecture


def log_prob(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(N,): log p(x) of images (N, h w c), nats in model space."""

    def some(x: torch.Tensor) -> torch.Tensor:
        pixels, encoded, context = _contexts(architecture, weights, x)
        return network.log_prob(architecture, weights, pixels, context, encoded).reshape(len(x), -1).sum(1)

    return _in_parts(some, x, PIXELS_AT_ONCE, architecture)


def to_uniform(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(N, h w c, 2): see :func:`ppl_gen.models.autoregressive.pyro_network.to_uniform`."""

    def some(x: torch.Tensor) -> torch.Tensor:
        pixels, _, context = _contexts(architecture, weights, x)
        ends = network.to_uniform(architecture, weights, pixels, context)
        return torch.stack([end.reshape(x.shape) for end in ends], -1)

    return _in_parts(some, x, PIXELS_AT_ONCE, architecture)


def from_uniform(architecture: Architecture, weights: Weights, u: torch.Tensor) -> torch.Tensor:
    """(N, h w c): pixels drawn in turn, each from u of that shape by the inverse of its conditionals.

    Each stack keeps what it will read again, so all pixels together cost about one pass of the network.
    """
    return _in_parts(lambda u: _draw(architecture, weights, u), u, PIXELS_AT_ONCE, architecture)


def _in_parts(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, limit: int, architecture: Architecture
) -> torch.Tensor:
    """``function`` of some images at a time, so that memory does not grow with their number."""
    assert architecture.image is not None
    height, width = architecture.image
    return torch.cat([function(part) for part in x.split(max(limit // (height * width), 1))])


def _contexts(
    architecture: Architecture, weights: Weights, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pixels (N h w, c), encoded (N h w, inputs), and what each knows of those before it (N h w, channels)."""
    assert architecture.image is not None
    (height, width), reach = architecture.image, architecture.family.kernel_size - 1
    pixels = x.reshape(-1, architecture.num_columns)
    encoded = network.encode(architecture, weights, pixels)
    embedded = _embed(weights, encoded).reshape(len(x), height, width, -1)
    v = pad(embedded[:, :-1], (0, 0, 0, 0, 1, 0))
    h = pad(embedded[:, :, :-1], (0, 0, 1, 0))
    total = torch.zeros(())
    for layer in range(architecture.family.num_layers):
        own = _layer(architecture, weights, layer)
        a = _convolution(v, own["vertical_weight"], reach, (reach, reach)) + own["vertical_bias"]
        b = _convolution(h, own["horizontal_weight"][None], 0, (reach, 0)) + own["horizontal_bias"]
        h, total = _mix(own, h, b + _product(a, own["link_weight"]), total)
        v = _gate(a)
    return pixels, encoded, torch.relu(total).reshape(len(pixels), -1)


def _layer(architecture: Architecture, weights: Weights, layer: int) -> dict[str, torch.Tensor]:
    return {name: weights[name][layer] for name in architecture.convolution_names}


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., n) by (n, m). Under vmap over members, mm is one batched product."""
    return torch.mm(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], -1)


def _embed(weights: Weights, encoded: torch.Tensor) -> torch.Tensor:
    return _product(encoded, weights["embedding_weight"]) + weights["embedding_bias"]


def _gate(a: torch.Tensor) -> torch.Tensor:
    first, second = a.chunk(2, -1)
    return torch.tanh(first) * torch.sigmoid(second)


def _convolution(x: torch.Tensor, weight: torch.Tensor, above: int, beside: tuple[int, int]) -> torch.Tensor:
    """(N, h, w, m) of x (N, h, w, n) by weights (rows, columns, n, m), zeros around it."""
    wide = pad(x.permute(0, 3, 1, 2), (*beside, above, 0))
    return conv2d(wide, weight.permute(3, 2, 0, 1)).permute(0, 2, 3, 1)


def _vertical(own: Weights, rows: list[torch.Tensor]) -> torch.Tensor:
    """(..., w, 2 channels): the vertical convolution where it reads ``rows``, (..., w, channels) each."""
    reach, width = len(rows) - 1, rows[0].shape[-2]
    wide = [pad(row, (0, 0, reach, reach)) for row in rows]
    reads = [row[..., j : j + width, :] for row in wide for j in range(2 * reach + 1)]
    return _product(torch.cat(reads, -1), own["vertical_weight"].flatten(0, 2)) + own["vertical_bias"]


def _horizontal(
    own: Weights, reads: list[torch.Tensor], link: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The horizontal stack's output and the sum of skips; of ``reads`` the last is its input at the pixel itself."""
    b = _product(torch.cat(reads, -1), own["horizontal_weight"].flatten(0, 1)) + own["horizontal_bias"] + link
    return _mix(own, reads[-1], b, total)


def _mix(
    own: Weights, h: torch.Tensor, b: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    residual, skip = (_product(_gate(b), own["mix_weight"]) + own["mix_bias"]).chunk(2, -1)
    return h + residual, total + skip


def _draw(architecture: Architecture, weights: Weights, u: torch.Tensor) -> torch.Tensor:
    """:func:`from_uniform` of a part of the images: row by row, and in a row pixel by pixel.

    Of each layer the vertical stack keeps its inputs in the last k - 1 rows, the horizontal one at the last k - 1
    pixels.
    """
    assert architecture.image is not None
    (height, width), reach = architecture.image, architecture.family.kernel_size - 1
    layers = [_layer(architecture, weights, layer) for layer in range(architecture.family.num_layers)]
    nothing = torch.zeros(len(u), architecture.family.channels, dtype=u.dtype)
    grid = u.reshape(len(u), height, width, -1)
    above = torch.zeros(len(u), width, architecture.family.channels, dtype=u.dtype)
    rows_kept: list[Any] = [[torch.zeros_like(above)] * reach for _ in layers]
    drawn = []
    for i in range(height):
        v, links = above, []
        for own, kept in zip(layers, rows_kept, strict=True):
            a = _vertical(own, [*kept, v])
            kept[:] = [*kept, v][1:]
            links.append(_product(a, own["link_weight"]))
            v = _gate(a)
        h, embedded = nothing, []
        pixels_kept: list[Any] = [[nothing] * reach for _ in layers]
        for j in range(width):
            total = torch.zeros(())
            for own, kept, link in zip(layers, pixels_kept, links, strict=True):
                reads = [*kept, h]
                kept[:] = reads[1:]
                h, total = _horizontal(own, reads, link[:, j], total)
            x = network.from_uniform(architecture, weights, grid[:, i, j], torch.relu(total))
            h = _embed(weights, network.encode(architecture, weights, x))
            embedded.append(h)
            drawn.append(x)
        above = torch.stack(embedded, 1)
    return torch.cat(drawn, -1)
