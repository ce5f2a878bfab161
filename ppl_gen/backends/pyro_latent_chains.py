"""Chains in the latent space of a generator in torch: annealed from the prior of z to its posterior, and walking there.

The twin of ``numpyro_latent_chains``, with the same signatures. The density at inverse temperature b is p(z) exp(b
l(z)); l is the log density of a row under the observation model, or the discriminator's log ratio. Both are read off
the pair's model by handlers, and their gradient is recorded as one program. Each row has random numbers of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine

from ppl_gen.annealing import JITTER, Moves
from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import Tensors, recorded, sandbox
from ppl_gen.latent_paths import BISECTIONS, HOLD, LATENT, LOWEST, RATIO, RESAMPLE_BELOW, START_MOVES, Annealed, RowPath
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.pair import Pair

_HANDLERS = Lock()


def over_blocks(function: Callable[..., Any], *arguments: list[Any]) -> list[Any]:
    """``function`` of each block's arguments, one block per core at a time: recorded programs do without Python."""
    with sandbox(0, threads=1):  # two threads within a block are slower than one, on busy cores 20 times
        first = function(*(part[0] for part in arguments))  # which records
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return [first, *pool.map(function, *(part[1:] for part in arguments))]


def anneal(
    pair: Pair, target: str, parameters: Mapping[str, np.ndarray], view: View, path: RowPath, moves: Moves,
    seeds: np.ndarray, num_chains: int, adaptive: bool = False, starts: np.ndarray | None = None,
) -> Annealed:  # fmt: skip
    """Chains along a path, of each row; see :class:`ppl_gen.latent_paths.Annealed`.

    :param view: R rows; of the target :data:`RATIO` without ``x``, and without context one row that is nothing.
    :param seeds: (R,) of each row's random numbers.
    :param adaptive: choose temperatures and step sizes on the way, and resample, up to the length of the path.
    :param starts: (R, K, L) where chains begin; by default draws of the prior.
    """
    with torch.no_grad():
        chains = _Chains(pair, target, parameters, view, moves, seeds, num_chains)
        chains.start(chains.normal() if starts is None else as_tensor(starts))
        return chains.run(path, adaptive)


def walk(
    pair: Pair, target: str, parameters: Mapping[str, np.ndarray], view: View, z: np.ndarray, log_step: np.ndarray,
    moves: Moves, num_states: int, thinning: int, seeds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(R, K, T, L): states of chains from ``z`` (R, K, L) at inverse temperature 1, ``thinning`` times ``moves`` apart;
    and the acceptance rate of each row."""
    with torch.no_grad():
        chains = _Chains(pair, target, parameters, view, moves, seeds, z.shape[1])
        chains.start(as_tensor(z))
        states, rates = [], torch.zeros(len(seeds))
        one, log_step_ = torch.ones(len(seeds)), as_tensor(log_step)
        for _ in range(num_states):
            for _ in range(thinning):
                rates = rates + chains.move(one, log_step_)
            states.append(chains.z)
        return torch.stack(states, 2).numpy(), (rates / (num_states * thinning)).numpy()


def simulate(
    pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int, context: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(number, L) and (number, D): z from its prior, and rows from the observation model given z."""
    given = None if context is None else View(None, context=as_tensor(context))
    values = {name: as_tensor(value) for name, value in parameters.items()}
    with sandbox(seed), torch.no_grad():
        model = poutine.substitute(poutine.condition(pair.model, data=values), data=values)
        drawn = poutine.trace(model).get_trace(given, num_obs=number)
        z, x = drawn.nodes[LATENT]["value"], drawn.nodes["x"]["value"]
        data = View(x.to(z.dtype), context=None if given is None else given.context)
        return z.numpy(), _trace(pair, values, z, data)["x"]["fn"].sample().to(z.dtype).numpy()


def generate(
    pair: Pair, parameters: Mapping[str, np.ndarray], z: np.ndarray, context: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows G(z) (n, D) of z (n, L), and the discriminator's log ratio (n,) at these rows, as the networks see them."""
    given = None if context is None else as_tensor(context)
    values = {name: as_tensor(value) for name, value in parameters.items()}
    with sandbox(0), torch.no_grad():
        view = View(as_tensor(z), context=given)
        return pair.generate(values, view).numpy(), pair.log_ratio(values, view).numpy()  # type: ignore[misc]


def _trace(pair: Pair, parameters: Tensors, z: torch.Tensor, view: View | None, **options: Any) -> Any:
    model = poutine.substitute(poutine.condition(pair.model, data={**parameters, LATENT: z}), data=parameters)
    return poutine.trace(model).get_trace(view, **options).nodes


def _terms(pair: Pair, target: str, parameters: Tensors, z: torch.Tensor, view: View) -> tuple[Any, Any]:
    """log p(z) and l(z), each (n,), of z (n, L) for the rows of a view."""
    if target == RATIO:
        given = None if view.context is None else View(None, context=view.context)
        sites = _trace(pair, parameters, z, given, num_obs=len(z), realness=True)
    else:
        sites = _trace(pair, parameters, z, view)
    name = RATIO if target == RATIO else "x"
    found = sites[name]["fn"].log_prob(sites[name]["value"])
    return sites[LATENT]["fn"].log_prob(z), torch.where(torch.isnan(found), LOWEST, found).clamp(min=LOWEST)


class _Chains:
    """K chains of each of R rows, ``z`` (R, K, L), with l(z) ``found`` (R, K), and how they move."""

    def __init__(
        self, pair: Pair, target: str, parameters: Mapping[str, np.ndarray], view: View, moves: Moves,
        seeds: np.ndarray, num_chains: int,
    ) -> None:  # fmt: skip
        self.rows, self.chains, self.size, self.moves = len(seeds), num_chains, pair.latent_size, moves
        self.rngs = [np.random.default_rng(int(seed)) for seed in seeds]
        names = list(parameters)
        data = {"x": view.x, "mask": view.mask, "context": view.context}
        parts = {name: as_tensor(part).repeat_interleave(num_chains, 0) for name, part in data.items()
                 if part is not None}  # fmt: skip
        self.inputs = (*parts.values(), *(as_tensor(parameters[name]) for name in names))

        def gradient(z: torch.Tensor, beta: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            rows = View(**{"x": None, **dict(zip(parts, inputs, strict=False))})
            values = dict(zip(names, inputs[len(parts) :], strict=True))
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                prior, found = _terms(pair, target, values, leaf, rows)
                value = prior + beta * found
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), found.detach(), slope

        number = self.rows * num_chains
        example = (torch.zeros(number, self.size), torch.ones(number), *self.inputs)
        key = ("latent gradient", target, number, tuple(parts))
        program = pair.cached(key, lambda: recorded(gradient, example))

        def alone(*args: torch.Tensor) -> Any:  # handlers are one stack for all threads
            with _HANDLERS:
                return program(*args)

        self.gradient = program if isinstance(program, torch.jit.ScriptFunction | torch.nn.Module) else alone

    def start(self, z: torch.Tensor) -> None:
        self.z = z
        flat = z.reshape(-1, self.size)
        self.found = self.gradient(flat, torch.zeros(len(flat)), *self.inputs)[1].reshape(self.rows, self.chains)

    def normal(self) -> torch.Tensor:
        """(R, K, L), each row's from its own generator."""
        return as_tensor(np.stack([rng.standard_normal((self.chains, self.size)) for rng in self.rngs]))

    def uniform(self, number: int) -> torch.Tensor:
        """(R, number), likewise."""
        return as_tensor(np.stack([rng.random(number) for rng in self.rngs]))

    def move(self, beta: torch.Tensor, log_step: torch.Tensor) -> torch.Tensor:
        """``moves.number`` trajectories of each chain (Neal 2011, Handbook of MCMC, ch. 5); the mean acceptance rate of
        each row (R,)."""
        total = torch.zeros(self.rows)
        at = beta.repeat_interleave(self.chains)
        for _ in range(self.moves.number):
            z, momentum = self.z.reshape(-1, self.size), self.normal().reshape(-1, self.size)
            draws = self.uniform(2 * self.chains)
            jitter, threshold = 1 + JITTER * (2 * draws[:, : self.chains] - 1), draws[:, self.chains :].reshape(-1)
            step = (log_step.exp()[:, None] * jitter).reshape(-1, 1)
            value, _, slope = self.gradient(z, at, *self.inputs)
            start = value - 0.5 * (momentum**2).sum(1)
            for _ in range(self.moves.num_leapfrogs):
                momentum = momentum + 0.5 * step * slope
                z = z + step * momentum
                value, found, slope = self.gradient(z, at, *self.inputs)
                momentum = momentum + 0.5 * step * slope
            rate = torch.nan_to_num((value - 0.5 * (momentum**2).sum(1) - start).exp(), nan=0.0).clamp(max=1.0)
            accepted = (threshold < rate).reshape(self.rows, self.chains)
            self.z = torch.where(accepted[..., None], z.reshape(self.z.shape), self.z)
            self.found = torch.where(accepted, found.reshape(self.found.shape), self.found)
            total = total + rate.reshape(self.rows, self.chains).mean(1)
        return total / self.moves.number

    def next_beta(self, beta: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
        """(R,): as far as the conditional effective sample size of each row allows."""
        w = torch.softmax(log_weights, 1)

        def good(at: torch.Tensor) -> torch.Tensor:
            gain = (at - beta)[:, None] * self.found
            ratio = torch.exp(gain - gain.max(1, keepdim=True).values)
            return (w * ratio).sum(1) ** 2 / (w * ratio**2).sum(1) >= self.moves.conditional_ess

        low, high = beta, torch.ones_like(beta)
        for _ in range(BISECTIONS):
            # Between 0 and the first temperature lie powers of ten, so that low ones are found by halving ratios.
            middle = torch.where(low > 0, (low.clamp(min=1e-30) * high).sqrt(), 1e-3 * high)
            middle = torch.where(high < 4 * low, 0.5 * (low + high), middle)
            enough = good(middle)
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        one = torch.ones_like(beta)
        return torch.where(good(one), one, torch.where(low > beta, low, high))

    def resample(self, log_weights: torch.Tensor) -> torch.Tensor:
        """Systematically, the rows that need it; log weights afterwards."""
        w = torch.softmax(log_weights, 1)
        low = 1 / (w**2).sum(1) < RESAMPLE_BELOW * self.chains
        at = (torch.arange(self.chains) + self.uniform(1)) / self.chains
        chosen = torch.searchsorted(w.cumsum(1), at).clamp(max=self.chains - 1)
        again = self.z.take_along_dim(chosen[..., None], 1)
        self.z = torch.where(low[:, None, None], again, self.z)
        self.found = torch.where(low[:, None], self.found.take_along_dim(chosen, 1), self.found)
        return torch.where(low[:, None], torch.zeros(()), log_weights)

    def run(self, path: RowPath, adaptive: bool) -> Annealed:
        betas, log_steps = as_tensor(path.beta), as_tensor(path.log_step)
        at, log_weights, rate = 0, torch.zeros(self.rows, self.chains), self.moves.rate if adaptive else 0.0
        beta, log_step = betas[0], log_steps[0]
        records = [(beta, log_step, torch.zeros_like(beta))]
        while at < path.length:
            turn = at >= START_MOVES and (at - START_MOVES) % HOLD == 0
            if adaptive and turn and bool((beta >= 1).all()):
                break
            before = beta
            if not adaptive:
                beta, log_step = betas[at + 1], log_steps[at + 1]
            elif turn:
                last = at >= path.length - HOLD
                beta = torch.ones_like(beta) if last else self.next_beta(beta, log_weights)
            log_weights = log_weights + (beta - before)[:, None] * self.found
            if adaptive:
                log_weights = self.resample(log_weights)
            accepted = self.move(beta, log_step)
            log_step = log_step + rate * (accepted - self.moves.target_accept)
            records.append((beta, log_step, accepted))
            at += 1
        beta_, log_step_, acceptance = (torch.stack(part).numpy() for part in zip(*records, strict=True))
        return Annealed(
            z=self.z.numpy(), log_weights=log_weights.numpy(), length=np.asarray(at), beta=beta_, log_step=log_step_,
            acceptance=acceptance,
        ).cut()  # fmt: skip
