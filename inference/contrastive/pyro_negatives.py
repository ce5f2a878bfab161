"""Markov chains of negatives in torch: steps that leave a tempered density of the pair as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.mcmc import NUTS

from ppl_gen.backends.pyro_programs import recorded
from ppl_gen.family import Pair
from ppl_gen.inference.contrastive.course import Plan

Weights = dict[str, torch.Tensor]
MAX_DOUBLINGS = 6  # of a trajectory of nuts: a training step waits for the longest of all chains


class Negatives:
    """Steps of the chains of one pair, by torch's own random state."""

    def __init__(self, pair: Pair, plan: Plan) -> None:
        self.pair, self.plan = pair, plan
        self.leaps = plan.settings.num_leapfrog if plan.sampler == "hmc" else 1
        # Pairs of one family and schema share their recorded programs.
        key = ("contrastive moves", *plan.key, torch.get_default_dtype())
        self.programs: dict[torch.Size, Callable[..., Any]] = pair.cached(key, dict)

    def move(
        self, weights: Weights, x: torch.Tensor, beta: float, log_step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chains (B, *row) after k steps, and the share of steps that the test accepts, or would accept."""
        plan = self.plan
        if plan.sampler == "gibbs":
            return self._gibbs(weights, x, torch.tensor(beta, dtype=x.dtype)), torch.ones(())
        if plan.sampler == "nuts":
            return self._nuts(weights, x, beta, float(log_step.exp()))
        inputs = (torch.tensor(beta, dtype=x.dtype), log_step.exp())
        state, total = (x, *self._both(weights, x, inputs[0])), torch.zeros(())
        for _ in range(plan.num_steps):
            *state, accepted = self._leapfrog(weights, *state, *inputs)  # type: ignore[assignment]
            total = total + accepted
        return state[0], total / plan.num_steps

    def _both(self, weights: Weights, x: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log densities (B,) and their gradients."""
        tempered = self.pair.tempered
        assert tempered is not None

        def total(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            values = tempered(weights, x, beta)
            return values.sum(), values

        gradient, (_, values) = torch.func.grad_and_value(total, has_aux=True)(x)
        return values, gradient

    def _leapfrog(self, weights: Weights, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A trajectory from momenta that are drawn anew; of one step it is Langevin's.

        :param state: chains, their log densities and gradients, the inverse temperature and the step size.
        """
        names, test = list(weights), self.plan.sampler != "langevin"

        def function(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor, beta: torch.Tensor, step: torch.Tensor,
                     *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:  # fmt: skip
            own = dict(zip(names, leaves, strict=True))
            start = momentum = torch.randn(x.shape, dtype=x.dtype)
            y, new, at = x, value, slope
            for _ in range(self.leaps):
                momentum = momentum + 0.5 * step * at
                y = y + step * momentum
                new, at = self._both(own, y, beta)
                momentum = momentum + 0.5 * step * at
            log_ratio = (new - _kinetic(momentum)) - (value - _kinetic(start))
            accept = torch.nan_to_num(log_ratio.clamp(max=0.0).exp(), nan=0.0)
            goes = torch.isfinite(new)
            if test:
                goes = goes & (torch.rand(accept.shape, dtype=accept.dtype) < accept)
            rows = goes.reshape(-1, *(1,) * (x.ndim - 1))
            return (torch.where(rows, y, x), torch.where(goes, new, value), torch.where(rows, at, slope),
                    accept.mean())  # fmt: skip

        return self._program(function, (*state, *weights.values()))

    def _gibbs(self, weights: Weights, *state: torch.Tensor) -> torch.Tensor:
        """Sweeps of the chains; after those the inverse temperature."""
        gibbs, names = self.pair.gibbs, list(weights)
        assert gibbs is not None

        def function(x: torch.Tensor, beta: torch.Tensor, *leaves: torch.Tensor) -> torch.Tensor:
            own = dict(zip(names, leaves, strict=True))
            for _ in range(self.plan.num_steps):
                x = gibbs(own, x, beta, None)
            return x

        return self._program(function, (*state, *weights.values()))

    def _program(self, function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Any:
        """The function of these tensors, recorded the first time that chains are so many."""
        inputs = tuple(leaf.detach() for leaf in inputs)
        size = inputs[0].shape
        if size not in self.programs:
            self.programs[size] = recorded(function, inputs)
        with torch.no_grad():
            return self.programs[size](*inputs)

    def _nuts(self, weights: Weights, x: torch.Tensor, beta: float, step: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The chains are coordinates of one row of their product, which each step leaves as it is."""
        tempered = self.pair.tempered
        assert tempered is not None

        def potential(sites: dict[str, torch.Tensor]) -> torch.Tensor:
            return -tempered(weights, sites["x"], beta).sum()

        kernel = NUTS(
            potential_fn=potential, step_size=step, adapt_step_size=False, adapt_mass_matrix=False,
            max_tree_depth=MAX_DOUBLINGS,
        )  # fmt: skip
        kernel.initial_params = {"x": x}
        sites = {"x": x}
        with torch.enable_grad():
            kernel.setup(0)
            for _ in range(self.plan.num_steps):
                sites = kernel.sample(sites)
        return sites["x"].detach(), torch.as_tensor(kernel._mean_accept_prob, dtype=x.dtype)

    def move_all(
        self, weights: Weights, chains: torch.Tensor, log_step: torch.Tensor, parity: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chains (R, B, *row) at the inverse temperatures of the plan after k steps, and R shares of accepted steps;
        neighbours have changed places. Those at 0 are drawn anew.

        :param parity: whether the first of the pairs of neighbours begins at the second temperature.
        """
        betas = self.plan.betas
        if len(betas) == 1:
            x, accepted = self.move(weights, chains[0], 1.0, log_step[0])
            return x[None], accepted[None]
        warm = zip(chains[:-1], betas[:-1], log_step[:-1], strict=True)
        moved, shares = zip(*(self.move(weights, x, beta, step) for x, beta, step in warm), strict=True)
        assert self.pair.draw_base is not None
        base = self.pair.draw_base(weights, chains.shape[1], None).to(chains.dtype)
        accepted = torch.stack([*shares, torch.tensor(self.plan.target)])  # there is no step at the base
        return self._swap(weights, torch.stack([*moved, base]), parity), accepted

    def _swap(self, weights: Weights, chains: torch.Tensor, parity: int) -> torch.Tensor:
        """Neighbouring temperatures exchange their states where Metropolis' test accepts."""
        betas, tempered = self.plan.betas, self.pair.tempered
        assert tempered is not None
        for r in range(parity, len(betas) - 1, 2):
            cold, warm = chains[r], chains[r + 1]
            log_ratio = (tempered(weights, warm, betas[r]) + tempered(weights, cold, betas[r + 1])
                         - tempered(weights, cold, betas[r]) - tempered(weights, warm, betas[r + 1]))  # fmt: skip
            accept = torch.rand(log_ratio.shape, dtype=log_ratio.dtype).log() < log_ratio
            rows = accept.reshape(-1, *(1,) * (chains.ndim - 2))
            chains = torch.cat(
                [chains[:r], torch.where(rows, warm, cold)[None], torch.where(rows, cold, warm)[None], chains[r + 2 :]]
            )
        return chains


def _kinetic(momentum: torch.Tensor) -> torch.Tensor:
    return 0.5 * (momentum**2).reshape(len(momentum), -1).sum(1)
