"""EM on 100k x 10, 10 full components, in a fresh process: ``python em_peer.py (ppl_gen|sklearn)``. Prints JSON."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
from common import gaussian_clusters, peak_megabytes, seconds

ROWS, COLUMNS, COMPONENTS, TOLERANCE, MAX_ITER = 100_000, 10, 10, 1e-3, 100


def start(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same start for both: rows picked at random as means, unit covariances, equal weights."""
    chosen = np.random.default_rng(1).choice(len(x), COMPONENTS, replace=False)
    return {"weights": np.full(COMPONENTS, 1 / COMPONENTS), "locs": x[chosen]}


def run_sklearn(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    from sklearn.mixture import GaussianMixture

    base, values = peak_megabytes(), start(train)

    def once() -> GaussianMixture:
        model = GaussianMixture(
            COMPONENTS, tol=TOLERANCE, max_iter=MAX_ITER, reg_covar=1e-6, weights_init=values["weights"],
            means_init=values["locs"], precisions_init=np.stack([np.eye(COLUMNS)] * COMPONENTS),
        )  # fmt: skip
        return model.fit(train)

    warnings.simplefilter("ignore")
    cold, model = seconds(once)
    warm = [seconds(once)[0] for _ in range(3)]
    peak = peak_megabytes()
    return {"cold": cold, "warm": float(np.median(warm)), "held_out": float(model.score(test)),
            "iterations": int(model.n_iter_), "megabytes": peak - base, "peak": peak}  # fmt: skip


def run_ppl_gen(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    import jax.numpy as jnp

    import ppl_gen as pg
    from ppl_gen.backends import numpyro_ops
    from ppl_gen.inference.em.numpyro_engine import Solver
    from ppl_gen.progress import Monitor

    base, values = peak_megabytes(), start(train)
    values |= {"scales": np.ones((COMPONENTS, COLUMNS)), "corr_cholesky": np.stack([np.eye(COLUMNS)] * COMPONENTS)}
    family, ones = pg.GMM(COMPONENTS), np.ones((1, len(train)))

    def once():
        data = family.prepare(train, standardize=False)
        pair = family.build("numpyro", data.schema, len(data), data.view("numpyro"))
        solve = Solver(pair, pair.data, "ml", TOLERANCE, MAX_ITER)
        return pair, solve({name: jnp.asarray(value)[None] for name, value in values.items()}, ones, Monitor())

    cold, (pair, found) = seconds(once)
    warm = [seconds(once)[0] for _ in range(3)]
    peak = peak_megabytes()
    view = family.prepare(test, standardize=False).view("numpyro")
    held_out = numpyro_ops.log_prob(pair, found.parameters, view).mean(dtype=np.float64)
    return {"cold": cold, "warm": float(np.median(warm)), "held_out": float(held_out),
            "iterations": int(found.iterations[0]), "megabytes": peak - base, "peak": peak}  # fmt: skip


if __name__ == "__main__":
    x = gaussian_clusters(ROWS + 20_000, COLUMNS, COMPONENTS)
    print(json.dumps({"ppl_gen": run_ppl_gen, "sklearn": run_sklearn}[sys.argv[1]](x[:ROWS], x[ROWS:])))
