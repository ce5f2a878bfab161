"""The densities of a Gaussian mixture in Pyro, function by function the twin of ``numpyro_density``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution

from ppl_gen.backends.pyro_normal import as_float, component_log_prob, marginal_tril

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters


def log_weights(weights: torch.Tensor) -> torch.Tensor:
    """log w of weights scaled to sum to 1, finite with a finite gradient where a weight is 0."""
    return (weights / weights.sum()).clamp(min=torch.finfo(weights.dtype).tiny).log()


def component_scale(hyper: Hyperparameters, sites: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cholesky factors (K, D, D), one (1, D, D) if tied; with independent columns standard deviations (K or 1, D)."""
    scales, one = sites["scales"], (1 if hyper.tied else hyper.num_components)
    if hyper.covariance == "spherical":
        return scales[:, None].expand(one, hyper.num_columns)
    scales = scales.reshape(one, hyper.num_columns)
    if not hyper.dense:
        return scales
    return scales[..., None] * sites["corr_cholesky"].reshape(one, hyper.num_columns, hyper.num_columns)


def component(locs: torch.Tensor, scale: torch.Tensor, z: torch.Tensor, view: View | None) -> TorchDistribution:
    """The distribution of rows given their components, z (n,), or (K, 1) when it is enumerated."""
    scale = scale.expand(len(locs), *scale.shape[1:])
    if scale.dim() == 2:
        columns = dist.Normal(locs[z], scale[z])
        return (columns if view is None or view.mask is None else columns.mask(view.mask)).to_event(1)
    if view is None or view.mask is None:
        return dist.MultivariateNormal(locs[z], scale_tril=scale[z])
    factor = marginal_tril(scale, view.patterns)[view.pattern, z]
    return dist.MultivariateNormal(locs[z] * view.mask, scale_tril=factor)


class GaussianMixture(TorchDistribution):
    """The mixture with its labels summed out. Event shape (D,); rows are independent along one batch axis.

    Given the missing entries of a View its ``log_prob`` is of the observed entries; ``sample`` draws whole rows.
    """

    support = constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own convention)

    def __init__(
        self, weights: torch.Tensor, locs: torch.Tensor, scale: torch.Tensor, view: View | None = None, *,
        batch_shape: tuple[int, ...] = (), validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.locs, self.scale, self.view = weights, locs, scale, view
        self.missing = () if view is None else (view.mask, view.patterns, view.pattern)
        if view is not None and view.mask is not None:
            batch_shape = torch.broadcast_shapes(batch_shape, (len(view.mask),))
        super().__init__(torch.Size(batch_shape), torch.Size((locs.shape[-1],)), validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> GaussianMixture:
        return GaussianMixture(
            self.weights, self.locs, self.scale, self.view, batch_shape=batch_shape, validate_args=self._validate_args
        )

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        rows = value.reshape(-1, value.shape[-1])
        parts = component_log_prob(rows, self.locs, self.scale, *self.missing)
        return torch.logsumexp(parts + log_weights(self.weights), -1).reshape(value.shape[:-1])

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            z = torch.multinomial(log_weights(self.weights).exp(), shape.numel(), replacement=True).reshape(shape)
            noise = torch.randn(*shape, self.locs.shape[-1], dtype=self.locs.dtype)
            scale = self.scale.expand(len(self.locs), *self.scale.shape[1:])[z]
            return self.locs[z] + (scale * noise if self.scale.dim() == 2 else (scale @ noise[..., None])[..., 0])


class StickBreaking(TorchDistribution):
    r"""Truncated stick-breaking weights as a distribution on the simplex.

    With :math:`v_k \sim \mathrm{Beta}(1, \alpha)`, k < K, and :math:`w_k = v_k \prod_{j<k} (1 - v_j)` the density is

    .. math:: p(w) = \alpha^{K-1} \, w_K^{\alpha - 1} \prod_{k=1}^{K-2} \Big( \sum_{j>k} w_j \Big)^{-1}

    a generalized Dirichlet (Connor & Mosimann 1969, JASA 64, eq. 4).
    """

    support = constraints.simplex
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own convention)

    def __init__(self, concentration: float, num_components: int, *, validate_args: bool | None = None) -> None:
        self.concentration, self.num_components = as_float(concentration), num_components
        super().__init__(torch.Size(), torch.Size((num_components,)), validate_args=validate_args)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        value = value.clamp(min=torch.finfo(value.dtype).tiny)
        tails = value.flip(-1).cumsum(-1).flip(-1)[..., 1:-1]
        last = (self.concentration - 1) * value[..., -1].log()
        return (self.num_components - 1) * self.concentration.log() + last - tails.log().sum(-1)

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        # log(1 - v) of Beta(1, alpha) is minus an exponential.
        log_left = -torch.empty(*sample_shape, self.num_components - 1).exponential_() / self.concentration
        edge = torch.zeros(*sample_shape, 1)
        log_rest = torch.cat([edge, log_left.cumsum(-1)], -1)
        return log_rest.exp() * torch.cat([-torch.expm1(log_left), edge + 1.0], -1)


def priors(hyper: Hyperparameters) -> dict[str, TorchDistribution]:
    """The prior of each global site, a fixed one included."""
    stick = StickBreaking(hyper.stick, hyper.num_components) if hyper.stick is not None else None
    result = {
        "weights": stick or dist.Dirichlet(as_float(hyper.concentration)),
        "locs": dist.Normal(as_float(hyper.loc), as_float(hyper.loc_scale)).to_event(2),
        "scales": dist.HalfNormal(as_float(hyper.scale)).to_event(hyper.scale.ndim),
    }
    if hyper.dense:
        correlation = dist.LKJCholesky(hyper.num_columns, as_float(hyper.correlation_concentration))
        result["corr_cholesky"] = correlation.to_event(hyper.correlation_concentration.ndim)
    return result
