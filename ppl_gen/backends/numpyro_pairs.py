"""What the pair of every family needs in NumPyro: row weights and guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import autoguide
from numpyro.infer.initialization import init_to_uniform, init_to_value

if TYPE_CHECKING:
    from ppl_gen.data import View


def row_weights(view: View | None) -> Any:
    if view is None or view.weights is None:
        return nullcontext()
    # The handler refuses a scale of 0.
    return handlers.scale(scale=jnp.maximum(view.weights, jnp.finfo(view.x.dtype).tiny))


def make_guide(
    collapsed: Callable[..., Any], initialize: Callable[..., Mapping[str, Any]], kind: str,
    values: Mapping[str, Any] | None = None, *, seed: int = 0, scale: float = 0.1,
) -> Callable[..., Any]:  # fmt: skip
    """A guide over the global sites: ``"mean_field"`` or ``"multivariate"``, normal in unconstrained space.

    Its location starts at ``values`` (constrained site values), or at a k-means solution of the data that it is first
    called with (NumPyro's random start where that call is traced, as the data then is not known yet). Its standard
    deviations start at ``scale``.
    """
    base = {"mean_field": autoguide.AutoNormal, "multivariate": autoguide.AutoMultivariateNormal}[kind]

    class Guide(base):  # type: ignore[misc, valid-type]
        def _setup_prototype(self, data: View | None, **kwargs: Any) -> None:
            start = values
            if start is None and data is not None and not isinstance(data.x, jax.core.Tracer):
                start = {name: value[0] for name, value in initialize(data, seed, 1).items()}
            if start is not None:
                start = {name: jnp.asarray(np.asarray(value), dtype=float) for name, value in start.items()}
                self.init_loc_fn = init_to_value(values=start)
            super()._setup_prototype(data, **kwargs)

    Guide.__name__ = Guide.__qualname__ = base.__name__
    # The collapsed model has the same global sites, and no discrete one that a guide would have to be kept from.
    return Guide(collapsed, init_loc_fn=init_to_uniform, init_scale=scale)
