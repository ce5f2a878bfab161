"""Maximum likelihood of network weights in JAX: whole passes over the data are one compiled call.

On a CPU the members are calls of their own, one per core at a time: products of small matrices lose more by being
batched than they gain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro import handlers
from numpyro.infer import Trace_ELBO, TraceMeanField_ELBO

from ppl_gen.backends import numpyro_ops
from ppl_gen.backends.numpyro_programs import CompiledOnce, one_per_core, pack_state, unpack_state
from ppl_gen.errors import FitError
from ppl_gen.inference.svi import numpyro_objective
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

CHUNK = 2048  # validation rows at once


def run(
    pair: Pair, data: Data, settings: SVI, seed: int, monitor: Monitor, objective: Objective | None = None
) -> Draws:
    """Fit an ensemble; see :class:`ppl_gen.inference.svi.SVI`."""
    view = pair.data if pair.data is not None else data.view("numpyro")
    split, members = Split.of(len(data), settings, seed, pair), range(settings.num_members)
    assert pair.initialize is not None
    start, idle = without_idle(pair, pair.initialize(view, seed, settings.num_members), view)
    start |= {} if objective is None else objective.extra
    # Pairs of one family and schema share their programs, and a compiled one takes views of one structure and shape.
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(view))
    key = ("ensemble", settings, split.train.shape, split.validation.shape, jax.tree.structure(view), shapes,
           jnp.result_type(float), None if objective is None else objective.key)  # fmt: skip
    program = pair.cached(key, lambda: _Program(pair, settings, split, objective))
    keys = jax.random.split(jax.random.key(seed), settings.num_members)
    weights = [{name: jnp.asarray(value[i], dtype=float) for name, value in start.items()} for i in members]
    fixed = {name: jnp.asarray(value[0], dtype=float) for name, value in idle.items()}
    states = [program.begin(weights[i], keys[i], fixed) for i in members]
    plateau = Plateau(settings.num_members, settings.patience, grace_windows(settings, split))
    best, record, interrupted = weights, Record(), False
    states, best = _restore(monitor, (states, best), record, plateau)
    train, validation = jnp.asarray(split.train), jnp.asarray(split.validation)
    total = -(-settings.max_steps // split.steps)
    try:
        while len(record.train) < total and not plateau.stopped.all():
            rates = jnp.asarray(plateau.rate * settings.rate_of_weights, dtype=float)
            results = one_per_core(program.window, states, list(rates), train, validation, repeat(view))
            states = [state for state, _ in results]
            losses = np.array([[float(train_loss), float(loss)] for _, (train_loss, loss, _) in results])
            if pair.local and pair.noising is None:
                record.parts.append(np.stack([np.asarray(parts) for _, (*_, parts) in results]))
            record.train.append(losses[:, 0])
            record.validation.append(losses[:, 1])
            better = plateau.update(record.validation[-1])
            best = [states[i]["mean"] if better[i] else best[i] for i in members]
            monitor.worth_keeping = bool(np.isfinite(plateau.best).all())
            if not monitor.worth_keeping and plateau.broken.any():
                name = "SVI" if objective is None else objective.name
                raise FitError(f"{name}: the loss is not a number within {split.steps} steps; lower learning_rate "
                               f"(now {settings.rate_of_weights:g}).")  # fmt: skip
            shown = {"train": losses[:, 0].mean(), "validation": losses[:, 1].mean()}
            monitor.update(len(record.train) * split.steps, total * split.steps, **shown)
            if monitor.checkpoint_path is not None:
                checkpoint(monitor, record, pack_state((states, best)))
    except KeyboardInterrupt:
        if not record.train:
            raise
        interrupted = True
    kept = {name: np.stack([np.asarray(member[name]) for member in best]) for name in start} | idle
    kept = with_chain(pair, numpyro_ops.hook_over_draws, kept, view, seed)
    kept = kept if objective is None else objective.finish(kept)
    return record.result(kept, partial(numpyro_ops.log_prob, pair), view, pair, split, plateau, settings, interrupted)


class _Program:
    """The compiled pieces of training for one pair and one size of data."""

    def __init__(
        self,
        pair: Pair,
        settings: SVI,
        split: Split,
        objective: Objective | None = None,
    ) -> None:
        self.objective = objective
        self.pair, self.settings, self.split = pair, settings, split
        # Of a diffusion model the bound of the chain, not the density of its probability flow.
        self.elbo, self.model = (
            (Trace_ELBO(), pair.density) if pair.noising is None else (TraceMeanField_ELBO(), pair.model)
        )
        self.optimizer = optax.chain(optax.clip_by_global_norm(settings.clip), optax.scale_by_adam())
        self.begin = jax.jit(self._begin)
        self.window = CompiledOnce(self._window)

    def _begin(self, weights: Mapping[str, jax.Array], key: Any, idle: Mapping[str, jax.Array]) -> dict[str, Any]:
        return {"weights": weights, "mean": weights, "moments": self.optimizer.init(weights), "key": key,
                "count": jnp.zeros((), int), "idle": idle}  # fmt: skip

    def _loss(
        self, weights: Mapping[str, jax.Array], idle: Mapping[str, jax.Array], key: Any, rows: View,
        share: jax.Array | float = 1.0, whole: bool = True,
    ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
        """Minus the bound of some rows, in nats a row, and its parts.

        :param idle: the weights that are not trained. They are those of this run's rows, so no constants of a program
            that other runs share.
        :param share: of beta that holds yet.
        :param whole: of a diffusion model, with the terms of its rows given z_0.
        """
        weights = {**weights, **idle}
        if self.objective is not None:
            loss = self.objective.loss(self.pair, weights, rows, key)
            return loss, jnp.zeros(2, loss.dtype)
        if self.pair.local and self.pair.noising is None:
            return numpyro_objective.loss(self.pair, self.settings, weights, key, rows, share)
        model, guide = self.model, self.pair.guide
        if self.pair.noising is not None and not whole:
            model, guide = (_without_rows(part, len(rows.x), self.pair.noising.size) for part in (model, guide))
        found = self.elbo.loss(key, weights, model, guide, rows) / len(rows.x)
        return found, jnp.zeros(2, found.dtype)

    def _of_rows(self, weights: Mapping[str, jax.Array], key: Any, rows: View) -> jax.Array:
        """What a diffusion model's loss has besides its steps', in nats a row: minus E log p(x | z_0), which no weight
        that is trained changes."""
        noising = self.pair.noising
        assert noising is not None
        e = noising.encode(weights, rows.x)
        log_snr = noising.log_snr(weights, jnp.zeros((), e.dtype))
        noise = jnp.sqrt(jax.nn.sigmoid(-log_snr)) * jax.random.normal(key, e.shape, e.dtype)
        found = noising.log_likelihood(weights, rows.x, jnp.sqrt(jax.nn.sigmoid(log_snr)) * e + noise)
        return -(found if rows.weights is None else rows.weights * found).mean()

    def _window(
        self, state: dict[str, Any], rate: jax.Array, train: jax.Array, validation: jax.Array, view: View
    ) -> Any:
        """Whole passes over the member's rows in random order (a rest shorter than a batch waits for the next), and
        the mean loss over them and of the validation rows, under the running mean of the weights."""
        batches, size, annealing = self.split.batches, self.split.batch_size, self.settings.annealing

        def step(state: dict[str, Any], rows: jax.Array) -> tuple[dict[str, Any], jax.Array]:
            key, now = jax.random.split(state["key"])
            share = jnp.minimum(1.0, state["count"] / annealing) if annealing else 1.0
            both = jax.value_and_grad(partial(self._loss, whole=False), has_aux=True)
            (loss, _), gradient = both(state["weights"], state["idle"], now, view.take(rows), share)
            updates, moments = self.optimizer.update(gradient, state["moments"])
            weights = jax.tree.map(lambda w, u: w - rate * u, state["weights"], updates)
            count = state["count"] + 1
            look = SHARE / jnp.clip(count // EVERY, SHARE, SHARE * LOOKS)
            mean = jax.lax.cond(
                count % EVERY == 0,
                lambda mean: jax.tree.map(lambda m, w: m + look * (w - m), mean, weights),
                lambda mean: mean,
                state["mean"],
            )
            return {**state, "weights": weights, "mean": mean, "moments": moments, "key": key, "count": count}, loss

        def epoch(state: dict[str, Any], _: None) -> tuple[dict[str, Any], jax.Array]:
            key, now = jax.random.split(state["key"])
            order = jax.random.permutation(now, train)[: batches * size]
            state, losses = jax.lax.scan(step, {**state, "key": key}, order.reshape(batches, size))
            return state, losses.mean()

        state, losses = jax.lax.scan(epoch, state, None, length=self.split.passes)
        loss = losses.mean()
        if self.pair.noising is not None and self.objective is None:
            loss += self._of_rows(state["mean"] | state["idle"], state["key"], view.take(train[:PART_ROWS]))
        if not len(validation):
            return state, (loss, loss, self._validate(state, train[:PART_ROWS], view)[1])
        return state, (loss, *self._validate(state, validation, view))

    def _validate(self, state: dict[str, Any], rows: jax.Array, view: View) -> tuple[jax.Array, jax.Array]:
        if self.pair.noising is not None:  # several times of each row
            rows = jnp.tile(rows, repeats(self.pair, len(rows)))
        weights = steady(self.pair, state["mean"])
        size = min(CHUNK, len(rows))
        whole = len(rows) // size * size

        def chunk(part: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return self._loss(weights, state["idle"], part[0], view.take(part[1]))

        keys = jax.random.split(jax.random.key(0), whole // size)
        found = jax.lax.map(chunk, (keys, rows[:whole].reshape(-1, size)))
        total = jax.tree.map(lambda each: each.sum(0) * size, found)
        if whole < len(rows):
            rest = chunk((jax.random.key(1), rows[whole:]))
            total = jax.tree.map(lambda sums, each: sums + each * (len(rows) - whole), total, rest)
        return jax.tree.map(lambda sums: sums / len(rows), total)


def _without_rows(part: Any, number: int, size: int) -> Any:
    """A diffusion model or its guide without z_0 and what it says of rows: steps of training need no draw of them."""
    return handlers.block(handlers.do(part, {"z_0": jnp.zeros((number, size))}), hide=["x"])


def _restore(monitor: Monitor, state: Any, record: Record, plateau: Plateau) -> Any:
    """Where a checkpoint left off, the stopping rule fed with the same losses again; or the beginning."""
    packed = monitor.load()
    if packed is None:
        return state
    record.restore(packed, plateau)
    return unpack_state(packed, state)
