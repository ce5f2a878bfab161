"""Columns of rows that were read already, as the next wider kind that a family accepts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import conditions, images, labels
from ppl_gen.blocks import is_constant, widen
from ppl_gen.parsing import moments

if TYPE_CHECKING:
    from ppl_gen.data import Data


def promote(data: Data, accept: tuple[str, ...], accept_for: str, label: Any = None) -> Data:
    """See :meth:`ppl_gen.data.Data.promote`."""
    accepted = (conditions.KINDS if c.name in data.schema.conditions else accept for c in data.schema.columns)
    labelled = None if label is None or data.schema.image is not None else labels.position(data.schema, label)
    wide = []
    for j, (c, each) in enumerate(zip(data.schema.columns, accepted, strict=True)):
        if j == labelled:
            labels.check_kind(c)
        wide.append(c.kind if j == labelled else widen(c.name, c.kind, each, accept_for))
    if tuple(wide) == data.schema.kinds:
        return data
    if data.schema.image is not None:
        pixels, x = images.fit_columns(data.schema.columns, data.x, wide[0], data.schema.standardize, data.weights,
                                       data.schema.image)  # fmt: skip
        return dataclasses.replace(data, schema=dataclasses.replace(data.schema, columns=pixels), x=x)
    x, columns, row_weights = data.x.copy(), [], data.weights
    if row_weights is not None and data.lengths is not None:
        row_weights = np.repeat(row_weights, data.lengths)
    for j, (column, kind) in enumerate(zip(data.schema.columns, wide, strict=True)):
        new = dataclasses.replace(column, kind=kind)
        if kind == "real" != column.kind:
            raw = x[:, j] if data.mask is None else np.where(data.mask[:, j], x[:, j], np.nan)
            is_constant(column.name, kind, raw, row_weights)
        if kind == "real" != column.kind and data.schema.standardize:
            loc, scale = moments(column.name, raw, row_weights)
            new = dataclasses.replace(new, loc=loc, scale=scale)
            x[:, j] = np.nan_to_num(new.to_model(raw), nan=0.0)
        columns.append(new)
    return dataclasses.replace(data, schema=dataclasses.replace(data.schema, columns=tuple(columns)), x=x)
