"""What EM does around its iterations, in any backend: starts, ranking, bootstrap refits, held-out densities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import logsumexp

from ppl_gen.engine import Draws
from ppl_gen.progress import Monitor

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair
    from ppl_gen.inference.em import EM


DOUBLE_LIMIT = 100_000  # steps x columns of sequences up to which they are worked on in double precision


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Converged (or stopped) EM runs: leading axis of ``parameters``, ``objective`` and ``iterations``."""

    parameters: Mapping[str, np.ndarray]
    objective: np.ndarray  # log likelihood (ml) or log joint (map), summed over rows
    iterations: np.ndarray
    converged: np.ndarray
    trace: np.ndarray  # (run, iteration): the objective at each iteration, NaN after the run's end


class Solver(Protocol):
    """EM on one pair and one table, in one backend."""

    def __call__(self, parameters: Mapping[str, Any], weights: np.ndarray, monitor: Monitor) -> Solutions:
        """Run EM from each of the stacked starting values; ``weights`` is (runs or 1, obs)."""

    def row_log_prob(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """(runs, obs): log density of every row under each of the stacked parameters."""

    def is_degenerate(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """(runs,): which of the stacked parameters the family calls degenerate."""


def fit(solve: Solver, pair: Pair, view: View, settings: EM, seed: int, monitor: Monitor) -> Draws:
    """The best solution of several starts, and bootstrap refits of it; see :class:`ppl_gen.inference.em.EM`."""
    assert pair.initialize is not None  # one of the engine's hooks, which were asked for before
    num_obs, weights = len(view.x), row_weights(view)
    starts = solve(pair.initialize(view, seed, settings.num_starts), weights[None], monitor)
    order, degenerate = rank(solve, starts)
    best = order[0]
    point = {name: np.asarray(value[best]) for name, value in starts.parameters.items()}

    members = settings.bootstraps(num_obs, sequences=view.x.ndim == 3)
    interrupted, held_out = False, None
    posterior = {name: value[None, None] for name, value in point.items()}
    monitor.worth_keeping = True
    if members:
        counts = np.random.default_rng(seed).multinomial(num_obs, np.full(num_obs, 1 / num_obs), size=members)
        tiled = {name: np.repeat(value[None], members, axis=0) for name, value in point.items()}
        try:
            refits = solve(tiled, counts * weights, monitor).parameters
            # The point goes along, so that one program serves this and the scores of the finished fit.
            with_point = {name: np.concatenate([point[name][None], value]) for name, value in refits.items()}
            held_out = out_of_bag(solve.row_log_prob(with_point)[1:], counts)
            posterior = {name: value[None] for name, value in refits.items()}
        except KeyboardInterrupt:
            interrupted = True
    near = 1e-3 * max(1.0, float(np.prod(view.x.shape[:-1])) ** 0.5)  # by rows, or time steps
    agree = np.abs(starts.objective - starts.objective[best]) < near
    return Draws(
        posterior=posterior, uncertainty="bootstrap" if members and not interrupted else "point", point=point,
        losses=-starts.trace[best, : starts.iterations[best]], held_out=held_out, interrupted=interrupted,
        figures={
            "objective": float(starts.objective[best]), "num_iterations": int(starts.iterations[best]),
            "converged": bool(starts.converged[best]), "num_starts": len(starts.objective),
            "num_starts_agreeing": int(agree.sum()), "num_starts_degenerate": int(degenerate.sum()),
            "degenerate": bool(degenerate[best]),
        },
    )  # fmt: skip


def chain_starts(
    solve: Solver, pair: Pair, view: View, seed: int, num_chains: int, num_starts: int
) -> dict[str, np.ndarray]:
    """{site: (num_chains, ...)}: for each chain the best of ``num_starts`` solutions from starts of its own."""
    assert pair.initialize is not None
    solutions = solve(pair.initialize(view, seed, num_chains * num_starts), row_weights(view)[None], Monitor())
    order, _ = rank(solve, solutions)
    chain_of = order // num_starts  # the chain that each solution belongs to, best solution first
    chosen = [order[chain_of == chain][0] for chain in range(num_chains)]
    return {name: np.asarray(value)[chosen] for name, value in solutions.parameters.items()}


def rank(solve: Solver, solutions: Solutions) -> tuple[np.ndarray, np.ndarray]:
    """Indices from best to worst, degenerate solutions last; and which ones are degenerate."""
    degenerate = solve.is_degenerate(solutions.parameters)
    return np.lexsort((-np.nan_to_num(solutions.objective, nan=-np.inf), degenerate)), degenerate


def row_weights(view: View) -> np.ndarray:
    """(obs,): the rows' weights in double precision, 1 where none were given."""
    return np.ones(len(view.x)) if view.weights is None else np.asarray(view.weights, np.float64)


def out_of_bag(log_prob: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(obs,): log mean density of each row over the refits that did not see it; NaN where every refit did."""
    left_out = counts == 0
    number = left_out.sum(0)
    value = logsumexp(np.where(left_out, log_prob, -np.inf), axis=0, b=np.where(number, 1.0, 0.0)[None, :] * left_out)
    return np.where(number > 0, value - np.log(np.maximum(number, 1)), np.nan)
