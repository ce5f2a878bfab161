"""The restricted Boltzmann machine in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from ppl_gen.backends.numpyro_networks import Weights, weight_sites
from ppl_gen.backends.numpyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.rbm import numpyro_machine as machine
from ppl_gen.models.rbm.architecture import Architecture, idle, initialize, resolve
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.rbm import RBM


def build_pair(family: RBM, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema."""
    architecture = resolve(family, schema)
    exact = architecture.enumerated is not None
    return Pair(
        family=family, backend="numpyro", has_weights=True, model=partial(model, architecture),
        collapsed=partial(collapsed, architecture), guide=partial(guide, architecture),
        initialize=partial(initialize, architecture), idle=partial(idle, architecture),
        features=partial(features, architecture), tempered=partial(machine.tempered, architecture),
        draw_base=partial(machine.draw_base, architecture), gibbs=partial(machine.gibbs, architecture),
        log_normalizer=partial(machine.log_normalizer, architecture) if exact else None,
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The definition: rows are drawn from the base, hidden units by fair coins, and factors are minus the energy.

    The hidden units have a plate of their own, and given a row no unit's factor depends on another's: under parallel
    enumeration ``h`` has shape (2, 1, 1), and each unit is summed out within the plate, 2 H terms for a row and not
    2^H. A row weight w enters as the missing part of the log density, (w - 1) log p(x), as in gmm.
    """
    weights, log_normalizer = _sites(architecture)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        base = machine.BaseRates(architecture, weights)
        x = numpyro.sample("x", base, obs=None if view is None else view.x)
        logits = machine.hidden_logits(architecture, weights, x)
        with numpyro.plate("hidden", architecture.family.num_hidden, dim=-2):
            h = numpyro.sample("h", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            numpyro.factor("hidden_energy", h * logits.T + machine.LOG_2)
        own = machine.own_terms(architecture, weights, x)
        numpyro.factor("energy", own - base.log_prob(x) - log_normalizer)
        if view is not None and view.weights is not None:
            log_prob = -machine.free_energy(architecture, weights, x) - log_normalizer
            numpyro.factor("row_weights", (view.weights - 1) * log_prob)


def collapsed(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The same density with the hidden units summed out in closed form: ``energy`` is minus the free energy."""
    weights, log_normalizer = _sites(architecture)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            base = machine.BaseRates(architecture, weights)
            x = numpyro.sample("x", base, obs=None if view is None else view.x)
            free_energy = machine.free_energy(architecture, weights, x)
            numpyro.factor("energy", -free_energy - base.log_prob(x) - log_normalizer)


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The posterior of the hidden units given rows, which is exact.

    :raises ValueError: without data there is nothing to condition on.
    """
    weights = weight_sites(architecture.guide_layout)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        if view is None:
            raise ValueError("The guide is the posterior of hidden units given rows: give it the data.")
        logits = machine.hidden_logits(architecture, weights, view.x)
        with numpyro.plate("hidden", architecture.family.num_hidden, dim=-2):
            numpyro.sample("h", dist.Bernoulli(logits=logits.T))


def features(architecture: Architecture, parameters: Weights, view: View) -> jax.Array:
    """(n, H): p(h_j = 1 | x) of each hidden unit."""
    return jax.nn.sigmoid(machine.hidden_logits(architecture, parameters, view.x))


def _sites(architecture: Architecture) -> tuple[dict[str, jax.Array], jax.Array]:
    return weight_sites(architecture.layout), numpyro.param("log_normalizer", lambda _: jnp.zeros(()))
