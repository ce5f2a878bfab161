"""A row itself as the latent variable of a NumPyro model, for any engine that samples a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

if TYPE_CHECKING:
    from ppl_gen.pair import Pair


def model_of(pair: Pair, row: tuple[int, ...]) -> Any:
    """A model whose one latent site ``x`` (*row) has the pair's unnormalised density. The parameters are the context
    of the data that it reads."""

    def model(data: Any, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), row))
        numpyro.factor("energy", pair.tempered(data.context, x[None], 1.0)[0])  # type: ignore[misc]

    return model
