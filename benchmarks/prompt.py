"""From ``ppl-gen fit`` on iris (EM) to the prompt: whole-process wall seconds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import report, seconds


def main() -> None:
    from sklearn.datasets import load_iris

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "iris.csv"
        load_iris(as_frame=True).data.to_csv(table, index=False)
        command = [sys.executable, "-m", "ppl_gen.cli", "fit", str(table), "gmm", "--set", "num_components=3",
                   "--engine", "em", "-o", str(Path(folder) / "run"), "--overwrite"]  # fmt: skip
        times = [seconds(lambda: subprocess.run(command, check=True, capture_output=True))[0] for _ in range(5)]
    report("ppl-gen fit iris.csv gmm --engine em, to the prompt", [
        {"whole process": "wall s", "min": min(times), "median": float(np.median(times)), "max": max(times)}
    ])  # fmt: skip


if __name__ == "__main__":
    main()
