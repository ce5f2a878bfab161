r"""Simulation-based calibration: does an engine find the posterior of this family, and do its intervals cover?

Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788: draw :math:`\theta` from the prior and a table
from the model, fit, and rank the truth among the draws,

.. math:: r = \frac{\#\{s : f(\theta_s) < f(\theta)\} + U}{S + 1}, \qquad U \sim \mathrm{Uniform}(0, 1).

If the engine is exact, r is uniform and 90 % intervals hold the truth 90 % of the time. The quantities f are log p(x*)
at probe points and the log likelihood of the table (Modrák et al. 2023, arXiv:2211.02383, say why such a quantity of
the data finds what others miss). All are free of labels, so no label switching can touch them, and they mean the same
for networks, whose weights do not mean anything one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import backends, parallel
from ppl_gen.data import Data
from ppl_gen.errors import FitError

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.engine import Engine
    from ppl_gen.family import Family
    from ppl_gen.schema import Schema

PROBS = (0.5, 0.9)  # of the intervals whose coverage is counted
P_VALUE = 0.005  # below it a case is not called calibrated
MIN_DRAWS = 4  # kept by thinning, however much the draws resemble each other
LIMIT = 3.5  # standard errors, which a standard normal variable passes once in 2,000
WORDS = {"location": ("biased high", "biased low"), "spread": ("too wide", "too narrow")}


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks and coverage over R replications of Q quantities.

    ``ranks``       (R, Q) the share of draws below the truth, in [0, 1]; uniform if calibrated
    ``covered``     (R, Q, P) whether the central interval of each of ``probs`` held the truth
    ``names``       (Q,) of the quantities
    ``num_draws``   (R,) how many draws were left by thinning, about as good as independent
    ``num_failed``  replications whose fit failed, and which the others leave out
    """

    ranks: np.ndarray
    covered: np.ndarray
    names: tuple[str, ...]
    num_draws: np.ndarray
    probs: tuple[float, ...] = PROBS
    num_failed: int = 0

    def to_frame(self) -> pd.DataFrame:
        """A row per quantity.

        ``uniformity_p_value``  Kolmogorov-Smirnov, of the ranks against the uniform distribution
        ``location``            (mean rank - 1/2) in standard errors: above 0 the truth lies above the draws
        ``spread``              (mean squared distance from 1/2 - 1/12) in standard errors: above 0 the draws are too
                                narrow
        ``coverage_50``, ...    share of the replications whose interval held the truth
        ``standard_error_50``   sqrt(p (1 - p) / R), under exact calibration
        """
        import pandas as pd
        from scipy.stats import kstest

        number, away = len(self.ranks), self.ranks - 0.5
        found = {
            "quantity": self.names,
            "uniformity_p_value": [kstest(column, "uniform").pvalue for column in self.ranks.T],
            "location": away.mean(0) * np.sqrt(12 * number),
            "spread": ((away**2).mean(0) - 1 / 12) * np.sqrt(180 * number),
        }
        for j, prob in enumerate(self.probs):
            found[f"coverage_{prob * 100:.0f}"] = self.covered[:, :, j].mean(0)
            found[f"standard_error_{prob * 100:.0f}"] = np.sqrt(prob * (1 - prob) / number)
        return pd.DataFrame(found)

    @property
    def p_value(self) -> float:
        """The lowest p-value of three tests (uniformity, location, spread) of every quantity, times their number
        (Bonferroni; for the lowest the same as Holm 1979)."""
        from scipy.stats import norm

        frame = self.to_frame()
        tests = [frame["uniformity_p_value"], *(2 * norm.sf(frame[name].abs()) for name in WORDS)]
        return float(min(1.0, 3 * len(frame) * np.min(tests)))

    @property
    def verdict(self) -> str:
        """``"calibrated"`` where :attr:`p_value` is at least :data:`P_VALUE`; else what is wrong with the draws:
        ``"too narrow"``, ``"too wide"``, ``"biased low"`` or ``"biased high"`` (the draws lie below, above the truth),
        by the test that is furthest out, and the other one where it is significant too."""
        if self.p_value >= P_VALUE:
            return "calibrated"
        frame, said = self.to_frame(), {}
        for name, (below, above) in WORDS.items():
            worst = float(frame[name][frame[name].abs().idxmax()])
            said[above if worst > 0 else below] = abs(worst)
        first, second = sorted(said, key=lambda words: -said[words])
        return f"{first}, {second}" if said[second] > LIMIT else first

    def coverage(self, prob: float) -> float:
        """The share of intervals of this probability (one of ``probs``) that held the truth, over all quantities."""
        return float(self.covered[:, :, self.probs.index(prob)].mean())

    def coverage_error(self, prob: float) -> float:
        """Its standard error: the quantities of a replication go together, so replications are what is counted."""
        each = self.covered[:, :, self.probs.index(prob)].mean(1)
        return float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")


def simulation_based_calibration(
    family: Family,
    engine: Engine,
    *,
    num_columns: int = 1,
    num_obs: int = 50,
    num_steps: int = 20,
    num_replications: int = 50,
    backend: str = "numpyro",
    seed: int = 0,
    probs: tuple[float, ...] = PROBS,
    num_probes: int = 4,
    n_jobs: int | None = None,
    done: Callable[[], None] | None = None,
) -> Calibration:
    """Fit ``num_replications`` tables of real columns drawn from the family's own prior, in raw units.

    Replications are independent jobs of :func:`ppl_gen.parallel.run`; those of a process share compiled programs.

    :param family: one whose parameters have priors; of networks ``bayesian=True``.
    :param num_obs: rows of a table, or sequences.
    :param num_steps: time steps of each sequence; of families of rows not used.
    :param probs: probabilities of the intervals whose coverage is counted.
    :param num_probes: probe points, drawn once from the prior predictive distribution.
    :param n_jobs: processes, see :func:`ppl_gen.parallel.run`.
    :param done: called after each replication.
    :raises FitError: more than half of the fits failed.
    """
    rng = np.random.default_rng(seed)
    shape = (num_obs, num_steps, num_columns) if family.sequences else (num_obs, num_columns)
    plain = Data.from_table(rng.normal(size=shape), standardize=False, as_sequence=family.sequences)
    template = family.prepare(plain)
    pair, ops = family.build(backend, template.schema, num_obs), backends.ops(backend)
    truths = ops.sample_prior(pair, num_replications + num_probes, seed)
    steps = {"num_steps": num_steps} if family.sequences else {}
    tables = [
        ops.sample_rows(pair, truths, np.full(num_obs, i), (seed + i + 1) % 2**31, **steps)
        for i in range(num_replications + num_probes)
    ]
    probes = np.stack([table[0] for table in tables[num_replications:]])
    jobs = [
        (family, engine, backend, template.schema, tables[i], probes, {k: v[i : i + 1] for k, v in truths.items()},
         seed + i, probs) for i in range(num_replications)
    ]  # fmt: skip
    results = parallel.run(_replicate, jobs, n_jobs=n_jobs, done=done)
    found = [result for result in results if result is not None]
    if 2 * len(found) <= num_replications:
        raise FitError(f"{num_replications - len(found)} of {num_replications} fits of {family.name} by {engine.name} "
                       "failed: give the engine more steps, or the prior less room.")  # fmt: skip
    names = (*(f"log p(probe {i})" for i in range(num_probes)), "log likelihood")
    ranks, covered, kept = (np.stack(part) for part in zip(*found, strict=True))
    return Calibration(ranks, covered, names, kept, probs, num_replications - len(found))


def _replicate(
    family: Family, engine: Engine, backend: str, schema: Schema, table: np.ndarray, probes: np.ndarray,
    truth: dict[str, np.ndarray], seed: int, probs: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, int] | None:  # fmt: skip
    """One table's ranks (Q,), whether its intervals covered (Q, P), and the number of draws after thinning; None where
    the fit failed."""
    from ppl_gen.fit import fit

    try:
        draws = fit(family, _data(schema, table), engine=engine, backend=backend, seed=seed).draws
    except FitError:
        return None
    ops, pair = backends.ops(backend), family.build(backend, schema, len(table))
    view, number = _data(schema, np.concatenate([probes, table])).view(backend), len(probes)
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.posterior.items()}
    # What has no prior, the encoder of an autoencoder, is no part of the truth: as a proposal any serves.
    truth = {name: truth.get(name, value[:1]) for name, value in flat.items()}
    found = _quantities(ops.log_prob(pair, flat, view), number)
    true = _quantities(ops.log_prob(pair, truth, view), number)[0]
    kept = thinned(found.reshape(draws.num_chains, draws.num_draws, -1), draws.uncertainty)
    # A uniform jitter within the truth's cell makes the rank of an exact posterior exactly uniform.
    jitter = np.random.default_rng(seed).random(len(true))
    ranks = ((kept < true).sum(0) + jitter) / (len(kept) + 1)
    edges = [np.quantile(found, [(1 - prob) / 2, (1 + prob) / 2], axis=0) for prob in probs]
    covered = np.stack([(low <= true) & (true <= high) for low, high in edges], axis=1)
    return ranks, covered, len(kept)


def thinned(values: np.ndarray, uncertainty: str = "posterior") -> np.ndarray:
    """(S, Q) draws about as good as independent, from (chain, draw, Q): every k-th of each chain, k the number of draws
    over the least effective sample size (Talts et al. 2018, algorithm 2). Draws from a guide are independent already.
    """
    if uncertainty == "posterior":
        from ppl_gen.arviz_bridge import ess

        chains, number = values.shape[:2]
        sizes = ess(values)
        least = float(np.nanmin(sizes)) if np.isfinite(sizes).any() else chains * number
        step = int(np.ceil(chains * number / np.clip(least, MIN_DRAWS, chains * number)))
        values = values[:, step - 1 :: step] if step <= number else values[:, -1:]
    return values.reshape(-1, values.shape[2])


def _data(schema: Schema, observed: np.ndarray) -> Data:
    """Rows (n, d), or sequences of one length (n, T, d), in model space."""
    more: dict[str, Any] = {} if observed.ndim == 2 else {"lengths": np.full(len(observed), observed.shape[1])}
    return Data(schema, np.ascontiguousarray(observed, dtype=np.float32).reshape(-1, observed.shape[-1]), **more)


def _quantities(log_prob: np.ndarray, num_probes: int) -> np.ndarray:
    """(draw, probes + 1): log p at the probes, and the log likelihood of the table behind them."""
    return np.column_stack([log_prob[:, :num_probes], log_prob[:, num_probes:].sum(1, dtype=np.float64)])
