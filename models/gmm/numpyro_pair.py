"""The Gaussian mixture in NumPyro."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import autoguide
from numpyro.infer.initialization import init_to_uniform, init_to_value

from ppl_gen.family import Pair
from ppl_gen.models.gmm import numpyro_em
from ppl_gen.models.gmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.gmm.initialize import initialize
from ppl_gen.models.gmm.numpyro_density import GaussianMixture, component, component_scale, log_weights, priors

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.gmm import GMM


def build_pair(family: GMM, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema; the prior of ``"auto"`` depends on ``num_obs``, the training rows."""
    hyper = resolve(family, len(schema.columns), num_obs)
    make = partial(make_guide, hyper)
    closed = hyper.has_closed_form
    return Pair(
        family=family, backend="numpyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(numpyro_em.log_prior, hyper), is_degenerate=partial(numpyro_em.is_degenerate, hyper),
        e_step=partial(numpyro_em.e_step, hyper) if closed else None,
        m_step=partial(numpyro_em.m_step, hyper) if closed else None,
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
    with numpyro.plate("obs", _num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = _rows(data, rows, subsample_size)
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
    with numpyro.plate("obs", _num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = _rows(data, rows, subsample_size)
        with _row_weights(view):
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


def _num_rows(data: View | None, num_obs: int | None) -> int:
    if data is not None:
        return len(data.x)
    if num_obs is None:
        raise ValueError("Give the data, or num_obs, the number of observations to draw.")
    return num_obs


def _rows(data: View | None, rows: jax.Array, subsample_size: int | None) -> View | None:
    """The rows of a mini-batch, or all of them."""
    if data is None or subsample_size is None:
        return data
    chosen = {name: value[rows] for name, value in data._asdict().items() if value is not None and name != "patterns"}
    return data._replace(**chosen)


def _row_weights(view: View | None) -> Any:
    if view is None or view.weights is None:
        return nullcontext()
    # The handler refuses a scale of 0.
    return handlers.scale(scale=jnp.maximum(view.weights, jnp.finfo(view.x.dtype).tiny))


def make_guide(
    hyper: Hyperparameters, kind: str, values: Mapping[str, Any] | None = None, *, seed: int = 0
) -> Callable[..., Any]:
    """A guide over the global sites: ``"mean_field"`` or ``"multivariate"``, normal in unconstrained space.

    Its location starts at ``values`` (constrained site values), or at a k-means solution of the data that it is first
    called with (NumPyro's random start where that call is traced, as the data then is not known yet).
    """
    base = {"mean_field": autoguide.AutoNormal, "multivariate": autoguide.AutoMultivariateNormal}[kind]

    class Guide(base):  # type: ignore[misc, valid-type]
        def _setup_prototype(self, data: View | None, **kwargs: Any) -> None:
            start = values
            if start is None and data is not None and not isinstance(data.x, jax.core.Tracer):
                start = {name: value[0] for name, value in initialize(hyper, data, seed, 1).items()}
            if start is not None:
                start = {name: jnp.asarray(np.asarray(value), dtype=float) for name, value in start.items()}
                self.init_loc_fn = init_to_value(values=start)
            super()._setup_prototype(data, **kwargs)

    Guide.__name__ = Guide.__qualname__ = base.__name__
    # The collapsed model has the same global sites, and no discrete one that a guide would have to be kept from.
    return Guide(partial(collapsed, hyper), init_loc_fn=init_to_uniform)
