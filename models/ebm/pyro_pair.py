"""The energy-based model in Pyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyro
import torch

from ppl_gen.backends.pyro_networks import weight_sites
from ppl_gen.backends.pyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.ebm import pyro_network as network
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
        family=family, backend="pyro", has_weights=True, model=partial(model, architecture),
        collapsed=partial(model, architecture), guide=guide, initialize=partial(initialize, architecture),
        idle=partial(idle, architecture), tempered=partial(network.tempered, architecture),
        draw_base=partial(network.draw_base, architecture),
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None
) -> None:
    """Rows are drawn from the base, and a factor is minus their energy, less log Z; the weights are parameters."""
    weights = weight_sites(architecture.layout)
    log_normalizer = pyro.param("log_normalizer", lambda: torch.zeros(()))
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            base = network.base(architecture, weights)
            x = pyro.sample("x", base, obs=None if view is None else view.x)
            pyro.factor("energy", network.tilt(architecture, weights, x, base.log_prob(x)) - log_normalizer)


def guide(data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None) -> None:
    """Empty: the model has no latent variable."""


def initialize(architecture: Architecture, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Starts of the weights; see :func:`ppl_gen.models.ebm.architecture.initialize`.

    :raises SettingError: a function of the user's is no energy of these rows.
    """
    if architecture.family.is_given:

        def rows(x: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(x, dtype=torch.get_default_dtype())

        check_energy(
            lambda x: network.given(architecture, rows(x)).double().numpy(),
            lambda x: torch.autograd.functional.jacobian(lambda x: network.given(architecture, x).sum(), rows(x)),
            np.asarray(view.x, np.float64), architecture.family.base == "uniform", "a torch tensor",
        )  # fmt: skip
    return start(architecture, view, seed, num_starts)
