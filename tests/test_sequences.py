"""Sequences of time steps: read from tables and lists, grouped, checked for order, padded, split, saved, given back."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ppl_gen as pg
from ppl_gen.data import Data, Schema
from ppl_gen.errors import DataError, SettingError
from ppl_gen.family import Family
from ppl_gen.models.gmm import GMM
from ppl_gen.padding import pad, unpad


@pytest.fixture
def table() -> pd.DataFrame:
    """Three sequences of 3, 1 and 2 steps, with values of several kinds missing, and one step that is all missing."""
    return pd.DataFrame(
        {
            "height": [1.5, np.nan, 4.0, 2.5, np.nan, 0.5],
            "id": ["b", "b", "b", "a", "c", "c"],
            "visits": pd.array([3, 4, 0, 7, None, 1], dtype="Int64"),
            "time": [1, 2, 5, 1, 1, 2],
            "town": ["Rome", None, "Oslo", "Rome", None, "Oslo"],
        },
        index=list("uvwxyz"),
    )


def read(table: Any, **options: Any) -> Data:
    return Data.from_table(table, as_sequence=True, **options)


def ragged(lengths: list[int], num_columns: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(3.0, 2.0, (n, num_columns)) for n in lengths]


SINGLE = pytest.mark.filterwarnings("ignore:.* sequences have a single time step")


@SINGLE
def test_a_table_comes_back_as_it_went_in(table: pd.DataFrame) -> None:
    data = read(table, sequence="id", order="time")
    assert (len(data), data.num_steps, data.num_columns) == (3, 6, 3)
    assert data.lengths.tolist() == [3, 1, 2]
    assert data.sequence_ids == ("b", "a", "c")
    assert data.schema.names == ("height", "visits", "town")
    assert (data.schema.sequence, data.schema.order, data.schema.is_sequence) == ("id", "time", True)
    pd.testing.assert_frame_equal(data.to_frame(), table[["id", "time", "height", "visits", "town"]])


@SINGLE
def test_interleaved_sequences_are_grouped_by_first_appearance(table: pd.DataFrame) -> None:
    mixed = table.iloc[[3, 0, 4, 1, 5, 2]]
    data = read(mixed, sequence="id", order="time")
    assert data.sequence_ids == ("a", "b", "c")
    assert data.lengths.tolist() == [1, 3, 2]
    columns = ["id", "time", "height", "visits", "town"]
    pd.testing.assert_frame_equal(data.to_frame().sort_index(), table[columns])
    again = read(mixed.sort_values("id", kind="stable"), sequence="id", order="time")
    np.testing.assert_array_equal(again.x, data.x)
    assert again.fingerprint == data.fingerprint


IDS = {
    "int8": pd.Series([3, 3, 1, 1], dtype="int8"),
    "Int64": pd.Series([3, 3, 1, 1], dtype="Int64"),
    "float": pd.Series([0.5, 0.5, 2.0, 2.0]),
    "bool": pd.Series([True, True, False, False]),
    "object": pd.Series(["x", "x", 3, 3], dtype=object),
    "category": pd.Series(["x", "x", "a", "a"], dtype="category"),
    "string": pd.Series(["x", "x", "a", "a"], dtype="string"),
    "date": pd.to_datetime(pd.Series(["2024-01-02", "2024-01-02", "2024-01-01", "2024-01-01"])),
    "arrow": pd.Series([3, 3, 1, 1], dtype="int64[pyarrow]"),
}
TIMES = {
    "int16": pd.Series([4, 5, 4, 5], dtype="int16"),
    "uint8": pd.Series([0, 255, 1, 2], dtype="uint8"),
    "Int32": pd.Series([4, 5, 4, 9], dtype="Int32"),
    "float32": pd.Series([0.5, 1.5, 0.0, 0.1], dtype="float32"),
    "object": pd.Series([1, 2, 1, 2], dtype=object),
    "dates": pd.to_datetime(pd.Series(["2024-01-02", "2024-01-03", "2023-01-01", "2024-01-01"])),
    "zone": pd.Series(pd.date_range("2024-03-31", periods=4, freq="h", tz="Europe/Rome")),
    "period": pd.Series(pd.period_range("2024-01", periods=4, freq="M")),
    "duration": pd.to_timedelta(pd.Series([1, 2, 1, 2]), unit="h"),
    "arrow": pd.Series([1, 2, 3, 4], dtype="double[pyarrow]"),
}
NO_TIMES = {
    "row 1: inf is no time": [1.0, np.inf, 3.0],
    "bool values, which have no order": [False, True, True],
    "row 1: 'x' is neither a number nor a date": [1, "x", 3],
    "row 0: 'Monday' is neither": ["Monday", "Tuesday", "Wednesday"],
    "complex128 values": [1j, 2, 3],
    "row 2 has 1, after 2 in row 1": pd.Categorical([1, 2, 1]),
}


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("times", TIMES)
def test_dtypes_of_labels_and_times_come_back(ids: str, times: str) -> None:
    frame = pd.DataFrame({"who": IDS[ids], "when": TIMES[times], "a": [1.0, 2.0, 4.0, 3.0]})
    data = read(frame, sequence="who", order="when")
    assert data.order.dtype.kind in "iufMm"
    pd.testing.assert_frame_equal(data.to_frame(), frame)
    schema = Schema.from_config(data.schema.to_config())
    assert schema == data.schema
    assert schema.encode(frame).fingerprint == data.fingerprint


@pytest.mark.parametrize("message", NO_TIMES)
def test_what_is_no_time(message: str) -> None:
    with pytest.raises(DataError, match=f"'t'.*{message}"):
        read(pd.DataFrame({"t": NO_TIMES[message], "a": [1.0, 2.0, 4.0]}), order="t")


def test_dates_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "days.csv"
    path.write_text("day,a\n2024-01-31,1.5\n2024-02-01,2.5\n2024-02-02,0.5\n")
    data = read(path, order="day")
    assert data.order[0] == np.datetime64("2024-01-31")
    assert data.to_frame()["day"].dtype.kind == "M"
    path.write_text("day,a\n2024-01-31,1.5\n2024-02-01,2.5\n\n2024-01-01,0.5\n")
    message = (
        r"'day'.*row 2 \(line 5 of days.csv\) has 2024-01-01.*after 2024-02-01.* in row 1.*sort the table by 'day'"
    )
    with pytest.raises(DataError, match=message):
        read(path, order="day")
    path.write_text("day,a\n31/01/2024,1.5\n01/02/2024,2.5\n")
    with pytest.raises(DataError, match=r"'31/01/2024' is neither a number nor a date such as 2024-01-31"):
        read(path, order="day")


def test_steps_that_are_out_of_order_are_named(table: pd.DataFrame) -> None:
    table = table.assign(id=["b", "b", "b", "a", "a", "a"])
    late = table.assign(time=[1, 2, 5, 3, 7, 6])
    with pytest.raises(DataError) as raised:
        read(late, sequence="id", order="time")
    assert str(raised.value) == (
        "Column 'time', sequence 'a': row 5 has 6, after 7 in row 4: sort the table by 'id', 'time'."
    )
    twice = table.assign(time=[1, 2, 2, 3, 7, 8])
    with pytest.raises(DataError) as raised:
        read(twice, sequence="id", order="time")
    assert str(raised.value) == ("Column 'time', sequence 'b': row 2 has the same value as row 1, 2: drop duplicates.")
    # rows are named as they stand in the table, also where the sequences are interleaved
    with pytest.raises(DataError, match=r"sequence 'a': row 4 has 6, after 7 in row 2"):
        read(late.iloc[[0, 3, 4, 1, 5, 2]].reset_index(drop=True), sequence="id", order="time")
    with pytest.raises(DataError, match=r"row 3 has 1, after 5 in row 2: sort.*name the column that tells them apart"):
        read(table.assign(time=[1, 2, 5, 1, 2, 3]), order="time", drop="id")
    frames = [pd.DataFrame({"t": t, "a": [1.0, 2.0]}) for t in ([1, 2], [2, 1])]
    with pytest.raises(
        DataError, match=r"'t', sequence 1: step 1 of sequence 1 has 1, after 2 in step 0 of sequence 1"
    ):
        read(frames, order="t")
    with pytest.raises(DataError, match=r"'time', row 1: the value is missing"):
        read(table.assign(time=[1, None, 2, 1, 2, 3]), sequence="id", order="time")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence": "ID"}, "no column 'ID': choose one of"),
        ({"order": "tim"}, "no column 'tim': did you mean 'time'"),
        ({"sequence": "id", "order": "town"}, r"'town', row 1: the value is missing"),
        ({"order": "height"}, r"'height', row 1: the value is missing"),
        ({"sequence": "town"}, r"'town', row 1: the label of the sequence is missing"),
        ({"sequence": "time", "columns": ["time"]}, "No column is left"),
        ({"sequence": "id", "weights": [1.0] * 6}, "one weight for each of the 3 sequences, not 6"),
        ({"sequence": "id", "weights": [1.0, -2.0, 1.0]}, "Weight of sequence 'a' in 'weights' is -2"),
        ({"sequence": "id", "weights": "time"}, r"'time' differ within sequence 'b': 1 in row 0, 2 in row 1"),
    ],
)
@SINGLE
def test_bad_options(table: pd.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(table, **options)


def test_empty_and_single_step_sequences() -> None:
    with pytest.raises(DataError, match="Sequence 1 has no time steps: leave it out"):
        read([np.ones((3, 2)), np.empty((0, 2))])
    with pytest.raises(DataError, match="Each of the 4 sequences has a single time step"):
        read(pd.DataFrame({"id": range(4), "a": [1.0, 2.0, 3.0, 5.0]}), sequence="id")
    with pytest.raises(DataError, match="single row"):
        read(np.ones((1, 2)))
    with pytest.warns(UserWarning, match="2 of 3 sequences have a single time step") as caught:
        data = read(ragged([1, 4, 1]))
    assert caught[0].filename == __file__
    assert len(data.schema.encode(ragged([1]))) == 1
    for empty in ([], (), [[], []], np.empty((0, 2)), np.empty((0, 5, 2)), pd.DataFrame({"id": [], "a": []})):
        with pytest.raises(DataError, match="empty"):
            read(empty)


def test_lists_of_arrays_and_of_tables() -> None:
    arrays = ragged([3, 2, 4])
    data = read(arrays)
    assert data.schema.container == "array"
    assert data.sequence_ids == (0, 1, 2)
    back = data.to_frame()
    assert list(back) == ["sequence", "x0", "x1"]
    np.testing.assert_array_equal(back["sequence"], [0, 0, 0, 1, 1, 2, 2, 2, 2])
    np.testing.assert_allclose(back[["x0", "x1"]], np.concatenate(arrays), rtol=1e-12)
    frames = [pd.DataFrame(part, columns=["u", "v"]) for part in arrays]
    frames[1] = frames[1][["v", "u"]]  # the names count
    np.testing.assert_array_equal(read(frames).x, data.x)
    np.testing.assert_array_equal(read(tuple(arrays)).x, data.x)
    np.testing.assert_array_equal(read(np.array([*arrays, None], dtype=object)[:3]).x, data.x)
    np.testing.assert_array_equal(read([part.tolist() for part in arrays]).x, data.x)
    cube = np.stack(ragged([4, 4, 4]))
    assert read(cube).view().x.shape == (3, 4, 2)
    series = read([pd.Series([1.0, 2.0]), pd.Series([3.0, 4.0, 7.0])])
    assert series.lengths.tolist() == [2, 3]
    assert read([np.array([1, 2, 0]), np.array([4, 1])]).schema.kinds == ("count",)
    words = read([np.array(["a", "b", "a"]), np.array(["c", "a"])])
    assert words.schema.columns[0].categories == ("a", "b", "c")
    assert len(read([1.0, 2.0, 3.0])) == len(read(np.arange(4.0))) == len(read(arrays[:1])) == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([np.ones((3, 2)), np.ones((3, 3))], "Sequence 1 has 3 columns without names, sequence 0 has 2 columns"),
        ([pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]})], "Sequence 1 has the columns 'b', .* columns 'a'"),
        ([pd.DataFrame({"a": [1, 2]}), np.ones((3, 1))], "Sequence 1 has 1 columns without names"),
        ([np.ones((3, 2)), np.ones((2, 2, 2))], "Sequence 1: .* 3 dimensions"),
        ([[1.0, 2.0], [3.0, 4.0]], "rows of one table or several sequences"),
        ([None, np.ones(3)], "Sequence 0: A table is"),
        (np.ones((2, 2, 2, 2)), "4 dimensions"),
        ([[1, 2, 3], [3]], "rows of one table or several sequences"),
    ],
)
def test_bad_lists(table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(table)


def test_a_list_says_itself_what_its_sequences_are() -> None:
    with pytest.raises(DataError, match="leave sequence= out"):
        read([pd.DataFrame({"id": [0, 0], "a": [1.0, 2.0]})] * 2, sequence="id")
    with pytest.raises(DataError, match=r"'x1', step 2 of sequence 1: .*infinite"):
        read([np.ones((2, 2)), np.array([[1, 2], [2, 3], [3, np.inf]])])


@SINGLE
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda lengths: max(lengths) > 1),
    st.floats(0.0, 0.6), st.integers(0, 1000),
)  # fmt: skip
def test_padded_views(lengths: list[int], share: float, seed: int) -> None:
    """The view holds each sequence's values and missing entries at its start, and nothing past its end."""
    rng = np.random.default_rng(seed)
    parts = ragged(lengths, 3, seed)
    for part in parts:
        part[rng.random(part.shape) < share] = np.nan
    parts[0][0], parts[0][-1] = 1.0, 2.0  # no column is empty or constant
    if lengths[0] == 1:
        parts[int(np.argmax(lengths))][:2] = [[1.0] * 3, [3.0] * 3]
    data = read(parts, standardize=False)
    view = data.view()
    longest, uneven = max(lengths), len(set(lengths)) > 1
    assert view.x.shape == (len(lengths), longest, 3)
    missing = any(np.isnan(part).any() for part in parts)
    assert (view.mask is None) == (view.pattern is None) == (view.patterns is None) == (not uneven and not missing)
    if uneven:
        assert view.lengths.dtype == np.int32
        assert view.lengths.tolist() == lengths
    else:
        assert view.lengths is None
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(view.x[i, : len(part)], np.nan_to_num(part))
        assert (view.x[i, len(part) :] == 0.0).all()
        if view.mask is not None:
            np.testing.assert_array_equal(view.mask[i, : len(part)], ~np.isnan(part))
            assert not view.mask[i, len(part) :].any()
    if view.mask is not None:
        np.testing.assert_array_equal(view.patterns[view.pattern], view.mask)
        assert len(view.patterns) == len(np.unique(view.mask.reshape(-1, 3), axis=0))
        assert view.pattern.dtype == np.int32


def test_pad_and_unpad_are_inverse() -> None:
    values = np.arange(18.0).reshape(9, 2)
    for lengths in (np.array([2, 4, 3]), np.array([3, 3, 3]), np.array([9])):
        padded = pad(values, lengths, fill=-1.0)
        np.testing.assert_array_equal(unpad(padded, lengths), values)
        assert padded.sum() == values.sum() - (padded.size - values.size)
    assert np.shares_memory(pad(values, np.array([3, 3, 3])), values)


def test_padding_that_would_exhaust_memory_is_refused() -> None:
    with pytest.raises(DataError, match=r"longest of 100,001 sequences has 1,000,000 time steps .the median is 1"):
        pad(np.zeros((1_100_000, 1)), np.array([1_000_000, *[1] * 100_000]))


def test_views_of_backends() -> None:
    torch = pytest.importorskip("torch")
    arrays = ragged([3, 2])
    assert read([torch.as_tensor(part) for part in arrays]).fingerprint == read(arrays).fingerprint
    assert len(read(torch.as_tensor(np.stack(ragged([4, 4, 4]))))) == 3
    arrays[0][1] = np.nan
    data = read(arrays, weights=[1.0, 2.0])
    for backend in ("numpyro", "pyro"):
        for mine, theirs in zip(data.view(), data.view(backend), strict=True):
            assert (theirs is None) == (mine is None)
            if mine is not None:
                np.testing.assert_allclose(np.asarray(theirs), mine, rtol=1e-6)


def test_taking_whole_sequences() -> None:
    frame = pd.DataFrame({"id": np.repeat(list("abcd"), [3, 2, 4, 2]), "t": np.arange(11), "a": np.arange(11.0) ** 2})
    data = read(frame.assign(w=np.repeat([1.0, 2.0, 0.5, 3.0], [3, 2, 4, 2])), sequence="id", order="t", weights="w")
    rows = {"a": slice(0, 3), "b": slice(3, 5), "c": slice(5, 9), "d": slice(9, 11)}
    for chosen in (slice(1, 3), slice(None, None, 2), np.array([3, 0, 2]), np.array([True, False, False, True]), [2]):
        part = data.take(chosen)
        ids = np.array(list("abcd"))[chosen].tolist()
        assert list(part.sequence_ids) == ids
        np.testing.assert_array_equal(part.weights, data.weights[chosen])
        pd.testing.assert_frame_equal(part.to_frame(), pd.concat([frame.iloc[rows[i]] for i in ids]))
    assert np.shares_memory(data.take(slice(1, 3)).x, data.x)
    assert len(data.take(np.array([], dtype=int))) == 0
    tests = [test for _, test in data.folds(4)]
    assert sorted(label for test in tests for label in test.sequence_ids) == list("abcd")
    train, test = data.split(0.5, seed=1)
    assert sorted(train.sequence_ids + test.sequence_ids) == list("abcd")
    assert train.num_steps == train.lengths.sum() == len(train.x)
    with pytest.raises(SettingError, match=r"number of sequences \(4\)"):
        data.folds(5)


def test_weights_count_whole_sequences() -> None:
    """A weight of 2 is the sequence twice: the same standardization."""
    arrays = ragged([3, 2, 4])
    weighted = read(arrays, weights=[2, 1, 3])
    repeated = read([part for part, times in zip(arrays, [2, 1, 3], strict=True) for _ in range(times)])
    np.testing.assert_allclose(weighted.schema.scales, repeated.schema.scales, rtol=1e-12)
    np.testing.assert_array_equal(weighted.view().weights, [2.0, 1.0, 3.0])
    frame = pd.DataFrame({"id": list("aabb"), "a": [0, 3, 7, 11], "w": [2, 2, 1, 1]})
    counts, reals = read(frame, sequence="id", weights="w"), read(frame, sequence="id", weights="w", accept=("real",))
    assert counts.weights.tolist() == [2.0, 1.0]
    promoted = counts.promote(("real",))
    assert promoted.schema == reals.schema
    np.testing.assert_array_equal(promoted.x, reals.x)
    assert promoted.lengths.tolist() == [2, 2]


def test_new_tables_under_the_training_schema() -> None:
    frame = pd.DataFrame({"id": list("aabbb"), "t": [0, 1, 0, 1, 2], "a": [1.0, 2.0, 5.0, 4.0, 3.0]})
    schema = read(frame, sequence="id", order="t").schema
    new = schema.encode(frame.assign(id=list("cdcdc"), t=[1, 3, 2, 4, 3]), weights=[1.0, 2.0])
    assert new.sequence_ids == ("c", "d")
    assert new.lengths.tolist() == [3, 2]
    np.testing.assert_allclose(new.to_frame()["a"], [1.0, 5.0, 3.0, 2.0, 4.0], rtol=1e-12)
    assert schema.encode(new) is new
    one = schema.encode(frame[["a"]])
    assert (len(one), one.order) == (1, None)
    assert list(one.to_frame()) == ["id", "a"]
    with pytest.raises(DataError, match="sequence 'a': row 1 has the same value as row 0"):
        schema.encode(frame.assign(t=0))
    several = schema.encode([frame[["t", "a"]], frame[["a", "t"]].iloc[:2]][1:])
    assert several.order.tolist() == [0, 1]
    with pytest.raises(DataError, match="'b' was not in the training table"):
        schema.encode(frame.assign(b=1))
    with pytest.raises(DataError, match="'a' is missing from the table: add it; the model has 'a'"):
        schema.encode(frame[["id", "t"]])
    with pytest.raises(DataError, match="'a' is missing from the table: choose one of width"):
        schema.encode(frame.rename(columns={"a": "width"}))
    labelled = read(np.array([[7, 1.5], [7, 2.5], [8, 0.5], [8, 2.0]]), sequence=0)
    assert labelled.sequence_ids == (7.0, 8.0)
    assert labelled.schema.encode(np.array([[1, 2.0], [2, 2.0], [1, 2.0]])).lengths.tolist() == [2, 1]
    assert labelled.schema.encode(np.array([[1.0], [2.0]])).lengths.tolist() == [2]  # no column for the labels
    assert read(ragged([3, 2])).schema.encode(ragged([5, 6, 7])).lengths.tolist() == [5, 6, 7]


def test_fingerprints_tell_sequences_apart() -> None:
    stacked = np.concatenate(ragged([6]))
    splits = [[stacked], [stacked[:3], stacked[3:]], [stacked[:2], stacked[2:]]]
    prints = {read(parts).fingerprint for parts in splits} | {Data.from_table(stacked).fingerprint}
    assert len(prints) == 4
    frame = pd.DataFrame(stacked, columns=["a", "b"])
    assert read(frame.assign(id=1), sequence="id").fingerprint != read(frame.assign(id=2), sequence="id").fingerprint


def test_log_jacobian_adds_up_over_the_steps() -> None:
    arrays = ragged([3, 2])
    whole = read(arrays)
    each = float(whole.schema.log_jacobian())
    np.testing.assert_allclose(whole.log_jacobian(), [3 * each, 2 * each])
    arrays[1][0, 0] = np.nan
    gap = read(arrays)
    logs = -np.log(gap.schema.scales)
    np.testing.assert_allclose(gap.log_jacobian(), [3 * logs.sum(), logs.sum() + logs[1]])
    rows = Data.from_table(np.concatenate(arrays))
    np.testing.assert_allclose(rows.log_jacobian().sum(), gap.log_jacobian().sum())
    assert Data.from_table(ragged([5])[0]).log_jacobian().shape == (5,)


def test_sequences_of_model_space_as_a_table() -> None:
    frame = pd.DataFrame({"id": list("aabb"), "t": [5, 6, 5, 6], "a": [1.0, 2.0, 5.0, 4.0], "b": [0, 3, 2, 1]})
    schema = read(frame, sequence="id", order="t").schema
    drawn = schema.decode_sequences([np.zeros((2, 2)), np.ones((3, 2))], ids=["u", "v"])
    assert list(drawn) == ["id", "t", "a", "b"]
    assert drawn["id"].tolist() == list("uuvvv")
    assert drawn["t"].tolist() == [5, 6, 5, 6, 7]
    assert drawn["b"].dtype == frame["b"].dtype
    np.testing.assert_allclose(drawn["a"][0], 3.0)
    assert schema.encode(drawn).lengths.tolist() == [2, 3]  # what was drawn can be read again
    gaps = read(frame.assign(t=[1, 3, 2, 9]), sequence="id", order="t").schema
    assert list(gaps.decode_sequences(np.zeros((2, 4, 2)))) == ["id", "step", "a", "b"]
    plain = read(frame[["a", "b"]].rename(columns={"b": "step"})).schema
    assert list(plain.decode_sequences([np.zeros((1, 2))])) == ["sequence", "step_", "a", "step"]
    assert len(plain.decode_sequences([])) == 0


def test_labels_of_steps_and_of_the_future() -> None:
    frame = pd.DataFrame({"id": list("aab"), "t": [3, 5, 4], "a": [1.0, 2.0, 4.0]})
    with pytest.warns(UserWarning, match="single"):
        data = read(frame, sequence="id", order="t")
    pd.testing.assert_frame_equal(data.step_labels(), frame[["id", "t"]])
    future = data.future_labels(2)
    pd.testing.assert_frame_equal(future, pd.DataFrame({"id": list("aabb"), "t": [7, 9, 6, 8]}))
    plain = read(ragged([3, 2]))
    assert plain.step_labels().to_numpy().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    expected = pd.DataFrame({"sequence": [0, 0, 1, 1], "step": [3, 4, 2, 3]})
    pd.testing.assert_frame_equal(plain.future_labels(2), expected)
    narrow = read(pd.DataFrame({"t": np.array([-100, 100], "int8"), "a": [1.0, 2.0]}), order="t")
    assert narrow.future_labels(1)["t"].tolist() == [300]
    uneven = read(pd.DataFrame({"t": [1, 2, 4], "a": [1.0, 2.0, 4.0]}), order="t")
    assert uneven.future_labels(1).to_dict("list") == {"sequence": [0], "step": [3]}
    with pytest.raises(DataError, match="no time steps"):
        Data.from_table(frame[["a"]]).step_labels()


@pytest.mark.parametrize("when", ["dates", "zone", "period", "tenths"])
def test_times_go_on_in_their_own_spacing(when: str) -> None:
    times, expected = {
        "dates": (pd.Series(pd.date_range("2024-01-31", periods=4, freq="ME")), ["2024-05-31", "2024-06-30"]),
        "zone": (TIMES["zone"], ["2024-03-31T05:00+02:00", "2024-03-31T06:00+02:00"]),
        "period": (TIMES["period"], ["2024-05", "2024-06"]),
        "tenths": (pd.Series([0.1, 0.2, 0.3, 0.4]), [0.5, 0.6]),
    }[when]
    future = read(pd.DataFrame({"t": times, "a": [1.0, 2.0, 4.0, 3.0]}), order="t").future_labels(2)["t"]
    assert future.dtype == times.dtype
    if when == "tenths":
        np.testing.assert_allclose(future, expected)
    else:
        assert future.tolist() == pd.Series(expected).astype(times.dtype).tolist()


def test_times_beyond_what_their_dtype_holds_become_numbers() -> None:
    """Nanoseconds end in 2262; a count of 16 bits goes on in 64."""
    days = pd.date_range("2025-01-01", periods=9).astype("datetime64[ns]")
    data = read(pd.DataFrame({"day": days, "x": np.arange(9.0) ** 2}), order="day")
    assert data.future_labels(3)["day"].dt.year.tolist() == [2025] * 3
    assert data.future_labels(100_000)["step"].tolist()[-1] == 100_008
    data = read(pd.DataFrame({"t": np.arange(0, 250, 50, dtype="uint8"), "x": np.arange(5.0) ** 2}), order="t")
    assert data.future_labels(3)["t"].tolist() == [250, 300, 350]


def test_a_long_sequence_is_not_copied() -> None:
    values = np.random.default_rng(0).normal(size=(1_000_000, 2))
    tracemalloc.start()
    try:
        data = read(values)
        view = data.view()
        data.take(slice(None)).view()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.shares_memory(view.x, data.x)
    assert view.mask is None
    assert peak < 2.6 * values.nbytes  # the table in model space, and one column at work


class Rows(Family):
    name: ClassVar[str] = "rows"
    kinds: ClassVar[tuple[str, ...]] = ("real",)


class Steps(Rows):
    name: ClassVar[str] = "steps"
    sequences: ClassVar[bool] = True

    def check(self, data: Data) -> None:
        pass


def test_families_read_what_they_model() -> None:
    frame = pd.DataFrame({"id": list("aabb"), "a": [1.0, 2.0, 5.0, 4.0]})
    assert len(Steps().prepare(frame, sequence="id", order=None)) == 2
    assert len(Steps().prepare(frame[["a"]])) == 1
    assert len(Rows().prepare(frame[["a"]], sequence=None, order=None)) == 4
    with pytest.raises(SettingError, match="sequence= is for families that model sequences; rows models rows"):
        Rows().prepare(frame, sequence="id")
    with pytest.raises(DataError, match=r"rows models rows, but these data were read as sequences"):
        Rows().prepare(Steps().prepare(frame, sequence="id"))
    with pytest.raises(DataError, match=r"steps models sequences, .* read as rows: .*as_sequence=True"):
        Steps().prepare(Data.from_table(frame[["a"]]))


@pytest.mark.parametrize("command", [["fit", "{}", "gmm"], ["compare", "{}", "gmm"]])
def test_command_line_passes_the_columns_on(command: list[str], tmp_path: Path, capsys: Any) -> None:
    from ppl_gen.cli import main

    path = tmp_path / "table.csv"
    path.write_text("id,t,a\n1,1,0.5\n1,2,1.5\n")
    for option in ("sequence", "order"):
        assert main([part.format(path) for part in command] + [f"--{option}", "id"]) != 0
        assert f"--{option} is for families that model sequences" in " ".join(capsys.readouterr().err.split())


@SINGLE
@pytest.mark.parametrize("when", ["int16", "dates", "float32"])
@pytest.mark.parametrize("who", ["int8", "string", "date", "category"])
def test_saved_and_loaded(who: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage keeps sequences: shown by a fit of rows whose training data are replaced."""
    monkeypatch.setattr("ppl_gen.arviz_groups.groups", lambda _: ({}, {}))
    monkeypatch.setattr("ppl_gen.arviz_groups.to_netcdf", lambda _, __, path: path.write_bytes(b""))
    values = [1.0, 2.0, np.nan, 3.0]
    frame = pd.DataFrame({"who": IDS[who], "when": TIMES[when], "a": values, "w": [1, 1, 2, 2]})
    data = read(frame, sequence="who", order="when", weights="w")
    fit = pg.fit(GMM(1), np.array([1.0, 2.0, 4.0]), engine="em")
    fit = dataclasses.replace(fit, train=data, schema=data.schema)
    loaded = pg.load(fit.save(tmp_path / "run")).train
    assert loaded.fingerprint == data.fingerprint
    assert loaded.sequence_ids == data.sequence_ids
    assert loaded.schema == data.schema
    for name in ("x", "mask", "weights", "lengths", "order"):
        first, second = getattr(data, name), getattr(loaded, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    pd.testing.assert_frame_equal(loaded.to_frame(), data.to_frame())
