"""Losses of the two players in torch, their regularizers, and what is put back after a step: the twin of
``numpyro_losses``."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import relu, softplus

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.gan import pyro_network as network
from ppl_gen.models.gan.architecture import Architecture
from ppl_gen.view import View

TINY = 1e-12  # below the root of a norm, whose gradient at 0 is not finite
POWER_STEPS = 2  # power iterations each time


def discriminator_loss(
    architecture: Architecture, weights: Weights, view: View, z: torch.Tensor, key: int | None = None
) -> torch.Tensor:
    """(): the discriminator's loss of rows of data, and of as many of noise z (n, L), with its regularizer."""
    family = architecture.family
    data = network.relax(architecture, weights, view)
    fake = network.forge(architecture, weights, z, view.context).detach()
    real, false, steps = both(architecture, weights, "discriminator", data, fake, view.context, family.pack)
    share = pack_weights(view, family.pack)
    loss = (share * data_term(family.loss, real)).sum() + (share * fake_term(family.loss, false)).sum()
    if family.regularizer == "r1":
        square = slopes(architecture, weights, data, view.context, [each[: len(real)] for each in steps])
        return loss + 0.5 * family.penalty * (share * square).sum()
    if family.regularizer == "gradient_penalty":
        generator = None if key is None else torch.Generator().manual_seed(key)
        along = torch.rand((len(share), 1), generator=generator, dtype=data.dtype)
        return loss + gradient_penalty(architecture, weights, data, fake, along, view)
    return loss


def both(
    architecture: Architecture,
    weights: Weights,
    name: str,
    data: torch.Tensor,
    fake: torch.Tensor,
    context: Any,
    pack: int,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """(n / pack,) each: outputs of a discriminator at data and at the generator's rows, in one pass; and the slopes of
    its hidden units at both."""
    given = None if context is None else torch.cat([context, context])
    found, steps = network.judged(architecture, weights, name, torch.cat([data, fake]), given, pack)
    return found[: len(found) // 2], found[len(found) // 2 :], steps


def pack_weights(view: View, pack: int) -> torch.Tensor:
    """(n / pack,), of sum 1: the shares of groups of rows, products of the weights of their rows."""
    if view.weights is None:
        number = len(view.x) // pack
        return torch.full((number,), 1.0 / number, dtype=view.x.dtype)
    found = view.weights.reshape(-1, pack).prod(1)
    return found / found.sum().clamp(min=torch.finfo(found.dtype).tiny)


def data_term(loss: str, outputs: torch.Tensor) -> torch.Tensor:
    """What the discriminator loses by its outputs at data."""
    if loss == "wasserstein":
        return -outputs
    if loss == "hinge":
        return relu(1.0 - outputs)
    return 0.5 * (outputs - 1.0) ** 2 if loss == "least_squares" else softplus(-outputs)


def fake_term(loss: str, outputs: torch.Tensor) -> torch.Tensor:
    """What the discriminator loses by its outputs at the generator's rows."""
    if loss == "wasserstein":
        return outputs
    if loss == "hinge":
        return relu(1.0 + outputs)
    return 0.5 * outputs**2 if loss == "least_squares" else softplus(outputs)


def generator_term(loss: str, outputs: torch.Tensor) -> torch.Tensor:
    """What the generator loses by the discriminator's outputs at its rows."""
    if loss == "non_saturating":
        return softplus(-outputs)
    if loss == "minimax":
        return -softplus(outputs)
    return 0.5 * (outputs - 1.0) ** 2 if loss == "least_squares" else -outputs


def slopes(
    architecture: Architecture,
    weights: Weights,
    rows: torch.Tensor,
    context: Any,
    steps: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """(n / pack,): squared norms of the gradients of the discriminator's outputs by the rows (n, F) that it reads, of
    a perceptron from the slopes ``steps`` of its hidden units where these are known."""
    family, name = architecture.family, "discriminator"
    if family.discriminator == "conv":
        gradient = torch.func.grad(
            lambda rows: network.judge(architecture, weights, name, rows, context, family.pack).sum()
        )(rows)
        return (gradient.reshape(len(rows) // family.pack, -1) ** 2).sum(1)
    if steps is None:
        steps = network.judged(architecture, weights, name, rows, context, family.pack)[1]
    # By hand, as twice through autodiff takes a pass more.
    gradient = weights[f"discriminator_weight_{len(steps)}"].T
    for i in reversed(range(len(steps))):
        gradient = (gradient * steps[i]) @ weights[f"discriminator_weight_{i}"].T
    by_row = gradient.reshape(len(gradient), family.pack, -1)[..., : rows.shape[1]]  # the context stands behind
    return (by_row**2).sum((1, 2))


def gradient_penalty(
    architecture: Architecture, weights: Weights, data: torch.Tensor, fake: torch.Tensor, along: torch.Tensor,
    view: View,
) -> torch.Tensor:  # fmt: skip
    """(): lambda times the mean of (norm of the gradient - 1)^2, each group of rows as far from the generator's to the
    data as ``along`` (n / pack, 1) says."""
    share = along.repeat_interleave(architecture.family.pack, 0)
    between = share * data + (1.0 - share) * fake
    norm = torch.sqrt(slopes(architecture, weights, between, view.context) + TINY)
    return architecture.family.penalty * (pack_weights(view, architecture.family.pack) * (norm - 1.0) ** 2).sum()


def generator_loss(architecture: Architecture, weights: Weights, view: View, z: torch.Tensor) -> torch.Tensor:
    """(): the generator's loss of rows of noise z (n, L), with its regularizer."""
    family = architecture.family
    fake = network.forge(architecture, weights, z, view.context)
    outputs = network.judge(architecture, weights, "discriminator", fake, view.context, family.pack)
    loss = generator_term(family.loss, outputs).mean()
    if family.regularizer == "jacobian_clamping":
        loss = loss + family.penalty * jacobian_clamping(architecture, weights, z, view.context)
    return loss


def jacobian_clamping(architecture: Architecture, weights: Weights, z: torch.Tensor, context: Any) -> torch.Tensor:
    """(): the mean square of how far the generator's rows move more or less than they may per step of the noise. Steps
    have length 1, in the direction of the noise of the row before, which is independent of the row's own. Labels count
    by their probabilities."""
    size, (low, high) = architecture.family.latent_dim, architecture.family.jacobian_range
    direction = z[:, :size].roll(1, 0)
    direction = direction / torch.sqrt((direction**2).sum(1, keepdim=True) + TINY)
    near = torch.cat([z[:, :size] + direction, z[:, size:]], 1)
    moved = network.expected(architecture, weights, near, context) - network.expected(architecture, weights, z, context)
    rate = torch.sqrt((moved**2).sum(1) + TINY)
    return (relu(rate - high) ** 2 + relu(low - rate) ** 2).mean()


def log_ratio_loss(architecture: Architecture, weights: Weights, view: View, z: torch.Tensor) -> torch.Tensor:
    """(): the logistic loss of the second discriminator, whose best output is log p_data / p_model."""
    data = network.relax(architecture, weights, view)
    fake = network.forge(architecture, weights, z, view.context).detach()
    real, false, _ = both(architecture, weights, "ratio", data, fake, view.context, 1)
    return (pack_weights(view, 1) * (softplus(-real) + softplus(false))).sum()


def project(architecture: Architecture, weights: Weights) -> dict[str, torch.Tensor]:
    """The weights with those of the discriminator put back into their bounds."""
    found, family = dict(weights), architecture.family
    for name in architecture.discriminator:
        if family.regularizer == "clip":
            found[name] = found[name].clamp(-family.clip, family.clip)
        elif family.regularizer == "spectral_norm" and name.startswith("discriminator_direction_"):
            matrix = name.replace("direction_", "", 1)
            norm, found[name] = spectral_norm(found[matrix], found[name])
            found[matrix] = found[matrix] / norm
    return found


def spectral_norm(matrix: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An estimate of the largest singular value, and the right singular vector (m,) of a matrix (n, m), by power
    iterations from ``direction``, where the last ones stopped."""
    for _ in range(POWER_STEPS):
        left = matrix @ direction
        left = left / torch.sqrt((left**2).sum() + TINY)
        direction = left @ matrix
        norm = torch.sqrt((direction**2).sum() + TINY)
        direction = direction / norm
    return norm, direction
