"""What the benchmarks share: timing, peak memory, data, and one table of results."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def seconds(job: Callable[[], Any]) -> tuple[float, Any]:
    """How long a job took, and what it gave."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def median_seconds(job: Callable[[], Any], repeats: int = 5) -> float:
    """Median over repeats, after one run that is not counted."""
    job()
    return float(np.median([seconds(job)[0] for _ in range(repeats)]))


def peak_megabytes() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(script: str, *args: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a benchmark script of this folder in a fresh process; its last line is JSON. Adds wall seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / script), *args], capture_output=True, text=True, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(args)} failed:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "process_seconds": wall}


def gaussian_clusters(num_rows: int, num_columns: int, num_components: int, seed: int = 0) -> np.ndarray:
    """Standardized draws from a mixture of correlated normals."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.normal(size=(num_components, num_columns))
    factors = 0.3 * rng.normal(size=(num_components, num_columns, num_columns)) + np.eye(num_columns)
    label = rng.integers(num_components, size=num_rows)
    noise = rng.normal(size=(num_rows, num_columns))
    x = np.empty((num_rows, num_columns))
    for k in range(num_components):
        x[label == k] = means[k] + noise[label == k] @ factors[k].T
    return (x - x.mean(0)) / x.std(0)


def iris() -> np.ndarray:
    """scikit-learn's iris measurements, standardized."""
    from sklearn.datasets import load_iris

    x = load_iris().data
    return (x - x.mean(0)) / x.std(0)


def report(title: str, rows: list[dict[str, Any]]) -> None:
    """One table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right")
    for row in rows:
        table.add_row(*[_cell(row.get(name, "")) for name in columns])
    Console(width=140).print(table)


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
