r"""Discrepancy: a generator of rows fitted without a discriminator, by a distance between samples.

Between a batch x of rows and one y of the generator's, :math:`y = G(z), z \sim \mathrm{Normal}(0, I)`, both relaxed as
the networks see them, the step of Adam lowers an unbiased estimate of one of

.. math::
    \text{mmd} &= \mathrm{E}\, k(x, x') + \mathrm{E}\, k(y, y') - 2\, \mathrm{E}\, k(x, y), \quad
    k(a, b) = \tfrac1S \sum_s e^{-|a - b|^2 / (2 \sigma_s^2)} \\
    \text{energy} &= 2\, \mathrm{E} |x - y| - \mathrm{E} |x - x'| - \mathrm{E} |y - y'|

which is 0 where the two have one distribution, and else positive: the squared maximum mean discrepancy (Gretton et al.
2012, J. Mach. Learn. Res. 13, eq. 3; of generators Li, Swersky & Zemel 2015, arXiv:1502.02761, and Dziugaite, Roy &
Ghahramani 2015, arXiv:1505.03906), whose :math:`\sigma_s` are ``bandwidths`` times the median distance of rows, and the
energy distance (Székely & Rizzo 2013, J. Stat. Plan. Inference 143). No pair of a row with itself is counted, which
makes the estimate unbiased (and now and then negative). Where a family conditions on columns, they stand beside both
samples, so that the distance is that of the joint distributions. Pyro has the two for samples of its sites, as
``Trace_MMD`` and ``EnergyDistance``.

The mean of the generator's weights, and the second phase, which trains the log ratio, are those of
:mod:`~ppl_gen.inference.adversarial`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.spatial.distance import pdist

from ppl_gen.errors import SettingError
from ppl_gen.inference.adversarial.calibrated import Calibrated

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

__all__ = ["Discrepancy"]

DISTANCES = ("mmd", "energy")
SOME_ROWS = 500  # that the median distance is of


@dataclasses.dataclass(frozen=True)
class Discrepancy(Calibrated):
    """Settings of training by a discrepancy. An ensemble of members is trained, each from a start of its own.

    :param distance: ``"mmd"`` or ``"energy"``.
    :param bandwidths: of mmd: standard deviations of its kernels, in units of the median distance of rows.
    :param learning_rate: Adam's, at first; it falls to 0 in the second half of the steps.
    :param betas: Adam's decays of the means of gradients and of their squares.
    :param ema: decay of the mean of the generator's weights that is kept; 0 keeps the last.
    :param max_steps: steps of the generator, rounded up to whole windows of at least 50.
    :param batch_size: rows, and as many of the generator's, in a step.
    :param num_members: networks, each with a start, a split and an order of the rows of its own.
    :param validation: share of the rows, 10,000 of them at most, that each member holds out of its training; their
        logistic loss says when the second phase stops.
    :param ratio_steps: of the second phase, at most.
    :param ratio_learning_rate: Adam's in it, lowered to a fifth, and once more, where the validation loss stalls.
    :param patience: windows without a new best validation loss before that rate is lowered, the third time it stops.
    """

    name: ClassVar[str] = "discrepancy"
    title: ClassVar[str] = "discrepancy: an ensemble of generators by maximum mean discrepancy or energy distance"
    label: ClassVar[str] = "Discrepancy"

    distance: str = "mmd"
    bandwidths: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("distance", DISTANCES)
        widths: Any = self.bandwidths
        if isinstance(widths, int | float):
            object.__setattr__(self, "bandwidths", widths := (widths,))
        ok = isinstance(widths, tuple) and bool(widths) and all(isinstance(w, int | float) and w > 0 for w in widths)
        self.require("bandwidths", ok, "numbers above 0")
        if self.distance == "energy":
            self.refuse_idle(("bandwidths",), False, "distance='mmd'")

    def run(self, pair: Pair, data: Data, *, seed: int, monitor: Monitor) -> Draws:
        """Fit the pair to the data.

        :raises SettingError: options of the family are for a game, of which there is none.
        """
        if pair.adversary is not None and pair.adversary.of_game:
            raise SettingError(f"Discrepancy: {pair.adversary.of_game[0]} of {pair.family.name} is of adversarial "
                               "training alone, and changes nothing here: leave it out.")  # fmt: skip
        return super().run(pair, data, seed=seed, monitor=monitor)


def median_distance(rows: np.ndarray) -> float:
    """The median distance of some of these relaxed rows (n, F), 1 where most are alike."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), SOME_ROWS)).astype(int)]
    return float(np.median(pdist(some))) or 1.0
