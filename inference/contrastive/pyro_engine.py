"""Contrastive divergence in torch: the pieces of a step recorded as programs, the members one after another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_gen.backends import pyro_ops
from ppl_gen.backends.pyro_programs import recorded, sandbox
from ppl_gen.inference.contrastive.course import ADAPT, FIGURES, PART_ROWS, TRACE_LENGTH, TRACED, Course, Plan
from ppl_gen.inference.contrastive.pyro_negatives import Negatives, Weights
from ppl_gen.inference.svi.ensemble import EVERY, LOOKS, SHARE, without_idle
from ppl_gen.normalizer import normalize

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.contrastive import Contrastive
    from ppl_gen.progress import Monitor

BIG = 8_000_000  # multiplications in the largest layer of a step from which threads pay


def run(pair: Pair, data: Data, settings: Contrastive, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.contrastive.Contrastive`."""
    view = pair.data if pair.data is not None else data.view("pyro")
    plan = Plan.of(pair, settings, len(data), view.x.shape[-1], seed)
    assert pair.initialize is not None
    start, idle = without_idle(pair, pair.initialize(view, seed, settings.num_members), view)
    course, interrupted, kept, chains = Course(plan), False, dict(idle), {}
    if start:
        largest = max(int(np.prod(value.shape[1:])) for value in start.values()) * plan.split.batch_size
        with sandbox(seed, threads=1 if largest < BIG else None):
            members = [_Member(pair, plan, start, idle, i, view) for i in range(settings.num_members)]
            interrupted = _train(course, members, monitor)
            found = [member.trace() for member in members]
            states = [member.unflatten(member.mean) for member in members]
            kept |= {name: np.stack([each[name].numpy() for each in states]) for name in start}
            names = ("negative_chain", "negative_energy")
            chains = {name: np.stack(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)}
    trained = {"chain": chains["negative_chain"]} if chains else {}
    kept = normalize(pair, {**kept, **trained}, view, settings.normalizer, seed)
    return course.result(kept, partial(pyro_ops.log_prob, pair, view=view), chains, len(data), interrupted)


def _train(course: Course, members: list[_Member], monitor: Monitor) -> bool:
    """Train the members until each has taken its steps or has diverged; whether Ctrl-C came."""
    packed = monitor.load()
    if packed is not None:
        course.restore(packed)
        for i, member in enumerate(members):
            member.restore({name: packed[f"state/{i}/{name}"] for name in _STATE})
    try:
        while not course.done:
            figures = {name: np.full(len(members), np.nan) for name in FIGURES}
            before = [member.pack() for member in members]
            for i in np.flatnonzero(course.going).tolist():
                for name, value in members[i].window().items():
                    figures[name][i] = value
            was = course.going
            well = course.update(figures)
            for i in np.flatnonzero(was & ~well).tolist():
                members[i].restore(before[i])
            course.tell(monitor)
            if monitor.checkpoint_path is not None:
                states = {f"state/{i}/{k}": v for i, member in enumerate(members) for k, v in member.pack().items()}
                monitor.save({**states, **course.arrays})
    except KeyboardInterrupt:
        if not course.windows:
            raise
        return True
    return False


_STATE = ("weights", "mean", "first", "second", "chains", "log_step", "count", "random")


class _Member:
    """A member on its way: weights, a row of numbers, their running mean, the optimizer's moments, and its chains."""

    def __init__(
        self, pair: Pair, plan: Plan, start: Mapping[str, np.ndarray], idle: Mapping[str, np.ndarray], number: int,
        view: View,
    ) -> None:  # fmt: skip
        self.pair, self.plan, self.split, self.settings, self.view = pair, plan, plan.split, plan.settings, view
        dtype = torch.get_default_dtype()
        self.shapes = {name: value.shape[1:] for name, value in start.items()}
        self.sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        flat = np.concatenate([np.reshape(start[name][number], -1) for name in self.shapes])
        self.fixed = {name: torch.as_tensor(np.asarray(value[number]), dtype=dtype) for name, value in idle.items()}
        self.negatives = Negatives(pair, plan)
        self.weights = torch.as_tensor(flat, dtype=dtype)
        self.mean, self.count = self.weights.clone(), 0
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.train, self.validation = (
            torch.as_tensor(rows[number]) for rows in (plan.split.train, plan.split.validation)
        )
        size, betas = plan.blocks * plan.split.batch_size, len(plan.betas)
        drawn = self._draw(max(betas * size, 1))
        self.chains = drawn[: betas * size].reshape(betas, size, *view.x.shape[1:])
        self.log_step = torch.full((betas,), float(np.log(plan.start_step)), dtype=dtype)

    @property
    def own(self) -> Weights:
        return {**self.unflatten(self.weights), **self.fixed}

    def _draw(self, number: int) -> torch.Tensor:
        assert self.pair.draw_base is not None
        return self.pair.draw_base(self.own, number, None).to(self.view.x.dtype)

    def unflatten(self, vector: torch.Tensor) -> Weights:
        """{name: shape} of a row of numbers."""
        parts = zip(self.shapes.items(), vector.split(self.sizes), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in parts}

    def pack(self) -> dict[str, np.ndarray]:
        """The whole state, as arrays."""
        tensors = {name: getattr(self, name).numpy().copy() for name in _STATE[:6]}
        return {
            **tensors,
            "count": np.array(self.count),
            "random": torch.get_rng_state().numpy(),
        }

    def restore(self, packed: Mapping[str, np.ndarray]) -> None:
        """Go back to such a state."""
        for name in _STATE[:6]:
            setattr(self, name, torch.as_tensor(packed[name]).clone())
        self.count = int(packed["count"])
        torch.set_rng_state(torch.as_tensor(packed["random"]))

    def window(self) -> dict[str, float]:
        """Whole passes over the rows in random order (a rest shorter than a batch waits for the next), and the figures
        of :data:`~ppl_gen.inference.contrastive.course.FIGURES`."""
        total = torch.zeros(3)
        for _ in range(self.split.passes):
            order = self.train[torch.randperm(len(self.train))]
            for rows in order.split(self.split.batch_size)[: self.split.batches]:
                total += self._step(self.view.take(rows))
        gap, norm, accepted = (total / self.split.steps).tolist()
        return {"energy_gap": gap, "gradient_norm": norm, "acceptance": accepted,
                "step_size": float(self.log_step[0].exp()), "validation_gap": self._validate()}  # fmt: skip

    def _step(self, rows: View) -> torch.Tensor:
        plan, settings = self.plan, self.settings
        moved, accepted = self._negatives(rows.x)
        weight = torch.ones(len(rows.x)) if rows.weights is None else rows.weights
        gradient, gap, norm = self._gradient(rows.x, weight / weight.sum().clamp(min=1e-30), moved[0])
        self.count += 1
        rate = plan.rate * min(max(2 - self.count / plan.half, 0.0), 1.0)
        if settings.optimizer == "adam":
            self.first.lerp_(gradient, 0.1)
            self.second.lerp_(gradient**2, 0.001)
            scale = (self.second / (1 - 0.999**self.count)).sqrt() + 1e-8
            self.weights = self.weights - rate * self.first / (1 - 0.9**self.count) / scale
        else:
            self.first = gradient + settings.momentum * self.first
            self.weights = self.weights - rate * self.first
        if self.count % EVERY == 0:
            self.mean = torch.lerp(self.mean, self.weights, SHARE / min(max(self.count // EVERY, SHARE), SHARE * LOOKS))
        if plan.adapts:
            self.log_step = self.log_step + ADAPT * (accepted - plan.target)
        return torch.stack([gap, norm, accepted[0]])

    def _negatives(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The chains (R, B, *row) that were moved, and shares of accepted steps."""
        plan, size, own = self.plan, self.split.batch_size, self.own
        parity = self.count // max(plan.blocks, 1) % 2
        with torch.no_grad():
            if not plan.blocks:
                return self.negatives.move_all(own, x[None], self.log_step, parity)
            first = self.count % plan.blocks * size
            block = self.chains[:, first : first + size].clone()
            if plan.restart:
                anew = (torch.rand(size) < plan.restart).reshape(-1, *(1,) * (x.ndim - 1))
                block[0] = torch.where(anew, self._draw(size), block[0])
            moved, accepted = self.negatives.move_all(own, block, self.log_step, parity)
            self.chains[:, first : first + size] = moved
            return moved, accepted

    def _gradient(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradient, of norm ``clip`` at most, the gap of the energies of rows and negatives, and the norm."""
        fixed, names = list(self.fixed.values()), list(self.fixed)

        def function(vector: torch.Tensor, x: torch.Tensor, share: torch.Tensor, negatives: torch.Tensor,
                     *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:  # fmt: skip
            def loss(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                own = {**self.unflatten(vector), **dict(zip(names, leaves, strict=True))}
                return self._loss(own, x, share, negatives)

            gradient, (_, gap) = torch.func.grad_and_value(loss, has_aux=True)(vector)
            norm = torch.linalg.vector_norm(gradient)
            return gradient * (self.settings.clip / norm.clamp(min=self.settings.clip)), gap, norm

        every = (self.weights, *inputs, *fixed)
        key = ("contrastive gradient", *self.plan.key, torch.get_default_dtype(), len(inputs[0]))
        program = self.pair.cached(key, lambda: recorded(function, every))
        with torch.no_grad():
            return program(*every)

    def _loss(
        self, own: Weights, x: torch.Tensor, share: torch.Tensor, negatives: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus the gap, in nats a row, with penalties; and the gap."""
        assert self.pair.tempered is not None
        settings, both, number = self.settings, torch.cat([x, negatives]), len(x)
        values = self.pair.tempered(own, both, 1.0)
        gap = (share * values[:number]).sum() - values[number:].mean()
        loss = -gap
        if settings.energy_decay:
            square = (self.pair.tempered(own, both, 0.0) - values) ** 2
            loss = loss + settings.energy_decay * ((share * square[:number]).sum() + square[number:].mean())
        if settings.weight_decay:
            squares = [(own[name] ** 2).sum() for name, shape in self.shapes.items() if len(shape) > 1]
            loss = loss + 0.5 * settings.weight_decay * sum(squares)
        return loss, gap

    def _validate(self) -> float:
        """How much larger log densities are at training rows than at validation rows, under the mean weights."""
        if not len(self.validation):
            return float("nan")
        assert self.pair.tempered is not None
        own, means = {**self.unflatten(self.mean), **self.fixed}, []
        with torch.no_grad():
            for rows in (self.train[:: max(len(self.train) // PART_ROWS, 1)], self.validation[:PART_ROWS]):
                part = self.view.take(rows)
                values = self.pair.tempered(own, part.x, 1.0)
                weight = torch.ones_like(values) if part.weights is None else part.weights
                means.append((weight * values).sum() / weight.sum().clamp(min=1e-30))
        return float(means[0] - means[1])

    def trace(self) -> tuple[np.ndarray, np.ndarray]:
        """The chains go on with the weights as they are in the end: states (C, T, *row), and energies (C, T)."""
        assert self.pair.tempered is not None
        own = {**self.unflatten(self.mean), **self.fixed}
        chains = self.chains[:, :TRACED] if self.plan.blocks else self.view.x[None, :TRACED]
        states, energies = [], []
        with torch.no_grad():
            for number in range(TRACE_LENGTH):
                chains, _ = self.negatives.move_all(own, chains, self.log_step, number % 2)
                states.append(chains[0].numpy())
                energies.append(-self.pair.tempered(own, chains[0], 1.0).numpy())
        return np.stack(states, 1), np.stack(energies, 1)
