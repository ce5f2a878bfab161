"""The Gaussian mixture in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from ppl_gen.backends.numpyro_pairs import make_guide, row_weights
from ppl_gen.family import Pair
from ppl_gen.models.gmm import numpyro_em
from ppl_gen.models.gmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.gmm.initialize import initialize
from ppl_gen.models.gmm.numpyro_density import GaussianMixture, component, component_scale, log_weights, priors
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.gmm import GMM


def build_pair(family: GMM, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema; the prior of ``"auto"`` depends on ``num_obs``, the training rows."""
    hyper = resolve(family, len(schema.columns), num_obs)
    make = partial(make_guide, partial(collapsed, hyper), partial(initialize, hyper))
    obstacle = hyper.obstacle
    return Pair(
        family=family, backend="numpyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(numpyro_em.log_prior, hyper), is_degenerate=partial(numpyro_em.is_degenerate, hyper),
        e_step=partial(numpyro_em.e_step, hyper) if not obstacle else None,
        m_step=partial(numpyro_em.m_step, hyper) if not obstacle else None,
        lacking=dict.fromkeys(("e_step", "m_step"), obstacle) if obstacle else {},
    )  # fmt: skip


def model(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The definition: every row has a label z, enumerated in parallel.

    Under enumeration z has shape (K, 1): the labels take the batch dimension left of the plate, so that indexing the
    sites with z gives every row under every component, (K, n, ...). Row weights: NumPyro scales the factors of an
    enumerated site before it sums the site out, or refuses, so a weight w enters as the missing part of the
    log density, (w - 1) log p(x), which is exact in every algorithm.
    """
    weights, locs, scale = _mixture(hyper)
    # NumPyro's TraceEnum_ELBO can't sum over a label of one value.
    infer = {"enumerate": "parallel"} if hyper.num_components > 1 else {}
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        z = numpyro.sample("z", dist.Categorical(logits=log_weights(weights)), infer=infer)
        numpyro.sample("x", component(locs, scale, z, view), obs=None if view is None else view.x)
        if view is not None and view.weights is not None:
            log_prob = GaussianMixture(weights, locs, scale, view).log_prob(view.x)
            numpyro.factor("row_weights", (view.weights - 1) * log_prob)


def collapsed(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The same density with the labels summed out in closed form: fewer operations, the same sites otherwise."""
    weights, locs, scale = _mixture(hyper)
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            numpyro.sample("x", GaussianMixture(weights, locs, scale, view), obs=None if view is None else view.x)


def _mixture(hyper: Hyperparameters) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The global sites: weights (K,), locations (K, D), and scales as :func:`component_scale` gives them."""
    sites = {}
    for name, prior in priors(hyper).items():
        fixed = hyper.fixed.get(name)
        if fixed is None:
            sites[name] = numpyro.sample(name, prior)
        else:
            sites[name] = numpyro.deterministic(name, jnp.asarray(fixed, float))
    return sites["weights"], sites["locs"], component_scale(hyper, sites)
