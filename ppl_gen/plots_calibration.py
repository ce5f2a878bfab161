"""The picture of ranks: how their distribution function differs from that of uniform ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_gen.plots_style import LIGHT, MODEL, SHADE, axes_of, colour, finish, styled

if TYPE_CHECKING:
    from ppl_gen.calibration import Calibration


@styled
def plot_ranks(calibration: Calibration, *, prob: float = 0.95, ax: Axes | None = None, title: str = "") -> Figure:
    """The empirical distribution function of the ranks less that of uniform ones, a line for each quantity, and the
    band that a line of calibrated ranks stays in with probability ``prob`` (Säilynoja, Bürkner & Vehtari 2022).

    A line above the band at the left and below it at the right has too many extreme ranks: the draws are too narrow.
    The other way round they are too wide. One that stays on one side says that they are biased: above, to values that
    are too high, as the truth ranks low among them.
    """
    from ppl_gen.arviz_bridge import ecdf_difference

    ax = axes_of(ax, 4.0, 3.0)
    last = len(calibration.names) - 1
    for j, name in enumerate(calibration.names):
        points, difference, lower, upper = ecdf_difference(calibration.ranks[:, j], prob)
        if j == 0:
            ax.fill_between(points, lower, upper, color=LIGHT, linewidth=0, label=f"{prob:.0%} band", step="mid")
            ax.axhline(0.0, color=SHADE, linewidth=0.6)
        ax.plot(points, difference, color=colour(3) if j == last else MODEL, linewidth=1.2 if j == last else 0.7,
                label=name, alpha=1.0 if j == last else 0.6, drawstyle="steps-mid")  # fmt: skip
    ax.set_xlim(0, 1)
    widest = max(float(np.abs(ax.get_ylim()).max()), 0.05)
    ax.set_ylim(-widest, widest)
    ax.set_xlabel("rank of the truth")
    ax.set_ylabel("difference from uniform")
    return finish(ax, title or None)
