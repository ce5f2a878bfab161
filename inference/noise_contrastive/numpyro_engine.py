"""Noise-contrastive estimation in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ppl_gen.inference.noise_contrastive import SITE, Finish, moments
from ppl_gen.inference.svi import numpyro_ensemble
from ppl_gen.inference.svi.ensemble import Objective

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.noise_contrastive import NoiseContrastive
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: NoiseContrastive, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.noise_contrastive.NoiseContrastive`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    normal = moments(np.asarray(view.x, np.float64)) if settings.noise == "normal" else None

    def loss(pair: Pair, weights: Any, rows: View, key: Any) -> jax.Array:
        return batch_loss(pair, settings, weights, rows, key, normal)

    finish = Finish(pair, view, settings, seed)
    key = (settings.key(), None if normal is None else normal[0].tobytes() + normal[1].tobytes())
    objective = Objective(settings.label, key, loss, finish, {SITE: np.zeros(settings.num_members)})
    return finish.told(numpyro_ensemble.run(pair, data, settings.own(), seed, monitor, objective))


def batch_loss(
    pair: Pair, settings: NoiseContrastive, weights: Any, rows: View, key: Any,
    normal: tuple[np.ndarray, np.ndarray] | None,
) -> jax.Array:  # fmt: skip
    """Minus the objective of a mini-batch, nats a row, with fresh noise."""
    assert pair.tempered is not None
    assert pair.draw_base is not None
    fixed, number = jax.lax.stop_gradient(weights), len(rows.x) * settings.num_noise
    if normal is None:
        noise = jax.lax.stop_gradient(pair.draw_base(fixed, number, key)).astype(rows.x.dtype)
        both = jnp.concatenate([rows.x, noise])
        log_noise = pair.tempered(fixed, both, 0.0)
    else:
        mean, chol = (jnp.asarray(part, rows.x.dtype) for part in normal)
        noise = mean + jax.random.normal(key, (number, len(mean)), rows.x.dtype) @ chol.T
        both = jnp.concatenate([rows.x, noise])
        log_noise = dist.MultivariateNormal(mean, scale_tril=chol).log_prob(both)
    logits = pair.tempered(weights, both, 1.0) - weights[SITE] - log_noise - jnp.log(settings.num_noise)
    share = jnp.ones(len(rows.x)) if rows.weights is None else rows.weights
    of_rows = (share * jax.nn.softplus(-logits[: len(rows.x)])).sum() / jnp.maximum(share.sum(), 1e-30)
    return of_rows + settings.num_noise * jax.nn.softplus(logits[len(rows.x) :]).mean()
