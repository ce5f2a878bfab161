"""SGLD in JAX: blackjax's kernel over the gradient of the log density that NumPyro derives from the pair.

The key of a step is folded from the seed, the chain and the step's number, so a resumed run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl_gen.backends import numpyro_programs
from ppl_gen.backends.numpyro_bounds import bounded_density_fn
from ppl_gen.backends.numpyro_chains import constrain, over_chains, unconstrained_starts
from ppl_gen.backends.numpyro_ops import log_density_fn
from ppl_gen.inference.em.numpyro_engine import starting_values
from ppl_gen.inference.sgld import SGLD
from ppl_gen.inference.sgld import walking as sgld
from ppl_gen.inference.sgld.walking import Plan

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

PARTICLES = 2**31 - 3  # folded into the keys of rows
PILOT = 2**31 - 2  # folded into the keys of the climb, and the next into that of the starts
CLIP = 10.0  # the norm of a climb's gradient, in nats a row


def run(pair: Pair, data: Data, settings: SGLD, seed: int, monitor: Monitor) -> Draws:
    """Sample the posterior; see :class:`ppl_gen.inference.sgld.SGLD`."""
    return walk(pair, data, settings, seed, monitor, 1, _dynamics)


def _dynamics(settings: SGLD, gradient: Callable) -> Callable:
    """blackjax's step, as :func:`walk` takes it."""
    sampler = blackjax.sgld(gradient)

    def step(key: Any, state: jax.Array, batch: Any, size: Any) -> jax.Array:
        return sampler.step(key, state[0], batch, size / 2)[None]

    return step


def walk(pair: Pair, data: Data, settings: Any, seed: int, monitor: Monitor, parts: int, dynamics: Callable) -> Draws:
    """Chains of a dynamics along noisy gradients.

    :param parts: what a chain's state (parts, dimension) is made of: its position, and perhaps its velocity.
    :param dynamics: ``(settings, gradient(position, batch)) -> step(key, state, batch, size) -> state``.
    """
    view = pair.data if pair.data is not None else data.view("numpyro")
    plan, key = Plan(settings), jax.random.key(seed)
    monitor.begin(settings.total)
    starts = starting_values(pair, view, seed, settings.num_chains, settings.num_starts)
    positions, unravel = unconstrained_starts(pair, view, starts)
    guides = sgld.of_guide(pair, starts, unravel(positions[0]))
    keys = [jax.random.fold_in(key, chain) for chain in range(settings.num_chains)]
    program = pair.cached(
        ("walk", settings, len(data), str(positions.dtype)), lambda: _Program(pair, settings, unravel, dynamics)
    )
    packed = monitor.load()
    if packed is None:
        begun, guides, scale, curvatures = program.begin(list(positions), guides, keys, plan, view, monitor)
        states = [program.state(jnp.zeros((parts, one.size), one.dtype).at[0].set(one), own)
                  for one, own in zip(begun, guides, strict=True)]  # fmt: skip
        first, looks, calls, halvings = states, [], 0, 0
    else:
        empty = program.state(jnp.zeros((parts, positions.shape[1]), positions.dtype), guides[0])
        states, first = numpyro_programs.unpack_state(packed, ([empty] * settings.num_chains,) * 2)
        calls, halvings = int(packed["calls"]), int(packed["halvings"])
        scale, curvatures = packed["scale"], packed["curvatures"]
        looks = [packed["looks"]] if calls else []
    step, figures = sgld.choose_step(settings, curvatures, len(data), halvings)
    interrupted = False
    try:
        while calls < len(plan.bounds):
            sizes = jnp.asarray(step * plan.sizes, positions.dtype)
            states, output = over_chains(program.advance, states, keys, plan.bounds[calls], sizes, scale, view)
            done = int(plan.bounds[calls, -1])
            if sgld.ran_away(output, done, step, settings, halvings):
                states, looks, calls, halvings = first, [], 0, halvings + 1
                step, figures = sgld.choose_step(settings, curvatures, len(data), halvings)
                monitor.worth_keeping = False
                continue
            looks, calls = [np.concatenate([*looks, output], axis=1)], calls + 1
            monitor.worth_keeping = plan.kept(looks[0]).shape[1] > 0
            monitor.update(done, settings.total)
            if monitor.checkpoint_path is not None:
                monitor.save({**numpyro_programs.pack_state((states, first)), "scale": scale, "curvatures": curvatures,
                              "looks": looks[0], "calls": np.asarray(calls),
                              "halvings": np.asarray(halvings)})  # fmt: skip
    except KeyboardInterrupt:
        if not monitor.worth_keeping:
            raise
        interrupted = True
    posterior = constrain(pair, view, plan.kept(looks[0]) * scale, unravel)
    posterior = sgld.with_guide(posterior, [state[1] for state in states])
    return sgld.result(posterior, settings, plan, figures, len(data), interrupted)


class _Program:
    """The compiled pieces of a chain for one pair and one size of table."""

    def __init__(self, pair: Pair, settings: Any, unravel: Callable, dynamics: Callable) -> None:
        self.settings, self.pair = settings, pair
        if pair.local:
            bounded = bounded_density_fn(pair, settings.particles)
        else:
            exact = log_density_fn(pair)

        def log_density(w: Any, guide: Any, scale: Any, view: View, rows: Any, key: Any) -> jax.Array:
            values = unravel(scale * w)
            return bounded(values, guide, view, rows, key) if pair.local else exact(values, view, rows)

        self.gradient, self.gradients = jax.grad(log_density), jax.grad(log_density, (0, 1))
        self.of_guide = jax.grad(log_density, 1)
        self.dynamics = dynamics(settings, lambda w, batch: self.gradient(w, *batch))
        self.adam = optax.chain(optax.clip_by_global_norm(CLIP), optax.scale_by_adam())
        self.advance = jax.jit(self._advance)
        self.climb = jax.jit(self._climb)
        self.variance = jax.jit(self._variance, compiler_options=numpyro_programs.QUICK)
        self.curvature = jax.jit(self._curvature, compiler_options=numpyro_programs.QUICK)

    def state(self, walker: jax.Array, guide: dict[str, Any]) -> tuple[Any, Any, Any]:
        """A chain's own state, the weights of its guide, and what their optimizer keeps."""
        return walker, guide, self.adam.init(guide)

    def begin(
        self, positions: list[jax.Array], guides: list, keys: list, plan: Plan, view: View, monitor: Monitor
    ) -> tuple[list[jax.Array], list, np.ndarray, np.ndarray]:
        """Where the chains start, in the units of the walk, and their guides; these units; and the curvature there."""
        dtype = positions[0].dtype
        guides = [{name: jnp.asarray(value, dtype) for name, value in guide.items()} for guide in guides]
        if sgld.climbs(self.pair) and self.settings.num_pilot:
            keys_climb = [jax.random.fold_in(key, PILOT) for key in keys]
            rates = plan.rates()
            states = [(both, self.adam.init(both)) for both in zip(positions, guides, strict=True)]
            for first in range(0, len(rates), sgld.CHUNK):
                part = np.zeros(sgld.CHUNK)
                part[: len(rates) - first] = rates[first : first + sgld.CHUNK]
                steps = np.arange(first, first + sgld.CHUNK)
                states, _ = over_chains(self.climb, states, keys_climb, steps, part.astype(positions[0].dtype), view)
                monitor.update(0, self.settings.total, pilot=min(first + sgld.CHUNK, len(rates)))
            positions, guides = [both[0] for both, _ in states], [both[1] for both, _ in states]
        batch, variances = self.settings.rows_of_fisher(len(view.x)), None
        if batch is not None:
            starts = list(zip(positions, guides, strict=True))
            _, variances = over_chains(lambda at, key, view: (at, self.variance(*at, key, view)), starts, keys, view)
        scale = sgld.scales(variances, self.settings, len(view.x), positions[0].size).astype(dtype)
        positions = [u / scale for u in positions]
        starts = list(zip(positions, guides, strict=True))
        _, curvatures = over_chains(
            lambda at, key, view: (at, self.curvature(*at, key, scale, view)), starts, keys, view
        )
        if not self.pair.has_weights:
            spread = [jax.random.normal(jax.random.fold_in(key, PILOT + 1), scale.shape, dtype) for key in keys]
            positions = [w + sgld.SPREAD * noise / scale for w, noise in zip(positions, spread, strict=True)]
        return positions, guides, scale, curvatures

    def _rows(self, key: Any, view: View, size: int | None) -> jax.Array | None:
        number = len(view.x)
        return None if size is None or size >= number else jax.random.randint(key, (size,), 0, number)

    def _advance(self, state: Any, key: Any, bounds: jax.Array, sizes: jax.Array, scale: jax.Array, view: View) -> Any:
        """Through the intervals of a call: the position after each."""

        def step(number: jax.Array, state: Any) -> Any:
            walker, guide, moments = state
            key_rows, key_noise = jax.random.split(jax.random.fold_in(key, number))
            rows = self._rows(key_rows, view, self.settings.rows_per_step(len(view.x)))
            batch = (scale, view, rows, jax.random.fold_in(key_rows, PARTICLES))
            walker = self.dynamics(key_noise, walker, (guide, *batch), sizes[number])
            if not guide or not self.settings.num_warmup:
                return walker, guide, moments
            learn = partial(self._learn, walker[0], batch, number)
            guide, moments = jax.lax.cond(number < self.settings.num_warmup, learn, lambda *same: same, guide, moments)
            return walker, guide, moments

        def interval(state: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            state = jax.lax.fori_loop(*ends, step, state)
            return state, state[0][0]

        return jax.lax.scan(interval, state, (bounds[:-1], bounds[1:]))

    def _climb(self, state: Any, key: Any, steps: jax.Array, rates: jax.Array, view: View) -> Any:
        """Steps of Adam up the log joint."""

        def step(state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            (both, moments), (number, rate) = state, inputs
            key_rows = jax.random.fold_in(key, number)
            rows = self._rows(key_rows, view, self.settings.rows_per_step(len(view.x)))
            found = self.gradients(*both, 1.0, view, rows, jax.random.fold_in(key_rows, PARTICLES))
            update, moments = self.adam.update(jax.tree.map(lambda g: g / len(view.x), found), moments)
            return (jax.tree.map(lambda u, change: u + rate * change, both, update), moments), None

        return jax.lax.scan(step, state, (steps, rates))

    def _learn(self, w: jax.Array, batch: Any, number: jax.Array, guide: Any, moments: Any) -> tuple[Any, Any]:
        """A step of Adam of the guide's weights up the bounds at w, so that it proposes for where the chain is."""
        found = jax.tree.map(lambda g: g / len(batch[1].x), self.of_guide(w, guide, *batch))
        update, moments = self.adam.update(found, moments)
        rate = self.settings.rate_of_guide(number, jnp)
        return jax.tree.map(lambda u, change: (u + rate * change).astype(u.dtype), guide, update), moments

    def _variance(self, u: jax.Array, guide: Any, key: Any, view: View) -> jax.Array:
        """(dimension,) of the gradient from batches of a few rows."""
        keys, batch = jax.random.split(key, sgld.FISHER_BATCHES), self.settings.rows_of_fisher(len(view.x))

        def one(key: Any) -> jax.Array:
            return self.gradient(u, guide, 1.0, view, self._rows(key, view, batch), jax.random.fold_in(key, PARTICLES))

        return jax.lax.map(one, keys).var(0)

    def _curvature(self, w: jax.Array, guide: Any, key: Any, scale: jax.Array, view: View) -> jax.Array:
        """The largest second derivative of minus the log joint at w, by power iteration on differences of gradients."""
        rows, same = self._rows(key, view, sgld.CURVATURE_ROWS), jax.random.fold_in(key, PARTICLES)
        reach = self.settings.difference(len(view.x))
        start = jnp.asarray(np.random.default_rng(0).standard_normal(w.size), w.dtype)

        def iterate(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            shift = reach * v
            below, above = (self.gradient(at, guide, scale, view, rows, same) for at in (w - shift, w + shift))
            image = below - above
            norm = jnp.linalg.norm(image)
            return image / norm, norm / (2 * reach)

        return jax.lax.scan(iterate, start / jnp.linalg.norm(start), None, length=sgld.POWER_ITERATIONS)[1][-1]
