"""A whole comparison of a table: candidates side by side in processes, within a budget, kept so that it can resume.

The folder holds ``comparison.json``, ``held_out.csv`` (the held-out log density of each row under each model),
``fits/<model>/`` (fits that :func:`ppl_gen.load` reads) and ``jobs/`` (what each candidate gave, as soon as it did).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_gen import __version__, amounts, candidates, parallel, trial_states
from ppl_gen.errors import ProcessDiedError, SettingError, StorageError
from ppl_gen.files import OVERWRITE, check_writable, resolve
from ppl_gen.held_out_splits import Split
from ppl_gen.progress import Monitor
from ppl_gen.trials import LATE, NO_TIME, Job, work, write

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate, LeftOut
    from ppl_gen.data import Data
    from ppl_gen.verdicts import TableComparison

BUDGET = "5m"
LEAST_BUDGET = 20.0  # seconds: to start a process, import JAX, and fit and score a mixture take 8 to 15
ENDING = (0.04, 2.0, 10.0)  # share of the budget, and its bounds in seconds, for what follows the last candidate
WORKER = 1_600 * 2**20  # bytes that a process takes once it has fitted a few families (measured: 0.5 to 1.5 GiB)
GRACE = 1.0  # seconds after the end in which a process may still say what it has
COPIES = 20  # of the table, in its model's arrays
MEMORY = 0.7  # of what is available
FILES = {"comparison.json", "held_out.csv", "fits", "jobs", "report.html"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a comparison may take: seconds in all, processes, and bytes of memory."""

    seconds: float
    processes: int | None
    memory: int

    @classmethod
    def of(cls, budget: Any, n_jobs: int | None, memory: Any) -> Limits:
        """
        :raises SettingError: no such amount, or too small a budget.
        """
        seconds = amounts.seconds(BUDGET if budget is None else budget)
        if seconds < LEAST_BUDGET:
            raise SettingError(f"A budget of at least {LEAST_BUDGET:g} s is needed, not {seconds:g} s: so long it "
                               "takes to start a process and to fit the first model.")  # fmt: skip
        parallel.check_n_jobs(n_jobs)
        most = int(MEMORY * amounts.available_memory()) if memory is None else amounts.memory(memory)
        if memory is not None and most < WORKER:
            raise SettingError(f"A process of a comparison takes up to {WORKER / 2**30:.1f} GiB, more than the "
                               f"{memory} that it may: allow as much, or leave memory out.")  # fmt: skip
        return cls(seconds, n_jobs, most)

    def workers(self, data: Data) -> int:
        """As many processes as were asked for, or as there are cores, but no more than fit in memory."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        asked = cores if self.processes is None or self.processes < 0 else self.processes
        return max(1, min(asked, self.memory // (WORKER + COPIES * data.x.nbytes)))


def run(
    table: Any, chosen: Sequence[Candidate] | None = None, *, folds: int | None = None, test: Any = None, seed: int = 0,
    surrogate: Any = None, limits: Limits, folder: str | Path | None = None, overwrite: bool = False,
    progress: bool = False, shown: str = "", started: float | None = None, data_options: dict[str, Any],
) -> TableComparison:  # fmt: skip
    """Fit and score the candidates, by default those that suit the table; see :func:`ppl_gen.compare`."""
    from ppl_gen.verdicts import TableComparison

    start = time.time() if started is None else started
    data, notes = candidates.read(table, data_options)
    chosen, without = candidates.choose(data, surrogate) if chosen is None else (list(chosen), [])
    split = Split.of(data, folds, test, seed)
    tag = _tag(data, chosen, split, seed, surrogate)
    with contextlib.ExitStack() as stack:
        if folder is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ppl-gen-compare-")))
        else:
            place = open_folder(folder, tag, overwrite)
        write(place / "jobs" / "job.json", {"tag": tag, "version": __version__, "table": shown})
        jobs = _jobs(chosen, data, split, seed, surrogate, start, limits, place)
        states = _run_all(jobs, limits.workers(data), progress)
        result = TableComparison.of(
            states, jobs, data, without, notes, table=shown, seed=seed, budget=limits.seconds, started=start,
            folder=None if folder is None else place, weights=split.weights(data),
        )  # fmt: skip
        if folder is not None:
            result.write(place)
    return result


def open_folder(folder: str | Path, tag: str, overwrite: bool) -> Path:
    """The folder, new or of the same comparison, which then goes on.

    :raises StorageError: it holds another comparison, or something else; or nothing can be written there.
    """
    path = resolve(folder)
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path} is a file: choose another name.")
    if path.is_dir() and any(path.iterdir()):
        foreign = sorted(p.name for p in path.iterdir() if p.name not in FILES)
        known = path / "jobs" / "job.json"
        tag_there = trial_states.document(known).get("tag")
        same = tag_there == tag  # files beside those of its own, a report say, are no harm then
        if not known.exists() or (foreign and (overwrite or not same)):
            what = f"holds files that are no part of a comparison ({', '.join(foreign[:3])})" if foreign else "is none"
            raise StorageError(f"{path} exists and {what}, so it is never replaced: choose another name.")
        if not same:
            if not overwrite and tag_there is None:
                raise StorageError(f"{path} holds a comparison whose jobs/job.json is damaged, so that nobody knows of "
                                   f"what: choose another name, or replace it ({OVERWRITE}).")  # fmt: skip
            if not overwrite:
                raise StorageError(
                    f"{path} holds another comparison (its table, seed, models or version of ppl_gen differ): choose "
                    f"another name, or replace it ({OVERWRITE})."
                )
            shutil.rmtree(path)
        elif overwrite:
            shutil.rmtree(path)
    check_writable(path)
    (path / "jobs").mkdir(parents=True, exist_ok=True)
    return path


def _tag(data: Data, chosen: Sequence[Candidate], split: Split, seed: int, surrogate: Any) -> str:
    """What two comparisons have in common whose candidates' results can stand for each other."""
    test = None if split.test is None else split.test.fingerprint
    surrogate = getattr(surrogate, "to_config", lambda: surrogate)()
    parts = [rows.tolist()[:50] for part in split.parts for rows in part]
    job = [data.fingerprint, [each.to_config() for each in chosen], test, split.how, parts, seed, surrogate,
           __version__]  # fmt: skip
    return hashlib.blake2b(json.dumps(job, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _jobs(
    chosen: Sequence[Candidate], data: Data, split: Split, seed: int, surrogate: Any, start: float, limits: Limits,
    folder: Path,
) -> list[Job]:  # fmt: skip
    share, low, high = ENDING
    end = start + limits.seconds - min(max(share * limits.seconds, low), high)
    slugs = [re.sub(r"[^\w.=-]+", "-", each.name).strip("-.") or "model" for each in chosen]
    slugs = [slug if slugs.count(slug) == 1 else f"{slug}-{place + 1}" for place, slug in enumerate(slugs)]
    return [Job(each, slug, data, split, seed, surrogate, end, 1.0, str(folder), False, os.getpid(), limits.seconds)
            for each, slug in zip(chosen, slugs, strict=True)]  # fmt: skip


def _run_all(jobs: list[Job], workers: int, progress: bool) -> list[dict[str, Any]]:
    """Do all jobs that are not done; what each gave, or ``why`` it gave nothing."""
    waiting = [job for job in jobs if trial_states.waits(job)]
    for job in waiting:
        for suffix in (".why", ".started"):
            job.state.with_suffix(suffix).unlink(missing_ok=True)
    total, done = len(jobs), len(jobs) - len(waiting)
    with Monitor(show=progress, label="compare", delay=0.0) as monitor:
        monitor.begin(total)

        def tick() -> None:
            nonlocal done
            done += 1
            monitor.update(done, total)

        with processes(workers > 1):
            _side_by_side(waiting, workers, tick)
    return [_outcome(job) for job in jobs]


def _side_by_side(waiting: list[Job], workers: int, tick: Callable[[], None]) -> None:
    """Do the jobs. Where a process dies, joblib ends all of them: those that it may have been are then done one by one,
    so that it is known which it was."""
    try:
        with ended_at_last(waiting):
            parallel.run(work, [(job,) for job in shared_out(waiting, workers)], n_jobs=workers, done=tick)
    except ProcessDiedError:
        if not waiting or time.time() >= waiting[0].end:
            return
        suspects = [job for job in waiting if job.state.with_suffix(".started").exists()]
        for job in suspects:
            job.state.with_suffix(".started").unlink(missing_ok=True)
            if len(suspects) > 1 and time.time() < job.end:
                with contextlib.suppress(ProcessDiedError), ended_at_last([job]):
                    parallel.run(work, [(job,)], n_jobs=2, done=tick)
                    continue
            job.state.with_suffix(".why").write_text(DIED, encoding="utf-8")
        rest = [job for job in waiting if job not in suspects and not _came_to_an_end(job)]
        if rest and suspects:
            _side_by_side(rest, workers, tick)


@contextlib.contextmanager
def ended_at_last(jobs: Sequence[Job]) -> Iterator[None]:
    """Within, processes on this machine that have not heard the end of the time, as they are inside one long call of
    compiled code, are killed a little after it."""

    def kill() -> None:
        for job in jobs:
            with contextlib.suppress(OSError, ValueError):
                process, host = job.state.with_suffix(".started").read_text(encoding="utf-8").split(" ", 1)
                if host == platform.node() and int(process) != os.getpid():
                    os.kill(int(process), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    timer = threading.Timer(max(jobs[0].end + GRACE - time.time(), 0.0) if jobs else 0.0, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


DIED = "failed: its process died; most likely the machine ran out of memory (--memory and --jobs say how many run)."


def _came_to_an_end(job: Job) -> bool:
    return job.state.with_suffix(".why").exists() or not trial_states.waits(job)


def shared_out(jobs: Sequence[Job], workers: int) -> list[Job]:
    """Each with its share of the time left when it begins: of all those that have not begun then."""
    shares = [job.candidate.share for job in jobs]
    return [dataclasses.replace(job, share=workers * job.candidate.share / sum(shares[place:]), first=place == 0)
            for place, job in enumerate(jobs)]  # fmt: skip


@contextlib.contextmanager
def processes(own: bool) -> Iterator[None]:
    """Within, processes that joblib starts on this machine are new, and they end with it, at once if it is left by an
    error."""
    if not own:
        yield
        return
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(wait=True)
    try:
        yield
    finally:
        get_reusable_executor(reuse=True, kill_workers=True).shutdown(wait=True, kill_workers=True)


def _outcome(job: Job) -> dict[str, Any]:
    state, why = trial_states.of(job), job.state.with_suffix(".why")
    if "pointwise" in state:
        return state
    if why.exists():
        return {"why": why.read_text(encoding="utf-8")}
    begun = job.state.with_suffix(".started").exists()
    return {"why": f"{LATE} by the end of the budget" if begun else NO_TIME}


def left_out(jobs: Sequence[Job], states: Sequence[dict[str, Any]]) -> list[LeftOut]:
    """The candidates that gave no densities."""
    return [candidates.LeftOut(job.candidate.name, state["why"]) for job, state in zip(jobs, states, strict=True)
            if "why" in state]  # fmt: skip
