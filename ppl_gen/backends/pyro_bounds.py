"""The posterior of weights whose likelihood is a bound over local latents, in torch; see :mod:`ppl_gen.inference.sgld`.
The twin of ``numpyro_bounds``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_gen.backends.pyro_local import terms
from ppl_gen.backends.pyro_programs import Tensors

if TYPE_CHECKING:
    from ppl_gen.backends.pyro_unconstrained import Unconstrained
    from ppl_gen.family import Pair
    from ppl_gen.view import View


def row_bound(pair: Pair, parameters: Tensors, view: View, num_particles: int) -> torch.Tensor:
    """(obs,): an unbiased estimate of each row's bound, the log of the mean of the weights of particles drawn at random
    (Burda, Grosse & Salakhutdinov 2016, eq. 8)."""
    found = terms(pair, parameters, view, num_particles)
    return torch.logsumexp(found.log_likelihood + found.log_ratio, 0) - math.log(num_particles)


def bounded_density(
    space: Unconstrained, vector: torch.Tensor, guide: Tensors, view: View, rows: torch.Tensor | None,
    num_particles: int,
) -> torch.Tensor:  # fmt: skip
    """Log prior, transform Jacobians included, plus the bounds of all rows; with ``rows`` (B,) its unbiased estimate
    from these rows.

    :param guide: weights of the guide that are no sites of the model.
    """
    some = view if rows is None else view.take(rows)
    values = space.constrain(vector)
    bounds = row_bound(space.pair, {**guide, **values}, some, num_particles)
    if some.weights is not None:
        bounds = bounds * some.weights
    return bounds.sum() * (len(view.x) / len(bounds)) + space.log_prior(vector)


class Guides:
    """The weights of each chain's guide that are no sites of the model, as the rows of one matrix (chain, size), and
    Adam (Kingma & Ba 2015) that keeps them fit for where the chains are."""

    def __init__(self, starts: list[Tensors]) -> None:
        self.shapes = {name: value.shape for name, value in starts[0].items()}
        self.values = torch.stack([
            torch.cat([value.flatten() for value in one.values()] or [torch.zeros(0)]) for one in starts
        ])  # fmt: skip
        self.moments = torch.zeros(2, *self.values.shape)
        self.count = 0

    def named(self, flat: torch.Tensor) -> Tensors:
        """{name: (..., *shape)} of (..., size)."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), flat.split(sizes, dim=-1), strict=True)
        return {name: part.reshape((*flat.shape[:-1], *shape)) for (name, shape), part in parts}

    def climb(self, gradient: torch.Tensor, rate: float) -> None:
        """A step upwards."""
        self.count += 1
        first, second = self.moments
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        self.moments = torch.stack([first, second])
        root = (second / (1 - 0.999**self.count)).sqrt() + 1e-8
        self.values = self.values + rate * first / (1 - 0.9**self.count) / root

    def forget(self) -> None:
        """Begin anew, as at another objective."""
        self.moments, self.count = torch.zeros_like(self.moments), 0

    @property
    def by_chain(self) -> list[dict[str, np.ndarray]]:
        """Each chain's weights by name."""
        return [{name: value.numpy() for name, value in self.named(one).items()} for one in self.values]

    @property
    def packed(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs."""
        return {"guides": self.values.numpy(), "moments": self.moments.numpy(), "count": np.asarray(self.count)}

    def restore(self, packed: Mapping[str, np.ndarray]) -> None:
        """Go back to a checkpoint."""
        self.values, self.moments = torch.as_tensor(packed["guides"]), torch.as_tensor(packed["moments"])
        self.count = int(packed["count"])
