"""Every benchmark, each in a process of its own: ``python benchmarks/run.py [name ...]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("em", "svi", "prompt", "scoring", "nuts", "hmm", "flow", "vae", "vae_label", "rbm", "energy",
         "diffusion", "gan_quality", "anomaly")  # fmt: skip


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"Unknown benchmark {', '.join(unknown)}: choose from {', '.join(NAMES)}.", file=sys.stderr)
        return 2
    commands = {name: [sys.executable, str(HERE / f"{name}.py")] for name in names or NAMES}
    failed = [name for name, command in commands.items() if subprocess.run(command, check=False).returncode]
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
