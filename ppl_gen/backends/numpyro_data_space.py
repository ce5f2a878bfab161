"""A row, or the noise that a generator makes it of, as the latent variable of a NumPyro model, for any engine that
samples a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.pair import Pair


def arrays(values: Any) -> Any:
    """A dictionary of numpy arrays, or of dictionaries of them, in the default float."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), values)


def latent_model_of(pair: Pair) -> Any:
    """A model whose one latent site ``z`` (L,) has the density of noise whose row is as likely among the data as the
    log ratio says. The context of the data that it reads are the ``parameters``, and what is ``given``, if anything."""

    def model(data: Any, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
        z = numpyro.sample("z", dist.Normal(jnp.zeros(pair.latent_size), 1.0).to_event(1))
        row = View(z[None], context=data.context.get("given"))
        numpyro.factor("log_ratio", pair.log_ratio(data.context["parameters"], row)[0])  # type: ignore[misc]

    return model


def model_of(pair: Pair, row: tuple[int, ...]) -> Any:
    """A model whose one latent site ``x`` (*row) has the pair's unnormalised density. The parameters are the context
    of the data that it reads."""

    def model(data: Any, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), row))
        numpyro.factor("energy", pair.tempered(data.context, x[None], 1.0)[0])  # type: ignore[misc]

    return model
