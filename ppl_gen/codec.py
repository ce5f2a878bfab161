"""How values become text and bytes, and come back as values only: signed JSON and safetensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.errors import StorageError, UnsupportedError
from ppl_gen.files import first_line


def sign(document: dict[str, Any]) -> str:
    """JSON text that ends with the SHA-256 of the rest."""
    return json.dumps({**document, "sha256": hash_document(document)}, indent=1, ensure_ascii=False) + "\n"


def hash_document(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    from safetensors.numpy import save_file

    save_file(dict(arrays), file, metadata=dict(metadata) or None)


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{file} is damaged: {first_line(error)}.") from error


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        total.update(f"{name} {value.dtype} {value.shape};".encode())
        total.update(value.tobytes())
    return total.hexdigest()


class NotKept:
    """Stands where a function was (a user's own guide): a saved fit keeps values, not code."""

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError(f"{self.__qualname__} is code, which a saved fit does not keep: give it again to fit().")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotKept) and other.__qualname__ == self.__qualname__

    def __hash__(self) -> int:
        return hash(self.__qualname__)


def plain(value: Any) -> Any:
    """What JSON can hold; ``{"$float": "nan"}`` and ``{"$code": name}`` for what it can't."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    return {"$code": getattr(value, "__qualname__", type(value).__name__)} if callable(value) else value


def revive(value: Any) -> Any:
    """The inverse of :func:`plain`."""
    if isinstance(value, list):
        return [revive(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$float"}:
        return float(value["$float"])
    return NotKept(str(value["$code"])) if value.keys() == {"$code"} else {k: revive(v) for k, v in value.items()}
