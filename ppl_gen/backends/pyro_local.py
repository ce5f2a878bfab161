"""Importance weights of any Pyro pair whose guide proposes local latents, by effect handlers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppl_gen.backends import pyro_labels
from ppl_gen.backends.pyro_programs import Tensors, over_draws

if TYPE_CHECKING:
    from ppl_gen.family import Pair
    from ppl_gen.view import View

Row = Callable[[Any, Mapping[str, Any], Any], torch.Tensor]


class _FromUniforms(Messenger):
    """Draws the named sites at quantiles: ``uniforms`` (size,) are used up in the order of the sites, the same for
    every observation. A distribution without a quantile function draws at random."""

    def __init__(self, names: tuple[str, ...], uniforms: torch.Tensor) -> None:
        super().__init__()
        self.names, self.uniforms, self.used = names, uniforms, 0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.names or msg["value"] is not None:
            return
        shape = msg["fn"].event_shape
        size = shape.numel()
        u = self.uniforms[self.used : self.used + size].reshape(shape)
        self.used += size
        msg["value"] = _quantile(msg["fn"], u.expand(msg["fn"].shape()))


def _quantile(fn: Any, u: torch.Tensor) -> torch.Tensor | None:
    """The value of a distribution at u, of its whole shape; None where it has no such function."""
    if isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        return _quantile(fn.base_dist, u)
    if isinstance(fn, dist.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ torch.special.ndtri(u)[..., None])[..., 0]
    try:
        return fn.icdf(u)
    except NotImplementedError:
        return None


def given(program: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """The program with these values of its sample sites and of its ``param`` sites."""
    return poutine.substitute(poutine.condition(program, data=dict(values)), data=dict(values))


def local_size(pair: Pair, parameters: Tensors, view: View) -> int:
    """How many numbers the local latents of an observation are."""
    guide = pair.proposal or pair.guide
    assert guide is not None
    sites = poutine.trace(given(guide, parameters)).get_trace(view).nodes
    return sum(sites[name]["fn"].event_shape.numel() for name in pair.local)


def log_weights(
    pair: Pair, row_log_prob: Row, draws: Tensors, uniforms: torch.Tensor, view: View, by_label: bool = False
) -> torch.Tensor:
    """(draws, K, obs): log p(x, z_k | theta) - log q(z_k | x, theta), for uniforms (K, size). A label y is summed out,
    log sum_y p(x, y, z_ky) / q(z_ky | x, y), the z_ky at the same quantiles.

    :param by_label: (draws, K * C, obs) instead: the terms of that sum, of each particle one after the other.
    :param row_log_prob: ``(pair, sites, view) -> (obs,)``, the log joint of each observation's sites.
    """
    guide = pair.proposal or pair.guide
    assert guide is not None
    tiny = torch.finfo(uniforms.dtype).eps
    inside, labels = {"uniforms": uniforms.clamp(tiny, 1 - tiny)}, pyro_labels.values(pair)
    cost = view.x.numel() * (1 if pair.label is None else pair.label.size)

    def one(parameters: Tensors, uniforms: torch.Tensor) -> torch.Tensor:
        with _FromUniforms(pair.local, uniforms):
            sites = poutine.trace(given(guide, {**parameters, **labels})).get_trace(view).nodes
        values = {name: sites[name]["value"] for name in pair.local}
        log_q = sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in pair.local)
        found = row_log_prob(pair, {**parameters, **labels, **values}, view) - log_q
        return found if pair.label is None or by_label else torch.logsumexp(found, 0)

    def of_draw(parameters: Tensors) -> torch.Tensor:
        return over_draws(lambda part: one(parameters, part["uniforms"]), inside, cost)

    found = torch.stack([of_draw({name: value[s] for name, value in draws.items()})
                         for s in range(len(next(iter(draws.values()))))])  # fmt: skip
    return found.reshape(len(found), -1, len(view.x))


def local_values(pair: Pair, draws: Tensors, uniforms: torch.Tensor, view: View) -> Tensors:
    """{site: (draws, K, obs, *event)}: the particles whose log weights :func:`log_weights` gives for the same
    arguments; with a label K * C, those of its ``by_label``."""
    guide = pair.proposal or pair.guide
    assert guide is not None
    tiny = torch.finfo(uniforms.dtype).eps
    inside, labels = {"uniforms": uniforms.clamp(tiny, 1 - tiny)}, pyro_labels.values(pair)

    def one(parameters: Tensors, uniforms: torch.Tensor) -> Tensors:
        with _FromUniforms(pair.local, uniforms):
            sites = poutine.trace(given(guide, {**parameters, **labels})).get_trace(view).nodes
        return {name: sites[name]["value"] for name in pair.local}

    def of_draw(parameters: Tensors) -> Tensors:
        return over_draws(lambda part: one(parameters, part["uniforms"]), inside, view.x.numel())

    number = len(next(iter(draws.values())))
    found = [of_draw({name: value[s] for name, value in draws.items()}) for s in range(number)]
    stacked = {name: torch.stack([part[name] for part in found]) for name in pair.local}
    return stacked if pair.label is None else {name: value.flatten(1, 2) for name, value in stacked.items()}


def local_moments(pair: Pair, parameters: Tensors, view: View) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{site: (mean, sd)}, each (obs, *event), of what the guide proposes."""
    assert pair.guide is not None
    with Reparametrized(pair.local):
        sites = poutine.trace(given(pair.guide, {**parameters, **pyro_labels.values(pair)})).get_trace(view).nodes
    found = {name: (sites[name]["fn"].mean, sites[name]["fn"].variance) for name in pair.local}
    if pair.label is not None:
        shares = pyro_labels.log_shares(pair.label, view, pyro_labels.log_guide(sites[pair.label.site]))
        found = {name: pyro_labels.moments(shares, *both) for name, both in found.items()}
    return {name: (mean, variance.sqrt()) for name, (mean, variance) in found.items()}


def label_log_prob(pair: Pair, parameters: Tensors, view: View) -> torch.Tensor:
    """(obs, C): log q(y | x) as the guide has it, of rows with a label 0 at it."""
    assert pair.guide is not None
    assert pair.label is not None
    with Reparametrized(pair.local):
        sites = poutine.trace(given(pair.guide, {**parameters, **pyro_labels.values(pair)})).get_trace(view).nodes
    return pyro_labels.log_shares(pair.label, view, pyro_labels.log_guide(sites[pair.label.site])).T


class Reparametrized(Messenger):
    """Draws the named sites, or all, normals by a standard normal that vmap can draw anew in each part of a batch."""

    def __init__(self, names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        ours = msg["value"] is None and (self.names is None or msg["name"] in self.names)
        normal = _normal(msg["fn"]) if ours else None
        if normal is not None:
            loc, scale = normal
            msg["value"] = loc + scale * torch.randn(msg["fn"].shape())


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


def terms(pair: Pair, parameters: Tensors, view: View, num_particles: int) -> Terms:
    """The terms at particles drawn at random, so that gradients pass through them; row weights are not in them."""
    assert pair.guide is not None
    guide, model, label = pair.guide, pair.density, pair.label
    parameters = {**parameters, **pyro_labels.values(pair, 1 if num_particles == 1 else 2)}
    if num_particles > 1:
        particles = pyro.plate("particles", num_particles, dim=-2)
        guide, model = particles(guide), particles(model)
    with Reparametrized(pair.local):
        drawn = poutine.trace(given(guide, parameters)).get_trace(view).nodes
    values = {name: drawn[name]["value"] for name in pair.local}
    nodes = poutine.trace(given(model, {**parameters, **values})).get_trace(view).nodes
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample" and not site_is_subsample(site)}
    log_prob = {name: site["fn"].log_prob(site["value"]) for name, site in sites.items()}
    log_q = sum(drawn[name]["fn"].log_prob(value) for name, value in values.items())
    log_p = sum(log_prob[name] for name in values)
    log_likelihood = log_prob["x"]
    found = [_divergence(drawn[name]["fn"], sites[name]["fn"], len(view.x), num_particles) for name in values]
    kl = None if any(part is None for part in found) else torch.cat(found, -1)
    log_ratio, log_guide = log_p - log_q, None
    if label is not None:
        own, log_prior = pyro_labels.log_guide(drawn[label.site]), log_prob[label.site]
        log_prior = log_prior[:, 0] if log_prior.ndim > 2 else log_prior  # of the first particle
        log_likelihood, log_ratio, kl, log_guide = pyro_labels.mixed(
            label, view, own, log_prior, log_likelihood, log_ratio, kl
        )
    if num_particles == 1:
        log_likelihood, log_ratio = log_likelihood[None], log_ratio[None]
    size = sum(drawn[name]["fn"].event_shape.numel() for name in values)
    return Terms(log_likelihood, log_ratio, kl, size, log_guide)


def _divergence(q: Any, p: Any, num_rows: int, num_particles: int) -> torch.Tensor | None:
    """(..., obs, J): KL(q || p) in each dimension of independent normals; None of others."""
    ours, theirs = _normal(q), _normal(p)
    if ours is None or theirs is None:
        return None
    (loc, scale), (centre, width) = ours, theirs
    ratio = scale / width
    found = 0.5 * (ratio**2 + ((loc - centre) / width) ** 2 - 1) - ratio.log()
    lead = q.batch_shape[:-1]  # the values of a label, and the particles, for each of which it is the same
    found = found.expand(*lead, num_rows, *q.event_shape).reshape(*lead, num_rows, -1)
    return found if num_particles == 1 else found[..., 0, :, :]


def _normal(fn: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return (fn.loc, fn.scale) if isinstance(fn, dist.Normal) else None
