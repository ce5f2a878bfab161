"""A fit on disk: the same bits and verbs back; whole or not at all; nothing runs; damage is named."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppl_gen as pg
from ppl_gen import codec, files, storage
from ppl_gen.errors import StorageError
from ppl_gen.result import Fit

FILES = (storage.JSON, storage.ARRAYS, storage.ARVIZ)
ON_DISK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def make_table() -> pd.DataFrame:
    """Sixty rows of two clusters, with names, an integer column, missing entries and weights."""
    rng = np.random.default_rng(0)
    left = np.arange(60) < 30
    frame = pd.DataFrame({"length, cm": rng.normal(np.where(left, -3, 3)), "n": rng.integers(0, 50, 60) - 100 * left})
    frame.loc[::7, "length, cm"] = np.nan
    return frame.assign(w=rng.uniform(0.5, 2, 60))


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return pg.fit(pg.GMM(num_components=2), make_table(), engine=pg.EM(num_bootstraps=4, num_starts=2), weights="w")


@pytest.fixture(scope="module")
def saved(fitted: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("runs") / "fit")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "fit"))


def assert_same_arrays(first: Any, second: Any) -> None:
    """Equal to the bit: names, shapes, dtypes, values."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_same_arrays(first[name], second[name])
    elif first is None:
        assert second is None
    else:
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.tobytes() == second.tobytes()


def assert_same_fit(first: Fit, second: Fit) -> None:
    for name in ("posterior", "point", "sample_stats", "losses", "log_weights", "parameters", "held_out"):
        assert_same_arrays(getattr(first.draws, name), getattr(second.draws, name))
    for name in ("x", "mask", "weights"):
        assert_same_arrays(getattr(first.train, name), getattr(second.train, name))
    assert first.train.fingerprint == second.train.fingerprint
    for name in ("family", "engine", "backend", "seed", "schema", "versions", "seconds", "reasons", "uncertainty"):
        assert getattr(first, name) == getattr(second, name), name
    assert dict(first.draws.figures) == dict(second.draws.figures)
    assert first.draws.interrupted == second.draws.interrupted


def variant(fit: Fit, **changes: Any) -> Fit:
    """Another fit, which keeps what is slow to find about the first (its pair, its densities)."""
    other = dataclasses.replace(fit, **changes)
    other.__dict__.update({name: value for name, value in fit.__dict__.items() if name not in other.__dict__})
    return other


def try_to_load(path: Path) -> Fit | str:
    """The fit, or what the error says: in at most two lines."""
    try:
        return pg.load(path)
    except StorageError as error:
        message = str(error)
    lines = message.splitlines()
    return message if 0 < len(lines) <= 2 else pytest.fail(f"{len(lines)} lines: {message}")


def is_clean(folder: Path, *expected: str) -> bool:
    """Nothing but these in the folder: no temporary file is left, hidden or not."""
    return {path.name for path in folder.iterdir()} == set(expected)


def test_round_trip_keeps_every_bit(fitted: Fit, saved: Path) -> None:
    loaded = pg.load(saved)
    assert_same_fit(fitted, loaded)
    assert {path.name for path in saved.iterdir()} == set(FILES)
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_a_loaded_fit_does_every_verb(fitted: Fit, saved: Path, tmp_path: Path) -> None:
    loaded, new = pg.load(saved), make_table().drop(columns="w").head(5)
    assert_same_arrays(fitted.score(new).log_predictive, loaded.score(new).log_predictive)
    assert_same_arrays(fitted.score().p_value, loaded.score().p_value)
    pd.testing.assert_frame_equal(fitted.sample(7, seed=3), loaded.sample(7, seed=3))
    pd.testing.assert_frame_equal(fitted.latents(new), loaded.latents(new))
    pd.testing.assert_frame_equal(fitted.summary(), loaded.summary())
    assert str(fitted.diagnose()) == str(loaded.diagnose())
    assert_same_fit(fitted, pg.load(loaded.save(tmp_path / "again")))


def test_what_was_slow_to_find_is_kept(fitted: Fit, tmp_path: Path) -> None:
    known = variant(fitted)
    known.__dict__["held_out"] = np.linspace(-3, 0, 60)
    assert_same_arrays(known.held_out, pg.load(known.save(tmp_path / "fit")).held_out)


def test_the_other_backend_scores_the_same_pyro(saved: Path) -> None:
    numpyro, pyro = pg.load(saved), pg.load(saved, backend="pyro")
    np.testing.assert_allclose(numpyro.score().log_predictive, pyro.score().log_predictive, rtol=1e-4, atol=1e-4)


def test_arviz_and_xarray_read_the_netcdf(fitted: Fit, saved: Path) -> None:
    import xarray as xr

    with xr.open_dataset(saved / storage.ARVIZ, group="posterior", engine="h5netcdf") as posterior:
        assert posterior["locs"].shape == fitted.draws.posterior["locs"].shape
    with xr.open_dataset(saved / storage.ARVIZ, group="log_likelihood", engine="h5netcdf") as likelihood:
        assert likelihood["x"].shape == (fitted.draws.num_chains, fitted.draws.num_draws, 60)


def test_loading_unpickles_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a fit was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    pg.load(saved)


def test_code_of_the_user_is_not_kept(fitted: Fit, tmp_path: Path) -> None:
    def my_guide(data: Any) -> None:
        """A guide that the user wrote."""

    engine = pg.SVI(guide=my_guide)
    loaded = pg.load(variant(fitted, engine=engine).save(tmp_path / "fit"))
    assert loaded.engine.learning_rate == engine.learning_rate
    with pytest.raises(pg.UnsupportedError, match="my_guide is code"):
        loaded.engine.guide(None)


def test_figures_that_are_not_finite_come_back(fitted: Fit, tmp_path: Path) -> None:
    figures = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": np.float32(0.1), "e": 3, "f": True}
    draws = dataclasses.replace(fitted.draws, figures=figures, losses=np.array([3.0, 2.0]), interrupted=True)
    loaded = pg.load(variant(fitted, draws=draws).save(tmp_path / "fit"))
    assert str(loaded.draws.figures) == str(
        {k: v.item() if isinstance(v, np.generic) else v for k, v in figures.items()}
    )
    assert loaded.draws.interrupted
    assert_same_arrays(loaded.draws.losses, draws.losses)
    json.loads((tmp_path / "fit" / storage.JSON).read_text(), parse_constant=pytest.fail)  # plain JSON: no NaN in it


# Where it may be written


def test_an_existing_fit_is_replaced_only_when_asked(fitted: Fit, copy: Path) -> None:
    with pytest.raises(StorageError, match="holds a fit already"):
        fitted.save(copy)
    (copy / storage.PLOTS).mkdir()
    (copy / storage.PLOTS / "trace.png").touch()
    other = variant(fitted, seed=5)
    assert pg.load(other.save(copy, overwrite=True)).seed == 5
    assert is_clean(copy, *FILES)
    assert is_clean(copy.parent, "fit")


def test_anything_else_is_never_replaced(fitted: Fit, copy: Path, tmp_path: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"not part of a fit \(notes.txt\)"):
        fitted.save(copy, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    (tmp_path / "a file").touch()
    for path in (
        tmp_path / "other",
        tmp_path / "a file",
        tmp_path / "a file" / "fit",
        Path("/"),
        tmp_path / ("n" * 300),
    ):
        with pytest.raises(StorageError):
            fitted.save(path, overwrite=True)
    assert is_clean(tmp_path, "fit", "other", "a file")


def test_an_empty_folder_and_a_link_are_written_through(fitted: Fit, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fitted.save(tmp_path / "link")
    fitted.save(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_same_fit(fitted, pg.load(tmp_path / "real"))


# Failures while writing


@pytest.mark.parametrize("call", ["fsync", "rename", "chmod"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_failure_leaves_the_old_fit_and_nothing_else(
    call: str, number: int, fitted: Fit, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(os, call), []

    def fail(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError, match="the disk is full"):
            variant(fitted, seed=5).save(copy, overwrite=True)
    assert_same_fit(fitted, pg.load(copy))
    assert is_clean(copy.parent, "fit")


def test_a_full_disk_that_a_library_meets(fitted: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.numpy

    def fail(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(StorageError, match="the disk is full"):
        fitted.save(tmp_path / "runs" / "fit")
    assert is_clean(tmp_path / "runs")


@pytest.mark.parametrize("room", [0, 1_000, 20_000])
def test_a_disk_that_takes_no_more(room: int, fitted: Fit, copy: Path) -> None:
    """For real: the system refuses to write beyond a size, in whatever library that happens."""
    resource = pytest.importorskip("resource", reason="limits of a process are known on Unix only")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(StorageError, match="too big"):
            variant(fitted, seed=5).save(copy, overwrite=True)
        with pytest.raises(StorageError, match="too big"):
            storage.write_checkpoint(copy.with_name("state"), {"x": np.zeros(room)}, "job")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same_fit(fitted, pg.load(copy))
    assert is_clean(copy.parent, "fit")


def test_no_permission(fitted: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkdtemp", fail)
    with pytest.raises(StorageError, match="permission denied"):
        fitted.save(tmp_path / "fit")
    assert is_clean(tmp_path)


def test_a_power_cut_between_the_renames_loses_nothing(fitted: Fit, copy: Path) -> None:
    copy.rename(files.aside(copy))  # the old is aside, the new is not in its place yet
    assert_same_fit(fitted, pg.load(copy))
    variant(fitted, seed=5).save(copy, overwrite=True)
    assert pg.load(copy).seed == 5
    assert is_clean(copy.parent, "fit")


def test_a_power_cut_after_the_renames_loses_nothing(fitted: Fit, copy: Path) -> None:
    shutil.copytree(copy, files.aside(copy))  # the new is in its place, the old not removed yet
    assert_same_fit(fitted, pg.load(copy))
    fitted.save(copy, overwrite=True)
    assert is_clean(copy.parent, "fit")


def test_interrupting_a_save_leaves_the_old_fit(fitted: Fit, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_stamp", interrupt)
        with pytest.raises(KeyboardInterrupt):
            variant(fitted, seed=5).save(copy, overwrite=True)
    assert_same_fit(fitted, pg.load(copy))
    assert is_clean(copy.parent, "fit")


# Damage


@contextlib.contextmanager
def damaged(saved: Path, folder: Path, name: str) -> Iterator[Path]:
    """A fit of which one file is a copy to be spoilt; the others are links."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for other in FILES:
        if other != name:
            os.link(saved / other, folder / other)
    shutil.copyfile(saved / name, folder / name)
    yield folder


@ON_DISK
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(fitted: Fit, saved: Path, tmp_path: Path, name: str, where: float, bit: int) -> None:
    with damaged(saved, tmp_path / "fit", name) as folder:
        content = bytearray((folder / name).read_bytes())
        content[int(where * len(content))] ^= 1 << bit
        (folder / name).write_bytes(content)
        found = try_to_load(folder)
        if isinstance(found, str):
            assert name in found or name == storage.JSON
        else:
            assert_same_fit(fitted, found)


@ON_DISK
@given(name=st.sampled_from(FILES), keep=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=20))
def test_a_cut_file_is_noticed(saved: Path, tmp_path: Path, name: str, keep: float, tail: bytes) -> None:
    with damaged(saved, tmp_path / "fit", name) as folder:
        content = (folder / name).read_bytes()
        cut = content[: int(keep * len(content))] + tail
        (folder / name).write_bytes(cut)
        if cut.strip() != content.strip():
            with pytest.raises(StorageError):
                pg.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(StorageError, match=name):
        pg.load(copy)
    (copy / name).mkdir()
    with pytest.raises(StorageError, match=name):
        pg.load(copy)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@ON_DISK
@given(content=anything)
def test_foreign_json_is_refused(saved: Path, tmp_path: Path, content: Any) -> None:
    with damaged(saved, tmp_path / "fit", storage.JSON) as folder:
        (folder / storage.JSON).write_text(json.dumps(content))
        with pytest.raises(StorageError, match="no fit of ppl_gen"):
            pg.load(folder)


@ON_DISK
@given(data=st.data())
def test_a_stranger_who_signs_nonsense_gets_an_error(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Any one value of fit.json replaced or removed, and signed again: an error of ours, or a fit."""
    with damaged(saved, tmp_path / "fit", storage.JSON) as folder:
        document = json.loads((folder / storage.JSON).read_text())
        del document["sha256"]
        place: Any = document
        key = data.draw(st.sampled_from(sorted(document)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()):
            place[key] = codec.plain(data.draw(anything))
        else:
            del place[key]
        (folder / storage.JSON).write_text(codec.sign(document))
        try_to_load(folder)


def test_deeply_nested_json_is_refused(copy: Path) -> None:
    (copy / storage.JSON).write_text("[" * 100_000)
    with pytest.raises(StorageError, match="damaged"):
        pg.load(copy)


def test_a_newer_format_is_refused(copy: Path) -> None:
    document = json.loads((copy / storage.JSON).read_text())
    (copy / storage.JSON).write_text(json.dumps({**document, "format_version": storage.FORMAT_VERSION + 1}))
    with pytest.raises(StorageError, match="newer ppl_gen"):
        pg.load(copy)


def test_what_is_no_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="no such folder"):
        pg.load(tmp_path / "absent")
    with pytest.raises(StorageError, match="is no fit but a file: give the folder"):
        pg.load(tmp_path / "file")
    with pytest.raises(StorageError, match=r"it has no fit\.json"):
        pg.load(tmp_path / "empty")
    with pytest.raises(StorageError, match="no path"):
        pg.load("a\0b")


# Checkpoints

STATE = {"x": np.arange(6.0).reshape(2, 3), "key": np.array([1, 2], np.uint32), "scalar": np.array(3.5, np.float32),
         "transposed": np.arange(6).reshape(2, 3).T, "empty": np.zeros((0, 2))}  # fmt: skip


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "state.ckpt"
    for _ in range(2):
        storage.write_checkpoint(path, STATE, "job 1")
    assert_same_arrays(STATE, storage.read_checkpoint(path, "job 1"))
    assert is_clean(path.parent, "state.ckpt")
    with pytest.raises(StorageError, match="another job"):
        storage.read_checkpoint(path, "job 2")


def test_a_failed_checkpoint_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.ckpt"
    storage.write_checkpoint(path, STATE, "job")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="the disk is full"):
            storage.write_checkpoint(path, {}, "job")
    assert_same_arrays(STATE, storage.read_checkpoint(path, "job"))
    assert is_clean(tmp_path, "state.ckpt")


@ON_DISK
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, where: float, bit: int, cut: bool) -> None:
    path = tmp_path / "state.ckpt"
    storage.write_checkpoint(path, STATE, "job")
    content = bytearray(path.read_bytes())
    position = int(where * len(content))
    content[position] ^= 1 << bit
    path.write_bytes(content[:position] if cut else content)
    with contextlib.suppress(StorageError):  # no error where white space of the header was flipped
        assert_same_arrays(STATE, storage.read_checkpoint(path, "job"))


def test_a_saved_fit_is_no_checkpoint(saved: Path) -> None:
    with pytest.raises(StorageError, match="no checkpoint"):
        storage.read_checkpoint(saved / storage.ARRAYS, "job")
