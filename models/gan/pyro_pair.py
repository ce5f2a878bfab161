"""The generative adversarial network in Pyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch

from ppl_gen.adversary import Adversary
from ppl_gen.backends.pyro_networks import Weights, weight_sites
from ppl_gen.backends.pyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.gan import pyro_losses as losses
from ppl_gen.models.gan import pyro_network as network
from ppl_gen.models.gan.architecture import Architecture, idle, initialize, resolve
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.gan import GAN


def build_pair(family: GAN, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables of this schema."""
    architecture = resolve(family, schema)
    return Pair(
        family=family, backend="pyro", has_weights=True, model=partial(model, architecture),
        guide=partial(guide, architecture), initialize=partial(initialize, architecture),
        idle=partial(idle, architecture), latent_size=architecture.latent_size,
        generate=partial(generate, architecture), log_ratio=partial(log_ratio, architecture),
        discriminator=partial(discriminator, architecture), adversary=adversary(architecture),
    )  # fmt: skip


def adversary(architecture: Architecture) -> Adversary:
    """The two players."""
    return Adversary(
        generator=tuple(architecture.generator), discriminator=tuple(architecture.discriminator),
        ratio=tuple(architecture.ratio), noise=partial(noise, architecture), relax=partial(network.relax, architecture),
        forge=partial(network.forge, architecture), judge=partial(judge, architecture),
        discriminator_loss=partial(losses.discriminator_loss, architecture),
        generator_loss=partial(losses.generator_loss, architecture),
        log_ratio_loss=partial(losses.log_ratio_loss, architecture), project=partial(losses.project, architecture),
        pack=architecture.family.pack, threshold=architecture.family.threshold,
        of_game=architecture.family.of_game,
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None,
    realness: bool = False,
) -> None:  # fmt: skip
    """Rows are made of noise z (L,), and observed with noise of their own where there are data; the weights are
    parameters. With ``realness`` a factor says how much likelier each generated row is among the data, so that z is
    drawn as the data would have it."""
    layout = {**architecture.model_layout, **(architecture.ratio if realness else {})}
    weights = weight_sites(layout)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        context, x = (None, None) if view is None else (view.context, view.x)
        with row_weights(view):
            z = pyro.sample("z", prior(architecture))
            if x is None:
                pyro.deterministic("x", network.generate(architecture, weights, z, context), event_dim=1)
            else:
                pyro.sample("x", network.observe(architecture, weights, z, context), obs=x)
            if realness:
                pyro.factor("log_ratio", _log_ratio(architecture, weights, z, context))


def guide(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, subsample_size: int | None = None,
    realness: bool = False,
) -> None:  # fmt: skip
    """The noise from its prior."""
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        with row_weights(view):
            pyro.sample("z", prior(architecture))


def prior(architecture: Architecture) -> dist.TorchDistribution:
    """The noise, standard normal."""
    return dist.Normal(torch.zeros(architecture.latent_size), 1.0).to_event(1)


def noise(architecture: Architecture, number: int, key: int | None = None) -> torch.Tensor:
    """(number, L): draws of the noise."""
    generator = None if key is None else torch.Generator().manual_seed(key)
    return torch.randn((number, architecture.latent_size), generator=generator)


def generate(architecture: Architecture, parameters: Weights, view: View) -> torch.Tensor:
    """(n, D): rows of model space of the noise ``view.x`` (n, L), given ``view.context``."""
    return network.generate(architecture, parameters, view.x, view.context)


def log_ratio(architecture: Architecture, parameters: Weights, view: View) -> torch.Tensor:
    """(n,): log p_data / p_model at the rows of the noise ``view.x`` (n, L), given ``view.context``."""
    return _log_ratio(architecture, parameters, view.x, view.context)


def _log_ratio(
    architecture: Architecture, weights: Weights, z: torch.Tensor, context: torch.Tensor | None
) -> torch.Tensor:
    return network.judge(
        architecture, weights, "ratio", network.forge(architecture, weights, z, context), context
    )  # fmt: skip


def discriminator(architecture: Architecture, parameters: Weights, view: View) -> torch.Tensor:
    """(n,): log p_data / p_model at rows of data."""
    rows = network.relax(architecture, parameters, view)
    return network.judge(architecture, parameters, "ratio", rows, view.context)


def judge(
    architecture: Architecture, parameters: Weights, rows: torch.Tensor, context: torch.Tensor | None
) -> torch.Tensor:
    """(n / pack,): outputs of the discriminator of the game at rows (n, F) as it sees them."""
    return network.judge(architecture, parameters, "discriminator", rows, context, architecture.family.pack)
