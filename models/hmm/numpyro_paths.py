"""What is known of the hidden path, in JAX: the hooks of a pair for sequences, each for one set of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ppl_gen.models.hmm import numpyro_chain as chain
from ppl_gen.models.hmm import numpyro_switching as switching
from ppl_gen.models.hmm import numpyro_walks as walks
from ppl_gen.models.hmm.numpyro_emission import (
    Emission,
    Sites,
    complete,
    emission_log_prob,
    first_state,
    has_zeros,
    transitions,
)

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters


def _tables(hyper: Hyperparameters, parameters: Sites, view: View) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
    """All sites, the first state's probabilities, the transitions and the emission table."""
    sites, steps = complete(hyper, parameters), view.x.shape[1]
    transition = transitions(hyper, sites, None if view.context is None else view.context[:, :steps])
    return sites, first_state(hyper, sites), transition, emission_log_prob(hyper, sites, view)


def _recursions(hyper: Hyperparameters) -> Any:
    """The module of the recursions: of transitions that are the same at every step, or not."""
    return switching if hyper.num_context else chain


def _walks(hyper: Hyperparameters) -> Any:
    return switching if hyper.num_context else walks


def step_log_prob(hyper: Hyperparameters, parameters: Sites, view: View) -> jax.Array:
    """(N, T): log p(x_t | x_1..t-1), 0 past the end; sums over t to log p(x)."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    steps = _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[1]
    if view.mask is None:
        return steps
    # Nothing observed has log density 0 but for rounding, and for a first step whose states' weights sum to K.
    return jnp.where(view.mask.any(-1) | (jnp.arange(steps.shape[1]) == 0), steps, 0.0)


def filtered(hyper: Hyperparameters, parameters: Sites, view: View) -> jax.Array:
    """(N, T, K): p(z_t | x_1..t); past the end the prediction."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[0]


def smoothed(hyper: Hyperparameters, parameters: Sites, view: View) -> jax.Array:
    """(N, T, K): p(z_t | x) given the whole sequence; past the end the prediction."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    table = jnp.swapaxes(table, 0, 1)
    *_, probs = _recursions(hyper).expectations(initial, transition, table, None, view.lengths, has_zeros(hyper))
    return jnp.swapaxes(probs, 0, 1)


def most_probable_path(hyper: Hyperparameters, parameters: Sites, view: View) -> jax.Array:
    """(N, T): the path of largest joint density given the sequence; past the end its last state."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    return _walks(hyper).most_probable_path(initial, transition, table, view.lengths)


def sample_paths(hyper: Hyperparameters, parameters: Sites, view: View, key: jax.Array) -> jax.Array:
    """(N, T): a draw of the path given the sequence; past the end a draw of its continuation."""
    _, initial, transition, table = _tables(hyper, parameters, view)
    probs = _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[0]
    return _walks(hyper).sample_paths(key, transition, probs)


def forecast(
    hyper: Hyperparameters, parameters: Sites, view: View, horizon: int, key: jax.Array
) -> dict[str, jax.Array]:
    """A draw of the continuation of each sequence: states ``z`` (N, horizon) and time steps ``x`` (N, horizon, D). With
    covariates those of the future follow those of the past in the context, (N, T + horizon, C)."""
    sites, initial, transition, table = _tables(hyper, parameters, view)
    probs = _recursions(hyper).forward(initial, transition, table, has_zeros(hyper))[0]
    lengths = jnp.full(len(probs), view.x.shape[1]) if view.lengths is None else view.lengths
    last = jnp.take_along_axis(probs, lengths[:, None, None] - 1, axis=1)[:, 0]
    key_z, key_x = jax.random.split(key)
    if hyper.num_context:
        ahead = (lengths[:, None] + jnp.arange(-1, horizon))[..., None]
        following = transitions(hyper, sites, jnp.take_along_axis(view.context, ahead, axis=1))
        z = switching.simulate(key_z, last, following)[:, 1:]
    else:
        z = walks.simulate(key_z, last @ transition, transition, horizon)
    return {"z": z, "x": Emission(hyper, sites, z).sample(key_x)}
