"""A row itself as the latent variable of a Pyro model, for any engine that samples a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch

if TYPE_CHECKING:
    from ppl_gen.pair import Pair


def model_of(pair: Pair, row: tuple[int, ...]) -> Any:
    """A model whose one latent site ``x`` (*row) has the pair's unnormalised density. The parameters are the context
    of the data that it reads."""

    def model(data: Any, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
        anywhere = dist.Normal(torch.zeros(row), 1.0).to_event(len(row)).mask(False)  # density 1 everywhere
        x = pyro.sample("x", anywhere)
        pyro.factor("energy", pair.tempered(data.context, x[None], torch.ones(()))[0])  # type: ignore[misc]

    return model
