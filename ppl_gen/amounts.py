"""Amounts of time and memory as people write them, and how much memory there is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ppl_gen.errors import SettingError

SECONDS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
BYTES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def seconds(text: Any, what: str = "budget") -> float:
    """``"5m"``, ``"90s"``, ``"1h"``, ``"1h30m"`` or a number of seconds.

    :raises SettingError: it is none of these, or not above 0.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip().lower())
    whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", str(text).lower())
    if not parts or not whole or any(unit not in SECONDS for _, unit in parts):
        raise SettingError(f"{what} must be a time such as 5m, 90s, 1h or 300 (seconds), not {text!r}.")
    total = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if not 0 < total < float("inf"):
        raise SettingError(f"{what} must be above 0 seconds, not {text!r}.")
    return total


def memory(text: Any) -> int:
    """``"8G"``, ``"500M"`` or a number of bytes.

    :raises SettingError: it is none of these, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", str(text).strip().lower())
    if found is None or not float(found[1]):
        raise SettingError(f"memory must be an amount such as 8G or 500M, not {text!r}.")
    return int(float(found[1]) * BYTES[found[2]])


def available_memory() -> int:
    """Bytes that new processes can have, as the system tells; 4 GiB where it does not."""
    found = []
    for name, pattern in (("/proc/meminfo", r"MemAvailable:\s+(\d+) kB"), ("/sys/fs/cgroup/memory.max", r"^(\d+)$")):
        try:
            match = re.search(pattern, Path(name).read_text(encoding="ascii"), re.MULTILINE)
        except OSError:
            continue
        if match:
            found.append(int(match[1]) * (1024 if "kB" in pattern else 1))
    if found:
        return min(found)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30
