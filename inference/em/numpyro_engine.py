"""EM in JAX: one compiled loop for starts and bootstrap refits alike, rows streamed through it in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends import numpyro_ops, numpyro_programs
from ppl_gen.inference.em import driver
from ppl_gen.inference.em.driver import Solutions

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.em import EM
    from ppl_gen.progress import Monitor

Parameters = Mapping[str, Any]

BLOCK = 4096  # rows per block: small enough to stay in a core's cache, measured best between 2,000 and 8,000
BLOCK_STEPS = 262_144  # time steps per block of sequences: a bound on the memory of the recursions' messages
CHUNK = 50  # iterations per call of the compiled program
BATCH = 16  # runs side by side
SMALL = 20_000  # runs x rows up to which compile time outweighs run time
SIDE_BY_SIDE_LIMIT = 2_000_000  # runs x rows x columns up to which they run side by side rather than in turn
SIDE_BY_SIDE_STEPS = 200_000  # runs x time steps, likewise: with more, the recursions' messages leave the cache


def run(pair: Pair, data: Data, settings: EM, seed: int, monitor: Monitor) -> Draws:
    """Fit by EM; see :class:`ppl_gen.inference.em.EM`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    solve = Solver(pair, view, settings.objective, settings.tolerance, settings.max_iter)
    return driver.fit(solve, pair, view, settings, seed, monitor)


def starting_values(pair: Pair, view: View, seed: int, num_chains: int, num_starts: int) -> dict[str, np.ndarray]:
    """{site: (num_chains, ...)}: where each chain of another engine should begin.

    With the hooks of EM: the best of ``num_starts`` MAP solutions, from starts of the chain's own. Else the pair's
    initial values. Without those either, draws from the prior.
    """
    if pair.initialize is None:
        return numpyro_ops.sample_prior(pair, num_chains, seed)
    if pair.e_step is None or pair.m_step is None:
        return {name: np.asarray(value) for name, value in pair.initialize(view, seed, num_chains).items()}
    return driver.chain_starts(Solver(pair, view, "map", 1e-5, 200), pair, view, seed, num_chains, num_starts)


class Solver:
    """EM on one pair and one table; called with starting values and row weights, both stacked."""

    def __init__(self, pair: Pair, view: View, objective: str, tolerance: float, max_iter: int) -> None:
        self.tolerance, self.max_iter, self.num_obs = tolerance, max_iter, len(view.x)
        self.num_numbers = int(np.prod(view.x.shape))
        self.steps = driver.steps_of(view)
        size = min(BLOCK, self.num_obs)
        if view.x.ndim == 3:  # sequences: a recursion serves all of a block at once
            size = max(1, min(size, BLOCK_STEPS // view.x.shape[1]))
            if view.context is not None:  # whose statistics are of time steps, and do not add up over blocks
                size = self.num_obs
        self.pair, self.view = pair, view
        view = _without_padding(view)
        # EM on sequences creeps: in single precision the rise of an iteration soon drowns in rounding, and the run
        # stops short of its maximum. Small problems can afford double.
        self.double = view.x.ndim == 3 and self.num_numbers <= driver.DOUBLE_LIMIT
        with self._precision():
            self.blocks = jax.tree.map(lambda leaf: self._block(leaf, size), _without_shared(view))
        self.patterns = view.patterns
        self.programs = pair.cached(("em", objective), lambda: _Programs(pair, objective))

    def batch(self, runs: int) -> int:
        """How many of these runs go together."""
        small = BATCH * self.num_numbers <= SIDE_BY_SIDE_LIMIT
        if self.view.x.ndim == 3:
            small &= BATCH * int(np.prod(self.view.x.shape[:2])) <= SIDE_BY_SIDE_STEPS
        return BATCH if runs > 1 and small else 1

    def __call__(
        self, parameters: Parameters, weights: np.ndarray, monitor: Monitor, rise: float = np.inf,
        x: np.ndarray | None = None,
    ) -> Solutions:  # fmt: skip
        """Run EM from each of the stacked starting values; see :class:`ppl_gen.inference.em.driver.Solver`.

        Small problems run side by side, ``BATCH`` at a time (the last batch is filled up, so that every call of every
        fit is served by one compiled program); large ones in turn.
        """
        runs = len(next(iter(parameters.values())))
        batch = self.batch(runs)
        weights = np.broadcast_to(weights, (runs, self.num_obs))
        parts = []
        for start in range(0, runs, batch):
            rows = np.minimum(np.arange(start, start + batch), runs - 1)
            chosen = {name: np.asarray(value)[rows] for name, value in parameters.items()}
            with self._precision():
                part = self._solve_batch(chosen, weights[rows], monitor, rise, None if x is None else x[rows])
            parts.append(jax.tree.map(lambda leaf, start=start: leaf[: runs - start], part))
        longest = max(trace.shape[1] for *_, trace in parts)
        pad = [((0, 0), (0, longest - trace.shape[1])) for *_, trace in parts]
        parts = [(*p, np.pad(trace, w, constant_values=np.nan)) for (*p, trace), w in zip(parts, pad, strict=True)]
        return Solutions(*jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))

    def _precision(self) -> Any:
        return jax.enable_x64(True) if self.double else nullcontext()

    def _block(self, leaf: Any, size: int) -> jax.Array:
        blocked = jnp.asarray(_in_blocks(leaf, size))
        return blocked.astype(jnp.float64) if self.double and blocked.dtype == jnp.float32 else blocked

    def row_log_prob(self, parameters: Parameters) -> np.ndarray:
        """(runs, obs): log density of every row under each of the stacked parameters."""
        return numpyro_ops.log_prob(self.pair, parameters, self.view)

    def is_degenerate(self, parameters: Parameters) -> np.ndarray:
        """(runs,): which of the stacked parameters the family calls degenerate."""
        hook = self.pair.is_degenerate
        if hook is None:
            return np.zeros(len(next(iter(parameters.values()))), bool)
        return np.asarray(self.pair.cached("is_degenerate", lambda: jax.jit(jax.vmap(hook)))(parameters))

    def _solve_batch(
        self, parameters: Parameters, weights: np.ndarray, monitor: Monitor, rise: float, own: np.ndarray | None
    ) -> tuple[Any, ...]:
        """The fields of :class:`Solutions`."""
        dtype, size = self.blocks.x.dtype, self.blocks.x.shape[1]
        runs = len(weights)
        blocked = np.stack([_in_blocks(one, size) for one in weights]).astype(dtype)
        x = self.blocks.x if own is None else np.stack([_in_blocks(one, size) for one in own]).astype(dtype)
        smallest_rise = np.minimum(self.tolerance * (weights * self.steps).sum(1), rise).astype(dtype)
        state = (
            {name: value.astype(dtype) for name, value in parameters.items()}, np.full(runs, -np.inf, dtype),
            np.zeros(runs, bool), np.zeros(runs, np.int32),
        )  # fmt: skip
        small = runs * self.steps.sum() <= SMALL
        advance = self.programs.advance_small if small else self.programs.advance_large
        traces, done = [], 0
        while done < self.max_iter and not np.all(state[2]):
            limit = min(CHUNK, self.max_iter - done)
            state, trace = advance(state, blocked, smallest_rise, x, self.blocks, self.patterns, limit, own is not None)
            traces.append(np.asarray(trace)[:, :limit])
            done += limit
            monitor.update(done, self.max_iter, objective=float(np.max(state[1])))
            if monitor.expired:
                break
        parameters, objective, converged, iterations = jax.tree.map(np.asarray, state)
        return parameters, objective.astype(np.float64), iterations, converged, np.concatenate(traces, axis=1)


class _Programs:
    """The compiled program of EM for one pair and objective."""

    def __init__(self, pair: Pair, objective: str) -> None:
        self.pair, self.objective = pair, objective
        # Small problems: compiling with all optimizations would take longer than the run.
        self.advance_small = jax.jit(self._over_runs, static_argnums=7, compiler_options=numpyro_programs.QUICK)
        self.advance_large = jax.jit(self._over_runs, static_argnums=7)

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
        self, state: Any, weights: jax.Array, smallest_rise: jax.Array, x: jax.Array, blocks: View, patterns: Any,
        limit: int,
    ) -> Any:  # fmt: skip
        """Up to ``limit`` iterations of one run. The last parameters are those whose objective is reported."""
        blocks = blocks._replace(x=x)

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
        self, state: Any, weights: jax.Array, rise: jax.Array, x: jax.Array, blocks: View, patterns: Any, limit: int,
        own: bool,
    ) -> Any:  # fmt: skip
        if len(rise) == 1:  # alone, not as a batch of one: XLA fuses the recursions of sequences better
            one_state, one_weights, one_rise = jax.tree.map(lambda leaf: leaf[0], (state, weights, rise))
            result = self._advance_one(one_state, one_weights, one_rise, x[0] if own else x, blocks, patterns, limit)
            return jax.tree.map(lambda leaf: leaf[None], result)
        in_axes = (0, 0, 0, 0 if own else None, None, None, None)
        return jax.vmap(self._advance_one, in_axes)(state, weights, rise, x, blocks, patterns, limit)


def _in_blocks(leaf: Any, size: int) -> np.ndarray:
    """(obs, ...) as (blocks, size, ...), padded with zeros: padding rows have weight 0."""
    leaf = np.asarray(leaf)
    padding = -len(leaf) % size
    padded = np.pad(leaf, [(0, padding), *[(0, 0)] * (leaf.ndim - 1)]) if padding else leaf
    return padded.reshape(-1, size, *leaf.shape[1:])


def _without_padding(view: View) -> View:
    """The view of sequences without a mask where only the steps past their ends are masked: their lengths say that."""
    if view.mask is None or view.lengths is None:
        return view
    mask, inside = np.asarray(view.mask), np.arange(view.x.shape[1]) < np.asarray(view.lengths)[:, None]
    return view._replace(mask=None, pattern=None, patterns=None) if (mask == inside[:, :, None]).all() else view


def _without_shared(view: View) -> View:
    """The view's leaves that have one entry per row (the table of missing patterns is shared by all)."""
    return view._replace(weights=None, patterns=None)
