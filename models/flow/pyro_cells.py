"""Whole numbers as unit cells of a continuous space, in torch: noise within a cell, and the cell of a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch

if TYPE_CHECKING:
    from ppl_gen.models.flow.architecture import Architecture


def noise(architecture: Architecture) -> torch.Tensor:
    """The site u (..., number of whole-number columns), uniform on (0, 1)."""
    zeros = torch.zeros(int(architecture.is_discrete.sum()))
    return pyro.sample("u", dist.Uniform(zeros, zeros + 1).to_event(1))


def quantize(architecture: Architecture, v: torch.Tensor) -> torch.Tensor:
    """(..., D) points as rows of the table: whole numbers where it has such."""
    whole = v.floor().clamp(min=0).minimum(torch.as_tensor(architecture.highest, dtype=v.dtype))
    return torch.where(torch.as_tensor(architecture.is_discrete), whole, v)
