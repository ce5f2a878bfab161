"""What a report is on: saved fits, and comparisons, read from their folders."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import PPLGenError, SettingError, StorageError
from ppl_gen.files import first_line, reason, resolve
from ppl_gen.parsing import show
from ppl_gen.storage import JSON, load

if TYPE_CHECKING:
    from ppl_gen.result import Fit

COMPARISON, HELD_OUT = "comparison.json", "held_out.csv"
FORMAT = 1  # of comparison.json
# What the parts of comparison.json are, where they are there: the type, that of what is in a list, and its words.
PARTS: dict[str, tuple[Any, Any, str]] = {
    **dict.fromkeys(("table", "unit", "how", "best"), (str, None, "text")),
    **dict.fromkeys(("rows", "seed"), (int, None, "a whole number")),
    **dict.fromkeys(("budget_seconds", "seconds"), (int | float, None, "a number")),
    "columns": (list, str, "a list of names"), "warnings": (list, str, "a list of sentences"),
    "left_out": (list, dict, "a list of models with their reasons"),
    "next": (list, dict, "a list of commands with what they give"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A fit under the name that the report gives it.

    ``folder``    where it is saved, as it was asked for; empty for one that was not
    ``saved``     when it was, ISO 8601; empty where that is not known
    ``problem``   why there is no fit to show, where a comparison names one that can't be read
    ``held_out``  (obs,) held-out log densities that a comparison found, nats in original units; else None
    ``unit``      what each of them is of
    ``entry``     what the comparison says of it
    """

    name: str
    fit: Fit | None
    folder: str = ""
    saved: str = ""
    problem: str = ""
    held_out: np.ndarray | None = None
    unit: str = "row"
    entry: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is reported on: runs, best first where they are ranked, and the comparison that ranked them, if there is
    one, with the number of its held-out rows."""

    runs: tuple[Run, ...]
    comparison: Mapping[str, Any] | None = None
    num_held_out: int = 0

    @property
    def fits(self) -> dict[str, Fit]:
        """The fits that could be read, by their names."""
        return {run.name: run.fit for run in self.runs if run.fit is not None}


def read(runs: Any) -> Subject:
    """Fits, folders of fits, or one folder of a comparison; see :func:`ppl_gen.html.report`."""
    from ppl_gen.result import Fit

    named: list[tuple[str | None, Any]]
    if isinstance(runs, Mapping):
        named = [(str(name), run) for name, run in runs.items()]
    else:
        single = isinstance(runs, str | Path | Fit) or not hasattr(runs, "__iter__")
        named = [(None, run) for run in ([runs] if single else runs)]
    if not named:
        raise SettingError("A report needs at least one fit, or the folder of one.")
    for _, run in named:
        if not isinstance(run, str | Path | Fit):
            raise SettingError(f"A report is on fits or their folders, not on {type(run).__name__}.")
    folders = [run for _, run in named if not isinstance(run, Fit) and (resolve(run) / COMPARISON).is_file()]
    if folders and len(named) > 1:
        raise SettingError(f"{folders[0]} is a comparison: a report is on one comparison, or on fits, not on both.")
    if folders:
        return _comparison(str(folders[0]))
    return Subject(tuple(_distinct([_run(name, run) for name, run in named])))


def _run(name: str | None, run: Fit | str | Path) -> Run:
    if not isinstance(run, str | Path):
        return Run(name or "", run)
    fit = load(run)
    return Run(name or resolve(run).name, fit, str(run), _saved(resolve(run)))


def _distinct(runs: list[Run]) -> list[Run]:
    """Each with a name of its own: of fits without one that of their family, and numbers where names are alike."""
    from ppl_gen.compare import labels

    unnamed = [run for run in runs if not run.name]
    told = iter(labels([run.fit.family for run in unnamed if run.fit is not None]))
    named = [run if run.name else dataclasses.replace(run, name=next(told)) for run in runs]
    names = [run.name for run in named]
    return [
        run if names.count(run.name) == 1 else dataclasses.replace(run, name=f"{run.name} #{place + 1}")
        for place, run in enumerate(named)
    ]


def _saved(folder: Path) -> str:
    """When a fit was saved, as its file says, which has been checked by now."""
    try:
        return str(json.loads((folder / JSON).read_text(encoding="utf-8")).get("saved", ""))
    except (OSError, ValueError):
        return ""


def _comparison(folder: str) -> Subject:
    path = resolve(folder)
    try:
        document = json.loads((path / COMPARISON).read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path / COMPARISON} can't be read: {reason(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path / COMPARISON} is damaged: it is not JSON ({first_line(error)}).") from error
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, list) or not all(isinstance(m, dict) and "model" in m for m in models):
        raise StorageError(f"{path / COMPARISON} is no comparison of ppl_gen: it has no list of models.")
    if document.get("format") != FORMAT:
        raise StorageError(f"{path / COMPARISON} has format {document.get('format')!r}; this ppl_gen reads {FORMAT}.")
    _check_parts(path / COMPARISON, document)
    if not models:
        raise StorageError(f"{path} holds a comparison of no model: there is nothing to report on.")
    densities = _held_out(path / HELD_OUT)
    unit = document.get("unit") or "row"
    runs = tuple(_member(folder, path, model, densities.get(str(model["model"])), unit) for model in models)
    return Subject(runs, document, max(map(len, densities.values()), default=0))


def _check_parts(file: Path, document: Mapping[str, Any]) -> None:
    """Raise a :class:`StorageError` for a part of a comparison that is not what it should be."""
    for name, (kind, each, words) in PARTS.items():
        value = document.get(name)
        wrong = not isinstance(value, kind) or (each is not None and not all(isinstance(v, each) for v in value))
        if value is not None and wrong:
            raise StorageError(f"{file} is damaged: {name} must be {words}, not {show(value)}.")


def _member(folder: str, path: Path, entry: Mapping[str, Any], held_out: np.ndarray | None, unit: str) -> Run:
    """One model of a comparison; a fit that can't be read is a line of the report, not the end of it."""
    name, place = str(entry["model"]), str(entry.get("run") or "")
    if not place:
        return Run(name, None, problem="the comparison kept no fit of it", held_out=held_out, entry=entry)
    inside = resolve(path / place)
    if not inside.is_relative_to(path):
        return Run(name, None, problem="its fit is said to lie outside the comparison's folder", entry=entry)
    shown = str(Path(folder) / place)
    try:
        return Run(name, load(inside), shown, _saved(inside), held_out=held_out, unit=unit, entry=entry)
    except PPLGenError as error:
        return Run(name, None, shown, problem=str(error), held_out=held_out, entry=entry)


def _held_out(file: Path) -> dict[str, np.ndarray]:
    """{model: log densities of the held-out rows}; empty where the file can't be read."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            header, *rows = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error):
        return {}
    return {name: np.array([_number(row, j) for row in rows]) for j, name in enumerate(header)}


def _number(row: list[str], place: int) -> float:
    try:
        return float(row[place])
    except (ValueError, IndexError):
        return float("nan")
