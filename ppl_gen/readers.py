"""Tables of every sort as one: a DataFrame, an array, or a .csv, .parquet, .npy or .npz file."""

from __future__ import annotations

import csv
import dataclasses
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError
from ppl_gen.parsing import nearest, show
from ppl_gen.readers_numpy import attempt, read_npy, read_npz

if TYPE_CHECKING:
    import pandas as pd

EXTENSIONS = (".csv", ".parquet", ".npy", ".npz")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A table as it came: ``values`` is a DataFrame or a 2-d array, read column by column and never copied here.

    ``image`` is (h, w) or (h, w, c) where the rows are images, whose pixels are the columns; else None.
    """

    values: Any
    names: tuple[str, ...]
    container: str
    integer_names: bool = False
    csv_path: Path | None = None
    image: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def index(self) -> pd.Index | None:
        """The row labels of a DataFrame, None where they are 0, 1, 2, ..."""
        import pandas as pd

        if self.container == "array":
            return None
        index = self.values.index
        return None if isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 else index

    def column(self, j: int) -> pd.Series:
        """Column j with rows numbered from 0; shares the table's memory."""
        import pandas as pd

        if self.container == "array":
            return pd.Series(self.values[:, j], copy=False)
        series = self.values.iloc[:, j]
        return series if self.index is None else series.reset_index(drop=True)

    def position(self, name: Any, others: Collection[str | None] = ()) -> int:
        """Where a column stands; an array's column may be given by its number.

        :param others: columns that are there for something else, and are not meant.
        :raises DataError: there is none of this name (the nearest one is named).
        """
        if self.container == "array" and isinstance(name, int) and not isinstance(name, bool):
            name = f"x{name}"
        if str(name) not in self.names:
            candidates = [other for other in self.names if other not in others]
            raise DataError(f"The table has no column {show(name)}: {nearest(name, candidates or self.names)}")
        return self.names.index(str(name))

    def positions(self, names: Any, option: str, others: Collection[str | None] = ()) -> list[int]:
        """Where each of the columns stands that an option names: one, several or None.

        :raises DataError: one is unknown, or named twice.
        """
        several = [] if names is None else [names] if isinstance(names, str | int) else list(names)
        found = [self.position(name, others) for name in several]
        for i, j in enumerate(found):
            if j in found[:i]:
                raise DataError(f"Column {show(self.names[j])} is named twice in {option}.")
        return found

    def where(self, row: int) -> str:
        """A row for a message: its position from 0 and, for a CSV file, the line."""
        if self.csv_path is None:
            return f"row {row}"
        return f"row {row} (line {_csv_line(self.csv_path, row)} of {self.csv_path.name})"


def read_source(table: Any, *, images: bool = False) -> Source:
    """Whatever a user calls a table.

    :param images: whether an array may have three or four dimensions, images (n, h, w) or (n, h, w, c).
    :raises DataError: it is none, can't be read, is empty, or has two columns of one name.
    """
    import pandas as pd

    csv_path = None
    if isinstance(table, str | os.PathLike):
        table, csv_path = _read_file(table)
    elif isinstance(table, pd.Series):
        table = table.to_frame("x0" if table.name is None else table.name)
    elif isinstance(table, Mapping):
        one_row = len(table) > 0 and all(np.ndim(value) == 0 for value in table.values())
        given = [dict(table)] if one_row else dict(table)
        table = attempt("This dictionary is no table", lambda: pd.DataFrame(given))
    elif not isinstance(table, pd.DataFrame | np.ndarray) and hasattr(table, "to_pandas"):
        table = attempt("This table can't be turned into a DataFrame", table.to_pandas)
    source = _from_frame(table, csv_path) if isinstance(table, pd.DataFrame) else _from_array(table, images)
    if not source.names or not len(source):
        what = "rows" if source.names else "columns"
        raise DataError(f"The table is empty: it has no {what}.")
    return source


def _from_frame(frame: pd.DataFrame, csv_path: Path | None) -> Source:
    labels = list(frame.columns)
    if frame.columns.nlevels > 1:
        raise DataError("The table has several levels of column names: give each column one name.")
    names = [str(label) for label in labels]
    _refuse_duplicates(names)
    integers = bool(labels) and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in labels)
    return Source(frame, tuple(names), "dataframe", integers, csv_path)


def _from_array(table: Any, images: bool) -> Source:
    if isinstance(table, np.ma.MaskedArray):
        masked = table
        table = attempt("This masked array is not numeric", lambda: np.ma.filled(masked.astype(float), np.nan))
    if not isinstance(table, np.ndarray | list | tuple) and not hasattr(table, "__array__"):
        raise DataError(
            f"A table is a DataFrame, an array, or the path of a {', '.join(EXTENSIONS)} file, "
            f"not {type(table).__name__}."
        )
    if isinstance(table, np.ndarray) and table.dtype == object and table.ndim == 1:
        parts = list(table)
        if parts and all(isinstance(part, np.ndarray) and part.ndim > 1 for part in parts):
            table = parts  # of one size an object array of images is as good as a list of them
    if isinstance(table, list | tuple) and all(isinstance(part, np.ndarray) and part.ndim > 1 for part in table):
        for i, part in enumerate(table):
            if part.shape != table[0].shape:
                sizes = [" x ".join(map(str, shape)) for shape in (part.shape, table[0].shape)]
                raise DataError(f"Image {i} is {sizes[0]}, image 0 is {sizes[1]}: all must have one size.")
    array = attempt("This is no array", lambda: np.asarray(table))
    if array.dtype.names:
        raise DataError("The array has named fields: pass pandas.DataFrame(array).")
    if array.dtype.kind in "SV":
        raise DataError("The array holds raw bytes: decode them to numbers or text first.")
    if array.ndim == 0 or array.ndim > (4 if images else 2):
        more = "; images are (n, h, w), or (n, h, w, c) with channels" if images else ""
        raise DataError(
            f"A table has rows and columns{more}; this array has {array.ndim} dimensions, shape {array.shape}."
        )
    shape = array.shape[1:] if array.ndim > 2 else None
    if shape is not None and not array.size:
        raise DataError(f"There are no images, or they have no pixels: this array has the shape {array.shape}.")
    array = array.reshape(len(array), -1) if array.size else array.reshape(*(*array.shape, 0)[:2])
    return Source(array, tuple(f"x{j}" for j in range(array.shape[1])), "array", image=shape)


def _read_file(path: Any) -> tuple[Any, Path | None]:
    """The table in a file, and the path if it is a CSV. ``file.npz:name`` picks an array of an archive."""
    text, _, pick = os.fspath(path).partition(".npz:") if isinstance(os.fspath(path), str) else ("", "", "")
    file = Path(f"{text}.npz" if pick else attempt("This is no path", lambda: Path(path)))
    extension, shown = file.suffix.lower(), show(str(file), 300)
    if extension not in EXTENSIONS:
        raise DataError(f"{shown} is no table that can be read: the name must end in {', '.join(EXTENSIONS)}.")
    try:
        size, regular = file.stat().st_size, file.is_file()
        if regular:
            with file.open("rb"):
                pass
    except FileNotFoundError:
        raise DataError(f"There is no file {shown}: check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{shown} can't be opened: {getattr(error, 'strerror', None) or error}.") from None
    if not regular:
        raise DataError(f"{shown} is a folder or a device, not a {extension} file.")
    if size == 0:
        raise DataError(f"{shown} is empty.")
    if extension == ".csv":
        return _read_csv(file), file
    read = {".parquet": _read_parquet, ".npy": read_npy, ".npz": lambda f: read_npz(f, pick)}[extension]
    return read(file), None


def _read_parquet(file: Path) -> Any:
    import pyarrow.parquet as pq

    def read() -> Any:
        with pq.ParquetFile(file) as parquet:  # columns without gaps become pandas columns without a copy
            return parquet.read().to_pandas(split_blocks=True, self_destruct=True)

    return attempt(f"{show(file.name)} can't be read as parquet", read)


def _read_csv(file: Path) -> pd.DataFrame:
    import pandas as pd

    what = f"{show(file.name)} can't be read as CSV"
    header = attempt(what, lambda: _csv_header(file))
    _refuse_duplicates(header)
    if all(_is_number(name) for name in header) and header != [str(j) for j in range(len(header))]:
        raise DataError(f"{show(file.name)} has no column names but {show(header)} in line 1: add a line of names.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more fields in a line than there are names
            frame = pd.read_csv(file, sep=_separator(file), index_col=False, low_memory=False, encoding_errors="strict")
    except pd.errors.ParserWarning:
        raise DataError(f"{what}: its rows have more fields than the {len(header)} names of its first line.") from None
    except Exception as error:  # foreign bytes: see _try
        reason = " ".join(str(error).split())[:150]
        raise DataError(f"{what}: {reason}") from error
    return frame


def _separator(file: Path) -> str:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return max(",;\t", key=stream.readline(1_000_000).count)


def _csv_header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return next((row for row in csv.reader(stream, delimiter=_separator(file)) if row), [])


def _csv_line(file: Path, row: int) -> int:
    """The line on which a row of data starts: quoted line breaks and blank lines count."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=_separator(file))
            start, seen = 1, -2
            for fields in reader:
                seen += bool(fields)
                if fields and seen == row:
                    return start
                start = reader.line_num + 1
    except (OSError, ValueError, csv.Error):  # the file changed, or the two readers disagree about it
        pass
    return row + 2


def _is_number(text: str) -> bool:
    try:
        return bool(text.strip()) and np.isfinite(float(text))
    except ValueError:
        return False


def _refuse_duplicates(names: list[str]) -> None:
    seen: set[str] = set()
    for j, name in enumerate(names):
        if name in seen:
            first = names.index(name)
            raise DataError(f"Two columns are called {show(name)} (positions {first} and {j}): rename one of them.")
        seen.add(name)
