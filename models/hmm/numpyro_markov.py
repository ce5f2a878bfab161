"""Whole sequences of a hidden Markov model in NumPyro, their paths summed out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl_gen.models.hmm import numpyro_chain as chain
from ppl_gen.models.hmm import numpyro_switching as switching
from ppl_gen.models.hmm import numpyro_walks as walks
from ppl_gen.models.hmm.numpyro_emission import (
    Emission,
    Sites,
    emission_log_prob,
    first_state,
    has_zeros,
    transitions,
)

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.hmm.hyperparameters import Hyperparameters


class HiddenMarkov(dist.Distribution):
    """Whole sequences with their paths summed out. Event shape (T, D); batch shape (N,) with the mask or the context of
    a View.

    ``log_prob`` is of the observed entries, ``sample`` draws whole sequences.
    """

    support = constraints.independent(constraints.real, 2)
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    pytree_data_fields = ("sites", "mask", "patterns", "pattern", "lengths", "context")
    pytree_aux_fields = ("hyper",)

    def __init__(
        self, hyper: Hyperparameters, sites: Sites, num_steps: int, view: View | None = None, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.hyper, self.sites = hyper, dict(sites)
        self.mask = self.patterns = self.pattern = self.lengths = None
        self.context = None if view is None else view.context
        if view is not None and view.mask is not None:
            self.mask, self.patterns, self.pattern, self.lengths = view.mask, view.patterns, view.pattern, view.lengths
        batch_shape = next(((len(part),) for part in (self.mask, self.context) if part is not None), ())
        super().__init__(batch_shape, (num_steps, hyper.num_columns), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        from ppl_gen.data import View

        view = View(value.reshape(-1, *self.event_shape), self.mask, None, self.patterns, self.pattern)
        table = emission_log_prob(self.hyper, self.sites, view)
        start, transition = first_state(self.hyper, self.sites), transitions(self.hyper, self.sites, self.context)
        if self.hyper.num_context:
            log_prob = switching.chain_log_prob(start, transition, table)
        else:
            log_prob = chain.chain_log_prob(start, transition, table, self.lengths, has_zeros(self.hyper))
        return log_prob.reshape(value.shape[:-2])

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        key_z, key_x = jax.random.split(key)
        start = first_state(self.hyper, self.sites)
        start = jnp.broadcast_to(start / start.sum(), (*sample_shape, *self.batch_shape, self.hyper.num_states))
        if self.context is not None:
            z = switching.simulate(key_z, start, transitions(self.hyper, self.sites, self.context))
        else:
            z = walks.simulate(key_z, start, self.sites["transition_matrix"], self.event_shape[0])
        return Emission(self.hyper, self.sites, z).sample(key_x)
