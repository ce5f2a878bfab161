r"""Score matching: an energy whose gradient is that of the data's log density, without samples and without log Z.

With the score :math:`s_\theta(x) = \nabla_x \log p_\theta(x)`, which log Z is not in, the loss of a row x is

.. math::
    \text{denoising:} \quad \tfrac12 \| \sigma s_\theta(x + \sigma \xi) + \xi \|^2, \qquad
    \text{sliced:} \quad v^T \nabla_x (v^T s_\theta(x)) + \tfrac12 \| s_\theta(x) \|^2

with :math:`\xi` and v standard normal, drawn anew at every step. The first is least where s is the score of the rows
with noise of standard deviation :math:`\sigma` added (Vincent 2011, Neural Comput. 23, eq. 9 times :math:`\sigma^2`):
that blurred density is what is fitted. The second (Hyvärinen 2005, J. Mach. Learn. Res. 6; Song, Garg, Shi & Ermon
2019, arXiv:1905.07088, eq. 8, with the variance of the second term reduced) is that of the rows themselves, and up to a
constant the Fisher divergence :math:`\tfrac12 \mathrm{E} \| s_\theta - s \|^2`.

A score says how a density changes where there are rows. How much mass each of several separate parts has it hardly
says (Wenliang & Kanagawa 2020, arXiv:2008.10087): held-out log densities and chains do.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.inference.svi.by_loss import ByLoss

__all__ = ["ScoreMatching"]

METHODS = ("denoising", "sliced")


@dataclasses.dataclass(frozen=True)
class ScoreMatching(ByLoss):
    """Settings of score matching. An ensemble of members is trained, each from a start of its own.

    :param method: ``"denoising"`` or ``"sliced"``.
    :param noise: :math:`\\sigma` of denoising, in model space, where columns have standard deviation 1.
    :param num_slices: directions v of each row in a step of sliced score matching.
    :param learning_rate: Adam's; lowered to a fifth, and once more, where a member's validation loss stalls.
    :param max_steps: optimizer steps of each member at most.
    :param patience: windows without a new best validation loss before the rate is lowered, the third time the member
        stops.
    :param batch_size: rows in a step. None: 256, and 512 from 20,000 rows on.
    :param num_members: networks, each with a start, a split and an order of the rows of its own.
    :param validation: share of the rows, 10,000 of them at most, that each member holds out of its training.
    :param clip: the largest norm of a step's gradient; a longer one is shortened to it.
    :param normalizer: how log Z is found after training: ``"auto"``, ``"exact"``, ``"ais"``, ``"smc"``, ``"none"``, or
        settings, ``AIS(...)`` or ``SMC(...)``.
    """

    name: ClassVar[str] = "score_matching"
    title: ClassVar[str] = "score matching: an ensemble of unnormalised densities by their gradients"
    label: ClassVar[str] = "ScoreMatching"

    method: str = "denoising"
    noise: float = 0.1
    num_slices: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("method", METHODS)
        self.require_number("noise", 0.0)
        self.require_integer("num_slices", 1)
