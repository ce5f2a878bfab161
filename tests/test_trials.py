"""A process that tries candidates ends with the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from zoo import clusters

from ppl_gen import candidates, contest, trial_states, trials
from ppl_gen.candidates import Candidate
from ppl_gen.deadlines import CHECKING, GROWTH, TRAINING, Clock
from ppl_gen.held_out_splits import Split
from ppl_gen.models.gmm import GMM

WHOLE = {
    "family": "gmm", "engine": "em", "backend": "numpyro", "density": "exact", "options": {}, "engine_options": {},
    "seconds": 1, "pointwise": [None, -1.5], "error": None, "calibration": None,
}  # fmt: skip
CHILD = """
import os, time
from ppl_gen import parallel
owner = os.getpid()
if not os.fork():
    parallel.end_with(owner)
    print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_no_process_works_on_once_the_command_is_killed():
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "begun\n"
        start = time.monotonic()
        owner.kill()
        assert not owner.stdout.read()  # which ends when the child has ended, too: by itself after 60 s
        assert time.monotonic() - start < 30


def test_an_error_of_a_library_is_the_failure_of_its_candidate_alone(tmp_path, monkeypatch):
    def broken(*_):
        raise AttributeError("partially initialized module")

    monkeypatch.setattr(trials, "_try", broken)
    data = candidates.read(clusters(60), {})[0]
    job = trials.Job(Candidate("one", (GMM(1),), "em", least=0.0), "one", data, Split.of(data, None, None, 0), 0, None,
                     time.time() + 60, 1.0, str(tmp_path))  # fmt: skip
    (tmp_path / "jobs").mkdir()
    trials.work(job)
    assert job.state.with_suffix(".why").read_text() == "failed: AttributeError: partially initialized module"


def test_the_alarm_is_set_when_libraries_are_imported(tmp_path, monkeypatch):
    """One that rings within an import would leave a library that no later candidate of the process can use."""
    done = []
    monkeypatch.setattr(trials, "_load", done.append)
    monkeypatch.setattr(trials, "alarm", lambda seconds: done.append("alarm") or pytest.fail("stop"))
    data = candidates.read(clusters(60), {})[0]
    job = trials.Job(Candidate("one", (GMM(1),), "em", least=0.0), "one", data, Split.of(data, None, None, 0), 0, None,
                     time.time() + 60, 1.0, str(tmp_path))  # fmt: skip
    (tmp_path / "jobs").mkdir()
    with pytest.raises(pytest.fail.Exception):
        trials.work(job)
    assert done == ["numpyro", "alarm"]


def test_an_alarm_within_a_finalizer_rings_again():
    """Python prints and loses what is raised within a finalizer or a callback of the garbage collector."""

    class Slow:
        def __del__(self):
            end = time.time() + 0.4
            while time.time() < end:
                pass

    def work():
        Slow()
        end = time.time() + 30
        while time.time() < end:
            pass

    with pytest.raises(trials.OutOfTime), trials.alarm(0.1):  # pytest fails on what is printed and lost
        work()


def test_what_folds_do_not_need_is_for_the_next_and_the_kept_fit_has_no_less_than_they(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "time", lambda: now)
    clock = Clock(0.0, 120.0, 240.0)
    first = clock.training(6)  # five folds and the kept fit; the first compiles
    assert first == pytest.approx(2 * TRAINING * 120 / 7)
    with clock.fitting():
        now += 5.0
    now += 1.0  # scores
    assert clock.training(5) == pytest.approx(((1 - CHECKING) * 120 - 6 - 4 * 1.0) / 5)
    with clock.fitting():
        now += 85.0
    assert clock.training(1) == pytest.approx((1 - CHECKING) * 120 - 91)
    assert clock.keeping() == pytest.approx(0.6 * (240 - 91))  # less than 1.25 times 85, or nothing could be looked at
    now = 130.0
    clock.until = 400.0
    assert clock.keeping() == pytest.approx(GROWTH * 85)  # beyond its share, but as good as what is ranked


@pytest.mark.parametrize(
    "edit",
    [{"pointwise": [0.0]}, {"pointwise": None}, {"pointwise": ["a", 1.0]}, {"density": None}, {"seconds": "x"},
     {"error": "x"}, {"k_hat": [1.0]}, {"failed": 3}, {"failed": [3]}, {"options": []}, {"checks": "two"}],
)  # fmt: skip
def test_a_document_with_anything_of_another_kind_is_none(edit):
    assert trial_states.is_whole(WHOLE, 2)
    assert not trial_states.is_whole({**WHOLE, **edit}, 2)


@pytest.mark.parametrize(("before", "waits"), [(60.0, True), (300.0, False)])
def test_what_a_smaller_budget_stopped_has_not_come_to_an_end(tmp_path, before, waits):
    """Else it would be forgotten where another's process dies, and those that are left are begun again."""
    data = candidates.read(clusters(60), {})[0]
    job = trials.Job(Candidate("one", (GMM(1),), "em"), "one", data, Split.of(data, None, None, 0), 0, None, 0.0, 1.0,
                     str(tmp_path), budget=300.0)  # fmt: skip
    state = {**WHOLE, "pointwise": [-1.5] * 60, "done": True, "stopped": True, "budget": before}
    job.state.parent.mkdir()
    trials.write(job.state, state)
    assert trial_states.waits(job) == waits
    assert contest._came_to_an_end(job) != waits
