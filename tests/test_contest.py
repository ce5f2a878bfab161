"""A whole comparison: the truth comes first, the budget holds, an interrupted one goes on, a dead process is no end."""

from __future__ import annotations

import io
import json
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
from zoo import clusters

import ppl_gen as pg
from ppl_gen import candidates, contest, trials
from ppl_gen.candidates import QUICK, Candidate
from ppl_gen.cli import main
from ppl_gen.errors import FitError, ProcessDiedError, SettingError, StorageError
from ppl_gen.held_out_splits import Split, coverage
from ppl_gen.models.gmm import GMM
from ppl_gen.progress import Monitor

EM = {"num_starts": 1, "num_bootstraps": 4, "max_iter": 100}
TABLE = clusters(100)


def quick(name, ladder, **options):
    return Candidate(name, tuple(ladder), "em", EM, turn=QUICK, least=0.0, **options)


CHOSEN = [quick("one", [GMM(1)]), quick("some", [GMM(1), GMM(2)])]


@pytest.fixture
def chosen(monkeypatch):
    """Two quick candidates instead of all, and how often something is fitted."""
    monkeypatch.setattr(candidates, "choose", lambda *_: (list(CHOSEN), [candidates.LeftOut("gan", "no density.")]))
    counted, fit_once = [], trials._fit_once

    def count(job, *rest):
        counted.append(job.candidate.name)
        return fit_once(job, *rest)

    monkeypatch.setattr(trials, "_fit_once", count)
    return counted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare") / "runs"


@pytest.fixture(scope="module")
def found(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "choose", lambda *_: (list(CHOSEN), [candidates.LeftOut("gan", "no density.")]))
        return pg.compare(None, TABLE, n_jobs=1, budget="10m", folder=folder)


class TestATable:
    def test_the_family_that_holds_the_truth_comes_first(self, found):
        assert found.best == "some"
        assert found.models[0]["options"]["num_components"] == 2
        assert found.frame.loc["one", "difference"] < -2 * found.frame.loc["one", "difference_se"]
        assert found.frame["verdict"].iloc[0].startswith("best")
        assert found.frame["verdict"].iloc[1].startswith("worse")

    def test_the_true_model_is_calibrated(self, found):
        """Within three standard errors, of 100 rows and the drawn ones."""
        row = found.frame.loc["some"]
        assert abs(row["calibration"] - 0.9) < 3 * row["calibration_se"]

    def test_every_row_is_held_out_once(self, found):
        assert found.pointwise.shape == (100, 2)
        assert found.pointwise.notna().all().all()
        assert "5 folds" in found.how

    def test_the_folder_holds_plain_values_and_fits_that_load(self, found, folder):
        document = json.loads((folder / "comparison.json").read_text())
        assert document == json.loads(json.dumps(found.to_dict()))
        best = document["models"][0]
        assert document["best"] == best["model"] == "some"
        assert best["elpd"] == pytest.approx(found.pointwise["some"].mean())
        fit = pg.load(folder / best["run"])
        assert (len(fit.train), fit.family.num_components) == (100, 2)
        assert (best["density"], best["error_kind"], best["is_bound"]) == ("exact", None, False)
        assert best["checks"] > 0
        frame = pd.read_csv(folder / "held_out.csv")
        assert list(frame) == ["row", "one", "some"]
        np.testing.assert_allclose(frame["some"], found.pointwise["some"])

    def test_what_was_left_out_is_told_with_the_reason(self, found):
        text = str(found)
        assert "Left out: gan: no density." in text
        assert "Held-out ELPD" in text
        assert found.to_dict()["left_out"] == [{"model": "gan", "why": "no density."}]

    @pytest.mark.parametrize("width", [80, 110])
    def test_the_printed_table_fits_its_width_and_loses_no_number(self, found, width):
        from rich.console import Console

        console = Console(width=width, file=io.StringIO())
        console.print(found)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert f"{found.to_dict()['models'][0]['elpd']:.3f} ± " in text


class TestResuming:
    def test_the_same_command_refits_nothing(self, found, folder, chosen):
        again = pg.compare(None, TABLE, n_jobs=1, folder=folder)
        assert chosen == []
        pd.testing.assert_frame_equal(again.pointwise, found.pointwise)

    def test_a_report_in_the_folder_is_no_harm_but_is_never_deleted(self, found, folder, chosen):
        mine = folder / "for-my-colleague.html"
        mine.write_text("mine")
        pg.compare(None, TABLE, n_jobs=1, folder=folder)
        with pytest.raises(StorageError, match="colleague"):
            pg.compare(None, TABLE, n_jobs=1, folder=folder, overwrite=True)
        assert chosen == []
        mine.unlink()

    @pytest.mark.parametrize("left", ["nothing", "damage", "stopped by a smaller budget"])
    def test_what_was_cut_short_is_done_and_no_more(self, found, folder, chosen, tmp_path, left):
        import shutil

        shutil.copytree(folder, tmp_path / "cut")
        file = tmp_path / "cut" / "jobs" / "one.json"
        state = json.loads(file.read_text())
        assert state["budget"] == 600
        state |= {"pointwise": ["a"] * 100} if left == "damage" else {"stopped": True, "budget": 60.0}
        file.unlink() if left == "nothing" else file.write_text(json.dumps(state))
        (tmp_path / "cut" / "comparison.json").unlink()
        again = pg.compare(None, TABLE, n_jobs=1, folder=tmp_path / "cut")
        assert set(chosen) == {"one"}
        np.testing.assert_allclose(again.pointwise["one"], found.pointwise["one"])

    def test_another_comparison_is_refused_and_replaced_when_asked(self, found, folder, chosen, tmp_path):
        with pytest.raises(StorageError, match="another comparison"):
            pg.compare(None, TABLE, n_jobs=1, folder=folder, seed=1)
        with pytest.raises(StorageError, match="another comparison"):
            pg.compare(None, TABLE.iloc[:90], n_jobs=1, folder=folder)
        (tmp_path / "jobs").mkdir()
        (tmp_path / "jobs" / "job.json").write_text("{")
        with pytest.raises(StorageError, match="damaged"):
            pg.compare(None, TABLE, n_jobs=1, folder=tmp_path)
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(StorageError, match=r"mine\.txt"):
            pg.compare(None, TABLE, n_jobs=1, folder=tmp_path, overwrite=True)


class Sleepy(GMM):
    """A family whose fits never end."""

    def prepare(self, table, **options):
        time.sleep(60)
        raise AssertionError


class Deadly(GMM):
    """A family whose fits end their process."""

    def prepare(self, table, **options):
        os.kill(os.getpid(), signal.SIGKILL)


class TestBudget:
    def job(self, candidate, tmp_path, seconds, share=1.0):
        data, _ = candidates.read(TABLE, {})
        (tmp_path / "jobs").mkdir(exist_ok=True)
        return trials.Job(candidate, "it", data, Split.of(data, None, None, 0), 0, None, time.time() + seconds, share,
                          str(tmp_path))  # fmt: skip

    def test_a_candidate_that_does_not_come_to_an_end_is_stopped(self, tmp_path):
        job = self.job(quick("sleepy", [Sleepy(1)]), tmp_path, 0.3)
        start = time.time()
        trials.work(job)
        assert time.time() - start < 5
        assert "its share of the budget" in job.state.with_suffix(".why").read_text()

    def test_one_for_which_no_time_is_left_is_not_begun(self, tmp_path):
        late = self.job(quick("sleepy", [Sleepy(1)]), tmp_path, -1)
        trials.work(late)
        assert late.state.with_suffix(".why").read_text() == trials.NO_TIME
        small = self.job(Candidate("sleepy", (Sleepy(1),), least=10.0), tmp_path, 9)
        trials.work(small)
        assert small.state.with_suffix(".why").read_text() == trials.NO_TIME

    def test_the_time_left_is_shared_by_those_that_have_not_begun(self, tmp_path):
        jobs = [self.job(quick(str(share), [GMM(1)], share=share), tmp_path, 60) for share in (1.0, 2.0, 1.0)]
        assert [job.share for job in contest.shared_out(jobs, 1)] == pytest.approx([0.25, 2 / 3, 1.0])

    def test_the_whole_ends_in_time_and_ranks_what_it_has(self, found, folder, tmp_path, monkeypatch):
        """One candidate is done before, so that no speed is tested; the other never is."""
        import shutil

        shutil.copytree(folder, tmp_path / "late")
        tag = json.loads((folder / "jobs" / "job.json").read_text())["tag"]
        monkeypatch.setattr(contest, "_tag", lambda *_: tag)
        monkeypatch.setattr(candidates, "choose", lambda *_: ([CHOSEN[0], quick("sleepy", [Sleepy(1)])], []))
        monkeypatch.setattr(contest, "LEAST_BUDGET", 1.0)
        start = time.time()
        result = pg.compare(None, TABLE, n_jobs=1, budget=4, folder=tmp_path / "late")
        assert time.time() - start < 6
        assert list(result.frame.index) == ["one"]
        assert result.left_out[0].model == "sleepy"

    def test_too_small_or_strange_limits_are_refused(self):
        strange = {"budget": "1s"}, {"budget": "soon"}, {"n_jobs": 0}, {"memory": "lots"}, {"memory": "1M"}
        for options in (*strange, {"seed": -1}, {"folds": "x"}, {"surrogate": "foo"}):
            with pytest.raises(SettingError):
                pg.compare(None, TABLE, **options)

    def test_no_more_processes_than_fit_in_memory(self):
        data, _ = candidates.read(TABLE, {})
        assert contest.Limits(60, 8, 4 * contest.WORKER + 10**7).workers(data) == 4
        assert contest.Limits(60, 8, 1).workers(data) == 1

    def test_an_engine_stops_at_its_deadline_once_it_has_something(self):
        monitor = Monitor(deadline=time.monotonic() - 1)
        monitor.update(1, 2)
        monitor.worth_keeping = True
        with pytest.raises(KeyboardInterrupt):
            monitor.update(1, 2)
        assert monitor.stopped

    def test_what_there_is_by_then_is_a_fit(self):
        engine = pg.EM(num_starts=2, num_bootstraps=0, max_iter=100)
        fit = pg.fit(GMM(2), TABLE, engine=engine, max_seconds=1e-6)
        assert fit.draws.interrupted
        assert np.isfinite(fit.score(p_values=False).log_predictive).all()
        with pytest.raises(SettingError, match="above 0"):
            pg.fit(GMM(1), TABLE, engine="em", max_seconds=0)


class TestDeadProcesses:
    def test_one_that_does_not_hear_the_end_is_killed(self, monkeypatch, tmp_path):
        import platform
        import subprocess
        import sys

        data, _ = candidates.read(TABLE, {})
        job = trials.Job(CHOSEN[0], "it", data, Split.of(data, None, None, 0), 0, None, time.time(), 1.0, str(tmp_path))
        (tmp_path / "jobs").mkdir()
        monkeypatch.setattr(contest, "GRACE", 0.1)
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            job.state.with_suffix(".started").write_text(f"{process.pid} {platform.node()}")
            with contest.ended_at_last([job]):
                assert process.wait(30) == -signal.SIGKILL
        assert contest._outcome(job)["why"] == "it was not done by the end of the budget"

    def test_the_one_that_died_is_told_and_the_others_go_on(self, monkeypatch, tmp_path):
        """By a stand-in for joblib: of three jobs side by side the second kills its process, and all die."""

        def run(function, jobs, *, n_jobs, done):
            for (job,) in jobs:
                job.state.with_suffix(".started").write_text("")
                if job.candidate.name == "deadly":
                    raise ProcessDiedError("a process died")
                if len(jobs) == 1 or job is not jobs[0][0]:
                    function(job)

        monkeypatch.setattr(contest.parallel, "run", run)
        chosen = [quick("first", [GMM(1)]), quick("deadly", [GMM(1)]), quick("third", [GMM(1)])]
        monkeypatch.setattr(candidates, "choose", lambda *_: (chosen, []))
        result = pg.compare(None, TABLE, n_jobs=2, folder=tmp_path / "run")
        assert set(result.frame.index) == {"first", "third"}
        assert "process died" in result.left_out[0].why

    @pytest.mark.slow
    def test_a_process_that_is_killed(self, monkeypatch, tmp_path):
        chosen = [quick("one", [GMM(1)]), quick("deadly", [Deadly(1)])]
        monkeypatch.setattr(candidates, "choose", lambda *_: (chosen, []))
        result = pg.compare(None, TABLE, n_jobs=2, folder=tmp_path / "run")
        assert list(result.frame.index) == ["one"]
        assert result.left_out[0].model == "deadly"
        assert "process died" in result.left_out[0].why

    def test_an_error_of_one_is_its_own(self, monkeypatch):
        class Broken(GMM):
            def check(self, data):
                raise FitError("the loss is not a number.")

        monkeypatch.setattr(candidates, "choose", lambda *_: ([CHOSEN[0], quick("broken", [Broken(1)])], []))
        result = pg.compare(None, TABLE, n_jobs=1)
        assert result.left_out[0].why == "failed: the loss is not a number."


class TestSplits:
    def test_folds_are_of_one_size_and_hold_each_row_out_once(self):
        data, _ = candidates.read(TABLE.iloc[:98], {})
        split = Split.of(data, None, None, 0)
        assert len({len(training) for training, _ in split.parts}) == 1
        assert sorted(np.concatenate([rows for _, rows in split.parts])) == list(range(98))
        assert all(not set(training) & set(rows) for training, rows in split.parts)

    def test_more_rows_are_held_out_once(self):
        data, _ = candidates.read(clusters(1000), {})
        ((training, rows),) = Split.of(data, None, None, 0).parts
        assert (len(training), len(rows)) == (800, 200)
        assert not set(training) & set(rows)

    def test_the_error_of_a_coverage_is_that_of_both_shares(self):
        share, error = coverage([np.arange(100) < 90], 1000)
        assert share == 0.9
        assert error == pytest.approx(np.sqrt(0.09 / 100 + 0.09 / 1000))


def test_on_the_command_line(monkeypatch, tmp_path, capsys):
    only = [quick("some", [GMM(2)])]
    monkeypatch.setattr(candidates, "choose", lambda *_: (only, [candidates.LeftOut("gan", "no density.")]))
    TABLE.to_csv(tmp_path / "people.csv", index=False)
    arguments = ["compare", str(tmp_path / "people.csv"), "--jobs", "1", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for text in ("ELPD ± se", "Left out", "verdict", f"ppl-gen diagnose {tmp_path / 'out' / 'fits' / 'some'}"):
        assert text in out
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["best"], document["unit"]) == ("some", "row")
    assert main(["compare", str(tmp_path / "people.csv"), "--engine", "em"]) == 2
    assert "name some" in capsys.readouterr().err
