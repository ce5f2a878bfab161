"""Rows as numbers, and rows given noisy numbers, in torch. The twin of ``numpyro_encoding``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_gen.models.diffusion.architecture import code_scale, inputs, unit_names
from ppl_gen.models.vae.pyro_network import in_order

if TYPE_CHECKING:
    from ppl_gen.backends.pyro_networks import Weights
    from ppl_gen.conditionals import Group
    from ppl_gen.models.diffusion.architecture import Architecture

LOG_SQRT_TAU = 0.9189385332046727
NARROW = 0.03  # cells up to this width, in standard deviations, have the density of their middle


def units(group: Group, weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale of a group of numbers. They are what the table says: training leaves them as they are."""
    shift, log_scale = (weights[name].detach() for name in unit_names(group))
    return shift, torch.exp(log_scale)


def encode(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(..., F) of rows (..., D) of model space."""
    parts = []
    for group in architecture.groups:
        own = x[..., group.where]
        if group.kind == "binary":
            parts.append(2 * own - 1)
        elif group.kind == "categorical":
            hot = (own[..., None] == torch.arange(group.num_inputs)).to(x.dtype)
            parts.append(code_scale(group) * (hot - 1 / group.num_inputs).reshape(*x.shape[:-1], -1))
        else:
            shift, scale = units(group, weights)
            logged = group.kind == "count" and group.upper is None
            parts.append(((torch.log1p(own.clamp(min=0.0)) if logged else own) - shift) / scale)
    return torch.cat(parts, -1)


def decode(architecture: Architecture, weights: Weights, e: torch.Tensor) -> torch.Tensor:
    """(..., D): the rows whose numbers these (..., F) are, or nearly."""
    parts = []
    for group in architecture.groups:
        own = e[..., inputs(group)]
        if group.kind == "binary":
            parts.append((own > 0).to(e.dtype))
        elif group.kind == "categorical":
            parts.append(_by_column(group, own).argmax(-1).to(e.dtype))
        elif group.kind == "real":
            shift, scale = units(group, weights)
            parts.append(shift + scale * own)
        else:
            parts.append(_whole(group, weights, own))
    return in_order(architecture, parts)


def label_logits(group: Group, z: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """log q(z | label) of binary (..., columns) or categorical columns (..., columns, K), up to a constant; of a binary
    one that of a 1 less that of a 0. ``log_snr`` has an axis for the numbers."""
    evidence = torch.exp(0.5 * log_snr - 0.5 * logsigmoid(-log_snr)) * z  # alpha / sigma^2 z
    return 2 * evidence if group.kind == "binary" else code_scale(group) * _by_column(group, evidence)


class Rows(TorchDistribution):
    """p(x | z_0), of event shape (D,), at the greatest log signal-to-noise ratio; z_0 is (..., F)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)  # kinds differ by column

    def __init__(
        self, architecture: Architecture, weights: Weights, z: torch.Tensor, *, validate_args: bool | None = None
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.z = architecture, dict(weights), z
        super().__init__(z.shape[:-1], torch.Size((architecture.num_columns,)), validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Rows:
        z = self.z.expand(*batch_shape, self.z.shape[-1])
        return Rows(self.architecture, self.weights, z, validate_args=self._validate_args)

    @property
    def _spread(self) -> tuple[torch.Tensor, float]:
        """z_0 / alpha_0, and the standard deviation sigma_0 / alpha_0 of numbers about it."""
        log_snr = self.architecture.log_snr_range[1]
        return self.z * math.exp(0.5 * math.log1p(math.exp(-log_snr))), math.exp(-0.5 * log_snr)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        log_snr = torch.full((1,), self.architecture.log_snr_range[1], dtype=self.z.dtype)
        centre, sd = self._spread
        total: Any = 0.0
        for group in self.architecture.groups:
            x, own = value[..., group.where], centre[..., inputs(group)]
            if group.kind == "binary":
                logit = label_logits(group, self.z[..., inputs(group)], log_snr)
                found = logsigmoid((2 * x - 1) * logit)
            elif group.kind == "categorical":
                logits = label_logits(group, self.z[..., inputs(group)], log_snr)
                hot = x[..., None] == torch.arange(group.num_inputs)
                found = torch.where(hot, torch.log_softmax(logits, -1), 0.0).sum(-1)
            else:
                shift, scale = units(group, self.weights)
                found = (_normal if group.kind == "real" else _cell)(group, x, own, sd, shift, scale)
            total = total + found.sum(-1)
        return total

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        with torch.no_grad():
            shape, dtype = (*sample_shape, *self.z.shape), self.z.dtype
            noise = torch.randn(shape, dtype=dtype)
            u = torch.rand(shape, dtype=dtype)
            log_snr = torch.full((1,), self.architecture.log_snr_range[1], dtype=dtype)
            centre, sd = self._spread
            drawn, parts = centre + sd * noise, []
            for group in self.architecture.groups:
                where = inputs(group)
                if group.kind == "real":
                    shift, scale = units(group, self.weights)
                    parts.append(shift + scale * drawn[..., where])
                elif group.kind == "count":
                    parts.append(_whole(group, self.weights, drawn[..., where]))
                else:
                    logits = label_logits(group, self.z[..., where], log_snr)
                    if group.kind == "binary":
                        parts.append((u[..., where] < torch.sigmoid(logits)).to(dtype))
                    else:
                        gumbel = -torch.log(-torch.log(u[..., where].clamp(min=torch.finfo(dtype).tiny)))
                        parts.append((logits + _by_column(group, gumbel)).argmax(-1).to(dtype))
            return in_order(self.architecture, parts)


def _by_column(group: Group, numbers: torch.Tensor) -> torch.Tensor:
    """(..., columns, K) of a group of categorical columns' numbers."""
    return numbers.reshape(*numbers.shape[:-1], group.size, group.num_inputs)


def _whole(group: Group, weights: Weights, numbers: torch.Tensor) -> torch.Tensor:
    """The whole numbers in whose cells standardized counts lie."""
    shift, scale = units(group, weights)
    value = shift + scale * numbers
    value = value if group.upper is not None else torch.expm1(value.clamp(max=30.0))
    return torch.floor(value + 0.5).clamp(0.0, group.upper)


def _normal(group: Group, x: Any, centre: Any, sd: float, shift: Any, scale: Any) -> torch.Tensor:
    return -0.5 * (((x - shift) / scale - centre) / sd) ** 2 - LOG_SQRT_TAU - torch.log(sd * scale)


def log_ndtr(x: torch.Tensor) -> torch.Tensor:
    """log of the standard normal's distribution function; torch's own can't be batched."""
    below = x < -1.0
    tail = torch.log(0.5 * torch.special.erfcx(-torch.where(below, x, -1.0) / math.sqrt(2))) - 0.5 * x**2
    return torch.where(below, tail, torch.log1p(-0.5 * torch.erfc(x.clamp(min=-1.0) / math.sqrt(2))))


def cell(group: Group, weights: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the cells of whole numbers x begin, in standard units, and how wide they are."""
    return _edges(group, x, *units(group, weights))


def _edges(group: Group, x: Any, shift: Any, scale: Any) -> tuple[Any, Any]:
    logged = group.upper is None
    edge = torch.log((x + 0.5).clamp(min=0.5)) if logged else x - 0.5
    width = torch.log1p(1 / (x + 0.5).clamp(min=0.5)) if logged else 1.0
    return (edge - shift) / scale, width / scale


def _cell(group: Group, x: Any, centre: Any, sd: float, shift: Any, scale: Any) -> torch.Tensor:
    """Log of the mass of the cell of whole numbers x, of all below at 0, and of all above at the greatest."""
    start, width = _edges(group, x, shift, scale)
    low = (start - centre) / sd
    width = (width / sd).expand(low.shape)
    high, is_first = low + width, x < 0.5
    is_last = torch.zeros_like(is_first) if group.upper is None else x > group.upper - 0.5
    # The tail with less mass is the one whose difference keeps its digits.
    flip = low > -high
    near, far = torch.where(flip, -low, high), torch.where(flip, -high, low)
    whole = width > NARROW
    upper, lower = (log_ndtr(torch.where(whole, end, back)) for end, back in ((near, 1.0), (far, -1.0)))
    wide = upper + torch.log(-torch.expm1((lower - upper).clamp(max=-torch.finfo(low.dtype).tiny)))
    middle = low + 0.5 * width
    thin = -0.5 * middle**2 - LOG_SQRT_TAU + torch.log(width) + (middle**2 - 1) * width**2 / 24
    inner = torch.where(whole, wide, thin)
    return torch.where(is_first, log_ndtr(high), torch.where(is_last, log_ndtr(-low), inner))
