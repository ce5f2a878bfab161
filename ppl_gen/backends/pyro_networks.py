"""Networks in torch: weights as sites of a Pyro model, and perceptrons over them. The twin of ``numpyro_networks``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from ppl_gen.backends.pyro_pairs import make_guide
from ppl_gen.networks import GUIDE_SCALE, Layout, Weight, check_guide

Weights = Mapping[str, torch.Tensor]


def weight_sites(layout: Layout, prior_scale: float | None = None) -> dict[str, torch.Tensor]:
    """The weights as ``param`` sites, that start at random where nothing else is substituted; with a ``prior_scale`` as
    sample sites, normal about their centres with ``prior_scale`` times the standard deviations of the layout."""

    def site(name: str, weight: Weight) -> torch.Tensor:
        if prior_scale is None:
            return pyro.param(name, lambda: weight.centre + weight.spread * torch.randn(weight.shape))
        prior = dist.Normal(torch.tensor(weight.centre), prior_scale * weight.prior).expand(weight.shape)
        return pyro.sample(name, prior.to_event(len(weight.shape)))

    return {name: site(name, weight) for name, weight in layout.items()}


def weight_guide(
    layout: Layout, model: Callable[..., Any], initialize: Callable[..., Mapping[str, Any]], kind: str,
    values: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """A guide over weights that have priors; see :func:`ppl_gen.backends.pyro_pairs.make_guide`.

    :raises SettingError: it would not fit into memory.
    """
    check_guide(kind, layout)
    return make_guide(model, initialize, kind, values, scale=GUIDE_SCALE)


def perceptron(weights: Weights, x: torch.Tensor, num_dense: int, masks: Sequence[torch.Tensor] = ()) -> torch.Tensor:
    """(..., n_0) through ``num_dense`` dense layers with rectified linear units between them."""
    for i in range(num_dense):
        weight = weights[f"weight_{i}"]
        weight = weight * masks[i] if masks else weight
        # Under vmap over members, mm is one batched product and matmul is that between four views.
        x = (torch.mm(x, weight) if x.ndim == 2 else x @ weight) + weights[f"bias_{i}"]
        if i < num_dense - 1:
            x = torch.relu(x)
    return x
