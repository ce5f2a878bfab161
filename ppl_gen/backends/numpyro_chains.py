"""What engines that walk in unconstrained space share in JAX: starts, chains side by side, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer.util import constrain_fn, unconstrain_fn

from ppl_gen.backends.numpyro_local import global_model
from ppl_gen.backends.numpyro_programs import one_per_core

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.family import Pair


def to_unconstrained(pair: Pair, view: View, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Constrained values of the latent sites as unconstrained ones."""
    seeded = handlers.seed(pair.density, jax.random.key(0))
    sites = handlers.trace(handlers.substitute(seeded, data=parameters)).get_trace(view)
    latent = {
        name: parameters[name]
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"] and name in parameters
    }
    return unconstrain_fn(global_model(pair), (view,), {}, latent)


def unconstrained_starts(pair: Pair, view: View, starts: Mapping[str, np.ndarray]) -> tuple[jax.Array, Callable]:
    """Starting values as one flat vector per chain, and the way back to a dictionary."""
    convert = pair.cached("unconstrain", lambda: jax.jit(lambda one, view: to_unconstrained(pair, view, one)))
    trees = [
        convert({k: jnp.asarray(v[c]) for k, v in starts.items()}, view)
        for c in range(len(next(iter(starts.values()))))
    ]
    return jnp.stack([ravel_pytree(tree)[0] for tree in trees]), ravel_pytree(trees[0])[1]


def over_chains(advance: Callable, states: list, keys: list, *shared: Any) -> tuple[list, Any]:
    """``advance(state, key, *shared) -> (state, output)`` of every chain; outputs are stacked with the chain first.

    One chain per core at a time on a CPU (:func:`one_per_core`), where a vmapped chain loses
    XLA's fusion of small loops; side by side on a GPU.
    """
    if jax.default_backend() == "cpu":
        results = one_per_core(lambda state, key: advance(state, key, *shared), states, keys)
        states, outputs = [state for state, _ in results], [output for _, output in results]
        return states, jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *outputs)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    stacked, output = jax.vmap(advance, in_axes=(0, 0, *[None] * len(shared)))(stacked, jnp.stack(keys), *shared)
    states = [jax.tree.map(lambda leaf, c=c: leaf[c], stacked) for c in range(len(states))]
    return states, jax.tree.map(np.asarray, output)


def constrain(pair: Pair, view: View, flat: np.ndarray, unravel: Callable) -> dict[str, np.ndarray]:
    """Unconstrained draws (chain, draw, dimension) as constrained site values."""

    def one(u: jax.Array, view: View) -> dict[str, jax.Array]:
        return constrain_fn(global_model(pair), (view,), {}, unravel(u))

    over_draws = jax.vmap(jax.vmap(one, (0, None)), (0, None))
    to_sites = pair.cached(("constrain", str(flat.dtype)), lambda: jax.jit(over_draws))
    return {name: np.asarray(value) for name, value in to_sites(flat, view).items()}
