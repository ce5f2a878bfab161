"""Base and energy in torch: the twin of ``numpyro_network``."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.ebm.architecture import Architecture
from ppl_gen.models.flow.pyro_pair import flow
from ppl_gen.models.flow.pyro_transforms import from_base
from ppl_gen.models.vae.architecture import part
from ppl_gen.models.vae.pyro_convolution import convolve


def base(architecture: Architecture, weights: Weights) -> dist.TorchDistribution:
    """The distribution that the density is relative to, of event shape (D,)."""
    if architecture.flow is not None:
        return flow(architecture.flow, part(weights, "base_"), None)
    if architecture.family.base == "uniform":
        half = torch.exp(weights["base_log_half_width"])
        low, high = weights["base_centre"] - half, weights["base_centre"] + half
        return dist.Uniform(low, high, validate_args=False).to_event(1)  # rows outside have density 0
    if architecture.is_full:
        return dist.MultivariateNormal(weights["shift"], scale_tril=cholesky(weights))
    return dist.Normal(weights["shift"], torch.exp(weights["log_scale"])).to_event(1)


def is_inside(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(n,): whether the base has a density at these rows."""
    if architecture.family.base != "uniform":
        return torch.ones(x.shape[:-1], dtype=torch.bool)
    return (torch.abs(x - weights["base_centre"]) <= torch.exp(weights["base_log_half_width"])).all(-1)


def minus_energy(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(n,): of rows (n, D) of model space."""
    if architecture.family.is_given:
        return -given(architecture, x)
    h = (x - weights["shift"]) * torch.exp(-weights["log_scale"])
    own = part(weights, "energy_")
    if architecture.levels:
        h = h.reshape(-1, *architecture.levels[0])
        for i in range(len(architecture.family.channels)):
            h = torch.nn.functional.silu(convolve(h, own[f"conv_{i}_weight"], 2) + own[f"conv_{i}_bias"])
        h = h.reshape(len(x), -1)
    for i in range(architecture.num_dense):
        h = h @ own[f"weight_{i}"] + own[f"bias_{i}"]
        if i < architecture.num_dense - 1:
            h = torch.nn.functional.silu(h)
    return h[..., 0]


def given(architecture: Architecture, x: torch.Tensor) -> torch.Tensor:
    """(n,): the user's energy of rows (n, D)."""
    function: Any = architecture.family.energy
    return function(x)


def tilt(architecture: Architecture, weights: Weights, x: torch.Tensor, log_base: torch.Tensor) -> torch.Tensor:
    """(n,): log of what the base's density is multiplied by, up to log Z."""
    minus = minus_energy(architecture, weights, x)
    if architecture.family.is_given:
        minus = minus - log_base
    return torch.where(is_inside(architecture, weights, x) & (minus > -torch.inf), minus, -torch.inf)


def tempered(architecture: Architecture, weights: Weights, x: torch.Tensor, inverse_temperature: Any) -> torch.Tensor:
    """(n,): log of the base's density times the tilt to the power of the inverse temperature."""
    inside = is_inside(architecture, weights, x)
    if architecture.family.is_given and isinstance(inverse_temperature, float) and inverse_temperature == 1.0:
        found = minus_energy(architecture, weights, x)  # the base cancels: chains need not evaluate it
        return torch.where(inside & torch.isfinite(found), found, -torch.inf)
    beta = torch.as_tensor(inverse_temperature, dtype=x.dtype)
    log_base = base(architecture, weights).log_prob(x)
    found = tilt(architecture, weights, x, log_base)
    there = torch.isfinite(found)
    total = log_base + beta * torch.where(there, found, 0.0)
    return torch.where(inside & (there | (beta == 0)), total, -torch.inf)


def draw_base(architecture: Architecture, weights: Weights, number: int, key: int | None) -> torch.Tensor:
    """(number, D): draws of the base; of a seed, or of torch's own state where it is None."""
    generator = None if key is None else torch.Generator().manual_seed(key)
    shape, dtype = (number, architecture.num_columns), weights["shift"].dtype
    if architecture.family.base == "uniform":
        unit = 2 * torch.rand(shape, generator=generator, dtype=dtype) - 1
        return weights["base_centre"] + unit * torch.exp(weights["base_log_half_width"])
    z = torch.randn(shape, generator=generator, dtype=dtype)
    if architecture.flow is not None:
        return from_base(architecture.flow, part(weights, "base_"), z, None)[0]
    if architecture.is_full:
        return weights["shift"] + z @ cholesky(weights).T
    return weights["shift"] + z * torch.exp(weights["log_scale"])


def cholesky(weights: Weights) -> torch.Tensor:
    """(D, D): of the covariance of the normal base."""
    return torch.tril(weights["base_lower"], -1) + torch.diag(torch.exp(weights["base_log_diagonal"]))
