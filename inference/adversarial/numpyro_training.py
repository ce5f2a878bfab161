"""Training of generators in JAX: a window of steps is one compiled call, a member on each core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl_gen.backends.numpyro_programs import QUICK, CompiledOnce, one_per_core, pack_state, unpack_state
from ppl_gen.inference.adversarial.course import SEED, Course, Plan
from ppl_gen.inference.svi.ensemble import EVERY, LOOKS, SHARE, without_idle
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

Weights = Mapping[str, jax.Array]
State = dict[str, Any]
CHUNK = 2048  # validation rows at once
FEW = 1000  # steps that take less time than optimizing their program


class Training(ABC):
    """The compiled pieces of training for one pair and one size of data. What a step is, an engine says."""

    def __init__(self, pair: Pair, plan: Plan) -> None:
        assert pair.adversary is not None
        self.pair, self.plan, self.settings, self.adversary = pair, plan, plan.settings, pair.adversary
        self.adam = optax.scale_by_adam(*plan.settings.betas)
        self.ratio_adam = optax.scale_by_adam()
        self.begin = jax.jit(self._begin, compiler_options=QUICK)
        self.snapshot = jax.jit(self._snapshot, compiler_options=QUICK)
        self.window = CompiledOnce(self._window, plan.settings.max_steps <= FEW)
        self.ratio_window = CompiledOnce(self._ratio_window, plan.settings.ratio_steps <= FEW)

    @abstractmethod
    def moments(self, weights: Weights) -> Any:
        """The state of the optimizers of the first phase."""

    @abstractmethod
    def step(
        self, state: State, fixed: Weights, batches: jax.Array, view: View, extra: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """A training step by these rows (batches per step, size): weights, moments and key, and figures."""

    @abstractmethod
    def look(self, own: Weights, rows: View, key: Any) -> dict[str, jax.Array]:
        """Figures of the first phase at held-out rows."""

    def _begin(self, weights: Weights, key: Any) -> State:
        mean = {name: weights[name] for name in self.adversary.generator if name in weights}
        ratio = {name: weights[name] for name in self.adversary.ratio}
        return {"weights": weights, "mean": mean, "moments": self.moments(weights), "key": key,
                "count": jnp.zeros((), int), "ratio_mean": ratio, "ratio_best": ratio,
                "ratio_moments": self.ratio_adam.init(ratio), "ratio_count": jnp.zeros((), int)}  # fmt: skip

    def rate(self, state: State, start: float) -> jax.Array:
        """A learning rate of the first phase: it falls to 0 in the second half of the steps."""
        return start * jnp.clip(2 - state["count"] / self.plan.half, 0.0, 1.0)

    def _orders(self, key: Any, train: jax.Array, passes: int) -> jax.Array:
        """(passes * batches * size,): passes over the rows in random order; a rest shorter than a batch waits."""
        taken = self.plan.batches * self.plan.size
        return jax.vmap(lambda key: jax.random.permutation(key, train)[:taken])(jax.random.split(key, passes)).ravel()

    def _window(
        self, state: State, fixed: Weights, train: jax.Array, validation: jax.Array, view: View, extra: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Steps of whole passes over the member's rows, and the figures of the settings."""
        plan, each = self.plan, self.settings.batches_per_step
        key, now = jax.random.split(state["key"])
        order = self._orders(now, train, plan.passes)[: plan.steps * each * plan.size]

        def step(state: State, batches: jax.Array) -> tuple[State, dict[str, jax.Array]]:
            state, found = self.step({**state, "count": state["count"] + 1}, fixed, batches, view, extra)
            share = jnp.maximum(1 - self.settings.ema, jnp.minimum(1.0, SHARE / state["count"]))
            mean = {name: m + share * (state["weights"][name] - m) for name, m in state["mean"].items()}
            return {**state, "mean": mean}, found

        state, found = jax.lax.scan(step, {**state, "key": key}, order.reshape(plan.steps, each, plan.size))
        found = jax.tree.map(jnp.mean, found)
        rows = (validation if len(validation) else train)[: plan.look_rows]
        found |= self.look({**state["weights"], **fixed}, view.take(rows), jax.random.key(SEED))
        finite = [jnp.isfinite(weight).all() for weight in state["weights"].values()]
        return state, found | {"finite": jnp.stack(finite).all()}

    def own(self, state: State, fixed: Weights) -> Weights:
        """All weights of a member, as they are kept."""
        return {**state["weights"], **fixed, **state["mean"]}

    def _ratio_loss(self, ratio: Weights, own: Weights, rows: View, key: Any) -> jax.Array:
        z = self.adversary.noise(len(rows.x), key)
        return self.adversary.log_ratio_loss({**own, **ratio}, rows, z)

    def _ratio_window(
        self, state: State, fixed: Weights, rate: jax.Array, train: jax.Array, validation: jax.Array, view: View
    ) -> tuple[State, tuple[jax.Array, jax.Array]]:
        """Steps of the second phase, and the mean loss over them, and of validation rows under the mean weights."""
        plan, own = self.plan, self.own(state, fixed)
        key, now = jax.random.split(state["key"])
        order = self._orders(now, train, plan.ratio_passes).reshape(plan.ratio_steps, plan.size)

        def step(carry: State, rows: jax.Array) -> tuple[State, jax.Array]:
            key, now = jax.random.split(carry["key"])
            loss, gradient = jax.value_and_grad(self._ratio_loss)(carry["ratio"], own, view.take(rows), now)
            updates, moments = self.ratio_adam.update(gradient, carry["moments"])
            ratio = jax.tree.map(lambda w, u: w - rate * u, carry["ratio"], updates)
            count = carry["count"] + 1
            look = SHARE / jnp.clip(count // EVERY, SHARE, SHARE * LOOKS)
            mean = jax.lax.cond(
                count % EVERY == 0, lambda mean: jax.tree.map(lambda m, w: m + look * (w - m), mean, ratio),
                lambda mean: mean, carry["mean"],
            )  # fmt: skip
            return {"ratio": ratio, "mean": mean, "moments": moments, "count": count, "key": key}, loss

        carry = {"ratio": {name: state["weights"][name] for name in state["ratio_mean"]}, "mean": state["ratio_mean"],
                 "moments": state["ratio_moments"], "count": state["ratio_count"], "key": key}  # fmt: skip
        carry, losses = jax.lax.scan(step, carry, order)
        state = {**state, "weights": {**state["weights"], **carry["ratio"]}, "ratio_mean": carry["mean"],
                 "ratio_moments": carry["moments"], "ratio_count": carry["count"], "key": carry["key"]}  # fmt: skip
        loss = losses.mean()
        return state, (loss, self._validate(carry["mean"], own, validation, view) if len(validation) else loss)

    def _validate(self, ratio: Weights, own: Weights, rows: jax.Array, view: View) -> jax.Array:
        """The loss of these rows; the noise is the same at each call."""
        size = min(CHUNK, len(rows))
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        keys = jax.random.split(jax.random.key(SEED), len(parts))
        losses = [self._ratio_loss(ratio, own, view.take(part), key) for part, key in zip(parts, keys, strict=True)]
        shares = jnp.asarray([len(part) / len(rows) for part in parts])
        return (jnp.stack(losses) * shares).sum()

    def _snapshot(self, state: State, fixed: Weights, view: View) -> jax.Array:
        """(n, D): samples of the generator as it is kept, of the same noise at each call."""
        assert self.pair.generate is not None
        number = self.plan.snapshot_rows(view.x.shape[-1], len(view.x))
        context = None if view.context is None else view.context[:number]
        z = self.adversary.noise(number, jax.random.key(SEED))
        return self.pair.generate(self.own(state, fixed), View(z, context=context))


def train(
    pair: Pair, training: type[Training], plan: Plan, view: View, extra: float, seed: int, monitor: Monitor
) -> Draws:
    """Fit an ensemble.

    :param extra: a number that steps read, of the data.
    """
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(view))
    # Pairs of one family and schema share their programs, and a compiled one takes views of one structure and shape.
    key = (plan.settings.name, plan.key, jax.tree.structure(view), shapes, jnp.result_type(float))
    program = pair.cached(key, lambda: training(pair, plan))
    assert pair.initialize is not None
    start, idle = without_idle(pair, pair.initialize(view, seed, plan.settings.num_members), view)
    course = Course(plan)
    keys = jax.random.split(jax.random.key(seed), plan.settings.num_members)
    weights, fixed = (
        [{name: jnp.asarray(value[i], dtype=float) for name, value in part.items()} for i in plan.members]
        for part in (start, idle)
    )
    states = [program.begin(weights[i], keys[i]) for i in plan.members]
    states = _restore(monitor, states, course)
    rows = [[jnp.asarray(part[i]) for i in plan.members] for part in (plan.split.train, plan.split.validation)]
    interrupted = False
    try:
        _play(program, course, states, fixed, rows, view, jnp.asarray(extra, float), monitor)
        _calibrate(program, course, states, fixed, rows, view, monitor)
    except KeyboardInterrupt:
        if not course.windows:
            raise
        interrupted = True
    kept = [{**state["weights"], **state["mean"], **state["ratio_best"]} for state in states]
    return course.result({name: np.stack([np.asarray(each[name]) for each in kept]) for name in start} | idle,
                         interrupted)  # fmt: skip


def _play(
    program: Training, course: Course, states: list[State], fixed: list[State], rows: list[list[jax.Array]],
    view: View, extra: jax.Array, monitor: Monitor,
) -> None:  # fmt: skip
    """The first phase, until each member has taken its steps or has diverged; ``states`` become the last good ones."""
    plan = course.plan
    while not course.trained:
        going = np.flatnonzero(course.going).tolist()
        inputs: Any = ([each[i] for i in going] for each in (states, fixed, *rows))
        results = dict(zip(going, one_per_core(program.window, *inputs, repeat(view), repeat(extra)), strict=True))
        well = course.update([
            {name: float(value) for name, value in results[i][1].items()} if i in results else None
            for i in plan.members
        ])  # fmt: skip
        for i in np.flatnonzero(well).tolist():
            states[i] = results[i][0]
        if course.windows in plan.snapshots:
            taken = [program.snapshot(state, own, view) for state, own in zip(states, fixed, strict=True)]
            course.snapshots.append(np.stack([np.asarray(each) for each in taken]))
        _tell(course, states, monitor)


def _calibrate(
    program: Training, course: Course, states: list[State], fixed: list[State], rows: list[list[jax.Array]],
    view: View, monitor: Monitor,
) -> None:  # fmt: skip
    """The second phase, until the validation loss no longer falls."""
    while not course.calibrated:
        rates = jnp.asarray(course.plateau.rate * course.settings.ratio_learning_rate, float)
        results = one_per_core(program.ratio_window, states, fixed, list(rates), *rows, repeat(view))
        better = course.update_ratio(np.array([[float(loss) for loss in losses] for _, losses in results]))
        for i, (state, _) in enumerate(results):
            states[i] = {**state, "ratio_best": state["ratio_mean"]} if better[i] else state
        _tell(course, states, monitor)


def _tell(course: Course, states: list[State], monitor: Monitor) -> None:
    leaves = {}
    if monitor.checkpoint_path is not None:
        leaves = pack_state(states)
    course.checkpoint(monitor, leaves)
    course.tell(monitor)


def _restore(monitor: Monitor, states: list[State], course: Course) -> list[State]:
    """Where a checkpoint left off; or the beginning."""
    packed = monitor.load()
    if packed is None:
        return states
    course.restore(packed)
    return unpack_state(packed, states)
