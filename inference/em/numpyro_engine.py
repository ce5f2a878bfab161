"""EM in JAX: one compiled loop for starts and bootstrap refits alike, rows streamed through it in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from ppl_gen.backends import numpyro_ops
from ppl_gen.engine import Draws
from ppl_gen.inference.em import EM

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

Parameters = Mapping[str, Any]

BLOCK = 4096  # rows per block: small enough to stay in a core's cache, measured best between 2,000 and 8,000
CHUNK = 50  # iterations per call of the compiled program
BATCH = 16  # runs side by side
SMALL = 20_000  # runs x rows up to which compile time outweighs run time
SIDE_BY_SIDE_LIMIT = 2_000_000  # runs x rows x columns up to which they run side by side rather than in turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solutions:
    """Converged (or stopped) EM runs: leading axis of ``parameters``, ``objective`` and ``iterations``."""

    parameters: Parameters
    objective: np.ndarray  # log likelihood (ml) or log joint (map), summed over rows
    iterations: np.ndarray
    converged: np.ndarray
    trace: np.ndarray  # (run, iteration): the objective at each iteration, NaN after the run's end


def run(pair: Pair, data: Data, settings: EM, seed: int, monitor: Monitor) -> Draws:
    """Fit by EM; see :class:`ppl_gen.inference.em.EM`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    num_obs = len(view.x)
    solve = Solver(pair, view, settings.objective, settings.tolerance, settings.max_iter)
    weights = np.ones(num_obs) if view.weights is None else np.asarray(view.weights)
    assert pair.initialize is not None  # one of the engine's hooks
    starts = solve(pair.initialize(view, seed, settings.num_starts), weights[None], monitor)
    order, degenerate = rank(pair, starts)
    best = order[0]
    point = {name: np.asarray(value[best]) for name, value in starts.parameters.items()}

    members = settings.bootstraps(num_obs)
    interrupted, held_out = False, None
    posterior = {name: value[None, None] for name, value in point.items()}
    if members:
        counts = np.random.default_rng(seed).multinomial(num_obs, np.full(num_obs, 1 / num_obs), size=members)
        tiled = {name: np.repeat(value[None], members, axis=0) for name, value in point.items()}
        try:
            refits = solve(tiled, counts * weights, monitor)
            posterior = {name: value[None] for name, value in refits.parameters.items()}
            with_point = {name: np.concatenate([point[name][None], value[0]]) for name, value in posterior.items()}
            held_out = _out_of_bag(pair, view, with_point, counts)
        except KeyboardInterrupt:
            interrupted = True
    agree = np.abs(starts.objective - starts.objective[best]) < 1e-3 * max(1.0, num_obs**0.5)
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


def starting_values(pair: Pair, view: View, seed: int, num_chains: int, num_starts: int) -> dict[str, np.ndarray]:
    """{site: (num_chains, ...)}: where each chain of another engine should begin.

    With the hooks of EM: the best of ``num_starts`` MAP solutions, from starts of the chain's own. Else the pair's
    initial values. Without those either, draws from the prior.
    """
    if pair.initialize is None:
        return numpyro_ops.sample_prior(pair, num_chains, seed)
    if pair.e_step is None or pair.m_step is None:
        return {name: np.asarray(value) for name, value in pair.initialize(view, seed, num_chains).items()}
    from ppl_gen.progress import Monitor

    solve = Solver(pair, view, "map", 1e-5, 200)
    weights = np.ones(len(view.x)) if view.weights is None else np.asarray(view.weights)
    starts = solve(pair.initialize(view, seed, num_chains * num_starts), weights[None], Monitor())
    chains = []
    for chain in range(num_chains):
        own = np.arange(chain * num_starts, (chain + 1) * num_starts)
        chains.append(own[rank(pair, starts, own)[0][0]])
    return {name: np.asarray(value)[chains] for name, value in starts.parameters.items()}


def rank(pair: Pair, solutions: Solutions, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices from best to worst, degenerate solutions last; and which ones are degenerate."""
    parameters, objective = solutions.parameters, solutions.objective
    if among is not None:
        parameters, objective = {k: v[among] for k, v in parameters.items()}, objective[among]
    degenerate = np.zeros(len(objective), bool)
    if pair.is_degenerate is not None:
        over_runs = pair.cached("is_degenerate", lambda: jax.jit(jax.vmap(pair.is_degenerate)))
        degenerate = np.asarray(over_runs(parameters))
    return np.lexsort((-np.nan_to_num(objective, nan=-np.inf), degenerate)), degenerate


class Solver:
    """EM on one pair and one table; called with starting values and row weights, both stacked."""

    def __init__(self, pair: Pair, view: View, objective: str, tolerance: float, max_iter: int) -> None:
        self.tolerance, self.max_iter, self.num_obs = tolerance, max_iter, len(view.x)
        size = min(BLOCK, self.num_obs)
        self.blocks = jax.tree.map(lambda leaf: jnp.asarray(_in_blocks(leaf, size)), _without_shared(view))
        self.patterns = view.patterns
        self.programs = pair.cached(("em", objective), lambda: _Programs(pair, objective))

    def __call__(self, parameters: Parameters, weights: np.ndarray, monitor: Monitor) -> Solutions:
        """Run EM from each of the stacked starting values; ``weights`` is (runs or 1, obs).

        Small problems run side by side, ``BATCH`` at a time (the last batch is filled up, so that every call of every
        fit is served by one compiled program); large ones in turn.
        """
        runs = len(next(iter(parameters.values())))
        columns = self.blocks.x.shape[-1]
        batch = BATCH if runs > 1 and BATCH * self.num_obs * columns <= SIDE_BY_SIDE_LIMIT else 1
        weights = np.broadcast_to(weights, (runs, self.num_obs))
        parts = []
        for start in range(0, runs, batch):
            rows = np.minimum(np.arange(start, start + batch), runs - 1)
            chosen = {name: np.asarray(value)[rows] for name, value in parameters.items()}
            part = self._solve_batch(chosen, weights[rows], monitor)
            parts.append(jax.tree.map(lambda leaf, start=start: leaf[: runs - start], part))
        longest = max(part.trace.shape[1] for part in parts)
        pad = [np.pad(p.trace, ((0, 0), (0, longest - p.trace.shape[1])), constant_values=np.nan) for p in parts]
        parts = [dataclasses.replace(part, trace=trace) for part, trace in zip(parts, pad, strict=True)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _solve_batch(self, parameters: Parameters, weights: np.ndarray, monitor: Monitor) -> Solutions:
        dtype, size = self.blocks.x.dtype, self.blocks.x.shape[1]
        runs = len(weights)
        blocked = np.stack([_in_blocks(one, size) for one in weights]).astype(dtype)
        smallest_rise = (self.tolerance * weights.sum(1)).astype(dtype)
        state = (
            {name: value.astype(dtype) for name, value in parameters.items()}, np.full(runs, -np.inf, dtype),
            np.zeros(runs, bool), np.zeros(runs, np.int32),
        )  # fmt: skip
        small = runs * self.num_obs <= SMALL
        advance = self.programs.advance_small if small else self.programs.advance_large
        traces, done = [], 0
        while done < self.max_iter and not np.all(state[2]):
            limit = min(CHUNK, self.max_iter - done)
            state, trace = advance(state, blocked, smallest_rise, self.blocks, self.patterns, limit)
            traces.append(np.asarray(trace)[:, :limit])
            done += limit
            monitor.update(done, self.max_iter, objective=float(np.max(state[1])))
        parameters, objective, converged, iterations = jax.tree.map(np.asarray, state)
        return Solutions(
            parameters, objective.astype(np.float64), iterations, converged, np.concatenate(traces, axis=1)
        )


class _Programs:
    """The compiled program of EM for one pair and objective."""

    def __init__(self, pair: Pair, objective: str) -> None:
        self.pair, self.objective = pair, objective
        # Small problems: compiling with all optimizations would take longer than the run.
        self.advance_small = jax.jit(self._over_runs, compiler_options=numpyro_ops.QUICK)
        self.advance_large = jax.jit(self._over_runs)

    def _e_step(self, parameters: Parameters, block: View, weights: jax.Array, patterns: Any) -> Any:
        assert self.pair.e_step is not None
        return self.pair.e_step(parameters, block._replace(weights=weights, patterns=patterns))

    def _iterate(self, parameters: Parameters, weights: jax.Array, blocks: View, patterns: Any) -> Any:
        """One EM iteration: the new parameters, and the objective of the old ones."""

        def block_sums(block: View, weights: jax.Array) -> Any:
            log_prob, statistics = self._e_step(parameters, block, weights, patterns)
            return jnp.sum(log_prob * weights), statistics

        first = jax.tree.map(lambda leaf: leaf[0], (blocks, weights))
        if len(weights) == 1:
            log_likelihood, statistics = block_sums(*first)
        else:
            zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(block_sums, *first))
            (log_likelihood, statistics), _ = jax.lax.scan(
                lambda total, inputs: (jax.tree.map(jnp.add, total, block_sums(*inputs)), None), zero, (blocks, weights)
            )
        prior = self.pair.log_prior(parameters, self.objective) if self.pair.log_prior is not None else 0.0
        assert self.pair.m_step is not None
        return self.pair.m_step(parameters, statistics, self.objective), log_likelihood + prior

    def _advance_one(
        self, state: Any, weights: jax.Array, smallest_rise: jax.Array, blocks: View, patterns: Any, limit: int
    ) -> Any:
        """Up to ``limit`` iterations of one run. The last parameters are those whose objective is reported."""

        def body(carry: Any) -> Any:
            (parameters, objective, _, iterations), trace, i = carry
            proposed, value = self._iterate(parameters, weights, blocks, patterns)
            done = ~(value - objective >= smallest_rise)  # written so that NaN stops it too
            kept = jax.tree.map(lambda old, new: jnp.where(done, old, new), parameters, proposed)
            return (kept, value, done, iterations + 1), trace.at[i].set(value), i + 1

        def going(carry: Any) -> jax.Array:
            (_, _, done, _), _, i = carry
            return ~done & (i < limit)

        trace = jnp.full(CHUNK, jnp.nan, weights.dtype)
        state, trace, _ = jax.lax.while_loop(going, body, (state, trace, 0))
        return state, trace

    def _over_runs(
        self, state: Any, weights: jax.Array, rise: jax.Array, blocks: View, patterns: Any, limit: int
    ) -> Any:
        in_axes = (0, 0, 0, None, None, None)
        return jax.vmap(self._advance_one, in_axes)(state, weights, rise, blocks, patterns, limit)


def _in_blocks(leaf: Any, size: int) -> np.ndarray:
    """(obs, ...) as (blocks, size, ...), padded with zeros: padding rows have weight 0."""
    leaf = np.asarray(leaf)
    padding = -len(leaf) % size
    padded = np.pad(leaf, [(0, padding), *[(0, 0)] * (leaf.ndim - 1)]) if padding else leaf
    return padded.reshape(-1, size, *leaf.shape[1:])


def _without_shared(view: View) -> View:
    """The view's leaves that have one entry per row (the table of missing patterns is shared by all)."""
    return view._replace(weights=None, patterns=None)


def _out_of_bag(pair: Pair, view: View, posterior: Parameters, counts: np.ndarray) -> np.ndarray:
    """(obs,): log mean density of each row over the refits that did not see it; NaN where every refit did."""
    log_prob = numpyro_ops.log_prob(pair, posterior, view)[1:]
    left_out = counts == 0
    number = left_out.sum(0)
    value = logsumexp(np.where(left_out, log_prob, -np.inf), axis=0, b=np.where(number, 1.0, 0.0)[None, :] * left_out)
    return np.where(number > 0, value - np.log(np.maximum(number, 1)), np.nan)
