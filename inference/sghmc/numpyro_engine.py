"""SGHMC in JAX: blackjax's integrator over the gradients that sgld has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from blackjax.sgmcmc import diffusions

from ppl_gen.inference.sghmc import SGHMC
from ppl_gen.inference.sgld.numpyro_engine import walk

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: SGHMC, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.sghmc.SGHMC`."""
    return walk(pair, data, settings, seed, monitor, 2, _dynamics)


def _dynamics(settings: SGHMC, gradient: Callable) -> Callable:
    def step(key: Any, state: jax.Array, batch: Any, size: Any) -> jax.Array:
        position, momentum = state
        root = jnp.sqrt(size)  # blackjax's step, of a momentum that is v over it
        friction = settings.friction / root
        ahead = gradient(position + root * momentum, batch)  # where Chen et al. take it: else the energy would grow
        integrator = diffusions.sghmc(friction, friction**2)
        return jnp.stack(integrator(key, position, momentum, ahead, root))

    return step
