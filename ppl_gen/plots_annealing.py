"""The picture of how log Z was found: estimates and weights along the path of temperatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ppl_gen import plots_style
from ppl_gen.checks_energies import is_annealed
from ppl_gen.errors import UnsupportedError
from ppl_gen.latents import member_of
from ppl_gen.normalizer import TRAJECTORY
from ppl_gen.plots_style import ALARM, LIGHT, MODEL, SHADE, styled

if TYPE_CHECKING:
    from ppl_gen.result import Fit


def no_annealing(fit: Fit) -> str:
    """Why there is no such picture; an empty string where there is."""
    if fit.pair.tempered is None:
        return "its density is normalised as it is"
    return "" if is_annealed(fit) else "log Z was not estimated along a path: fit.normalize('ais') or 'smc' does"


@styled
def plot_annealing(fit: Fit, *, fig: Figure | SubFigure | None = None, member: int = 0) -> Figure:
    """Left, the estimate of the log normaliser at each inverse temperature, forward (a stochastic lower bound) and
    backward (an upper one), less the straight line between its ends, so that their gap can be seen; the bars are two
    standard errors. Middle, log weights less that estimate, their median and 90 %. Right, their effective number.

    :param member: of an ensemble, whose.
    :raises UnsupportedError: log Z was not estimated along a path.
    """
    reason = no_annealing(fit)
    if reason:
        raise UnsupportedError(f"No annealing picture of {fit.family.name} by {fit.engine.name}: {reason}.")
    path = dict(zip(TRAJECTORY, member_of(fit, member)["annealing"][0].astype(np.float64).T, strict=True))
    beta, value, error = path["inverse_temperature"], path["log_normalizer"], path["error"]
    fig = plots_style.figure_of(fig, 10.0, 3.2)
    first, second, third = plots_style.panels(fig, 3, 3)
    line = value[-1] * beta
    shown = np.linspace(0, len(beta) - 1, 12).astype(int)
    for name, colour, label in (("log_normalizer", MODEL, "forward"), ("reverse", ALARM, "backward")):
        off = error if name == "log_normalizer" else path["reverse_error"]
        first.plot(beta, path[name] - line, color=colour, label=f"{label}: {path[name][-1]:.3f} ± {off[-1]:.2g}")
        first.errorbar(beta[shown], (path[name] - line)[shown], 2 * off[shown], fmt="none", color=colour, alpha=0.6)
    first.set_title("log Z, less the line between its ends")
    first.set_ylabel("nats")
    first.legend(loc="best")
    second.fill_between(beta, path["low"] - value, path["high"] - value, color=LIGHT, linewidth=0, label="90 %")
    second.plot(beta, path["median"] - value, color=MODEL, label="median")
    second.axhline(0, color=SHADE, linewidth=0.8)
    second.set_title("log weights, less log of their mean")
    second.set_ylabel("nats")
    second.legend(loc="best")
    third.plot(beta, path["ess"], color=MODEL)
    third.set_ylim(0, 1.08 * float(np.nanmax(path["ess"])))
    third.set_title("effective sample size")
    for ax in (first, second, third):
        ax.set_xlabel("inverse temperature")
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return plots_style.finish(fig, f"{fit.family.name}: log Z along the path of temperatures, member {member}")
