"""A discrete latent beside the local ones of a NumPyro pair, summed out: each of its C values along an axis of its own,
on the left of the observations'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.labels import Label
    from ppl_gen.view import View

NEVER = -1e30  # a log probability whose exponential is 0, and whose derivatives are numbers


def values(pair: Pair) -> dict[str, jax.Array]:
    """{site: (C, 1)}: all values of the label; {} where there is none."""
    return {} if pair.label is None else {pair.label.site: jnp.arange(pair.label.size)[:, None]}


def allowed(label: Label, view: View) -> tuple[jax.Array, jax.Array]:
    """(C, n): which values each row may have; (n,): whether it has a label."""
    equal = view.x[:, label.column] == jnp.arange(label.size)[:, None]
    seen = jnp.ones(len(view.x), bool) if view.mask is None else view.mask[:, label.column]
    return equal | ~seen, seen


def log_guide(site: Mapping[str, Any]) -> jax.Array:
    """(C, n): log q(y | x) as the classifier has it; the guide's site itself proposes nothing but a known label."""
    return jax.nn.log_softmax(site["infer"]["logits"], -1).T


def log_shares(label: Label, view: View, log_guide: jax.Array) -> jax.Array:
    """(C, n): log q(y | x), of rows with a label 0 at it."""
    return jax.nn.log_softmax(jnp.where(allowed(label, view)[0], log_guide, NEVER), axis=0)


def moments(log_share: jax.Array, mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (n, *event) of the mixture of C distributions of these (C, n, *event)."""
    share = jnp.exp(log_share).reshape(*log_share.shape, *[1] * (mean.ndim - 2))
    centre = (share * mean).sum(0)
    return centre, (share * (variance + (mean - centre) ** 2)).sum(0)


class Mixed(NamedTuple):
    """Terms of the ELBO (see ``numpyro_local``) as expectations over the label: ``log_likelihood`` and ``log_ratio``
    (n,), ``kl`` (n, J + 1), the label's last, or None; ``log_guide`` (n,) log q(y | x) of rows with a label, else 0."""

    log_likelihood: Any
    log_ratio: Any
    kl: Any
    log_guide: Any


def mixed(
    label: Label, view: View, log_guide: Any, log_prior: Any, log_likelihood: Any, log_ratio: Any, kl: Any
) -> Mixed:
    """The terms under each value, (C, n) and (C, n, J), and log q(y | x) and log p(y) of it, as expectations. log p(y)
    of a row with a label is part of its log likelihood, of others log p(y) - log q(y | x) is part of the ratio."""
    may, seen = allowed(label, view)
    log_share = log_shares(label, view, log_guide)
    share = jnp.exp(log_share)
    likelihood = (share * jnp.where(may, log_likelihood, 0.0)).sum(0)
    ratio = (share * log_ratio).sum(0)
    own = (share * jnp.where(may, log_prior - log_share, 0.0)).sum(0)
    if kl is not None:
        kl = jnp.concatenate([(share[..., None] * kl).sum(0), jnp.where(seen, 0.0, -own)[:, None]], -1)
    known = jnp.where(may & seen, log_guide, 0.0).sum(0)
    return Mixed(likelihood + jnp.where(seen, own, 0.0), ratio + jnp.where(seen, 0.0, own), kl, known)
