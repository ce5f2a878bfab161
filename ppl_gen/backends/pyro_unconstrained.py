"""The latents of a Pyro pair as one vector without constraints, for samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch.distributions import biject_to

from ppl_gen.backends.pyro_ops import Tensors, in_obs_plate, log_density

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.view import View


class Unconstrained:
    """The continuous latents of a pair as one flat vector in unconstrained space, but for those that a guide proposes.

    Each site has the bijection of its support; the sites are laid end to end in the order of the model.
    """

    def __init__(self, pair: Pair, view: View) -> None:
        self.one = view.take(slice(0, 1)) if pair.local else view
        with torch.no_grad():
            trace = poutine.trace(pair.density).get_trace(self.one)
        sites = {
            name: site
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
            and not (in_obs_plate(site) and (site["fn"].has_enumerate_support or name in pair.local))
        }  # fmt: skip
        self.pair = pair
        self.transforms = {name: biject_to(site["fn"].support) for name, site in sites.items()}
        self.shapes = {name: self.transforms[name].inv(site["value"]).shape for name, site in sites.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self.sizes)
        self.local = {name: trace.nodes[name]["value"] for name in pair.local}

    def start(self, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Constrained values as one vector; a site without a value starts uniformly in (-2, 2), as in Stan."""
        parts = [
            transform.inv(parameters[name]).flatten() if name in parameters else 4 * torch.rand(size) - 2
            for (name, transform), size in zip(self.transforms.items(), self.sizes, strict=True)
        ]
        return torch.cat(parts)

    def _split(self, vector: torch.Tensor) -> Tensors:
        parts = zip(self.shapes.items(), vector.split(self.sizes, dim=-1), strict=True)
        return {name: part.reshape((*vector.shape[:-1], *shape)) for (name, shape), part in parts}

    def constrain(self, vectors: torch.Tensor) -> Tensors:
        """{site: (..., *event)} of vectors (..., size)."""
        return {name: self.transforms[name](value) for name, value in self._split(vectors).items()}

    def log_density(
        self, vector: torch.Tensor, view: View, given: Mapping[str, torch.Tensor] | None = None, **options: Any
    ) -> torch.Tensor:
        """log p(theta, x) + log |d theta / d vector|, a differentiable scalar.

        :param given: values of other sites, such as the rows ``obs`` of a batch; ``options`` are the model's.
        """
        parts = self._split(vector)
        values = {name: self.transforms[name](part) for name, part in parts.items()}
        total = log_density(self.pair, {**values, **(given or {})}, view, **options)
        return total + self._log_jacobian(parts, values)

    def log_prior(self, vector: torch.Tensor) -> torch.Tensor:
        """log p(theta) + log |d theta / d vector|, a differentiable scalar."""
        parts = self._split(vector)
        values = {name: self.transforms[name](part) for name, part in parts.items()}
        trace = poutine.trace(poutine.condition(self.pair.density, data={**values, **self.local})).get_trace(self.one)
        total = sum(site["fn"].log_prob(site["value"]).sum() for site in (trace.nodes[name] for name in values))
        return total + self._log_jacobian(parts, values)

    def _log_jacobian(self, parts: Tensors, values: Tensors) -> torch.Tensor:
        total = torch.zeros(())
        for name, part in parts.items():
            total = total + self.transforms[name].log_abs_det_jacobian(part, values[name]).sum()
        return total
