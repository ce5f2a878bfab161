"""What the pair of every family needs in Pyro: row weights and guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_uniform

from ppl_gen.backends.pyro_normal import as_float

if TYPE_CHECKING:
    from ppl_gen.data import View


def row_weights(view: View | None) -> Any:
    if view is None or view.weights is None:
        return nullcontext()
    # The handler refuses a scale of 0.
    return poutine.scale(scale=view.weights.clamp(min=torch.finfo(view.x.dtype).tiny))


def make_guide(
    collapsed: Callable[..., Any], initialize: Callable[..., Mapping[str, Any]], kind: str,
    values: Mapping[str, Any] | None = None, *, seed: int = 0, scale: float = 0.1,
) -> Callable[..., Any]:  # fmt: skip
    """A guide over the global sites: ``"mean_field"`` or ``"multivariate"``, normal in unconstrained space.

    Its location starts at ``values`` (constrained site values), or at a k-means solution of the data that it is first
    called with. Its standard deviations start at ``scale``.
    """
    base = {"mean_field": autoguide.AutoNormal, "multivariate": autoguide.AutoMultivariateNormal}[kind]
    start: dict[str, Any] = dict(values or {})

    class Guide(base):  # type: ignore[misc, valid-type]
        def _setup_prototype(self, data: View | None, **kwargs: Any) -> None:
            if not start and data is not None:
                start.update({name: value[0] for name, value in initialize(data, seed, 1).items()})
            super()._setup_prototype(data, **kwargs)

    def initial(site: dict[str, Any]) -> torch.Tensor:
        return as_float(start[site["name"]]) if site["name"] in start else init_to_uniform(site)

    Guide.__name__ = Guide.__qualname__ = base.__name__
    # The collapsed model has the same global sites, and no discrete one that a guide would have to be kept from.
    return Guide(collapsed, init_loc_fn=initial, init_scale=scale)
