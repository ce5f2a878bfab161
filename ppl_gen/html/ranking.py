"""The ranking: models in the order of their held-out log density, as a table and as a picture of the differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ppl_gen import plots_style
from ppl_gen.errors import PPLGenError
from ppl_gen.html.markup import Markup, bullets, table, tag
from ppl_gen.html.pictures import attempt, picture
from ppl_gen.html.wording import duration, figure, share, shortened
from ppl_gen.plots_style import ALARM, INK, MODEL, SHADE, label, styled
from ppl_gen.verdicts_table import grouped

if TYPE_CHECKING:
    from ppl_gen.html.sources import Subject
    from ppl_gen.result import Fit

APART = 2.0  # standard errors of a difference


@dataclasses.dataclass(frozen=True)
class Ranking:
    """``models`` best first, each with the entries that a comparison's file has for it (nats per ``unit``); ``how``
    rows were held out; ``left_out`` (model, why); ``warnings`` in sentences; ``scored`` whether their seconds are of
    all that a comparison did with them."""

    models: tuple[Mapping[str, Any], ...]
    how: str
    unit: str = "row"
    left_out: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    scored: bool = False


def ranking_of(subject: Subject) -> Ranking | None:
    """Of a comparison what its file says; of fits of the same rows what :func:`ppl_gen.compare` finds by their
    held-out densities. None of a single fit."""
    if subject.comparison is not None:
        return _of_document(subject.comparison)
    fits = subject.fits
    if len(fits) < 2:
        return None
    reasons = {name: _no_density(fit) for name, fit in fits.items()}
    chosen = {name: fit for name, fit in fits.items() if not reasons[name]}
    left_out = tuple((name, why) for name, why in reasons.items() if why)
    if len(chosen) < 2:
        return Ranking((), "", left_out=left_out, warnings=("Fewer than two fits have held-out densities to rank.",))
    return _by_held_out(chosen, left_out)


def _no_density(fit: Fit) -> str:
    if fit.family.density == "implicit":
        return "its density is implicit, and surrogates take long: ppl-gen compare --surrogate ais"
    return "" if np.isfinite(fit.held_out).any() else "no held-out density of its rows is known"


def _by_held_out(fits: Mapping[str, Fit], left_out: tuple[tuple[str, str], ...]) -> Ranking:
    from ppl_gen.compare import compare

    try:
        found = compare(fits)
    except PPLGenError as error:
        return Ranking((), "", left_out=left_out, warnings=(f"The fits are not ranked: {error}",))
    number = len(found.pointwise)
    per_row = {name: found.frame[name] / number for name in ("elpd", "se", "difference", "difference_se")}
    models = tuple(
        {"model": str(name), **{key: float(values[name]) for key, values in per_row.items()},
         "weight": float(row["weight"]), "density": row["density"], "engine": row["engine"],
         "seconds": fits[str(name)].seconds}
        for name, row in found.frame.iterrows()
    )  # fmt: skip
    return Ranking(models, found.how, found.unit, left_out, found.warnings)


def _of_document(document: Mapping[str, Any]) -> Ranking:
    from ppl_gen.cli.wording import in_options  # as all that a report says to do next

    left = [(str(e.get("model")), in_options(str(e.get("why")))) for e in document.get("left_out") or ()
            if isinstance(e, dict)]  # fmt: skip
    return Ranking(
        tuple(document["models"]), str(document.get("how") or ""), str(document.get("unit") or "row"), tuple(left),
        tuple(map(str, document.get("warnings") or ())), scored=True,
    )  # fmt: skip


def section(ranking: Ranking, links: Mapping[str, str]) -> Markup:
    """The table, the picture, what to keep in mind, and what was left out.

    :param links: where the report speaks of each model: names to anchors.
    """
    parts: list[Any] = []
    if ranking.models:
        several_ = f"Look at the differences: the same {ranking.unit}s are hard for every model, so the error of a "
        several_ += "difference is usually smaller than those of the two means."
        one = "There is one model alone, and no difference to look at."
        parts.append(tag("p", f"Held-out log density in nats per {ranking.unit}, higher is better: {ranking.how}. ",
                         several_ if len(ranking.models) > 1 else one))  # fmt: skip
        parts.append(_table(ranking, links))
        parts.append(_legend(ranking))
        parts.append(_verdicts(ranking))
        if len(ranking.models) > 1:
            parts.append(attempt("The picture of the differences", lambda: _picture(ranking)))
    if ranking.warnings:
        parts.append(tag("div", tag("p", tag("strong", "Keep in mind")), bullets(ranking.warnings), class_="caution"))
    if ranking.left_out:
        parts.append(tag("h3", "Left out"))
        parts.append(bullets([tag("strong", names), f": {why}"] for names, why in _by_reason(ranking.left_out)))
    return Markup("".join(parts))


def _by_reason(left_out: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names that share a reason, and the reason."""
    return [(", ".join(map(shortened, names)), why) for names, why in grouped(left_out)]


def _verdicts(ranking: Ranking) -> Markup:
    """Below the table, as sentences are cut off in one that is wider than its window."""
    told = [(shortened(model["model"]), shortened(model["verdict"], 200)) for model in ranking.models
            if model.get("verdict")]  # fmt: skip
    if not told:
        return Markup("")
    return Markup(tag("h3", "Verdicts") + bullets([tag("strong", name), f": {words}"] for name, words in told))


def _legend(ranking: Ranking) -> Markup:
    """What the columns are."""
    parts = []
    if any(model.get("error") is not None for model in ranking.models):
        parts.append("Its error: the Monte Carlo standard error of the number in nats, or the share of "
                     f"{ranking.unit}s whose k-hat is above 0.7 and whose number is too low.")  # fmt: skip
    if any(model.get("calibration") is not None for model in ranking.models):
        parts.append(f"In 90 % region: the share of held-out {ranking.unit}s in the region of highest density that "
                     "holds 90 % of the model; far fewer, and the model is too sure of itself.")  # fmt: skip
    if len(ranking.models) > 1 and any(model.get("weight") is not None for model in ranking.models):
        parts.append("Weight: of the model in the mixture of all that predicts best (stacking).")
    if ranking.scored and any(model.get("seconds") is not None for model in ranking.models):
        parts.append("Fits and scores: the time that all fits of the model took, those of the folds too, with scoring.")
    return tag("p", " ".join(parts), class_="note") if parts else Markup("")


def _table(ranking: Ranking, links: Mapping[str, str]) -> Markup:
    told = [name for name in ("density", "error", "calibration", "weight", "seconds")
            if any(model.get(name) is not None for model in ranking.models)]  # fmt: skip
    header = {"density": "density", "error": "its error", "calibration": "in 90 % region", "weight": "weight",
              "seconds": "fits and scores" if ranking.scored else "fitted in"}  # fmt: skip
    rows = []
    for place, model in enumerate(ranking.models):
        name = str(model["model"])
        shown = tag("a", shortened(name), href=f"#{links[name]}") if name in links else shortened(name)
        elpd = f"{figure(_number(model.get('elpd')), 3)} ± {figure(_number(model.get('se')), 3)}"
        gap = f"{figure(_number(model.get('difference')), 3)} ± {figure(_number(model.get('difference_se')), 3)}"
        rows.append([shown, ["at least " if model.get("is_bound") else "", elpd], gap if place else "best",
                     *(_cell(model, name) for name in told)])  # fmt: skip
    several_ = len(rows) > 1
    what = "Models ranked by held-out" if several_ else "Held-out"
    caption = f"{what} log density (nats per {ranking.unit} ± standard error)"
    names = ["model", "ELPD", "difference to best", *(header[name] for name in told)]
    numbers = [1, 2, *(3 + j for j, name in enumerate(told) if name != "density")]
    if not several_:  # of one model there is no difference, and all the weight
        kept = [j for j, name in enumerate(names) if name not in ("difference to best", "weight")]
        names, rows = [names[j] for j in kept], [[rows[0][j] for j in kept]]
        numbers = [place for place, j in enumerate(kept) if j in numbers]
    return table(names, rows, caption, numbers=numbers)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _cell(model: Mapping[str, Any], name: str) -> Any:
    value = model.get(name)
    if name == "density":
        text = shortened(value or "not known", 80)
        return f"{text} (a bound)" if name == "density" and model.get("is_bound") and value != "bound" else text
    if name == "error":
        kind = None if value is None else model.get("error_kind")
        if kind == "k-hat":
            return f"k-hat {share(_number(value), 1.0)}"
        return "exact" if value is None else f"± {_number(value):.2g}"
    if name == "calibration":
        error = model.get("calibration_se")
        told = "not known" if value is None else share(_number(value), 1.0)
        return told if value is None or error is None else f"{told.removesuffix(' %')} ± {100 * _number(error):.0f} %"
    if name == "seconds":
        return duration(_number(value))
    return figure(_number(value), 2)


def _picture(ranking: Ranking) -> Markup:
    told = "; ".join(
        f"{shortened(model['model'], 40)} {figure(_number(model.get('difference')), 3)} ± "
        f"{figure(_number(model.get('difference_se')), 3)}"
        for model in ranking.models[1:]
    )
    best = shortened(ranking.models[0]["model"], 40)
    caption = (
        f"Held-out log density of each model less that of {best}, the best, in nats per {ranking.unit}. Thick bars: "
        "one standard error of the difference; thin bars: two. Grey reaches the line: not told apart from the best. "
        "Open circles are bounds: the density is at least that."
    )
    return picture(differences(ranking.models, ranking.unit), f"Differences to {best}, the best: {told}.", caption)


@styled
def differences(models: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Differences to the best model with one and two standard errors, best at the top."""
    at = np.arange(len(models))
    gap = np.array([_number(model.get("difference")) for model in models])
    error = np.nan_to_num([_number(model.get("difference_se")) for model in models])
    tied = gap + APART * error >= 0
    colours = [MODEL if place == 0 else SHADE if same else ALARM for place, same in zip(at, tied, strict=True)]
    ax = plots_style.axes_of(None, 5.8, 0.34 * len(models) + 1.0)
    ax.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    ax.hlines(at, gap - APART * error, gap + APART * error, colors=colours, linewidth=1)
    ax.hlines(at, gap - error, gap + error, colors=colours, linewidth=3.5)
    faces = ["white" if model.get("is_bound") else shade for model, shade in zip(models, colours, strict=True)]
    ax.scatter(gap, at, s=34, c=faces, zorder=3, linewidths=1.2, edgecolors=colours)
    ax.set_yticks(at, [label(model["model"], 34) for model in models])
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.set_xlabel(f"difference to the best, nats per {unit}")
    return plots_style.finish(ax)
