"""The bounds of local latents that weights are fitted by, in torch; see :mod:`ppl_gen.inference.svi`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch.distributions import kl_divergence

from ppl_gen.backends.pyro_local import Reparametrized, Terms, given, terms
from ppl_gen.backends.pyro_programs import Tensors

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair
    from ppl_gen.inference.svi import SVI


def loss(
    pair: Pair, settings: SVI, weights: Tensors, rows: View, share: torch.Tensor | float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the bound of some rows, in nats a row, and its parts (2,): minus the expected log likelihood, and the KL
    divergence of guide from prior.

    :param share: of beta that holds yet.
    """
    bound, parts, found = _bound(pair, settings, weights, rows, share)
    if pair.label is None:
        return bound, parts
    alpha = torch.as_tensor(pair.label.alpha(weights)).detach()
    scale = 1.0 if rows.weights is None else rows.weights
    return bound - alpha * (scale * found.log_guide).sum() / len(rows.x), parts


def _bound(
    pair: Pair, settings: SVI, weights: Tensors, rows: View, share: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor, Terms]:
    """:func:`loss` without the classifier's own, and the terms that it is made of."""
    number = settings.num_particles_of_weights
    found = terms(pair, weights, rows, number)
    scale = torch.ones(len(rows.x)) if rows.weights is None else rows.weights
    beta, each = pair.beta * share, 1 / len(rows.x)
    kl = -found.log_ratio.mean(0)[:, None] if found.kl is None else found.kl
    divergence = (scale[:, None] * kl).sum(0) * each
    mismatch = -(scale * found.log_likelihood.mean(0)).sum() * each
    parts = torch.stack([mismatch, divergence.sum()])
    if settings.objective == "elbo" and not pair.beta:
        return mismatch, parts, found
    if settings.objective == "iwae":
        log_weights = found.log_likelihood + beta * found.log_ratio
        bound = torch.logsumexp(log_weights, 0) - math.log(number)
        return -(scale * bound).sum() * each, parts, found
    if settings.free_bits:
        free = settings.free_bits * (found.size if found.kl is None else 1)  # of each number in divergence
        divergence = torch.maximum(divergence, free * scale.sum() * each)
    return mismatch + beta * divergence.sum(), parts, found


def mean_field(pair: Pair, weights: Tensors, rows: View) -> torch.Tensor:
    """Minus the evidence lower bound of some rows, in nats a row, with KL divergences in closed form: what
    ``TraceMeanField_ELBO`` is, without the numbers that it takes out of tensors, which no recording has."""
    assert pair.guide is not None
    with Reparametrized():
        drawn = poutine.trace(given(pair.guide, weights)).get_trace(rows)
    model = poutine.trace(poutine.replay(given(pair.model, weights), trace=drawn)).get_trace(rows)
    total: Any = 0.0
    for name, site in model.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if site["is_observed"]:
            found = site["fn"].log_prob(site["value"])
        else:
            found = -kl_divergence(drawn.nodes[name]["fn"], site["fn"])
        total = total + scale_and_mask(found, scale=site["scale"], mask=site["mask"]).sum()
    return -total / len(rows.x)
