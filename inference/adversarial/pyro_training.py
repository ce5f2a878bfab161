"""Training of generators in torch: a step is one recorded program, the members one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.backends.pyro_programs import recorded, sandbox
from ppl_gen.inference.adversarial.course import SEED, Course, Plan
from ppl_gen.inference.svi.ensemble import EVERY, LOOKS, SHARE, without_idle
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

Weights = dict[str, torch.Tensor]
State = dict[str, torch.Tensor]
Rows = list[tuple[torch.Tensor, torch.Tensor]]  # of each member, to train on and to validate on
PLAYERS = ("generator", "discriminator", "ratio")
BIG = 8_000_000  # multiplications in the largest layer of a step from which threads pay
CHUNK = 2048  # validation rows at once


class Training(ABC):
    """The recorded pieces of training for one pair and one size of data. What a step is, an engine says.

    A state has the weights of each player as a row of numbers, with ``_first`` and ``_second``, the means of gradients
    and of their squares; ``mean``, ``ratio_mean`` and ``ratio_best``; and numbers of steps, ``count`` and
    ``ratio_count``.
    """

    def __init__(self, pair: Pair, plan: Plan, start: Mapping[str, np.ndarray]) -> None:
        assert pair.adversary is not None
        self.pair, self.plan, self.settings, self.adversary = pair, plan, plan.settings, pair.adversary
        self.shapes = {
            player: {name: start[name].shape[1:] for name in getattr(self.adversary, player) if name in start}
            for player in PLAYERS
        }
        self.programs: dict[str, Any] = {}

    @abstractmethod
    def step(self, state: State, fixed: Weights, batches: list[View], extra: torch.Tensor) -> tuple[State, list[Any]]:
        """The changed part of a state after a training step by batches of rows, and figures of the step."""

    @abstractmethod
    def look(self, own: Weights, rows: View) -> list[float]:
        """Further figures at held-out rows."""

    def begin(self, start: Mapping[str, np.ndarray], number: int) -> State:
        dtype = torch.get_default_dtype()
        state: State = {}
        for player, shapes in self.shapes.items():
            flat = [np.reshape(start[name][number], -1) for name in shapes]
            vector = torch.as_tensor(np.concatenate(flat) if flat else np.zeros(0), dtype=dtype)
            state |= {player: vector, f"{player}_first": torch.zeros_like(vector),
                      f"{player}_second": torch.zeros_like(vector)}  # fmt: skip
        zero = torch.zeros((), dtype=dtype)
        return {**state, "mean": state["generator"], "ratio_mean": state["ratio"], "ratio_best": state["ratio"],
                "count": zero, "ratio_count": zero}  # fmt: skip

    def unflatten(self, player: str, vector: torch.Tensor) -> Weights:
        """{name: shape} of a row of numbers."""
        shapes = self.shapes[player]
        parts = vector.split([int(np.prod(shape)) for shape in shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def flatten(self, player: str, weights: Weights) -> torch.Tensor:
        return torch.cat([weights[name].reshape(-1) for name in self.shapes[player]])

    def own(self, state: State, fixed: Weights, **replaced: str) -> Weights:
        """All weights of a member.

        :param replaced: parts of the state that stand for those of players.
        """
        found = dict(fixed)
        for player in PLAYERS:
            found |= self.unflatten(player, state[replaced.get(player, player)])
        return found

    def rate(self, state: State, start: float) -> torch.Tensor:
        """A learning rate of the first phase: it falls to 0 in the second half of the steps."""
        return start * (2 - state["count"] / self.plan.half).clamp(0.0, 1.0)

    def adam(
        self, state: State, player: str, gradient: torch.Tensor, rate: torch.Tensor, count: torch.Tensor,
        betas: tuple[float, float],
    ) -> State:  # fmt: skip
        """The player's part of the state after its step number ``count``."""
        one, two = betas
        first = torch.lerp(gradient, state[f"{player}_first"], one)
        second = torch.lerp(gradient**2, state[f"{player}_second"], two)
        scale = (second / (1 - two**count)).sqrt() + 1e-8
        vector = state[player] - rate / (1 - one**count) * first / scale
        return {player: vector, f"{player}_first": first, f"{player}_second": second}

    def _recorded(self, name: str, function: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        if name not in self.programs:  # a recording takes what is one tensor now, as a mean at its start, for one ever
            self.programs[name] = recorded(function, tuple(leaf.clone() for leaf in inputs))
        with torch.no_grad():
            return self.programs[name](*inputs)

    def train_step(
        self, state: State, fixed: Weights, order: torch.Tensor, view: View, extra: torch.Tensor
    ) -> tuple[State, torch.Tensor]:
        """The state after a step by these rows (batches per step, size), and figures."""
        names = [name for name in state if name not in ("ratio_mean", "ratio_best", "ratio_count")]
        arrays = _arrays(view)
        counts = (len(names), len(fixed))

        def function(order: torch.Tensor, extra: torch.Tensor, *leaves: torch.Tensor) -> Any:
            own, rest = dict(zip(names, leaves[: counts[0]], strict=True)), leaves[counts[0] :]
            whole = view._replace(**dict(zip(arrays, rest[counts[1] :], strict=True)))
            own["count"] = own["count"] + 1
            fixed_leaves = dict(zip(fixed, rest[: counts[1]], strict=True))
            batches = [whole.take(rows) for rows in order.unbind(0)]
            changed, found = self.step(own, fixed_leaves, batches, extra)
            now = {**own, **changed}
            share = (SHARE / own["count"]).clamp(max=1.0).clamp(min=1 - self.settings.ema)
            now["mean"] = own["mean"] + share * (now["generator"] - own["mean"])
            return tuple(now[name] for name in names), torch.stack(found)

        inputs = (order, extra, *(state[name] for name in names), *fixed.values(), *arrays.values())
        values, found = self._recorded("step", function, inputs)
        return {**state, **dict(zip(names, values, strict=True))}, found

    def window(
        self, state: State, fixed: Weights, train: torch.Tensor, validation: torch.Tensor, view: View,
        extra: torch.Tensor,
    ) -> tuple[State, dict[str, float]]:  # fmt: skip
        """Steps of whole passes over the member's rows, and the figures of the settings."""
        plan, each = self.plan, self.settings.batches_per_step
        order = self._orders(train, plan.passes)[: plan.steps * each * plan.size]
        total = torch.zeros(())
        for rows in order.reshape(plan.steps, each, plan.size).unbind(0):
            state, found = self.train_step(state, fixed, rows, view, extra)
            total = total + found
        rows = (validation if len(validation) else train)[: plan.look_rows]
        with torch.no_grad():
            values = [*(total / plan.steps).tolist(), *self.look(self.own(state, fixed), view.take(rows))]
        finite = all(bool(torch.isfinite(state[player]).all()) for player in PLAYERS)
        return state, {**dict(zip(self.settings.figures, values, strict=True)), "finite": finite}

    def _orders(self, train: torch.Tensor, passes: int) -> torch.Tensor:
        """(passes * batches * size,): passes over the rows in random order; a rest shorter than a batch waits."""
        taken = self.plan.batches * self.plan.size
        return torch.cat([train[torch.randperm(len(train))[:taken]] for _ in range(passes)])

    def ratio_step(
        self, state: State, fixed: Weights, order: torch.Tensor, rate: torch.Tensor, view: View
    ) -> tuple[State, torch.Tensor]:
        """The state after a step of the second phase by these rows (size,), and its loss."""
        names, arrays = ["ratio", "ratio_first", "ratio_second", "ratio_count"], _arrays(view)
        others, count = [state["mean"], state["discriminator"], *fixed.values()], len(fixed)

        def function(order: torch.Tensor, rate: torch.Tensor, *leaves: torch.Tensor) -> Any:
            now, rest = dict(zip(names, leaves[:4], strict=True)), leaves[6:]
            now["ratio_count"] = now["ratio_count"] + 1
            own = dict(zip(fixed, rest[:count], strict=True))
            own |= {**self.unflatten("generator", leaves[4]), **self.unflatten("discriminator", leaves[5])}
            rows = view._replace(**dict(zip(arrays, rest[count:], strict=True))).take(order)
            z = self.adversary.noise(len(rows.x), None)
            gradient, loss = torch.func.grad_and_value(
                lambda ratio: self.adversary.log_ratio_loss({**own, **self.unflatten("ratio", ratio)}, rows, z)
            )(now["ratio"])
            now |= self.adam(now, "ratio", gradient, rate, now["ratio_count"], (0.9, 0.999))
            return tuple(now[name] for name in names), loss

        inputs = (order, rate, *(state[name] for name in names), *others, *arrays.values())
        values, loss = self._recorded("ratio", function, inputs)
        return {**state, **dict(zip(names, values, strict=True))}, loss

    def ratio_window(
        self, state: State, fixed: Weights, rate: float, train: torch.Tensor, validation: torch.Tensor, view: View
    ) -> tuple[State, tuple[float, float]]:
        """Steps of the second phase, and the mean loss over them, and of validation rows under the mean weights."""
        plan, total, steps = self.plan, torch.zeros(()), int(state["ratio_count"])
        at = torch.tensor(rate)
        for rows in self._orders(train, plan.ratio_passes).split(plan.size):
            state, loss = self.ratio_step(state, fixed, rows, at, view)
            total, steps = total + loss, steps + 1
            if steps % EVERY == 0:
                look = SHARE / min(max(steps // EVERY, SHARE), SHARE * LOOKS)
                state["ratio_mean"] = torch.lerp(state["ratio_mean"], state["ratio"], look)
        mean = float(total) / plan.ratio_steps
        return state, (mean, self._validate(state, fixed, validation, view) if len(validation) else mean)

    def _validate(self, state: State, fixed: Weights, rows: torch.Tensor, view: View) -> float:
        """The loss of these rows; the noise is the same at each call."""
        own, total = self.own(state, fixed, generator="mean", ratio="ratio_mean"), 0.0
        with torch.no_grad():
            for number, part in enumerate(rows.split(CHUNK)):
                z = self.adversary.noise(len(part), SEED + number)
                total += float(self.adversary.log_ratio_loss(own, view.take(part), z)) * len(part)
        return total / len(rows)

    def snapshot(self, state: State, fixed: Weights, view: View) -> np.ndarray:
        """(n, D): samples of the generator as it is kept, of the same noise at each call."""
        assert self.pair.generate is not None
        number = self.plan.snapshot_rows(view.x.shape[-1], len(view.x))
        context = None if view.context is None else view.context[:number]
        z = self.adversary.noise(number, SEED)
        with torch.no_grad():
            return self.pair.generate(self.own(state, fixed, generator="mean"), View(z, context=context)).numpy()


def _arrays(view: View) -> dict[str, torch.Tensor]:
    return {name: leaf for name, leaf in view._asdict().items() if leaf is not None and name != "patterns"}


def train(
    pair: Pair, training: type[Training], plan: Plan, view: View, extra: float, seed: int, monitor: Monitor
) -> Draws:
    """Fit an ensemble.

    :param extra: a number that steps read, of the data.
    """
    assert pair.initialize is not None
    start, idle = without_idle(pair, pair.initialize(view, seed, plan.settings.num_members), view)
    course, dtype = Course(plan), torch.get_default_dtype()
    shapes = tuple(None if leaf is None else tuple(leaf.shape) for leaf in view)
    # Pairs of one family and schema share their programs, and a recorded one takes views of one shape.
    program = pair.cached((plan.settings.name, plan.key, dtype, shapes), lambda: training(pair, plan, start))
    largest = max(int(np.prod(value.shape[1:])) for value in start.values()) * plan.size
    with sandbox(seed, threads=1 if largest < BIG else None):
        fixed = [{n: torch.as_tensor(np.asarray(v[i]), dtype=dtype) for n, v in idle.items()} for i in plan.members]
        states = [program.begin(start, i) for i in plan.members]
        _restore(monitor, states, course)
        rows: Rows = list(
            zip(*(torch.as_tensor(part) for part in (plan.split.train, plan.split.validation)), strict=True)
        )
        interrupted = False
        try:
            _play(program, course, states, fixed, rows, view, torch.tensor(extra, dtype=dtype), monitor)
            _calibrate(program, course, states, fixed, rows, view, monitor)
        except KeyboardInterrupt:
            if not course.windows:
                raise
            interrupted = True
        kept = [program.own(state, {}, generator="mean", ratio="ratio_best") for state in states]
    return course.result({name: np.stack([each[name].numpy() for each in kept]) for name in start} | idle, interrupted)


def _play(
    program: Training, course: Course, states: list[State], fixed: list[Weights], rows: Rows, view: View,
    extra: torch.Tensor, monitor: Monitor,
) -> None:  # fmt: skip
    """The first phase, until each member has taken its steps or has diverged; ``states`` become the last good ones."""
    plan = course.plan
    while not course.trained:
        going = np.flatnonzero(course.going).tolist()
        results = {i: program.window(states[i], fixed[i], *rows[i], view, extra) for i in going}
        well = course.update([results[i][1] if i in results else None for i in plan.members])
        for i in np.flatnonzero(well).tolist():
            states[i] = results[i][0]
        if course.windows in plan.snapshots:
            course.snapshots.append(np.stack([program.snapshot(states[i], fixed[i], view) for i in plan.members]))
        _tell(course, states, monitor)


def _calibrate(
    program: Training, course: Course, states: list[State], fixed: list[Weights], rows: Rows, view: View,
    monitor: Monitor,
) -> None:  # fmt: skip
    """The second phase, until the validation loss no longer falls."""
    members = course.plan.members
    while not course.calibrated:
        rates = course.plateau.rate * course.settings.ratio_learning_rate
        results = [program.ratio_window(states[i], fixed[i], float(rates[i]), *rows[i], view) for i in members]
        better = course.update_ratio(np.array([losses for _, losses in results]))
        for i, (state, _) in enumerate(results):
            states[i] = {**state, "ratio_best": state["ratio_mean"]} if better[i] else state
        _tell(course, states, monitor)


def _tell(course: Course, states: list[State], monitor: Monitor) -> None:
    leaves = {}
    if monitor.checkpoint_path is not None:
        leaves = {f"state/{i}/{name}": leaf.numpy() for i, state in enumerate(states) for name, leaf in state.items()}
        leaves["random"] = torch.get_rng_state().numpy()
    course.checkpoint(monitor, leaves)
    course.tell(monitor)


def _restore(monitor: Monitor, states: list[State], course: Course) -> None:
    """Where a checkpoint left off; or the beginning."""
    packed = monitor.load()
    if packed is None:
        return
    for i, state in enumerate(states):
        state.update({name: torch.as_tensor(packed[f"state/{i}/{name}"]).clone() for name in state})
    torch.set_rng_state(torch.as_tensor(packed["random"]))
    course.restore(packed)
