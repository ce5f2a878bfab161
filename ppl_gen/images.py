"""Images as rows of a table whose columns are the pixels, row by row, the channels of a pixel side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.blocks import widen
from ppl_gen.columns import KINDS, Column
from ppl_gen.errors import DataError, warn
from ppl_gen.parsing import nearest, show
from ppl_gen.readers import Source

if TYPE_CHECKING:
    from ppl_gen.schema import Schema

LEVELS = 256  # values of a whole-number pixel
ROWS_AT_ONCE = 256
PIXEL = "pixel"  # stands for all of them in kinds=


def refuse_options(**options: Any) -> None:
    """Raise a :class:`DataError` for options that are of the columns of a table."""
    for name, value in options.items():
        if value:
            raise DataError(
                f"{name}= names columns of a table, but these are images, which are modelled whole: leave it out, or "
                "pass the pixels as columns, images.reshape(len(images), -1)."
            )


def describe(shape: tuple[int, ...]) -> str:
    """The shape of an image in words."""
    return " x ".join(map(str, shape))


def pixel(shape: tuple[int, ...], column: int) -> str:
    """A column in words."""
    row, place, *channel = (int(i) for i in np.unravel_index(column, shape))
    return f"pixel ({row}, {place})" + "".join(f", channel {c}" for c in channel)


def where(shape: tuple[int, ...], image: int, column: int) -> str:
    """An entry for a message."""
    return f"Image {image}, {pixel(shape, column)}"


def named(schema: Schema) -> tuple[Column, ...]:
    """The columns that are modelled, those of images by their pixels."""
    shape = schema.image
    if shape is None:
        return schema.target_columns
    return tuple(dataclasses.replace(c, name=pixel(shape, j)) for j, c in enumerate(schema.columns))


def read(
    source: Source, kinds: Mapping[Any, str] | None, standardize: bool, weights: np.ndarray | None, accept: tuple,
    accept_for: str,
) -> tuple[tuple[Column, ...], np.ndarray]:  # fmt: skip
    """The columns of training images, which are all of one kind, and the pixels in model space (n, h * w * c).

    Whole numbers are binary where all are 0 or 1, else counts from 0 to 255, also where their dtype is one of floats;
    other floats are real. Real pixels have one mean and one standard deviation, not one each.

    :raises DataError: a pixel is missing, infinite, or a whole number outside of 0 to 255; a real one never varies.
    """
    assert source.image is not None
    x = to_floats(source.values, source.image)
    kind = _chosen(kinds) or infer_kind(source.values)
    others = (x != 0) & (x != 1)
    if set(accept) == {"binary"} and others.any():
        i, j = np.argwhere(others)[0]
        raise DataError(f"{where(source.image, i, j)} is {x[i, j]:g}, but {accept_for} takes pixels of 0 and 1 only: "
                        "compare them with a threshold, as in images > 127, or choose another likelihood.")  # fmt: skip
    if set(accept) == {"categorical"} and kind != "categorical":
        if not is_whole(source.values):
            i, j = np.argwhere(x != np.rint(x))[0]
            raise DataError(f"{where(source.image, i, j)} is {x[i, j]:g}; {accept_for} takes labels only: round the "
                            "pixels to a few whole numbers, or choose another likelihood.")  # fmt: skip
        kind = "categorical"
    kind = widen(PIXEL, kind, accept, accept_for)
    dtype = str(source.values.dtype)
    columns = tuple(Column(name, kind, dtype) for name in source.names)
    if kind == "categorical":
        labels, codes = np.unique(x, return_inverse=True)
        if len(labels) > LEVELS or (labels != np.rint(labels)).any():
            raise DataError(f"Pixels have {len(labels):,} different values, no labels: choose another kind or "
                            "likelihood.")  # fmt: skip
        categories = tuple(int(v) for v in labels)
        columns = tuple(dataclasses.replace(c, categories=categories) for c in columns)
        x = codes.reshape(x.shape).astype(x.dtype)
    check_values(source.values, kind, source.image)
    return fit_columns(columns, x, kind, standardize, weights, source.image)


def _chosen(kinds: Mapping[Any, str] | None) -> str | None:
    for name, kind in (kinds or {}).items():
        if name != PIXEL:
            raise DataError(f"All pixels of images have one kind: give it as kinds={{'{PIXEL}': 'count'}}, not for "
                            f"{show(name)}.")  # fmt: skip
        if kind not in KINDS:
            raise DataError(f"Pixels: unknown kind {show(kind)}; {nearest(kind, KINDS)}")
        return kind
    return None


def to_floats(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(n, h * w * c) as float32 where that holds them exactly, else as float64.

    :raises DataError: no numbers, or a pixel that is missing or infinite.
    """
    if values.dtype.kind not in "biuf":
        raise DataError(f"Images are arrays of numbers or truth values, not of {values.dtype}.")
    narrow = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    x = np.array(values, dtype=np.float32 if narrow else np.float64, order="C")
    if values.dtype.kind == "f" and not np.isfinite(x.sum(dtype=np.float64)):
        bad = np.argwhere(~np.isfinite(x))
        if len(bad):
            what = "is missing" if np.isnan(x[tuple(bad[0])]) else "is infinite"
            place = where(shape, *map(int, bad[0]))
            raise DataError(f"{place} {what} ({len(bad):,} such): images must be complete. "
                            "Fill it in, or pass the pixels as columns, images.reshape(len(images), -1), to a family "
                            "that takes missing entries.")  # fmt: skip
    return x


def infer_kind(values: np.ndarray) -> str:
    """binary, count or real; see :func:`read`."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and (low < 0 or high >= LEVELS or not is_whole(values)):
        return "real"
    return "binary" if low >= 0 and high <= 1 else "count"


def is_whole(values: np.ndarray) -> bool:
    """Whether all are whole numbers; found without a look at most of them where they are not."""
    if values.dtype.kind != "f":
        return True
    return bool((values[:1] == np.rint(values[:1])).all() and (values == np.rint(values)).all())


def check_values(values: np.ndarray, kind: str, shape: tuple[int, ...]) -> None:
    """Raise a :class:`DataError` for a pixel that its kind does not allow."""
    if kind not in ("binary", "count"):
        return
    top = 1 if kind == "binary" else LEVELS - 1
    if values.min() >= 0 and values.max() <= top and is_whole(values):
        return
    x = values.astype(np.float64)
    image, column = (int(i) for i in np.argwhere((x < 0) | (x > top) | (x != np.rint(x)))[0])
    allowed = "0 or 1" if kind == "binary" else f"a whole number from 0 to {top}"
    advice = ", or pass floats with fractions, which are modelled as real numbers" if kind == "count" else ""
    raise DataError(
        f"{where(shape, image, column)}: {x[image, column]:g} is not {allowed}, as these pixels must be: rescale "
        f"them{advice}."
    )


def fit_columns(
    columns: tuple[Column, ...], x: np.ndarray, kind: str, standardize: bool, weights: np.ndarray | None,
    shape: tuple[int, ...],
) -> tuple[tuple[Column, ...], np.ndarray]:  # fmt: skip
    """The columns as of this kind, and x in model space, from the units of the images.

    :raises DataError: nothing varies, or a real pixel never does.
    """
    counted = x if weights is None else x[weights > 0]
    constant = np.ones(x.shape[1], bool)
    for start in range(0, len(counted), ROWS_AT_ONCE):  # in pieces that stay in the cache
        constant &= (counted[start : start + ROWS_AT_ONCE] == counted[0]).all(0)
    if constant.all():
        raise DataError("All images are alike, so there is nothing to fit.")
    if constant.any() and kind == "real":  # a label that never varies is one of those of all pixels
        place = where(shape, 0, int(np.argmax(constant))).partition(", ")[2]
        raise DataError(
            f"{place} never varies ({int(constant.sum()):,} of {len(constant):,} never do), and has no scale as a "
            f"{kind} pixel: crop the images, or pass whole numbers, which have probabilities."
        )
    if constant.any():
        warn(f"{int(constant.sum()):,} of {len(constant):,} pixels never vary: only the one value is learnt.")
    if kind != "real":
        return tuple(dataclasses.replace(c, kind=kind) for c in columns), x
    loc, scale = 0.0, 1.0
    if standardize:
        each = None if weights is None else weights / weights.sum()
        loc = float(np.average(x.mean(1, dtype=np.float64), weights=each))
        scale = float(np.sqrt(np.average(np.square(x - loc).mean(1, dtype=np.float64), weights=each)))
        if not (np.isfinite(scale) and scale > 0):
            raise DataError("Pixels are too large or too close to standardize: rescale the images.")
    found = tuple(dataclasses.replace(c, kind=kind, loc=loc, scale=scale) for c in columns)
    return found, ((x - loc) / scale).astype(x.dtype)


def encode(schema: Schema, source: Source) -> np.ndarray:
    """(n, h * w * c) new images in the model space of the training images; their pixels as columns are as good.

    :raises DataError: they have another shape, or a pixel is none that the training images could have.
    """
    assert schema.image is not None
    values: Any = source.values
    if source.image is not None and source.image != schema.image:
        raise DataError(
            f"These images are {describe(source.image)}, the model was fitted to images of {describe(schema.image)}."
        )
    if source.image is None and len(source.names) != schema.num_columns:
        raise DataError(
            f"The model was fitted to images of {describe(schema.image)}: pass an array of shape "
            f"(n, {', '.join(map(str, schema.image))}) (a single image as image[None]), or one of "
            f"{schema.num_columns:,} columns, the pixels; this table has {len(source.names):,}."
        )
    if source.container == "dataframe":
        values = values[list(schema.names)] if set(schema.names) == set(source.names) else values
        values = values.to_numpy()
    x = to_floats(np.asarray(values), schema.image)
    column = schema.columns[0]
    if column.categories is not None:
        labels = np.array(column.categories, x.dtype)
        codes = np.clip(np.searchsorted(labels, x), 0, len(labels) - 1)
        bad = np.argwhere(labels[codes] != x)
        if len(bad):
            image, j = (int(i) for i in bad[0])
            raise DataError(f"{where(schema.image, image, j)}: {x[image, j]:g} is no value of the training images.")
        return codes.astype(x.dtype)
    check_values(x, column.kind, schema.image)
    return ((x - column.loc) / column.scale).astype(x.dtype) if column.kind == "real" else x


def decode(schema: Schema, x: Any) -> np.ndarray:
    """(n, h, w) or (n, h, w, c): rows of model space as images, of the dtype that came in."""
    assert schema.image is not None
    column = schema.columns[0]
    dtype, values = np.dtype(column.dtype), np.asarray(x, np.float64)
    if column.categories is not None:
        values = np.array(column.categories)[np.clip(np.rint(values), 0, len(column.categories) - 1).astype(int)]
    elif column.kind == "real":
        values = values * column.scale + column.loc
        if dtype.kind != "f":
            limits = (0, 1) if dtype.kind == "b" else (0, LEVELS - 1)
            values = np.clip(np.rint(values), *limits)
    else:
        values = np.clip(np.rint(values), 0, 1 if column.kind == "binary" else LEVELS - 1)
    return values.astype(dtype).reshape(len(values), *schema.image)
