"""Jobs in other processes give what they give here: results, errors, warnings, and an end by Ctrl-C."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import parallel

if TYPE_CHECKING:
    import pandas as pd

ERRORS = (pg.DataError, pg.SettingError, pg.StorageError, pg.FitError, pg.MissingExtraError, pg.UnsupportedError)


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    """The processes end with this module, before other tests count on the memory that they hold."""
    yield
    shutdown()


def shutdown() -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def threads_of_xla(number: int) -> tuple[int, int, str, str]:
    return number, os.getpid(), os.environ["XLA_FLAGS"], os.environ["OMP_NUM_THREADS"]


def fails(name: str, text: str) -> None:
    raise getattr(pg, name)(text)


def complains(number: int) -> int:
    warnings.warn(f"row {number % 2} is odd", UserWarning, stacklevel=1)
    return number


def same(value: Any) -> Any:
    return value


def anyone_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def dies() -> None:
    os._exit(1)


def test_jobs_run_in_processes_of_one_thread_each_in_their_order() -> None:
    ticks: list[int] = []
    found = parallel.run(threads_of_xla, [(i,) for i in range(4)], n_jobs=2, done=lambda: ticks.append(1))
    assert [number for number, *_ in found] == [0, 1, 2, 3]
    assert len(ticks) == 4
    assert os.getpid() not in {process for _, process, *_ in found}
    assert all(parallel.ONE_THREAD in flags and threads == "1" for *_, flags, threads in found)


def test_without_more_and_under_threads_jobs_run_here_one_by_one() -> None:
    assert parallel.run(os.getpid, [()]) == [os.getpid()]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert set(parallel.run(os.getpid, [()] * 4)) == {os.getpid()}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_it_was_raised(kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        parallel.run(fails, [(kind.__name__, "Column 'a' is empty: drop it.")] * 2, n_jobs=2)
    assert type(caught.value) is kind
    assert str(caught.value) == "Column 'a' is empty: drop it."


def test_a_warning_is_heard_once_and_the_backend_may_be_told_from_outside() -> None:
    with joblib.parallel_config(n_jobs=2), pytest.warns(UserWarning, match="is odd") as caught:
        assert parallel.run(complains, [(i,) for i in range(4)]) == [0, 1, 2, 3]
    assert sorted(str(warning.message) for warning in caught) == ["row 0 is odd", "row 1 is odd"]
    assert {warning.filename for warning in caught} == {__file__}  # the line of the user's own


def test_a_process_that_dies_is_told_in_words() -> None:
    with pytest.raises(pg.FitError, match="ran out of memory: use fewer processes"):
        parallel.run(dies, [()] * 2, n_jobs=2)


@pytest.mark.parametrize("n_jobs", [0, 1.5, "two", True])
def test_numbers_of_processes_that_mean_nothing(n_jobs: Any) -> None:
    with pytest.raises(pg.SettingError, match="n_jobs must be a whole number of processes"):
        parallel.run(same, [(1,)], n_jobs=n_jobs)


def test_a_fit_goes_to_another_process_without_its_pair(iris: pd.DataFrame) -> None:
    """By the same way as through the pipe: the closures of a pair can't go, and are made anew."""
    fit = pg.fit(pg.GMM(2), iris, engine=pg.EM(num_bootstraps=0, num_starts=1), seed=0)
    back = pickle.loads(pickle.dumps(fit))
    assert "pair" in vars(fit)
    assert "pair" not in vars(back)
    np.testing.assert_array_equal(back.score(iris).log_predictive, fit.score(iris).log_predictive)
    assert back.train.fingerprint == fit.train.fingerprint
    assert repr(back) == repr(fit)


def test_folds_in_two_processes_give_the_same_bits(iris: pd.DataFrame) -> None:
    shutdown()  # processes that have never held JAX would be taken for ones that leak
    engine = pg.EM(num_bootstraps=0, num_starts=1)
    here, there = (pg.fit(pg.GMM(1), iris.iloc[:, :2], engine=engine, seed=0) for _ in range(2))
    with joblib.parallel_config(n_jobs=2):
        found = there.held_out
    np.testing.assert_array_equal(found, here.held_out)
    assert np.isfinite(found).all()


SLEEPERS = """
    import sys, time
    from ppl_gen import parallel

    if __name__ == "__main__":
        print("ready", flush=True)
        parallel.run(time.sleep, [(60,), (60,)], n_jobs=2)
"""


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    """As a terminal sends it: to the whole group of processes."""
    script = tmp_path / "sleepers.py"
    script.write_text(textwrap.dedent(SLEEPERS), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    code = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment, start_new_session=True, text=True)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    time.sleep(2.0)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 30
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    deadline = time.monotonic() + 10
    while anyone_left(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not anyone_left(process.pid)
