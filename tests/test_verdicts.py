"""How models are ranked that say how sure their numbers are: bounds, importance sampling, log Z, surrogates."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time

import numpy as np
import pytest
from rich.console import Console
from zoo import clusters

from ppl_gen import candidates, trials
from ppl_gen.candidates import Candidate, LeftOut
from ppl_gen.errors import SettingError
from ppl_gen.held_out_splits import Split
from ppl_gen.html.ranking import ranking_of, section
from ppl_gen.html.sources import Subject
from ppl_gen.models.gmm import GMM
from ppl_gen.trials import Job
from ppl_gen.verdicts import TableComparison
from ppl_gen.verdicts_table import grouped

ROWS = 120
DATA = candidates.read(clusters(ROWS), {})[0]
SPLIT = Split.of(DATA, None, None, 0)
NOISE = np.random.default_rng(0).normal(size=(ROWS, 9))


def state(place, mean, density="exact", **more):
    """What a candidate gave whose held-out densities have this mean."""
    noise = NOISE[:, 0] + 0.3 * NOISE[:, place]
    return {
        "family": "gmm", "options": {}, "engine": "em", "engine_options": {}, "backend": "numpyro", "density": density,
        "pointwise": (mean + noise - noise.mean()).tolist(), "seconds": 3.0, "stopped": False, "failed": [],
        "calibration": 0.88, "calibration_se": 0.03, "checks": 5, "checks_failed": 0, "run": "fits/it", **more,
    }  # fmt: skip


def compared(**states):
    jobs = [Job(Candidate(name, (GMM(1),)), name, DATA, SPLIT, 0, None, 0.0, 1.0, "") for name in states]
    return TableComparison.of(list(states.values()), jobs, DATA, [], [], table="t.csv", seed=0, budget=60.0,
                              started=time.time(), folder=None, weights=None)  # fmt: skip


def test_a_bound_that_wins_wins_and_is_marked():
    found = compared(exact=state(1, -2.0), bound=state(2, -1.0, "bound", error=[0.01] * ROWS))
    assert found.best == "bound"
    assert found.to_dict()["models"][0]["is_bound"] is True
    assert "≥ -1.000" in str(found)
    assert any("lower bound" in warning for warning in found.warnings)


def test_a_bound_that_loses_is_said_to_be_at_least_that():
    found = compared(exact=state(1, -1.0), bound=state(2, -2.0, "bound"))
    assert found.best == "exact"
    assert found.frame.loc["bound", "verdict"].startswith("at least this: a bound")


def test_a_density_whose_normaliser_is_not_known_comes_last_whatever_its_number():
    unsure = state(2, 5.0, "unnormalised", error=[0.9] * ROWS, k_hat=[0.2] * ROWS)
    sure = state(3, -1.5, "unnormalised", error=[0.01] * ROWS, k_hat=[0.2] * ROWS)
    found = compared(exact=state(1, -1.0), unsure=unsure, sure=sure)
    assert list(found.frame.index) == ["exact", "sure", "unsure"]
    assert found.frame.loc["exact", "difference"] == 0.0
    assert found.frame.loc["unsure", "difference"] == pytest.approx(6.0 * ROWS)
    assert "log Z" in found.frame.loc["unsure", "verdict"]


def test_the_error_is_of_monte_carlo_or_a_share_of_bad_k_hats():
    good = state(1, -1.0, "importance", error=[0.04] * ROWS, k_hat=[0.3] * ROWS)
    bad = state(2, -2.0, "importance", error=[0.04] * ROWS, k_hat=[0.9] * 30 + [0.3] * (ROWS - 30))
    frame = compared(good=good, bad=bad, exact=state(3, -3.0)).frame
    assert (frame.loc["good", "error_kind"], frame.loc["good", "error"]) == ("mcse", pytest.approx(0.04))
    assert (frame.loc["bad", "error_kind"], frame.loc["bad", "error"]) == ("k-hat", 0.25)
    assert frame.loc["exact", "error_kind"] is None
    assert "k-hat above 0.7 in 25% of the rows" in frame.loc["bad", "verdict"]
    lost = compared(bad=bad, exact=state(3, -1.0)).frame.loc["bad", "verdict"]
    assert lost.startswith("at least this on average: its density may be higher; k-hat")


def test_verdicts_say_how_it_ranks_and_whether_to_believe_it():
    found = compared(
        best=state(1, -1.0), near=state(2, -1.01, stopped=True), far=state(3, -2.0, failed=["R-hat", "PIT p"]),
        unknown=state(4, -3.0, failed=None, checks=None, checks_failed=None),
    )  # fmt: skip
    assert list(found.frame["verdict"]) == [
        "best; checks passed", "not told apart from best; stopped by the budget; checks passed",
        "worse; 2 checks failed: R-hat, PIT p", "worse; no time to diagnose it",
    ]  # fmt: skip
    assert any("Can't be told apart from best" in warning and "near" in warning for warning in found.warnings)


def test_a_surrogate_is_warned_about():
    found = compared(exact=state(1, -1.0), gan=state(2, -0.5, "implicit: ais"))
    assert any("surrogate, not a density" in warning for warning in found.warnings)


def test_a_model_without_a_density_of_some_row_is_left_out_alone():
    lost = state(2, -1.0)
    lost["pointwise"][3] = None
    found = compared(exact=state(1, -1.0), lost=lost)
    assert list(found.frame.index) == ["exact"]
    assert found.left_out == (LeftOut("lost", "failed: it has no density of 1 held-out rows."),)


def test_where_nothing_came_to_an_end_the_reasons_are_told():
    with pytest.raises(SettingError, match=r"raise the budget.*\n- one: no time left"):
        compared(one={"why": "no time left in the budget"})


def test_the_document_is_plain_and_per_row():
    found = compared(a=state(1, -1.0), b=state(2, -2.0, "bound", error=[0.01] * ROWS))
    document = json.loads(json.dumps(found.to_dict()))
    assert document["models"][1]["elpd"] == pytest.approx(-2.0)
    assert document["models"][1]["difference"] == pytest.approx(-1.0)
    assert document["models"][0]["error"] is None
    assert {"format", "table", "rows", "columns", "unit", "how", "seed", "budget_seconds", "seconds", "best", "models",
            "left_out", "warnings", "next"} == set(document)  # fmt: skip


@pytest.mark.parametrize("width", [80, 110])
def test_no_number_is_cut_and_no_line_is_too_long(width):
    long = state(2, -1234.5, "importance", error=[0.04] * ROWS, k_hat=[0.9] * ROWS, failed=["a", "b"])
    console = Console(width=width, file=io.StringIO())
    console.print(compared(**{"gmm full": state(1, -1.0), "autoregressive": long}))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for part in ("-1,234.500 ± ", "-1,233.500 ± ", "importance", "k-hat 100%", "88 ± 3"):
        assert part in text


def test_wide_numbers_have_separators_and_leave_no_torn_verdicts():
    """Verdicts stand below a table in which less than 25 characters would be left for them."""
    vast = state(2, -504_887.0, failed=["posterior predictive p"])
    vast["pointwise"][0] = -60_000_000.0
    found = compared(**{"gmm full": state(1, -1.0), "autoregressive": vast})
    assert re.search(r" -1,00\d,\d{3} ± \d{3},\d{3}  -1,00\d,\d{3} ± \d{3},\d{3} ", str(found))
    for width, below in ((80, True), (104, True), (180, False)):
        console = Console(width=width, file=io.StringIO())
        console.print(found)
        text = console.file.getvalue()
        assert "\nautoregressive " in text
        assert ("\nVerdicts\n" in text) == below
        assert "; 1 check failed: posterior predictive p" in text


def test_reasons_that_differ_in_the_models_own_names_are_one():
    why = "{} has no density of a row with missing values (row 1); families that have: gmm, vae."
    labels = "Column 'c' holds labels, but {} takes real columns only."
    left = [("dae", why), ("flow maf", why), ("gmm", labels), ("ebm", labels), ("gan", "gan reads no row.")]
    found = grouped((name, words.format(name.split()[0])) for name, words in left)
    assert found == [(["dae", "flow maf"], why.format("it")), (["gmm", "ebm"], labels.format("it")),
                     (["gan"], "it reads no row.")]  # fmt: skip


def test_what_to_do_next_is_of_what_was_compared(tmp_path):
    found = dataclasses.replace(compared(a=state(1, -1.0)), folder=tmp_path)
    for unit, words in (("row", "sample {} -n 1000 -o samples.csv"), ("image", "sample {} -n 64 -o samples.npz"),
                        ("sequence", "forecast {} -n 24"), ("time step", "forecast {} -n 24")):  # fmt: skip
        command, _ = dataclasses.replace(found, unit=unit).next[-1]
        assert command == "ppl-gen " + words.format(tmp_path / "fits" / "it")


def test_what_waits_for_more_time_is_told_with_how_it_gets_it():
    late = {"why": trials.NO_TIME}
    found = compared(exact=state(1, -1.0), vae=late, dae={"why": f"{trials.LATE} within its share of the budget (3 s)"})
    assert found.warnings[-1].startswith("Not done in time: vae, dae; a larger budget")
    assert not any("Not done" in each for each in compared(exact=state(1, -1.0)).warnings)


def test_reasons_of_nothing_have_a_line_each():
    late = {"why": trials.NO_TIME}
    with pytest.raises(SettingError, match=rf"raise the budget.*\n- a, b: {trials.NO_TIME}\n- c: failed"):
        compared(a=late, b=late, c={"why": "failed: so."})


def test_a_report_ranks_what_a_comparison_wrote():
    """Of models without a diagnosis, with k-hats, bounds; and reasons that several share stand once."""
    bad = state(2, -2.0, "importance", error=[0.04] * ROWS, k_hat=[0.9] * 30 + [0.3] * (ROWS - 30))
    unknown = state(3, -3.0, failed=None, checks=None, checks_failed=None)
    late = {"why": trials.NO_TIME}
    found = compared(exact=state(1, -1.0), bad=bad, unknown=unknown, vae=late, dae=late)
    ranked = ranking_of(Subject((), found.to_dict()))
    text = str(section(ranked, {}))
    assert "None" not in text
    assert "k-hat 25 %" in text
    assert "88 ± 3 %" in text
    assert text.count(trials.NO_TIME) == 1
