"""NUTS in JAX: blackjax over the log density that NumPyro derives from the pair.

One step function serves warm-up and sampling, so one program is compiled. Chains are independent calls of it, one
per core at a time (threads; XLA releases the interpreter lock), because on a CPU a vmapped NUTS waits for the longest
trajectory and loses XLA's fusion of small loops; on a GPU they are vmapped. Work is done in chunks of steps, between
which progress is shown, Ctrl-C is heard and checkpoints are written. Every step's key is folded from the seed, the
chain and the step's number, so a resumed run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
from blackjax.adaptation.staged_adaptation import build_schedule
from blackjax.adaptation.step_size import dual_averaging_adaptation

from ppl_gen.backends import numpyro_programs
from ppl_gen.backends.numpyro_chains import constrain, over_chains, unconstrained_starts
from ppl_gen.backends.numpyro_ops import log_density_fn
from ppl_gen.engine import Draws
from ppl_gen.inference.em.numpyro_engine import starting_values
from ppl_gen.inference.nuts import NUTS

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

FAST, SLOW, SAMPLE = 0, 1, 2
CHUNK = 25  # steps per call of the compiled program
CHUNK_OF_ROW = 500  # where there is a single row, whose density is quick


class ChainState(NamedTuple):
    """All that a chain needs to go on: where it is, and what it has learnt about step size and scale."""

    sampler: Any
    step_size: Any
    mass_matrix: Any


class Info(NamedTuple):
    """What is kept of each step beside the position, under ArviZ's names."""

    diverging: jax.Array
    energy: jax.Array
    lp: jax.Array
    tree_depth: jax.Array
    n_steps: jax.Array
    acceptance_rate: jax.Array
    step_size: jax.Array


def run(pair: Pair, data: Data, settings: NUTS, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.nuts.NUTS`."""
    return sample(pair, data, settings, seed, monitor, _kernel)


def _kernel(settings: NUTS) -> Callable:
    """blackjax's transition, as :func:`sample` takes it."""
    kernel = blackjax.nuts.build_kernel()

    def transition(key: Any, state: Any, log_density: Callable, size: Any, inverse_mass: Any) -> Any:
        return kernel(key, state, log_density, size, inverse_mass, settings.max_tree_depth)

    return transition


def sample(pair: Pair, data: Data, settings: Any, seed: int, monitor: Monitor, make_kernel: Callable) -> Draws:
    """Chains of a Hamiltonian sampler, whose step size and mass matrix are adapted in Stan's windows.

    :param make_kernel: ``settings -> transition(key, state, log density, step size, inverse mass matrix) -> (state,
        info)``, of states that ``blackjax.hmc.init`` makes.
    """
    view = pair.data if pair.data is not None else data.view("numpyro")
    total = settings.num_warmup + settings.num_samples
    monitor.begin(total)
    starts = starting_values(pair, view, seed, settings.num_chains, settings.num_starts)
    positions, unravel = unconstrained_starts(pair, view, starts)
    # A little noise, so that chains that begin at the same mode do not begin at the same point.
    key = jax.random.key(seed)
    positions = positions + 0.05 * jax.random.normal(jax.random.fold_in(key, 2**31 - 1), positions.shape)

    key_programs = (settings.replace(num_samples=4, num_warmup=20, num_chains=1, num_starts=1), str(positions.dtype))
    init, advance = pair.cached(key_programs, lambda: _programs(pair, settings, unravel, make_kernel(settings)))
    chain_keys = [jax.random.fold_in(key, chain) for chain in range(settings.num_chains)]
    states = [init(position, view) for position in positions]
    states, done, kept = _restore(monitor, states)
    chunk = CHUNK if len(view.x) > 1 else CHUNK_OF_ROW
    schedule = _schedule(settings)
    interrupted = False
    try:
        while done < total:
            steps = np.arange(done, done + chunk)
            states, output = over_chains(advance, states, chain_keys, steps, schedule[steps], view)
            kept.append(
                jax.tree.map(lambda leaf, done=done: leaf[:, max(settings.num_warmup - done, 0) : total - done], output)
            )
            done = min(done + chunk, total)
            monitor.worth_keeping = done > settings.num_warmup
            monitor.update(done, total, divergences=float(sum(k[1].diverging.sum() for k in kept)))
            if monitor.checkpoint_path is not None:
                monitor.save(_pack(states, done, kept))
    except KeyboardInterrupt:
        if done <= settings.num_warmup:
            raise
        interrupted = True
    flat, info = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *kept)
    return Draws(
        posterior=constrain(pair, view, flat, unravel), uncertainty="posterior",
        sample_stats=_stats(info), interrupted=interrupted,
        figures={name: getattr(settings, name) for name in ("num_warmup", "max_tree_depth") if hasattr(settings, name)},
    )  # fmt: skip


def _programs(pair: Pair, settings: Any, unravel: Callable, kernel: Callable) -> tuple[Callable, Callable]:
    """The compiled ``init(position, view)`` and ``advance(state, key, steps, stages, view)`` of one chain."""
    log_density = log_density_fn(pair)
    mass_init, mass_update, mass_final = mass_matrix_adaptation(is_diagonal_matrix=True)
    size_init, size_update, size_final = dual_averaging_adaptation(settings.target_accept)

    def init(position: jax.Array, view: View) -> ChainState:
        sampler = blackjax.nuts.init(position, lambda u: log_density(unravel(u), view))
        return _strong(ChainState(sampler, size_init(jnp.asarray(0.5, position.dtype)), mass_init(position.size)))

    def adapt(state: ChainState, stage: jax.Array, window_ends: jax.Array, acceptance: jax.Array) -> ChainState:
        slow = stage == SLOW
        mass = jax.tree.map(
            lambda new, old: jnp.where(slow, new, old),
            mass_update(state.mass_matrix, state.sampler.position), state.mass_matrix,
        )  # fmt: skip
        size = size_update(state.step_size, acceptance)
        mass, size = jax.lax.cond(
            window_ends, lambda: (mass_final(mass), size_init(size_final(size))), lambda: (mass, size)
        )
        return state._replace(step_size=size, mass_matrix=mass)

    def advance(state: ChainState, key: Any, steps: jax.Array, stages: jax.Array, view: View) -> Any:
        def step(state: ChainState, inputs: tuple[jax.Array, jax.Array]) -> Any:
            number, (stage, window_ends) = inputs
            sampling = stage == SAMPLE
            size = jnp.exp(jnp.where(sampling, state.step_size.log_step_size_avg, state.step_size.log_step_size))
            sampler, info = kernel(
                jax.random.fold_in(key, number), state.sampler, lambda u: log_density(unravel(u), view), size,
                state.mass_matrix.inverse_mass_matrix,
            )  # fmt: skip
            moved = state._replace(sampler=sampler)
            state = jax.lax.cond(
                sampling, lambda: moved, lambda: adapt(moved, stage, window_ends == 1, info.acceptance_rate)
            )
            kept = Info(
                info.is_divergent, info.energy, sampler.logdensity, getattr(info, "num_trajectory_expansions", 0),
                info.num_integration_steps, info.acceptance_rate, size,
            )  # fmt: skip
            return state, (sampler.position, kept)

        state, output = jax.lax.scan(step, state, (steps, (stages[:, 0], stages[:, 1])))
        return _strong(state), output

    return jax.jit(init, compiler_options=numpyro_programs.QUICK), jax.jit(advance)


def _stats(info: Info) -> dict[str, np.ndarray]:
    """What is said of steps: the depth of a tree where there are trees."""
    return {name: value for name, value in info._asdict().items() if name != "tree_depth" or np.any(value)}


def _strong(state: ChainState) -> ChainState:
    """The state with no weak types (JAX's name for those of Python numbers), which would compile ``advance`` twice:
    for the state that ``init`` gives, and for its own."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)


def _schedule(settings: Any) -> np.ndarray:
    """(steps, 2): the stage of each step, and whether a window of mass adaptation ends with it (Stan's windows)."""
    total = settings.num_warmup + settings.num_samples
    schedule = np.full((total + CHUNK_OF_ROW, 2), (SAMPLE, 0), dtype=np.int32)
    schedule[: settings.num_warmup] = _windows(settings.num_warmup)
    return schedule


@cache
def _windows(num_warmup: int) -> np.ndarray:
    return np.asarray(build_schedule(num_warmup), dtype=np.int32)


def _pack(states: list, done: int, kept: list) -> dict[str, np.ndarray]:
    """The whole state of the run as a flat dictionary of arrays."""
    packed = {
        f"state/{i}": np.stack(leaves) for i, leaves in enumerate(zip(*map(jax.tree.leaves, states), strict=True))
    }
    if kept:
        leaves = jax.tree.leaves(jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *kept))
        packed |= {f"kept/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    return packed | {"done": np.asarray(done)}


def _restore(monitor: Monitor, states: list) -> tuple[list, int, list]:
    """Where a checkpoint left off, or the beginning."""
    packed = monitor.load()
    if packed is None:
        return states, 0, []
    tree = jax.tree.structure(states[0])
    leaves = [packed[f"state/{i}"] for i in range(tree.num_leaves)]
    states = [jax.tree.unflatten(tree, [jnp.asarray(leaf[c]) for leaf in leaves]) for c in range(len(states))]
    kept = (packed["kept/0"], Info(*(packed[f"kept/{i + 1}"] for i in range(len(Info._fields)))))
    return states, int(packed["done"]), [kept]
