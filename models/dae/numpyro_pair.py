"""The denoising autoencoder in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpyro

from ppl_gen.backends.numpyro_networks import Weights, weight_sites
from ppl_gen.backends.numpyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.dae import numpyro_network as network
from ppl_gen.models.dae.architecture import Architecture, initialize, resolve
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.dae import DenoisingAutoencoder


def build_pair(family: DenoisingAutoencoder, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema. Training weighs the terms of the corrupted rows with 0: the corruption is
    given, so what is left is the expected log probability of the reconstruction."""
    architecture = resolve(family, schema)
    real = any(group.kind == "real" for group in architecture.groups)
    return Pair(
        family=family, backend="numpyro", has_weights=True, local=("corrupted",), beta=0.0,
        model=partial(model, architecture), collapsed=partial(model, architecture),
        guide=partial(guide, architecture), initialize=partial(initialize, architecture),
        walk=partial(walk, architecture), score_function=partial(score_function, architecture) if real else None,
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows are reconstructed from corrupted states of the chain; the weights are parameters."""
    weights = weight_sites(architecture.layout)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            centres = network.standard(architecture, weights, weights["chain"])
            corrupted = numpyro.sample("corrupted", network.Corrupted(architecture, centres))
            reconstruction = network.reconstruct(architecture, weights, corrupted)
            numpyro.sample("x", reconstruction, obs=None if view is None else view.x)


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Each row is corrupted.

    :raises ValueError: without data there is nothing to corrupt.
    """
    layout = {name: architecture.layout[name] for name in ("noise_shift", "noise_log_scale")}
    weights = weight_sites(layout)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        if view is None:
            raise ValueError("The guide corrupts rows: give it the data.")
        with row_weights(view):
            centre = network.standard(architecture, weights, view.x)
            numpyro.sample("corrupted", network.Corruption(architecture, centre))


def walk(architecture: Architecture, parameters: Weights, view: View, key: jax.Array) -> jax.Array:
    """(C, T, D): the walk-back chain, from the first states of the site ``chain``; ``view`` is not used."""
    return network.walk(architecture, parameters, parameters["chain"][:, 0], key)


def score_function(architecture: Architecture, parameters: Weights, view: View) -> jax.Array:
    r"""(n, D): :math:`(\hat x(x) - x) / \sigma^2` of real columns, in model space; NaN of others."""
    at = network.standard(architecture, parameters, view.x)
    mean = network.mean_reconstruction(architecture, parameters, at)
    (real,) = (group for group in architecture.groups if group.kind == "real")
    sd = architecture.family.noise * jnp.exp(parameters["noise_log_scale"][real.where])
    return jnp.full_like(view.x, jnp.nan).at[:, real.where].set((mean - view.x[:, real.where]) / sd**2)
