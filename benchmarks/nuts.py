"""NUTS against PyMC with nutpie, and the Pyro twin: bulk ESS of log p(x) per second, warm; and cold time."""

from __future__ import annotations

from common import in_process, report


def main() -> None:
    for name in ("iris", "four"):
        rows = []
        for who in ("ppl_gen", "pymc", "pyro") if name == "iris" else ("ppl_gen", "pymc"):
            figures = in_process("nuts_peer.py", who, name)
            rows.append({
                "NUTS, 4 x (500 + 500)": {"ppl_gen": "ppl_gen (NumPyro, blackjax)", "pymc": "PyMC, nutpie",
                                          "pyro": "ppl_gen (Pyro)"}[who],
                "min bulk ESS": figures["min_ess"], "warm s": figures["seconds"],
                "ESS/s": figures["min_ess"] / figures["seconds"], "cold s": figures["cold_seconds"],
            })  # fmt: skip
        for row in rows:
            row["ESS/s against PyMC"] = row["ESS/s"] / rows[1]["ESS/s"]
            row["cold against PyMC"] = row["cold s"] / rows[1]["cold s"]
        report({"iris": "iris, 3 full components", "four": "2000 x 2, 4 full components"}[name], rows)


if __name__ == "__main__":
    main()
