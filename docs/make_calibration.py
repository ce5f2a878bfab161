"""Which posteriors are found: simulation-based calibration of every family and engine that claims one, and coverage.

``make calibration`` runs all cases in both backends, keeps each case that is done under ``runs/calibration``, so that
an interrupted run resumes there, and writes the table and the picture of calibration.md. ``make calibration
ARGS="--replications 200 --jobs 2"`` does more, ``ARGS="--only pyro-hmm"`` some, ``ARGS="--coverage"`` the other table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ppl_gen as pg
from ppl_gen.calibration import Calibration, simulation_based_calibration
from ppl_gen.errors import PPLGenError
from ppl_gen.family import BACKENDS
from ppl_gen.progress import Monitor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from tables import put, table  # noqa: E402

PAGE = HERE / "calibration.md"
STATE = HERE.parent / "runs" / "calibration"
MEANING = {
    "too narrow": "Intervals hold the truth less often than they say.",
    "too wide": "Intervals hold the truth more often than they say.",
    "biased high": "Densities are overstated.",
    "biased low": "Densities are understated.",
}
UNADJUSTED = "Its steps are not accepted or rejected by a Metropolis test, and chains of this length move slowly."
WHY = {  # of what is not calibrated
    "svi, mean field": "Independent normals leave out how parameters go together, and skew.",
    "svi, multivariate": "A normal in unconstrained space has no skew and a single mode.",
    "sgld": UNADJUSTED,
    "sghmc": UNADJUSTED,
    "nuts": "Chains of this length do not visit all of the posterior.",
    "hmc": "Chains of this length do not visit all of the posterior.",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One family and engine in one backend, with tables of so many rows (sequences) and columns."""

    family: pg.Family
    label: str  # of the engine
    engine: pg.Engine
    backend: str
    num_obs: int
    num_columns: int
    share: float = 1.0  # of the replications that are asked for

    @property
    def name(self) -> str:
        return f"{self.backend}-{self.family.name}-{self.label.replace(', ', '-').replace(' ', '-')}"


def engines(backend: str, networks: bool) -> dict[str, tuple[pg.Engine, float]]:
    """{label: (engine, share of the replications)}: short runs, the shortest in Pyro, where a step takes longest."""
    short = {"num_warmup": 100, "num_samples": 60, "num_chains": 1} if backend == "pyro" else {}
    chains = {"num_warmup": 200, "num_samples": 100, "num_chains": 2, "num_starts": 2, **short}
    guide = {"window": 100, "max_steps": 1500, "num_samples": 200, "num_starts": 2}
    walk = {"num_samples": 50, "num_warmup": 400, "num_chains": 2, "thinning": 20, "num_starts": 2}
    share, of_chains = (0.25, 0.1) if backend == "pyro" else (1.0, 1.0)
    if networks:
        walk |= {"num_warmup": 1000, "num_pilot": 500, "thinning": 40}
        guide |= {"window": 500, "max_steps": 10_000}  # its standard deviations begin at 0.01, and grow slowly
    walk |= {"num_chains": 1} if backend == "pyro" else {}
    full = {**guide, "guide": "multivariate"}
    found: dict[str, tuple[pg.Engine, float]] = {
        "nuts": (pg.NUTS(**chains), of_chains), "hmc": (pg.HMC(**chains), of_chains),
        "svi, mean field": (pg.SVI(**guide), share), "svi, multivariate": (pg.SVI(**full), share),
        "sgld": (pg.SGLD(**walk), share), "sghmc": (pg.SGHMC(**walk), share),
    }  # fmt: skip
    return found


def cases() -> Iterator[Case]:
    """Every family and engine that claims a posterior, in both backends; the quick ones first."""
    bayesian = {"bayesian": True, "prior_scale": 0.5}
    families = [
        (pg.GMM(2, prior=pg.GMMPrior(concentration=5.0, loc_scale=3.0)), 40, 1),
        (pg.HMM(2), 4, 1),
        (pg.Autoregressive(hidden=(4,), num_mixture_components=1, real="gaussian", **bayesian), 50, 2),
        (pg.Flow("realnvp", num_layers=2, hidden=(4,), **bayesian), 50, 2),
        (pg.VAE(latent_dim=1, hidden=(4,), **bayesian), 50, 2),
    ]
    for backend in BACKENDS:
        for family, num_obs, num_columns in families:
            for label, (engine, share) in engines(backend, hasattr(family, "bayesian")).items():
                if engine.name in family.engines and not (family.name == "vae" and engine.name == "svi"):
                    yield Case(family, label, engine, backend, num_obs, num_columns, share)


def settings_of(case: Case, replications: int, seed: int) -> str:
    """What a kept result must have in common with what is asked."""
    return f"{case.family!r} {case.engine!r} {case.backend} {case.num_obs} {case.num_columns} {replications} {seed}"


def measure(case: Case, replications: int, seed: int, jobs: int) -> dict[str, Any]:
    """The ranks of a case, from its file where it is done."""
    number = max(2, round(replications * case.share))
    path, settings = STATE / f"{case.name}.json", settings_of(case, number, seed)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == settings:
            return kept
    start = time.perf_counter()
    found: dict[str, Any] = {"settings": settings, "date": time.strftime("%Y-%m-%d"), "failure": ""}
    try:
        with warnings.catch_warnings(), Monitor(show=sys.stderr.isatty(), label=case.name) as monitor:
            warnings.simplefilter("ignore")
            count = iter(range(1, number + 1))
            result = simulation_based_calibration(
                case.family, case.engine, num_columns=case.num_columns, num_obs=case.num_obs, backend=case.backend,
                num_replications=number, seed=seed, n_jobs=jobs, done=lambda: monitor.update(next(count), number),
            )  # fmt: skip
        arrays = {"ranks": result.ranks, "covered": result.covered, "num_draws": result.num_draws}
        found |= {name: np.asarray(value).tolist() for name, value in arrays.items()}
        found |= {"names": result.names, "num_failed": result.num_failed}
    except PPLGenError as error:
        found["failure"] = str(error)
    found["seconds"] = round(time.perf_counter() - start, 1)
    STATE.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def calibration_of(kept: dict[str, Any]) -> Calibration | None:
    """The result in a kept file; None where all fits failed."""
    if kept["failure"]:
        return None
    arrays = {name: np.asarray(kept[name]) for name in ("ranks", "covered", "num_draws")}
    return Calibration(**arrays, names=tuple(kept["names"]), num_failed=kept["num_failed"])


def row_of(case: Case, kept: dict[str, Any] | None) -> tuple[str, ...]:
    """A line of the table."""
    first = (case.family.name, case.label, case.backend)
    result = None if kept is None else calibration_of(kept)
    if result is None:
        return (*first, "", "", "", "", "", "not run" if kept is None else "fits failed")
    shares = [f"{100 * result.coverage(p):.0f} ± {100 * result.coverage_error(p):.0f} %" for p in result.probs]
    p = result.p_value
    shown = "1" if p == 1 else f"{p:.2g}" if p >= 1e-4 else "< 0.0001"
    return (*first, str(len(result.ranks)), f"{np.median(result.num_draws):.0f}", shown, *shares, result.verdict)


def faults(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A sentence or two on each case with a fault; the two backends together where they have the same."""
    said: dict[str, list[str]] = {}
    for case in cases():
        if case.name not in found:
            continue
        result, who = calibration_of(found[case.name]), f"{case.family.name}, {case.label}"
        if result is None:
            text = f"**{who}**: {found[case.name]['failure']}"
        elif result.verdict == "calibrated" and not result.num_failed:
            continue
        else:
            parts = [] if result.verdict == "calibrated" else [MEANING[part] for part in result.verdict.split(", ")]
            parts += [WHY[case.label]] if parts else []
            if result.num_failed:
                parts.append(
                    f"{result.num_failed} of {result.num_failed + len(result.ranks)} fits failed, and said so."
                )
            text = f"**{who}**: {' '.join(parts)}"
        said.setdefault(text, []).append(case.backend)
    return (f"- {text} ({', '.join(which)})" for text, which in said.items())


def write(found: dict[str, dict[str, Any]], seed: int) -> None:
    """The table and the picture of the cases that are done."""
    header = ("family", "engine", "backend", "tables", "draws", "p", "in 50 % interval", "in 90 % interval", "verdict")
    dates = sorted({kept["date"] for kept in found.values()})
    hours = sum(kept["seconds"] for kept in found.values()) / 3600
    intro = (
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} with ppl_gen {pg.__version__}, Python "
        f"{platform.python_version()}, seed {seed}, in {hours:.1f} hours on two cores with other work beside. "
        "`draws` is the median number that thinning left."
    )
    missing = len(list(cases())) - len(found)
    intro += f" {missing} cases are not run yet." if missing else ""
    rows = [row_of(case, found.get(case.name)) for case in cases()]
    listed = "\n".join(faults(found))
    put(PAGE, "calibration", f"{intro}\n\n{table(header, rows)}\n\n{listed}")
    draw(found)


def draw(found: dict[str, dict[str, Any]]) -> None:
    """A panel for each case."""
    from make_pictures import write as save
    from matplotlib.figure import Figure

    from ppl_gen.plots_calibration import plot_ranks
    from ppl_gen.plots_style import panels

    done = [(case, result) for case in cases() if case.name in found
            and (result := calibration_of(found[case.name])) is not None]  # fmt: skip
    columns = 6
    figure = Figure(figsize=(2.1 * columns, 1.9 * -(-len(done) // columns)), layout="constrained")
    for (case, result), ax in zip(done, panels(figure, len(done), columns), strict=True):
        plot_ranks(result, ax=ax)
        ax.set_title(f"{case.family.name}, {case.label}\n{case.backend}: {result.verdict}", fontsize=7)
        ax.set_xlabel("")
        ax.set_ylabel("")
    save(figure, HERE / "images" / "calibration.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, help="tables a case, fewer in Pyro; 100, of coverage 10")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose names begin so; the others are as they were left")
    parser.add_argument("--coverage", action="store_true", help="intervals of log p(x) against known truths instead")
    options = parser.parse_args()
    if options.coverage:
        import coverage_cases

        coverage_cases.main(STATE, PAGE, options.only, options.jobs, options.replications or 10, options.seed)
        return
    for case in cases():
        if case.name.startswith(options.only):
            kept = measure(case, options.replications or 100, options.seed, options.jobs)
            print(*row_of(case, kept), f"{kept['seconds']} s", sep="  ", flush=True)
    paths = {case.name: STATE / f"{case.name}.json" for case in cases()}
    write({n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.exists()}, options.seed)


if __name__ == "__main__":
    main()
