"""The variational autoencoder in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import numpyro

from ppl_gen.backends.numpyro_networks import Weights, weight_sites
from ppl_gen.backends.numpyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.vae import numpyro_label as labels
from ppl_gen.models.vae import numpyro_network as network
from ppl_gen.models.vae.architecture import Architecture, idle, initialize, resolve
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.vae import VAE


def build_pair(family: VAE, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema: the model has the decoder, the guide the encoder."""
    architecture = resolve(family, schema)
    return Pair(
        family=family, backend="numpyro", has_weights=True, bayesian=family.bayesian, local=("z",), beta=family.beta,
        idle=idle,
        model=partial(model, architecture), label=architecture.label,
        collapsed=partial(model, architecture) if architecture.label is None else None,
        guide=partial(guide, architecture), initialize=partial(initialize, architecture),
        decode=partial(decode, architecture),
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows are decoded from latents z (L,), and from a label y where there is one; the weights are parameters, or
    latent variables with priors."""
    family = architecture.family
    weights = weight_sites(architecture.model_layout, family.prior_scale if family.bayesian else None)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        context, mask, x = (None, None, None) if view is None else (view.context, view.mask, view.x)
        with row_weights(view):
            y = labels.site(architecture, weights.get("label_logits"))
            z = numpyro.sample("z", network.prior(architecture, weights))
            raw = network.decode(architecture, weights, z, context, labels.indicator(architecture, y))
            numpyro.sample("x", labels.rows(architecture, weights, raw, mask, y), obs=x)


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The encoder proposes the latents of each row, given the label that a classifier proposes, if there is one.

    :raises ValueError: without data there is nothing to encode.
    """
    weights = weight_sites(architecture.guide_layout)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        if view is None:
            raise ValueError("The guide encodes rows: give it the data.")
        with row_weights(view):
            read = network.inputs(architecture, weights, view)
            mask, y = labels.readable(architecture, view.mask), None
            if architecture.label is not None:
                y = labels.proposed(architecture, labels.classify(architecture, weights, read, mask), view)
            indicator = labels.indicator(architecture, y)
            numpyro.sample("z", network.encode(architecture, weights, read, mask, indicator))


def decode(architecture: Architecture, parameters: Weights, view: View) -> dict[str, jax.Array]:
    """Rows with the latents ``view.x`` (n, L), given ``view.context``: (n, D) each in model space, ``typical`` as they
    would stand in a table, ``expected`` with the probabilities of binary columns. With a label ``view.x`` is
    (n, L + C): after z stand shares of the labels, of which the greatest is the row's own."""
    z, label, y = view.x, None, None
    if architecture.label is not None:
        z, label = z[:, : architecture.family.latent_dim], z[:, architecture.family.latent_dim :]
        y = label.argmax(-1)
    raw = network.decode(architecture, parameters, z, view.context, label)
    rows = labels.rows(architecture, parameters, raw, None, y)
    return {"typical": rows.typical, "expected": rows.expected}
