"""The flow in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform, IndependentTransform

from ppl_gen.backends.numpyro_networks import Weights, weight_guide, weight_sites
from ppl_gen.backends.numpyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.flow import numpyro_cnf
from ppl_gen.models.flow.architecture import Architecture, initialize, resolve
from ppl_gen.models.flow.numpyro_base import base, base_cdf, base_quantile
from ppl_gen.models.flow.numpyro_cells import noise, quantize
from ppl_gen.models.flow.numpyro_transforms import FlowTransform, from_base, to_base
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.flow import Flow


def build_pair(family: Flow, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema. With whole-number columns the guide proposes their noise; without them and
    without priors on the weights there is nothing to guide."""
    architecture = resolve(family, schema)
    hooks: dict[str, Any] = {
        "initialize": partial(initialize, architecture), "to_uniform": partial(to_uniform, architecture),
        "from_uniform": partial(from_uniform, architecture),
    }  # fmt: skip
    if architecture.is_discrete.any():
        return Pair(
            family=family, backend="numpyro", has_weights=True, model=partial(dequantized_model, architecture),
            guide=partial(dequantized_guide, architecture), local=("u",), **hooks,
        )  # fmt: skip
    make = partial(weight_guide, architecture.layout, partial(model, architecture), partial(initialize, architecture))
    return Pair(
        family=family, backend="numpyro", has_weights=True, bayesian=family.bayesian,
        model=partial(model, architecture), collapsed=partial(model, architecture),
        guide=make("mean_field") if family.bayesian else guide, make_guide=make if family.bayesian else None,
        log_prob_error=partial(log_prob_error, architecture) if family.transform == "cnf" else None,
        **hooks,
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows are drawn from the base distribution carried through the flow; the weights are parameters, or
    latent variables with priors."""
    family = architecture.family
    weights = weight_sites(architecture.layout, family.prior_scale if family.bayesian else None)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            numpyro.sample("x", flow(architecture, weights, view), obs=None if view is None else view.x)


def guide(data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    """Empty: the model has no latent variable, and the ELBO is its log likelihood."""


def dequantized_model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """A point v of the flow falls into the cell of whole numbers x = floor(v), kept to the codes that there are, at
    u = v - x inside the cell: p(x, u) is the flow's density at x + u."""
    weights = weight_sites(architecture.layout)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        continuous = flow(architecture, weights, view)
        with row_weights(view):
            if view is None or view.x is None:
                v = numpyro.sample("v", continuous)
                numpyro.deterministic("x", quantize(architecture, v))
            else:
                u = noise(architecture)
                shift = IndependentTransform(AffineTransform(-u @ architecture.spread.astype(u.dtype), 1.0), 1)
                numpyro.sample("x", dist.TransformedDistribution(continuous, shift), obs=view.x)


def dequantized_guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Noise that is uniform on the cell, whatever its row (Theis, van den Oord & Bethge 2016, arXiv:1511.01844)."""
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1):
        noise(architecture)  # of density 1, so that row weights make no difference


def flow(architecture: Architecture, weights: Weights, view: View | None) -> dist.Distribution:
    """The distribution of the continuous row, given the context if there is one."""
    transform = FlowTransform(architecture, weights, None if view is None else view.context)
    return dist.TransformedDistribution(base(architecture, weights), transform)


def log_prob_error(architecture: Architecture, weights: Weights, view: View) -> jax.Array:
    """(n,): how far log p(x) of a continuous flow may be off, nats; with whole numbers, in the middle of the cell."""
    if architecture.is_discrete.any():
        view = view._replace(x=view.x + 0.5 * jnp.asarray(architecture.spread, view.x.dtype).sum(0))
    return numpyro_cnf.log_prob_error(architecture, weights, base(architecture, weights).log_prob, view)


def to_uniform(architecture: Architecture, weights: Weights, view: View) -> jax.Array:
    """(n, D, 2), the ends equal: each row in the base space, as F of each column given those before it.

    Of a row with whole numbers it is a point of its cell, drawn in proportion to the density there, as a row that the
    model draws has come from such a point.
    """
    x = view.x
    if architecture.is_discrete.any():
        noise, gumbel = (jnp.asarray(part, x.dtype) for part in architecture.cell_noise(len(x)))
        x = x + noise @ jnp.asarray(architecture.spread, x.dtype)
    u, log_det = to_base(architecture, weights, x, view.context)
    if architecture.is_discrete.any():
        chosen = (base(architecture, weights).log_prob(u) + log_det + gumbel).argmax(0)
        u = jnp.take_along_axis(u, chosen[None, :, None], axis=0)[0]
    at = base_cdf(architecture, weights, u)
    return jnp.stack([at, at], -1)


def from_uniform(
    architecture: Architecture, weights: Weights, u: jax.Array, context: jax.Array | None = None
) -> jax.Array:
    """Rows (..., D) from the uniform numbers of each column given those before it in the base space."""
    x, _ = from_base(architecture, weights, base_quantile(architecture, weights, u), context)
    return quantize(architecture, x) if architecture.is_discrete.any() else x
