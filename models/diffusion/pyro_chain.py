"""The normals of the chain and of the noise in torch, and whole paths. The twin of ``numpyro_chain``."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.diffusion import pyro_denoiser as denoiser
from ppl_gen.models.diffusion import pyro_schedule as schedule
from ppl_gen.models.diffusion.architecture import Architecture


def normal(loc: torch.Tensor, scale: torch.Tensor | float) -> dist.TorchDistribution:
    """Independent normals of the numbers of each row, (n, F)."""
    return dist.Normal(loc, torch.as_tensor(scale, dtype=loc.dtype).expand(loc.shape)).to_event(1)


def marginal(e: torch.Tensor, log_snr: torch.Tensor) -> dist.TorchDistribution:
    """q(z_t | x) of rows whose numbers are e (n, F), at lambda (n,) or (1,)."""
    level = log_snr[..., None]
    return normal(torch.sqrt(torch.sigmoid(level)) * e, torch.sqrt(torch.sigmoid(-level)))


def posterior(
    z: torch.Tensor, e: torch.Tensor, before: torch.Tensor, log_snr: torch.Tensor
) -> dist.TorchDistribution:  # fmt: skip
    """q(z_s | z_t, e) of z_t (n, F) at ``log_snr`` (n,), s at ``before`` (n,) (Kingma et al. 2021, eq. 25 to 27)."""
    loc, scale = posterior_moments(z, e, before[..., None], log_snr[..., None])
    return normal(loc, scale)


def posterior_moments(
    z: torch.Tensor, e: torch.Tensor, before: torch.Tensor, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Mean and standard deviation of z_s given z_t and e; levels broadcast against both."""
    noise = -torch.expm1(log_snr - before)  # sigma_{t|s}^2 / sigma_t^2
    alpha_s = torch.sqrt(torch.sigmoid(before))
    ratio = torch.exp(0.5 * (logsigmoid(before) - logsigmoid(log_snr)))  # alpha_s / alpha_t
    loc = torch.exp(log_snr - before) * ratio * z + alpha_s * noise * e
    return loc, torch.sqrt(torch.sigmoid(-before) * noise)


class ReverseChain(dist.TorchDistribution):
    """p(z_s, ..., z_0 | z_1), (S, F) for each row: all steps of the chain, in the order in which they are taken, 250 of
    them in continuous time."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self, architecture: Architecture, weights: Weights, start: torch.Tensor, given: torch.Tensor | None, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.start, self.given = architecture, dict(weights), start, given
        event = torch.Size((architecture.path_steps, architecture.size))
        super().__init__(start.shape[:-1], event, validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> ReverseChain:
        start = self.start.expand(*batch_shape, self.start.shape[-1])
        return ReverseChain(self.architecture, self.weights, start, self.given, validate_args=self._validate_args)

    @property
    def _levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """lambda before and after each step, (S,) each."""
        number = self.architecture.path_steps
        t = torch.arange(number, -1, -1, dtype=self.start.dtype) / number
        found = schedule.log_snr(self.architecture, self.weights, t)
        return found[:-1], found[1:]

    def _moments(self, z: torch.Tensor, at: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        e = denoiser.estimate(self.architecture, self.weights, z, at, self.given)
        return posterior_moments(z, e, after, at)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        path = torch.cat([self.start[..., None, :], value], -2)
        total: Any = 0.0
        for i, (at, after) in enumerate(zip(*self._levels, strict=True)):
            loc, scale = self._moments(path[..., i, :], at, after)
            total = total + dist.Normal(loc, scale.expand(loc.shape)).log_prob(path[..., i + 1, :]).sum(-1)
        return total

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        with torch.no_grad():
            z, path = self.start.expand(*sample_shape, *self.start.shape), []
            for at, after in zip(*self._levels, strict=True):
                loc, scale = self._moments(z, at, after)
                z = loc + scale * torch.randn_like(z)
                path.append(z)
            return torch.stack(path, -2)
