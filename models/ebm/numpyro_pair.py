"""The energy-based model in NumPyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from ppl_gen.backends.numpyro_networks import weight_sites
from ppl_gen.backends.numpyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.ebm import numpyro_network as network
from ppl_gen.models.ebm.architecture import Architecture, idle, resolve
from ppl_gen.models.ebm.architecture import initialize as start
from ppl_gen.models.ebm.probe import check_energy
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.ebm import EBM


def build_pair(family: EBM, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema."""
    architecture = resolve(family, schema, num_obs)
    return Pair(
        family=family, backend="numpyro", has_weights=True, model=partial(model, architecture),
        collapsed=partial(model, architecture), guide=guide, initialize=partial(initialize, architecture),
        idle=partial(idle, architecture), tempered=partial(network.tempered, architecture),
        draw_base=partial(network.draw_base, architecture),
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows are drawn from the base, and a factor is minus their energy, less log Z; the weights are parameters."""
    weights = weight_sites(architecture.layout)
    log_normalizer = numpyro.param("log_normalizer", jnp.zeros(()))
    with numpyro.plate("obs", num_rows(data, num_obs), subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            base = network.base(architecture, weights)
            x = numpyro.sample("x", base, obs=None if view is None else view.x)
            numpyro.factor("energy", network.tilt(architecture, weights, x, base.log_prob(x)) - log_normalizer)


def guide(data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    """Empty: the model has no latent variable."""


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Starts of the weights; see :func:`ppl_gen.models.ebm.architecture.initialize`.

    :raises SettingError: a function of the user's is no energy of these rows.
    """
    if architecture.family.is_given:
        check_energy(
            lambda x: np.asarray(network.given(architecture, jnp.asarray(x, dtype=float)), np.float64),
            lambda x: jax.eval_shape(jax.grad(lambda x: network.given(architecture, x).sum()), x.astype(float)),
            np.asarray(view.x, np.float64), architecture.family.base == "uniform", "a jax array",
        )  # fmt: skip
    return start(architecture, view, seed, num_starts)
