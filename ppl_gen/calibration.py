"""Simulation-based calibration: does an engine find the posterior of this family, and do its intervals cover?

Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788: draw theta from the prior and x from the model,
fit, and rank the truth among the draws. If the engine is exact, ranks are uniform and 90 % intervals cover the truth
90 % of the time. The quantities ranked are log p(x*) at probe points and the log likelihood of the data: both are
free of labels, so no label switching can touch them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import backends
from ppl_gen.data import Data

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.engine import Engine
    from ppl_gen.family import Family


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks and coverage over replications.

    ``ranks``    (replication, quantity): the share of draws below the truth, in [0, 1]; uniform if calibrated
    ``covered``  (replication, quantity): whether the central 90 % interval held the truth
    ``names``    of the quantities
    """

    ranks: np.ndarray
    covered: np.ndarray
    names: tuple[str, ...]
    prob: float = 0.9

    def to_frame(self) -> pd.DataFrame:
        """Per quantity: Kolmogorov-Smirnov p-value of the ranks against uniform, coverage, and its standard error
        under exact calibration, sqrt(p (1 - p) / replications)."""
        import pandas as pd
        from scipy.stats import kstest

        number = len(self.ranks)
        return pd.DataFrame({
            "quantity": self.names,
            "uniformity_p_value": [kstest(column, "uniform").pvalue for column in self.ranks.T],
            "coverage": self.covered.mean(0),
            "standard_error": np.sqrt(self.prob * (1 - self.prob) / number),
        })  # fmt: skip


def simulation_based_calibration(
    family: Family,
    engine: Engine,
    *,
    num_columns: int = 1,
    num_obs: int = 50,
    num_replications: int = 50,
    backend: str = "numpyro",
    seed: int = 0,
    prob: float = 0.9,
    num_probes: int = 4,
) -> Calibration:
    """Fit ``num_replications`` tables drawn from the family's own prior, in raw units.

    :param prob: probability of the intervals whose coverage is counted.
    :param num_probes: probe points, drawn once from the prior predictive distribution.
    """
    from ppl_gen.fit import fit

    rng = np.random.default_rng(seed)
    template = family.prepare(rng.normal(size=(num_obs, num_columns)), standardize=False)
    pair = family.build(backend, template.schema, num_obs)
    ops = backends.ops(backend)
    truths = ops.sample_prior(pair, num_replications + num_probes, seed)
    tables = [
        ops.sample_rows(pair, truths, np.full(num_obs, i), (seed + i + 1) % 2**31)
        for i in range(num_replications + num_probes)
    ]
    probes = np.stack([table[0] for table in tables[num_replications:]])
    ranks, covered = [], []
    for i, table in enumerate(tables[:num_replications]):
        data = Data(template.schema, np.ascontiguousarray(table, dtype=template.x.dtype))
        points = Data(template.schema, np.concatenate([probes, table]).astype(template.x.dtype))
        draws = fit(family, data, engine=engine, backend=backend, seed=seed + i).posterior
        view = points.view(backend)
        found = _quantities(ops.log_prob(pair, draws, view), num_probes)
        truth = _quantities(ops.log_prob(pair, {k: v[i : i + 1] for k, v in truths.items()}, view), num_probes)[0]
        # A uniform jitter within the truth's cell makes the rank of an exact posterior exactly uniform.
        ranks.append(((found < truth).sum(0) + rng.random(len(truth))) / (len(found) + 1))
        low, high = np.quantile(found, [(1 - prob) / 2, (1 + prob) / 2], axis=0)
        covered.append((low <= truth) & (truth <= high))
    names = (*(f"log p(probe {i})" for i in range(num_probes)), "log likelihood")
    return Calibration(np.stack(ranks), np.stack(covered), names, prob)


def _quantities(log_prob: np.ndarray, num_probes: int) -> np.ndarray:
    """(draw, probes + 1): log p at the probes, and the log likelihood of the table behind them."""
    return np.column_stack([log_prob[:, :num_probes], log_prob[:, num_probes:].sum(1, dtype=np.float64)])
