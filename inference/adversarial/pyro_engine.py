"""Adversarial training in torch: both players' steps are one recorded program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppl_gen.inference.adversarial.course import SEED, Plan
from ppl_gen.inference.adversarial.pyro_training import State, Training, Weights, train
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.adversarial import Adversarial
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: Adversarial, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.adversarial.Adversarial`."""
    view = pair.data if pair.data is not None else data.view("pyro")
    return train(pair, Game, Plan.of(pair, settings, len(data), seed), view, 0.0, seed, monitor)


class Game(Training):
    """Steps of two players."""

    settings: Adversarial

    def step(self, state: State, fixed: Weights, batches: list[View], extra: torch.Tensor) -> tuple[State, list[Any]]:
        """The discriminator's steps, each by a batch of its own, and one of the generator."""
        settings, adversary, losses = self.settings, self.adversary, []
        others = {**fixed, **self.unflatten("ratio", state["ratio"])}
        generator = self.unflatten("generator", state["generator"])
        rate, before = self.rate(state, settings.rate_of_discriminator), (state["count"] - 1) * len(batches)
        for number, rows in enumerate(batches):
            z = adversary.noise(len(rows.x), None)

            def judged(vector: torch.Tensor, rows: View = rows, z: torch.Tensor = z) -> torch.Tensor:
                own = {**others, **generator, **self.unflatten("discriminator", vector)}
                return adversary.discriminator_loss(own, rows, z, None)

            gradient, loss = torch.func.grad_and_value(judged)(state["discriminator"])
            losses.append(loss)
            changed = self.adam(state, "discriminator", gradient, rate, before + number + 1, settings.betas)
            state = {**state, **changed, "discriminator": self._projected(changed["discriminator"], others)}
        rows = batches[-1]
        z = adversary.noise(len(rows.x), None)
        discriminator = self.unflatten("discriminator", state["discriminator"])

        def fooled(vector: torch.Tensor) -> torch.Tensor:
            own = {**others, **discriminator, **self.unflatten("generator", vector)}
            return adversary.generator_loss(own, rows, z)

        gradient, loss = torch.func.grad_and_value(fooled)(state["generator"])
        rate = self.rate(state, settings.learning_rate)
        changed = self.adam(state, "generator", gradient, rate, state["count"], settings.betas)
        return {**state, **changed}, [loss, torch.stack(losses).mean()]

    def _projected(self, vector: torch.Tensor, others: Weights) -> torch.Tensor:
        own = self.unflatten("discriminator", vector)
        found = self.adversary.project({**others, **own})
        same = all(found[name] is own[name] for name in own)
        return vector if same else self.flatten("discriminator", found)

    def look(self, own: Weights, rows: View) -> list[float]:
        """How often the discriminator is right of held-out rows, and of as many of the generator's."""
        adversary = self.adversary
        fakes = adversary.forge(own, adversary.noise(len(rows.x), SEED), rows.context)
        real = adversary.judge(own, adversary.relax(own, rows), rows.context)
        fake = adversary.judge(own, fakes, rows.context)
        threshold = adversary.threshold
        if threshold is None:  # a critic is right where it is above the middle between its means
            threshold = float(0.5 * (real.mean() + fake.mean()))
        return [float((real > threshold).double().mean()), float((fake <= threshold).double().mean())]
