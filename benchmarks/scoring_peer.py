"""Score 1,000,000 rows under 200 posterior draws: ``python scoring_peer.py (ppl_gen|sklearn)``. Prints JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
from common import gaussian_clusters, peak_megabytes, seconds

ROWS, COLUMNS, COMPONENTS, DRAWS = 1_000_000, 4, 3, 200


def run_ppl_gen(x: np.ndarray) -> dict[str, float]:
    import ppl_gen as pg

    train = x[:2000]
    fit = pg.fit(pg.GMM(COMPONENTS), train, engine=pg.NUTS(num_samples=DRAWS // 4, num_warmup=200), seed=0)
    fit.score(train[:100])
    _ = fit.held_out
    base = peak_megabytes()
    elapsed, score = seconds(lambda: fit.score(x))
    return {"seconds": elapsed, "megabytes": peak_megabytes() - base, "mean": score.total / len(x)}


def run_sklearn(x: np.ndarray) -> dict[str, float]:
    from scipy.special import logsumexp
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(COMPONENTS, random_state=0).fit(x[:2000])
    base = peak_megabytes()

    def loop() -> np.ndarray:
        # A draw's parameters would be set here; the cost of scoring does not depend on their values.
        values = np.stack([model.score_samples(x).astype(np.float32) for _ in range(DRAWS)])
        return logsumexp(values, axis=0) - np.log(DRAWS)

    elapsed, value = seconds(loop)
    return {"seconds": elapsed, "megabytes": peak_megabytes() - base, "mean": float(value.mean())}


if __name__ == "__main__":
    table = gaussian_clusters(ROWS, COLUMNS, COMPONENTS)
    print(json.dumps({"ppl_gen": run_ppl_gen, "sklearn": run_sklearn}[sys.argv[1]](table)))
