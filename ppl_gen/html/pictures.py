"""Figures as pictures within the page, each with words that say what it shows."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ppl_gen.files import first_line
from ppl_gen.html.markup import Markup, escape, tag
from ppl_gen.html.wording import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppl_gen.result import Fit

DPI = 120
COLOURS = 128  # of a palette, which makes a file a third as large
# The order in which pictures are chosen: what tells most about whether to use the fit, then about how it came about.
ORDER = (
    "images", "pairs", "density", "states", "conditionals", "forecast", "posterior_predictive", "calibration", "pit",
    "score", "loss_by_time", "latents", "codes", "transitions", "parameters", "residuals", "loss", "course", "modes",
    "ratio", "game", "surface", "filters", "reconstructions", "trajectory", "rank", "trace", "khat", "energy",
    "durations", "annealing", "traversals", "progress", "loss_parts", "grid", "field", "steps", "guidance",
)  # fmt: skip
TITLES = {"pit": "calibration of each column", "khat": "k-hat", "progress": "the course of training"}
FIRST = {  # what each kind of fit is looked at for first
    "posterior": ("rank",), "guide": ("loss",), "ensemble": ("loss", "course", "game"), "bootstrap": (), "point": (),
}  # fmt: skip


def attempt(what: str, make: Callable[[], Any]) -> Markup:
    """What ``make`` gives; where it fails a sentence that says so, since the rest of the report still comes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return escape(make())
    except Exception as error:  # of whatever library: the reader is told, and has the other parts
        text = first_line(error)
        return tag("p", tag("strong", f"{what} could not be made: "), text, "" if text.endswith(".") else ".",
                   class_="problem")  # fmt: skip


def picture(figure: Figure, alt: str, caption: Any, *, kind: str | None = None) -> Markup:
    """A matplotlib figure as an image within the page, in a box that scrolls where it is too narrow to be read."""
    data, width, height = png(figure)
    shown = tag("img", src=f"data:image/png;base64,{data}", alt=alt, width=width, height=height,
                style=f"min-width:{min(width, 500)}px")  # fmt: skip
    box = tag("div", shown, class_="scroll card", role="group", aria_label=f"picture, {alt[:60]}", tabindex="0")
    return tag("figure", box, tag("figcaption", caption), class_=kind)


def png(figure: Figure) -> tuple[str, int, int]:
    """A figure as a small PNG file in base64, and its size in the page's pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    image = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    data = base64.b64encode(small.getvalue()).decode("ascii")
    return data, round(figure.get_figwidth() * 96), round(figure.get_figheight() * 96)


def chosen(fit: Fit, number: int) -> tuple[list[str], list[str]]:
    """The pictures of this fit that the report shows, at most so many, and the others that it has."""
    from ppl_gen import plots

    reasons = plots.applicable(fit)
    wanted = [*FIRST[fit.uncertainty], *(kind for kind in ORDER if kind not in FIRST[fit.uncertainty])]
    wanted += [kind for kind in plots.KINDS if kind not in wanted]
    have = [kind for kind in wanted if not reasons.get(kind, "it is not known")]
    shown = set(have[:number])
    place = {kind: i for i, kind in enumerate((*ORDER, *plots.KINDS))}
    return sorted(shown, key=lambda kind: place[kind]), [kind for kind in have if kind not in shown]


def of_kind(fit: Fit, kind: str) -> Markup:
    """One of the package's pictures; its caption is what the package says of it."""
    from ppl_gen import plots

    function = plots.KINDS[kind]
    figure = function(fit)
    said = plain(function.__doc__ or "")
    name = TITLES.get(kind, kind.replace("_", " "))
    return picture(figure, f"{name}: {titles(figure)}", [tag("strong", f"{name[0].upper()}{name[1:]}. "), said])


def titles(figure: Figure) -> str:
    """What is written over a figure and its panels, in one line."""
    over = [figure.get_suptitle(), *(ax.get_title("left") or ax.get_title() for ax in figure.axes)]
    labels = [ax.get_xlabel() for ax in figure.axes]
    texts = dict.fromkeys(" ".join(text.replace("\\$", "$").split()) for text in (*over, *labels) if text.strip())
    line = "; ".join(texts)
    return line if len(line) <= 400 else f"{line[:399]}…"
