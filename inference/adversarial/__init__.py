r"""Adversarial training: a generator of rows, and a discriminator that tells its rows from those of the table.

A row is made of noise, :math:`x = G(z), z \sim \mathrm{Normal}(0, I)`, and a discriminator d judges it (Goodfellow et
al. 2014, arXiv:1406.2661). The two take turns: in a training step the discriminator takes ``num_discriminator_steps``
of Adam, the generator one, each by its own loss and learning rate (the family's ``loss`` and ``regularizer``; two time
scales: Heusel et al. 2017, arXiv:1706.08500). The learning rates fall to 0 over the second half of the steps. What is
kept of the generator is an exponential mean of its weights (Yazici et al. 2019, arXiv:1806.04498), which forgets the
start: over the first steps it is that of the latter half of them. A discriminator of several rows at once is the
family's (``pack``; Lin, Khetan, Fanti & Oh 2018, arXiv:1712.04086).

A game has no loss that falls. So a second phase trains a discriminator of single rows, r, by the logistic loss

.. math::
    -\mathrm{E}_{data} \log \sigma(r(x)) - \mathrm{E}_z \log (1 - \sigma(r(G(z))))

with the averaged generator held fixed. Its minimum over all functions is the log ratio of the densities of the rows and
of the generator, :math:`r = \log p_{data} / p_G`, whatever the loss of the game was; there the loss is
:math:`2 \log 2 - 2\, \mathrm{JS}(p_{data}, p_G)`. It stops where the loss of validation rows does.

A member whose losses or weights are no longer finite stops, with what it had a window before.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.inference.adversarial.calibrated import Calibrated

__all__ = ["Adversarial"]


@dataclasses.dataclass(frozen=True)
class Adversarial(Calibrated):
    """Settings of adversarial training. An ensemble of members is trained, each from a start of its own.

    :param num_discriminator_steps: of the discriminator for each step of the generator, each with a batch of its own.
    :param learning_rate: Adam's of the generator, at first; it falls to 0 in the second half of the steps.
    :param discriminator_learning_rate: that of the discriminator. None: twice the generator's.
    :param betas: Adam's decays of the means of gradients and of their squares, for both.
    :param ema: decay of the mean of the generator's weights that is kept; 0 keeps the last.
    :param max_steps: steps of the generator, rounded up to whole windows of at least 50.
    :param batch_size: rows, and as many of the generator's, in a step of either, rounded down to whole packs.
    :param num_members: pairs of networks, each with a start, a split and an order of the rows of its own.
    :param validation: share of the rows, 10,000 of them at most, that each member holds out of its training. How often
        the discriminator is right is told of them, and their logistic loss says when the second phase stops.
    :param ratio_steps: of the second phase, at most.
    :param ratio_learning_rate: Adam's in it, lowered to a fifth, and once more, where the validation loss stalls.
    :param patience: windows without a new best validation loss before that rate is lowered, the third time it stops.
    """

    name: ClassVar[str] = "adversarial"
    title: ClassVar[str] = "adversarial training: an ensemble of generators and of discriminators"
    label: ClassVar[str] = "Adversarial"

    num_discriminator_steps: int = 1
    discriminator_learning_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_discriminator_steps", 1)
        if self.discriminator_learning_rate is not None:
            self.require_number("discriminator_learning_rate", 0.0)

    @property
    def rate_of_discriminator(self) -> float:
        """The discriminator's learning rate at first."""
        return self.discriminator_learning_rate or 2 * self.learning_rate

    @property
    def batches_per_step(self) -> int:
        """Batches of rows that a step takes."""
        return self.num_discriminator_steps

    @property
    def figures(self) -> tuple[str, ...]:
        """What is recorded of the game, a number for each member and window."""
        return ("generator_loss", "discriminator_loss", "accuracy_data", "accuracy_fakes")
