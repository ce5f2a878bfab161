"""Simulation-based calibration with 200 replications: NUTS (required) and SVI (reported)."""

from __future__ import annotations

from common import report, seconds

import ppl_gen as pg
from ppl_gen.calibration import simulation_based_calibration

ENGINES = {
    "NUTS": pg.NUTS(num_samples=250, num_warmup=300, num_chains=2, num_starts=4),
    "SVI mean_field": pg.SVI(num_samples=500, window=250, max_steps=4000, num_starts=4),
    "SVI multivariate": pg.SVI(guide="multivariate", num_samples=500, window=250, max_steps=4000, num_starts=4),
}


def main() -> None:
    family = pg.GMM(2, prior=pg.GMMPrior(concentration=5.0, loc_scale=3.0))
    for name, engine in ENGINES.items():
        elapsed, result = seconds(
            lambda engine=engine: simulation_based_calibration(family, engine, num_replications=200)
        )
        title = f"{name}: 200 replications of two components in one dimension, 50 rows, in {elapsed:.0f} s"
        report(title, result.to_frame().to_dict("records"))


if __name__ == "__main__":
    main()
