"""The bounds of local latents that weights are fitted by, in JAX; see :mod:`ppl_gen.inference.svi`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.backends.numpyro_local import Terms, terms

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair
    from ppl_gen.inference.svi import SVI


def loss(
    pair: Pair, settings: SVI, weights: Any, key: Any, rows: View, share: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Minus the bound of some rows, in nats a row, and its parts (2,): minus the expected log likelihood, and the KL
    divergence of guide from prior.

    :param share: of beta that holds yet.
    """
    bound, parts, found = _bound(pair, settings, weights, key, rows, share)
    if pair.label is None:
        return bound, parts
    scale = 1.0 if rows.weights is None else rows.weights
    alpha = jax.lax.stop_gradient(pair.label.alpha(weights))
    return bound - alpha * (scale * found.log_guide).sum() / len(rows.x), parts


def _bound(
    pair: Pair, settings: SVI, weights: Any, key: Any, rows: View, share: jax.Array | float
) -> tuple[jax.Array, jax.Array, Terms]:
    """:func:`loss` without the classifier's own, and the terms that it is made of."""
    number = settings.num_particles_of_weights
    found = terms(pair, weights, rows, key, number)
    scale = jnp.ones(len(rows.x), found.log_ratio.dtype) if rows.weights is None else rows.weights
    beta, each = pair.beta * share, 1 / len(rows.x)
    kl = -found.log_ratio.mean(0)[:, None] if found.kl is None else found.kl
    divergence = (scale[:, None] * kl).sum(0) * each
    mismatch = -(scale * found.log_likelihood.mean(0)).sum() * each
    parts = jnp.stack([mismatch, divergence.sum()])
    if settings.objective == "elbo" and not pair.beta:
        return mismatch, parts, found
    if settings.objective == "iwae":
        log_weights = found.log_likelihood + beta * found.log_ratio
        bound = jax.nn.logsumexp(log_weights, axis=0) - jnp.log(number)
        return -(scale * bound).sum() * each, parts, found
    if settings.free_bits:
        free = settings.free_bits * (found.size if found.kl is None else 1)  # of each number in divergence
        divergence = jnp.maximum(divergence, free * scale.sum() * each)
    return mismatch + beta * divergence.sum(), parts, found
