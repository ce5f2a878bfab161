"""What the report says of one fit."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

from ppl_gen.html.densities import densities
from ppl_gen.html.graph import graph
from ppl_gen.html.markup import Markup, commands, facts, folded, table, tag
from ppl_gen.html.pictures import attempt, chosen, of_kind
from ppl_gen.html.samples import beside
from ppl_gen.html.wording import duration, figure, mark, shortened

if TYPE_CHECKING:
    from ppl_gen.diagnostics import Diagnosis
    from ppl_gen.html.sources import Run
    from ppl_gen.result import Fit

SPREAD = {
    "posterior": "draws from the posterior", "guide": "draws from the guide", "bootstrap": "refits to resampled rows",
    "ensemble": "an ensemble of networks", "point": "a point estimate, without intervals",
}  # fmt: skip


def section(run: Run, anchor: str, diagnosis: Diagnosis | None, num_pictures: int) -> Markup:
    """Verdict, graph, diagnosis, pictures, samples, densities, settings and what to do next, under headings of the
    third level.

    :param diagnosis: None where it could not be made; the section then says why.
    """
    fit = run.fit
    if fit is None:
        text = f"There is no fit to show: {run.problem.rstrip('.')}."
        return tag("section", _heading(run, anchor), tag("p", text, class_="problem"), class_="fit")
    parts = [
        _heading(run, anchor),
        tag("p", _lead(fit), class_="lead"),
        tag("p", verdict(diagnosis), class_="verdict"),
        _part(anchor, "model", "The model", attempt("The graph", lambda: graph(fit))),
        _part(anchor, "checks", "Whether to believe it", attempt("The diagnosis", lambda: checks(run, fit, diagnosis))),
        _part(anchor, "pictures", "Pictures", attempt("The pictures", lambda: pictures(run, fit, num_pictures))),
        _part(anchor, "samples", "Samples beside the data", attempt("The samples", lambda: beside(fit))),
        _part(anchor, "densities", "How probable rows are", attempt("The densities", lambda: densities(run, fit))),
        _part(anchor, "settings", "Settings", settings(run, fit)),
        _part(anchor, "next", "What to do next", commands(next_steps(run, fit))),
    ]
    return tag("section", *parts, class_="fit", aria_labelledby=anchor)


def _heading(run: Run, anchor: str) -> Markup:
    return tag("h2", shortened(run.name), id=anchor)


def _part(anchor: str, name: str, title: str, content: Any) -> Markup:
    return tag("section", tag("h3", title, id=f"{anchor}-{name}"), content, class_=name)


def _lead(fit: Fit) -> str:
    """What it is, in one sentence."""
    return (f"{fit.family.title}, fitted by {fit.engine.title.partition(':')[0]} in {fit.backend} to "
            f"{fit.train.describe()} in {duration(fit.seconds)}: {SPREAD[fit.uncertainty]}.")  # fmt: skip


def verdict(diagnosis: Diagnosis | None) -> list[Any]:
    """One line with a sign and a word."""
    if diagnosis is None:
        return [mark(None, "not judged"), " The diagnosis could not be made."]
    return [mark(diagnosis.passed), " ", diagnosis.verdict.partition(": ")[2]]


def checks(run: Run, fit: Fit, diagnosis: Diagnosis | None) -> Markup:
    """Each check with its verdict, and first the advice of those that failed."""
    if diagnosis is None:
        diagnosis = fit.diagnose()  # again, for the reason why it fails
    parts: list[Any] = []
    if diagnosis.failed:
        parts.append(tag("p", "What failed, and what to do about it:"))
        parts.append(tag("ul", [tag("li", tag("strong", f"{check.name}: "), check.advice or "no advice is known")
                                for check in diagnosis.failed], class_="advice"))  # fmt: skip
    rows = [(check.name, mark(check.passed), figure(check.figure) if check.figure is not None else "",
             check.limit.replace("<=", "at most").replace(">=", "at least"), check.info)
            for check in diagnosis.checks]  # fmt: skip
    parts.append(table(("check", "verdict", "figure", "limit", "where from"), rows, f"Diagnosis: {diagnosis.title}",
                       numbers=(2,), words=(4,)))  # fmt: skip
    note = "Notes have nothing to pass. Each check is explained in the documentation, on the page Diagnosis."
    if run.entry and any(check.name == "held-out ELPD" for check in diagnosis.checks):
        note += (
            " The held-out ELPD here is not that of the ranking: there models score rows that they were fitted "
            "without, the same for all models; this is of the training rows of the fit that was kept."
        )
    parts.append(tag("p", note, class_="note"))
    return Markup("".join(parts))


def pictures(run: Run, fit: Fit, number: int) -> Markup:
    """The pictures that tell most, and how to have the others."""
    shown, others = chosen(fit, number)
    parts: list[Any] = [attempt(f"The picture {kind}", partial(of_kind, fit, kind)) for kind in shown]
    if not shown and not others:
        parts.append(tag("p", "This fit has no picture."))
    if others:
        kinds = " ".join(f"--kind {kind}" for kind in others)
        where = shlex.quote(run.folder) if run.folder else "RUN"
        parts.append(tag("p", "It also has these pictures, which are not shown here:"))
        parts.append(commands([(f"ppl-gen plot {where} {kinds}", f"{len(others)} more")]))
    return Markup("".join(parts))


def settings(run: Run, fit: Fit) -> Markup:
    """All options of the family and the engine, with what chose them."""
    told: list[tuple[str, Any]] = [
        ("family", fit.family.name), ("engine", fit.engine.name), ("backend", fit.backend), ("seed", fit.seed),
        ("fitted in", duration(fit.seconds)),
    ]  # fmt: skip
    told += [("saved in", run.folder)] if run.folder else []
    told += [("saved", moment(run.saved))] if run.saved else []
    told += [("chosen because", reason) for reason in fit.reasons]
    told += [("interrupted", "yes: it is what there was by then")] if fit.draws.interrupted else []
    parts = [facts(told)]
    for what, chosen_ in (("family", fit.family), ("engine", fit.engine)):
        default = type(chosen_)().to_config()
        rows = [(name, shortened(value, 80), "" if value == default[name] else "changed")
                for name, value in chosen_.to_config().items()]  # fmt: skip
        if rows:
            options = table(("option", "value", "default"), [(n, v, c or "yes") for n, v, c in rows],
                            f"Options of the {what} {chosen_.name}")  # fmt: skip
            parts.append(folded(f"All options of the {what} {chosen_.name}", options))
    return Markup("".join(parts))


def moment(text: str) -> str:
    """An ISO time in words: ``2026-11-22 12:30 UTC``."""
    date, _, rest = text.partition("T")
    return f"{date} {rest[:5]} UTC" if rest.endswith("+00:00") else text


def next_steps(run: Run, fit: Fit) -> list[tuple[str, str]]:
    """Commands that work where the fit is saved."""
    where = shlex.quote(run.folder) if run.folder else "RUN"
    found = [(f"ppl-gen diagnose {where} --summary", "the checks again, and the parameters")]
    if fit.family.sequences:
        found.append((f"ppl-gen forecast {where} -n 24", "how the sequences go on"))
        if fit.family.num_labels:
            found.append((f"ppl-gen latents {where} -o states.csv", "the state of each time step"))
        found.append((f"ppl-gen score {where} --per-step -o scores.csv", "log p(x) of each step, given those before"))
    else:
        ratio = " --surrogate log_ratio" if fit.family.density == "implicit" else ""
        what = "log ratio of new rows" if ratio else "log p(x) of new rows, with intervals and anomaly p-values"
        found.append((f"ppl-gen score {where} new.csv{ratio} -o scores.csv", what))
        if fit.schema.image is None:
            found.append((f"ppl-gen sample {where} -n 1000 -o samples.csv", "new rows"))
        else:
            found.append((f"ppl-gen sample {where} -n 64 -o samples.npz", "new images"))
        if "impute" in fit.family.verbs:
            found.append((f"ppl-gen impute {where} incomplete.csv -n 20 -o imputed.csv", "missing entries, drawn"))
    found.append((f"ppl-gen plot {where}", "all its pictures as files"))
    return found
