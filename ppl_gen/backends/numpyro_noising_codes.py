"""Codes of rows under a diffusion model in JAX: see :mod:`ppl_gen.noising_codes`. Arrays come and go as numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.backends.numpyro_probability_flow import code_of, row_of

if TYPE_CHECKING:
    from ppl_gen.pair import Pair
    from ppl_gen.view import View


def codes(pair: Pair, parameters: Mapping[str, np.ndarray], view: View) -> np.ndarray:
    """(n, F): z_1 of rows."""

    def run(parameters: Any, x: jax.Array, context: jax.Array | None) -> jax.Array:
        assert pair.noising is not None
        return code_of(pair.noising, parameters, x, context)

    program = pair.cached("noising_codes", lambda: jax.jit(run))
    context = None if view.context is None else jnp.asarray(view.context, dtype=float)
    return np.asarray(program(as_jax(parameters), jnp.asarray(view.x, dtype=float), context))


def decoded(
    pair: Pair, parameters: Mapping[str, np.ndarray], values: np.ndarray, context: np.ndarray | None
) -> np.ndarray:
    """(n, D): rows of codes (n, F)."""

    def run(parameters: Any, values: jax.Array, context: jax.Array | None) -> jax.Array:
        assert pair.noising is not None
        return row_of(pair.noising, parameters, values, context)

    program = pair.cached("noising_rows", lambda: jax.jit(run))
    given = None if context is None else jnp.asarray(context, dtype=float)
    return np.asarray(program(as_jax(parameters), jnp.asarray(values, dtype=float), given))
