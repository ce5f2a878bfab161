"""SVI in JAX: NumPyro's own SVI, a window of steps per compiled scan, batches drawn on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro import handlers
from numpyro.infer import SVI as NumPyroSVI
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from ppl_gen.backends.numpyro_chains import unconstrained_starts
from ppl_gen.backends.numpyro_ops import log_joint_fn
from ppl_gen.backends.numpyro_programs import pack_state, unpack_state
from ppl_gen.engine import Draws
from ppl_gen.errors import FitError, UnsupportedError
from ppl_gen.inference.em.numpyro_engine import starting_values
from ppl_gen.inference.svi import SVI, numpyro_ensemble
from ppl_gen.inference.svi.stopping import StoppingRule

if TYPE_CHECKING:
    from ppl_gen.data import Data, View
    from ppl_gen.family import Pair
    from ppl_gen.progress import Monitor

MOVABLE = (AutoNormal, AutoMultivariateNormal)  # guides whose centre is a parameter of a known name
NUM_PARTICLES_KHAT = 4000  # k-hat has noise of 0.2 at 1,500 draws


def run(pair: Pair, data: Data, settings: SVI, seed: int, monitor: Monitor) -> Draws:
    """Fit the guide; see :class:`ppl_gen.inference.svi.SVI`."""
    if not pair.has_priors:
        return numpyro_ensemble.run(pair, data, settings, seed, monitor)
    view = pair.data if pair.data is not None else data.view("numpyro")
    starts = None if callable(settings.guide) else _starts(pair, view, settings, seed)
    programs = _programs(pair, settings, starts, settings.rows_per_step(len(data)))
    key_init, key_draws, key_khat = jax.random.split(jax.random.key(seed), 3)
    state = programs.start(key_init, view, starts)
    parameters, losses, figures, interrupted = _train(pair, programs, state, view, settings, monitor)
    sites = programs.draws(parameters, jax.random.split(key_draws, settings.num_samples), view)
    log_weights = programs.log_weights(parameters, jax.random.split(key_khat, NUM_PARTICLES_KHAT), view)
    return Draws(
        posterior={name: np.asarray(value)[None] for name, value in sites.items()}, uncertainty="guide",
        losses=losses, log_weights=np.asarray(log_weights, np.float64),
        parameters={name: np.asarray(value) for name, value in parameters.items()},
        figures=figures, interrupted=interrupted,
    )  # fmt: skip


class _Programs:
    """What is compiled for one guide of a pair. The guide's parameters are arguments, so that refits (replications,
    folds) share them."""

    def __init__(self, pair: Pair, guide: Callable, settings: SVI, batch: int | None) -> None:
        self.pair, self.guide, self.svi = pair, guide, make_svi(pair, guide, settings)
        options, log_joint = {"subsample_size": batch}, log_joint_fn(pair)
        self.init = jax.jit(lambda key, view: self.svi.init(key, view, **options))
        self.window = window_program(self.svi, options, settings.window)

        def draw(parameters: dict, key: Any, view: View) -> tuple[dict[str, jax.Array], jax.Array]:
            return guide_draw(guide, parameters, key, view)

        def log_weight(parameters: dict, key: Any, view: View) -> jax.Array:
            values, log_q = draw(parameters, key, view)
            return log_joint(values, view) - log_q

        self.draws = jax.jit(lambda p, keys, view: jax.lax.map(lambda key: draw(p, key, view)[0], keys))
        # (particle,): log p(x, theta) - log q(theta) at fresh draws from the guide
        self.log_weights = jax.jit(lambda p, keys, view: jax.lax.map(lambda key: log_weight(p, key, view), keys))

    def start(self, key: Any, view: View, values: Mapping[str, np.ndarray] | None) -> Any:
        """The state before the first step, the guide centred on these constrained values."""
        state = self.init(key, view)
        if values is None or not isinstance(self.guide, MOVABLE):
            return state  # the guide's own start
        (vector,), unravel = unconstrained_starts(self.pair, view, {name: v[None] for name, v in values.items()})
        prefix = self.guide.prefix
        if isinstance(self.guide, AutoMultivariateNormal):
            centre = {f"{prefix}_loc": vector}
        else:
            centre = {f"{name}_{prefix}_loc": value for name, value in unravel(vector).items()}
        parameters = {**self.svi.optim.get_params(state.optim_state), **centre}
        return state._replace(optim_state=self.svi.optim.init(parameters))


def _programs(pair: Pair, settings: SVI, starts: Mapping[str, np.ndarray] | None, batch: int | None) -> _Programs:
    """The programs of these settings: kept with the pair where the guide can be moved to the next fit's start."""
    if callable(settings.guide):
        return _Programs(pair, settings.guide, settings, batch)
    key = ("svi", settings.guide, settings.rate_for(pair), settings.window, settings.num_particles_of_guide, batch)
    if key in pair.programs:
        return pair.programs[key]
    assert pair.make_guide is not None
    made = _Programs(pair, pair.make_guide(settings.guide, starts), settings, batch)
    return pair.cached(key, lambda: made) if isinstance(made.guide, MOVABLE) else made


def make_svi(pair: Pair, guide: Callable, settings: SVI) -> NumPyroSVI:
    """NumPyro's SVI over the pair: collapsed where it can be, else with the latents enumerated by the ELBO."""

    rate = settings.rate_for(pair)

    def learning_rate(step: Any) -> Any:
        return rate * jnp.minimum(1.0, jnp.sqrt(settings.window / jnp.maximum(step, 1)))

    collapsed = pair.collapsed is not None
    elbo = (Trace_ELBO if collapsed else TraceEnum_ELBO)(num_particles=settings.num_particles_of_guide)
    return NumPyroSVI(pair.density, guide, optax.adam(learning_rate), elbo)


def guide_draw(guide: Callable, parameters: dict, key: Any, view: View) -> tuple[dict[str, jax.Array], jax.Array]:
    """One draw of the model's sites from the guide, and its log density there (transform Jacobians included)."""
    sites = handlers.trace(handlers.seed(handlers.substitute(guide, data=parameters), key)).get_trace(view)
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    log_q = sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in samples.values())
    return {n: s["value"] for n, s in samples.items() if not s["infer"].get("is_auxiliary")}, log_q


def _starts(pair: Pair, view: View, settings: SVI, seed: int) -> dict[str, np.ndarray]:
    """Constrained values that the guide is centred on at first."""
    if pair.make_guide is None:
        raise UnsupportedError(
            f"{pair.family.name} has no guide of the kind {settings.guide!r}: give guide a function."
        )
    return {n: value[0] for n, value in starting_values(pair, view, seed, 1, settings.num_starts).items()}


def window_program(svi: NumPyroSVI, options: dict, length: int) -> Callable:
    """``f(state, view) -> (state, guide parameters averaged over the window, losses)``, compiled."""

    @jax.jit
    def window(state: Any, view: View) -> Any:
        def step(carry: Any, _: None) -> Any:
            state, mean, count = carry
            state, loss = svi.update(state, view, **options)
            current = svi.optim.get_params(state.optim_state)
            mean = jax.tree.map(lambda m, p: m + (p - m) / (count + 1), mean, current)
            return (state, mean, count + 1), loss

        zero = jax.tree.map(jnp.zeros_like, svi.optim.get_params(state.optim_state))
        (state, mean, _), losses = jax.lax.scan(step, (state, zero, 0), None, length=length)
        return state, svi.constrain_fn(mean), losses

    return window


def _train(
    pair: Pair, programs: _Programs, state: Any, view: View, settings: SVI, monitor: Monitor
) -> tuple[dict, np.ndarray, dict, bool]:
    """Scan windows of steps until the stopping rule says so; the parameters are averaged over the last window."""
    rule, converged, interrupted = StoppingRule(settings.patience), False, False
    state, losses = _restore(monitor, state, rule, settings.window)
    parameters = programs.svi.get_params(state)
    total = -(-settings.max_steps // settings.window)
    try:
        while len(losses) < total and not converged:
            state, parameters, new = programs.window(state, view)
            losses.append(np.asarray(new))
            monitor.worth_keeping = True
            if not np.isfinite(losses[-1][-1]):
                raise FitError(f"SVI: the loss is not a number after {len(losses) * settings.window} steps; "
                               f"lower learning_rate (now {settings.rate_for(pair):g}).")  # fmt: skip
            converged = rule.update(losses[-1])
            monitor.update(len(losses) * settings.window, total * settings.window, loss=float(losses[-1].mean()))
            if monitor.checkpoint_path is not None:
                monitor.save({**pack_state(state), "losses": np.concatenate(losses)})
    except KeyboardInterrupt:
        if not losses:
            raise
        interrupted = True
    figures = {"converged": converged, "num_steps": len(losses) * settings.window,
               "elbo": -float(np.mean(losses[-1]))}  # fmt: skip
    return parameters, np.concatenate(losses), figures, interrupted


def _restore(monitor: Monitor, state: Any, rule: StoppingRule, window: int) -> tuple[Any, list[np.ndarray]]:
    """Where a checkpoint left off, the stopping rule fed with the same losses again; or the beginning."""
    packed = monitor.load()
    if packed is None:
        return state, []
    losses = list(packed["losses"].reshape(-1, window))
    for one in losses:
        rule.update(one)
    return unpack_state(packed, state), losses
