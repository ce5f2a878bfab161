"""HMC in JAX: blackjax's kernel in the programs that nuts has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import blackjax
import jax
import jax.numpy as jnp

from ppl_gen.inference.hmc import HMC, MAX_STEPS
from ppl_gen.inference.nuts.numpyro_engine import sample

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: HMC, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.hmc.HMC`."""
    return sample(pair, data, settings, seed, monitor, _kernel)


def _kernel(settings: HMC) -> Callable:
    kernel = blackjax.hmc.build_kernel()

    def transition(key: Any, state: Any, log_density: Callable, size: Any, inverse_mass: Any) -> Any:
        key, key_length = jax.random.split(key)
        length = settings.trajectory_length * jax.random.uniform(key_length, minval=0.5, maxval=1.0)
        number = jnp.clip(jnp.ceil(length / size), 1, MAX_STEPS).astype(int)
        return kernel(key, state, log_density, size, inverse_mass, number)

    return transition
