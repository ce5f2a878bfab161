"""Where z_0 may be given a row, in torch, for importance sampling of the rows' density. The twin of
``numpyro_proposal``.

The guide's noise about a row's own numbers is a proposal of next to no width, while a whole number stands for all of
its cell: where the density of z_0 has no peak at a count's own number, most of what makes it up lies elsewhere in the
cell. So every other particle, on average, has its counts anywhere in their cells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from ppl_gen.models.diffusion.architecture import MARGIN, inputs
from ppl_gen.models.diffusion.pyro_encoding import LOG_SQRT_TAU, cell, encode

if TYPE_CHECKING:
    from ppl_gen.backends.pyro_networks import Weights
    from ppl_gen.models.diffusion.architecture import Architecture


class Proposal(dist.TorchDistribution):
    """z_0 (F,) of each of the rows x (n, D): an even mixture of the guide's noise, and of that in all but the counts,
    which are uniform over their cells and :data:`MARGIN` standard deviations of the noise about them."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, architecture: Architecture, weights: Weights, x: torch.Tensor) -> None:
        self.architecture, self.weights, self.x = architecture, dict(weights), x
        super().__init__(x.shape[:-1], torch.Size((architecture.size,)), validate_args=False)

    @property
    def _parts(self) -> tuple[torch.Tensor, ...]:
        """alpha_0, sigma_0, and of each number e, whether it is a count, where its cell begins and how wide it is."""
        e = encode(self.architecture, self.weights, self.x)
        log_snr = torch.tensor(self.architecture.log_snr_range[1], dtype=e.dtype)
        alpha, sigma = (torch.sigmoid(side * log_snr).sqrt() for side in (1, -1))
        is_count, low, width = [], [], []
        for group in self.architecture.groups:
            own = e[..., inputs(group)]
            is_count.append(torch.full(own.shape, group.kind == "count"))
            start, size, margin = own, torch.ones_like(own), MARGIN * sigma / alpha
            if group.kind == "count":
                start, size = cell(group, self.weights, self.x[..., group.where])
                start, size = start - margin, (size + 2 * margin).expand(own.shape)
            low.append(start)
            width.append(size)
        return alpha, sigma, e, torch.cat(is_count, -1), torch.cat(low, -1), torch.cat(width, -1)

    def icdf(self, u: torch.Tensor) -> torch.Tensor:
        """z_0 of uniform numbers (..., F), the first of which says too which of the two it is drawn from."""
        alpha, sigma, e, is_count, low, width = self._parts
        wide = u[..., :1] >= 0.5
        u = torch.cat([(2 * u[..., :1]) % 1.0, u[..., 1:]], -1)
        tiny = torch.finfo(u.dtype).eps
        near = alpha * e + sigma * torch.special.ndtri(u.clamp(tiny, 1 - tiny))
        return torch.where(wide & is_count, alpha * (low + width * u), near)

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008
        return self.icdf(torch.rand(self.shape(sample_shape)))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        alpha, sigma, e, is_count, low, width = self._parts
        near = -0.5 * ((value - alpha * e) / sigma) ** 2 - LOG_SQRT_TAU - sigma.log()
        at = value / alpha - low
        even = torch.where((at >= 0) & (at <= width), -(alpha * width).log(), -torch.inf)
        wide = torch.where(is_count, even, near).sum(-1)
        return torch.logaddexp(near.sum(-1), wide) - math.log(2)
