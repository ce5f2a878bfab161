"""EM in torch: starts and bootstrap refits side by side under vmap, rows streamed through them in blocks.

The twin of ``numpyro_engine``: the same starts, the same stopping rule, the same figures. Runs that have converged
leave the batch, so that the slowest run does not hold up the work of all. One thread: on blocks of this size a second
one was measured to cost more than it brings, and much more when both cores are busy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro_ops import as_tensor, sample_prior
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.engine import Draws
from ppl_gen.inference.em import EM
from ppl_gen.progress import Monitor

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.family import Pair

Parameters = dict[str, torch.Tensor]

BLOCK = 8192  # row-runs per block: small enough to stay in a core's cache, measured best between 2,000 and 65,000
VMAP_LIMIT = 2_000_000  # runs x rows x columns up to which runs go side by side rather than in turn


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Converged (or stopped) EM runs: leading axis of ``parameters``, ``objective`` and ``iterations``."""

    parameters: dict[str, np.ndarray]
    objective: np.ndarray  # log likelihood (ml) or log joint (map), summed over rows
    iterations: np.ndarray
    converged: np.ndarray
    trace: np.ndarray  # (iteration, run): the objective at each iteration, NaN after the run's end


def run(pair: Pair, data: Data, settings: EM, seed: int, monitor: Monitor) -> Draws:
    """Fit by EM; see :class:`ppl_gen.inference.em.EM`."""
    view = pair.data if pair.data is not None else data.view("pyro")
    with sandbox(seed, threads=1), torch.no_grad():
        return _run(pair, view, settings, seed, monitor)


def _run(pair: Pair, view: View, settings: EM, seed: int, monitor: Monitor) -> Draws:
    assert pair.initialize is not None  # the engine's hooks, which were asked for before
    num_obs = len(view.x)
    solve = Solver(pair, view, settings.objective, settings.tolerance, settings.max_iter)
    weights = _row_weights(view)
    starts = solve(pair.initialize(view, seed, settings.num_starts), weights[None], monitor)
    order, degenerate = rank(pair, starts)
    best = order[0]
    point = {name: value[best] for name, value in starts.parameters.items()}

    members = settings.bootstraps(num_obs)
    interrupted, held_out = False, None
    posterior = {name: value[None, None] for name, value in point.items()}
    if members:
        counts = np.random.default_rng(seed).multinomial(num_obs, np.full(num_obs, 1 / num_obs), size=members)
        tiled = {name: np.repeat(value[None], members, axis=0) for name, value in point.items()}
        try:
            refits = solve(tiled, counts * weights, monitor)
            posterior = {name: value[None] for name, value in refits.parameters.items()}
            held_out = _out_of_bag(solve, refits.parameters, counts)
        except KeyboardInterrupt:
            interrupted = True
    agree = np.abs(starts.objective - starts.objective[best]) < 1e-3 * max(1.0, num_obs**0.5)
    return Draws(
        posterior=posterior, uncertainty="bootstrap" if members and not interrupted else "point", point=point,
        losses=-starts.trace[: starts.iterations[best], best], held_out=held_out, interrupted=interrupted,
        figures={
            "objective": float(starts.objective[best]), "num_iterations": int(starts.iterations[best]),
            "converged": bool(starts.converged[best]), "num_starts": len(starts.objective),
            "num_starts_agreeing": int(agree.sum()), "num_starts_degenerate": int(degenerate.sum()),
            "degenerate": bool(degenerate[best]),
        },
    )  # fmt: skip


def starting_values(pair: Pair, view: View, seed: int, num_chains: int, num_starts: int) -> dict[str, np.ndarray]:
    """{site: (num_chains, ...)}: where each chain of another engine should begin.

    With the hooks of EM: the best of ``num_starts`` MAP solutions, from starts of the chain's own. Else the pair's
    initial values. Without those either, draws from the prior.
    """
    if pair.initialize is None:
        return sample_prior(pair, num_chains, seed)
    if pair.e_step is None or pair.m_step is None:
        return {name: np.asarray(value) for name, value in pair.initialize(view, seed, num_chains).items()}
    with sandbox(seed, threads=1), torch.no_grad():
        solve = Solver(pair, view, "map", 1e-5, 200)
        guesses = pair.initialize(view, seed, num_chains * num_starts)
        starts = solve(guesses, _row_weights(view)[None], Monitor())
        chains = []
        for chain in range(num_chains):
            own = np.arange(chain * num_starts, (chain + 1) * num_starts)
            chains.append(own[rank(pair, starts, own)[0][0]])
    return {name: value[chains] for name, value in starts.parameters.items()}


def rank(pair: Pair, solutions: Solutions, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices from best to worst, degenerate solutions last; and which ones are degenerate."""
    parameters, objective = solutions.parameters, solutions.objective
    if among is not None:
        parameters, objective = {k: v[among] for k, v in parameters.items()}, objective[among]
    degenerate = np.zeros(len(objective), bool)
    if pair.is_degenerate is not None:
        runs = [{name: as_tensor(value[i]) for name, value in parameters.items()} for i in range(len(objective))]
        degenerate = np.array([bool(pair.is_degenerate(one)) for one in runs])
    return np.lexsort((-np.nan_to_num(objective, nan=-np.inf), degenerate)), degenerate


class Solver:
    """EM on one pair and one table; called with starting values and row weights, both stacked over runs."""

    def __init__(self, pair: Pair, view: View, objective: str, tolerance: float, max_iter: int) -> None:
        assert pair.e_step is not None
        assert pair.m_step is not None
        self.e_step, self.m_step, self.log_prior = pair.e_step, pair.m_step, pair.log_prior
        self.view, self.objective = view, objective
        self.tolerance, self.max_iter, self.num_obs = tolerance, max_iter, len(view.x)
        self.side_by_side = True

    def __call__(self, parameters: Mapping[str, Any], weights: np.ndarray, monitor: Monitor) -> Solutions:
        """Run EM from each of the stacked starting values; ``weights`` is (runs or 1, obs)."""
        stacked = {name: as_tensor(value) for name, value in parameters.items()}
        runs = len(next(iter(stacked.values())))
        rows = as_tensor(np.asarray(weights, np.float64)).expand(runs, -1)
        limits = self.tolerance * rows.sum(1, dtype=torch.float64)
        batch = runs if runs * self.view.x.numel() <= VMAP_LIMIT else 1
        objective = np.full(runs, -np.inf)
        iterations, converged = np.zeros(runs, int), np.zeros(runs, bool)
        trace = np.full((self.max_iter, runs), np.nan)
        for first in range(0, runs, batch):
            active = torch.arange(first, min(first + batch, runs))
            for step in range(self.max_iter):
                proposed, value = self._iterate({k: v[active] for k, v in stacked.items()}, rows[active])
                rise = value - torch.as_tensor(objective[active])
                going = rise >= limits[active]  # False where the objective is not a number
                objective[active], trace[step, active] = value, value
                iterations[active] = step + 1
                converged[active] = ~going
                # Parameters that are kept are those whose objective is reported.
                for name, new in proposed.items():
                    stacked[name] = stacked[name].index_copy(0, active[going], new[going].to(stacked[name]))
                active = active[going]
                if not len(active):
                    break
                if step % 10 == 0:
                    monitor.update(*self._progress(first, batch, runs, step), objective=float(np.max(objective)))
        values = {name: value.numpy() for name, value in stacked.items()}
        return Solutions(values, objective, iterations, converged, trace[: iterations.max()])

    def _progress(self, first: int, batch: int, runs: int, step: int) -> tuple[int, int]:
        return (first // batch) * self.max_iter + step, -(-runs // batch) * self.max_iter

    def row_log_prob(self, parameters: dict[str, np.ndarray]) -> np.ndarray:
        """(runs, obs): log density of every row under each of the stacked parameters."""
        stacked = {name: as_tensor(value) for name, value in parameters.items()}
        runs = len(next(iter(stacked.values())))
        ones = torch.ones(self.num_obs, dtype=self.view.x.dtype).expand(runs, -1)
        parts = [self._over_runs(self._e_step, stacked, ones, rows)[0] for rows in self._blocks(runs)]
        return torch.cat(parts, dim=1).numpy()

    def _blocks(self, runs: int) -> list[slice]:
        size = max(BLOCK // runs, 256)
        return [slice(start, start + size) for start in range(0, self.num_obs, size)]

    def _e_step(self, parameters: Parameters, weights: torch.Tensor, rows: slice) -> Any:
        view = self.view
        part = {name: getattr(view, name)[rows] for name in ("x", "mask", "pattern") if getattr(view, name) is not None}
        return self.e_step(parameters, view._replace(**part, weights=weights[rows]))

    def _iterate(self, parameters: Parameters, weights: torch.Tensor) -> tuple[Parameters, torch.Tensor]:
        """One EM iteration of each run; the objective returned, in double precision, is of the parameters given."""
        total, statistics = torch.zeros(len(weights), dtype=torch.float64), None
        for rows in self._blocks(len(weights)):
            log_prob, new = self._over_runs(self._e_step, parameters, weights, rows)
            # A row of weight 0 counts for nothing even where its density underflows.
            weighted = torch.where(weights[:, rows] == 0, 0.0, log_prob.double() * weights[:, rows].double())
            total += weighted.sum(1)
            statistics = new if statistics is None else pytree.tree_map(torch.add, statistics, new)
        if self.log_prior is not None:
            total = total + self._over_runs(partial(self._log_prior, self.log_prior), parameters)
        return self._over_runs(self._m_step, parameters, statistics), total

    def _log_prior(self, log_prior: Callable, parameters: Parameters) -> torch.Tensor:
        return torch.as_tensor(log_prior(parameters, self.objective), dtype=torch.float64)

    def _m_step(self, parameters: Parameters, statistics: Any) -> Parameters:
        return self.m_step(parameters, statistics, self.objective)

    def _over_runs(self, function: Callable, *stacked: Any) -> Any:
        """``function`` over the leading axis of its arguments; a slice is shared by all runs."""
        runs = len(pytree.tree_leaves(stacked[0])[0])
        if runs > 1 and self.side_by_side:
            try:
                in_dims = tuple(None if isinstance(arg, slice) else 0 for arg in stacked)
                return torch.func.vmap(function, in_dims)(*stacked)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                self.side_by_side = False  # a hook branches on a value, say: one run at a time from here on
        pick = [[arg if isinstance(arg, slice) else pytree.tree_map(lambda leaf, i=i: leaf[i], arg) for arg in stacked]
                for i in range(runs)]  # fmt: skip
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *(function(*args) for args in pick))


def _row_weights(view: View) -> np.ndarray:
    return np.ones(len(view.x)) if view.weights is None else np.asarray(view.weights, np.float64)


def _out_of_bag(solve: Solver, parameters: dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """(obs,): log mean density of each row over the refits that did not see it; NaN where every refit did."""
    log_prob = torch.as_tensor(solve.row_log_prob(parameters), dtype=torch.float64)
    left_out = torch.as_tensor(counts == 0)
    value = torch.logsumexp(torch.where(left_out, log_prob, -torch.inf), 0).numpy()
    number = (counts == 0).sum(0)
    return np.where(number > 0, value - np.log(np.maximum(number, 1)), np.nan)
