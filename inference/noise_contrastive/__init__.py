r"""Noise-contrastive estimation: an energy, and its log Z as one more weight, by telling rows from noise.

With :math:`\nu` draws of a noise density :math:`p_n` for each row, and
:math:`G(x) = f_\theta(x) - c - \log p_n(x) - \log \nu`, where :math:`f_\theta` is the pair's unnormalised log density,
the logit of x being a row,

.. math::
    \max_{\theta, c} \; \mathrm{E}_{data} \log \sigma(G(x)) + \nu\, \mathrm{E}_{p_n} \log (1 - \sigma(G(x)))

At the maximum over all functions :math:`f_\theta - c` is the log density of the rows, so that c is log Z (Gutmann &
Hyvärinen 2010, Proc. 13th AISTATS, theorem 1; 2012, J. Mach. Learn. Res. 13). How sure that is depends on how much the
noise is like the rows. So log Z is estimated afresh after training, and the difference is a figure of the fit.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_gen.inference.svi.by_loss import ByLoss
from ppl_gen.normalizer import normalize

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.pair import Pair

__all__ = ["NoiseContrastive"]

NOISES = ("base", "normal")
SITE = "log_normalizer"


@dataclasses.dataclass(frozen=True)
class NoiseContrastive(ByLoss):
    """Settings of noise-contrastive estimation. An ensemble of members is trained, each from a start of its own.

    :param noise: ``"base"``, the pair's base as it is at each step, or ``"normal"``, with the mean and covariance of
        the rows.
    :param num_noise: :math:`\\nu`, draws of the noise for each row of a step.
    :param learning_rate: Adam's; lowered to a fifth, and once more, where a member's validation loss stalls.
    :param max_steps: optimizer steps of each member at most.
    :param patience: windows without a new best validation loss before the rate is lowered, the third time the member
        stops.
    :param batch_size: rows in a step. None: 256, and 512 from 20,000 rows on.
    :param num_members: networks, each with a start, a split and an order of the rows of its own.
    :param validation: share of the rows, 10,000 of them at most, that each member holds out of its training.
    :param clip: the largest norm of a step's gradient; a longer one is shortened to it.
    :param normalizer: how log Z is found after training: ``"auto"``, ``"exact"``, ``"ais"``, ``"smc"``, ``"none"``
        (then the weight is kept), or settings, ``AIS(...)`` or ``SMC(...)``.
    """

    name: ClassVar[str] = "noise_contrastive"
    title: ClassVar[str] = "noise-contrastive estimation: an ensemble of unnormalised densities, told from noise"
    label: ClassVar[str] = "NoiseContrastive"

    noise: str = "base"
    num_noise: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("noise", NOISES)
        self.require_integer("num_noise", 1)

    def needs_gradients(self, data: Data) -> bool:
        """Noise that is normal is of real columns."""
        return self.noise == "normal"


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) of rows, and a Cholesky factor (D, D) of their covariance."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    return x.mean(0), np.linalg.cholesky(
        covariance + 1e-6 * np.trace(covariance) / len(covariance) * np.eye(x.shape[1])
    )


class Finish:
    """Estimates log Z after training, and remembers what the weight said."""

    def __init__(self, pair: Pair, view: View, settings: NoiseContrastive, seed: int) -> None:
        self.pair, self.view, self.settings, self.seed = pair, view, settings, seed
        self.learnt = self.estimated = np.empty(0)

    def __call__(self, kept: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.learnt = np.asarray(kept.pop(SITE))
        found: dict[str, Any] = normalize(self.pair, kept, self.view, self.settings.normalizer, self.seed)
        if self.settings.normalizer == "none":
            found[SITE] = self.learnt
        self.estimated = np.asarray(found[SITE])
        return found

    def told(self, draws: Draws) -> Draws:
        """The draws, with what the weight said."""
        off = float(np.abs(self.learnt - self.estimated).max())
        return dataclasses.replace(
            draws, figures={**draws.figures, "learnt_log_normalizer_off": off},
            parameters={**draws.parameters, "learnt_log_normalizer": self.learnt},
        )  # fmt: skip
