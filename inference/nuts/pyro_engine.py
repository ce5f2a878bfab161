"""NUTS in torch: Pyro's own sampler over the pair's log density and its gradient as one program of one flat vector.

Pyro's sampler costs far more than a small model's gradient, and its cost grows with the number of sites, so all sites
go into one vector. Chains run one after another on one thread: they share torch's random generator, so with threads
the same seed would not give the same bits. Each chain's generator is seeded from the seed and the chain's number.
Pyro can't store a sampler between two steps, so checkpoints are written after each chain: a resumed run repeats the
chain that was cut from its beginning, and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro.infer.mcmc import HMC as PyroHMC
from pyro.infer.mcmc import NUTS as PyroNUTS

from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import sandbox, value_and_gradient
from ppl_gen.backends.pyro_unconstrained import Unconstrained
from ppl_gen.engine import Draws
from ppl_gen.inference.em.pyro_engine import starting_values
from ppl_gen.inference.nuts import NUTS

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

CHUNK = 25  # steps between two looks at the progress bar
Record = dict[str, Any]


def run(pair: Pair, data: Data, settings: NUTS, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.nuts.NUTS`."""

    def kernel(potential: Callable) -> Kernel:
        return Kernel(
            potential_fn=potential, target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth
        )

    return sample(pair, data, settings, seed, monitor, kernel)


def sample(pair: Pair, data: Data, settings: Any, seed: int, monitor: Monitor, make_kernel: Callable) -> Draws:
    """Chains of one of Pyro's Hamiltonian samplers.

    :param make_kernel: ``potential -> sampler``, a :class:`Recorded` one.
    """
    view = pair.data if pair.data is not None else data.view("pyro")
    monitor.begin(settings.num_chains * (settings.num_warmup + settings.num_samples))
    starts = starting_values(pair, view, seed, settings.num_chains, settings.num_starts)
    chains, interrupted = _restore(monitor), False
    current: list[Record] = []  # the draws of the chain at work
    with sandbox(seed, threads=1):
        space = Unconstrained(pair, view)
        vector = torch.full((space.size,), 0.1, requires_grad=True)
        program = value_and_gradient(lambda: -space.log_density(vector, view), (vector,))
        try:
            for chain in range(len(chains), settings.num_chains):
                current = []
                steps = _sample(
                    space, program, {k: v[chain] for k, v in starts.items()}, settings, seed, chain, make_kernel
                )
                for number, record in enumerate(steps):
                    current += record
                    monitor.worth_keeping |= bool(record)
                    _report(monitor, settings, chains, current, number)
                chains.append(_stack(current))
                monitor.save(_pack(chains))
        except KeyboardInterrupt:
            chains, interrupted = _largest_block(chains, current, settings), True
            if not chains:
                raise
        flat = torch.as_tensor(np.stack([chain["position"] for chain in chains]))
        posterior = {name: value.numpy() for name, value in space.constrain(flat).items()}
    stats = {name: np.stack([chain[name] for chain in chains]) for name in chains[0] if name != "position"}
    return Draws(
        posterior=posterior, uncertainty="posterior", sample_stats=stats, interrupted=interrupted,
        figures={name: getattr(settings, name) for name in ("num_warmup", "max_tree_depth") if hasattr(settings, name)},
    )  # fmt: skip


class Recorded(PyroHMC):
    """Mixed into a sampler of Pyro's, keeps what ArviZ asks about each step; the sampler itself is untouched."""

    energy: Any = None

    def details(self) -> Record:
        """What this sampler alone says of a step."""
        return {}

    def sample(self, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mean, divergences, self.energy = self._mean_accept_prob, len(self._divergences), None
        step_size = self.step_size
        params = super().sample(params)
        count = self._t - self._warmup_steps if self._t > self._warmup_steps else self._t
        self.info = {
            "diverging": len(self._divergences) > divergences, "energy": float(self.energy),
            "lp": -float(self._potential_energy_last), "step_size": float(step_size), **self.details(),
            # Pyro keeps the running mean only: m_n = m_(n-1) + (a_n - m_(n-1)) / n.
            "acceptance_rate": mean + (self._mean_accept_prob - mean) * count,
        }  # fmt: skip
        return params

    def _sample_r(self, name: str) -> Any:
        momentum, unscaled = super()._sample_r(name)
        if self.energy is None:  # the Hamiltonian of this trajectory; later calls only look for a step size
            self.energy = self._kinetic_energy(unscaled) + self._potential_energy_last
        return momentum, unscaled


class Kernel(Recorded, PyroNUTS):
    """Pyro's NUTS, which counts its leapfrog steps."""

    num_leapfrogs = 0

    def details(self) -> Record:
        found, self.num_leapfrogs = self.num_leapfrogs, 0
        return {"tree_depth": found.bit_length(), "n_steps": found}

    def _build_basetree(self, *args: Any) -> Any:
        self.num_leapfrogs += 1
        return super()._build_basetree(*args)


class _Potential(torch.autograd.Function):
    """A potential whose gradient comes with its value, in the form that Pyro's integrator differentiates."""

    @staticmethod
    def forward(ctx: Any, vector: torch.Tensor, program: Callable) -> torch.Tensor:
        value, (gradient,) = program(vector)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None]:
        return outer[0] * ctx.saved_tensors[0], None


def _sample(
    space: Unconstrained,
    program: Callable,
    start: dict[str, np.ndarray],
    settings: Any,
    seed: int,
    chain: int,
    make_kernel: Callable,
) -> Iterator[list[Record]]:
    """One chain, step by step: [] for each step of the warm-up, then a list that holds the one draw."""
    pyro.set_rng_seed(int(np.random.SeedSequence([seed, chain]).generate_state(1)[0]))
    kernel = make_kernel(lambda params: _Potential.apply(params["u"], program))
    # A little noise, so that chains that begin at the same mode do not begin at the same point.
    position = space.start({name: as_tensor(value) for name, value in start.items()})
    params = kernel.initial_params = {"u": position + 0.05 * torch.randn(space.size)}
    kernel.setup(settings.num_warmup)
    kernel.details()  # of the search for a first step size
    for number in range(settings.num_warmup + settings.num_samples):
        params = kernel.sample(params)
        yield [] if number < settings.num_warmup else [kernel.info | {"position": params["u"].numpy().copy()}]


def _report(monitor: Monitor, settings: Any, chains: list[Record], current: list[Record], number: int) -> None:
    steps = settings.num_warmup + settings.num_samples
    if (number + 1) % CHUNK == 0 or number + 1 == steps:
        diverging = sum(chain["diverging"].sum() for chain in chains) + sum(draw["diverging"] for draw in current)
        monitor.update(len(chains) * steps + number + 1, settings.num_chains * steps, divergences=float(diverging))


def _stack(draws: list[Record]) -> Record:
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def _largest_block(chains: list[Record], current: list[Record], settings: Any) -> list[Record]:
    """What to keep when a chain was cut: the whole chains, or all chains up to the cut, whichever is more draws."""
    cut = len(current)
    if cut * (len(chains) + 1) <= len(chains) * settings.num_samples:
        return chains
    return [{name: value[:cut] for name, value in chain.items()} for chain in [*chains, _stack(current)]]


def _pack(chains: list[Record]) -> dict[str, np.ndarray]:
    return {name: np.stack([chain[name] for chain in chains]) for name in chains[0]}


def _restore(monitor: Monitor) -> list[Record]:
    """The chains that a checkpoint holds."""
    packed = monitor.load()
    if packed is None:
        return []
    return [{name: value[chain] for name, value in packed.items()} for chain in range(len(packed["position"]))]
