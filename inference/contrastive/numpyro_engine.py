"""Contrastive divergence in JAX: whole passes over the data are one compiled call, a member on each core."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl_gen.backends import numpyro_ops
from ppl_gen.backends.numpyro_programs import QUICK, CompiledOnce, one_per_core, pack_state, unpack_state
from ppl_gen.inference.contrastive.course import ADAPT, PART_ROWS, TRACE_LENGTH, TRACED, Course, Plan
from ppl_gen.inference.contrastive.numpyro_negatives import Weights, move_all
from ppl_gen.inference.svi.ensemble import EVERY, LOOKS, SHARE, without_idle
from ppl_gen.normalizer import normalize

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.inference.contrastive import Contrastive
    from ppl_gen.progress import Monitor


def run(pair: Pair, data: Data, settings: Contrastive, seed: int, monitor: Monitor) -> Draws:
    """Train an ensemble; see :class:`ppl_gen.inference.contrastive.Contrastive`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    plan, members = Plan.of(pair, settings, len(data), view.x.shape[-1], seed), range(settings.num_members)
    assert pair.initialize is not None
    start, idle = without_idle(pair, pair.initialize(view, seed, settings.num_members), view)
    course, interrupted = Course(plan), False
    states: list[dict[str, Any]] = []
    if start:
        states, interrupted = _train(pair, course, start, idle, view, seed, monitor)
    kept = {name: np.stack([np.asarray(state["mean"][name]) for state in states]) for name in start} | idle
    chains = {}
    if states:
        found = _program(pair, plan, view).trace
        traced = [
            found(state, {n: v[i] for n, v in idle.items()}, view) for i, state in zip(members, states, strict=True)
        ]
        stacked = (np.stack([np.asarray(part) for part in parts]) for parts in zip(*traced, strict=True))
        chains = dict(zip(("negative_chain", "negative_energy"), stacked, strict=True))
    trained = {"chain": chains["negative_chain"]} if chains else {}
    kept = normalize(pair, {**kept, **trained}, view, settings.normalizer, seed)
    return course.result(kept, partial(numpyro_ops.log_prob, pair, view=view), chains, len(data), interrupted)


def _program(pair: Pair, plan: Plan, view: View) -> _Program:
    # Pairs of one family and schema share their programs, and a compiled one takes views of one structure and shape.
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(view))
    key = ("contrastive", plan.key, jax.tree.structure(view), shapes, jnp.result_type(float))
    return pair.cached(key, lambda: _Program(pair, plan))


def _train(
    pair: Pair, course: Course, start: Mapping[str, np.ndarray], idle: Mapping[str, np.ndarray], view: View, seed: int,
    monitor: Monitor,
) -> tuple[list[dict[str, Any]], bool]:  # fmt: skip
    """The members' states after the last window in which each was well, and whether Ctrl-C came."""
    plan, program = course.plan, _program(pair, course.plan, view)
    members = range(plan.settings.num_members)
    keys = jax.random.split(jax.random.key(seed), len(members))
    fixed = [{name: jnp.asarray(value[i], dtype=float) for name, value in idle.items()} for i in members]
    weights = [{name: jnp.asarray(value[i], dtype=float) for name, value in start.items()} for i in members]
    states = [program.begin(weights[i], fixed[i], keys[i], view) for i in members]
    states = _restore(monitor, states, course)
    train, validation = jnp.asarray(plan.split.train), jnp.asarray(plan.split.validation)
    try:
        while not course.done:
            going = [i for i in members if course.going[i]]
            inputs = ([each[i] for i in going] for each in (states, fixed, train, validation))
            results = one_per_core(program.window, *inputs, repeat(view))
            figures = {name: np.full(len(members), np.nan) for name in results[0][1]}
            for i, (_, found) in zip(going, results, strict=True):
                for name, value in found.items():
                    figures[name][i] = float(value)
            well = course.update(figures)
            for i, (state, _) in zip(going, results, strict=True):
                states[i] = state if well[i] else states[i]
            course.tell(monitor)
            if monitor.checkpoint_path is not None:
                leaves = pack_state(states)
                monitor.save({**leaves, **course.arrays})
    except KeyboardInterrupt:
        if not course.windows:
            raise
        return states, True
    return states, False


class _Program:
    """The compiled pieces of training for one pair and one size of data."""

    def __init__(self, pair: Pair, plan: Plan) -> None:
        settings = plan.settings
        self.pair, self.plan, self.settings, self.split = pair, plan, settings, plan.split
        rule = optax.scale_by_adam() if settings.optimizer == "adam" else optax.trace(settings.momentum)
        self.optimizer = optax.chain(optax.clip_by_global_norm(settings.clip), rule)
        self.begin = jax.jit(self._begin, compiler_options=QUICK)
        self.trace = jax.jit(self._trace, compiler_options=QUICK)
        self.window = CompiledOnce(self._window)

    def _begin(self, weights: Weights, fixed: Weights, key: Any, view: View) -> dict[str, Any]:
        key, now = jax.random.split(key)
        number, betas = self.plan.blocks * self.split.batch_size, len(self.plan.betas)
        assert self.pair.draw_base is not None
        drawn = self.pair.draw_base({**weights, **fixed}, max(betas * number, 1), now).astype(view.x.dtype)
        chains = drawn[: betas * number].reshape(betas, number, *view.x.shape[1:])
        log_step = jnp.full(betas, np.log(self.plan.start_step), dtype=float)
        return {"weights": weights, "mean": weights, "moments": self.optimizer.init(weights), "key": key,
                "chains": chains, "log_step": log_step, "count": jnp.zeros((), int)}  # fmt: skip

    def _loss(self, weights: Weights, fixed: Weights, rows: View, negatives: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Minus the gap of the energies of rows and negatives, in nats a row, with penalties; and the gap."""
        assert self.pair.tempered is not None
        own, settings, number = {**weights, **fixed}, self.settings, len(rows.x)
        both = jnp.concatenate([rows.x, negatives])
        values = self.pair.tempered(own, both, 1.0)
        gap = _average(values[:number], rows.weights) - values[number:].mean()
        loss = -gap
        if settings.energy_decay:
            square = (self.pair.tempered(own, both, 0.0) - values) ** 2
            loss += settings.energy_decay * (_average(square[:number], rows.weights) + square[number:].mean())
        if settings.weight_decay:
            squares = [(weight**2).sum() for weight in weights.values() if weight.ndim > 1]
            loss += 0.5 * settings.weight_decay * sum(squares)
        return loss, gap

    def _negatives(
        self, state: dict[str, Any], fixed: Weights, x: jax.Array, key: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The chains as they are afterwards, those of them (R, B, *row) that were moved, and shares of accepted
        steps."""
        plan, own, size = self.plan, {**state["weights"], **fixed}, self.split.batch_size
        parity = state["count"] // max(plan.blocks, 1) % 2
        if not plan.blocks:
            moved, accepted = move_all(self.pair, plan, own, x[None], state["log_step"], key, parity)
            return state["chains"], moved, accepted
        first = state["count"] % plan.blocks * size
        block = jax.lax.dynamic_slice_in_dim(state["chains"], first, size, axis=1)
        if plan.restart:
            assert self.pair.draw_base is not None
            key, key_base, key_which = jax.random.split(key, 3)
            fresh = self.pair.draw_base(own, size, key_base).astype(block.dtype)
            anew = jax.random.uniform(key_which, (size,)) < plan.restart
            block = block.at[0].set(jnp.where(anew.reshape(-1, *(1,) * (fresh.ndim - 1)), fresh, block[0]))
        moved, accepted = move_all(self.pair, plan, own, block, state["log_step"], key, parity)
        return jax.lax.dynamic_update_slice_in_dim(state["chains"], moved, first, axis=1), moved, accepted

    def _step(self, state: dict[str, Any], fixed: Weights, rows: View) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        plan, count = self.plan, state["count"] + 1
        key, now = jax.random.split(state["key"])
        chains, moved, accepted = self._negatives(state, fixed, rows.x, now)
        (_, gap), gradient = jax.value_and_grad(self._loss, has_aux=True)(state["weights"], fixed, rows, moved[0])
        updates, moments = self.optimizer.update(gradient, state["moments"])
        rate = plan.rate * jnp.clip(2 - count / plan.half, 0.0, 1.0)
        weights = jax.tree.map(lambda w, u: w - rate * u, state["weights"], updates)
        look = SHARE / jnp.clip(count // EVERY, SHARE, SHARE * LOOKS)
        mean = jax.lax.cond(
            count % EVERY == 0,
            lambda mean: jax.tree.map(lambda m, w: m + look * (w - m), mean, weights),
            lambda mean: mean,
            state["mean"],
        )
        log_step = state["log_step"] + ADAPT * (accepted - plan.target) if plan.adapts else state["log_step"]
        found = {"energy_gap": gap, "gradient_norm": _norm(gradient), "acceptance": accepted[0]}
        return {"weights": weights, "mean": mean, "moments": moments, "key": key, "chains": chains,
                "log_step": log_step, "count": count}, found  # fmt: skip

    def _window(
        self, state: dict[str, Any], fixed: Weights, train: jax.Array, validation: jax.Array, view: View
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        """Whole passes over the member's rows in random order (a rest shorter than a batch waits for the next), and
        the figures of :data:`~ppl_gen.inference.contrastive.course.FIGURES`."""
        batches, size = self.split.batches, self.split.batch_size

        def epoch(state: dict[str, Any], _: None) -> tuple[dict[str, Any], dict[str, jax.Array]]:
            key, now = jax.random.split(state["key"])
            order = jax.random.permutation(now, train)[: batches * size].reshape(batches, size)
            state, found = jax.lax.scan(
                lambda state, rows: self._step(state, fixed, view.take(rows)), {**state, "key": key}, order
            )
            return state, jax.tree.map(jnp.mean, found)

        state, found = jax.lax.scan(epoch, state, None, length=self.split.passes)
        found = jax.tree.map(jnp.mean, found) | {"step_size": jnp.exp(state["log_step"][0])}
        return state, found | {"validation_gap": self._validate(state, fixed, train, validation, view)}

    def _validate(
        self, state: dict[str, Any], fixed: Weights, train: jax.Array, validation: jax.Array, view: View
    ) -> jax.Array:
        """How much larger log densities are at training rows than at validation rows, under the mean weights."""
        if not len(validation):
            return jnp.full((), jnp.nan)
        assert self.pair.tempered is not None
        own, means = {**state["mean"], **fixed}, []
        for rows in (train[:: max(len(train) // PART_ROWS, 1)], validation[:PART_ROWS]):
            part = view.take(rows)
            means.append(_average(self.pair.tempered(own, part.x, 1.0), part.weights))
        return means[0] - means[1]

    def _trace(self, state: dict[str, Any], fixed: Weights, view: View) -> tuple[jax.Array, jax.Array]:
        """The chains go on with the weights as they are in the end: states (C, T, *row), and energies (C, T)."""
        assert self.pair.tempered is not None
        own, chains, tempered = {**state["mean"], **fixed}, state["chains"][:, :TRACED], self.pair.tempered
        if not self.plan.blocks:
            chains = view.x[None, :TRACED]

        def step(chains: jax.Array, inputs: tuple[Any, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            chains, _ = move_all(self.pair, self.plan, own, chains, state["log_step"], inputs[0], inputs[1] % 2)
            return chains, (chains[0], -tempered(own, chains[0], 1.0))

        keys = jax.random.split(state["key"], TRACE_LENGTH)
        _, (states, energies) = jax.lax.scan(step, chains, (keys, jnp.arange(TRACE_LENGTH)))
        return jnp.swapaxes(states, 0, 1), energies.T


def _average(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    return values.mean() if weights is None else (weights * values).sum() / jnp.maximum(weights.sum(), 1e-30)


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))


def _restore(monitor: Monitor, states: list[dict[str, Any]], course: Course) -> list[dict[str, Any]]:
    """Where a checkpoint left off; or the beginning."""
    packed = monitor.load()
    if packed is None:
        return states
    course.restore(packed)
    return unpack_state(packed, states)
