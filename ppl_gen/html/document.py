"""The page: its head, its table of contents, and its sections in order."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from ppl_gen import images
from ppl_gen.html import data_section, fit_section, ranking
from ppl_gen.html.markup import Markup, commands, facts, table, tag
from ppl_gen.html.pictures import attempt
from ppl_gen.html.wording import duration, mark, several, shortened

if TYPE_CHECKING:
    from ppl_gen.diagnostics import Diagnosis
    from ppl_gen.html.sources import Run, Subject
    from ppl_gen.result import Fit

# Nothing may be fetched, run or sent: the styles and the pictures are in the file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
MAX_PICTURES, FEWEST, ALL_PICTURES = 8, 2, 24  # of a fit at most and at least, and of all


def document(subject: Subject) -> str:
    """The whole file as text."""
    diagnoses = {run.name: _diagnose(run) for run in subject.runs}
    anchors = {run.name: f"fit-{place + 1}" for place, run in enumerate(subject.runs)}
    sections = _sections(subject, diagnoses, anchors)
    heading = title(subject)
    contents = tag("ol", [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections])
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"), tag("title", heading), tag("style", style()),
    )  # fmt: skip
    body = tag(
        "body", tag("a", "Skip to the report", href="#report", class_="skip"),
        tag("header", tag("h1", heading), tag("p", lead(subject, diagnoses), class_="lead")),
        tag("nav", tag("strong", "Contents"), contents, aria_label="Contents"),
        tag("main", [content for _, _, content in sections], id="report"),
        tag("footer", tag("p", f"Written by ppl_gen {_version()}. This file holds all that it shows: it loads nothing, "
                          "and has no scripts.")),
    )  # fmt: skip
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def style() -> Markup:
    """The style sheet, which is ours and no user's text."""
    return Markup(resources.files("ppl_gen.html").joinpath("style.css").read_text(encoding="utf-8"))


def _version() -> str:
    from ppl_gen import __version__

    return __version__


def _diagnose(run: Run) -> Diagnosis | None:
    """The diagnosis with its advice in options of the command line; None where it fails, which the section tells."""
    from ppl_gen.cli.wording import diagnosis_in_options

    found: list[Diagnosis] = []
    if run.fit is not None:
        fit = run.fit
        attempt("The diagnosis", lambda: found.append(diagnosis_in_options(fit.diagnose())))
    return found[0] if found else None


def _sections(subject: Subject, diagnoses: Mapping[str, Diagnosis | None], anchors: Mapping[str, str]) -> list[Any]:
    """(anchor, title, content) of each section of the second level."""
    found = [("asked", "What was asked", asked(subject))]
    fits = list(subject.fits.values())
    if fits:
        glance = attempt("The overview of the data", lambda: data_section.glance(fits[0].train))
        found.append(("data", "The data at a glance", glance))
    ranked = ranking.ranking_of(subject)
    if ranked is not None:
        found.append(("ranking", "The ranking", ranking.section(ranked, anchors)))
    result = [
        (anchor, name, tag("section", tag("h2", name, id=anchor), content, aria_labelledby=anchor))
        for anchor, name, content in found
    ]
    number = min(MAX_PICTURES, max(FEWEST, ALL_PICTURES // max(1, len(fits))))
    for run in subject.runs:
        content = fit_section.section(run, anchors[run.name], diagnoses[run.name], number)
        result.append((anchors[run.name], shortened(run.name), content))
    steps = [(str(e.get("command")), str(e.get("what"))) for e in (subject.comparison or {}).get("next") or ()]
    if steps:
        content = tag("section", tag("h2", "What to do next", id="next"), commands(steps), aria_labelledby="next")
        result.append(("next", "What to do next", content))
    return result


def title(subject: Subject) -> str:
    """The heading of the page."""
    if subject.comparison is not None:
        table_ = shortened(subject.comparison.get("table") or "one table")
        number = len(subject.runs)
        return f"{several(number, 'model')} of {table_} compared" if number > 1 else f"One model of {table_}"
    if len(subject.runs) > 1:
        return f"{several(len(subject.runs), 'fit')}: " + ", ".join(shortened(run.name, 30) for run in subject.runs)
    return f"{shortened(subject.runs[0].name)}: a report"


def lead(subject: Subject, diagnoses: Mapping[str, Diagnosis | None]) -> list[Any]:
    """What came out, in a sentence or two."""
    known = {name: found for name, found in diagnoses.items() if found is not None}
    passed = [name for name, found in known.items() if found.passed]
    parts: list[Any] = []
    if subject.comparison is not None:
        best = shortened(subject.comparison.get("best") or subject.runs[0].name)
        if len(subject.runs) > 1:
            parts.append(["The highest held-out log density is that of ", tag("strong", best), ". "])
        else:
            parts.append([tag("strong", best), " is the only model here: there is nothing to compare it with. "])
    if len(known) == 1:
        (found,) = known.values()
        parts.append([mark(found.passed), " ", found.verdict.partition(": ")[2]])
    elif known:
        parts.append(f"{len(passed)} of {several(len(known), 'fit')} passed all their checks"
                     + (f": {', '.join(map(shortened, passed))}." if passed else "."))  # fmt: skip
    return parts


def asked(subject: Subject) -> Markup:
    """The table, the families, the seeds, the versions and the dates."""
    told: list[tuple[str, Any]] = []
    document_ = subject.comparison or {}
    fits = subject.fits
    if document_:
        unit = document_.get("unit") or "row"
        told += [("table", shortened(document_.get("table") or "not known", 200)), ("size", _size(document_, fits)),
                 ("held out", document_.get("how") or several(subject.num_held_out, unit)),
                 ("seed", document_.get("seed")), ("budget", _budget(document_.get("budget_seconds"))),
                 ("took", duration(_seconds(document_.get("seconds"))))]  # fmt: skip
    else:
        told += [("table", "; ".join(dict.fromkeys(fit.train.describe() for fit in fits.values())))]
        if not all(fit.schema.image for fit in fits.values()):  # pixels have no names
            told += [("columns", ", ".join(_columns(subject)))]
        told += [("seed", ", ".join(dict.fromkeys(str(fit.seed) for fit in fits.values())))]
    families = dict.fromkeys(f"{fit.family.name} ({fit.family.title})" for fit in fits.values())
    told += [("families", ", ".join(families) or "none")]
    dates = sorted(dict.fromkeys(fit_section.moment(run.saved) for run in subject.runs if run.saved))
    told += [("fits saved", dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}")] if dates else []
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in fit.versions.items()) for fit in fits.values())
    told += [("versions", "; ".join(versions))] if versions else []
    text = facts(told)
    return Markup(text + _fits_table(subject)) if len(subject.runs) > 1 else text


def _size(document_: Mapping[str, Any], fits: Mapping[str, Fit]) -> str:
    """Of the table that was compared on. The document counts rows, images or sequences; a fit knows the rest, of a
    model that was fitted to them all also how many time steps there are."""
    number, columns = document_.get("rows"), document_.get("columns") or ()
    if number is None:
        return "not known"
    width, fit = several(len(columns), "column"), next(iter(fits.values()), None)
    if fit is None:
        unit = str(document_.get("unit") or "row").replace("time step", "sequence")
        return f"{several(number, unit)} x {width if unit != 'image' else several(len(columns), 'pixel')}"
    if len(fit.train) == number and (fit.schema.is_sequence or fit.schema.image):
        return fit.train.describe()
    if fit.schema.image:
        return f"{several(number, 'image')} of {images.describe(fit.schema.image)}"
    return f"{several(number, 'sequence' if fit.schema.is_sequence else 'row')} x {width}"


def _columns(subject: Subject, limit: int = 30) -> list[str]:
    names = dict.fromkeys(name for fit in subject.fits.values() for name in fit.schema.names)
    listed = [shortened(name, 40) for name in names]
    return listed if len(listed) <= limit else [*listed[:limit], f"and {len(listed) - limit:,} more"]


def _fits_table(subject: Subject) -> Markup:
    """A line per fit: what was asked of it."""
    rows = []
    for run in subject.runs:
        if run.fit is None:
            rows.append((shortened(run.name), "no fit to show", "", "", ""))
        else:
            fit = run.fit
            rows.append((shortened(run.name), shortened(fit.family), shortened(fit.engine), fit.backend,
                         duration(fit.seconds)))  # fmt: skip
    return table(("fit", "family", "engine", "backend", "fitted in"), rows, "The fits", numbers=(4,))


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _budget(value: Any) -> str:
    seconds = _seconds(value)
    return "none" if seconds is None else duration(seconds)
