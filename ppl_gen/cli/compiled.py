"""Compiled programs kept from one command to the next: a third to a half of a small job is compiling."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

LIMIT = 200 * 2**20  # bytes; the programs that were used least recently go first
SETTING = "JAX_COMPILATION_CACHE_DIR"


def keep() -> None:
    """Tell JAX, before it is imported, where to keep what it compiles.

    In the user's cache folder, one folder per machine, since a program is made for one processor. The setting is JAX's
    own: ``JAX_COMPILATION_CACHE_DIR`` names another folder, or none where it is empty.
    """
    if SETTING in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "ppl_gen" / re.sub(r"\W+", "-", f"{platform.node()}-{platform.machine()}")
        folder.mkdir(parents=True, exist_ok=True)
        trim(folder, LIMIT)
        os.environ[SETTING] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")


def trim(folder: Path, limit: int) -> None:
    """Delete the files used least recently until those that stay take no more than ``limit`` bytes."""
    files = sorted(((f.stat().st_mtime, f.stat().st_size, f) for f in folder.iterdir() if f.is_file()), reverse=True)
    total = 0
    for _, size, file in files:
        total += size
        if total > limit:
            file.unlink(missing_ok=True)
