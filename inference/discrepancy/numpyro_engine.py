"""Training by a discrepancy in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.inference.adversarial.course import Plan
from ppl_gen.inference.adversarial.numpyro_training import State, Training, Weights, train
from ppl_gen.inference.discrepancy import SOME_ROWS, median_distance
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.discrepancy import Discrepancy
    from ppl_gen.progress import Monitor


NEAR = 1e-8  # squared distance, in units of the median, below which a gradient is not followed


def run(pair: Pair, data: Data, settings: Discrepancy, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.discrepancy.Discrepancy`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    assert pair.adversary is not None
    assert pair.initialize is not None
    start = {name: jnp.asarray(value[0], float) for name, value in pair.initialize(view, seed, 1).items()}
    some = view.take(np.linspace(0, len(view.x) - 1, min(len(view.x), SOME_ROWS)).astype(int))
    scale = median_distance(np.asarray(pair.adversary.relax(start, some), np.float64))
    return train(pair, Descent, Plan.of(pair, settings, len(data), seed), view, scale, seed, monitor)


class Descent(Training):
    """Steps of the generator alone."""

    settings: Discrepancy

    def moments(self, weights: Weights) -> Any:
        return self.adam.init({name: weights[name] for name in self.adversary.generator if name in weights})

    def step(
        self, state: State, fixed: Weights, batches: jax.Array, view: View, extra: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """A step of Adam on the discrepancy of a batch and as many of the generator's rows."""
        adversary, weights, rows = self.adversary, state["weights"], view.take(batches[0])
        key, now = jax.random.split(state["key"])
        z = adversary.noise(len(rows.x), now)

        def loss(part: Weights) -> jax.Array:
            own = {**weights, **fixed, **part}
            real, fake = adversary.relax(own, rows), adversary.forge(own, z, rows.context)
            return discrepancy(self.settings, extra, real, fake, rows)

        part = {name: weights[name] for name in adversary.generator if name in weights}
        value, gradient = jax.value_and_grad(loss)(part)
        updates, moments = self.adam.update(gradient, state["moments"])
        rate = self.rate(state, self.settings.learning_rate)
        weights = {**weights, **{name: part[name] - rate * updates[name] for name in part}}
        return {**state, "weights": weights, "moments": moments, "key": key}, {"generator_loss": value}

    def look(self, own: Weights, rows: View, key: Any) -> dict[str, jax.Array]:
        """The discrepancy of held-out rows and as many of the generator's is that of training: nothing more."""
        return {}


def discrepancy(settings: Discrepancy, scale: jax.Array | float, real: jax.Array, fake: jax.Array, rows: View) -> Any:
    """The unbiased estimate of the settings' distance between relaxed rows (n, F) and forged ones (n, F).

    :param scale: the median distance of rows.
    :param rows: their weights, and what they are conditioned on, which then stands beside both.
    """
    paired = rows.context is not None
    if paired:
        real, fake = (jnp.concatenate([part, rows.context], -1) for part in (real, fake))
    weights = jnp.ones(len(real)) if rows.weights is None else rows.weights
    weights = weights / jnp.maximum(weights.sum(), 1e-30)
    flat = jnp.full(len(fake), 1 / len(fake))

    def mean(a: jax.Array, b: jax.Array, w: jax.Array, v: jax.Array, without: bool) -> jax.Array:
        """Of kernel values of all pairs, without those on the diagonal where they are of one row."""
        shares = w[:, None] * v[None, :]
        shares = shares * (1 - jnp.eye(len(a))) if without else shares
        return (shares * _kernel(settings, scale, a, b)).sum() / shares.sum()

    both = mean(real, real, weights, weights, True) + mean(fake, fake, flat, flat, True)
    return both - 2 * mean(real, fake, weights, weights if paired else flat, paired)


def _kernel(settings: Discrepancy, scale: jax.Array | float, a: jax.Array, b: jax.Array) -> jax.Array:
    """(n, m): of maximum mean discrepancy, or minus distances, whose discrepancy is the energy distance."""
    square = (a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2 * a @ b.T
    square = jnp.maximum(square, 0.0) / scale**2
    if settings.distance == "energy":
        return -scale * jnp.sqrt(square + NEAR)
    return sum(jnp.exp(-square / (2 * width**2)) for width in settings.bandwidths) / len(settings.bandwidths)
