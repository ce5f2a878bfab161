"""What a comparison of a whole table finds, beside the truth and beside scikit-learn.

python benchmarks/compare.py truths [--seeds 10] [--budget 5m] [--only gmm,flow]
python benchmarks/compare.py tables [--budget 5m] [--only iris,wine]
python benchmarks/compare.py time
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import report
from compare_truths import TRUTHS

import ppl_gen as pg
from ppl_gen.cli import compiled

DATA = Path(os.environ.get("PPL_GEN_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def truths(arguments: argparse.Namespace) -> None:
    """Whether the family that a table was drawn from comes first, or within one standard error of the first."""
    lines = []
    for name in arguments.only or TRUTHS:
        draw, options = TRUTHS[name]
        good = 0
        for seed in range(arguments.seeds):
            found = pg.compare(None, draw(seed), seed=seed, budget=arguments.budget, n_jobs=arguments.jobs, **options)
            mine = [i for i, model in enumerate(found.models) if model["family"] == name]
            row = found.frame.iloc[mine[0]] if mine else None
            well = row is not None and (mine[0] == 0 or -row["difference"] <= row["difference_se"])
            good += well
            told = {"truth": name, "seed": seed, "well": bool(well), "best": found.best}
            told |= {"seconds": round(found.facts["seconds"], 1), "ranking": short(found)}
            print(json.dumps(told), flush=True)
        lines.append({"truth": name, "seeds": arguments.seeds, "first or within 1 se": good})
    report("Tables drawn from a known family", lines)


def short(found: Any) -> list[str]:
    """Each model's difference to the best, nats per row."""
    number = len(found.pointwise)
    return [f"{name} {row['difference'] / number:.3f} ± {row['difference_se'] / number:.3f}"
            for name, row in found.frame.iterrows()] + [f"{each.model}: {each.why[:40]}" for each in found.left_out
                                                        if each.model not in ("gan", "hmm")]  # fmt: skip


def read(name: str) -> pd.DataFrame:
    """A real table, the columns that are modelled."""
    from sklearn import datasets

    if name in ("iris", "wine", "breast_cancer"):
        return getattr(datasets, f"load_{name}")(as_frame=True).data
    if name == "red_wine":
        return pd.read_csv(DATA / "tabular" / "red_wine.csv").drop(columns="quality").astype(float)
    parts = np.load(DATA / "tabular" / "magic_gamma.npz")
    return pd.DataFrame(np.concatenate([parts[key] for key in parts.files])).rename(columns="x{}".format)


def peers(table: pd.DataFrame, split: Any, seed: int) -> dict[str, float]:
    """Held-out nats per row, on the same rows, of scikit-learn's best mixture by BIC and of a kernel density estimate
    whose bandwidth is chosen by cross-validation; both on standardized columns, in the units of the table."""
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity

    x, scores = table.to_numpy(float), {"mixture by BIC": [], "kernel density": []}
    for training, rows in split.parts:
        loc, scale = x[training].mean(0), x[training].std(0)
        train, test, jacobian = (x[training] - loc) / scale, (x[rows] - loc) / scale, -np.log(scale).sum()
        mixtures = [
            GaussianMixture(k, covariance_type=kind, n_init=2, random_state=seed).fit(train)
            for kind in ("full", "tied", "diag", "spherical") for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
        ]  # fmt: skip
        best = min(mixtures, key=lambda each: each.bic(train))
        some = train[np.random.default_rng(seed).permutation(len(train))[:3000]]
        grid = {"bandwidth": np.geomspace(0.05, 1.5, 20)}
        width = GridSearchCV(KernelDensity(), grid, cv=5).fit(some).best_params_["bandwidth"]
        width *= (len(some) / len(train)) ** (1 / (x.shape[1] + 4))
        scores["mixture by BIC"].append(best.score_samples(test) + jacobian)
        scores["kernel density"].append(KernelDensity(bandwidth=width).fit(train).score_samples(test) + jacobian)
    return {name: float(np.concatenate(values).mean()) for name, values in scores.items()}


def tables(arguments: argparse.Namespace) -> None:
    """The ranking of real tables, and whether its first is no worse than scikit-learn's two."""
    from ppl_gen import candidates
    from ppl_gen.held_out_splits import Split

    lines = []
    for name in arguments.only or ("iris", "wine", "breast_cancer", "red_wine", "magic_gamma"):
        table = read(name)
        found = pg.compare(None, table, seed=0, budget=arguments.budget, n_jobs=arguments.jobs)
        print(found, flush=True)
        beside = peers(table, Split.of(candidates.read(table, {})[0], None, None, 0), 0)
        ours = float(found.pointwise[found.best].mean())
        lines.append({"table": name, "rows": len(table), "best": found.best, "ours": ours, **beside,
                      "no worse": ours >= max(beside.values()), "seconds": found.facts["seconds"]})  # fmt: skip
        report("Held-out nats per row", lines)


def timing(arguments: argparse.Namespace) -> None:
    """Wall-clock time of the whole, with the default budget."""
    start = time.perf_counter()
    found = pg.compare(None, read("magic_gamma").iloc[:5000], n_jobs=2)
    report("5,000 rows x 10 columns, two processes", [{"seconds": time.perf_counter() - start, "best": found.best,
                                                       "models": len(found.frame)}])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=("truths", "tables", "time"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--only", type=lambda text: text.split(","), default=None)
    arguments = parser.parse_args()
    compiled.keep()
    {"truths": truths, "tables": tables, "time": timing}[arguments.section](arguments)


if __name__ == "__main__":
    main()
