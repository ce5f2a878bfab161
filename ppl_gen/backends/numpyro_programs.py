"""Compiled functions in JAX: quickly for small jobs, in full for large ones, and one run on each core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.view import View

# Compiling costs more than running a small job once, and the compiler's own optimizations are most of it.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
PIECE = 8192  # rows that are worth a thread


def small(pair: Pair) -> int:
    """Up to how many draws x rows a job is small: a row of a network is a hundred times the work of another."""
    return 2_000 if pair.has_weights else 200_000


class Program:
    """A function compiled twice at most: quickly for small jobs, with all optimizations for large ones."""

    def __init__(self, function: Callable, limit: int) -> None:
        self.limit, self.quick, self.full = limit, jax.jit(function, compiler_options=QUICK), jax.jit(function)

    def __call__(self, size: int, *args: Any) -> Any:
        """``size`` is that of the job, in units of the program's limit."""
        return (self.quick if size <= self.limit else self.full)(*args)


def num_threads() -> int:
    """How many threads this process may keep busy: what ``OMP_NUM_THREADS`` says, as of other libraries, else one for
    each core."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdigit() and int(allowed) else os.cpu_count() or 1


def one_per_core(program: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    """``program`` of each run's arguments, as :func:`map`: as many at a time as there are cores, which the interpreter
    does not hinder, as XLA releases its lock."""

    double = jnp.result_type(float) == jnp.float64

    def finished(*inputs: Any) -> Any:
        with jax.enable_x64(double):  # which a thread does not inherit
            return jax.block_until_ready(program(*inputs))

    with ThreadPoolExecutor(num_threads()) as pool:
        return list(pool.map(finished, *arguments))


def rows_over_cores(program: Callable[[View], Any], view: View) -> np.ndarray:
    """``program(view)``, (..., n): of many rows in pieces of one length, on each core one at a time, so that one
    program is compiled for any number of them. XLA alone leaves a core idle for a good part of such a job."""
    number, size = len(view.x), PIECE
    if number <= size or jax.default_backend() != "cpu":
        return np.asarray(program(view))
    starts = [min(start, number - size) for start in range(0, number, size)]
    found = one_per_core(program, [view.take(slice(start, start + size)) for start in starts])
    found = [
        np.asarray(part)[..., at * size - start :] for at, (start, part) in enumerate(zip(starts, found, strict=True))
    ]
    return np.concatenate(found, axis=-1)


class CompiledOnce:
    """A function of arrays of one shape, compiled once, not by each of the threads that call it first.

    :param quick: without the compiler's own optimizations, for a job that takes less time than they would.
    """

    def __init__(self, function: Callable[..., Any], quick: bool = False) -> None:
        self.function, self._lock, self._options = function, Lock(), QUICK if quick else None
        self._compiled: Any = None

    def __call__(self, *inputs: Any) -> Any:
        with self._lock:
            if self._compiled is None:
                self._compiled = jax.jit(self.function, compiler_options=self._options).lower(*inputs).compile()
            compiled = self._compiled
        return compiled(*inputs)


def pack_state(state: Any) -> dict[str, np.ndarray]:
    """The leaves of a state as plain arrays, for a checkpoint."""
    return {f"state/{i}": np.asarray(_data(leaf)) for i, leaf in enumerate(jax.tree.leaves(state))}


def unpack_state(arrays: Mapping[str, np.ndarray], like: Any) -> Any:
    """The state that :func:`pack_state` took apart, of the structure of ``like``."""
    leaves = []
    for i, leaf in enumerate(jax.tree.leaves(like)):
        value = jnp.asarray(arrays[f"state/{i}"])
        leaves.append(jax.random.wrap_key_data(value) if _is_key(leaf) else value)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
