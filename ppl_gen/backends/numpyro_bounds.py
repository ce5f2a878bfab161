"""The posterior of weights whose likelihood is a bound over local latents, in JAX.

See :mod:`ppl_gen.inference.sgld`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from numpyro.infer.util import constrain_fn, potential_energy

from ppl_gen.backends.numpyro_local import global_model, terms

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.view import View


def row_bound(pair: Pair, parameters: Mapping[str, Any], view: View, key: Any, num_particles: int) -> jax.Array:
    """(obs,): an unbiased estimate of each row's bound, the log of the mean of the weights of particles drawn with
    ``key`` (Burda, Grosse & Salakhutdinov 2016, eq. 8)."""
    found = terms(pair, parameters, view, key, num_particles)
    return jax.nn.logsumexp(found.log_likelihood + found.log_ratio, axis=0) - jnp.log(num_particles)


def bounded_density_fn(pair: Pair, num_particles: int) -> Callable[..., jax.Array]:
    """``f(unconstrained sites, guide's weights, view, rows, key)``: log prior, transform Jacobians included, plus the
    bounds of all rows; with ``rows`` (B,) its unbiased estimate from these rows."""
    model = global_model(pair)

    def log_density(values: Mapping[str, Any], guide: Mapping[str, Any], view: View, rows: Any, key: Any) -> jax.Array:
        one = view.take(slice(0, 1))  # the prior is of no row
        sites = constrain_fn(model, (one,), {}, values)
        some = view if rows is None else view.take(rows)
        bounds = row_bound(pair, {**guide, **sites}, some, key, num_particles)
        if some.weights is not None:
            bounds = bounds * some.weights
        return bounds.sum() * (len(view.x) / len(bounds)) - potential_energy(model, (one,), {}, values)

    return log_density
