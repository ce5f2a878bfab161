"""A comparison of a table: models ranked, each with how sure its number is and whether to believe its fit."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import SettingError
from ppl_gen.ranking import FEW_ROWS, NOT_TOLD_APART, Comparison, rank
from ppl_gen.scores import MAX_KHAT

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.candidates import LeftOut
    from ppl_gen.data import Data
    from ppl_gen.trials import Job

FORMAT = 1
SURE_LOG_Z = 0.5  # nats: an error of log Z above which a density says nothing about its rank
KHAT_ROWS = 0.05  # share of rows with a k-hat above the limit that is worth telling


@dataclasses.dataclass(frozen=True, eq=False)
class TableComparison(Comparison):
    """What a comparison of a whole table found. ``frame`` has more columns than that of a :class:`Comparison`:

    ``is_bound``       whether the densities are lower bounds: the true ones may be higher
    ``error``, ``error_kind``  how sure the numbers are: the share of rows whose k-hat is above 0.7 (``"k-hat"``), or
                       the Monte Carlo standard error in nats per row (``"mcse"``; of an unnormalised density that of
                       log Z); none where they are exact
    ``calibration``, ``calibration_se``  share of held-out rows within the model's 90 % region of highest density
    ``seconds``        of fitting and scoring
    ``checks``, ``checks_failed``  of the diagnosis of the kept fit; none where there was no time for it
    ``verdict``        in a few words

    ``models`` holds each model's family, options, engine and so on, in the order of the frame, ``left_out`` what was
    not tried or not finished and why, ``facts`` the table, seed, budget and time, ``folder`` where it is kept.
    """

    models: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    rows: np.ndarray | None = None

    @classmethod
    def of(
        cls, states: Sequence[Mapping[str, Any]], jobs: Sequence[Job], data: Data, without: Sequence[LeftOut],
        notes: Sequence[str], *, table: str, seed: int, budget: float, started: float, folder: Path | None,
        weights: np.ndarray | None,
    ) -> TableComparison:  # fmt: skip
        """From what each job gave.

        :raises SettingError: none of them gave anything.
        """
        import pandas as pd

        from ppl_gen.candidates import LeftOut

        out, good, split = list(without), [], jobs[0].split
        for job, state in zip(jobs, states, strict=True):
            values = np.array([np.nan if v is None else v for v in state.get("pointwise", [])], np.float64)
            if "why" in state:
                out.append(LeftOut(job.candidate.name, state["why"]))
            elif not np.isfinite(values).all():
                lost = int((~np.isfinite(values)).sum())
                out.append(LeftOut(job.candidate.name, f"failed: it has no density of {lost} held-out {split.unit}s."))
            else:
                good.append((job, state, values))
        if not good:
            raise SettingError("No model came to an end: raise the budget, or name models.\n" + "\n".join(reasons(out)))
        pointwise = pd.DataFrame({job.candidate.name: values for job, _, values in good})
        pointwise = pointwise.rename_axis(index=split.unit, columns="model")
        states_of = {job.candidate.name: state for job, state, _ in good}
        frame = _frame(pointwise, weights, states_of)
        facts = {
            "table": table, "rows": len(data), "columns": [str(name) for name in data.schema.names], "seed": seed,
            "budget_seconds": budget, "seconds": time.time() - started,
        }  # fmt: skip
        models = tuple(_model(name, states_of[name]) for name in frame.index)
        warnings = (*notes, *_warnings(frame, len(pointwise), split.unit), *_unfinished(out, states_of, folder))
        return cls(frame, pointwise, split.how, warnings, split.unit, models, tuple(out), facts, folder, split.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, densities in nats per row (sequence, time step)."""
        number = len(self.pointwise)
        rows = []
        for (name, row), model in zip(self.frame.iterrows(), self.models, strict=True):
            each = {key: row[key] / number for key in ("elpd", "se", "difference", "difference_se")}
            kept = ("weight", "density", "is_bound", "error_kind", "error", "calibration", "calibration_se", "seconds",
                    "checks_failed", "checks", "verdict")  # fmt: skip
            rows.append({"model": str(name), **model, **each, **{key: row[key] for key in kept}})
        return {
            "format": FORMAT, **{k: self.facts[k] for k in ("table", "rows", "columns")}, "unit": self.unit,
            "how": self.how, **{k: self.facts[k] for k in ("seed", "budget_seconds", "seconds")}, "best": self.best,
            "models": rows, "left_out": [dataclasses.asdict(each) for each in self.left_out],
            "warnings": list(self.warnings),
            "next": [{"command": command, "what": what} for command, what in self.next],
        }  # fmt: skip

    @property
    def next(self) -> list[tuple[str, str]]:
        """Commands that go on from here, each with what it gives."""
        run = self.models[0]["run"]
        if self.folder is None:
            return []
        whole = _shown(self.folder)
        words = ["ppl-gen", "report", str(whole), "-o", f"{whole.name}.html"]
        page = (shlex.join(words), "one page on all of it, to read or to send")
        if run is None:
            return [page]
        place = shlex.quote(str(_shown(self.folder) / run))
        verb = {
            "row": (f"ppl-gen sample {place} -n 1000 -o samples.csv", "new rows from the best model"),
            "image": (f"ppl-gen sample {place} -n 64 -o samples.npz", "new images from the best model"),
        }.get(self.unit, (f"ppl-gen forecast {place} -n 24", "how the sequences go on"))
        return [page, (f"ppl-gen diagnose {place}", "every check of the best model, and what to do"),
                (f"ppl-gen plot {place}", "pictures of it"), verb]  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write ``comparison.json`` and ``held_out.csv`` to the folder."""
        from ppl_gen.files import write_file
        from ppl_gen.trials import write

        frame = self.pointwise.copy()
        frame.index = frame.index if self.rows is None else self.rows
        frame.index.name = self.unit
        write_file(folder / "held_out.csv", frame.to_csv, overwrite=True)
        write(folder / "comparison.json", self.to_dict())

    def __str__(self) -> str:
        from ppl_gen.verdicts_table import as_text

        return as_text(self)

    def __rich__(self) -> Any:
        from ppl_gen.verdicts_table import AsRich

        return AsRich(self)


def reasons(left_out: Sequence[LeftOut]) -> list[str]:
    """What was left out, a line of a list for each reason."""
    from ppl_gen.verdicts_table import grouped

    return [f"- {', '.join(names)}: {why}" for names, why in grouped((e.model, e.why) for e in left_out)]


def _unfinished(left_out: Sequence[LeftOut], states: Mapping[str, Mapping[str, Any]], folder: Path | None) -> list[str]:
    """Which candidates wait for more time, and how they get it."""
    from ppl_gen.trials import LATE, NO_TIME

    late = [each.model for each in left_out if each.why == NO_TIME or each.why.startswith(LATE)]
    stopped = [name for name, state in states.items() if state.get("stopped") or state.get("kept_stopped")]
    found = []
    if late:
        how = "a larger budget has time for them." if folder is None else (
            "the same command with a larger budget goes on with them, and keeps those that are done.")  # fmt: skip
        found.append(f"Not done in time: {', '.join(late)}; {how}")
    if stopped:
        how = "a larger budget" if folder is None else "the same command with a larger budget"
        found.append(f"Stopped by the budget while they trained: {', '.join(stopped)}; {how} fits them anew.")
    return found


def _shown(folder: Path) -> Path:
    """The folder as one would type it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _model(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("family", "options", "engine", "engine_options", "backend")
    return {**{key: state[key] for key in kept}, "run": state.get("run"), "failed": state.get("failed", [])}


def _frame(
    pointwise: pd.DataFrame, weights: np.ndarray | None, states: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """The ranking. A model whose log Z is not known well enough comes after those of known density, whatever its
    number: too small a Z makes a density too large. A bound is ranked by its value, which the density is no less
    than."""
    sure = {name: _is_sure(state) for name, state in states.items()}
    ranked = [name for name in pointwise if sure[name]] or list(pointwise)
    densities = {name: state["density"] for name, state in states.items()}
    engines = {name: state["engine"] for name, state in states.items()}
    best = rank(pointwise[ranked], weights, densities, engines).index[0]
    frame = rank(pointwise, weights, densities, engines)
    if frame.index[0] != best:
        _compare_with(frame, pointwise, weights, best)
        frame = frame.loc[[*(n for n in frame.index if sure[n]), *(n for n in frame.index if not sure[n])]]
    errors = {name: _error(state) for name, state in states.items()}
    frame["error_kind"] = _as_they_are(frame, [errors[name][0] for name in frame.index])
    frame["error"] = _as_they_are(frame, [errors[name][1] for name in frame.index])
    frame["is_bound"] = [densities[name] == "bound" for name in frame.index]
    for key in ("calibration", "calibration_se", "seconds", "checks", "checks_failed"):
        frame[key] = _as_they_are(frame, [states[name].get(key) for name in frame.index])
    frame["verdict"] = [
        verdict(place, row, states[name], sure[name], str(pointwise.index.name))
        for place, (name, row) in enumerate(frame.iterrows())
    ]
    return frame


def _as_they_are(frame: pd.DataFrame, values: Sequence[Any]) -> pd.Series:
    """A column in which None stays None."""
    import pandas as pd

    return pd.Series(values, index=frame.index, dtype=object)


def _compare_with(frame: pd.DataFrame, pointwise: pd.DataFrame, weights: np.ndarray | None, best: str) -> None:
    from ppl_gen.metrics import total_and_error

    share = np.ones(len(pointwise)) if weights is None else weights
    for name in frame.index:
        difference = (pointwise[name] - pointwise[best]).to_numpy(np.float64)
        frame.loc[name, ["difference", "difference_se"]] = total_and_error(difference, share)


def _is_sure(state: Mapping[str, Any]) -> bool:
    """Whether a number may be higher than the density by no more than its error says."""
    if state["density"] != "unnormalised":
        return True
    kind, error = _error(state)
    return not (kind == "k-hat" or (error is not None and not error <= SURE_LOG_Z))


def _error(state: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """How sure the numbers are: which kind of figure, and the figure."""
    error, k_hat = (
        None if state.get(name) is None else np.array([np.nan if v is None else v for v in state[name]], float)
        for name in ("error", "k_hat")
    )
    if k_hat is not None and (share := float(np.mean(~(k_hat <= MAX_KHAT)))) > KHAT_ROWS:
        return "k-hat", share
    if error is None:
        return None, None
    return "mcse", float(np.nanmean(error)) if np.isfinite(error).any() else float("inf")


def verdict(place: int, row: Mapping[str, Any], state: Mapping[str, Any], sure: bool, unit: str = "row") -> str:
    """In a few words: how it ranks, and whether to believe its fit."""
    apart = -row["difference"] >= NOT_TOLD_APART * row["difference_se"]
    if not sure:
        told = "log Z not known well enough to rank it"
    elif place == 0:
        told = "best"
    elif row["is_bound"] and apart:
        told = "at least this: a bound, its density may be higher"
    elif row["error_kind"] == "k-hat" and apart:  # such estimates are too low
        told = "at least this on average: its density may be higher"
    else:
        told = "worse" if apart else "not told apart from best"
    words = [told]
    if state.get("stopped"):
        words.append("stopped by the budget")
    elif state.get("kept_stopped"):
        words.append("its kept fit stopped by the budget")
    if row["error_kind"] == "k-hat" and sure:
        words.append(f"k-hat above {MAX_KHAT:g} in {row['error']:.0%} of the {unit}s")
    failed = state.get("failed")
    if failed is None:
        words.append("no time to diagnose it")
    elif failed:
        words.append(f"{len(failed)} check{'s' * (len(failed) > 1)} failed: {', '.join(failed)}")
    else:
        words.append("checks passed" if state.get("checks") else "ok")
    return "; ".join(words)


def _warnings(frame: pd.DataFrame, number: int, unit: str) -> list[str]:
    """What to keep in mind when reading the table."""
    found = []
    surrogates = [str(name) for name, kind in frame["density"].items() if str(kind).startswith("implicit")]
    if surrogates:
        found.append(f"Of {', '.join(surrogates)} the number is a surrogate, not a density: it can't rank one.")
    best = frame.index[0]
    if frame["is_bound"].iloc[0]:
        found.append(f"The best number, of {best}, is a lower bound: its density is no lower.")
    tied = [str(name) for name, words in frame["verdict"].items() if words.startswith("not told apart")]
    if tied:
        found.append(f"Can't be told apart from {best} (within {NOT_TOLD_APART:g} standard errors): {', '.join(tied)}.")
    if len(frame) > 1 and number < FEW_ROWS:
        found.append(f"With {number} {unit}s the standard errors are themselves uncertain (Sivula et al. 2020).")
    return found
