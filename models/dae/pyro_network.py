"""Corruption, reconstruction and walk-back chain in torch. The twin of ``numpyro_network``."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from ppl_gen.backends.pyro_networks import Weights, perceptron
from ppl_gen.conditionals import REACH
from ppl_gen.models.dae.architecture import Architecture
from ppl_gen.models.vae.architecture import part
from ppl_gen.models.vae.pyro_network import Columns, parameters

LOG_SQRT_TAU = 0.9189385332046727


def standard(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Rows (..., D) of model space as corrupted rows are, before any noise."""
    value = torch.where(torch.from_numpy(architecture.is_logged), torch.log1p(x.clamp(min=0.0)), x)
    scaled = (value - weights["noise_shift"]) * torch.exp(-weights["noise_log_scale"])
    return torch.where(torch.from_numpy(architecture.is_number), scaled, x)


class Corruption(TorchDistribution):
    """C(x~ | x) about ``centre`` (..., D). What it draws is data: no gradient passes through."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self, architecture: Architecture, centre: torch.Tensor, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture, self.centre = architecture, centre
        self.others = torch.as_tensor(architecture.others, dtype=centre.dtype)
        self.is_number = torch.from_numpy(architecture.is_number)
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Corruption:
        centre = self.centre.expand(*batch_shape, self.centre.shape[-1])
        return Corruption(self.architecture, centre, validate_args=self._validate_args)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        family = self.architecture.family
        number = -0.5 * ((value - self.centre) / family.noise) ** 2 - LOG_SQRT_TAU - math.log(family.noise)
        label = torch.where(value == self.centre, math.log1p(-family.flip), torch.log(family.flip / self.others))
        return torch.where(self.is_number, number, label).sum(-1)

    def icdf(self, u: torch.Tensor) -> torch.Tensor:
        """Column by column, the value at u (..., D)."""
        family = self.architecture.family
        kept = 1 - family.flip
        which = torch.floor((u - kept) / family.flip * self.others).clamp(min=0.0)
        which = torch.minimum(which, self.others - 1)
        label = torch.where(u < kept, self.centre, which + (which >= self.centre).to(u.dtype))
        number = self.centre + family.noise * torch.special.ndtri(u)
        return torch.where(self.is_number, number, label).detach()

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        u = torch.rand((*sample_shape, *self.batch_shape, *self.event_shape), dtype=self.centre.dtype)
        return self.icdf(u.clamp(min=torch.finfo(u.dtype).tiny))


class Corrupted(TorchDistribution):
    """p(x~): the corruption of a state of the chain, each as likely; ``centres`` (C, T, D)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self, architecture: Architecture, centres: torch.Tensor, batch_shape: tuple[int, ...] = torch.Size(), *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture, self.centres = architecture, centres
        super().__init__(torch.Size(batch_shape), centres.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Corrupted:
        return Corrupted(self.architecture, self.centres, batch_shape, validate_args=self._validate_args)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        # Chain by chain, as (rows, states) of all at once would not fit into memory.
        found = [torch.logsumexp(log_kernel(self.architecture, value, states), -1) for states in self.centres]
        return torch.logsumexp(torch.stack(found), 0) - math.log(self.centres.shape[0] * self.centres.shape[1])

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        states = self.centres.reshape(-1, self.centres.shape[-1])
        u = torch.rand((*sample_shape, *self.batch_shape), dtype=states.dtype)
        chosen = states[(u * len(states)).long().clamp(max=len(states) - 1)]
        return Corruption(self.architecture, chosen).sample()


def log_kernel(architecture: Architecture, value: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """(..., T): log C of corrupted rows (..., D) about each of the centres (T, D), by products of matrices."""
    family, numbers = architecture.family, torch.from_numpy(architecture.numbers).long()
    one, other = value[..., numbers], centres[:, numbers]
    square = (one**2).sum(-1, keepdim=True) + (other**2).sum(-1) - 2 * one @ other.T
    total = -0.5 * square.clamp(min=0.0) / family.noise**2
    total = total - len(numbers) * (LOG_SQRT_TAU + math.log(family.noise))
    for group in architecture.labels:
        size = max(group.num_inputs, 2)
        equal = hot(value[..., group.where], size) @ hot(centres[:, group.where], size).T
        total = total + equal * math.log1p(-family.flip)
        total = total + (group.size - equal) * math.log(family.flip / (size - 1))
    return total


def hot(labels: torch.Tensor, size: int) -> torch.Tensor:
    """(..., columns * size): one-hot."""
    found = (labels[..., None] == torch.arange(size)).to(labels.dtype)
    return found.reshape(*labels.shape[:-1], -1)


def reconstruct(architecture: Architecture, weights: Weights, corrupted: torch.Tensor) -> Columns:
    """p(x | x~) of corrupted rows (..., D): of real columns the network says how far x is from x~."""
    reached, rows = corrupted.clamp(-REACH, REACH), []
    for group in architecture.groups:
        own = reached[..., group.where]
        rows.append(hot(own, group.num_inputs) if group.kind == "categorical" else own)
    out = perceptron(part(weights, "network_"), torch.cat(rows, -1), architecture.num_dense)
    for group in architecture.groups:
        if group.kind == "real":
            before, after = out[..., : group.outputs.start], out[..., group.outputs.stop :]
            out = torch.cat([before, out[..., group.outputs] + reached[..., group.where], after], -1)
    return Columns(architecture, weights, parameters(architecture, weights, out))


def mean_reconstruction(architecture: Architecture, weights: Weights, corrupted: torch.Tensor) -> torch.Tensor:
    """(..., R): the mean of p(x | x~) of each real column, in model space."""
    columns = reconstruct(architecture, weights, corrupted)
    (raw,) = (raw for group, raw in zip(architecture.groups, columns.raw, strict=True) if group.kind == "real")
    return weights["real_shift"] + torch.exp(weights["real_log_scale"]) * raw[1]


def walk(architecture: Architecture, weights: Weights, start: torch.Tensor) -> torch.Tensor:
    """(C, T, D): chains from ``start`` (C, D), rows of model space, corrupted and reconstructed by turns."""
    warmup, thinning = architecture.num_steps

    def steps(x: torch.Tensor, number: int) -> torch.Tensor:
        for _ in range(number):
            corrupted = Corruption(architecture, standard(architecture, weights, x)).sample()
            x = reconstruct(architecture, weights, corrupted).sample()
        return x

    x, states = steps(start, warmup), []
    for _ in range(architecture.family.num_states):
        x = steps(x, thinning)
        states.append(x)
    return torch.stack(states, 1)
