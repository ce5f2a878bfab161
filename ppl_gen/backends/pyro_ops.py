"""What can be derived from any Pyro pair: densities, draws and local posteriors, by effect handlers alone.

The twin of ``numpyro_ops``, with the same signatures. Constrained draws come and go as numpy arrays; inside, they
have torch's default float type. Nothing here leaves a trace in Pyro's parameter store or in a random state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import site_is_subsample
from torch.utils import _pytree as pytree

from ppl_gen import importance, reverse, unnormalised
from ppl_gen.backends import pyro_local
from ppl_gen.backends.pyro_programs import Tensors, over_draws, sandbox
from ppl_gen.labels import joint_sites
from ppl_gen.view import View

if TYPE_CHECKING:
    from ppl_gen.family import Pair

# The plate over observations is the rightmost batch dimension, so enumerated latents start one to its left.
_FIRST_AVAILABLE_DIM = -2
MANY = 10_000  # rows drawn from one network from which threads pay


def as_tensor(value: Any) -> torch.Tensor:
    """An array as a tensor; floating values take torch's default type."""
    tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, torch.Tensor) else value)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def _as_tensors(values: Mapping[str, Any]) -> Tensors:
    return {name: as_tensor(value) for name, value in values.items()}


def in_obs_plate(site: Mapping[str, Any]) -> bool:
    return any(frame.name == "obs" for frame in site["cond_indep_stack"])


def _given(model: Callable, parameters: Mapping[str, Any]) -> Callable:
    """The model with these values of its sample sites and of its ``param`` sites."""
    return poutine.substitute(poutine.condition(model, data=dict(parameters)), data=dict(parameters))


def _trace(model: Callable, parameters: Mapping[str, Any], *args: Any, **kwargs: Any) -> poutine.Trace:
    return poutine.trace(_given(model, parameters)).get_trace(*args, **kwargs)


class _Enumerate(EnumMessenger):
    """Pyro's own without its notes after each site, which only ``pyro.markov`` reads, and which vmap forbids."""

    def _pyro_post_sample(self, msg: Any) -> None:
        pass


def _enumerated_trace(pair: Pair, parameters: Mapping[str, Any], view: View, **options: Any) -> poutine.Trace:
    model = config_enumerate(_given(pair.model, parameters))
    return poutine.trace(_Enumerate(first_available_dim=_FIRST_AVAILABLE_DIM)(model)).get_trace(view, **options)


def _local_factors(trace: poutine.Trace) -> tuple[torch.Tensor, dict[str, int]]:
    """Unscaled log joint of each observation's sites, (..., K, obs), and the dimension of each enumerated latent."""
    total: Any = 0.0
    dims: dict[str, int] = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or not in_obs_plate(site):
            continue
        total = total + scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
        dim = site["infer"].get("_enumerate_dim")
        if dim is not None:
            dims[name] = dim
    return total, dims


def _local_scale(trace: poutine.Trace) -> Any:
    """The scale (row weights) that all sites of an observation share.

    Pyro's enumerating ELBO refuses a scale with one entry per row, and its potential for NUTS would apply it inside
    the sum over the latent, which is another density; so neither is used here.
    """
    scales = [
        site["scale"]
        for site in trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site) and in_obs_plate(site)
    ]
    first = torch.as_tensor(scales[0])
    if not all(torch.equal(torch.as_tensor(scale), first) for scale in scales[1:]):
        raise ValueError("The sites of one observation have different scales: its latents can't be summed out.")
    return scales[0]


def _sum_out(factors: torch.Tensor, dims: Mapping[str, int], keepdim: bool = False) -> torch.Tensor:
    return torch.logsumexp(factors, tuple(dims.values()), keepdim=keepdim) if dims else factors


def log_density(
    pair: Pair, parameters: Mapping[str, torch.Tensor], view: View, enumerated: bool = False, **options: Any
) -> torch.Tensor:
    """log p(theta, x) at constrained tensors, a differentiable scalar; discrete latents are summed out.

    :param options: passed to the model (``subsample_size``: an unbiased estimate from a random batch of rows).
    """
    if pair.collapsed is not None and not enumerated:
        return _trace(pair.collapsed, parameters, view, **options).log_prob_sum()
    trace = _enumerated_trace(pair, parameters, view, **options)
    factors, dims = _local_factors(trace)
    total = torch.sum(_sum_out(factors, dims) * _local_scale(trace))
    for site in trace.nodes.values():
        if site["type"] == "sample" and not site_is_subsample(site) and not in_obs_plate(site):
            total = total + scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"]).sum()
    return total


def _row_log_prob(pair: Pair, parameters: Mapping[str, torch.Tensor], view: View) -> torch.Tensor:
    if pair.collapsed is None and pair.label is None:
        return _sum_out(*_local_factors(_enumerated_trace(pair, parameters, view)))
    sites = _trace(pair.density, parameters, view).nodes
    return sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in joint_sites(pair))


def _local_posterior(pair: Pair, parameters: Mapping[str, torch.Tensor], view: View) -> Tensors:
    factors, dims = _local_factors(_enumerated_trace(pair, parameters, view))
    result = {}
    for name, dim in dims.items():
        marginal = _sum_out(factors, {other: d for other, d in dims.items() if other != name}, keepdim=True)
        result[name] = torch.softmax(marginal.movedim(dim, -1), -1).reshape(factors.shape[-1], -1)
    return result


def log_joint(pair: Pair, parameters: Mapping[str, Any], view: View, enumerated: bool = False) -> float:
    """log p(theta, x) at constrained values, discrete latents summed out; no transform Jacobian."""
    with sandbox(0), torch.no_grad():
        return float(log_density(pair, _as_tensors(parameters), view, enumerated))


def log_prob(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> np.ndarray:
    """(draws, obs): log p(x | theta_s) of each row in model space, discrete latents summed out; weights are ignored.
    Where a guide proposes local latents it is estimated, see :mod:`ppl_gen.importance`."""
    if pair.local:
        return importance.log_prob(pair, posterior, view)
    draws, view = _as_tensors(posterior), view._replace(weights=None)
    with sandbox(0), torch.no_grad():
        return over_draws(lambda one: _row_log_prob(pair, one, view), draws, view.x.numel()).numpy()


def local_size(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> int:
    """How many numbers the local latents of an observation are that the guide proposes."""
    first = {name: as_tensor(value[0]) for name, value in posterior.items()}
    with sandbox(0), torch.no_grad():
        return pyro_local.local_size(pair, first, view._replace(weights=None))


def log_weights(
    pair: Pair, posterior: Mapping[str, np.ndarray], view: View, uniforms: np.ndarray, seed: int,
    by_label: bool = False,
) -> np.ndarray:  # fmt: skip
    """(draws, particles, obs): log importance weights of local latents at quantiles ``uniforms`` (particles, size).

    :param seed: of latents whose distributions have no quantile function.
    :param by_label: (draws, particles * C, obs), before a label is summed out.
    """
    # The flow's many small steps: two threads are slower than one, on busy cores several times.
    small = pair.noising is not None and len(uniforms) * len(view.x) < MANY
    with sandbox(seed, threads=1 if small else None), torch.no_grad():
        return pyro_local.log_weights(
            pair, _row_log_prob, _as_tensors(posterior), as_tensor(uniforms), view._replace(weights=None), by_label
        ).numpy()


def local_posterior(pair: Pair, posterior: Mapping[str, np.ndarray], view: View) -> dict[str, np.ndarray]:
    """{site: (draws, obs, K)}: p(z = k | x, theta_s) of each enumerated local latent."""
    draws, view = _as_tensors(posterior), view._replace(weights=None)
    with sandbox(0), torch.no_grad():
        tables = over_draws(lambda one: _local_posterior(pair, one, view), draws, view.x.numel())
        return {name: table.numpy() for name, table in tables.items()}


def sample_rows(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None = None,
    **options: int,
) -> np.ndarray:  # fmt: skip
    """(len(index), d): row i drawn from the model under draw ``index[i]``, in model space.

    Rows that share a draw are drawn together, so the time grows with the number of different draws.

    :param context: (len(index), c) what row i is conditioned on; of sequences (len(index), num_steps, c).
    :param options: for a model of sequences ``num_steps``; they are then (len(index), num_steps, d).
    """
    if pair.tempered is not None:
        return unnormalised.draw(pair, posterior, np.asarray(index), seed)
    if pair.noising is not None:
        return reverse.draw(pair, posterior, index, seed, context)
    draws, index = _as_tensors(posterior), np.asarray(index)
    order = np.argsort(index, kind="stable")
    used, counts = np.unique(index, return_counts=True)
    given: Any = [None] * len(used)
    if context is not None:
        given = [View(None, context=rows) for rows in as_tensor(context[order]).split(counts.tolist())]
    # Few rows are drawn in small steps, for which two threads are slower than one, on busy cores 25 times.
    small = pair.has_weights and counts.max() < MANY
    with sandbox(seed, threads=1 if small else None), torch.no_grad():
        parts = [
            _trace(pair.density, {k: v[s] for k, v in draws.items()}, view, num_obs=int(count), **options)
            for s, count, view in zip(used, counts, given, strict=True)
        ]
        drawn = torch.cat([part.nodes["x"]["value"] for part in parts]).numpy()
    rows = np.empty_like(drawn)
    rows[order] = drawn
    return rows


def sample_table(
    pair: Pair, parameters: Mapping[str, np.ndarray], num_obs: int, seed: int, context: np.ndarray | None = None,
    **options: int,
) -> np.ndarray:  # fmt: skip
    """(num_obs, d): new observations under one set of parameters, drawn at once, in model space.

    :param context: (num_obs, c) what each is conditioned on; of sequences (num_obs, num_steps, c).
    :param options: for a model of sequences ``num_steps``; they are then (num_obs, num_steps, d).
    """
    if pair.tempered is not None:
        return unnormalised.draw_table(pair, parameters, num_obs, seed)
    if pair.noising is not None:
        return reverse.draw_table(pair, parameters, num_obs, seed, context)
    view = None if context is None else View(None, context=as_tensor(context))
    with sandbox(seed), torch.no_grad():
        trace = _trace(pair.density, _as_tensors(parameters), view, num_obs=num_obs, **options)
        return trace.nodes["x"]["value"].numpy()


def hook_over_draws(
    pair: Pair, hook: str, posterior: Mapping[str, np.ndarray], view: View, seed: int | None = None, **options: int
) -> Any:
    """A hook ``(parameters, view, *options)`` of the pair under each draw: (draws, ...), as numpy.

    :param seed: of the random state, for hooks that draw at random.
    """
    draws, view = _as_tensors(posterior), view._replace(weights=None)
    function = getattr(pair, hook)
    with sandbox(seed or 0), torch.no_grad():
        found = over_draws(lambda one: function(one, view, *options.values()), draws, view.x.numel())
    return pytree.tree_map(lambda leaf: leaf.numpy(), found)


def from_uniform(pair: Pair, posterior: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(draws, *u.shape): the rows of uniform numbers u under each draw, by the pair's hook."""
    draws, at, hook = _as_tensors(posterior), torch.as_tensor(u, dtype=torch.get_default_dtype()), pair.from_uniform
    assert hook is not None
    with sandbox(0), torch.no_grad():
        return over_draws(lambda one: hook(one, at), draws, at.numel()).numpy()


def sample_prior(pair: Pair, num_draws: int, seed: int) -> dict[str, np.ndarray]:
    """{site: (num_draws, *event)}: the global latent sites drawn from their prior, fixed ones among them."""
    with sandbox(seed), torch.no_grad():
        traces = [poutine.trace(pair.density).get_trace(None, num_obs=1) for _ in range(num_draws)]
    names = [
        name
        for name, site in traces[0].nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not in_obs_plate(site)
    ]
    return {name: torch.stack([trace.nodes[name]["value"] for trace in traces]).numpy() for name in names}
