"""The Gaussian mixture in Pyro, the twin of ``numpyro_pair``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_uniform

from ppl_gen.family import Pair
from ppl_gen.models.gmm import pyro_em
from ppl_gen.models.gmm.hyperparameters import Hyperparameters, resolve
from ppl_gen.models.gmm.initialize import initialize
from ppl_gen.models.gmm.pyro_density import GaussianMixture, as_float, component, component_scale, log_weights, priors

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.gmm import GMM


def build_pair(family: GMM, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema; the prior of ``"auto"`` depends on ``num_obs``, the training rows."""
    hyper = resolve(family, len(schema.columns), num_obs)
    make = partial(make_guide, hyper)
    closed = hyper.has_closed_form
    return Pair(
        family=family, backend="pyro", model=partial(model, hyper), guide=make("mean_field"),
        collapsed=partial(collapsed, hyper), initialize=partial(initialize, hyper), make_guide=make,
        log_prior=partial(pyro_em.log_prior, hyper), is_degenerate=partial(pyro_em.is_degenerate, hyper),
        e_step=partial(pyro_em.e_step, hyper) if closed else None,
        m_step=partial(pyro_em.m_step, hyper) if closed else None,
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
    with pyro.plate("obs", _num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = _rows(data, rows, subsample_size)
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
    with pyro.plate("obs", _num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = _rows(data, rows, subsample_size)
        with _row_weights(view):
            pyro.sample("x", GaussianMixture(weights, locs, scale, view), obs=None if view is None else view.x)


def _mixture(hyper: Hyperparameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The global sites: weights (K,), locations (K, D), and scales as :func:`component_scale` gives them."""
    sites = {}
    for name, prior in priors(hyper).items():
        fixed = hyper.fixed.get(name)
        sites[name] = pyro.sample(name, prior) if fixed is None else pyro.deterministic(name, as_float(fixed))
    return sites["weights"], sites["locs"], component_scale(hyper, sites)


def _num_rows(data: View | None, num_obs: int | None) -> int:
    if data is not None:
        return len(data.x)
    if num_obs is None:
        raise ValueError("Give the data, or num_obs, the number of observations to draw.")
    return num_obs


def _rows(data: View | None, rows: torch.Tensor, subsample_size: int | None) -> View | None:
    """The rows of a mini-batch, or all of them."""
    if data is None or subsample_size is None:
        return data
    chosen = {name: value[rows] for name, value in data._asdict().items() if value is not None and name != "patterns"}
    return data._replace(**chosen)


def _row_weights(view: View | None) -> Any:
    if view is None or view.weights is None:
        return nullcontext()
    # The handler refuses a scale of 0.
    return poutine.scale(scale=view.weights.clamp(min=torch.finfo(view.x.dtype).tiny))


def make_guide(
    hyper: Hyperparameters, kind: str, values: Mapping[str, Any] | None = None, *, seed: int = 0
) -> Callable[..., Any]:
    """A guide over the global sites: ``"mean_field"`` or ``"multivariate"``, normal in unconstrained space.

    Its location starts at ``values`` (constrained site values), or at a k-means solution of the data that it is first
    called with.
    """
    base = {"mean_field": autoguide.AutoNormal, "multivariate": autoguide.AutoMultivariateNormal}[kind]
    start: dict[str, Any] = dict(values or {})

    class Guide(base):  # type: ignore[misc, valid-type]
        def _setup_prototype(self, data: View | None, **kwargs: Any) -> None:
            if not start and data is not None:
                start.update({name: value[0] for name, value in initialize(hyper, data, seed, 1).items()})
            super()._setup_prototype(data, **kwargs)

    def initial(site: dict[str, Any]) -> torch.Tensor:
        return as_float(start[site["name"]]) if site["name"] in start else init_to_uniform(site)

    Guide.__name__ = Guide.__qualname__ = base.__name__
    # The collapsed model has the same global sites, and no discrete one that a guide would have to be kept from.
    return Guide(partial(collapsed, hyper), init_loc_fn=initial)
