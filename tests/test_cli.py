"""ppl-gen from end to end: what it prints where, its exit statuses, and that bad input never gives a traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppl_gen as pg
from ppl_gen import report
from ppl_gen.cli import main, options
from ppl_gen.errors import PPLGenError

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "zoo", "fit", "compare", "demo", "diagnose", "score", "sample", "forecast", "plot", "latents", "reconstruct",
    "interpolate", "impute", "score-function", "chains", "normalize", "sweep", "report",
)  # fmt: skip
TINY = ["--engine", "em", "--engine-set", "num_bootstraps=4", "--engine-set", "num_starts=2"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rows of two clusters: a length, a whole number, a label and a weight."""
    rng = np.random.default_rng(0)
    left = np.arange(60) < 30
    frame = pd.DataFrame({
        "length": rng.normal(np.where(left, -3, 3)), "n": rng.integers(0, 50, 60) + 100 * left,
        "label": np.where(left, "a", "b"), "w": rng.uniform(0.5, 2, 60),
    })  # fmt: skip
    path = tmp_path_factory.mktemp("data") / "two clusters.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved fit, made by the command itself."""
    folder = tmp_path_factory.mktemp("runs") / "my fit"
    assert (
        main(["fit", str(table), "gmm", "--drop", "label", "--weights", "w", *TINY, "-o", str(folder), "--json"]) == 0
    )
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``cli("score", run)`` -> exit status, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


def is_user_error(status: int, out: str, err: str) -> bool:
    """Exit status 2, nothing on stdout, one or two lines on stderr that say who speaks, no traceback."""
    lines = err.strip().splitlines()
    return (
        status == 2 and out == "" and 1 <= len(lines) <= 2 and lines[0].startswith("ppl-gen: ") and "Trace" not in err
    )


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_real_example(command: str, cli: Any) -> None:
    status, out, err = cli(command, "--help")
    assert (status, err) == (0, "")
    assert f"ppl-gen {command}" in out.split("Example")[1]


def test_help_lists_every_command(cli: Any) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        status, out, _ = cli(*arguments)
        assert status == 0
        assert all(re.search(rf"│ {command} ", out) for command in COMMANDS)


def test_help_is_light() -> None:
    """Neither JAX nor torch, nor anything else that takes long to import."""
    code = (
        "import sys; from ppl_gen.cli import main; status = main(['--help']); "
        "heavy = {'jax', 'torch', 'numpy', 'pandas', 'arviz', 'matplotlib'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(cli: Any) -> None:
    assert cli("--version") == (0, f"ppl-gen {pg.__version__}\n", "")


# The commands


def test_zoo(cli: Any) -> None:
    status, out, _ = cli("zoo")
    assert status == 0
    assert all(name in out for name in ("Gaussian mixture", "exact", "nuts", "svi", "numpyro"))
    everything = json.loads(cli("zoo", "--json")[1])
    assert {row["family"] for row in everything["families"]} == set(pg.families())
    assert {row["engine"] for row in everything["engines"]} == set(pg.engines())
    assert "prior.loc_scale" in cli("zoo", "gmm")[1]


@pytest.mark.parametrize("name", sorted({**pg.families(), **pg.engines()}))
def test_zoo_explains_every_option(name: str, cli: Any) -> None:
    found = json.loads(cli("zoo", name, "--json")[1])
    assert found["options"]
    assert all(option["meaning"] for option in found["options"])


def test_fit_says_what_it_did(table: Path, tmp_path: Path, cli: Any) -> None:
    status, out, err = cli(
        "fit", table, "gmm", "--columns", "length,n", "--engine", "em", *TINY[2:], "-o", tmp_path / "f"
    )
    assert (status, err) == (0, "")
    for part in ("Gaussian mixture", "60 rows x 2 columns", "em num_starts=2", "because", "weights[0]", "PASS",
                 f"Saved in {tmp_path / 'f'}", "Try next", f"'{table}'"):  # fmt: skip
        assert part in out
    fit = pg.load(tmp_path / "f")
    assert (fit.family, fit.seed, fit.engine.num_starts) == (pg.GMM(), 0, 2)


def test_fit_as_json(table: Path, run: Path, cli: Any) -> None:
    arguments = ["--set", "prior.loc_scale=3", "--set", "num_components=1", "--seed", "7", "--no-standardize", *TINY]
    status, out, _ = cli("fit", table, "gmm", "--drop", "label,w", *arguments, "-o", run.with_name("other"), "--json")
    assert status == 0
    document = json.loads(out)
    assert document["family"]["options"]["prior"]["loc_scale"] == 3
    assert (document["seed"], document["engine"]["name"], document["uncertainty"]) == (7, "em", "bootstrap")
    assert {"parameter", "estimate", "sd"} <= document["summary"][0].keys()
    assert document["diagnosis"]["passed"] in (True, False)
    assert pg.load(run.with_name("other")).schema.standardize is False


def test_fit_has_a_default_folder(table: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("fit", table, "gmm", "--drop", "label", "--weights", "w", *TINY)[0] == 0
    assert pg.load("runs/two clusters-gmm").family == pg.GMM()


def test_diagnose(run: Path, cli: Any) -> None:
    status, out, err = cli("diagnose", run, "--summary")
    assert (status, err) == (0, "")
    assert "locs[" in out
    assert "PASS: all" in out
    document = json.loads(cli("diagnose", run, "--json", "--summary")[1])
    assert document["passed"] is True
    assert {"checks", "verdict", "summary"} <= document.keys()


def test_strict_diagnosis_fails_where_a_check_does(run: Path, tmp_path: Path, cli: Any) -> None:
    fit = pg.load(run)
    draws = dataclasses.replace(fit.draws, figures={**fit.draws.figures, "converged": False})
    dataclasses.replace(fit, draws=draws).save(tmp_path / "bad")
    for strict, expected in ((["--strict"], 1), (["--strict", "--json"], 1), ([], 0)):
        assert cli("diagnose", tmp_path / "bad", *strict)[0] == expected
    assert cli("diagnose", run, "--strict")[0] == 0


def test_score(run: Path, table: Path, tmp_path: Path, cli: Any) -> None:
    columns = ["row", "log_prob", "log_prob_sd", "hdi_low", "hdi_high", "anomaly_p_value", "kind"]
    status, out, err = cli("score", run, table, "-o", tmp_path / "scores.csv")
    assert (status, err) == (0, "")
    assert "60 scores in" in out
    frame = pd.read_csv(tmp_path / "scores.csv")
    assert list(frame) == columns
    np.testing.assert_allclose(frame["log_prob"], pg.load(run).score(str(table)).log_predictive)
    assert cli("score", run, table, "-o", tmp_path / "scores.parquet")[0] == 0
    assert list(pd.read_parquet(tmp_path / "scores.parquet")) == columns
    document = json.loads(cli("score", run, "--json")[1])
    assert list(document["rows"][0]) == columns
    assert document["total"] == pytest.approx(sum(row["log_prob"] for row in document["rows"]))
    assert "The most anomalous rows" in cli("score", run)[1]
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "scores.parquet"}


def test_sample(run: Path, tmp_path: Path, cli: Any) -> None:
    assert cli("sample", run, "-n", 7, "--seed", 3, "-o", tmp_path / "rows.csv")[0] == 0
    frame = pd.read_csv(tmp_path / "rows.csv")
    pd.testing.assert_frame_equal(frame, pg.load(run).sample(7, seed=3))
    assert list(frame.dtypes.astype(str)) == ["float64", "int64"]
    rows = json.loads(cli("sample", run, "-n", 7, "--seed", 3, "--json")[1])["rows"]
    assert rows == frame.to_dict("records")
    assert "7 new rows" in cli("sample", run, "-n", 7)[1]


def test_latents(run: Path, table: Path, tmp_path: Path, cli: Any) -> None:
    assert cli("latents", run, table, "-o", tmp_path / "z.parquet")[0] == 0
    frame = pd.read_parquet(tmp_path / "z.parquet")
    assert frame["z"].nunique() == 2
    assert (frame["z_prob"] > 0.9).all()
    assert len(json.loads(cli("latents", run, "--json")[1])["rows"]) == 60


def test_plot(run: Path, tmp_path: Path, cli: Any) -> None:
    document = json.loads(cli("plot", run, "-o", tmp_path, "--kind", "score", "--json")[1])
    assert document["pictures"] == [str(tmp_path / "score.png")]
    assert (tmp_path / "score.png").read_bytes().startswith(b"\x89PNG")
    assert cli("plot", run, "--kind", "loss")[:2] == (0, f"{run / 'plots' / 'loss.png'}\n")


def test_compare(table: Path, cli: Any) -> None:
    specs = ["gmm num_components=1", "gmm num_components=2 engine=em engine.num_starts=2"]
    arguments = [table, *specs, "--drop", "label,w", "--folds", 2, "--engine", "em"]
    status, out, err = cli("compare", *arguments)
    assert (status, err) == (0, "")
    assert f"ppl-gen fit '{table}' gmm --set num_components=2" in out
    document = json.loads(cli("compare", *arguments, "--json")[1])
    assert document["best"] == specs[1]
    assert [row["model"] for row in document["models"]] == specs[::-1]


# Outputs are never clobbered


def test_outputs_are_replaced_only_when_asked(run: Path, table: Path, tmp_path: Path, cli: Any) -> None:
    for command in (["score", run, table], ["sample", run], ["latents", run]):
        path = tmp_path / "out.csv"
        path.write_text("mine")
        assert is_user_error(*cli(*command, "-o", path))
        assert path.read_text() == "mine"
        assert cli(*command, "-o", path, "--overwrite")[0] == 0
        assert path.read_text() != "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_fit_is_replaced_only_when_asked(run: Path, table: Path, tmp_path: Path, cli: Any) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "fit"))
    before = (folder / "fit.json").read_bytes()
    arguments = ["fit", table, "gmm", "--drop", "label", "--weights", "w", *TINY, "--seed", 9, "-o", folder]
    assert is_user_error(*cli(*arguments))
    assert (folder / "fit.json").read_bytes() == before
    assert cli(*arguments, "--overwrite")[0] == 0
    assert pg.load(folder).seed == 9


# Interruption


def test_interrupting_a_fit_leaves_the_old_run(
    run: Path, table: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    folder = Path(shutil.copytree(run, tmp_path / "fit"))
    before = (folder / "fit.json").read_bytes()
    monkeypatch.setattr("ppl_gen.inference.em.EM.run", interrupt)
    arguments = ["fit", table, "gmm", "--drop", "label", *TINY, "-o", folder, "--overwrite"]
    told = "ppl-gen: interrupted: nothing was saved (--keep-partial saves what has been drawn)\n"
    assert cli(*arguments) == (130, "", told)
    status, _, err = cli(*arguments, "--keep-partial")
    assert status == 130
    assert "nothing was saved, since nothing had been drawn" in err
    assert (folder / "fit.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


def test_what_was_drawn_is_saved_when_asked(
    run: Path, table: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = pg.load(run)
    partial = dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, interrupted=True))

    def interrupted_fit(*_: Any, keep_partial: bool, **__: Any) -> pg.Fit | None:
        return partial if keep_partial else None

    monkeypatch.setattr(importlib.import_module("ppl_gen.fit"), "fit", interrupted_fit)  # pg.fit is the function itself
    folder = Path(shutil.copytree(run, tmp_path / "fit"))
    before = (folder / "fit.json").read_bytes()
    for name in ("fit-partial", "fit-partial-2"):
        status, out, err = cli("fit", table, "gmm", "-o", folder, "--overwrite", "--keep-partial")
        assert (status, out) == (130, "")
        assert err == f"ppl-gen: interrupted: what there was (1 x 4 draws) is saved in {tmp_path / name}\n"
        assert pg.load(tmp_path / name).draws.interrupted
    assert (folder / "fit.json").read_bytes() == before


def test_ctrl_c_while_saving_waits_for_the_fit_when_asked(
    run: Path, table: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[], None]
) -> None:
    storage = importlib.import_module("ppl_gen.storage")
    save = storage.save

    def save_and_interrupt(*args: Any, **options: Any) -> Any:
        ctrl_c()
        return save(*args, **options)

    fit = pg.load(run)
    monkeypatch.setattr(importlib.import_module("ppl_gen.fit"), "fit", lambda *_, **__: fit)
    monkeypatch.setattr(storage, "save", save_and_interrupt)
    status, _, err = cli("fit", table, "gmm", "-o", tmp_path / "fit", "--keep-partial")
    assert status == 130
    assert f"the fit is complete, and saved in {tmp_path / 'fit'}" in err
    assert pg.load(tmp_path / "fit").draws.num_draws == fit.draws.num_draws


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from ppl_gen.cli import main; sys.exit(main(['zoo', 'gmm']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# Bad input


MISTAKES = [
    (["fti"], "'fit'"),
    (["fit"], "TABLE"),
    (["fit", "{table}", "gmn"], "did you mean 'gmm'?"),
    (["fit", "{table}", "gmm", "--sed", "1"], "did you mean '--seed'?"),
    (["fit", "{table}", "gmm", "--seed", "one"], "--seed"),
    (["fit", "{table}", "gmm", "--drop", "label", "--seed", "-1"], "seed"),
    (["fit", "{table}", "gmm", "extra"], "extra"),
    (["fit", "{table}", "gmm", "--set", "num_components"], "name=value"),
    (["fit", "{table}", "gmm", "--set", "num_components=2", "--set", "num_components=3"], "given twice"),
    (["fit", "{table}", "gmm", "--set", "prior.loc_scale.x=1"], "'loc_scale' of GMMPrior is a value"),
    (["fit", "{table}", "gmm", "--kind", "n"], "COLUMN=KIND"),
    (["fit", "{table}", "gmm", "--columns", "length,length"], "named twice"),
    (["fit", "{table}", "gmm", "--columns", "length,,n"], "no list of column names"),
    (["fit", "{table}", "gmm", "--drop", "label", "-o", ""], "empty path"),
    (["fit", "{table}", "gmm", "--drop", "label", "-o", "/proc/run"], "can't be written"),
    (["score", "{run}", "--drop", "label"], "none was given"),
    (["plot", "{run}", "-o", "{table}"], "is a file"),
    (["fit", "{table}", "gmm", "--set", "num_componets=2"], "did you mean 'num_components'?"),
    (["fit", "{table}", "gmm", "--set", "num_components=0"], "at least 1"),
    (["fit", "{table}", "gmm", "--set", "num_components=two"], "whole number"),
    (["fit", "{table}", "gmm", "--set", "covariance=ful"], "did you mean 'full'?"),
    (["fit", "{table}", "gmm", "--set", "prior.loc_scal=1"], "did you mean 'loc_scale'?"),
    (["fit", "{table}", "gmm", "--set", "pior.loc=1"], "did you mean 'prior'?"),
    (["fit", "{table}", "gmm", "--set", "prior=3"], "prior"),
    (["fit", "{table}", "gmm", "--engine", "nust"], "did you mean 'nuts'?"),
    (["fit", "{table}", "gmm", "--engine", "em", "--engine-set", "num_start=1"], "did you mean 'num_starts'?"),
    (["fit", "{table}", "gmm", "--engine-set", "num_starts=1"], "--engine"),
    (["fit", "{table}", "gmm", "--backend", "pyr", "--drop", "label"], "did you mean 'pyro'?"),
    (["fit", "{table}", "gmm"], "--drop label"),
    (["fit", "{table}", "gmm", "--covariance", "full"], "--set covariance="),
    (["fit", "{table}", "gmm", "--num-starts", "3"], "--engine-set num_starts="),
    (["fit", "{table}", "gmm", "--drop", "lable"], "did you mean 'label'?"),
    (["fit", "{table}", "gmm", "--columns", "length,m"], "'m'"),
    (["fit", "{table}", "gmm", "--kind", "n=reel"], "did you mean 'real'?"),
    (["fit", "{table}", "gmm", "--columns", "length", "--set", "num_components=61"], "61"),
    (["fit", "no such.csv", "gmm"], "no such.csv"),
    (["fit", "{tmp}", "gmm"], ".csv"),
    (["fit", "{table}", "gmm", "--drop", "label", "-o", "{table}"], "is a file"),
    (["fit", "{table}", "gmm", "--drop", "label", "-o", "{table}/below"], "is a file"),
    (["diagnose", "nothing here"], "no such folder"),
    (["diagnose", "{tmp}"], "no fit"),
    (["score", "{run}", "no such.csv"], "no such.csv"),
    (["score", "{run}", "{table}", "-o", "scores.txt"], ".csv or .parquet"),
    (["score", "{run}", "{table}", "-o", "{tmp}"], ".csv or .parquet"),
    (["score", "{run}", "{table}", "--hdi-prob", "2"], "--hdi-prob must be"),
    (["score", "{run}", "--backend", "pyr"], "did you mean 'pyro'?"),
    (["sample", "{run}", "-n", "0"], "at least 1"),
    (["forecast", "{run}"], "families that can: autoregressive, hmm"),
    (["score", "{run}", "--per-step"], "families that can: autoregressive, hmm"),
    (["sample", "{run}", "--length", "3"], "gmm models rows"),
    (["fit", "{table}", "gmm", "--order", "n"], "gmm models rows"),
    (["plot", "{run}", "--kind", "trase"], "did you mean 'trace'?"),
    (["compare", "{table}", "--budget", "soon"], "5m, 90s, 1h"),
    (["compare", "{table}", "gmm", "gmm"], "twice"),
    (["compare", "{table}", "gmm 'num_components=2"], "quotation"),
    (["compare", "{table}", ""], "choose"),
    (["compare", "{table}", "gmm num_components=2", "gnm"], "did you mean 'gmm'?"),
    (["compare", "{table}", "gmm", "--drop", "label", "--folds", "1"], "folds"),
    (["zoo", "gm"], "did you mean 'gmm'?"),
]


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_a_user_error_takes_a_line_or_two(
    arguments: list[str], told: str, run: Path, table: Path, tmp_path: Path, cli: Any
) -> None:
    status, out, err = cli(*[text.format(table=table, run=run, tmp=tmp_path) for text in arguments])
    assert is_user_error(status, out, err), err
    assert told in err
    assert not list(tmp_path.iterdir())


def test_a_table_of_other_columns_is_refused(run: Path, tmp_path: Path, cli: Any) -> None:
    pd.DataFrame({"lenght": [1.0], "n": [2]}).to_csv(tmp_path / "new.csv", index=False)
    status, out, err = cli("score", run, tmp_path / "new.csv", "--json")
    assert is_user_error(status, out, err)
    assert "'length'" in err


def test_too_little_memory_is_told(run: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("ppl_gen.sampling.sample", fail)
    assert is_user_error(*cli("sample", run))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".parquet", ".npy", ".npz", ""]))
def test_any_file_as_a_table_gives_an_error_of_ours(content: bytes, suffix: str, tmp_path: Path, cli: Any) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    # No sensible table of so few bytes has so many rows: nothing is fitted.
    assert is_user_error(*cli("fit", path, "gmm", "--set", "num_components=500", "-o", tmp_path / "fit"))


names = st.sampled_from(["num_components", "covariance", "prior", "prior.loc", "prior.locs", "prior.weights", "", "x"])


@given(
    name=names, value=st.text(max_size=8) | st.sampled_from(["[1, 2]", "[[1], [2, 3]]", "{}", "1e999", "-0", "None"])
)
def test_any_setting_gives_a_family_or_an_error_of_ours(name: str, value: str) -> None:
    with contextlib.suppress(PPLGenError):
        assert isinstance(options.make_family("gmm", options.split_settings([f"{name}={value}"])), pg.Family)


# Numbers on the screen


def test_numbers_are_readable() -> None:
    shown = report.column_text(pd.Series([5.8433333, -0.0912, np.nan, 0.0]))
    assert shown == ["5.843", "-0.091", "", "0.000"]
    assert report.column_text(pd.Series([1, 23456])) == ["1", "23456"]
    assert report.column_text(pd.Series(["a", None, pd.NA, True], dtype=object)) == ["a", "", "", "True"]
    assert report.column_text(pd.Series([1e12, np.inf])) == ["1.000e+12", "inf"]


def test_json_has_only_json(tmp_path: Path) -> None:
    value = {"a": np.float32(0.5), "b": float("nan"), "c": [np.int64(3), pd.NA, (1, 2)], 4: np.arange(2), "p": tmp_path}
    assert report.to_json(value) == {"a": 0.5, "b": None, "c": [3, None, [1, 2]], "4": [0, 1], "p": str(tmp_path)}
    assert report.to_json(pd.DataFrame({"x y": [1, 2], 0: ["a", None]})) == [
        {"x y": 1, "0": "a"},
        {"x y": 2, "0": None},
    ]


# The demo


@pytest.mark.slow
def test_the_demo_in_small(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, but with EM in the place of NUTS, fewer models and one picture; and twice, over itself."""
    from ppl_gen import demo, plots

    monkeypatch.setattr(demo, "MAX_COMPONENTS", 2)
    monkeypatch.setattr(demo, "NUTS", lambda **_: pg.EM(num_starts=2, num_bootstraps=4))
    monkeypatch.setattr(plots, "KINDS", {"loss": plots.plot_loss})
    status, out, err = cli("demo", "-o", tmp_path / "demo")
    assert (status, err) == (0, "")
    assert json.loads(cli("demo", "-o", tmp_path / "demo", "--json")[1])["run"] == str(tmp_path / "demo" / "fit")
    for part in ("2 components", "Components: posterior mean", "PASS", "most anomalous", "virginica", "Try next"):
        assert part in out
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"fit", "plots", "iris.csv", "samples.csv"}
    assert len(pg.load(tmp_path / "demo" / "fit").train) == len(pd.read_csv(tmp_path / "demo" / "iris.csv")) == 150
    for line in out.split("Try next")[1].strip().splitlines()[:3]:  # the commands work as they stand
        command = line.split("#")[0].replace("scores.csv", str(tmp_path / "scores.csv"))
        assert cli(*shlex.split(command)[1:])[0] == 0


def test_compiled_programs_are_kept_within_bounds(tmp_path, monkeypatch):
    import os

    from ppl_gen.cli import compiled

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.keep()
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.is_dir()
    assert tmp_path in folder.parents
    for age, name in enumerate(("new", "old", "older")):
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    compiled.trim(folder, 250)
    assert {file.name for file in folder.iterdir()} == {"new", "old"}
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    compiled.keep()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
