"""NUTS against PyMC with nutpie, and the Pyro twin: bulk ESS of log p(x) per second, warm; and cold time.

Cold is from the start of the process to the diagnosed fit, on a machine that has compiled nothing yet; PyMC's next
start finds what PyTensor compiled the first time.
"""

from __future__ import annotations

import tempfile

from common import in_process, report

WHO = {"ppl_gen": "ppl_gen (NumPyro, blackjax)", "pymc": "PyMC, nutpie", "pyro": "ppl_gen (Pyro)",
       "pyro_alone": "Pyro's own NUTS with jit, our pair"}  # fmt: skip
PROBLEMS = {"iris": "iris, 3 full components", "four": "2000 x 2, 4 full components"}


def main() -> None:
    for name, title in PROBLEMS.items():
        rows = []
        for who in ("ppl_gen", "pymc", "pyro", "pyro_alone") if name == "iris" else ("ppl_gen", "pymc"):
            with tempfile.TemporaryDirectory() as folder:
                environment = {"PYTENSOR_FLAGS": f"base_compiledir={folder}", "NUMBA_CACHE_DIR": folder}
                first = in_process("nuts_peer.py", who, name, environment=environment)
                restart = who == "pymc" and name == "iris"
                again = in_process("nuts_peer.py", who, name, environment=environment) if restart else first
            rows.append({
                "NUTS, 4 x (500 + 500)": WHO[who], "min bulk ESS": first["min_ess"], "warm s": first["seconds"],
                "ESS/s": first["min_ess"] / first["seconds"], "cold s": first["cold_seconds"],
                "next start s": again["cold_seconds"],
            })  # fmt: skip
        for row in rows:
            row["ESS/s against PyMC"] = row["ESS/s"] / rows[1]["ESS/s"]
            row["cold against PyMC"] = row["cold s"] / rows[1]["cold s"]
        report(title, rows)


if __name__ == "__main__":
    main()
