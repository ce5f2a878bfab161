"""Reverse chains of a diffusion model in torch: from noise to numbers of rows, all rows side by side.

The twin of ``numpyro_reverse``, with the same signatures. What each step is says :mod:`ppl_gen.samplers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ppl_gen.backends.pyro_classifier import log_prob_gradient
from ppl_gen.backends.pyro_ops import MANY, as_tensor
from ppl_gen.backends.pyro_programs import sandbox
from ppl_gen.reverse import piece
from ppl_gen.samplers import times

if TYPE_CHECKING:
    from ppl_gen.guidance import Guidance
    from ppl_gen.noising import Noising
    from ppl_gen.pair import Pair
    from ppl_gen.samplers import Sampler

Estimate = Callable[[Any, Any], Any]  # (z (n, F), log_snr ()) -> (n, F)


class Chain(NamedTuple):
    """``rows`` (n, D) of model space; with their ways there, at levels ``log_snr`` (N + 1,) from noise to rows: ``z``
    (N + 1, n, F), and the denoiser's ``estimate`` at all levels but the last (N, n, F)."""

    rows: Any
    log_snr: Any = None
    z: Any = None
    estimate: Any = None


def alpha_sigma(log_snr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.sqrt(torch.sigmoid(log_snr)), torch.sqrt(torch.sigmoid(-log_snr))


def levels(noising: Noising, parameters: Mapping[str, Any], method: str, num_steps: int) -> torch.Tensor:
    """(N + 1,) log signal-to-noise ratios, rising."""
    if noising.num_steps is not None:
        return noising.log_snr(parameters, as_tensor(times(num_steps, noising.num_steps)))
    if method == "ode":
        return even_levels(noising, parameters, num_steps)
    ends, way = noising.log_snr(parameters, as_tensor([1.0, 0.0])), as_tensor(np.linspace(0.0, 1.0, num_steps + 1))
    angles = torch.arctan(torch.exp(-ends / 2))
    inner = -2 * torch.log(torch.tan(angles[0] + way[1:-1] * (angles[1] - angles[0])))
    return torch.cat([ends[:1], inner, ends[1:]])


def even_levels(noising: Noising, parameters: Mapping[str, Any], num_steps: int) -> torch.Tensor:
    """(N + 1,) log signal-to-noise ratios at even distances, rising, whatever the levels of the model."""
    ends = noising.log_snr(parameters, as_tensor([1.0, 0.0]))
    return ends[0] + as_tensor(np.linspace(0.0, 1.0, num_steps + 1)) * (ends[1] - ends[0])


def step(z: Any, estimate: Any, log_snr: Any, target: Any, eta: float, noise: Any) -> torch.Tensor:
    """From level ``log_snr`` to level ``target``, with this much noise."""
    (alpha, sigma), (alpha_to, sigma_to) = alpha_sigma(log_snr), alpha_sigma(target)
    kept, added = sigma_to, 0.0
    if eta > 0:
        share = eta**2 * -torch.expm1(log_snr - target)
        kept, added = sigma_to * torch.sqrt(1 - share), sigma_to * torch.sqrt(share) * noise
    return alpha_to * estimate + kept * (z - alpha * estimate) / sigma + added


def two_step(z: Any, estimate: Any, log_snr: Any, target: Any) -> torch.Tensor:
    """Along the probability flow, as if the denoiser's estimate stayed as it is."""
    (_, sigma), (alpha_to, sigma_to) = alpha_sigma(log_snr), alpha_sigma(target)
    return sigma_to / sigma * z - alpha_to * torch.expm1((log_snr - target) / 2) * estimate


def correct(z: Any, estimate: Any, log_snr: Any, ratio: float, noise: Any) -> torch.Tensor:
    """A step of Langevin dynamics at a level."""
    alpha, sigma = alpha_sigma(log_snr)
    size = 2 * (ratio * sigma) ** 2
    return z - size * (z - alpha * estimate) / sigma**2 + torch.sqrt(2 * size) * noise


def run(sampler: Sampler, estimate: Estimate, log_snr: torch.Tensor, z: torch.Tensor, keep: bool = False) -> Any:
    """z_0 (n, F) from z_1 (n, F) along the levels; to ``keep`` the way too: all z, and all estimates."""
    gaps = torch.diff(log_snr)
    # The first step has no estimate before it.
    ratios = torch.cat([gaps.new_zeros(1), gaps[1:] / (2 * gaps[:-1])])
    eta, before, way, estimates = sampler.noise, torch.zeros_like(z), [z], []
    for at, to, ratio in zip(log_snr[:-1], log_snr[1:], ratios, strict=True):
        found = estimate(z, at)
        if sampler.method == "ode":
            z = two_step(z, found + ratio * (found - before), at, to)
        else:
            z = step(z, found, at, to, eta, torch.randn_like(z) if eta > 0 else 0.0)
        if sampler.method == "predictor_corrector":
            for _ in range(sampler.num_corrections):
                z = correct(z, estimate(z, to), to, sampler.correction, torch.randn_like(z))
        before = found
        if keep:
            way.append(z)
            estimates.append(found)
    return (z, torch.stack(way), torch.stack(estimates)) if keep else z


def guided(
    noising: Noising, parameters: Mapping[str, Any], kind: str | None, context: Any, extra: Mapping[str, Any]
) -> Estimate:
    """The denoiser with guidance of this kind (:mod:`ppl_gen.guidance`); ``extra`` holds its ``weight``, and of a
    classifier its ``weights`` and the ``label`` ()."""

    def plain(z: Any, log_snr: Any) -> Any:
        return noising.denoise(parameters, z, log_snr, context)

    def free(z: Any, log_snr: Any) -> Any:
        found, without = plain(z, log_snr), noising.denoise(parameters, z, log_snr, None)
        return found + extra["weight"] * (found - without)

    def classified(z: Any, log_snr: Any) -> Any:
        alpha, sigma = alpha_sigma(log_snr)
        slope = log_prob_gradient(extra["weights"], z, log_snr, extra["label"])
        return plain(z, log_snr) + extra["weight"] * sigma**2 / alpha * slope

    return {None: plain, "free": free, "classifier": classified}[kind]


def finish(noising: Noising, parameters: Mapping[str, Any], z: Any, log_snr: Any, exact: bool) -> torch.Tensor:
    """(n, D) rows: draws of p(x | z_0); ``exact`` real columns are those of z_0 itself, as of the probability flow."""
    alpha, sigma = alpha_sigma(log_snr)
    drawn = (z + sigma * torch.randn_like(z)) / alpha
    return noising.decode(parameters, torch.where(torch.as_tensor(noising.is_real), z, drawn) if exact else drawn)


def draw(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None,
    sampler: Sampler, guidance: Guidance | None = None,
) -> np.ndarray:  # fmt: skip
    """(len(index), D): row i by member ``index[i]``, given ``context[i]``, in model space. Rows that share a member are
    drawn together."""
    noising, kind, extra = _noising(pair), None if guidance is None else guidance.kind, _extra(guidance)
    used, whose = np.unique(index, return_inverse=True)
    # Few rows are drawn in small steps, for which two threads are slower than one, on busy cores 25 times.
    with sandbox(seed, threads=1 if len(index) < MANY else None), torch.no_grad():
        drawn: torch.Tensor | None = None
        for at, member in enumerate(used):
            parameters = _as_tensors({name: value[member] for name, value in posterior.items()})
            log_snr = levels(noising, parameters, sampler.method, sampler.steps_of(noising))
            for rows in torch.as_tensor(np.flatnonzero(whose == at)).split(piece(noising.size)):
                given = None if context is None else as_tensor(context[rows.numpy()])
                z = torch.randn(len(rows), noising.size)
                last = run(sampler, guided(noising, parameters, kind, given, extra), log_snr, z)
                found = finish(noising, parameters, last, log_snr[-1], sampler.noise == 0)
                drawn = found.new_empty(len(index), *found.shape[1:]) if drawn is None else drawn
                drawn[rows] = found
    assert drawn is not None
    return drawn.numpy()


def follow(
    pair: Pair, parameters: Mapping[str, np.ndarray], z: np.ndarray, seed: int, context: np.ndarray | None,
    sampler: Sampler, guidance: Guidance | None = None,
) -> Chain:  # fmt: skip
    """The reverse chain of one member from noise ``z`` (n, F), with the way there."""
    noising, one, extra = _noising(pair), _as_tensors(parameters), _extra(guidance)
    given = None if context is None else as_tensor(context)
    with sandbox(seed, threads=1), torch.no_grad():
        log_snr = levels(noising, one, sampler.method, sampler.steps_of(noising))
        estimate = guided(noising, one, None if guidance is None else guidance.kind, given, extra)
        last, way, estimates = run(sampler, estimate, log_snr, as_tensor(z), keep=True)
        rows = finish(noising, one, last, log_snr[-1], sampler.noise == 0)
    return Chain(*(part.numpy() for part in (rows, log_snr, way, estimates)))


def decoded(pair: Pair, parameters: Mapping[str, np.ndarray], e: np.ndarray) -> np.ndarray:
    """(..., D): the likeliest rows of which numbers (..., F) are, in model space."""
    with sandbox(), torch.no_grad():
        flat = _noising(pair).decode(_as_tensors(parameters), as_tensor(e).reshape(-1, e.shape[-1])).numpy()
    return flat.reshape(*e.shape[:-1], -1)


def encoded(pair: Pair, parameters: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(n, F): the numbers of rows (n, D) of model space."""
    with sandbox(), torch.no_grad():
        return _noising(pair).encode(_as_tensors(parameters), as_tensor(x)).numpy()


def ends(pair: Pair, parameters: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The least and the greatest log signal-to-noise ratio."""
    with sandbox(), torch.no_grad():
        found = _noising(pair).log_snr(_as_tensors(parameters), as_tensor([1.0, 0.0]))
    return float(found[0]), float(found[1])


def _as_tensors(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: as_tensor(value) for name, value in values.items()}


def _extra(guidance: Guidance | None) -> Any:
    if guidance is None:
        return {}
    found = guidance.arrays()
    weights = found.pop("weights", None)
    return found if weights is None else found | {"weights": _as_tensors(weights)}


def _noising(pair: Pair) -> Noising:
    assert pair.noising is not None
    return pair.noising
