"""Codes of rows in JAX: what a guide over local latents says of them, and rows that are decoded from codes.

Arrays come and go as numpy; all work is in model space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from ppl_gen.backends import numpyro_local
from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.family import Pair

Posterior = Mapping[str, np.ndarray]


def moments(pair: Pair, posterior: Posterior, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what the guide proposes, (draws, obs, L) each."""

    def one(parameters: Mapping[str, Any], view: View) -> tuple[jax.Array, jax.Array]:
        found = numpyro_local.local_moments(pair, parameters, view)
        mean, sd = (_flat([found[name][i] for name in pair.local], len(view.x)) for i in (0, 1))
        return mean, sd

    program = pair.cached("moments", lambda: jax.jit(lambda draws, view: jax.lax.map(lambda d: one(d, view), draws)))
    mean, sd = program(as_jax(posterior), _arrays(view))
    return np.asarray(mean), np.asarray(sd)


def label_probs(pair: Pair, posterior: Posterior, view: View) -> np.ndarray:
    """(draws, obs, C): q(y | x) as the guide's classifier has it."""

    def run(draws: Mapping[str, Any], view: View) -> jax.Array:
        return jnp.exp(jax.lax.map(lambda one: numpyro_local.label_log_prob(pair, one, view), draws))

    program = pair.cached("label_probs", lambda: jax.jit(run))
    return np.asarray(program(as_jax(posterior), _arrays(view)))


def particles(pair: Pair, posterior: Posterior, view: View, uniforms: np.ndarray, seed: int) -> np.ndarray:
    """(draws, K, obs, L): the particles whose weights ``log_weights`` of the same arguments gives, ``by_label``."""

    def run(draws: Any, uniforms: jax.Array, keys: jax.Array, view: View) -> jax.Array:
        found = numpyro_local.local_values_fn(pair)(draws, uniforms, keys, view)
        lead = next(iter(found.values())).shape[:3]
        return jnp.concatenate([value.reshape(*lead, -1) for value in found.values()], -1)

    program = pair.cached("particles", lambda: jax.jit(run))
    keys = jax.random.split(jax.random.key(seed), len(uniforms))
    return np.asarray(program(as_jax(posterior), jnp.asarray(uniforms, dtype=float), keys, _arrays(view)))


def divergences(pair: Pair, posterior: Posterior, view: View, num_particles: int, seed: int) -> np.ndarray:
    """(draws, obs, J): KL divergence of the guide from the prior in each of J = L dimensions, in nats; where that has
    no closed form, J is 1 and it is the mean over particles."""

    def one(parameters: Mapping[str, Any], view: View) -> jax.Array:
        found = numpyro_local.terms(pair, parameters, view, jax.random.key(seed), num_particles)
        return -found.log_ratio.mean(0)[:, None] if found.kl is None else found.kl[:, : found.size]

    program = pair.cached(
        ("divergences", num_particles, seed),
        lambda: jax.jit(lambda draws, view: jax.lax.map(lambda d: one(d, view), draws)),
    )
    return np.asarray(program(as_jax(posterior), _arrays(view)))


def prior(pair: Pair, parameters: Posterior, number: int, context: np.ndarray | None, seed: int) -> np.ndarray:
    """(number, L): draws of the only site of ``local`` from the model, under one set of parameters."""
    (name,) = pair.local

    def run(parameters: Mapping[str, Any], key: jax.Array, context: jax.Array | None) -> jax.Array:
        model = handlers.seed(handlers.substitute(pair.density, data=parameters), key)
        data = None if context is None else View(None, context=context)
        return handlers.trace(model).get_trace(data, num_obs=number)[name]["value"]

    program = pair.cached(("prior", number), lambda: jax.jit(run))
    given = None if context is None else jnp.asarray(context, dtype=float)
    return np.asarray(program(as_jax(parameters), jax.random.key(seed), given))


def decoded(pair: Pair, parameters: Posterior, codes: np.ndarray, context: np.ndarray | None) -> dict[str, np.ndarray]:
    """The pair's ``decode`` of codes (n, L) under one set of parameters."""
    program = pair.cached("decoded", lambda: jax.jit(pair.decode))
    found = program(as_jax(parameters), _codes_view(codes, context))
    return {name: np.asarray(value) for name, value in found.items()}


def drawn(pair: Pair, parameters: Posterior, codes: np.ndarray, context: np.ndarray | None, seed: int) -> np.ndarray:
    """(n, D): a row drawn for each of the codes (n, L) of the only site of ``local``, under one set of parameters; with
    a label the codes are those of ``decode``, (n, L + C)."""

    def one(parameters: Mapping[str, Any], view: View, key: jax.Array) -> jax.Array:
        given = {**parameters, **_sites(pair, view.x)}
        model = handlers.seed(handlers.substitute(pair.density, data=given), key)
        data = None if view.context is None else View(None, context=view.context)
        return handlers.trace(model).get_trace(data, num_obs=len(view.x))["x"]["value"]

    program = pair.cached("drawn", lambda: jax.jit(one))
    return np.asarray(program(as_jax(parameters), _codes_view(codes, context), jax.random.key(seed)))


def _sites(pair: Pair, codes: jax.Array) -> dict[str, jax.Array]:
    """The local latents that codes are."""
    (name,), label = pair.local, pair.label
    if label is None:
        return {name: codes}
    return {name: codes[:, : -label.size], label.site: codes[:, -label.size :].argmax(-1)}


def _codes_view(codes: np.ndarray, context: np.ndarray | None) -> View:
    given = None if context is None else jnp.asarray(context, dtype=float)
    return View(jnp.asarray(codes, dtype=float), context=given)


def _arrays(view: View) -> View:
    floats = {"x": float, "context": float}
    leaves = {name: leaf for name, leaf in view._asdict().items() if leaf is not None and name != "weights"}
    return View(**{name: jnp.asarray(leaf, dtype=floats.get(name)) for name, leaf in leaves.items()})


def _flat(values: list[jax.Array], number: int) -> jax.Array:
    return jnp.concatenate([value.reshape(number, -1) for value in values], -1)
