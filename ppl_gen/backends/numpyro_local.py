"""Importance weights of any NumPyro pair whose guide proposes local latents, by effect handlers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import ndtri
from numpyro import handlers
from numpyro.primitives import Messenger

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.view import View

BATCH = 65_536  # particles x rows worked on at once under one draw
Row = Callable[[Any, Mapping[str, Any], Any], jax.Array]


class _FromUniforms(Messenger):
    """Draws the named sites at quantiles: ``uniforms`` (size,) are used up in the order of the sites, the same for
    every observation. A distribution without a quantile function draws at random, from the key around it."""

    def __init__(self, fn: Callable[..., Any], names: tuple[str, ...], uniforms: jax.Array) -> None:
        self.names, self.uniforms, self.used = names, uniforms, 0
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["name"] not in self.names or msg["value"] is not None:
            return
        shape = msg["fn"].event_shape
        size = int(np.prod(shape))
        u = self.uniforms[self.used : self.used + size].reshape(shape)
        self.used += size
        msg["value"] = _quantile(msg["fn"], jnp.broadcast_to(u, msg["fn"].shape()))


def _quantile(fn: Any, u: jax.Array) -> jax.Array | None:
    """The value of a distribution at u, of its whole shape; None where it has no such function."""
    if isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        return _quantile(fn.base_dist, u)
    if isinstance(fn, dist.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ ndtri(u)[..., None])[..., 0]
    try:
        return fn.icdf(u)
    except NotImplementedError:
        return None


def _guide_trace(pair: Pair, parameters: Mapping[str, Any], view: View, key: Any, uniforms: jax.Array) -> Any:
    assert pair.guide is not None
    guide = _FromUniforms(handlers.substitute(pair.guide, data=parameters), pair.local, uniforms)
    return handlers.trace(handlers.seed(guide, key)).get_trace(view)


def local_size(pair: Pair, parameters: Mapping[str, Any], view: View) -> int:
    """How many numbers the local latents of an observation are."""
    guide = handlers.seed(handlers.substitute(pair.guide, data=parameters), jax.random.key(0))
    sites = handlers.trace(guide).get_trace(view)
    return sum(int(np.prod(sites[name]["fn"].event_shape)) for name in pair.local)


def log_weights_fn(pair: Pair, row_log_prob: Row) -> Callable[..., jax.Array]:
    """``f(draws, uniforms (K, size), keys (K,), view)``: (draws, K, obs), log p(x, z_k | theta) - log q(z_k | x,
    theta).

    :param row_log_prob: ``(pair, sites, view) -> (obs,)``, the log joint of each observation's sites.
    """

    def one(parameters: Mapping[str, Any], particle: tuple[jax.Array, Any], view: View) -> jax.Array:
        uniforms, key = particle
        sites = _guide_trace(pair, parameters, view, key, uniforms)
        values = {name: sites[name]["value"] for name in pair.local}
        log_q = sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in pair.local)
        return row_log_prob(pair, {**parameters, **values}, view) - log_q

    def run(draws: Mapping[str, Any], uniforms: jax.Array, keys: jax.Array, view: View) -> jax.Array:
        tiny = jnp.finfo(uniforms.dtype).eps
        inside = jnp.clip(uniforms, tiny, 1 - tiny)
        batch = max(1, min(len(uniforms), BATCH // len(view.x)))
        return jax.lax.map(
            lambda parameters: jax.lax.map(lambda part: one(parameters, part, view), (inside, keys), batch_size=batch),
            draws,
        )

    return run
