"""Tables into model space and back: kinds, dtypes, standardization, missing values, weights, splits, files, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppl_gen.data import Data, Schema, View
from ppl_gen.errors import DataError, SettingError


@pytest.fixture
def frame() -> pd.DataFrame:
    """A column of every kind and of most dtypes, a missing entry in each that can hold one."""
    return pd.DataFrame(
        {
            "height": [1.5, 2.5, np.nan, 4.5],
            "visits": [3, 0, 7, 12],
            "change": [-2, 5, 0, 1],
            "member": [True, False, True, True],
            "flag": [0, 1, 1, 0],
            "nullable": pd.array([1, None, 5, 9], dtype="Int64"),
            "maybe": pd.array([True, None, False, True], dtype="boolean"),
            "town": ["Rome", "Oslo", None, "Rome"],
            "size": pd.Categorical(["L", "S", "L", None], categories=["S", "M", "L"], ordered=True),
            "code": pd.Categorical([10, 30, 10, 20]),
            "mixed": np.array([1, None, 3, 4], dtype=object),
        },
        index=["a", "b", "c", "d"],
    )


def test_kinds_are_inferred(frame: pd.DataFrame) -> None:
    kinds = dict(zip((data := Data.from_table(frame)).schema.names, data.schema.kinds, strict=True))
    assert kinds == {
        "height": "real", "visits": "count", "change": "real", "member": "binary", "flag": "binary",
        "nullable": "count", "maybe": "binary", "town": "categorical", "size": "categorical", "code": "categorical",
        "mixed": "count",
    }  # fmt: skip
    assert Data.from_table(np.array([[0.0], [1.0]])).schema.kinds == ("real",)


def test_table_comes_back_as_it_went_in(frame: pd.DataFrame) -> None:
    back = Data.from_table(frame).to_frame()
    pd.testing.assert_frame_equal(back, frame)


DTYPES = [
    "int8", "uint8", "int64", "uint64", "Int32", "UInt16", "float16", "float32", "float64", "Float32", "bool",
    "boolean", "object", "str", "string", "category", "int64[pyarrow]", "double[pyarrow]", "Sparse[float64, nan]",
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_come_back(dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.Series([1, 0, 1]).astype(dtype), 7: [0.5, 1.5, 2.5]})
    pd.testing.assert_frame_equal(Data.from_table(frame).to_frame(), frame.rename(columns={7: "7"}))


def test_integer_names_and_read_as_real() -> None:
    frame = pd.DataFrame({0: [1, 5, 9], 1: [2**40, 2**41, 7]})
    data = Data.from_table(frame, accept=("real",))
    assert data.schema.kinds == ("real", "real")
    pd.testing.assert_frame_equal(data.to_frame(), frame)
    with pytest.raises(DataError, match=r"'b' holds labels, but gmm takes real"):
        Data.from_table(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), accept=("real",), accept_for="gmm")


def test_decoded_samples_fit_their_columns(frame: pd.DataFrame) -> None:
    schema = Data.from_table(frame).schema
    wild = np.random.default_rng(0).normal(0, 30, (50, schema.num_columns))
    table = schema.decode(wild)
    assert (table["visits"] >= 0).all()
    assert set(table["size"].cat.categories) == {"S", "M", "L"}
    for name in ("visits", "change", "member", "flag", "nullable", "maybe", "town", "size"):
        assert table[name].dtype == frame[name].dtype
    assert Data.from_table(pd.DataFrame({"a": np.array([0, 200], "uint8")})).schema.decode([[1e300]])["a"][0] == 255


@pytest.mark.parametrize("missing", [False, True])
def test_standardized_by_weighted_moments(missing: bool) -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(5.0, 3.0, (40, 3))
    if missing:
        table[rng.random((40, 3)) < 0.2] = np.nan
        table[:, 0] = np.nan_to_num(table[:, 0])
    weights = rng.integers(1, 4, 40)
    weighted = Data.from_table(table, weights=weights)
    repeated = Data.from_table(np.repeat(table, weights, axis=0))
    for a, b in zip(weighted.schema.columns, repeated.schema.columns, strict=True):
        assert (a.loc, a.scale) == pytest.approx((b.loc, b.scale), rel=1e-12)
    np.testing.assert_allclose(repeated.x.sum(axis=0), 0.0, atol=1e-10)
    observed = np.ones(repeated.x.shape) if repeated.mask is None else repeated.mask
    np.testing.assert_allclose((repeated.x**2).sum(axis=0) / observed.sum(axis=0), 1.0, rtol=1e-12)


def test_log_jacobian() -> None:
    table = np.random.default_rng(2).normal(size=(30, 2))
    one, thousand = Data.from_table(table).schema, Data.from_table(table * [1.0, 1000.0]).schema
    assert thousand.log_jacobian() - one.log_jacobian() == pytest.approx(-np.log(1000.0), rel=1e-12)
    mask = np.array([[True, True], [True, False], [False, False]])
    logs = -np.log(thousand.scales)
    np.testing.assert_allclose(thousand.log_jacobian(mask), [logs.sum(), logs[0], 0.0])
    raw = Data.from_table(table, standardize=False)
    assert raw.schema.log_jacobian() == 0.0
    np.testing.assert_array_equal(raw.x, table)


def test_float32_stays_float32() -> None:
    wide = np.random.default_rng(3).normal(1e4, 1.0, (20, 2))
    narrow = wide.astype(np.float32)
    assert Data.from_table(narrow).x.dtype == np.float32
    assert Data.from_table(wide).x.dtype == np.float64
    mixed = pd.DataFrame({"a": narrow[:, 0], "b": np.arange(20, dtype=np.int8), "c": ["u", "v"] * 10})
    assert Data.from_table(mixed).x.dtype == np.float32
    assert Data.from_table(mixed.assign(d=np.arange(20))).x.dtype == np.float64
    # the moments of a narrow column are those of its values in 64 bits
    np.testing.assert_allclose(Data.from_table(narrow).schema.scales, narrow.astype(float).std(axis=0), rtol=1e-12)


def test_missing_patterns() -> None:
    rng = np.random.default_rng(4)
    for num_columns in (3, 9, 70):
        table = rng.normal(size=(60, num_columns))
        table[rng.random(table.shape) < 0.3] = np.nan
        table[:, 0] = rng.normal(size=60)
        view = Data.from_table(table).view()
        np.testing.assert_array_equal(view.mask, ~np.isnan(table))
        np.testing.assert_array_equal(view.patterns[view.pattern], view.mask)
        assert len(view.patterns) == len(np.unique(view.mask, axis=0))
        assert (view.x[~view.mask] == 0.0).all()
    assert Data.from_table(rng.normal(size=(5, 2))).view()[1:] == (None,) * 6


def test_views_of_backends() -> None:
    jnp, torch = pytest.importorskip("jax.numpy"), pytest.importorskip("torch")
    table = np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]], dtype=np.float32)
    data = Data.from_table(table, weights=[1.0, 2.0, 0.5])
    jax_view, torch_view = data.view("numpyro"), data.view("pyro")
    assert jax_view.x.dtype == jnp.result_type(float)
    assert torch_view.x.dtype == torch.get_default_dtype()
    assert jax_view.mask.dtype == bool
    assert torch_view.pattern.dtype == torch.int64
    for view in (jax_view, torch_view):
        assert isinstance(view, View)
        assert view.lengths is None
        for mine, theirs in zip(data.view()[:5], view[:5], strict=True):
            np.testing.assert_allclose(np.asarray(theirs), mine)
    with pytest.raises(SettingError, match="did you mean 'numpyro'"):
        data.view("numpiro")


def test_new_rows_under_the_training_schema(frame: pd.DataFrame) -> None:
    data = Data.from_table(frame, drop="change")
    again = data.schema.encode(frame)
    np.testing.assert_array_equal(again.x, data.x)
    np.testing.assert_array_equal(again.mask, data.mask)
    assert again.fingerprint == data.fingerprint
    assert len(data.schema.encode(frame.drop(columns="change").iloc[:1])) == 1  # constant, and "change" is not there
    nothing = data.schema.encode(frame.assign(**dict.fromkeys(frame)))
    assert not nothing.mask.any()
    shuffled = data.schema.encode(frame[list(frame)[::-1]].assign(size=frame["size"].astype("str")))
    np.testing.assert_array_equal(shuffled.x, data.x)
    assert data.schema.encode(data) is data
    with_extra = frame.assign(extra=1)
    with pytest.raises(DataError, match="'extra' was not in the training table"):
        data.schema.encode(with_extra)
    np.testing.assert_array_equal(data.schema.encode(with_extra, drop="extra").x, data.x)


def test_arrays_match_by_position() -> None:
    table = np.random.default_rng(5).normal(size=(10, 4))
    data = Data.from_table(table, columns=[3, "x1"], weights=table[:, 0] ** 2)
    assert data.schema.names == ("x3", "x1")
    np.testing.assert_array_equal(data.schema.encode(table).x, data.x)
    np.testing.assert_array_equal(data.schema.encode(pd.DataFrame(table)).x, data.x)
    np.testing.assert_array_equal(data.schema.encode(table[:, [3, 1]]).x, data.x)
    np.testing.assert_array_equal(data.schema.encode(data.to_frame()).x.shape, data.x.shape)
    with pytest.raises(DataError, match="has 3 columns, the array that the model was fitted to had 4"):
        data.schema.encode(table[:, :3])


def test_schema_survives_json(frame: pd.DataFrame) -> None:
    schema = Data.from_table(frame.assign(w=[1, 1, 2, 1]), weights="w").schema
    assert Schema.from_config(json.loads(json.dumps(schema.to_config()))) == schema
    assert schema.dropped == ("w",)
    for damaged in ({}, {"columns": 3}, {**schema.to_config(), "more": 1}, {**schema.to_config(), "columns": [{}]}):
        with pytest.raises(DataError, match="damaged"):
            Schema.from_config(damaged)


def test_promotion() -> None:
    table = pd.DataFrame({"n": [1, 5, 9, 2], "b": [True, False, None, True], "r": [0.5, 1.5, 2.5, 3.0]})
    data = Data.from_table(table, weights=[1, 2, 1, 1])
    real = data.promote(("real",), "gmm")
    direct = Data.from_table(table, weights=[1, 2, 1, 1], accept=("real",))
    assert real.schema == direct.schema
    np.testing.assert_allclose(real.x, direct.x)
    assert real.fingerprint == direct.fingerprint
    assert data.schema.kinds == ("count", "binary", "real")  # itself unchanged
    assert real.promote(("real",)) is real
    assert data.promote(("real", "count")).schema.kinds == ("count", "count", "real")
    with pytest.raises(DataError, match="'r' holds real numbers, but rbm takes count and binary"):
        data.take([0, 1]).promote(("count", "binary"), "rbm")


def test_kinds_given() -> None:
    table = pd.DataFrame({"a": ["1", "2", "x"], "b": ["1.5", "2", "7"], "c": [0.0, 1.0, 1.0], "d": [5, 6, 5]})
    data = Data.from_table(table, kinds={"a": "categorical", "b": "real", "c": "binary", "d": "categorical"})
    assert data.schema.kinds == ("categorical", "real", "binary", "categorical")
    pd.testing.assert_frame_equal(data.to_frame().drop(columns="b"), table.drop(columns="b"))
    np.testing.assert_allclose(data.to_frame()["b"], [1.5, 2.0, 7.0])


def test_split_and_folds() -> None:
    table = np.arange(40.0).reshape(20, 2)
    table[3, 1] = np.nan
    data = Data.from_table(table, weights=np.arange(1, 21), standardize=False)
    train, test = data.split(0.25, seed=3)
    again = data.split(0.25, seed=3)
    assert (len(train), len(test)) == (15, 5)
    assert [d.fingerprint for d in again] == [train.fingerprint, test.fingerprint]
    assert data.split(0.25, seed=4)[1].fingerprint != test.fingerprint
    folds = list(data.folds(4, seed=0))
    assert sorted(np.concatenate([f.x[:, 0] for _, f in folds])) == sorted(data.x[:, 0])
    assert all(len(a) + len(b) == 20 and a.schema == data.schema for a, b in folds)
    with pytest.raises(SettingError, match="from 2 to the number of rows"):
        data.folds(21)
    with pytest.raises(SettingError, match="test_size=50"):
        data.split(50)


def test_take() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": [4.0, 5.0, 7.0]}, index=["u", "v", "w"])
    data = Data.from_table(frame, weights=[1.0, 2.0, 3.0])
    part = data.take(slice(0, 2))
    assert part.mask is None
    assert np.shares_memory(part.x, data.x)
    np.testing.assert_array_equal(part.weights, [1.0, 2.0])
    pd.testing.assert_frame_equal(data.take([2, 0]).to_frame(), frame.iloc[[2, 0]])


def test_fingerprint_is_of_the_content() -> None:
    table = np.random.default_rng(6).normal(size=(50, 3))
    data = Data.from_table(table)
    assert Data.from_table(table.copy(order="F")).fingerprint == data.fingerprint
    assert Data.from_table(pd.DataFrame(table).set_axis(list("abc"), axis=1)).fingerprint != data.fingerprint
    assert Data.from_table(table[::-1]).fingerprint != data.fingerprint
    assert Data.from_table(table, weights=np.ones(50)).fingerprint != data.fingerprint
    table[7, 1] += 1e-9
    assert Data.from_table(table).fingerprint != data.fingerprint


def test_files(tmp_path: Path, frame: pd.DataFrame) -> None:
    plain = frame.reset_index(drop=True).drop(columns=["code", "mixed"])  # parquet has no such columns
    plain.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(Data.from_table(tmp_path / "t.parquet").to_frame(), plain)
    simple = pd.DataFrame({"a, b": [1.5, 2.5, 3.5], "n": [1, 2, 3], "s": ["x", "y\nz", "x"]})
    for separator in ",;\t":
        simple.to_csv(tmp_path / "t.csv", index=False, sep=separator)
        pd.testing.assert_frame_equal(Data.from_table(str(tmp_path / "t.csv")).to_frame(), simple)
    table = np.random.default_rng(7).normal(size=(6, 2)).astype(np.float32)
    expected = Data.from_table(table).fingerprint
    np.save(tmp_path / "t.npy", table)
    np.savez(tmp_path / "one.npz", t=table)
    np.savez(tmp_path / "named.npz", x=table, other=table[:2])
    np.savez(tmp_path / "shape.npz", X=table, y=np.arange(6), note=np.array("text"))
    np.savez_compressed(tmp_path / "two.npz", train=table, test=table[:3])
    for name in ("t.npy", "one.npz", "named.npz", "shape.npz", "two.npz:train"):
        assert Data.from_table(f"{tmp_path}/{name}").fingerprint == expected
    with pytest.raises(DataError, match=r"several arrays \('train', 'test'\): say which one, as in 'two.npz:train'"):
        Data.from_table(tmp_path / "two.npz")


def test_real_tables(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("mixtures/iris.csv")
    iris = pd.read_csv(path)
    data = Data.from_table(path)
    pd.testing.assert_frame_equal(data.to_frame(), iris)
    assert data.schema.kinds[-1] == "categorical"
    assert len(Data.from_table(shared_data("anomaly/cardio.npz"))) == 1831


_MEMORY = """
import sys, numpy as np, pandas as pd, pyarrow.parquet
from ppl_gen.data import Data
import re
def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
base = peak_kb()
table = sys.argv[1]
if not table:
    table = np.random.default_rng(0).standard_normal((1_000_000, 10), dtype=np.float32)
    if sys.argv[2] == "missing":
        table[::7, 3] = np.nan
    if sys.argv[2] == "frame":
        table = pd.DataFrame(table, columns=list("abcdefghij"), copy=False)
data = Data.from_table(table)
data.view(); data.fingerprint
assert data.x.dtype == np.float32 and data.x.shape == (1_000_000, 10)
print((peak_kb() - base) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize("source", ["array", "missing", "frame", "npy", "parquet"])
def test_memory_of_a_million_rows(source: str, tmp_path: Path) -> None:
    """Under 200 MB beyond the interpreter, the table (40 MB) itself included."""
    path = tmp_path / f"t.{source}" if source in ("npy", "parquet") else ""
    if path:
        table = np.random.default_rng(0).standard_normal((1_000_000, 10), dtype=np.float32)
        if source == "npy":
            np.save(path, table)
        else:
            pd.DataFrame(table, columns=list("abcdefghij")).to_parquet(path)
        del table
    # VmHWM, not getrusage: the latter starts from the peak of the process that forked this one
    command = [sys.executable, "-c", _MEMORY, str(path), source]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 200.0
