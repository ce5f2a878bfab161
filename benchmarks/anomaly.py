"""Anomalies told by low density: ranking of rows on three sets of ADBench, beside detectors made for it.

``python anomaly.py`` needs the sets in ``$PPL_GEN_DATA/anomaly``. As in ADBench (Han et al. 2022, arXiv:2206.09426)
each split is 70 to 30, stratified by the label, which is used for nothing else: models are fitted to the training rows
with the anomalies among them. Rows are ranked by -log p(x). ``--sets``, ``--models`` and ``--seeds`` choose less.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import report

SETS = ("cardio", "thyroid", "mammography")
Rows = np.ndarray
# Of ADBench's own table, AUROC in per cent: references.json of the shared data.
PUBLISHED = ("IForest", "ECOD", "PCA", "KNN", "LOF", "DAGMM")


def ecod(train: Rows, test: Rows) -> Rows:
    """Empirical cumulative distribution outliers (Li, Zhao, Hu, Botta, Ionescu & Chen 2022, IEEE Trans. Knowl. Data
    Eng.): minus the log of the share of training rows that lie as far out in a column, to the left or to the right,
    whichever is fewer, summed over the columns. A row counts among those that it is ranked with: no share is 0."""
    number = len(train)
    ordered = np.sort(train, axis=0)
    columns = range(train.shape[1])
    below = np.stack([np.searchsorted(ordered[:, j], test[:, j], side="right") for j in columns], axis=1)
    above = number - np.stack([np.searchsorted(ordered[:, j], test[:, j], side="left") for j in columns], axis=1)
    return np.asarray(-np.log((np.minimum(below, above) + 1) / (number + 1)).sum(axis=1))


def isolation_forest(train: Rows, test: Rows, seed: int) -> Rows:
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def sklearn_mixture(num_components: int) -> Callable[[Rows, Rows, int], Rows]:
    from sklearn.mixture import GaussianMixture

    return lambda train, test, seed: (
        -GaussianMixture(num_components, random_state=seed, reg_covar=1e-4).fit(train).score_samples(test)
    )


def ours(name: str, options: dict[str, Any], engine: dict[str, Any]) -> Callable[[Rows, Rows, int], Rows]:
    """-log p(x) of the test rows under a family of ours."""

    def rank(train: Rows, test: Rows, seed: int) -> Rows:
        import ppl_gen as pg
        from ppl_gen import registry

        family = registry.family(name)(**options)
        settings = pg.EM(**engine) if name == "gmm" else pg.SVI(**engine)
        fit = pg.fit(family, train, engine=settings, seed=seed)
        return -fit.score(test, p_values=False, keep_draws=False).log_predictive

    return rank


EM = {"num_bootstraps": 0}
NETWORKS = {"num_members": 2, "max_steps": 1500, "learning_rate": 3e-3}
MODELS: dict[str, Callable[[Rows, Rows, int], Rows]] = {
    "gmm 1 full": ours("gmm", {"num_components": 1}, EM),
    "gmm 4 full": ours("gmm", {"num_components": 4}, EM),
    "gmm 4 diag": ours("gmm", {"num_components": 4, "covariance": "diag"}, EM),
    "vae": ours("vae", {}, NETWORKS),
    "vae linear 2 codes": ours("vae", {"latent_dim": 2, "hidden": (), "scale": "shared"}, NETWORKS),
    "flow": ours("flow", {}, NETWORKS),
    "autoregressive": ours("autoregressive", {}, NETWORKS),
    "dae": ours("dae", {}, NETWORKS),
    "isolation forest": isolation_forest,
    "ECOD": lambda train, test, seed: ecod(train, test),
    "scikit-learn mixture 1": sklearn_mixture(1),
    "scikit-learn mixture 4": sklearn_mixture(4),
}


def splits(path: Path, num_seeds: int) -> Any:
    """(seed, train, test, labels of the test rows); columns are standardized by the training rows."""
    from sklearn.model_selection import train_test_split

    with np.load(path) as whole:
        x, y = whole["X"], whole["y"]
    for seed in range(num_seeds):
        train, test, _, label = train_test_split(x, y, test_size=0.3, stratify=y, random_state=seed)
        centre, scale = train.mean(0), train.std(0)
        keep = scale > 0
        yield seed, *((part[:, keep] - centre[keep]) / scale[keep] for part in (train, test)), label


def measure(name: str, models: list[str], num_seeds: int, root: Path) -> list[dict[str, Any]]:
    """One line a model: mean and standard deviation over the splits."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    found: dict[str, list[tuple[float, float, float]]] = {model: [] for model in models}
    for seed, train, test, label in splits(root / "anomaly" / f"{name}.npz", num_seeds):
        for model in models:
            start = time.perf_counter()
            values = np.clip(MODELS[model](train, test, seed), -1e30, 1e30)
            took = time.perf_counter() - start
            found[model].append((roc_auc_score(label, values), average_precision_score(label, values), took))
    lines = []
    for model, each in found.items():
        auroc, auprc, took = (np.array(part) for part in zip(*each, strict=True))
        lines.append({
            name: model, "AUROC": f"{auroc.mean():.3f} ({auroc.std():.3f})",
            "AUPRC": f"{auprc.mean():.3f} ({auprc.std():.3f})", "s": float(np.median(took)),
        })  # fmt: skip
    return lines + published(name, root)


def published(name: str, root: Path) -> list[dict[str, Any]]:
    """ADBench's own figures of this set."""
    entries = json.loads((root / "references.json").read_text(encoding="utf-8"))["entries"]
    for entry in entries:
        if entry["dataset"] == f"anomaly/{name}" and entry["model"].startswith("ADBench"):
            values = {model: entry["value"].get(model) for model in PUBLISHED}
            return [{name: f"published: {model}", "AUROC": f"{v:.3f}"} for model, v in values.items() if v]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--models", default=",".join(MODELS), help="with commas")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    root = Path(os.environ.get("PPL_GEN_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not (root / "anomaly").is_dir():
        print(f"anomaly: no sets in {root / 'anomaly'} (set PPL_GEN_DATA to the folder that holds anomaly/): left out.")
        return
    for name in given.sets.split(","):
        title = f"{name}: mean of {given.seeds} splits (sd)"
        report(title, measure(name, given.models.split(","), given.seeds, root))


if __name__ == "__main__":
    main()
