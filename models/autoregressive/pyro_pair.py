"""The autoregressive network in Pyro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from ppl_gen.backends.pyro_networks import Weights, weight_guide, weight_sites
from ppl_gen.backends.pyro_pairs import row_weights
from ppl_gen.family import Pair
from ppl_gen.models.autoregressive import pyro_convolution as convolution
from ppl_gen.models.autoregressive import pyro_network as network
from ppl_gen.models.autoregressive import pyro_pixelcnn as pixelcnn
from ppl_gen.models.autoregressive.architecture import Architecture, initialize, resolve
from ppl_gen.view import batch_of, num_rows

if TYPE_CHECKING:
    from ppl_gen.data import Schema, View
    from ppl_gen.models.autoregressive import Autoregressive


def build_pair(family: Autoregressive, schema: Schema, num_obs: int) -> Pair:
    """The pair for tables, or sequences, of this schema. Without priors on the weights there is nothing to guide."""
    architecture = resolve(family, schema)
    hooks: dict[str, Any] = {"from_uniform": partial(from_uniform, architecture)}
    hooks |= {"to_uniform": partial(to_uniform, architecture)}
    if family.sequences:
        hooks |= {"step_log_prob": partial(step_log_prob, architecture), "forecast": partial(forecast, architecture)}
    start = partial(initialize, architecture)
    make = partial(weight_guide, architecture.layout, partial(model, architecture), start)
    return Pair(
        family=family, backend="pyro", has_weights=True, bayesian=family.bayesian, initialize=start,
        model=partial(model, architecture), collapsed=partial(model, architecture),
        guide=make("mean_field") if family.bayesian else guide, make_guide=make if family.bayesian else None, **hooks,
    )  # fmt: skip


def model(
    architecture: Architecture, data: View | None, *, num_obs: int | None = None, num_steps: int | None = None,
    subsample_size: int | None = None,
) -> None:  # fmt: skip
    """Rows, images or sequences are drawn column by column; the weights are parameters, or latent variables with
    priors."""
    family = architecture.family
    weights = weight_sites(architecture.layout, family.prior_scale if family.bayesian else None)
    with pyro.plate("obs", num_rows(data, num_obs), subsample_size=subsample_size, dim=-1) as rows:
        view = batch_of(data, rows, subsample_size)
        fn = Chain(architecture, weights, num_steps or 1, view)
        with row_weights(view):
            pyro.sample("x", fn, obs=None if view is None else view.x)


def guide(
    data: View | None, *, num_obs: int | None = None, num_steps: int | None = None, subsample_size: int | None = None
) -> None:
    """Empty: the model has no latent variable, and the ELBO is its log likelihood."""


class Chain(TorchDistribution):
    """Rows or images, of event shape (D,), or sequences, (T, D), as a chain of conditionals. Batch shape (N,) with the
    lengths or the context of a View."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, architecture: Architecture, weights: Weights, num_steps: int, view: View | None = None, *,
        batch_shape: tuple[int, ...] = (), validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture, self.weights, self.num_steps, self.view = architecture, dict(weights), num_steps, view
        self.context: Any = None if view is None else view.context
        self.lengths: Any = None if view is None else view.lengths
        known = self.lengths if self.context is None else self.context
        if known is not None:
            batch_shape = torch.broadcast_shapes(batch_shape, known.shape[:1])
        event_shape: tuple[int, ...] = (architecture.row_size,)
        if architecture.family.sequences:
            event_shape = (num_steps if view is None else view.x.shape[1], *event_shape)
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Kinds differ by column, so none is more than real."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> Chain:
        return Chain(
            self.architecture, self.weights, self.num_steps, self.view, batch_shape=batch_shape,
            validate_args=self._validate_args,
        )  # fmt: skip

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self.architecture.image is not None:
            flat = value.reshape(-1, *self.event_shape)
            return pixelcnn.log_prob(self.architecture, self.weights, flat).reshape(value.shape[:-1])
        if not self.architecture.family.sequences:
            return network.log_prob(self.architecture, self.weights, value, self.context)
        flat = value.reshape(-1, *self.event_shape)
        found = convolution.step_log_prob(self.architecture, self.weights, flat, self.lengths)
        return found.sum(-1).reshape(value.shape[:-2])

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        with torch.no_grad():
            shape = (*sample_shape, *self.batch_shape, *self.event_shape)
            return from_uniform(self.architecture, self.weights, torch.rand(shape), self.context)


def from_uniform(
    architecture: Architecture, parameters: Weights, u: torch.Tensor, context: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows (..., D) or sequences (..., T, D), drawn by the uniform numbers u of that shape."""
    if architecture.image is not None:
        return pixelcnn.from_uniform(architecture, parameters, u.reshape(-1, u.shape[-1])).reshape(u.shape)
    if not architecture.family.sequences:
        return network.from_uniform(architecture, parameters, u, context)
    return convolution.from_uniform(architecture, parameters, u.reshape(-1, *u.shape[-2:])).reshape(u.shape)


def to_uniform(architecture: Architecture, parameters: Weights, view: View) -> torch.Tensor:
    """(N, D, 2) or (N, T, D, 2): the ends of the interval that the u of each entry lies in."""
    if architecture.image is not None:
        return pixelcnn.to_uniform(architecture, parameters, view.x)
    if architecture.family.sequences:
        return torch.stack(convolution.to_uniform(architecture, parameters, view.x), -1)
    return torch.stack(network.to_uniform(architecture, parameters, view.x, view.context), -1)


def step_log_prob(architecture: Architecture, parameters: Weights, view: View) -> torch.Tensor:
    """(N, T): log p(x_t | x_<t), 0 past the end."""
    return convolution.step_log_prob(architecture, parameters, view.x, view.lengths)


def forecast(
    architecture: Architecture, parameters: Weights, view: View, horizon: int, seed: int | None = None
) -> dict[str, torch.Tensor]:
    """A draw of the continuation of each sequence, ``x`` (N, horizon, D)."""
    shape = (len(view.x), horizon, architecture.num_columns)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    u = torch.rand(shape, generator=generator)
    return {"x": convolution.forecast(architecture, parameters, view.x, view.lengths, u)}
