"""What all pictures share: colours, figures made without pyplot, and labels that survive any column name."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure

P = ParamSpec("P")
R = TypeVar("R")

# Okabe & Ito (2008), "Color Universal Design", without the yellow that is lost on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
ALARM, INK, SHADE, LIGHT, MODEL = "#D55E00", "#222222", "#8C8C8C", "#DDDDDD", "#0072B2"
CHAINS = ("#0B3C68", "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#7F7F7F")
MAX_LABEL = 24
CHARACTERS = 11  # of a title, per inch
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "figure.titlesize": 10.5, "legend.fontsize": 8,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "lines.linewidth": 1.2, "axes.linewidth": 0.7, "axes.grid": False,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "text.usetex": False,
    "axes.titlelocation": "left", "axes.formatter.useoffset": False, "axes.formatter.limits": (-3, 4),
    "axes.prop_cycle": cycler(color=PALETTE),
}  # fmt: skip


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Draws under :data:`STYLE`; matplotlib's own settings are afterwards what they were."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


def figure_of(fig: Figure | SubFigure | None, width: float, height: float) -> Figure | SubFigure:
    """The figure to fill: the caller's, or a new one (inches) that pyplot knows nothing of."""
    return Figure(figsize=(width, height), layout="constrained") if fig is None else fig


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes to draw in: the caller's, or those of a new figure (inches)."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot() if ax is None else tidy(ax)


def finish(drawn: Axes | Figure | SubFigure, title: str | None = None) -> Figure:
    """The whole figure that was drawn in, its title set and its axes tidied."""
    figure = drawn.get_figure(root=True)
    assert isinstance(figure, Figure)
    if title is not None:
        # Over an axes that shares the caller's figure; else over the whole width, tick labels included.
        place = drawn if isinstance(drawn, Axes) and len(figure.axes) > 1 else drawn.get_figure()
        assert place is not None
        text = textwrap.fill(title, max(20, int(CHARACTERS * place.bbox.width / figure.dpi)))
        place.set_title(text) if isinstance(place, Axes) else place.suptitle(text)
    for ax in [drawn] if isinstance(drawn, Axes) else drawn.axes:
        tidy(ax)
    return figure


def tidy(ax: Axes) -> Axes:
    """Ticks that are made later, when the figure is drawn, keep the style too."""
    ax.tick_params(labelsize=STYLE["xtick.labelsize"], color=INK, labelcolor=INK, width=0.7, length=3)
    return ax


def panels(fig: Figure | SubFigure, number: int, columns: int) -> list[Axes]:
    """``number`` axes in a grid; the places left over in the last row stay empty."""
    columns = max(1, min(columns, number))
    grid = fig.add_gridspec(math.ceil(number / columns), columns)
    return [fig.add_subplot(grid[i // columns, i % columns]) for i in range(number)]


def colour(k: int) -> tuple[float, float, float]:
    """The colour of component k, the same in every picture; beyond the palette it comes again, darker."""
    shade = 0.62 ** (k // len(PALETTE))
    red, green, blue = to_rgb(PALETTE[k % len(PALETTE)])
    return red * shade, green * shade, blue * shade


def label(name: Any, limit: int = MAX_LABEL) -> str:
    """A name as text: one line, not too long, and never read as mathematics."""
    text = " ".join(str(name).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("$", r"\$")


def interval_name(fit: Any) -> str:
    """What an interval of this fit means, for a legend."""
    return {"posterior": "posterior draws", "guide": "draws from the guide", "bootstrap": fit.draws.refits,
            "ensemble": "members of the ensemble",
            "point": "the point estimate"}[fit.uncertainty]  # fmt: skip


def score_interval(fit: Any, hdi_prob: float) -> str:
    """What the interval of a score is, for a legend: of an ensemble of few members, the range of them all."""
    if few_members(fit, hdi_prob):
        number = len(next(iter(fit.posterior.values())))
        return "the only member of the ensemble" if number == 1 else f"range of all {number} {interval_name(fit)}"
    return f"{hdi_prob:.0%} interval over {interval_name(fit)}"


def few_members(fit: Any, prob: float) -> bool:
    """Whether the members of an ensemble are so few that an interval of this probability is the range of them all."""
    number = len(next(iter(fit.posterior.values())))
    return bool(fit.uncertainty == "ensemble" and int(prob * number) >= number - 1)


def band(fit: Any, draws: np.ndarray, prob: float = 0.9) -> np.ndarray:
    """(2, ...): the ends of an interval over draws (S, ...), as :func:`score_interval` names it."""
    tail = 0.0 if few_members(fit, prob) else (1 - prob) / 2
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0))


def bins(values: np.ndarray, resolution: float, low: float, high: float, most: int = 60) -> np.ndarray:
    """Edges of equal bins over [low, high], their width a multiple of the values' resolution where that matters.

    Values recorded to some resolution alias with bins of another width: empty and doubled bars. The widths are those
    of Freedman & Diaconis (1981).
    """
    quartiles = np.quantile(values, [0.25, 0.75])
    width = 2.0 * (quartiles[1] - quartiles[0]) * len(values) ** (-1 / 3)
    # Separate groups stretch the quartiles; the second rule does not look at them.
    width = min(max(width, (high - low) / most), (high - low) / max(5.0, 2.0 * len(values) ** 0.4))
    if resolution * 200 >= high - low:
        width = max(1, round(width / resolution)) * resolution
        low = float(values.min()) - resolution / 2 - math.ceil(max(values.min() - low, 0.0) / width) * width
    number = max(1, math.ceil((high - low) / width - 1e-9))
    return low + width * np.arange(number + 1)
