"""EM against scikit-learn: same rows, same start, same tolerance; time, held-out log likelihood, memory."""

from __future__ import annotations

from common import in_process, report


def main() -> None:
    rows = []
    for who in ("ppl_gen", "sklearn"):
        figures = in_process("em_peer.py", who)
        rows.append({
            "EM, 100k x 10, 10 full": who, "warm s": figures["warm"], "cold s": figures["cold"],
            "iterations": figures["iterations"], "held-out nats/row": figures["held_out"],
            "MB above imports": figures["megabytes"], "peak MB": figures["peak"],
        })  # fmt: skip
    ratio = {name: rows[0][name] / rows[1][name] for name in ("warm s", "cold s", "MB above imports", "peak MB")}
    rows.append({"EM, 100k x 10, 10 full": "ratio", **ratio,
                 "held-out nats/row": rows[0]["held-out nats/row"] - rows[1]["held-out nats/row"]})  # fmt: skip
    report("Expectation maximization against scikit-learn", rows)


if __name__ == "__main__":
    main()
