"""Importance weights of any NumPyro pair whose guide proposes local latents, by effect handlers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import ndtri
from numpyro import handlers
from numpyro.primitives import Messenger

from ppl_gen.backends import numpyro_labels
from ppl_gen.labels import joint_sites

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


def global_model(pair: Pair) -> Callable[..., Any]:
    """The model; where a guide proposes local latents, that of the global sites, the sites of observations hidden."""
    if not pair.local:
        return pair.density
    return handlers.block(handlers.seed(pair.density, jax.random.key(0)), hide=list(joint_sites(pair)))


def _guide_trace(pair: Pair, parameters: Mapping[str, Any], view: View, key: Any, uniforms: jax.Array) -> Any:
    assert pair.guide is not None
    given = {**parameters, **numpyro_labels.values(pair)}
    guide = _FromUniforms(handlers.substitute(pair.proposal or pair.guide, data=given), pair.local, uniforms)
    return handlers.trace(handlers.seed(guide, key)).get_trace(view)


def local_size(pair: Pair, parameters: Mapping[str, Any], view: View) -> int:
    """How many numbers the local latents of an observation are."""
    guide = handlers.seed(handlers.substitute(pair.proposal or pair.guide, data=parameters), jax.random.key(0))
    sites = handlers.trace(guide).get_trace(view)
    return sum(int(np.prod(sites[name]["fn"].event_shape)) for name in pair.local)


def log_weights_fn(pair: Pair, row_log_prob: Row, by_label: bool = False) -> Callable[..., jax.Array]:
    """``f(draws, uniforms (K, size), keys (K,), view)``: (draws, K, obs), log p(x, z_k | theta) - log q(z_k | x,
    theta). A label y is summed out, log sum_y p(x, y, z_ky) / q(z_ky | x, y), the z_ky at the same quantiles.

    :param by_label: (draws, K * C, obs) instead: the terms of that sum, of each particle one after the other.
    :param row_log_prob: ``(pair, sites, view) -> (obs,)``, the log joint of each observation's sites.
    """

    def one(parameters: Mapping[str, Any], particle: tuple[jax.Array, Any], view: View) -> jax.Array:
        uniforms, key = particle
        sites = _guide_trace(pair, parameters, view, key, uniforms)
        values = {name: sites[name]["value"] for name in pair.local}
        log_q = sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in pair.local)
        found = row_log_prob(pair, {**parameters, **numpyro_labels.values(pair), **values}, view) - log_q
        return found if pair.label is None or by_label else jax.nn.logsumexp(found, axis=0)

    def run(draws: Mapping[str, Any], uniforms: jax.Array, keys: jax.Array, view: View) -> jax.Array:
        tiny = jnp.finfo(uniforms.dtype).eps
        inside = jnp.clip(uniforms, tiny, 1 - tiny)
        batch = max(1, min(len(uniforms), BATCH // (len(view.x) * (1 if pair.label is None else pair.label.size))))
        found = jax.lax.map(
            lambda parameters: jax.lax.map(lambda part: one(parameters, part, view), (inside, keys), batch_size=batch),
            draws,
        )
        return found.reshape(len(found), -1, len(view.x))

    return run


def local_values_fn(pair: Pair) -> Callable[..., dict[str, jax.Array]]:
    """``f(draws, uniforms, keys, view)``: {site: (draws, K, obs, *event)}, the particles whose log weights
    :func:`log_weights_fn` gives for the same arguments; with a label K * C, those of its ``by_label``."""

    def run(draws: Mapping[str, Any], uniforms: jax.Array, keys: jax.Array, view: View) -> dict[str, jax.Array]:
        tiny = jnp.finfo(uniforms.dtype).eps
        inside = jnp.clip(uniforms, tiny, 1 - tiny)

        def one(parameters: Mapping[str, Any], particle: tuple[jax.Array, Any]) -> dict[str, jax.Array]:
            sites = _guide_trace(pair, parameters, view, particle[1], particle[0])
            return {name: sites[name]["value"] for name in pair.local}

        found = jax.lax.map(
            lambda parameters: jax.vmap(lambda part: one(parameters, part))((inside, keys)), draws
        )  # fmt: skip
        flat = 1 if pair.label is None else 2  # axes before the observations'
        return {name: v.reshape(len(v), -1, *v.shape[1 + flat :]) for name, v in found.items()}

    return run


def local_moments(pair: Pair, parameters: Mapping[str, Any], view: View) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{site: (mean, sd)}, each (obs, *event), of what the guide proposes."""
    assert pair.guide is not None
    given = {**parameters, **numpyro_labels.values(pair)}
    guide = handlers.seed(handlers.substitute(pair.guide, data=given), jax.random.key(0))
    sites = handlers.trace(guide).get_trace(view)
    found = {name: (sites[name]["fn"].mean, sites[name]["fn"].variance) for name in pair.local}
    if pair.label is not None:
        shares = numpyro_labels.log_shares(pair.label, view, numpyro_labels.log_guide(sites[pair.label.site]))
        found = {name: numpyro_labels.moments(shares, *both) for name, both in found.items()}
    return {name: (mean, jnp.sqrt(variance)) for name, (mean, variance) in found.items()}


def label_log_prob(pair: Pair, parameters: Mapping[str, Any], view: View) -> jax.Array:
    """(obs, C): log q(y | x) as the guide has it, of rows with a label 0 at it."""
    assert pair.guide is not None
    assert pair.label is not None
    given = {**parameters, **numpyro_labels.values(pair)}
    guide = handlers.seed(handlers.substitute(pair.guide, data=given), jax.random.key(0))
    site = handlers.trace(guide).get_trace(view)[pair.label.site]
    return numpyro_labels.log_shares(pair.label, view, numpyro_labels.log_guide(site)).T


class Terms(NamedTuple):
    """The terms of the ELBO of each row, of K particles: ``log_likelihood`` (K, obs) log p(x | z), ``log_ratio`` (K,
    obs) log p(z) - log q(z | x), and ``kl`` (obs, J) the divergence of q from p(z) in each dimension of z, or None
    where it has no closed form; ``size`` is the number of dimensions. With a label y they are expectations over it,
    ``kl`` has one number more, the label's, and ``log_guide`` (obs,) is log q(y | x) of rows with a label, else 0."""

    log_likelihood: Any
    log_ratio: Any
    kl: Any
    size: int
    log_guide: Any = None


def terms(pair: Pair, parameters: Mapping[str, Any], view: View, key: Any, num_particles: int) -> Terms:
    """The terms at particles drawn at random, so that gradients pass through them; row weights are not in them."""

    size = 0

    given, label = {**parameters, **numpyro_labels.values(pair)}, pair.label

    def one(key: Any) -> tuple[Any, Any, Any, Any]:
        nonlocal size
        key_guide, key_model = jax.random.split(key)
        assert pair.guide is not None
        guide = handlers.seed(handlers.substitute(pair.guide, data=given), key_guide)
        drawn = handlers.trace(guide).get_trace(view)
        values = {name: drawn[name]["value"] for name in pair.local}
        model = handlers.seed(handlers.substitute(pair.density, data={**given, **values}), key_model)
        sites = {name: s for name, s in handlers.trace(model).get_trace(view).items() if s["type"] == "sample"}
        log_prob = {name: site["fn"].log_prob(site["value"]) for name, site in sites.items()}
        log_q = sum(drawn[name]["fn"].log_prob(value) for name, value in values.items())
        log_p = sum(log_prob[name] for name in values)
        log_likelihood = log_prob["x"]
        found = [_divergence(drawn[name]["fn"], sites[name]["fn"], len(view.x)) for name in values]
        kl = None if any(part is None for part in found) else jnp.concatenate(found, -1)
        size = sum(int(np.prod(drawn[name]["fn"].event_shape)) for name in values)
        if label is None:
            return log_likelihood, log_p - log_q, kl, None
        log_guide = numpyro_labels.log_guide(drawn[label.site])
        return numpyro_labels.mixed(label, view, log_guide, log_prob[label.site], log_likelihood, log_p - log_q, kl)

    if num_particles == 1:
        log_likelihood, log_ratio, kl, log_guide = one(key)
        return Terms(log_likelihood[None], log_ratio[None], kl, size, log_guide)
    log_likelihood, log_ratio, kl, log_guide = jax.vmap(one)(jax.random.split(key, num_particles))
    return Terms(log_likelihood, log_ratio, None if kl is None else kl[0], size,
                 None if log_guide is None else log_guide[0])  # fmt: skip


def _divergence(q: Any, p: Any, num_rows: int) -> jax.Array | None:
    """(..., obs, J): KL(q || p) in each dimension of independent normals; None of others."""
    ours, theirs = _normal(q), _normal(p)
    if ours is None or theirs is None:
        return None
    (loc, scale), (centre, width) = ours, theirs
    ratio = scale / width
    found = 0.5 * (ratio**2 + ((loc - centre) / width) ** 2 - 1) - jnp.log(ratio)
    lead = q.batch_shape[:-1]  # the values of a label
    return jnp.broadcast_to(found, (*lead, num_rows, *q.event_shape)).reshape(*lead, num_rows, -1)


def _normal(fn: Any) -> tuple[jax.Array, jax.Array] | None:
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return (fn.loc, fn.scale) if isinstance(fn, dist.Normal) else None
