"""Energies, conditionals and the log normalizer of a machine in torch. The twin of ``numpyro_machine``."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import logsumexp
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_gen.backends.pyro_networks import Weights
from ppl_gen.models.rbm.architecture import Architecture, chunks

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
LOG_2 = math.log(2)


def features(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(..., F): rows (..., D) of model space as the hidden units read them."""
    if architecture.is_plain:
        return x
    found = []
    for group in architecture.groups:
        own = x[..., group.where]
        if group.kind == "real":
            own = own * torch.exp(-weights["visible_log_scale"])
        elif group.kind == "categorical":
            own = (own[..., None] == torch.arange(group.num_inputs)).to(x.dtype).flatten(-2)
        found.append(own)
    return torch.cat(found, -1)


def hidden_logits(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(..., H): a, the log odds of the hidden units given rows."""
    return features(architecture, weights, x) @ weights["weight"] + weights["hidden_bias"]


def own_terms(architecture: Architecture, weights: Weights, x: torch.Tensor, layer: str = "visible") -> torch.Tensor:
    """(...,): sum of the columns' own u, without the hidden units; of the ``"base"``, whose density this is but for
    its normalizer."""
    bias, total = weights[f"{layer}_bias"], x.new_zeros(x.shape[:-1])
    for group, where in architecture.parts():
        own = x[..., group.where]
        if group.kind == "binary":
            total = total + own @ bias[where]
        elif group.kind == "real":
            total = total - 0.5 * (((own - bias[where]) * torch.exp(-weights[f"{layer}_log_scale"])) ** 2).sum(-1)
        else:
            hot = (own[..., None] == torch.arange(group.num_inputs)).to(x.dtype)
            total = total + hot.flatten(-2) @ bias[where]
    return total


def log_partition(
    architecture: Architecture, weights: Weights, inputs: torch.Tensor | float, layer: str = "visible"
) -> torch.Tensor:
    """(...,): log of the sum, or integral, of exp(u + phi * input) over all values of a row, for inputs (..., F)."""
    bias = weights[f"{layer}_bias"]
    at, total = bias + inputs, bias.new_zeros(())
    for group, where in architecture.parts():
        own = at[..., where]
        if group.kind == "binary":
            total = total + softplus(own).sum(-1)
        elif group.kind == "real":
            shift, log_scale = own - bias[where], weights[f"{layer}_log_scale"]
            each = log_scale + HALF_LOG_TAU + shift * (0.5 * shift + bias[where] * torch.exp(-log_scale))
            total = total + each.sum(-1)
        else:
            total = total + logsumexp(own.reshape(*own.shape[:-1], group.size, -1), -1).sum(-1)
    return total


class BaseRates(TorchDistribution):
    """The base: independent columns, with the data's own frequencies, means and standard deviations."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self, architecture: Architecture, weights: Weights, batch_shape: tuple[int, ...] = (), *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.architecture = architecture
        self.weights = {name: value for name, value in weights.items() if name.startswith("base_")}
        super().__init__(torch.Size(batch_shape), (architecture.num_columns,), validate_args=validate_args)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> BaseRates:
        return BaseRates(self.architecture, self.weights, batch_shape, validate_args=self._validate_args)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        own = own_terms(self.architecture, self.weights, value, "base")
        return own - log_partition(self.architecture, self.weights, 0.0, "base")

    def sample(self, sample_shape: tuple[int, ...] = torch.Size()) -> torch.Tensor:
        return self.draw((*sample_shape, *self.batch_shape), None)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
        """(*shape, D)."""
        bias = self.weights["base_bias"]
        return draw(self.architecture, bias.expand(*shape, len(bias)), self.weights.get("base_log_scale"), generator)


def seeded(key: int | None) -> torch.Generator | None:
    """A generator of its own for a seed; without one torch's, whose draws a recorded program makes anew."""
    return None if key is None else torch.Generator().manual_seed(key)


def draw(
    architecture: Architecture, at: torch.Tensor, log_scale: torch.Tensor | None, generator: torch.Generator | None
) -> torch.Tensor:
    """(..., D): rows of independent columns; ``at`` (..., F) are log odds, log probabilities and means."""
    found = []
    for group, where in architecture.parts():
        own = at[..., where]
        if group.kind == "real":
            assert log_scale is not None
            found.append(own + torch.exp(log_scale) * torch.randn(own.shape, generator=generator, dtype=own.dtype))
        elif group.kind == "binary":
            found.append(coins(own, generator))
        else:
            logits = own.unflatten(-1, (group.size, -1))
            u = torch.rand(logits.shape, generator=generator, dtype=own.dtype).clamp(min=torch.finfo(own.dtype).tiny)
            found.append((logits - torch.log(-torch.log(u))).argmax(-1).to(own.dtype))  # the Gumbel-max trick
    whole = found[0] if len(found) == 1 else torch.cat(found, -1)
    return whole if architecture.column_order is None else whole[..., torch.from_numpy(architecture.column_order)]


def coins(logits: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """0 or 1, with these log odds."""
    u = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    return (u < torch.sigmoid(logits)).to(logits.dtype)


def tempered(architecture: Architecture, weights: Weights, x: torch.Tensor, inverse_temperature: Any) -> torch.Tensor:
    """(...,): log density of rows (..., D) on the path from the base to the machine, normalised at 0 alone."""
    rest = 1 - inverse_temperature
    if isinstance(rest, float) and rest == 0:  # most calls, in training
        return -free_energy(architecture, weights, x)
    base = BaseRates(architecture, weights).log_prob(x)
    hidden = softplus(inverse_temperature * hidden_logits(architecture, weights, x)) - rest * LOG_2
    return rest * base + inverse_temperature * own_terms(architecture, weights, x) + hidden.sum(-1)


def free_energy(architecture: Architecture, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """(...,): F(x), with p(x) = exp(-F(x)) / Z."""
    hidden = softplus(hidden_logits(architecture, weights, x)).sum(-1)
    return -own_terms(architecture, weights, x) - hidden


def draw_base(architecture: Architecture, weights: Weights, number: int, key: int | None) -> torch.Tensor:
    """(number, D)."""
    return BaseRates(architecture, weights).draw((number,), seeded(key))


def gibbs(
    architecture: Architecture, weights: Weights, x: torch.Tensor, inverse_temperature: Any, key: int | None = None
) -> torch.Tensor:
    """(n, D): all hidden units given rows, and all columns given those, which leaves the tempered density as it is."""
    generator = seeded(key)
    h = coins(inverse_temperature * hidden_logits(architecture, weights, x), generator)
    return draw(architecture, *given_hidden(architecture, weights, h, inverse_temperature), generator)


def given_hidden(
    architecture: Architecture, weights: Weights, h: torch.Tensor, inverse_temperature: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What columns are given hidden units (..., H), under the tempered density: log odds, log probabilities but for a
    constant, and means (..., F), and log standard deviations of real columns (R,), None where there are none."""
    rest, inputs = 1 - inverse_temperature, h @ weights["weight"].mT
    at = rest * weights["base_bias"] + inverse_temperature * (weights["visible_bias"] + inputs)
    log_scale = None
    for group, where in architecture.parts():
        if group.kind == "real":
            base = rest * torch.exp(-2 * weights["base_log_scale"])
            scale = torch.exp(weights["visible_log_scale"])
            precision = base + inverse_temperature / scale**2
            pull = (weights["visible_bias"][where] / scale + inputs[..., where]) / scale
            mean = (base * weights["base_bias"][where] + inverse_temperature * pull) / precision
            at = torch.cat([at[..., : where.start], mean, at[..., where.stop :]], -1)
            log_scale = -0.5 * torch.log(precision)
    return at, log_scale


def log_normalizer(architecture: Architecture, weights: Weights) -> torch.Tensor:
    """(): log Z, summed over all states of the smaller layer, some at a time.

    :raises ValueError: both layers have too many.
    """
    if architecture.enumerated is None:
        raise ValueError("Both layers have too many states to sum over: estimate log Z.")
    layer, sizes = architecture.enumerated
    size, number, strides = chunks(sizes)

    steps, bases = torch.from_numpy(strides).long(), torch.tensor(sizes)
    found = []
    for start in range(0, number * size, size):
        index = torch.arange(start, min(start + size, math.prod(sizes)))
        states = (index[:, None] // steps % bases).to(weights["weight"].dtype)
        if layer == "visible":
            each = -free_energy(architecture, weights, states)
        else:
            inputs = states @ weights["weight"].mT
            each = states @ weights["hidden_bias"] + log_partition(architecture, weights, inputs)
        found.append(logsumexp(each, -1))
    return logsumexp(torch.stack(found), -1)
