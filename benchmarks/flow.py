"""Flows and autoregressive networks: speed beside flowjax and zuko, known densities, real tables, binarized MNIST.

``python flow.py --tasks step,known`` runs some of the tasks only. A task is a process of its own for each case.
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from common import in_process, report

PEERS = {"jax": "flowjax", "torch": "zuko"}
OURS = {"jax": "NumPyro", "torch": "Pyro"}
CASES = [(library, transform, columns) for library in PEERS for transform in ("realnvp", "nsf") for columns in (2, 8)]
TRANSFORMS = ("realnvp", "maf", "iaf", "nsf", "nsf_ar", "cnf")
PUBLISHED = {
    "made": "MADE, 1 and 2 hidden layers, 32 masks (Germain et al. 2015): 88.04, 86.64",
    "pixelcnn": "PixelCNN (van den Oord et al. 2016): 81.3",
}


def has_peer(*libraries: str) -> bool:
    missing = [PEERS[library] for library in libraries if importlib.util.find_spec(PEERS[library]) is None]
    if missing:
        print(f"Left out, as it is not installed: pip install {' '.join(missing)}")
    return not missing


def step() -> None:
    rows = []
    for library, transform, columns in CASES:
        if has_peer(library):
            found = in_process("flow_peer.py", "step", library, transform, str(columns))
            rows.append({
                "step of 512 rows": f"{transform}, d={columns}, {OURS[library]}", "ms": found["ours"],
                "peer": PEERS[library], "its ms": found["peer"], "its time, times ours": found["peer"] / found["ours"],
                "held-out loss": found["our_loss"], "its loss": found["peer_loss"], "after steps": found["steps"],
            })  # fmt: skip
    report("Training by one member, turn by turn with a loop by hand over the peer's modules (losses in nats)", rows)


def ensemble() -> None:
    rows = []
    for library, transform, columns in CASES[1::2]:  # of 8 columns
        found = in_process("flow_peer.py", "ensemble", library, transform, str(columns))
        rows.append({"step of 512 rows": f"{transform}, d={columns}, {OURS[library]}", "1 member, ms": found["1"],
                     "4 members, ms": found["4"], "times": found["4"] / found["1"]})  # fmt: skip
    report("An ensemble of 4 against one member (the target is 3 times)", rows)


def rows() -> None:
    lines = []
    for library, transform, columns in [*CASES, ("jax", "maf", 8), ("jax", "iaf", 8), ("torch", "maf", 8)]:
        if has_peer(library):
            found = in_process("flow_peer.py", "rows", library, transform, str(columns))
            lines.append({
                "100k rows": f"{transform}, d={columns}, {OURS[library]}", "scoring s": found["ours"],
                "peer": PEERS[library], "its scoring s": found["peer"], "drawing s": found["ours drawing"],
                "its drawing s": found["peer drawing"],
            })  # fmt: skip
    report("Scoring and drawing 100k rows under one member (maf draws slowly, iaf scores slowly)", lines)


def known() -> None:
    lines = []
    for columns, name, target in ((2, "nsf", 0.02), (8, "nsf", None), (8, "nsf_ar", 0.1), (8, "made", 0.1)):
        found = in_process("flow_fit_peer.py", "known", str(columns), name)
        lines.append({
            "8 normals, 4 members": f"d={columns}, {name}", "from rows": found["rows"], "KL to the truth": found["kl"],
            "se": found["se"], "target": target, "of one member": found["member_kl"],
            "truth in the interval": found["coverage"], "steps": found["steps"], "s": found["seconds"],
        })  # fmt: skip
    report("A known density on 100k new rows (the interval is the range of the members)", lines)


def tables() -> None:
    for name in ("magic_gamma", "red_wine"):
        lines = []
        for transform in TRANSFORMS:
            if has_peer("torch" if transform == "cnf" else "jax"):
                found = in_process("flow_fit_peer.py", "table", name, transform)
                lines.append({
                    name: transform, "nats a row": found["ours"], "se": found["se"], "peer": found["library"],
                    "its nats": found["peer"], "se of the difference": found["se_gap"], "steps": found["steps"],
                    "s": found["seconds"], "its s": found["peer_seconds"],
                })  # fmt: skip
        report("Held-out log likelihood by one member, columns standardized by the training rows", lines)


def mnist(network: str = "made") -> None:
    found = in_process("flow_fit_peer.py", "mnist", network)
    row: dict[str, Any] = {"binarized MNIST": f"{network}, one member", "test nats": found["nats"], "se": found["se"],
                           "of images": found["images"], "steps": found["steps"], "s": found["seconds"]}  # fmt: skip
    report(f"Published, at a far larger budget: {PUBLISHED[network]}", [row])


TASKS = {"step": step, "ensemble": ensemble, "rows": rows, "known": known, "tables": tables, "made": mnist,
         "pixelcnn": lambda: mnist("pixelcnn")}  # fmt: skip
DEFAULT = "step,ensemble,rows,known,tables,made"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=DEFAULT, help=f"some of {', '.join(TASKS)}, with commas")
    names = parser.parse_args().tasks.split(",")
    if unknown := sorted(set(names) - set(TASKS)):
        parser.error(f"unknown task {', '.join(unknown)}: choose from {', '.join(TASKS)}")
    for name in names:
        TASKS[name]()
