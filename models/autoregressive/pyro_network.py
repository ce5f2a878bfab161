"""The masked perceptron in torch: densities of rows, and the uniform numbers that rows are drawn by.

Rows are (..., D) in model space; ``context`` (..., C) is what every column may depend on. The twin of
``numpyro_network``.
"""

from __future__ import annotations

import torch

from ppl_gen.backends import pyro_columns as conditionals
from ppl_gen.backends.pyro_networks import Weights, perceptron
from ppl_gen.conditionals import REACH, Group
from ppl_gen.models.autoregressive.architecture import Architecture


def encode(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(..., num_inputs): rows as the network reads them."""
    return torch.cat([conditionals.encode(g, weights, x[..., g.where]) for g in architecture.groups], -1)


def _bounded(architecture: Architecture, context: torch.Tensor | None) -> torch.Tensor | None:
    """What is conditioned on, within +-REACH; what the layers of sequences and images hand on is left alone."""
    if context is None or not architecture.family.condition_on:
        return context
    return context.clamp(-REACH, REACH)


def raw_parameters(
    architecture: Architecture, weights: Weights, encoded: torch.Tensor, context: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """For each group (num_parameters, ..., columns): the parameters of the conditionals, each of the columns before."""
    context = _bounded(architecture, context)
    if context is not None:
        encoded = torch.cat([encoded, context.expand(*encoded.shape[:-1], context.shape[-1])], -1)
    masks = [torch.as_tensor(mask, dtype=encoded.dtype) for mask in architecture.masks]
    out = perceptron(weights, encoded, architecture.num_dense, masks)
    parts = [out[..., g.outputs].reshape(*out.shape[:-1], g.num_parameters, g.size) for g in architecture.groups]
    return [part.movedim(-2, 0) for part in parts]


def log_prob(
    architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None = None,
    encoded: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """(...): log p(x), nats in model space.

    :param encoded: the rows encoded, where they are so already.
    """
    encoded = encode(architecture, weights, x) if encoded is None else encoded
    found = zip(architecture.groups, raw_parameters(architecture, weights, encoded, context), strict=True)
    real = architecture.family.real
    parts = [conditionals.log_prob(g, weights, raw, x[..., g.where], real).sum(-1) for g, raw in found]
    return torch.stack(parts).sum(0)


def to_uniform(
    architecture: Architecture, weights: Weights, x: torch.Tensor, context: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """F(x_j- | x_<j) and F(x_j | x_<j), (..., D) both: :func:`from_uniform` gives x for all u between them. For real
    columns they are equal, and u uniform where x is drawn from the model (Rosenblatt 1952, Ann. Math. Stat. 23)."""
    found = raw_parameters(architecture, weights, encode(architecture, weights, x), context)
    ends = [
        conditionals.cdf(g, weights, raw, x[..., g.where], architecture.family.real)
        for g, raw in zip(architecture.groups, found, strict=True)
    ]
    low, high = (
        torch.stack([ends[group][side][..., place] for group, place in architecture.places], -1) for side in (0, 1)
    )
    return low, high


def from_uniform(
    architecture: Architecture, weights: Weights, u: torch.Tensor, context: torch.Tensor | None = None
) -> torch.Tensor:
    """(..., D): each column in turn by the inverse of its distribution function, from u in [0, 1), (..., D).

    Nothing is computed twice: the first layer's sums grow by one column's part a time, and of the last layer only that
    column's outputs are found.
    """
    last, number = architecture.num_dense - 1, architecture.num_inputs
    masked = [weights[f"weight_{i}"] * torch.as_tensor(m, dtype=u.dtype) for i, m in enumerate(architecture.masks)]
    context = _bounded(architecture, context)
    sums = weights["bias_0"] if context is None else weights["bias_0"] + context @ masked[0][number:]
    sums = sums.expand(*u.shape[:-1], sums.shape[-1])
    inner = {f"weight_{i - 1}": masked[i] for i in range(1, last)}
    inner |= {f"bias_{i - 1}": weights[f"bias_{i}"] for i in range(1, last)}
    drawn = []
    for column, (which, place) in enumerate(architecture.places):
        group = architecture.groups[which]
        some = slice(group.first_output + place, group.outputs.stop, group.size)
        own = {f"weight_{last - 1}": masked[last][:, some], f"bias_{last - 1}": weights[f"bias_{last}"][some]}
        raw = perceptron({**inner, **own}, torch.relu(sums), last).movedim(-1, 0)[..., None]
        units = _units(group, weights, place)
        x = conditionals.quantile(group, units, raw, u[..., column : column + 1], architecture.family.real)
        start = group.first_input + place * group.num_inputs
        sums = sums + conditionals.encode(group, units, x) @ masked[0][start : start + group.num_inputs]
        drawn.append(x[..., 0])
    return torch.stack(drawn, -1)


def _units(group: Group, weights: Weights, place: int) -> dict[str, torch.Tensor]:
    """The locations and scales of one column of a group."""
    names = [name for name in weights if name.startswith(group.kind) and name.endswith(("_shift", "_log_scale"))]
    return {name: weights[name][place : place + 1] for name in names}
