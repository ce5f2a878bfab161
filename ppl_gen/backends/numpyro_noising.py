"""The functions of a noising process (:class:`~ppl_gen.noising.Noising`) under each member, in NumPyro."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.numpyro_ops import as_jax

if TYPE_CHECKING:
    from ppl_gen.pair import Pair


def over_members(pair: Pair, function: str, posterior: Mapping[str, np.ndarray], *arrays: Any) -> np.ndarray:
    """A function of the noising process under each member, (M, ...), at that member's arrays (M, ...) or None."""

    def run(members: Mapping[str, jax.Array], *values: Any) -> Any:
        return jax.lax.map(lambda one: getattr(pair.noising, function)(one[0], *one[1]), (members, values))

    program = pair.cached(("noising", function), lambda: jax.jit(run))
    given = [None if values is None else jnp.asarray(values, dtype=float) for values in arrays]
    return np.asarray(program(as_jax(posterior), *given))
