"""The variational autoencoder in Pyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pyro
import torch

from ppl_gen.backends.pyro_networks import Weights, weight_sites
from ppl_gen.backends.pyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.vae import pyro_network as network
from ppl_gen.models.vae.architecture import Architecture, idle, initialize, resolve
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.vae import VAE


def build_pair(family: VAE, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema: the model has the decoder, the guide the encoder."""
    architecture = resolve(family, schema)
    return Pair(
        family=family, backend="pyro", has_weights=True, local=("z",), beta=family.beta, idle=idle,
        model=partial(model, architecture), collapsed=partial(model, architecture),
        guide=partial(guide, architecture), initialize=partial(initialize, architecture),
        decode=partial(decode, architecture),
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows are decoded from latents z (L,); the weights are parameters."""
    weights = weight_sites(architecture.model_layout)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        context, mask, x = (None, None, None) if view is None else (view.context, view.mask, view.x)
        with row_weights(view):
            z = pyro.sample("z", network.prior(architecture, weights))
            raw = network.decode(architecture, weights, z, context)
            pyro.sample("x", network.Columns(architecture, weights, raw, mask), obs=x)


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The encoder proposes the latents of each row.

    :raises ValueError: without data there is nothing to encode.
    """
    weights = weight_sites(architecture.guide_layout)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        if view is None:
            raise ValueError("The guide encodes rows: give it the data.")
        with row_weights(view):
            read = network.inputs(architecture, weights, view)
            pyro.sample("z", network.encode(architecture, weights, read, view.mask))


def decode(architecture: Architecture, parameters: Weights, view: View) -> dict[str, torch.Tensor]:
    """Rows with the latents ``view.x`` (n, L), given ``view.context``: (n, D) each in model space, ``typical`` as they
    would stand in a table, ``expected`` with the probabilities of binary columns."""
    raw = network.decode(architecture, parameters, view.x, view.context)
    rows = network.Columns(architecture, parameters, raw)
    return {"typical": rows.typical, "expected": rows.expected}
