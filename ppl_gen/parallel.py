"""Independent jobs (folds, sweeps, restarts, replications) by joblib, so that a user's own backend takes them.

Without more, jobs run one after another in this process. ``n_jobs=2`` starts two processes on this machine;
``with joblib.parallel_config(backend="dask")`` (or ``"ray"``) around the call sends them to a cluster. The results are
the same in each case, bit for bit where the machines are alike.

Processes, never threads: NumPyro and Pyro keep the state of a running program in global variables. Under a backend of
threads jobs run one after another; a worker of a cluster that has several threads takes one job at a time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from ppl_gen.errors import ProcessDiedError, SettingError, warn

Result = TypeVar("Result")

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
_PROCESS = uuid4().hex  # with the process's number, which a fork changes and another machine may share: this process
_ONE_AT_A_TIME = threading.Lock()
WATCH = 1.0  # seconds between looks at whether the process that started this one is there
_WATCHED: set[int] = set()


class _Done(NamedTuple):
    """What comes back from a job: its result, and the warnings that it gave elsewhere."""

    result: Any
    warnings: tuple[tuple[type[Warning], str], ...] = ()


def run(
    function: Callable[..., Result],
    jobs: Iterable[Sequence[Any]],
    *,
    n_jobs: int | None = None,
    done: Callable[[], None] | None = None,
) -> list[Result]:
    """``[function(*job) for job in jobs]``, side by side where joblib is told so.

    The first error stops all, as does Ctrl-C; warnings that jobs give in other processes are given here, each once.

    :param function: a function of a module (not a closure), which other processes can import.
    :param n_jobs: as joblib means it: None is what ``joblib.parallel_config`` says, else one; -1 is every core.
    :param done: called here after each job, in order, for a bar of progress.
    :raises SettingError: ``n_jobs`` is no whole number, or 0.
    :raises ProcessDiedError: a process died, most often for lack of memory.
    """
    from joblib import delayed

    parallel = _parallel(n_jobs)
    results: list[Result] = []
    told: set[tuple[type[Warning], str]] = set()
    here = _here()
    with _closing(parallel(delayed(_job)(here, function, tuple(job)) for job in jobs)) as stream:
        for result, found in stream:
            for category, text in found:
                if (category, text) not in told:
                    told.add((category, text))
                    warn(category(text))
            results.append(result)
            if done is not None:
                done()
    return results


def check_n_jobs(n_jobs: Any) -> None:
    """Raise a :class:`SettingError` unless it is None or a whole number other than 0."""
    if n_jobs is not None and (not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0):
        raise SettingError(f"n_jobs must be a whole number of processes, or -1 for every core, not {n_jobs!r}.")


def _parallel(n_jobs: int | None) -> Any:
    from joblib import Parallel
    from joblib.parallel import get_active_backend

    check_n_jobs(n_jobs)
    backend, _ = get_active_backend(prefer="processes")
    threads = getattr(backend, "uses_threads", False)
    # max_nbytes: large arrays go through the pipe, never to a pickled file.
    return Parallel(n_jobs=1 if threads else n_jobs, return_as="generator", max_nbytes=None)


def _here() -> str:
    return f"{_PROCESS}-{os.getpid()}"


def _job(origin: str, function: Callable[..., Any], job: tuple[Any, ...]) -> _Done:
    """One job, in the process that asked for it or in another."""
    if origin == _here():
        return _Done(function(*job))
    from joblib import parallel_config

    with _ONE_AT_A_TIME, parallel_config(backend="sequential"), warnings.catch_warnings(record=True) as caught:
        _keep_to_one_thread()
        result = function(*job)
    told = dict.fromkeys((warning.category, str(warning.message)) for warning in caught)
    return _Done(result, tuple(told))


def _keep_to_one_thread() -> None:
    """As many processes as cores work already, and each is content with the part of a GPU's memory that it needs. XLA
    and torch read these before their first computation."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@contextlib.contextmanager
def _closing(stream: Any) -> Iterator[Any]:
    """The stream of results; what is still running when something goes wrong is stopped, and joblib need not say so.
    Nor that it replaced a process whose memory grew, as that of a process that compiles programs does."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            yield stream
    except BrokenProcessPool:
        raise ProcessDiedError(
            "A process that worked on one of the jobs died, most often because the machine ran out of memory: use "
            "fewer processes (n_jobs), or smaller models."
        ) from None
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream.close()


def end_with(owner: int) -> None:
    """Let this process end soon after the one that started it, so that none works on, beside those of the same command
    begun anew, once that was killed. Of no effect in a process that another one started."""
    if owner in _WATCHED or os.getppid() != owner:
        return
    _WATCHED.add(owner)

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
