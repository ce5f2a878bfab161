"""Bad tables: a clear error of one or two lines, never another exception, and never a value that is not finite."""

from __future__ import annotations

import io
import string
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import ppl_gen as pg
from ppl_gen.data import Data
from ppl_gen.errors import DataError
from ppl_gen.metrics import standard_deviation

pytestmark = pytest.mark.filterwarnings("ignore:(Columns? )?.* never var:UserWarning")  # of counts and truth values

MANY = settings(max_examples=max(150, settings().max_examples))
NUMBERS = pd.DataFrame({"age": [31, 45, 27, 60], "height": [1.62, 1.81, 1.75, 1.70], "town": ["A", "B", "A", "C"]})


def attempt(read: Callable[[], Data]) -> Data | None:
    """The data, all finite and of one shape, or None after a DataError with a message fit for a terminal."""
    try:
        data = read()
    except DataError as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) <= 2, message
        assert len(message) < 1500
        return None
    assert np.isfinite(data.x).all()
    assert data.x.shape == (len(data), data.schema.num_columns)
    assert np.isfinite(data.schema.log_jacobian())
    assert (data.schema.scales > 0).all()
    if data.mask is not None:
        assert not data.mask.all()
        assert (data.x[~data.mask] == 0).all()
    assert data.to_frame().shape == data.x.shape
    return data


# What a cell may hold: what people put there, and what no one should.
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["1", "2.5", "nan", "inf", "-", "1e999", "True", "\n", "1_0", "\uff11"]),
    st.complex_numbers(), st.binary(max_size=3), st.dates(), st.datetimes(), st.timedeltas(),
    st.decimals(allow_nan=False), st.fractions(), st.just(pd.NA), st.just(pd.NaT), st.just(10**400),
    st.lists(st.integers(), max_size=2), st.tuples(st.integers()), st.just({"a": 1}),
    st.just(object()), st.just(np.float64(2.0)), st.just(np.int8(3)),
)  # fmt: skip
numeric_arrays = npst.arrays(
    dtype=st.one_of(npst.scalar_dtypes(), npst.boolean_dtypes(), npst.floating_dtypes(), npst.integer_dtypes()),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@st.composite
def series(draw: Any, size: int) -> Any:
    """A column of ``size`` entries, of one sort or of many."""
    kind = draw(st.sampled_from(["mixed", "floats", "integers", "array", "labels", "extension", "category", "bool"]))
    if kind == "mixed":
        cells = st.one_of(scalars, draw(st.sampled_from([scalars, st.integers(-3, 3), st.text(max_size=2)])))
        column = pd.Series([None] * size, dtype=object)
        for i in range(size):
            column.iat[i] = draw(cells)
        return column
    if kind == "floats":
        return pd.Series(draw(st.lists(st.floats(), min_size=size, max_size=size)), dtype=float)
    if kind == "integers":
        return pd.Series(draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size)), dtype="int64")
    if kind == "bool":
        return pd.Series(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
    if kind == "array":
        times = npst.datetime64_dtypes(max_period="s", min_period="ms")
        return pd.Series(draw(npst.arrays(draw(st.one_of(npst.floating_dtypes(), npst.integer_dtypes(), times)), size)))
    cells = draw(st.lists(st.sampled_from(["a", "b", "1", None]), min_size=size, max_size=size))
    if kind == "labels":
        return pd.Series(cells, dtype=draw(st.sampled_from([object, "str", "string"])))
    if kind == "category":
        return pd.Series(pd.Categorical(cells, ordered=draw(st.booleans())))
    whole = draw(st.lists(st.one_of(st.none(), st.integers(0, 100)), min_size=size, max_size=size))
    return pd.Series(whole, dtype=draw(st.sampled_from(["Int64", "Float32", "UInt8", "float64"])))


@st.composite
def frames(draw: Any) -> pd.DataFrame:
    size = draw(st.integers(0, 6))
    columns = draw(st.lists(series(size), max_size=4))
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(size))
    labels = st.one_of(st.text(max_size=4), st.integers(0, 3), st.none(), st.sampled_from(["a", "b", "a\nb"]))
    frame.columns = draw(st.lists(labels, min_size=len(columns), max_size=len(columns)))
    return frame


options = st.fixed_dictionaries(
    {},
    optional={
        "standardize": st.booleans(),
        "accept": st.sampled_from([("real",), ("binary",), ("real", "categorical"), ("count",)]),
        "drop": st.one_of(st.text(max_size=2), st.lists(st.integers(0, 4), max_size=2)),
        "columns": st.lists(st.sampled_from(["a", "b", "x0", "x1", 0]), max_size=2),
        "kinds": st.dictionaries(
            st.sampled_from(["a", "b", "x0"]), st.sampled_from(["real", "count", "binary", "categorical", "reel"])
        ),
        "weights": st.one_of(st.sampled_from(["a", "x1"]), st.lists(st.one_of(st.floats(), st.text()), max_size=6)),
    },
)


@given(frames(), options)
@MANY
def test_any_frame(frame: pd.DataFrame, given_options: dict[str, Any]) -> None:
    data = attempt(lambda: Data.from_table(frame, **given_options))
    if data is not None:
        again = attempt(lambda: data.schema.encode(frame))
        assert again is not None
        np.testing.assert_array_equal(again.x, data.x)


@given(numeric_arrays, options)
@MANY
def test_any_array(array: np.ndarray, given_options: dict[str, Any]) -> None:
    data = attempt(lambda: Data.from_table(array, **given_options))
    if data is not None:
        again = attempt(lambda: data.schema.encode(array))
        assert again is not None
        np.testing.assert_array_equal(again.x, data.x)


@given(st.one_of(scalars, st.lists(scalars, max_size=4), st.lists(st.lists(scalars, max_size=3), max_size=3),
                 st.dictionaries(st.text(max_size=2), st.lists(scalars, max_size=3), max_size=3)))  # fmt: skip
@MANY
def test_any_object(table: Any) -> None:
    attempt(lambda: Data.from_table(table))


@given(frames(), st.booleans())
@MANY
def test_any_frame_as_new_rows(frame: pd.DataFrame, renamed: bool) -> None:
    schema = Data.from_table(NUMBERS).schema
    if renamed and frame.shape[1] >= 3:
        frame = frame.iloc[:, :3].set_axis(list(NUMBERS), axis=1)
    attempt(lambda: schema.encode(frame))


@given(st.binary(max_size=300), st.sampled_from([".csv", ".parquet", ".npy", ".npz", ".txt", ""]), st.booleans())
@example(b"a,b\n1,2\n1,2,3\n", ".csv", False)
@example(b"a,b\n1,2,3\n1,2,3\n", ".csv", False)
@example(b'a,b\n1,"2\n', ".csv", False)
@example(b"\n\n\n", ".csv", False)
@example(b"\xff\xfe\x00a", ".csv", False)
@settings(MANY, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_a_file(tmp_path: Path, content: bytes, extension: str, magic: bool) -> None:
    start = {".parquet": b"PAR1", ".npy": b"\x93NUMPY\x01\x00v\x00{'descr'", ".npz": b"PK\x03\x04"}
    path = tmp_path / f"t{extension}"
    path.write_bytes((start.get(extension, b"a,b\n") if magic else b"") + content)
    attempt(lambda: Data.from_table(path))


@given(st.text(alphabet="0123456789abc.,;\t\"'\n\r -+eEnaif#é\x00", max_size=120))
@settings(MANY, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_in_a_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + text, encoding="utf-8", newline="")
    attempt(lambda: Data.from_table(tmp_path / "t.csv"))


@pytest.mark.parametrize("extension", [".csv", ".parquet", ".npy", ".npz"])
def test_damaged_files(tmp_path: Path, extension: str) -> None:
    """Real files cut short or with bytes changed."""
    stream, table = io.BytesIO(), np.random.default_rng(0).normal(size=(30, 3))
    write = {
        ".csv": lambda: pd.DataFrame(table).rename(columns=str).to_csv(stream, index=False),
        ".parquet": lambda: pd.DataFrame(table).rename(columns=str).to_parquet(stream),
        ".npy": lambda: np.save(stream, table),
        ".npz": lambda: np.savez_compressed(stream, x=table),
    }
    write[extension]()
    whole, path, rng = stream.getvalue(), tmp_path / f"t{extension}", np.random.default_rng(1)
    path.write_bytes(whole)
    assert attempt(lambda: Data.from_table(path)) is not None
    for cut in rng.integers(0, len(whole), 25):
        path.write_bytes(whole[:cut])
        attempt(lambda: Data.from_table(path))
    for place in rng.integers(0, min(len(whole), 400), 50):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        attempt(lambda: Data.from_table(path))


def frame_with(**columns: Any) -> pd.DataFrame:
    return NUMBERS.assign(**columns)


TRAINING_ERRORS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no rows": (NUMBERS.iloc[:0], {}, "empty: it has no rows"),
    "no columns": (pd.DataFrame(index=range(3)), {}, "empty: it has no columns"),
    "empty array": (np.empty((0, 3)), {}, "empty: it has no rows"),
    "one row": (NUMBERS.iloc[:1], {}, "a single row"),
    "all missing": (frame_with(z=np.nan), {}, r"'z' has no values.*drop=\['z'\]"),
    "constant": (frame_with(z=7.5), {}, r"'z' is constant, 7\.5 in every row: drop it"),
    "constant label": (frame_with(z="same"), {}, "'z' is constant, 'same' in every row"),
    "constant where weighed": (frame_with(z=[1.5, 1.5, 1.5, 2]), {"weights": [1, 1, 1, 0]}, "'z' is constant"),
    "constant count read as real": (frame_with(z=7)[["age", "z"]], {"accept": ("real",)}, r"'z' is constant, 7\.0"),
    "nothing varies": (pd.DataFrame({"a": [0, 0], "b": True}), {}, r"Nothing varies in the table \(columns 'a', 'b'\)"),
    "text among numbers": (frame_with(z=["1", "2", "abc", "4"]), {}, r"'z', row 2: 'abc' is not a number.*kinds={'z'"),
    "text read as real": (NUMBERS, {"kinds": {"town": "real"}}, "'town', row 0: 'A' is not a number"),
    "infinite": (frame_with(z=[1.0, 2.0, 3.0, -np.inf]), {}, "'z', row 3: -inf is infinite"),
    "too large": (frame_with(z=[1e308, -1e308, 1.7e308, 1.7e308]), {}, "'z'.*too large.*rescale"),
    "duplicate names": (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), {}, "Two columns are called 'a'"),
    "levels of names": (pd.DataFrame([[1], [2]], columns=[["a"], ["b"]]), {}, "several levels"),
    "unknown column": (NUMBERS, {"columns": ["agee"]}, "no column 'agee': did you mean 'age'"),
    "unknown drop": (NUMBERS, {"drop": "hight"}, "no column 'hight': did you mean 'height'"),
    "unknown in kinds": (NUMBERS, {"kinds": {"twon": "real"}}, "no column 'twon': did you mean 'town'"),
    "unknown kind": (NUMBERS, {"kinds": {"town": "categoric"}}, "unknown kind 'categoric'; did you mean 'categorical'"),
    "unknown weights": (NUMBERS, {"weights": "wage"}, "no column 'wage': did you mean 'age'"),
    "not a count": (NUMBERS, {"kinds": {"height": "count"}}, r"'height', row 0: 1\.62 is not a count"),
    "not binary": (NUMBERS, {"kinds": {"age": "binary"}}, "'age', row 0: 31 is not 0 or 1"),
    "nothing left": (NUMBERS, {"drop": list(NUMBERS)}, "No column is left"),
    "missing row": (NUMBERS.where(NUMBERS["age"] != 27), {}, r"All values of row 2 are missing \(1 such"),
    "labels refused": (NUMBERS, {"accept": ("real",), "accept_for": "gmm"}, r"'town' holds labels, but gmm.*drop="),
    "dates": (frame_with(z=pd.date_range("2020", periods=4)), {}, "'z' holds dates: turn them into numbers"),
    "complex": (np.ones((3, 2)) * 1j, {}, "'x0' holds complex numbers"),
    "lists": (frame_with(z=[[1], [2], [3], [4]]), {}, r"'z', row 0: \[1\] is no label"),
    "five dimensions": (np.ones((2, 3, 4, 1, 1)), {}, r"5 dimensions, shape \(2, 3, 4, 1, 1\)"),
    "no table": (7, {}, "A table is a DataFrame, an array, or the path.*not int"),
    "named fields": (np.zeros(3, dtype=[("a", float)]), {}, r"pandas\.DataFrame\(array\)"),
    "few weights": (NUMBERS, {"weights": [1, 2]}, "one weight for each of the 4 rows, not 2"),
    "negative weight": (NUMBERS, {"weights": [1, 2, -1, 1]}, "Weight of row 2 in 'weights' is -1"),
    "missing weight": (NUMBERS, {"weights": [1, np.nan, 1, 1]}, "Weight of row 1 in 'weights' is nan"),
    "infinite weight": (NUMBERS, {"weights": [1, 2, np.inf, 1]}, "row 2: inf is infinite"),
    "zero weights": (frame_with(w=0.0), {"weights": "w"}, "weights in 'w' sum to 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINING_ERRORS)
def test_training_errors(name: str) -> None:
    table, given_options, message = TRAINING_ERRORS[name]
    with pytest.raises(DataError, match=message) as error:
        Data.from_table(table, **given_options)
    assert len(str(error.value).splitlines()) <= 2


NEW_ROW_ERRORS: dict[str, tuple[Any, str]] = {
    "no rows": (NUMBERS.iloc[:0], "no rows"),
    "missing column": (NUMBERS.rename(columns={"height": "hight"}), "'height' is missing.*did you mean 'hight'"),
    "extra column": (frame_with(z=1), "'z' was not in the training table"),
    "array": (np.ones((3, 3)), "pass a DataFrame with 'age', 'height', 'town'"),
    "new label": (frame_with(town=["A", "B", "D", "C"]), "'town', row 2: unknown category 'D'; choose one of A, B, C"),
    "fraction": (frame_with(age=[1.0, 2.5, 3.0, 4.0]), r"'age', row 1: 2\.5 is not a count"),
    "negative": (frame_with(age=[1, 2, 3, -4]), "'age', row 3: -4 is not a count"),
    "text": (frame_with(height=["1.5", "tall", None, "2"]), "'height', row 1: 'tall' is not a number"),
    "infinite": (frame_with(height=[1.5, np.inf, 1.0, 2.0]), "'height', row 1: inf is infinite"),
    "dates": (frame_with(height=pd.date_range("2020", periods=4)), "'height' holds dates"),
}


@pytest.mark.parametrize("name", NEW_ROW_ERRORS)
def test_new_row_errors(name: str) -> None:
    table, message = NEW_ROW_ERRORS[name]
    with pytest.raises(DataError, match=message):
        Data.from_table(NUMBERS).schema.encode(table)


def test_overflow_in_new_rows() -> None:
    schema = Data.from_table(np.array([[1.0], [2.0]], dtype=np.float32)).schema
    schema_wide = Data.from_table(np.array([[1e-200], [2e-200]])).schema
    with pytest.raises(DataError, match=r"'x0', row 1: 1e\+200 is too large"):
        schema_wide.encode(np.array([[1.0], [1e200]]))
    with pytest.raises(DataError, match=r"row 0: 3e\+38 is too large"):
        schema.encode(np.array([[3e38]], dtype=np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "/t.csv' is empty"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n3,4\n", "Two columns are called 'a'"),
        ("1.5,2.5\n1,2\n3,4\n", "no column names"),
        (",a\n0,2\n1,4\n", r"Column 0 of t\.csv has no name.*drop=\['Unnamed: 0'\]"),
        ("a,b\n1,2,9\n3,4,9\n", "more fields than the 2 names"),
        ("a,b\n1,2\n3,4,5\n", "can't be read as CSV.*line 3"),
        ("a,b\n1,2\n\n2,x\n3,4\n", r"'b', row 1 \(line 4 of t\.csv\): 'x' is not a number"),
        ('a,b\n1,"x\ny"\n2,z\nu,v\n3,x\n', r"'a', row 2 \(line 5 of t\.csv\): 'u' is not a number"),
        ("a,b\n1,2\n2,inf\n", r"'b', row 1 \(line 3 of t\.csv\): inf is infinite"),
    ],
)
def test_csv_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        Data.from_table(tmp_path / "t.csv")


def test_file_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}, None], dtype=object))
    np.savez(tmp_path / "two.npz", train=np.ones((2, 2)), test=np.ones((2, 2)))
    np.savez(tmp_path / "none.npz")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "t.xlsx").touch()
    (tmp_path / "damaged.npz").write_bytes(b"PKxxx")
    (tmp_path / "npz_inside.npy").write_bytes((tmp_path / "two.npz").read_bytes())
    (tmp_path / "npy_inside.npz").write_bytes((tmp_path / "objects.npy").read_bytes())
    errors = {
        "absent.csv": "There is no file", "folder.csv": "is a folder", "t.xlsx": "must end in .csv, .parquet",
        "objects.npy": "can't be read as .npy", "objects.npz": "holds Python objects", "two.npz": "('train', 'test')",
        "damaged.npz": "can't be read as .npz: it is damaged, or no file of NumPy's.",
        "two.npz:valid": "no array 'valid': choose one of test, train", "none.npz": "holds no arrays",
        "npz_inside.npy": "the ending .npz", "npy_inside.npz": "can't be read as .npz", "a\0b.csv": "can't be opened",
        "x" * 300 + ".csv": "can't be opened", "no_extension": "must end in",
    }  # fmt: skip
    for name, message in errors.items():
        with pytest.raises(DataError) as error:
            Data.from_table(f"{tmp_path}/{name}")
        assert message in str(error.value), (name, str(error.value))
        assert len(str(error.value).splitlines()) == 1


def test_overflow_in_a_backends_floats() -> None:
    jnp = pytest.importorskip("jax.numpy")
    if jnp.result_type(float) == jnp.float32:
        with pytest.raises(DataError, match="'x0' is too large for 32-bit floats"):
            Data.from_table(np.array([[1e200], [2e200]]), standardize=False).view("numpyro")


def test_a_signalling_decimal_is_missing() -> None:
    """It raises whatever pandas asks of it; Hypothesis can't even print a frame that holds one."""
    column = [Decimal("1.5"), Decimal("sNaN"), Decimal(3), Decimal(4)]
    data = Data.from_table(frame_with(z=column))
    np.testing.assert_array_equal(data.to_frame()["z"].isna(), [False, True, False, False])
    with pytest.raises(DataError, match="'z', row 0: 'text' is not a number"):
        Data.from_table(frame_with(z=["text", *column[1:]]))


def test_names_are_shown_on_one_line() -> None:
    names = ["a\nb" * 50, *string.ascii_letters]
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(3, len(names))), columns=names)
    with pytest.raises(DataError) as error:
        Data.from_table(frame, columns=["zzzzzz\n!"])
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500


@pytest.mark.filterwarnings("error")
def test_a_row_that_overflows_has_an_interval_that_is_a_number() -> None:
    table = np.random.default_rng(0).normal(size=(60, 2))
    fit = pg.fit(pg.GMM(2), table, engine=pg.EM(num_starts=1, num_bootstraps=8), seed=0)
    score = fit.score([[0.0, 0.0], [1e30, 0.0]])
    assert score.log_predictive[1] == -np.inf
    np.testing.assert_array_equal(score.hdi[1], -np.inf)
    assert score.sd[0] > 0
    assert score.sd[1] == 0
    some = standard_deviation(np.array([[-np.inf, -np.inf], [-np.inf, 0.0]]))
    np.testing.assert_array_equal(some, [0.0, np.inf])
