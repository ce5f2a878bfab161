"""Independent jobs (folds, sweeps, restarts, replications) by joblib, so that a user's own backend takes them.

Without more, jobs run one after another in this process. ``n_jobs=2`` starts two processes on this machine;
``with joblib.parallel_config(backend="dask")`` (or ``"ray"``) around the call sends them to a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(
    function: Callable[..., Result],
    jobs: Iterable[Sequence[Any]],
    *,
    n_jobs: int | None = None,
    done: Callable[[], None] | None = None,
) -> list[Result]:
    """``[function(*job) for job in jobs]``, side by side where joblib is told so.

    :param function: a function of a module (not a closure), which other processes can import.
    :param n_jobs: as joblib means it: None is what ``joblib.parallel_config`` says, else one; -1 is every core.
    :param done: called here after each job, in order, for a bar of progress.
    """
    from joblib import Parallel, delayed

    # max_nbytes: large arrays go through the pipe, never to a pickled file.
    parallel = Parallel(n_jobs=n_jobs, return_as="generator", max_nbytes=None)
    results = []
    for result in parallel(delayed(function)(*job) for job in jobs):
        results.append(result)
        if done is not None:
            done()
    return results
