"""Maximum likelihood of network weights in torch: members trained together, their gradients one recorded program.

The twin of ``numpyro_ensemble``: the same starts, splits, stopping rule, running mean, clipping and step sizes. All
weights of a member are a row of one array, which Adam's fused kernel goes through at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine

from ppl_gen.backends import pyro_ops
from ppl_gen.backends.pyro_programs import Tensors, recorded, sandbox
from ppl_gen.errors import FitError
from ppl_gen.inference.svi import pyro_objective
from ppl_gen.inference.svi.ensemble import (
    EVERY,
    LOOKS,
    PART_ROWS,
    SHARE,
    Objective,
    Plateau,
    Record,
    Split,
    checkpoint,
    grace_windows,
    repeats,
    steady,
    with_chain,
    without_idle,
)

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.svi import SVI
    from ppl_gen.progress import Monitor

BIG = 8_000_000  # multiplications in the largest layer of a step from which threads pay
CHUNK = 2048  # validation rows at once


def run(
    pair: Pair, data: Data, settings: SVI, seed: int, monitor: Monitor, objective: Objective | None = None
) -> Draws:
    """Fit an ensemble; see :class:`ppl_gen.inference.svi.SVI`.

    :raises FitError: a member's loss stopped being a finite number before there were any weights to keep.
    """
    view = pair.data if pair.data is not None else data.view("pyro")
    split = Split.of(len(data), settings, seed, pair)
    assert pair.initialize is not None
    start, idle = without_idle(pair, pair.initialize(view, seed, settings.num_members), view)
    start |= {} if objective is None else objective.extra
    plateau = Plateau(settings.num_members, settings.patience, grace_windows(settings, split))
    record, interrupted = Record(), False
    total = -(-settings.max_steps // split.steps)
    with sandbox(seed, threads=threads_for(pair, start, split.batch_size)):
        # Pairs of one family and schema share their programs, and a recorded one takes views of one shape.
        shapes = tuple(None if leaf is None else tuple(leaf.shape) for leaf in view)
        key = ("ensemble", settings, split.batch_size, torch.get_default_dtype(), shapes,
               None if objective is None else objective.key)  # fmt: skip
        program = pair.cached(key, lambda: _Program(pair, settings, start, objective))
        program.hold(idle)
        state = _State(program.flatten(start), settings)
        state.restore(monitor, record, plateau)
        train, validation = torch.as_tensor(split.train), torch.as_tensor(split.validation)
        try:
            while len(record.train) < total and not plateau.stopped.all():
                losses = _window(program, state, plateau.rate * settings.rate_of_weights, split, train, view)
                validated, parts = program.validate(
                    state.mean, validation if split.validation.size else train[:, :PART_ROWS], view
                )
                validated = validated if split.validation.size else losses
                if pair.local and pair.noising is None:
                    record.parts.append(parts)
                record.train.append(losses)
                record.validation.append(validated)
                state.keep(plateau.update(validated))
                monitor.worth_keeping = bool(np.isfinite(plateau.best).all())
                if not monitor.worth_keeping and plateau.broken.any():
                    name = "SVI" if objective is None else objective.name
                    raise FitError(f"{name}: the loss is not a number within {split.steps} steps; lower learning_rate "
                                   f"(now {settings.rate_of_weights:g}).")  # fmt: skip
                shown = {"train": float(losses.mean()), "validation": float(validated.mean())}
                monitor.update(len(record.train) * split.steps, total * split.steps, **shown)
                checkpoint(monitor, record, state.pack())
        except KeyboardInterrupt:
            if not record.train:
                raise
            interrupted = True
        kept = {name: value.numpy() for name, value in program.unflatten(state.best).items()} | idle
    kept = with_chain(pair, pyro_ops.hook_over_draws, kept, view, seed)
    kept = kept if objective is None else objective.finish(kept)
    return record.result(kept, partial(pyro_ops.log_prob, pair), view, pair, split, plateau, settings, interrupted)


def threads_for(pair: Pair, start: Mapping[str, np.ndarray], batch_size: int) -> int:
    """torch's threads for training: one where layers are small, or where members have a core each as it is."""
    members = len(next(iter(start.values())))
    largest = max(int(np.prod(value.shape[1:])) for value in start.values())
    cores = os.cpu_count() or 1
    if largest * batch_size < BIG:
        return 1
    return cores if pair.local or pair.noising is not None else max(1, cores // members)


class _State:
    """The members on their way, one row each: weights, their running mean, the best means so far, Adam's moments."""

    def __init__(self, weights: torch.Tensor, settings: SVI) -> None:
        self.weights, self.mean, self.best, self.count = weights, weights.clone(), weights.clone(), 0
        # A group for each member, as their learning rates differ once one of them is lowered.
        self.adam = torch.optim.Adam([{"params": [row]} for row in weights.unbind(0)], fused=True)

    def step(self, gradients: torch.Tensor) -> None:
        for group, gradient in zip(self.adam.param_groups, gradients.unbind(0), strict=True):
            group["params"][0].grad = gradient
        self.adam.step()
        self.count += 1
        if self.count % EVERY == 0:
            self.mean.lerp_(self.weights, SHARE / min(max(self.count // EVERY, SHARE), SHARE * LOOKS))

    def keep(self, better: np.ndarray) -> None:
        self.best = torch.where(torch.as_tensor(better)[:, None], self.mean, self.best)

    def _moments(self, name: str) -> torch.Tensor:
        return torch.stack([self.adam.state[group["params"][0]][name] for group in self.adam.param_groups])

    def pack(self) -> dict[str, np.ndarray]:
        tensors = {
            "weights": self.weights, "mean": self.mean, "best": self.best, "first": self._moments("exp_avg"),
            "second": self._moments("exp_avg_sq"), "random": torch.get_rng_state(), "count": torch.tensor(self.count),
        }  # fmt: skip
        return {f"state/{name}": value.numpy().copy() for name, value in tensors.items()}

    def restore(self, monitor: Monitor, record: Record, plateau: Plateau) -> None:
        """Go back to a checkpoint, if there is one, the stopping rule fed with the same losses again."""
        packed = monitor.load()
        if packed is None:
            return
        found = {
            name.removeprefix("state/"): torch.as_tensor(value).clone()
            for name, value in packed.items()
            if name.startswith("state/")
        }
        self.weights.copy_(found["weights"])
        self.mean, self.best, self.count = found["mean"], found["best"], int(found["count"])
        for i, group in enumerate(self.adam.param_groups):
            self.adam.state[group["params"][0]] = {
                "step": torch.tensor(float(self.count)), "exp_avg": found["first"][i].clone(),
                "exp_avg_sq": found["second"][i].clone(),
            }  # fmt: skip
        torch.set_rng_state(found["random"])
        record.restore(packed, plateau)


class _Program:
    """The recorded pieces of training for one pair and one size of mini-batch."""

    def __init__(
        self, pair: Pair, settings: SVI, start: Mapping[str, np.ndarray],
        objective: Objective | None = None,
    ) -> None:  # fmt: skip
        self.objective = objective
        self.idle: Tensors = {}
        self.pair, self.settings = pair, settings
        self.shapes = {name: value.shape[1:] for name, value in start.items()}
        self.sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        self.gradient: Callable[..., Any] | None = None
        self.is_recorded = False  # else handlers of Pyro run, whose stack threads would share

    def hold(self, idle: Mapping[str, np.ndarray]) -> None:
        """Take a run's weights that are not trained: those of its rows, so no constants of the recorded program, which
        other runs share."""
        self.idle = {name: torch.as_tensor(value[0], dtype=torch.get_default_dtype()) for name, value in idle.items()}

    def flatten(self, values: Mapping[str, np.ndarray]) -> torch.Tensor:
        """(M, number of weights) of {name: (M, *shape)}."""
        parts = [np.reshape(values[name], (len(values[name]), -1)) for name in self.shapes]
        return torch.as_tensor(np.concatenate(parts, 1), dtype=torch.get_default_dtype())

    def unflatten(self, vector: torch.Tensor) -> Tensors:
        """{name: (..., *shape)} of (..., number of weights)."""
        parts = zip(self.shapes.items(), vector.split(self.sizes, -1), strict=True)
        return {name: part.reshape((*vector.shape[:-1], *shape)) for (name, shape), part in parts}

    def _loss(
        self, vector: torch.Tensor, rows: View, share: torch.Tensor | float = 1.0, idle: Tensors | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus the bound of some rows under one member, in nats a row, and its parts.

        :param share: of beta that holds yet.
        """
        weights = {**self.unflatten(vector), **(self.idle if idle is None else idle)}
        if self.objective is not None:
            return self.objective.loss(self.pair, weights, rows), torch.zeros(2)
        if self.pair.noising is not None:  # the bound of the chain, not the density of its probability flow
            return pyro_objective.mean_field(self.pair, weights, rows), torch.zeros(2)
        if self.pair.local:
            return pyro_objective.loss(self.pair, self.settings, weights, rows, share)
        model = poutine.substitute(self.pair.density, data=weights)
        found = -poutine.trace(model).get_trace(rows).log_prob_sum() / len(rows.x)
        return found, torch.zeros(2)

    def gradients(
        self, weights: torch.Tensor, rows: torch.Tensor, view: View, share: torch.Tensor, pool: Executor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the mini-batches ``rows`` (M, batch): each member's gradient, of norm ``clip`` at most, and its loss.

        A member is a call of its own, one per core at a time, as the recorded program leaves the interpreter free. One
        call takes all where random numbers are drawn, whose order would else be that in which threads come.
        """
        arrays = {name: leaf for name, leaf in view._asdict().items() if leaf is not None and name != "patterns"}
        draws = self.pair.local or self.pair.noising is not None or self.objective is not None
        size = len(weights) if draws else 1

        def function(weights: torch.Tensor, rows: torch.Tensor, share: torch.Tensor, *leaves: torch.Tensor) -> Any:
            batch = view._replace(**dict(zip(arrays, leaves[: len(arrays)], strict=True))).take(rows)
            idle = dict(zip(self.idle, leaves[len(arrays) :], strict=True))
            both = torch.func.grad_and_value(partial(self._loss, idle=idle), has_aux=True)
            axes = (0, _axes(batch), None)
            if size == 1:  # a product of two matrices is faster than a batch of one such
                found, (loss, _) = both(weights[0], batch.take(0), share)
                gradient, loss = found[None], loss[None]
            else:
                gradient, (loss, _) = torch.func.vmap(both, in_dims=axes, randomness="different")(weights, batch, share)
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            return gradient * (self.settings.clip / norm.clamp(min=self.settings.clip)), loss

        leaves = (share, *arrays.values(), *self.idle.values())
        if self.gradient is None:
            self.gradient = recorded(function, (weights[:size], rows[:size], *leaves))
            self.is_recorded = self.gradient is not function
        program = self.gradient

        def one(part: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():  # which a thread does not inherit
                return program(*part, *leaves)

        parts = list(zip(weights.split(size), rows.split(size), strict=True))
        found = list(pool.map(one, parts) if len(parts) > 1 and self.is_recorded else map(one, parts))
        return torch.cat([gradient for gradient, _ in found]), torch.cat([loss for _, loss in found])

    def validate(self, weights: torch.Tensor, rows: torch.Tensor, view: View) -> tuple[np.ndarray, np.ndarray]:
        """(M,): the same loss of each member's validation rows, and its parts (M, 2); random draws are the same at each
        call."""
        if self.pair.noising is not None:  # several times of each row
            rows = rows.repeat(1, repeats(self.pair, rows.shape[1]))
        held = steady(self.pair, self.unflatten(weights))
        weights = torch.cat([held[name].reshape(len(weights), -1) for name in self.shapes], 1)
        total, parts = torch.zeros(len(weights)), torch.zeros(len(weights), 2)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for part in rows.split(CHUNK, dim=1):
                batch = view.take(part)
                loss = torch.func.vmap(self._loss, in_dims=(0, _axes(batch)), randomness="different")
                losses, found = loss(weights, batch)
                total += losses * part.shape[1]
                parts += found * part.shape[1]
        return (total / rows.shape[1]).numpy(), (parts / rows.shape[1]).numpy()


def _window(
    program: _Program, state: _State, rates: np.ndarray, split: Split, train: torch.Tensor, view: View
) -> np.ndarray:
    """Whole passes over each member's rows in random order (a rest shorter than a batch waits for the next); the mean
    loss (M,)."""
    for group, rate in zip(state.adam.param_groups, rates, strict=True):
        group["lr"] = float(rate)
    total = torch.zeros(len(train))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in range(split.passes):
            order = train.gather(1, torch.rand(train.shape).argsort(1))
            for rows in order.split(split.batch_size, dim=1)[: split.batches]:
                rising = program.settings.annealing
                share = torch.tensor(min(1.0, state.count / rising) if rising else 1.0)
                gradients, losses = program.gradients(state.weights, rows, view, share, pool)
                state.step(gradients)
                total += losses
    return (total / split.steps).numpy()


def _axes(batch: View) -> Any:
    """The members' axis of each array of their mini-batches."""
    return type(batch)(*(None if leaf is None or name == "patterns" else 0 for name, leaf in batch._asdict().items()))
