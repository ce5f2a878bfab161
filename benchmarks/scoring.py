"""Scoring a million rows under 200 posterior draws, against a NumPy loop over scikit-learn's score_samples."""

from __future__ import annotations

from common import in_process, report


def main() -> None:
    rows = []
    for who in ("ppl_gen", "sklearn"):
        figures = in_process("scoring_peer.py", who)
        rows.append({"1M rows x 200 draws": who, "s": figures["seconds"], "MB above baseline": figures["megabytes"]})
    rows.append({"1M rows x 200 draws": "ratio", "s": rows[0]["s"] / rows[1]["s"],
                 "MB above baseline": rows[0]["MB above baseline"] / rows[1]["MB above baseline"]})  # fmt: skip
    report("Scoring with intervals (ppl_gen's time includes the interval of every row)", rows)


if __name__ == "__main__":
    main()
