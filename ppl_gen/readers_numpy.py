"""Arrays from .npy and .npz files, and errors for people from whatever can't be read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.errors import DataError
from ppl_gen.parsing import nearest, show

_ZIP, _NPY = b"PK", b"\x93NUMPY"  # how the files begin


def attempt(what: str, read: Any) -> Any:
    """Foreign code and foreign bytes: whatever goes wrong in there means that they can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except Exception as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise DataError(f"{what}: it holds Python objects, not numbers; save it as a numeric array.") from error
        if "pickle" in str(error):  # what NumPy takes all other bytes for, and then advises to load them unsafely
            raise DataError(f"{what}: it is damaged, or no file of NumPy's.") from error
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{what}: {reason}") from error


def read_npy(file: Path) -> np.ndarray:
    what = f"{show(file.name)} can't be read as .npy"
    with file.open("rb") as stream:
        start = stream.read(len(_NPY))
    if start.startswith(_ZIP):
        raise DataError(f"{what}: it is an archive of arrays; give it the ending .npz.")
    if start != _NPY:
        raise DataError(f"{what}: it is no file of NumPy's.")
    return attempt(what, lambda: np.load(file, mmap_mode="r", allow_pickle=False))


def read_npz(file: Path, pick: str) -> np.ndarray:
    """The array named, else the only one, else ``x``, else the only one with two dimensions, or more."""
    what = f"{show(file.name)} can't be read as .npz"
    with file.open("rb") as stream:  # opened here, since NumPy leaves a damaged file open
        start = stream.read(len(_NPY))
        stream.seek(0)
        if start == _NPY:
            raise DataError(f"{what}: it is a single array; give it the ending .npy.")
        if not start.startswith(_ZIP):
            raise DataError(f"{what}: it is no archive of NumPy's.")
        archive = attempt(what, lambda: np.load(stream, allow_pickle=False))
        names = list(archive.files)
        if pick and pick not in names:
            raise DataError(f"{show(file.name)} has no array {show(pick)}: {nearest(pick, names)}")
        if not names:
            raise DataError(f"{show(file.name)} holds no arrays.")
        name = pick or (names[0] if len(names) == 1 else "x" if "x" in names else "")
        if name:
            return _load_one(archive, name, what)
        tables = [n for n in names if _load_one(archive, n, what).ndim == 2]
        tables = tables or [n for n in names if _load_one(archive, n, what).ndim > 2]
        if len(tables) == 1:
            return _load_one(archive, tables[0], what)
    found = ", ".join(show(n) for n in (tables or names)[:10])
    example = show(f"{file.name}:{(tables or names)[0]}")
    raise DataError(f"{show(file.name)} holds several arrays ({found}): say which one, as in {example}.")


def _load_one(archive: Any, name: str, what: str) -> np.ndarray:
    array = attempt(f"{what}, array {show(name)}", lambda: archive[name])
    if not isinstance(array, np.ndarray):  # a member that is no .npy file comes as bytes
        raise DataError(f"{what}: {show(name)} in it is no array.")
    return array
