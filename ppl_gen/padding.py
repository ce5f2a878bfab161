"""Stacked time steps as the padded arrays that models read, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.errors import DataError

MAX_BYTES = 16 << 30  # of one padded array; lengths that differ wildly would have the process killed


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """(N,) where each sequence starts among all steps, stacked."""
    return np.cumsum(lengths) - lengths


def pad(values: np.ndarray, lengths: np.ndarray, fill: Any = 0) -> np.ndarray:
    """(R, ...) stacked steps as (N, T, ...), ``fill`` past the end of a sequence; no copy where all lengths are T.

    :raises DataError: that would take too much memory.
    """
    longest = int(lengths.max(initial=0))
    shape = (len(lengths), longest, *values.shape[1:])
    if len(values) == len(lengths) * longest:
        return values.reshape(shape)
    if np.prod(shape, dtype=float) * values.itemsize > MAX_BYTES:
        raise DataError(
            f"The longest of {len(lengths):,} sequences has {longest:,} time steps (the median is "
            f"{np.median(lengths):,.0f}), and padded to that length they would not fit in memory: split the long ones."
        )
    padded = np.full(shape, fill, dtype=values.dtype)
    padded[inside(lengths)] = values
    return padded


def unpad(padded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The inverse of :func:`pad`: (N, T, ...) as (R, ...), without what lies past the ends."""
    if padded.shape[0] * padded.shape[1] == lengths.sum():
        return padded.reshape(-1, *padded.shape[2:])
    return padded[inside(lengths)]


def inside(lengths: np.ndarray) -> np.ndarray:
    """(N, T) whether a step is one of its sequence, rather than past its end."""
    return np.arange(lengths.max(initial=0)) < lengths[:, None]


def steps_of(lengths: np.ndarray, chosen: np.ndarray) -> slice | np.ndarray:
    """Where the steps of some sequences are among all steps, stacked: a slice where those follow each other."""
    starts = starts_of(lengths)
    if len(chosen) and (np.diff(chosen) == 1).all():
        return slice(int(starts[chosen[0]]), int(starts[chosen[-1]] + lengths[chosen[-1]]))
    sizes = lengths[chosen]
    return np.repeat(starts[chosen] - starts_of(sizes), sizes) + np.arange(sizes.sum())


def pad_patterns(
    patterns: np.ndarray | None, pattern: np.ndarray | None, lengths: np.ndarray, num_columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (P, d) of a padded mask and which is each step's (N, T), from those of the stacked mask."""
    if patterns is None or pattern is None:
        patterns, pattern = np.ones((1, num_columns), dtype=bool), np.zeros(int(lengths.sum()), dtype=np.int32)
    empty = [*np.flatnonzero(~patterns.any(axis=1)), len(patterns)][0]
    if empty == len(patterns):
        patterns = np.concatenate([patterns, np.zeros((1, num_columns), dtype=bool)])
    return patterns, pad(pattern, lengths, fill=int(empty))


def distinct_rows(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (P, d) of truth values (n, d), and which of them each row is (n,)."""
    packed = np.packbits(mask, axis=1)  # eight columns a byte
    if packed.shape[1] <= 8:  # up to 64 columns: one integer a row, which sorts fast
        padded = np.zeros((len(mask), 8), dtype=np.uint8)
        padded[:, : packed.shape[1]] = packed
        keys: np.ndarray = padded.view(np.uint64).ravel()
    else:
        keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, pattern = np.unique(keys, return_index=True, return_inverse=True)
    return mask[first], pattern.reshape(-1).astype(np.int32)
