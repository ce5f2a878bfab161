"""What the columns of a table are: the map from a table's units to model space and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import images
from ppl_gen.blocks import Block, float_dtype
from ppl_gen.columns import KINDS, Column
from ppl_gen.errors import DataError
from ppl_gen.parsing import check_kind, normalise, read_labels, read_numbers, show
from ppl_gen.readers import read_source

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of the training table, in order, and how it was read.

    ``container``      ``"dataframe"`` (named columns) or ``"array"`` (columns x0, x1, ...)
    ``standardize``    whether real columns have mean 0 and standard deviation 1 in model space
    ``dropped``        columns of the training table that are not modelled; new tables may have them or not
    ``integer_names``  the table's column names were integers: they are given back as such
    ``is_sequence``    the rows are the time steps of sequences, not observations of their own
    ``sequence``       the column that tells the sequences apart, if there is one; ``sequence_dtype``: its dtype
    ``order``          the column by which time steps are in order, if there is one; ``order_dtype``: its dtype
    ``conditions``     columns that are conditioned on, not modelled; the others are the targets
    ``order_start``    in each sequence that column numbers the steps from here on, without gaps; else None
    ``image``          (h, w) or (h, w, c) where the rows are images: the columns are their pixels, row by row, the
                       channels of a pixel side by side, all of one kind
    """

    columns: tuple[Column, ...]
    container: str
    standardize: bool
    dropped: tuple[str, ...] = ()
    integer_names: bool = False
    is_sequence: bool = False
    sequence: str | None = None
    sequence_dtype: str = "int64"
    order: str | None = None
    order_dtype: str = "int64"
    order_start: int | None = None
    conditions: tuple[str, ...] = ()
    image: tuple[int, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(c.kind for c in self.columns)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that are modelled."""
        return tuple(c.name for c in self.target_columns)

    @property
    def target_columns(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.name not in self.conditions)

    @property
    def is_target(self) -> np.ndarray:
        """(d,): True for a column that is modelled, False for one that is conditioned on."""
        return np.array([c.name not in self.conditions for c in self.columns], dtype=bool)

    @property
    def num_context(self) -> int:
        """The width of :meth:`context`."""
        return sum(len(c.categories or ()) or 1 for c in self.columns if c.name in self.conditions)

    def context(self, x: np.ndarray) -> np.ndarray | None:
        """The columns of model-space rows (n, d) that are conditioned on, (n, c) as a network reads them: real and
        binary ones as they are, a categorical one as an indicator per label (one-hot). None where there are none."""
        parts = [
            x[..., [j]] if c.categories is None else (x[..., [j]] == np.arange(len(c.categories))).astype(x.dtype)
            for j, c in enumerate(self.columns)
            if c.name in self.conditions
        ]
        return np.concatenate(parts, axis=-1) if parts else None

    @property
    def context_names(self) -> list[str]:
        """What the columns of :meth:`context` are: names, of a categorical column one per label, as ``sky=rain``."""
        given = (c for c in self.columns if c.name in self.conditions)
        return [name for c in given for name in ([f"{c.name}={v}" for v in c.categories] if c.categories else [c.name])]

    def only_targets(self) -> Schema:
        """The schema without the columns that are conditioned on; itself where there are none."""
        return dataclasses.replace(self, columns=self.target_columns, conditions=()) if self.conditions else self

    def only_conditions(self) -> Schema:
        """The schema of tables that hold the columns that are conditioned on, and perhaps the others too."""
        kept = tuple(c for c in self.columns if c.name in self.conditions)
        return dataclasses.replace(self, columns=kept, dropped=(*self.dropped, *self.targets))

    @property
    def greatest_count(self) -> int | None:
        """The greatest value that a count can have: that of a whole-number pixel, 255; of tables None."""
        return None if self.image is None else images.LEVELS - 1

    @property
    def num_columns(self) -> int:
        return len(self.columns)

    @property
    def scales(self) -> np.ndarray:
        """(d,): one unit of model space in the units of the table; 1 for columns that are not real."""
        return np.array([c.scale for c in self.columns])

    def axis_names(self, axis: str) -> list[str] | None:
        """What an axis of :meth:`Family.site_dims` runs over: all columns that are modelled (``column``,
        ``column_other``), those of a kind (``real_column`` and the like), the labels of the j-th of them as
        ``sky=rain`` (``category_<j>``), what is conditioned on (``condition``); else None."""
        if axis in ("column", "column_other"):
            return list(self.targets)
        if axis == "condition":
            return self.context_names
        kind, _, rest = axis.partition("_")
        if kind == "category" and rest.isdigit():
            column = self.target_columns[int(rest)]
            return [f"{column.name}={value}" for value in column.categories or ()]
        return [c.name for c in self.target_columns if c.kind == kind] if rest == "column" and kind in KINDS else None

    def without_units(self) -> Schema:
        """What a pair may depend on: the kinds and categories of the columns, not their names or units."""
        columns = tuple(Column(f"x{j}", c.kind, c.dtype, categories=c.categories) for j, c in enumerate(self.columns))
        conditions = tuple(f"x{j}" for j, c in enumerate(self.columns) if c.name in self.conditions)
        return Schema(columns, "array", standardize=False, is_sequence=self.is_sequence, conditions=conditions,
                      image=self.image)  # fmt: skip

    def to_config(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        config = dataclasses.asdict(self)
        for column in config["columns"]:
            column["categories"] = None if column["categories"] is None else list(column["categories"])
        if not self.is_sequence:  # as it was before there were sequences, and so are the fingerprints of plain tables
            config = {name: value for name, value in config.items() if not name.startswith(("is_seq", "seq", "order"))}
        if not self.conditions:  # likewise
            del config["conditions"]
        if self.image is None:  # likewise
            del config["image"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """The inverse of :meth:`to_config`.

        :raises DataError: the configuration is none of a schema (a damaged file, say).
        """
        try:
            columns = []
            for entry in config["columns"]:
                labels = entry["categories"]
                columns.append(Column(**{**entry, "categories": None if labels is None else tuple(labels)}))
            tuples = {"dropped": tuple(config["dropped"]), "conditions": tuple(config.get("conditions", ()))}
            if config.get("image") is not None:
                tuples["image"] = tuple(int(n) for n in config["image"])
            schema = cls(**{**config, "columns": tuple(columns), **tuples})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"The description of the columns is damaged: {show(error)}.") from None
        if schema.image is not None and (
            len(schema.image) not in (2, 3) or np.prod(schema.image) != len(schema.columns)
        ):
            raise DataError("The description of the columns is damaged: they are not the pixels of such images.")
        for c in schema.columns:
            if c.kind not in KINDS or not np.isfinite([c.loc, c.scale]).all() or c.scale <= 0:
                raise DataError(f"The description of column {show(c.name)} is damaged.")
        if not set(schema.conditions) <= set(schema.names):
            raise DataError("The description of the columns is damaged: it conditions on columns that are not there.")
        return schema

    def encode(self, table: Any, *, weights: Any = None, drop: Any = None, may_lack: Sequence[str] = ()) -> Data:
        """New rows in the model space of the training table. A row may be missing altogether here.

        :param table: whatever :meth:`Data.from_table <ppl_gen.data.Data.from_table>` reads.
        :param weights: (n,) row weights, or the name of a column that holds them.
        :param drop: columns to leave out that the training table did not have.
        :param may_lack: columns that a table may be without, which are then missing in every row.
        :raises DataError: a column is missing, unknown or of another kind, or a label was never seen; no rows; a value
            is missing that is conditioned on.
        """
        import pandas as pd

        from ppl_gen.conditions import refuse_missing_conditions
        from ppl_gen.data import Data
        from ppl_gen.selection import known_names, positions_in, read_weights
        from ppl_gen.sequences import read_sequences

        if isinstance(table, Data):
            if table.schema != self:
                raise DataError("These rows were read under another schema: pass the table itself.")
            return table
        if isinstance(table, pd.Series) and table.index.isin(self.names).any():
            raise DataError("A Series is read as one column, and this one looks like a row: pass a DataFrame of one "
                            "row, table.iloc[[0]] instead of table.iloc[0].")  # fmt: skip
        known = partial(known_names, self)
        sequences = read_sequences(table, self.sequence, self.order, known) if self.is_sequence else None
        source = read_source(table, images=self.image is not None) if sequences is None else sequences.source
        values, weight_name = read_weights(source, weights, sequences)
        if self.image is not None:
            images.refuse_options(drop=drop, weights=weight_name)
            return Data(self, images.encode(self, source), None, values, source.index)
        positions = positions_in(self, source, source.positions(drop, "drop"), weight_name, may_lack)
        series = [normalise(pd.Series([None] * len(source)) if j is None else source.column(j))[0] for j in positions]
        block = Block(len(source), self.num_columns, float_dtype(series, self.kinds))
        for j, (column, entries) in enumerate(zip(self.columns, series, strict=True)):
            if column.kind == "categorical":
                raw = read_labels(column.name, entries, column.categories, source.where)[0]
            else:
                raw = read_numbers(column.name, entries, source.where, may_relabel=False)
                check_kind(column.name, column.kind, raw, source.where)
            block.put(j, column, raw, source.where)
        refuse_missing_conditions(self, block.mask, source)
        steps = () if sequences is None else (sequences.lengths, sequences.ids, sequences.order)
        return Data(self, block.x, block.mask, values, source.index, *steps)

    def decode(self, x: Any, mask: Any = None) -> pd.DataFrame:
        """Rows of model space (n, d) as a table: the names, units, dtypes and labels of the training table.

        Whole-number columns are rounded, counts are at least 0; where ``mask`` (n, d) is False, or x is NaN, the
        entry is missing (a plain integer column then becomes a float one, as in pandas).

        :raises DataError: x has another number of columns.
        """
        import pandas as pd

        x = np.asarray(x)
        if x.ndim == 2 and self.image is not None and mask is None:
            return pd.DataFrame(images.decode(self, x).reshape(x.shape), columns=list(self.names))
        if x.ndim != 2 or x.shape[1] != self.num_columns:
            raise DataError(f"Expected rows of {self.num_columns} columns, not an array of shape {x.shape}.")
        parts = []
        for j, column in enumerate(self.columns):
            values = x[:, j] if mask is None else np.where(np.asarray(mask)[:, j], x[:, j], np.nan)
            parts.append(column.to_table(values))
        frame = pd.concat(parts, axis=1) if parts else pd.DataFrame()
        frame.columns = [int(n) for n in self.names] if self.integer_names else list(self.names)
        return frame

    def decode_sequences(self, sequences: Iterable[Any], ids: Iterable[Any] | None = None) -> pd.DataFrame:
        """Sequences of model space, (T_i, d) each, as one table: the columns of their labels and of the numbers of
        their steps (named as in the training table, if it had them), and then those of :meth:`decode`.

        :param ids: the labels; 0, 1, ... by default.
        """
        from ppl_gen.times import label_steps

        parts = [np.asarray(part) for part in sequences]
        frame = self.decode(np.concatenate(parts) if parts else np.empty((0, self.num_columns)))
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        labels = tuple(range(len(parts))) if ids is None else tuple(ids)
        return label_steps(frame, self, lengths, labels, None, number=True)

    def log_jacobian(self, mask: Any = None) -> Any:
        """What to ADD to a log density of model space to have it in the units of the table, in nats.

        For y = (x - loc) / scale, log p(x) = log p(y) - sum_j log scale_j over the real columns that are modelled; (n,)
        with a mask (n, d), where a missing column counts for nothing, else one float.
        """
        logs = np.where(self.is_target, -np.log(self.scales), 0.0)
        return float(logs.sum()) if mask is None else np.asarray(mask, dtype=np.float64) @ logs
