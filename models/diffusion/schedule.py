r"""Noise schedules apart from a backend: their constants.

cosine   :math:`\lambda(t) = -2 \log \tan a(t)`, the angle a going evenly from its value at the greatest
         :math:`\lambda`, :math:`\arctan e^{-\lambda / 2}`, to that at the least (Hoogeboom, Heek & Salimans 2023,
         arXiv:2301.11093, eq. 4)
linear   :math:`\beta(t) = \beta_0 + (\beta_1 - \beta_0) t`, :math:`\lambda = -\log (e^{B(t)} - 1)` with B its integral,
         over the part of the time in which :math:`\lambda` is within its range (Song et al. 2021, arXiv:2011.13456,
         eq. 33)
learned  pieces of :math:`\lambda`, all of one length, each take a share of the time
"""

from __future__ import annotations

import math

BETAS = (0.1, 20.0)  # of the linear schedule: at its beginning, and one unit of time later
LEAST_SHARE = 0.1  # of the time that all pieces of a learned schedule have alike, so that no slope is without bounds


def angles(log_snr_range: tuple[float, float]) -> tuple[float, float]:
    """The angles of the cosine schedule at t = 0 and t = 1."""
    least, greatest = log_snr_range
    return math.atan(math.exp(-0.5 * greatest)), math.atan(math.exp(-0.5 * least))


def times(log_snr_range: tuple[float, float]) -> tuple[float, float]:
    """When the linear schedule is at the greatest and at the least log signal-to-noise ratio."""
    rise, (least, greatest) = BETAS[1] - BETAS[0], log_snr_range

    def when(log_snr: float) -> float:
        total = math.log1p(math.exp(-log_snr))
        return 2 * total / (BETAS[0] + math.sqrt(BETAS[0] ** 2 + 2 * rise * total))

    return when(greatest), when(least)
