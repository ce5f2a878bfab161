"""One candidate of a comparison: fitted, scored on rows that it has not seen, saved and diagnosed, by a time.

What it gives is plain JSON, written as soon as it is known: first the held-out densities, then the diagnosis.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import parallel
from ppl_gen.candidates import WORSE
from ppl_gen.deadlines import Clock, OutOfTime, alarm
from ppl_gen.errors import PPLGenError

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data
    from ppl_gen.family import Family
    from ppl_gen.held_out_splits import Split
    from ppl_gen.result import Fit

NO_TIME = "no time left in the budget"
LATE = "it was not done"  # so begins what is told of a candidate that took too long
FIRST = 15.0  # seconds that the first candidate may take in any case
CLIMBING = 0.5  # of the time of a fit, in which a ladder is climbed
CHECKED = (200, 20_000)  # training rows that checks look at, and rows of all replicates


@dataclasses.dataclass(frozen=True)
class Job:
    """A candidate and all that its process needs.

    ``end``     when the whole comparison ends, as :func:`time.time` counts
    ``share``   of the time left, times the number of processes, that is this candidate's when it begins
    ``folder``  where the comparison is kept
    ``first``   whether it is the first of all
    ``owner``   the process that asked for it
    ``budget``  seconds of the whole comparison
    """

    candidate: Candidate
    slug: str
    data: Data
    split: Split
    seed: int
    surrogate: Any
    end: float
    share: float
    folder: str
    first: bool = False
    owner: int = 0
    budget: float = 0.0

    @property
    def state(self) -> Path:
        return Path(self.folder) / "jobs" / f"{self.slug}.json"

    @property
    def run(self) -> Path:
        return Path(self.folder) / "fits" / self.slug


def work(job: Job) -> None:
    """Do the job, and write what came of it to its file: its scores and checks, or why there are none."""
    parallel.end_with(job.owner)
    why = _work(job)
    if why:
        job.state.with_suffix(".why").write_text(why, encoding="utf-8")


def _work(job: Job) -> str:
    left = job.end - time.time()
    least = max(job.candidate.least, 0.0)
    if left < least or left <= 0:
        return NO_TIME
    mine = min(left, max(left * job.share, least))  # too little would be of no use to it, nor to those after it
    started = job.state.with_suffix(".started")
    started.write_text(f"{os.getpid()} {platform.node()}", encoding="utf-8")
    _load(job.candidate.backend or "numpyro")
    outcome: dict[str, Any] = {"name": job.candidate.name, "config": job.candidate.to_config(), "budget": job.budget}
    # A candidate may take twice its share, from those that come after it, the first half of all, or all of little; none
    # goes on after the end.
    most = min(job.end - time.time(), max(2 * mine, max(left / 2, FIRST) if job.first else 0.0))
    clock = Clock(time.time(), mine, time.time() + most)
    try:
        with alarm(most), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in the diagnosis
            _try(job, clock, outcome)
    except OutOfTime:
        if "pointwise" not in outcome:
            return f"{LATE} within its share of the budget ({max(mine, 1):.0f} s)"
    except Exception as error:  # of whatever library: the others go on
        if "pointwise" not in outcome:
            return f"failed: {_described(error)}"
        outcome["warnings"] = [*outcome.get("warnings", []), f"not diagnosed: {_in_short(error)}"]
        write(job.state, outcome)
    finally:
        started.unlink(missing_ok=True)
    return ""


def _try(job: Job, clock: Clock, outcome: dict[str, Any]) -> None:
    from ppl_gen.evidence import Evidence

    found = job.split.run(job, clock)
    outcome.update(found.to_dict())
    write(job.state, outcome)
    start = time.perf_counter()
    fit = found.fit if found.fit is not None and not _wants_intervals(job) else keep(job, clock, found)
    if found.fit is None or fit is not found.fit:
        outcome["seconds"] += time.perf_counter() - start
    # Of a bootstrap it would be but the intervals that are of fewer refits.
    outcome["kept_stopped"] = bool(fit.draws.interrupted and not _wants_intervals(job))
    Evidence.limit(fit, *CHECKED)  # the tables drawn from a fit that are kept with it can take longer than the fit
    fit.save(job.run, overwrite=True)
    outcome["run"] = f"fits/{job.slug}"
    write(job.state, outcome)
    outcome.update(diagnosed(fit), done=True)
    write(job.state, outcome)


def _wants_intervals(job: Job) -> bool:
    """Whether the kept fit has a bootstrap, which held-out scores have no use for."""
    return bool(job.candidate.settings.get("num_bootstraps"))


def keep(job: Job, clock: Clock, found: Any) -> Fit:
    """The fit to use and to look at: to the training rows, or all rows after folds, of the size that was chosen."""
    from ppl_gen.fit import fit

    family = found.families[-1] if found.fit is not None else most_common(found.families)
    engine = job.candidate.make_engine(family, job.data)
    return fit(family, job.split.kept_rows(job.data), engine=engine, backend=job.candidate.backend, seed=job.seed,
               max_seconds=clock.keeping())  # fmt: skip


def most_common(families: list[Family]) -> Family:
    """Of the sizes that folds chose, the one that most did; the smallest of those."""
    configs = [json.dumps(family.to_config(), sort_keys=True) for family in families]
    counts = [configs.count(config) for config in configs]
    return families[int(np.argmax(counts))]


def train(job: Job, data: Data, seconds: float) -> tuple[Fit, Family]:
    """The candidate fitted to these rows, without a bootstrap: up its ladder to the size with the lowest BIC."""
    ladder = job.candidate.ladder
    chosen = type(ladder[0]).lowest_bic(ladder, data, CLIMBING * seconds, job.seed) if len(ladder) > 1 else ladder[0]
    if chosen is not None:
        return _fit_once(job, chosen, data, seconds), chosen
    best: Fit | None = None
    lowest, worse, begin = np.inf, 0, time.time()
    for family in ladder:
        tried = _fit_once(job, family, data, seconds)
        value = bic(tried)
        if best is None or value < lowest:
            best, lowest, worse = tried, min(value, lowest), 0
        else:
            worse += 1
        if worse >= WORSE or time.time() - begin > CLIMBING * seconds:
            break
    assert best is not None
    return best, best.family


def _fit_once(job: Job, family: Family, data: Data, seconds: float) -> Fit:
    from ppl_gen.fit import fit

    engine = job.candidate.make_engine(family, data)
    if "num_bootstraps" in engine.to_config():
        engine = engine.replace(num_bootstraps=0)
    return fit(family, data, engine=engine, backend=job.candidate.backend, seed=job.seed, max_seconds=seconds)


def bic(fit: Fit) -> float:
    """BIC of a point estimate in model space; infinite where it is degenerate or can't be had."""
    free, objective = fit.family.num_free(fit.schema), fit.draws.figures.get("objective")
    if getattr(fit.engine, "objective", "ml") != "ml":  # the objective has the prior in it (Fraley & Raftery 2007)
        scored = fit.score(p_values=False, keep_draws=False).log_predictive - fit.train.log_jacobian()
        objective = float(scored.sum() if fit.train.weights is None else fit.train.weights @ scored)
    if free is None or objective is None or fit.draws.figures.get("degenerate") or not np.isfinite(objective):
        return float("inf")
    weights = fit.train.weights
    number = fit.train.num_steps if weights is None or fit.train.lengths is not None else weights.sum()
    return float(free * np.log(number) - 2 * objective)


def diagnosed(fit: Fit) -> dict[str, Any]:
    """The checks of a fit, in short."""
    from ppl_gen.evidence import Evidence

    if fit.uncertainty == "point" and fit.draws.held_out is None:  # it would take refits, and rows were held out
        unknown = np.full(len(fit.train), np.nan)
        fit = dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, held_out=unknown))
    Evidence.limit(fit, *CHECKED)
    diagnosis = fit.diagnose()
    judged = [check for check in diagnosis.checks if check.passed is not None]
    failed = [check.name for check in diagnosis.failed]
    if fit.draws.interrupted:  # the verdict says so itself
        failed = [name for name in failed if name not in ("finished", "converged")]
    return {"checks": len(judged), "checks_failed": len(failed), "failed": failed}


def write(path: Path, document: dict[str, Any]) -> None:
    """The document as JSON, whole or not at all."""
    from ppl_gen.files import write_file
    from ppl_gen.report import to_json

    text = json.dumps(to_json(document), ensure_ascii=False, allow_nan=False)
    write_file(path, lambda temporary: _put(temporary, text + "\n"), overwrite=True)


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _load(backend: str) -> None:
    """Import the libraries of a backend: an import that the alarm cuts short leaves a library that never works again
    in this process."""
    from ppl_gen import registry
    from ppl_gen.view import backend_arrays

    backend_arrays(backend)
    importlib.import_module(backend)
    registry.families()


def _described(error: BaseException) -> str:
    """The error in short; of one that is no expected kind with the name of its kind."""
    expected = isinstance(error, (PPLGenError, ArithmeticError, ValueError, RuntimeError, MemoryError))
    return _in_short(error) if expected else f"{type(error).__name__}: {_in_short(error)}"


def _in_short(error: BaseException) -> str:
    from ppl_gen.files import first_line

    return first_line(error)[:300]
