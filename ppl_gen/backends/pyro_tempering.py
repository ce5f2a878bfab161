"""Particles along the path of an unnormalised density in torch, the twin of ``numpyro_tempering``.

Values and gradients of all particles are one recorded program; the rest is a loop over temperatures.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.annealing import BISECTIONS, JITTER, RESAMPLE_BELOW, START_MOVES, Moves, Path, Run, Swaps, Walk, first_step
from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import Tensors, recorded, sandbox

if TYPE_CHECKING:
    from ppl_gen.pair import Pair

MANY = 500_000  # numbers moved at once from which threads pay


def over_members(function: Callable[[int], Any], number: int) -> list[Any]:
    """``function`` of each member, one after the other: they share torch's random generator."""
    return [function(index) for index in range(number)]


def member(parameters: Mapping[str, np.ndarray]) -> Tensors:
    """The parameters of one member in the default float."""
    return {name: as_tensor(value) for name, value in parameters.items()}


def base(pair: Pair, parameters: Tensors, number: int, seed: int) -> np.ndarray:
    """(number, *row): draws of the base."""
    assert pair.draw_base is not None
    with sandbox(seed), torch.no_grad():
        return pair.draw_base(parameters, number, seed).numpy()


def normalizer(pair: Pair, parameters: Tensors) -> float:
    """log Z as the pair knows it."""
    assert pair.log_normalizer is not None
    with sandbox(0), torch.no_grad():
        return float(pair.log_normalizer(parameters))


def log_density(pair: Pair, parameters: Tensors, x: np.ndarray) -> np.ndarray:
    """(n,): of rows ``x`` (n, *row), unnormalised."""
    assert pair.tempered is not None
    with sandbox(0), torch.no_grad():
        return torch.nan_to_num(pair.tempered(parameters, as_tensor(x), 1.0), nan=-torch.inf, neginf=-torch.inf).numpy()


def run(
    pair: Pair, parameters: Tensors, x: np.ndarray, path: Path, moves: Moves, seed: int, *, groups: int,
    adaptive: bool = False, resample: bool = True,
) -> Run:  # fmt: skip
    """Particles ``x`` (N, *row) along a path; see :class:`ppl_gen.annealing.Run`.

    :param adaptive: choose temperatures, scales and step sizes on the way, up to the length of the path.
    """
    with sandbox(seed, threads=1 if x.size < MANY else None), torch.no_grad():
        particles = _Particles(pair, parameters, as_tensor(x), moves, groups)
        return particles.run(path, adaptive, resample).cut(START_MOVES if adaptive else 0)


def walk(
    pair: Pair, parameters: Tensors, x: np.ndarray, scale: np.ndarray, plan: Walk, seed: int
) -> tuple[np.ndarray, float]:
    """(C, T, *row): states of chains from ``x`` (C, *row) at inverse temperature 1; and their acceptance rate."""
    warmup = -(-plan.num_warmup // plan.thinning)
    states, accepted = [], []
    with sandbox(seed, threads=1 if x.size < MANY else None), torch.no_grad():
        particles = _Particles(pair, parameters, as_tensor(x), plan.moves, 1)
        particles.scale, particles.log_step = as_tensor(scale), math.log(first_step(scale.size))
        for i in range(warmup + plan.num_states):
            for _ in range(plan.thinning):
                particles.move(1.0, plan.moves.rate if i < warmup else 0.0)
            if i >= warmup:
                states.append(particles.x.numpy().copy())
                accepted.append(particles.acceptance)
    return np.stack(states, axis=1), float(np.mean(accepted))


def exchange(
    pair: Pair, parameters: Tensors, x: np.ndarray, path: Path, plan: Swaps, seed: int
) -> dict[str, np.ndarray]:
    """Parallel tempering from ``x`` (K, C, *row), C chains at each of the path's K temperatures, from 0 to 1: the
    states ``x`` (C, T, *row) at 1, their log density ``lp``, and the rates at which moves (``acceptance_rate``) and
    exchanges (``swap_rate``) are accepted, (C, T)."""
    warmup = -(-plan.num_warmup // plan.thinning)
    records: list[dict[str, torch.Tensor]] = []
    with sandbox(seed, threads=1 if x.size < MANY else None), torch.no_grad():
        first = _Particles(pair, parameters, as_tensor(x[0]), plan.moves, 1)
        ladder = [
            first.at(as_tensor(part), *values) for part, *values in zip(x, path.scale, path.log_step, strict=True)
        ]
        swapped, rate = list[torch.Tensor](), torch.zeros(len(first.x))
        for number in range((warmup + plan.num_states) * plan.thinning):
            first = ladder[0]
            first.x = pair.draw_base(parameters, len(first.x), int(torch.randint(2**31 - 1, ())))  # type: ignore[misc]
            for particles, beta in zip(ladder[1:], path.beta[1:], strict=True):
                particles.move(float(beta), 0.0)
            swapped += [
                _swap(low, high, *(float(beta) for beta in path.beta[k : k + 2]))
                for k, (low, high) in enumerate(itertools.pairwise(ladder))
                if k % 2 == number % 2
            ]
            if (number + 1) % plan.thinning:
                continue
            rate, swapped = torch.stack(swapped).mean(0) if swapped else rate, []  # none: as before
            if number >= warmup * plan.thinning:
                cold = ladder[-1]
                records.append({
                    "x": cold.x, "lp": cold.log_density(cold.x, 1.0),
                    "acceptance_rate": torch.full((len(cold.x),), cold.acceptance),
                    "swap_rate": rate,
                })  # fmt: skip
        return {name: torch.stack([record[name] for record in records], 1).numpy() for name in records[0]}


def _swap(low: _Particles, high: _Particles, at_low: float, at_high: float) -> torch.Tensor:
    """Exchange the states of two temperatures, each chain by itself; which did."""
    gain = low.log_density(low.x, at_high) + low.log_density(high.x, at_low)
    gain = gain - low.log_density(low.x, at_low) - low.log_density(high.x, at_high)
    swap = torch.rand(len(gain)).log() < torch.nan_to_num(gain, nan=-torch.inf)
    which = swap.reshape(-1, *[1] * (low.x.dim() - 1))
    low.x, high.x = torch.where(which, high.x, low.x), torch.where(which, low.x, high.x)
    return swap.to(low.x.dtype)


class _Particles:
    """Particles (N, *row) in groups, and how they move."""

    def __init__(self, pair: Pair, parameters: Tensors, x: torch.Tensor, moves: Moves, groups: int) -> None:
        self.pair, self.parameters, self.x, self.moves = pair, parameters, x, moves
        self.groups, self.each = groups, len(x) // groups
        self.log_weights = torch.zeros(len(x))
        self.log_normalizer = torch.zeros(groups)
        self.scale, self.log_step, self.acceptance = torch.ones(x[0].numel()), 0.0, 1.0
        self.gradient = None if pair.gibbs is not None else recorded(self._gradient, (x, torch.zeros(())))

    def at(self, x: torch.Tensor, scale: np.ndarray, log_step: float) -> _Particles:
        """Others of the same pair, with the same recorded gradient."""
        other = copy.copy(self)
        other.x, other.scale, other.log_step = x, as_tensor(scale), float(log_step)
        return other

    def log_density(self, x: torch.Tensor, beta: float | torch.Tensor) -> torch.Tensor:
        found = self.pair.tempered(self.parameters, x, torch.as_tensor(beta, dtype=x.dtype))  # type: ignore[misc]
        return torch.where(torch.isnan(found), -torch.inf, found)

    def _gradient(self, x: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self.log_density(leaf, beta)
            (found,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), found

    def weights(self) -> torch.Tensor:
        return torch.softmax(self.log_weights.reshape(self.groups, self.each), 1)

    def spread(self) -> torch.Tensor:
        """(size,): each column's standard deviation among the particles."""
        flat, w = self.x.reshape(len(self.x), -1), self.weights().reshape(-1, 1) / self.groups
        found = ((w * (flat - (w * flat).sum(0)) ** 2).sum(0)).sqrt()
        return torch.clamp(found, min=float(1e-3 * found.max() + 1e-6))

    def next_beta(self, beta: float, current: torch.Tensor) -> float:
        w = self.weights()

        def conditional_ess(at: float) -> float:
            gain = (self.log_density(self.x, at) - current).reshape(self.groups, self.each)
            ratio = torch.exp(gain - gain.max(1, keepdim=True).values)
            return float(((w * ratio).sum(1) ** 2 / (w * ratio**2).sum(1)).mean())

        if conditional_ess(1.0) >= self.moves.conditional_ess:
            return 1.0
        low, high = beta, 1.0
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if conditional_ess(middle) >= self.moves.conditional_ess else (low, middle)
        return low if low > beta else high

    def move(self, beta: float, rate: float) -> None:
        """Moves that leave the density at this temperature as it is; the step size is adapted by ``rate``."""
        for _ in range(self.moves.number):
            if self.pair.gibbs is not None:
                seed = int(torch.randint(2**31 - 1, ()))
                self.x = self.pair.gibbs(self.parameters, self.x, torch.as_tensor(beta, dtype=self.x.dtype), seed)
            else:
                self.acceptance = self._hamiltonian(beta)
                self.log_step += rate * (self.acceptance - self.moves.target_accept)

    def _hamiltonian(self, beta: float) -> float:
        """A trajectory of each particle; the mean acceptance rate (Neal 2011, Handbook of MCMC, ch. 5)."""
        assert self.gradient is not None
        x, at = self.x, torch.as_tensor(beta, dtype=self.x.dtype)
        scale = self.scale.reshape(x.shape[1:])
        axes = tuple(range(1, x.dim()))
        jitter = 1 + JITTER * (2 * torch.rand(len(x)) - 1)
        step = (math.exp(self.log_step) * jitter).reshape(-1, *[1] * len(axes)) * scale
        momentum = torch.randn_like(x)
        value, gradient = self.gradient(x, at)
        start = value - 0.5 * (momentum**2).sum(axes)
        for _ in range(self.moves.num_leapfrogs):
            momentum = momentum + 0.5 * step * gradient
            x = x + step * momentum
            value, gradient = self.gradient(x, at)
            momentum = momentum + 0.5 * step * gradient
        rate = torch.nan_to_num(torch.exp(value - 0.5 * (momentum**2).sum(axes) - start), nan=0.0).clamp(max=1.0)
        accepted = torch.rand(len(x)) < rate
        self.x = torch.where(accepted.reshape(-1, *[1] * len(axes)), x, self.x)
        return float(rate.mean())

    def resample(self) -> None:
        """Systematically, each group by itself."""
        cumulative = self.weights().cumsum(1)
        at = (torch.arange(self.each) + torch.rand(self.groups, 1)) / self.each
        chosen = torch.searchsorted(cumulative, at).clamp(max=self.each - 1)
        self.x = self.x[(chosen + self.each * torch.arange(self.groups)[:, None]).flatten()]
        self.log_normalizer = self.mean_weights()
        self.log_weights = torch.zeros_like(self.log_weights)

    def mean_weights(self) -> torch.Tensor:
        """(groups,): estimates of log Z so far."""
        grouped = self.log_weights.reshape(self.groups, self.each)
        return self.log_normalizer + torch.logsumexp(grouped, 1) - math.log(self.each)

    def total(self) -> torch.Tensor:
        return (self.log_normalizer[:, None] + self.log_weights.reshape(self.groups, self.each)).flatten()

    def run(self, path: Path, adaptive: bool, resample: bool) -> Run:
        number, beta = 0, float(path.beta[0])
        self.scale = self.spread() if adaptive else as_tensor(path.scale[0])
        self.log_step = math.log(first_step(self.scale.numel())) if adaptive else float(path.log_step[0])
        zeros = torch.zeros(len(self.x))
        records = [self._record(beta, zeros, zeros, torch.zeros(self.groups), 1.0)]
        while number < path.length and not (adaptive and beta >= 1):
            current = self.log_density(self.x, beta)
            if not adaptive:
                beta = float(path.beta[number + 1])
            elif number >= START_MOVES:
                beta = 1.0 if number == len(path.beta) - 2 else self.next_beta(beta, current)
            gain = self.log_density(self.x, beta) - current
            gain = torch.where(torch.isnan(gain), -torch.inf, gain)
            self.log_weights = self.log_weights + gain
            ess = float(1 / (self.each * (self.weights() ** 2).sum(1)).mean())
            total, log_normalizer = self.total(), self.mean_weights()
            if resample and ess < RESAMPLE_BELOW:
                self.resample()
            self.scale = self.spread() if adaptive else as_tensor(path.scale[number + 1])
            self.log_step = self.log_step if adaptive else float(path.log_step[number + 1])
            self.move(beta, self.moves.rate if adaptive else 0.0)
            records.append(self._record(beta, total, gain, log_normalizer, ess))
            number += 1
        stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
        return Run(x=self.x.numpy(), log_weights=self.total().numpy(), length=np.asarray(number), **stacked)

    def _record(
        self, beta: float, total: torch.Tensor, gain: torch.Tensor, log_normalizer: torch.Tensor, ess: float
    ) -> dict[str, np.ndarray]:  # fmt: skip
        return {
            "beta": np.asarray(beta), "total": total.numpy(), "gain": gain.numpy(),
            "log_normalizer": log_normalizer.numpy(), "ess": np.asarray(ess), "acceptance": np.asarray(self.acceptance),
            "scale": self.scale.numpy(), "log_step": np.asarray(self.log_step),
        }  # fmt: skip
