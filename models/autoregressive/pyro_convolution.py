"""Dilated causal convolutions in torch: what a time step knows of those before it (van den Oord et al. 2016).

Sequences are (N, T, D) in model space. A layer reads its input h at a time step and d, 2 d, ... steps before it, 0
before the first:

    z = tanh(a) * sigmoid(b)  with  (a, b) = gate of (h_t, h_t-d, ...);    h + residual(z) goes on, skip(z) is summed up

The twin of ``numpyro_convolution``.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.autoregressive import pyro_network as network
from ppl_gen.models.autoregressive.architecture import Architecture


def step_log_prob(
    architecture: Architecture, weights: Weights, x: torch.Tensor, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, T): log p(x_t | x_<t), nats in model space, 0 past the end of a sequence."""
    encoded = network.encode(architecture, weights, x)
    found = network.log_prob(architecture, weights, x, contexts(architecture, weights, encoded), encoded)
    return found if lengths is None else torch.where(torch.arange(x.shape[1]) < lengths[:, None], found, 0.0)


def to_uniform(architecture: Architecture, weights: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T, D) both: see :func:`ppl_gen.models.autoregressive.pyro_network.to_uniform`."""
    encoded = network.encode(architecture, weights, x)
    return network.to_uniform(architecture, weights, x, contexts(architecture, weights, encoded))


def contexts(architecture: Architecture, weights: Weights, encoded: torch.Tensor) -> torch.Tensor:
    """(N, T, channels): of each time step what came before it, from the steps (N, T, num_inputs)."""
    h = encoded[:, :-1] @ weights["embedding_weight"] + weights["embedding_bias"]
    h = torch.cat([weights["start"].expand(len(encoded), 1, -1), h], 1)
    steps, total = h.shape[1], torch.zeros(())
    for layer, dilation in enumerate(architecture.dilations):
        backs = [min(tap * int(dilation), steps) for tap in range(1, architecture.family.kernel_size)]
        reads = [h, *(pad(h[:, : steps - back], (0, 0, back, 0)) for back in backs)]
        h, total = _layer(architecture, weights, layer, h, total, reads)
    return torch.relu(total)


def _layer(
    architecture: Architecture, weights: Weights, layer: int, h: torch.Tensor, total: torch.Tensor,
    reads: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The layer's output and the sum of skips, (..., channels) both (van den Oord et al. 2016, eq. 2 and figure 4)."""
    own = {name: weights[name][layer] for name in architecture.convolution_names}
    a, b = (torch.cat(reads, -1) @ own["gate_weight"] + own["gate_bias"]).chunk(2, -1)
    mixed = (torch.tanh(a) * torch.sigmoid(b)) @ own["mix_weight"] + own["mix_bias"]
    residual, skip = mixed.chunk(2, -1)
    return h + residual, total + skip


def from_uniform(
    architecture: Architecture, weights: Weights, u: torch.Tensor, known: torch.Tensor | None = None,
    first: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """(N, T, D): time steps drawn in turn, each from u (T of N, D) by the inverse of its conditionals.

    Each layer keeps its inputs, so a step costs the same wherever it is.

    :param known: (N, W, D) the first W steps, which are taken as they are.
    :param first: (N,) number of the step that the first is of its own sequence, 0 by default; steps of negative number
        come before the sequence, and are 0 to it.
    """
    window = 0 if known is None else known.shape[1]
    first = torch.zeros(len(u), dtype=torch.int64) if first is None else first
    past: list[list[torch.Tensor]] = [[] for _ in architecture.dilations]
    x, drawn = torch.zeros_like(u[:, 0]), []
    for time in range(u.shape[1]):
        place = (time + first)[:, None]
        h = network.encode(architecture, weights, x) @ weights["embedding_weight"] + weights["embedding_bias"]
        h = torch.where(place == 0, weights["start"], h)
        context = _advance(architecture, weights, past, h, place >= 0)
        if time < window:
            assert known is not None
            x = known[:, time]
        else:
            x = network.from_uniform(architecture, weights, u[:, time], context)
        drawn.append(x)
    return torch.stack(drawn, 1)


def _advance(
    architecture: Architecture, weights: Weights, past: list[list[torch.Tensor]], h: torch.Tensor, begun: torch.Tensor
) -> torch.Tensor:
    """One time step through all layers, whose inputs are added to ``past``: the context (N, channels)."""
    total = torch.zeros(())
    for layer, dilation in enumerate(architecture.dilations):
        h = torch.where(begun, h, 0.0)
        backs = [tap * int(dilation) for tap in range(1, architecture.family.kernel_size)]
        kept = past[layer]
        reads = [h, *(kept[-back] if back <= len(kept) else torch.zeros_like(h) for back in backs)]
        kept.append(h)
        del kept[: -backs[-1]]
        h, total = _layer(architecture, weights, layer, h, total, reads)
    return torch.relu(total)


def forecast(
    architecture: Architecture, weights: Weights, x: torch.Tensor, lengths: torch.Tensor | None, u: torch.Tensor
) -> torch.Tensor:
    """(N, horizon, D): how sequences go on, drawn from u of that shape. Only what a next step depends on is read."""
    number, steps, columns = x.shape
    lengths = torch.full((number,), steps) if lengths is None else lengths.long()
    window = min(architecture.reach, steps)
    first = lengths - window
    index = (first[:, None] + torch.arange(window)).clamp(min=0)[..., None].expand(-1, -1, columns)
    past = torch.gather(x, 1, index)
    u = torch.cat([torch.full((number, window, columns), 0.5, dtype=u.dtype), u], 1)
    return from_uniform(architecture, weights, u, past, first)[:, window:]
