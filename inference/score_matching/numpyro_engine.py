"""Score matching in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.inference.svi import numpyro_ensemble
from ppl_gen.inference.svi.ensemble import Objective
from ppl_gen.normalizer import normalize

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.score_matching import ScoreMatching
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: ScoreMatching, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.score_matching.ScoreMatching`."""
    view = pair.data if pair.data is not None else data.view("numpyro")

    def loss(pair: Pair, weights: Any, rows: View, key: Any) -> jax.Array:
        values = row_losses(pair, settings, weights, rows.x, key)
        share = jnp.ones(len(values)) if rows.weights is None else rows.weights
        return (share * values).sum() / jnp.maximum(share.sum(), 1e-30)

    objective = Objective(
        settings.label, settings.key(), loss, lambda kept: normalize(pair, kept, view, settings.normalizer, seed)
    )
    return numpyro_ensemble.run(pair, data, settings.own(), seed, monitor, objective)


def row_losses(pair: Pair, settings: ScoreMatching, weights: Any, x: jax.Array, key: Any) -> jax.Array:
    """(n,): the losses of rows under one draw of the noise."""
    assert pair.tempered is not None
    tempered = pair.tempered

    def score(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: tempered(weights, x, 1.0).sum())(x)

    if settings.method == "denoising":
        noise = jax.random.normal(key, x.shape, x.dtype)
        return 0.5 * ((settings.noise * score(x + settings.noise * noise) + noise) ** 2).sum(-1)
    found = jnp.zeros(len(x), x.dtype)
    at = score(x)
    for one in jax.random.split(key, settings.num_slices):
        v = jax.random.normal(one, x.shape, x.dtype)
        found += (v * jax.jvp(score, (x,), (v,))[1]).sum(-1)
    return found / settings.num_slices + 0.5 * (at**2).sum(-1)
