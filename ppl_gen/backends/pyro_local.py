"""Importance weights of any Pyro pair whose guide proposes local latents, by effect handlers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

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


def _given(program: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    return poutine.substitute(poutine.condition(program, data=dict(values)), data=dict(values))


def local_size(pair: Pair, parameters: Tensors, view: View) -> int:
    """How many numbers the local latents of an observation are."""
    assert pair.guide is not None
    sites = poutine.trace(_given(pair.guide, parameters)).get_trace(view).nodes
    return sum(sites[name]["fn"].event_shape.numel() for name in pair.local)


def log_weights(pair: Pair, row_log_prob: Row, draws: Tensors, uniforms: torch.Tensor, view: View) -> torch.Tensor:
    """(draws, K, obs): log p(x, z_k | theta) - log q(z_k | x, theta), for uniforms (K, size).

    :param row_log_prob: ``(pair, sites, view) -> (obs,)``, the log joint of each observation's sites.
    """
    guide = pair.guide
    assert guide is not None
    tiny = torch.finfo(uniforms.dtype).eps
    inside = {"uniforms": uniforms.clamp(tiny, 1 - tiny)}

    def one(parameters: Tensors, uniforms: torch.Tensor) -> torch.Tensor:
        with _FromUniforms(pair.local, uniforms):
            sites = poutine.trace(_given(guide, parameters)).get_trace(view).nodes
        values = {name: sites[name]["value"] for name in pair.local}
        log_q = sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in pair.local)
        return row_log_prob(pair, {**parameters, **values}, view) - log_q

    def of_draw(parameters: Tensors) -> torch.Tensor:
        return over_draws(lambda part: one(parameters, part["uniforms"]), inside, view.x.numel())

    return torch.stack([of_draw({name: value[s] for name, value in draws.items()})
                        for s in range(len(next(iter(draws.values()))))])  # fmt: skip
