"""SGLD in torch, the twin of ``numpyro_engine``: all chains in one recorded gradient, as the rows of one matrix.

The random numbers of all chains come from one generator, whose state goes into checkpoints, so a resumed run gives the
same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.backends.pyro_bounds import Guides, bounded_density
from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import over_draws, recorded, sandbox
from ppl_gen.backends.pyro_unconstrained import Unconstrained
from ppl_gen.inference.em.pyro_engine import starting_values
from ppl_gen.inference.sgld import SGLD
from ppl_gen.inference.sgld import walking as sgld
from ppl_gen.inference.sgld.walking import Plan

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

CLIP = 10.0  # the norm of a climb's gradient, in nats a row
Gradient = Callable[[torch.Tensor, torch.Tensor | None], Any]


def run(pair: Pair, data: Data, settings: SGLD, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.sgld.SGLD`."""
    return walk(pair, data, settings, seed, monitor, 1, _dynamics)


def _dynamics(settings: SGLD, state: torch.Tensor, gradient: Callable, size: float) -> torch.Tensor:
    """Welling & Teh's eq. 4, as :func:`walk` takes it."""
    position = state[0]
    return (position + 0.5 * size * gradient(position) + size**0.5 * torch.randn_like(position))[None]


def walk(pair: Pair, data: Data, settings: Any, seed: int, monitor: Monitor, parts: int, dynamics: Callable) -> Draws:
    """Chains of a dynamics along noisy gradients.

    :param parts: what the chains' state (parts, chain, dimension) is made of: position, and perhaps velocity.
    :param dynamics: ``(settings, state, gradient(position), size) -> state``.
    """
    view = pair.data if pair.data is not None else data.view("pyro")
    plan, interrupted = Plan(settings), False
    monitor.begin(settings.total)
    starts = starting_values(pair, view, seed, settings.num_chains, settings.num_starts)
    with sandbox(seed, threads=1):
        space = Unconstrained(pair, view)
        chains = _Chains(pair, space, view, settings, starts)
        packed = monitor.load()
        if packed is None:
            curvatures = chains.begin(plan, monitor)
            state = torch.zeros(parts, *chains.positions.shape)
            state[0] = chains.positions
            looks, calls, halvings = [], 0, 0
            first = {"state": state.numpy(), "random": torch.get_rng_state().numpy(), **chains.guides.packed}
        else:
            state, chains.scale = torch.as_tensor(packed["state"]), torch.as_tensor(packed["scale"])
            chains.guides.restore(packed)
            first = {name: packed[f"first/{name}"] for name in ("state", "random", *chains.guides.packed)}
            curvatures, calls, halvings = packed["curvatures"], int(packed["calls"]), int(packed["halvings"])
            looks = [packed["looks"]] if calls else []
            torch.set_rng_state(torch.as_tensor(packed["random"]))
        step, figures = sgld.choose_step(settings, curvatures, len(data), halvings)
        try:
            while calls < len(plan.bounds):
                found = []
                for start, end in itertools.pairwise(plan.bounds[calls].tolist()):
                    for number, size in enumerate((step * plan.sizes[start:end]).tolist(), start):
                        chains.rate = settings.rate_of_guide(number, np) if number < settings.num_warmup else 0.0
                        state = dynamics(settings, state, chains.noisy_gradient, size)
                    found.append(state[0].numpy())
                output = np.stack(found, axis=1)
                done = int(plan.bounds[calls, -1])
                if sgld.ran_away(output, done, step, settings, halvings):
                    state, looks, calls, halvings = torch.as_tensor(first["state"]), [], 0, halvings + 1
                    chains.guides.restore(first)
                    torch.set_rng_state(torch.as_tensor(first["random"]))
                    step, figures = sgld.choose_step(settings, curvatures, len(data), halvings)
                    monitor.worth_keeping = False
                    continue
                looks, calls = [np.concatenate([*looks, output], axis=1)], calls + 1
                monitor.worth_keeping = plan.kept(looks[0]).shape[1] > 0
                monitor.update(done, settings.total)
                if monitor.checkpoint_path is not None:
                    monitor.save({"state": state.numpy(), "scale": chains.scale.numpy(),
                                  "curvatures": curvatures, "looks": looks[0], "calls": np.asarray(calls),
                                  "halvings": np.asarray(halvings), "random": torch.get_rng_state().numpy(),
                                  **{f"first/{name}": value for name, value in first.items()},
                                  **chains.guides.packed})  # fmt: skip
        except KeyboardInterrupt:
            if not monitor.worth_keeping:
                raise
            interrupted = True
        draws = torch.as_tensor(plan.kept(looks[0])) * chains.scale
        posterior = {name: value.numpy() for name, value in space.constrain(draws).items()}
        posterior = sgld.with_guide(posterior, chains.guides.by_chain)
    return sgld.result(posterior, settings, plan, figures, len(data), interrupted)


def _clipped(gradient: torch.Tensor) -> torch.Tensor:
    """(chain, size), none longer than :data:`CLIP`."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return gradient * (CLIP / norm).clamp(max=1.0)


class _Chains:
    """Where all chains are, (chain, dimension), in units of ``scale``, and the programs that move them."""

    def __init__(
        self, pair: Pair, space: Unconstrained, view: View, settings: Any, starts: dict[str, np.ndarray]
    ) -> None:
        self.pair, self.space, self.view, self.settings = pair, space, view, settings
        each = [{name: as_tensor(value[c]) for name, value in starts.items()} for c in range(settings.num_chains)]
        self.positions = torch.stack([space.start(one) for one in each])
        self.scale, self.rate = torch.ones(space.size), 0.0
        own = sgld.of_guide(pair, starts, space.transforms)
        self.guides = Guides([{name: as_tensor(value) for name, value in one.items()} for one in own])
        self.gradient = self._gradient(settings.rows_per_step(len(view.x)))
        self.gradients = self._gradient(settings.rows_per_step(len(view.x)), both=True) if pair.local else None

    def _rows(self, size: int | None) -> torch.Tensor | None:
        """(chain, size) rows drawn for each chain; None means all rows."""
        number = len(self.view.x)
        return None if size is None or size >= number else torch.randint(number, (len(self.positions), size))

    def _gradient(self, size: int | None, both: bool = False) -> Gradient:
        """``f(u, rows)``, the gradient of each chain's log joint in unconstrained space, recorded as one program.

        :param both: by the weights of the guide as well, (2,).
        """
        space, view, local = self.space, self.view, bool(self.pair.local)

        def one(values: dict[str, torch.Tensor]) -> torch.Tensor:
            u, rows = values["u"], values.get("rows")
            if local:
                guide = self.guides.named(values["guide"])
                return bounded_density(space, u, guide, view, rows, self.settings.particles)
            if rows is None:
                return space.log_density(u, view)
            return space.log_density(u, view, {"obs": rows}, subsample_size=rows.shape[0])

        def gradient(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values = dict(zip(names, inputs, strict=True))
            with torch.enable_grad():
                leaves = [values[name].detach().requires_grad_() for name in names[: 1 + both]]
                values |= dict(zip(names, leaves, strict=False))
                cost = view.x[: size or len(view.x)].numel() * (self.settings.particles if local else 1)
                return torch.autograd.grad(over_draws(one, values, cost).sum(), leaves)

        rows = self._rows(size)
        names = ["u", *(["guide"] if local else []), *([] if rows is None else ["rows"])]
        example = {"u": self.positions, "guide": self.guides.values, "rows": rows}
        program = recorded(gradient, tuple(example[name] for name in names))

        def run(positions: torch.Tensor, rows: torch.Tensor | None) -> Any:
            given = {"u": positions, "guide": self.guides.values, "rows": rows}
            with torch.no_grad():
                found = program(*(given[name] for name in names))
            return found if both else found[0]

        return run

    def begin(self, plan: Plan, monitor: Monitor) -> np.ndarray:
        """Take the chains to where they start; the curvature there."""
        if sgld.climbs(self.pair):
            self._climb(plan.rates(), monitor)
        self.scale = as_tensor(sgld.scales(self._variances(), self.settings, len(self.view.x), self.space.size))
        self.positions = self.positions / self.scale
        curvatures = self._curvature()
        if not self.pair.has_weights:
            self.positions = self.positions + sgld.SPREAD * torch.randn_like(self.positions) / self.scale
        return curvatures

    def _drift(self, positions: torch.Tensor, rows: torch.Tensor | None, gradient: Gradient) -> torch.Tensor:
        """The gradient in the units of the walk."""
        return self.scale * gradient(self.scale * positions, rows)

    def noisy_gradient(self, positions: torch.Tensor) -> torch.Tensor:
        """The same from rows drawn anew; where there is a rate, the guides learn from them, too."""
        rows = self._rows(self.settings.rows_per_step(len(self.view.x)))
        if self.gradients is None or not self.rate:
            return self._drift(positions, rows, self.gradient)
        own, of_guide = self.gradients(self.scale * positions, rows)
        self.guides.climb(_clipped(of_guide / len(self.view.x)), self.rate)
        return self.scale * own

    def _climb(self, rates: np.ndarray, monitor: Monitor) -> None:
        """Steps of Adam up the log joint."""
        leaf, number = self.positions.clone(), len(self.view.x)
        adam, batch = torch.optim.Adam([leaf], maximize=True), self.settings.rows_per_step(len(self.view.x))
        for done, rate in enumerate(rates.tolist()):
            rows = self._rows(batch)
            if self.gradients is None:
                leaf.grad = _clipped(self.gradient(leaf, rows) / number)
            else:
                found = _clipped(torch.cat(self.gradients(leaf, rows), 1) / number)
                leaf.grad = found[:, : leaf.shape[1]]
                self.guides.climb(found[:, leaf.shape[1] :], rate)
            adam.param_groups[0]["lr"] = rate
            adam.step()
            if done % sgld.CHUNK == 0:
                monitor.update(0, self.settings.total, pilot=done)
        self.positions = leaf.detach()
        self.guides.forget()

    def _variances(self) -> np.ndarray | None:
        """(chain, dimension) of the gradient from batches of a few rows."""
        batch = self.settings.rows_of_fisher(len(self.view.x))
        if batch is None:
            return None
        gradient = self._gradient(batch)
        found = torch.stack([gradient(self.positions, self._rows(batch)) for _ in range(sgld.FISHER_BATCHES)])
        return found.var(0, correction=0).numpy()

    def _curvature(self) -> np.ndarray:
        """(chain,): the largest second derivative of minus the log joint, by power iteration on differences of
        gradients."""
        rows = self._rows(sgld.CURVATURE_ROWS)
        gradient = self.gradient if rows is None and self.settings.rows_per_step(len(self.view.x)) is None else (
            self._gradient(sgld.CURVATURE_ROWS)
        )  # fmt: skip
        v = as_tensor(np.random.default_rng(0).standard_normal(self.space.size)).expand_as(self.positions)
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
        norm, reach = torch.ones(len(v), 1), self.settings.difference(len(self.view.x))
        same = torch.get_rng_state()  # the same particles at both ends
        for _ in range(sgld.POWER_ITERATIONS):
            shift, ends = reach * v, []
            for at in (self.positions - shift, self.positions + shift):
                torch.set_rng_state(same)
                ends.append(self._drift(at, rows, gradient))
            image = ends[0] - ends[1]
            norm = torch.linalg.vector_norm(image, dim=1, keepdim=True)
            v = image / norm
        return (norm[:, 0] / (2 * reach)).numpy()
