"""Hidden Markov models: EM against hmmlearn and dynamax, NUTS against Stan, memory, and the JSB chorales.

Cold is the first call, with all that it compiles; of NUTS it is from the start of the process.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from common import in_process, report
from hmm_peer import CHORALE_STATES, shared_data

EM_PEERS = {
    "long": ("one sequence of 50k steps, K=5, 4 channels, 20 iterations", ("ppl_gen", "hmmlearn", "dynamax")),
    "ragged": ("500 sequences of 50 to 200 steps, K=5, 4 channels, 20 iterations", ("ppl_gen", "hmmlearn")),
}  # dynamax takes sequences of one length only
PACKAGES = {"hmmlearn": "hmmlearn", "dynamax": "dynamax", "stan": "pystan"}  # module: package
SAMPLERS = {"ppl_gen": "ppl_gen (NumPyro, blackjax)", "stan": "Stan, forward algorithm",
            "numpyro": "NumPyro's own NUTS, our pair"}  # fmt: skip


def installed(peers: Any) -> list[str]:
    """Those that are here; the others are named."""
    missing = [who for who in peers if who in PACKAGES and importlib.util.find_spec(who) is None]
    if missing:
        print(f"Left out, as it is not installed: pip install {' '.join(PACKAGES[who] for who in missing)}")
    return [who for who in peers if who not in missing]


def em(task: str) -> None:
    title, peers = EM_PEERS[task]
    found = {who: in_process("hmm_peer.py", task, who) for who in installed(peers)}
    ours, rows = found["ppl_gen"], []
    for who, figures in found.items():
        rows.append({
            "EM": who, "warm s": figures["warm"], "cold s": figures["cold"],
            "nats/step": figures["nats_per_step"], "MB above imports": figures["megabytes"],
            "warm, times ours": figures["warm"] / ours["warm"], "our cold, s more": ours["cold"] - figures["cold"],
        })  # fmt: skip
    report(title, rows)


def nuts() -> None:
    rows = []
    for who in installed(SAMPLERS):
        figures = in_process("hmm_nuts_peer.py", who)
        rows.append({
            "NUTS, 4 x (500 + 500)": SAMPLERS[who], "min bulk ESS": figures["min_ess"], "warm s": figures["seconds"],
            "ESS/s": figures["min_ess"] / figures["seconds"],
            "ESS/processor s": figures["min_ess"] / figures["processor_seconds"], "cold s": figures["cold_seconds"],
        })  # fmt: skip
    for row in rows:
        row["our ESS/s, times"] = rows[0]["ESS/s"] / row["ESS/s"]
    report("T=500, K=3: log p of 50 steps given those before", rows)


def memory() -> None:
    figures = in_process("hmm_peer.py", "memory", "ppl_gen")
    row = {"EM": "1M steps, K=5, 4 channels", "s": figures["seconds"], "iterations": figures["iterations"],
           "MB with the data": figures["before"], "peak MB": figures["peak"]}  # fmt: skip
    report("Memory of a fit (the target is 2,000 MB)", [row])


def chorales() -> None:
    rows = []
    for states in CHORALE_STATES:
        figures = in_process("hmm_peer.py", "chorales", str(states))
        rows.append({
            "JSB chorales": f"ppl_gen HMM, {states} states", "test nats/frame": figures["test"],
            "valid": figures["valid"], "train": figures["train"], "iterations": figures["iterations"],
            "s per start": figures["seconds"],
        })  # fmt: skip
    published = json.loads(shared_data("references.json").read_text(encoding="utf-8"))
    for entry in references(published):
        known = "" if entry["verified"] else ", from memory"
        rows.append({"JSB chorales": f"{entry['model']}{known}", "test nats/frame": float(entry["value"])})
    report("Negative log likelihood of a frame, 88 keys", rows)
    print(f"{figures['never']} keys are never played in training; {figures['unheard']} of the test notes are on them.")


def references(tree: Any) -> list[dict[str, Any]]:
    """The entries on the chorales' test frames, wherever they are in the file."""
    if isinstance(tree, dict):
        if tree.get("dataset") == "jsb_chorales" and str(tree.get("metric", "")).startswith("test NLL"):
            return [tree]
        tree = list(tree.values())
    return [entry for part in tree for entry in references(part)] if isinstance(tree, list) else []


if __name__ == "__main__":
    em("long")
    em("ragged")
    nuts()
    memory()
    chorales()
