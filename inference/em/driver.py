"""What EM does around its iterations, in any backend: starts, ranking, bootstrap refits, held-out densities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ppl_gen import backends
from ppl_gen.engine import Draws, out_of_bag
from ppl_gen.progress import Monitor

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair
    from ppl_gen.inference.em import EM


# The sampling error of an estimate is worth half a nat of the whole log likelihood for each parameter, however long the
# table: a refit that stopped at a rise per row would stay near where it began in those directions in which EM creeps.
REFIT_RISE = 1e-3
LAST_RISE = 1e-5  # nats, of the whole objective
NEAR = 2.0  # nats below the best up to which a solution may yet overtake it
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

    def __call__(
        self, parameters: Mapping[str, Any], weights: np.ndarray, monitor: Monitor, rise: float = np.inf,
        x: np.ndarray | None = None,
    ) -> Solutions:  # fmt: skip
        """Run EM from each of the stacked starting values; ``weights`` is (runs or 1, obs).

        :param rise: a run ends when the whole objective rises by less than this (nats), or than the tolerance per row,
            whichever is less.
        :param x: (runs, ...) data of each run's own in the place of the table's; missing entries stay missing.
        """

    def batch(self, runs: int) -> int:
        """How many of these runs go side by side."""

    def row_log_prob(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """(runs, obs): log density of every row under each of the stacked parameters."""

    def is_degenerate(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """(runs,): which of the stacked parameters the family calls degenerate."""


def fit(solve: Solver, pair: Pair, view: View, settings: EM, seed: int, monitor: Monitor) -> Draws:
    """The best solution of several starts, and bootstrap refits of it; see :class:`ppl_gen.inference.em.EM`."""
    assert pair.initialize is not None  # one of the engine's hooks, which were asked for before
    num_obs, weights = len(view.x), row_weights(view)
    kind, members = settings.bootstraps(num_obs, int(steps_of(view).sum()) if view.x.ndim == 3 else None)
    starts = solve(pair.initialize(view, seed, settings.num_starts), weights[None], monitor)
    if view.x.ndim == 3 and np.prod(view.x.shape) <= DOUBLE_LIMIT:
        starts = run_on(solve, starts, weights, monitor)
    order, degenerate = rank(solve, starts)
    best = order[0]
    point = {name: np.asarray(value[best]) for name, value in starts.parameters.items()}

    interrupted, held_out, spread = False, None, "point"
    posterior = {name: value[None, None] for name, value in point.items()}
    monitor.worth_keeping = True
    if members:
        try:
            if kind == "parametric":
                refits = simulated_refits(solve, pair, view, point, members, seed, monitor)
            else:
                refits, held_out = resampled_refits(solve, view, point, members, seed, monitor)
            posterior, spread = {name: value[None] for name, value in refits.items()}, "bootstrap"
        except KeyboardInterrupt:
            interrupted = True
    near = 1e-3 * max(1.0, float(np.prod(view.x.shape[:-1])) ** 0.5)  # by rows, or time steps
    agree = np.abs(starts.objective - starts.objective[best]) < near
    return Draws(
        posterior=posterior, uncertainty=spread, point=point,
        losses=-starts.trace[best, : starts.iterations[best]], held_out=held_out,
        interrupted=interrupted or monitor.stopped,
        figures={
            "objective": float(starts.objective[best]), "num_iterations": int(starts.iterations[best]),
            "converged": bool(starts.converged[best]), "num_starts": len(starts.objective),
            "num_starts_agreeing": int(agree.sum()), "num_starts_degenerate": int(degenerate.sum()),
            "degenerate": bool(degenerate[best]), "parametric": spread != "point" and kind == "parametric",
        },
    )  # fmt: skip


def run_on(solve: Solver, starts: Solutions, weights: np.ndarray, monitor: Monitor) -> Solutions:
    """The solutions near the best one, taken on until the whole objective rises by less than ``LAST_RISE``: along
    sequences EM creeps, and the tolerance may stop it half a nat short."""
    order, _ = rank(solve, starts)
    near = np.flatnonzero(np.abs(starts.objective - starts.objective[order[0]]) < NEAR)
    chosen = {name: np.asarray(value)[near] for name, value in starts.parameters.items()}
    more = solve(chosen, weights[None], monitor, LAST_RISE)
    parameters = {name: np.array(value) for name, value in starts.parameters.items()}
    objective, iterations, converged = (
        np.array(part) for part in (starts.objective, starts.iterations, starts.converged)
    )
    trace = np.pad(starts.trace, ((0, 0), (0, more.trace.shape[1])), constant_values=np.nan)
    for i, j in enumerate(near):
        trace[j, iterations[j] : iterations[j] + more.trace.shape[1]] = more.trace[i]
    for name, value in more.parameters.items():
        parameters[name][near] = value
    objective[near], converged[near] = more.objective, more.converged
    iterations[near] += more.iterations
    return Solutions(parameters, objective, iterations, converged, trace)


def resampled_refits(
    solve: Solver, view: View, point: Mapping[str, np.ndarray], members: int, seed: int, monitor: Monitor
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Refits to rows drawn with replacement, {site: (members, ...)}, and the rows' out-of-bag log densities (obs,)."""
    num_obs = len(view.x)
    counts = np.random.default_rng(seed).multinomial(num_obs, np.full(num_obs, 1 / num_obs), size=members)
    refits = solve(_repeated(point, members), counts * row_weights(view), monitor, REFIT_RISE).parameters
    # The point goes along, so that one program serves this and the scores of the finished fit.
    with_point = {name: np.concatenate([point[name][None], value]) for name, value in refits.items()}
    return dict(refits), out_of_bag(solve.row_log_prob(with_point)[1:], counts)


def simulated_refits(
    solve: Solver, pair: Pair, view: View, point: Mapping[str, np.ndarray], members: int, seed: int, monitor: Monitor
) -> dict[str, np.ndarray]:
    """Refits, {site: (members, ...)}, to data drawn from the model at the point: as many rows or sequences, as long,
    with the same entries missing and the same weights. As many data sets are held as are worked on side by side."""
    size, num_obs = solve.batch(members), len(view.x)
    options = {"num_steps": view.x.shape[1]} if view.x.ndim == 3 else {}
    context = None if view.context is None else np.concatenate([np.asarray(view.context)] * size)
    starts, weights, parts = _repeated(point, size), row_weights(view)[None], []
    for number in np.random.default_rng(seed).integers(2**31, size=-(-members // size)):
        drawn = backends.ops(pair.backend).sample_table(pair, point, size * num_obs, int(number), context, **options)
        x = np.asarray(drawn).reshape(size, *view.x.shape)
        if view.mask is not None:
            x = np.where(np.asarray(view.mask), x, x.dtype.type(0))
        parts.append(solve(starts, weights, monitor, REFIT_RISE, x).parameters)
    return {name: np.concatenate([part[name] for part in parts])[:members] for name in point}


def _repeated(point: Mapping[str, np.ndarray], times: int) -> dict[str, np.ndarray]:
    return {name: np.repeat(value[None], times, axis=0) for name, value in point.items()}


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


def steps_of(view: View) -> np.ndarray:
    """(obs,): time steps of each observation: 1 of a row."""
    steps = np.full(len(view.x), view.x.shape[1] if view.x.ndim == 3 else 1)
    return steps if view.lengths is None else np.asarray(view.lengths)


def row_weights(view: View) -> np.ndarray:
    """(obs,): the rows' weights in double precision, 1 where none were given."""
    return np.ones(len(view.x)) if view.weights is None else np.asarray(view.weights, np.float64)
