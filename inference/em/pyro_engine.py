"""EM in torch: starts and bootstrap refits side by side under vmap, rows streamed through them in blocks.

The twin of ``numpyro_engine``: the same starts, the same stopping rule, the same figures. Runs that have converged
leave the batch, so that the slowest run does not hold up the work of all. One thread: on blocks of this size a second
one was measured to cost more than it brings, and much more when both cores are busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro_ops import as_tensor, sample_prior
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.inference.em import driver
from ppl_gen.inference.em.driver import Solutions

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.em import EM
    from ppl_gen.progress import Monitor

Parameters = dict[str, torch.Tensor]

BLOCK = 8192  # row-runs per block: small enough to stay in a core's cache, measured best between 2,000 and 65,000
MAX_STEPS = 1_000_000  # time steps per block of sequences, which are kept in memory state by state
VMAP_LIMIT = 2_000_000  # runs x rows x columns up to which runs go side by side rather than in turn


def run(pair: Pair, data: Data, settings: EM, seed: int, monitor: Monitor) -> Draws:
    """Fit by EM; see :class:`ppl_gen.inference.em.EM`."""
    view = pair.data if pair.data is not None else data.view("pyro")
    with sandbox(seed, threads=1), torch.no_grad(), _precision(view) as view:
        solve = Solver(pair, view, settings.objective, settings.tolerance, settings.max_iter)
        return driver.fit(solve, pair, view, settings, seed, monitor)


def starting_values(pair: Pair, view: View, seed: int, num_chains: int, num_starts: int) -> dict[str, np.ndarray]:
    """{site: (num_chains, ...)}: where each chain of another engine should begin.

    With the hooks of EM: the best of ``num_starts`` MAP solutions, from starts of the chain's own. Else the pair's
    initial values. Without those either, draws from the prior.
    """
    if pair.initialize is None:
        return sample_prior(pair, num_chains, seed)
    if pair.e_step is None or pair.m_step is None:
        return {name: np.asarray(value) for name, value in pair.initialize(view, seed, num_chains).items()}
    with sandbox(seed, threads=1), torch.no_grad(), _precision(view) as view:
        return driver.chain_starts(Solver(pair, view, "map", 1e-5, 200), pair, view, seed, num_chains, num_starts)


@contextmanager
def _precision(view: View) -> Iterator[View]:
    """Double precision for small problems of sequences, whose EM creeps: in single precision the rise of an iteration
    soon drowns in rounding, and the run stops short of its maximum."""
    if view.x.ndim != 3 or view.x.numel() > driver.DOUBLE_LIMIT:
        yield view
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        names = [name for name in ("x", "weights", "context") if getattr(view, name) is not None]
        yield view._replace(**{name: getattr(view, name).double() for name in names})
    finally:
        torch.set_default_dtype(before)


class Solver:
    """EM on one pair and one table; called with starting values and row weights, both stacked over runs."""

    def __init__(self, pair: Pair, view: View, objective: str, tolerance: float, max_iter: int) -> None:
        assert pair.e_step is not None
        assert pair.m_step is not None
        self.e_step, self.m_step, self.log_prior = pair.e_step, pair.m_step, pair.log_prior
        self.degenerate = pair.is_degenerate
        self.view, self.objective = view, objective
        self.tolerance, self.max_iter, self.num_obs = tolerance, max_iter, len(view.x)
        self.side_by_side = True
        # Time steps of each sequence; of rows, one.
        self.steps = torch.tensor(view.x.shape[1] if view.x.ndim == 3 else 1.0)
        if view.lengths is not None:
            self.steps = torch.as_tensor(view.lengths, dtype=torch.get_default_dtype())

    def batch(self, runs: int) -> int:
        """How many of these runs go together."""
        return runs if runs * self.view.x.numel() <= VMAP_LIMIT else 1

    def __call__(
        self, parameters: Mapping[str, Any], weights: np.ndarray, monitor: Monitor, rise: float = np.inf,
        x: np.ndarray | None = None,
    ) -> Solutions:  # fmt: skip
        """Run EM from each of the stacked starting values; see :class:`ppl_gen.inference.em.driver.Solver`."""
        stacked = {name: as_tensor(value) for name, value in parameters.items()}
        runs = len(next(iter(stacked.values())))
        rows = as_tensor(np.asarray(weights, np.float64)).expand(runs, -1)
        limits = (self.tolerance * (rows * self.steps).sum(1, dtype=torch.float64)).clamp(max=rise)
        batch = self.batch(runs)
        own = None if x is None else as_tensor(x)
        objective = np.full(runs, -np.inf)
        iterations, converged = np.zeros(runs, int), np.zeros(runs, bool)
        trace = np.full((runs, self.max_iter), np.nan)
        for first in range(0, runs, batch):
            active = torch.arange(first, min(first + batch, runs))
            data = None if own is None else own[active]
            for step in range(self.max_iter):
                proposed, value = self._iterate({k: v[active] for k, v in stacked.items()}, rows[active], data)
                gain = value - torch.as_tensor(objective[active])
                going = gain >= limits[active]  # False where the objective is not a number
                objective[active], trace[active, step] = value, value
                iterations[active] = step + 1
                converged[active] = ~going
                # Parameters that are kept are those whose objective is reported.
                for name, new in proposed.items():
                    stacked[name] = stacked[name].index_copy(0, active[going], new[going].to(stacked[name]))
                active = active[going]
                if not len(active):
                    break
                if data is not None and not going.all():
                    data = data[going]
                if step % 10 == 0:
                    monitor.update(*self._progress(first, batch, runs, step), objective=float(np.max(objective)))
                    if monitor.expired:
                        break
        values = {name: value.numpy() for name, value in stacked.items()}
        return Solutions(values, objective, iterations, converged, trace[:, : iterations.max()])

    def _progress(self, first: int, batch: int, runs: int, step: int) -> tuple[int, int]:
        return (first // batch) * self.max_iter + step, -(-runs // batch) * self.max_iter

    def row_log_prob(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """(runs, obs): log density of every row under each of the stacked parameters."""
        stacked = {name: as_tensor(value) for name, value in parameters.items()}
        runs = len(next(iter(stacked.values())))
        ones = torch.ones(self.num_obs, dtype=self.view.x.dtype).expand(runs, -1)
        parts = [self._over_runs(self._e_step, stacked, ones, None, rows)[0] for rows in self._blocks(runs)]
        return torch.cat(parts, dim=1).double().numpy()

    def is_degenerate(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """(runs,): which of the stacked parameters the family calls degenerate."""
        runs = len(next(iter(parameters.values())))
        if self.degenerate is None:
            return np.zeros(runs, bool)
        each = [{name: as_tensor(value[i]) for name, value in parameters.items()} for i in range(runs)]
        return np.array([bool(self.degenerate(one)) for one in each])

    def _blocks(self, runs: int) -> list[slice]:
        steps = self.view.x.shape[1] if self.view.x.dim() == 3 else 1
        if steps > 1 and self.view.context is not None:  # the statistics are of time steps: they do not add up
            return [slice(0, self.num_obs)]
        size = max(min(max(BLOCK // runs, 256), MAX_STEPS // steps), 1)
        return [slice(start, start + size) for start in range(0, self.num_obs, size)]

    def _e_step(self, parameters: Parameters, weights: torch.Tensor, x: torch.Tensor | None, rows: slice) -> Any:
        view = self.view if x is None else self.view._replace(x=x)
        names = [name for name in ("x", "mask", "pattern", "lengths", "context") if getattr(view, name) is not None]
        part = {name: getattr(view, name)[rows] for name in names}
        return self.e_step(parameters, view._replace(**part, weights=weights[rows]))

    def _iterate(
        self, parameters: Parameters, weights: torch.Tensor, x: torch.Tensor | None
    ) -> tuple[Parameters, torch.Tensor]:
        """One EM iteration of each run; the objective returned, in double precision, is of the parameters given."""
        total, statistics = torch.zeros(len(weights), dtype=torch.float64), None
        for rows in self._blocks(len(weights)):
            log_prob, new = self._over_runs(self._e_step, parameters, weights, x, rows)
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
        """``function`` over the leading axis of its arguments; a slice, or None, is shared by all runs."""
        runs = len(pytree.tree_leaves(stacked[0])[0])
        if runs > 1 and self.side_by_side:
            try:
                in_dims = tuple(None if isinstance(arg, slice | None) else 0 for arg in stacked)
                return torch.func.vmap(function, in_dims)(*stacked)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                self.side_by_side = False  # a hook branches on a value, say: one run at a time from here on
        pick = [[arg if isinstance(arg, slice | None) else pytree.tree_map(lambda leaf, i=i: leaf[i], arg)
                 for arg in stacked] for i in range(runs)]  # fmt: skip
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *(function(*args) for args in pick))
