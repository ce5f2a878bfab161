"""The Gaussian mixture in Pyro, the twin of ``numpyro_pair``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch

from ppl_gen.backends.pyro_pairs import make_guide, row_weights
from ppl_gen.family import Pair
from ppl_gen.models.gmm import pyro_em
from ppl_gen.models.gmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.gmm.initialize import initialize
from ppl_gen.models.gmm.pyro_density import GaussianMixture, as_float, component, component_scale, log_weights, priors
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
        family=family, backend="pyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(pyro_em.log_prior, hyper), is_degenerate=partial(pyro_em.is_degenerate, hyper),
        e_step=partial(pyro_em.e_step, hyper) if not obstacle else None,
        m_step=partial(pyro_em.m_step, hyper) if not obstacle else None,
        lacking=dict.fromkeys(("e_step", "m_step"), obstacle) if obstacle else {},
    )  # fmt: skip


def model(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The definition: every row has a label z, enumerated in parallel.

    Under enumeration z has shape (K, 1): the labels take the batch dimension left of the plate, so that indexing the
    sites with z gives every row under every component, (K, n, ...). Row weights: Pyro's TraceEnum_ELBO refuses a
    scale per row and its NUTS scales an enumerated site before it sums the site out, so a weight w enters as the
    missing part of the log density, (w - 1) log p(x), which is exact in every algorithm.
    """
    weights, locs, scale = _mixture(hyper)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        z = pyro.sample("z", dist.Categorical(logits=log_weights(weights)), infer={"enumerate": "parallel"})
        pyro.sample("x", component(locs, scale, z, view), obs=None if view is None else view.x)
        if view is not None and view.weights is not None:
            log_prob = GaussianMixture(weights, locs, scale, view).log_prob(view.x)
            pyro.factor("row_weights", (view.weights - 1) * log_prob)


def collapsed(
    hyper: Hyperparameters, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """The same density with the labels summed out in closed form: fewer operations, the same sites otherwise."""
    weights, locs, scale = _mixture(hyper)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            pyro.sample("x", GaussianMixture(weights, locs, scale, view), obs=None if view is None else view.x)


def _mixture(hyper: Hyperparameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The global sites: weights (K,), locations (K, D), and scales as :func:`component_scale` gives them."""
    sites = {}
    for name, prior in priors(hyper).items():
        fixed = hyper.fixed.get(name)
        sites[name] = pyro.sample(name, prior) if fixed is None else pyro.deterministic(name, as_float(fixed))
    return sites["weights"], sites["locs"], component_scale(hyper, sites)
