"""SVI in JAX: NumPyro's own SVI, a window of steps per compiled scan, batches drawn on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro import handlers
from numpyro.infer import SVI as NumPyroSVI
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO

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

NUM_PARTICLES_KHAT = 4000  # k-hat has noise of 0.2 at 1,500 draws


def run(pair: Pair, data: Data, settings: SVI, seed: int, monitor: Monitor) -> Draws:
    """Fit the guide; see :class:`ppl_gen.inference.svi.SVI`."""
    if not pair.has_priors:
        return numpyro_ensemble.run(pair, data, settings, seed, monitor)
    view = pair.data if pair.data is not None else data.view("numpyro")
    guide = settings.guide if callable(settings.guide) else _make_guide(pair, view, settings, seed)
    svi = make_svi(pair, guide, settings)
    options = {"subsample_size": settings.rows_per_step(len(data))}
    key_init, key_draws, key_khat = jax.random.split(jax.random.key(seed), 3)
    state = jax.jit(lambda key, view: svi.init(key, view, **options))(key_init, view)
    parameters, losses, figures, interrupted = _train(pair, svi, state, view, options, settings, monitor)

    draw = jax.jit(lambda keys, view: jax.lax.map(lambda key: guide_draw(guide, parameters, key, view)[0], keys))
    sites = draw(jax.random.split(key_draws, settings.num_samples), view)
    return Draws(
        posterior={name: np.asarray(value)[None] for name, value in sites.items()}, uncertainty="guide",
        losses=losses, log_weights=_log_weights(pair, guide, parameters, key_khat, view),
        parameters={name: np.asarray(value) for name, value in parameters.items()},
        figures=figures, interrupted=interrupted,
    )  # fmt: skip


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


def _make_guide(pair: Pair, view: View, settings: SVI, seed: int) -> Callable:
    if pair.make_guide is None:
        raise UnsupportedError(
            f"{pair.family.name} has no guide of the kind {settings.guide!r}: give guide a function."
        )
    starts = starting_values(pair, view, seed, 1, settings.num_starts)
    return pair.make_guide(settings.guide, {name: value[0] for name, value in starts.items()})


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
    pair: Pair, svi: NumPyroSVI, state: Any, view: View, options: dict, settings: SVI, monitor: Monitor
) -> tuple[dict, np.ndarray, dict, bool]:
    """Scan windows of steps until the stopping rule says so; the parameters are averaged over the last window."""

    window = window_program(svi, options, settings.window)
    rule, converged, interrupted = StoppingRule(settings.patience), False, False
    state, losses = _restore(monitor, state, rule, settings.window)
    parameters = svi.get_params(state)
    total = -(-settings.max_steps // settings.window)
    try:
        while len(losses) < total and not converged:
            state, parameters, new = window(state, view)
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


def _log_weights(pair: Pair, guide: Callable, parameters: dict, key: Any, view: View) -> np.ndarray:
    """(particle,): log p(x, theta) - log q(theta) at fresh draws from the guide."""
    log_joint = log_joint_fn(pair)

    def one(key: Any, view: View) -> jax.Array:
        values, log_q = guide_draw(guide, parameters, key, view)
        return log_joint(values, view) - log_q

    keys = jax.random.split(key, NUM_PARTICLES_KHAT)
    return np.asarray(jax.jit(lambda keys, view: jax.lax.map(lambda key: one(key, view), keys))(keys, view), np.float64)
