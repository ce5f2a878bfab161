"""Adversarial training in JAX: both players' steps of a window are one compiled call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.inference.adversarial.course import Plan
from ppl_gen.inference.adversarial.numpyro_training import State, Training, Weights, train
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.adversarial import Adversarial
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: Adversarial, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.adversarial.Adversarial`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    return train(pair, Game, Plan.of(pair, settings, len(data), seed), view, 0.0, seed, monitor)


class Game(Training):
    """Steps of two players."""

    settings: Adversarial

    def moments(self, weights: Weights) -> Any:
        both = (self.adversary.generator, self.adversary.discriminator)
        return tuple(self.adam.init({name: weights[name] for name in names if name in weights}) for names in both)

    def step(
        self, state: State, fixed: Weights, batches: jax.Array, view: View, extra: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """The discriminator's steps, each by a batch of its own, and one of the generator."""
        settings, adversary = self.settings, self.adversary
        key, last, *keys = jax.random.split(state["key"], 2 + settings.num_discriminator_steps)
        weights, moments = state["weights"], state["moments"][1]
        rate = self.rate(state, settings.rate_of_discriminator)

        def turn(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
            weights, moments = carry
            rows, (one, other) = view.take(inputs[0]), jax.random.split(inputs[1])
            z = adversary.noise(len(rows.x), one)

            def loss(part: Weights) -> jax.Array:
                return adversary.discriminator_loss({**weights, **fixed, **part}, rows, z, other)

            weights, moments, value = self._adam(loss, adversary.discriminator, weights, moments, rate)
            return ({**weights, **_only(adversary.project({**weights, **fixed}), weights)}, moments), value

        if len(batches) == 1:
            (weights, moments), losses = turn((weights, moments), (batches[0], keys[0]))
        else:
            (weights, moments), losses = jax.lax.scan(turn, (weights, moments), (batches, jnp.stack(keys)))
        rows = view.take(batches[-1])
        z = adversary.noise(len(rows.x), last)

        def loss(part: Weights) -> jax.Array:
            return adversary.generator_loss({**weights, **fixed, **part}, rows, z)

        rate = self.rate(state, settings.learning_rate)
        weights, own, value = self._adam(loss, adversary.generator, weights, state["moments"][0], rate)
        found = {"generator_loss": value, "discriminator_loss": losses.mean()}
        return {**state, "weights": weights, "moments": (own, moments), "key": key}, found

    def _adam(self, loss: Any, names: tuple[str, ...], weights: Weights, moments: Any, rate: jax.Array) -> Any:
        """All weights after a step of Adam on some of them, its moments, and the loss before it."""
        part = {name: weights[name] for name in names if name in weights}
        value, gradient = jax.value_and_grad(loss)(part)
        updates, moments = self.adam.update(gradient, moments)
        return {**weights, **{name: part[name] - rate * updates[name] for name in part}}, moments, value

    def look(self, own: Weights, rows: View, key: Any) -> dict[str, jax.Array]:
        """How often the discriminator is right of held-out rows, and of as many of the generator's."""
        adversary = self.adversary
        fakes = adversary.forge(own, adversary.noise(len(rows.x), key), rows.context)
        real = adversary.judge(own, adversary.relax(own, rows), rows.context)
        fake = adversary.judge(own, fakes, rows.context)
        threshold = adversary.threshold
        if threshold is None:  # a critic is right where it is above the middle between its means
            threshold = 0.5 * (real.mean() + fake.mean())
        return {"accuracy_data": (real > threshold).mean(), "accuracy_fakes": (fake <= threshold).mean()}


def _only(weights: Weights, names: Weights) -> Weights:
    return {name: weights[name] for name in names}
