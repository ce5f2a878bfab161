"""Training by a discrepancy in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.inference.adversarial.course import Plan
from ppl_gen.inference.adversarial.pyro_training import State, Training, Weights, train
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
    view = pair.data if pair.data is not None else data.view("pyro")
    assert pair.adversary is not None
    assert pair.initialize is not None
    dtype = torch.get_default_dtype()
    start = {name: torch.as_tensor(value[0], dtype=dtype) for name, value in pair.initialize(view, seed, 1).items()}
    some = view.take(torch.as_tensor(np.linspace(0, len(view.x) - 1, min(len(view.x), SOME_ROWS)).astype(int)))
    with torch.no_grad():
        scale = median_distance(pair.adversary.relax(start, some).double().numpy())
    return train(pair, Descent, Plan.of(pair, settings, len(data), seed), view, scale, seed, monitor)


class Descent(Training):
    """Steps of the generator alone."""

    settings: Discrepancy

    def step(self, state: State, fixed: Weights, batches: list[View], extra: torch.Tensor) -> tuple[State, list[Any]]:
        """A step of Adam on the discrepancy of a batch and as many of the generator's rows."""
        adversary, (rows,) = self.adversary, batches
        z = adversary.noise(len(rows.x), None)

        def loss(vector: torch.Tensor) -> torch.Tensor:
            own = {**self.own(state, fixed), **self.unflatten("generator", vector)}
            real, fake = adversary.relax(own, rows), adversary.forge(own, z, rows.context)
            return discrepancy(self.settings, extra, real, fake, rows)

        gradient, value = torch.func.grad_and_value(loss)(state["generator"])
        rate = self.rate(state, self.settings.learning_rate)
        return self.adam(state, "generator", gradient, rate, state["count"], self.settings.betas), [value]

    def look(self, own: Weights, rows: View) -> list[float]:
        """The discrepancy of held-out rows and as many of the generator's is that of training: nothing more."""
        return []


def discrepancy(
    settings: Discrepancy, scale: torch.Tensor | float, real: torch.Tensor, fake: torch.Tensor, rows: View
) -> torch.Tensor:
    """The unbiased estimate of the settings' distance between relaxed rows (n, F) and forged ones (n, F).

    :param scale: the median distance of rows.
    :param rows: their weights, and what they are conditioned on, which then stands beside both.
    """
    paired = rows.context is not None
    if paired:
        real, fake = (torch.cat([part, rows.context], -1) for part in (real, fake))
    weights = torch.ones(len(real)) if rows.weights is None else rows.weights
    weights = weights / weights.sum().clamp(min=1e-30)
    flat = torch.full((len(fake),), 1 / len(fake))

    def mean(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor, v: torch.Tensor, without: bool) -> torch.Tensor:
        """Of kernel values of all pairs, without those on the diagonal where they are of one row."""
        shares = w[:, None] * v[None, :]
        shares = shares * (1 - torch.eye(len(a))) if without else shares
        return (shares * _kernel(settings, scale, a, b)).sum() / shares.sum()

    both = mean(real, real, weights, weights, True) + mean(fake, fake, flat, flat, True)
    return both - 2 * mean(real, fake, weights, weights if paired else flat, paired)


def _kernel(settings: Discrepancy, scale: torch.Tensor | float, a: torch.Tensor, b: torch.Tensor) -> Any:
    """(n, m): of maximum mean discrepancy, or minus distances, whose discrepancy is the energy distance."""
    square = (a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2 * a @ b.T
    square = square.clamp(min=0.0) / scale**2
    if settings.distance == "energy":
        return -scale * torch.sqrt(square + NEAR)
    return sum(torch.exp(-square / (2 * width**2)) for width in settings.bandwidths) / len(settings.bandwidths)
