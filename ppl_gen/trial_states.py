"""What a candidate of a comparison left in its file, read back whole or not at all: files can be damaged, or edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_gen.trials import Job

WORDS = ("family", "engine", "backend", "density")
OPTIONS = ("options", "engine_options")
FIGURES = ("calibration", "calibration_se", "checks", "checks_failed")  # may be unknown
COLUMNS = ("error", "k_hat")  # of each held-out row; may be unknown


def of(job: Job) -> dict[str, Any]:
    """What the candidate gave; {} where there is nothing, or nothing that can be used."""
    state = document(job.state)
    kept = state.get("run")
    lost = kept is not None and not (isinstance(kept, str) and job.run.is_dir())
    return state if is_whole(state, len(job.split.rows)) and not lost else {}


def document(path: Path) -> dict[str, Any]:
    """A file of JSON that was written whole; {} where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_whole(state: Mapping[str, Any], number: int) -> bool:
    """Whether a document has the scores of so many held-out rows, and all else that a ranking needs, of its kind."""
    failed = state.get("failed", [])
    return (
        _is_column(state.get("pointwise"), number)
        and all(isinstance(state.get(name), str) for name in WORDS)
        and all(isinstance(state.get(name), dict) for name in OPTIONS)
        and _is_number(state.get("seconds"))
        and all(state.get(name) is None or _is_number(state[name]) for name in FIGURES)
        and all(state.get(name) is None or _is_column(state[name], number) for name in COLUMNS)
        and isinstance(failed, list)
        and all(isinstance(name, str) for name in failed)
    )


def waits(job: Job) -> bool:
    """Whether there is something left to do: it is not done, or a smaller budget stopped it."""
    state = of(job)
    if not state.get("done"):
        return True
    before = state.get("budget", job.budget)
    stopped = bool(state.get("stopped") or state.get("kept_stopped"))
    return stopped and _is_number(before) and bool(before < job.budget)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_column(values: Any, number: int) -> bool:
    """Whether it is a list of so many numbers; None stands for one that is not finite."""
    return isinstance(values, list) and len(values) == number and all(v is None or _is_number(v) for v in values)
