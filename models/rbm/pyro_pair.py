"""The restricted Boltzmann machine in Pyro, the twin of ``numpyro_pair``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch

from ppl_gen.backends.pyro_networks import Weights, weight_sites
from ppl_gen.backends.pyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.rbm import pyro_machine as machine
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
        family=family, backend="pyro", has_weights=True, model=partial(model, architecture),
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
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        base = machine.BaseRates(architecture, weights)
        x = pyro.sample("x", base, obs=None if view is None else view.x)
        logits = machine.hidden_logits(architecture, weights, x)
        with pyro.plate("hidden", architecture.family.num_hidden, dim=-2):
            h = pyro.sample("h", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.factor("hidden_energy", h * logits.mT + machine.LOG_2)
        own = machine.own_terms(architecture, weights, x)
        pyro.factor("energy", own - base.log_prob(x) - log_normalizer)
        if view is not None and view.weights is not None:
            log_prob = -machine.free_energy(architecture, weights, x) - log_normalizer
            pyro.factor("row_weights", (view.weights - 1) * log_prob)


def collapsed(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The same density with the hidden units summed out in closed form: ``energy`` is minus the free energy."""
    weights, log_normalizer = _sites(architecture)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            base = machine.BaseRates(architecture, weights)
            x = pyro.sample("x", base, obs=None if view is None else view.x)
            free_energy = machine.free_energy(architecture, weights, x)
            pyro.factor("energy", -free_energy - base.log_prob(x) - log_normalizer)


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The posterior of the hidden units given rows, which is exact.

    :raises ValueError: without data there is nothing to condition on.
    """
    weights = weight_sites(architecture.guide_layout)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        if view is None:
            raise ValueError("The guide is the posterior of hidden units given rows: give it the data.")
        logits = machine.hidden_logits(architecture, weights, view.x)
        with pyro.plate("hidden", architecture.family.num_hidden, dim=-2):
            pyro.sample("h", dist.Bernoulli(logits=logits.mT))


def features(architecture: Architecture, parameters: Weights, view: View) -> torch.Tensor:
    """(n, H): p(h_j = 1 | x) of each hidden unit."""
    return torch.sigmoid(machine.hidden_logits(architecture, parameters, view.x))


def _sites(architecture: Architecture) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return weight_sites(architecture.layout), pyro.param("log_normalizer", torch.tensor(0.0))
