"""Reverse chains of a diffusion model in JAX: from noise to numbers of rows, all rows side by side, as one program.

What each step is says :mod:`ppl_gen.samplers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.numpyro_classifier import log_prob_gradient
from ppl_gen.backends.numpyro_ops import as_jax
from ppl_gen.backends.numpyro_programs import QUICK, one_per_core
from ppl_gen.reverse import padded, piece
from ppl_gen.samplers import times

if TYPE_CHECKING:
    from ppl_gen.guidance import Guidance
    from ppl_gen.noising import Noising
    from ppl_gen.pair import Pair
    from ppl_gen.samplers import Sampler

Estimate = Callable[[Any, Any], Any]  # (z (n, F), log_snr ()) -> (n, F)
FEW = 32  # numbers of a row up to which it takes longer to optimize a way than to go it


class Chain(NamedTuple):
    """``rows`` (n, D) of model space; with their ways there, at levels ``log_snr`` (N + 1,) from noise to rows: ``z``
    (N + 1, n, F), and the denoiser's ``estimate`` at all levels but the last (N, n, F)."""

    rows: Any
    log_snr: Any = None
    z: Any = None
    estimate: Any = None


def alpha_sigma(log_snr: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def levels(noising: Noising, parameters: Mapping[str, Any], method: str, num_steps: int) -> jax.Array:
    """(N + 1,) log signal-to-noise ratios, rising."""
    if noising.num_steps is not None:
        return noising.log_snr(parameters, jnp.asarray(times(num_steps, noising.num_steps), float))
    if method == "ode":
        return even_levels(noising, parameters, num_steps)
    ends, way = noising.log_snr(parameters, jnp.asarray([1.0, 0.0])), jnp.linspace(0.0, 1.0, num_steps + 1)
    angles = jnp.arctan(jnp.exp(-ends / 2))
    inner = -2 * jnp.log(jnp.tan(angles[0] + way[1:-1] * (angles[1] - angles[0])))
    return jnp.concatenate([ends[:1], inner, ends[1:]])


def even_levels(noising: Noising, parameters: Mapping[str, Any], num_steps: int) -> jax.Array:
    """(N + 1,) log signal-to-noise ratios at even distances, rising, whatever the levels of the model."""
    ends = noising.log_snr(parameters, jnp.asarray([1.0, 0.0]))
    return ends[0] + jnp.linspace(0.0, 1.0, num_steps + 1) * (ends[1] - ends[0])


def step(z: Any, estimate: Any, log_snr: Any, target: Any, eta: float, noise: Any) -> jax.Array:
    """From level ``log_snr`` to level ``target``, with this much noise."""
    (alpha, sigma), (alpha_to, sigma_to) = alpha_sigma(log_snr), alpha_sigma(target)
    kept, added = sigma_to, 0.0
    if eta > 0:
        share = eta**2 * -jnp.expm1(log_snr - target)
        kept, added = sigma_to * jnp.sqrt(1 - share), sigma_to * jnp.sqrt(share) * noise
    return alpha_to * estimate + kept * (z - alpha * estimate) / sigma + added


def two_step(z: Any, estimate: Any, log_snr: Any, target: Any) -> jax.Array:
    """Along the probability flow, as if the denoiser's estimate stayed as it is."""
    (_, sigma), (alpha_to, sigma_to) = alpha_sigma(log_snr), alpha_sigma(target)
    return sigma_to / sigma * z - alpha_to * jnp.expm1((log_snr - target) / 2) * estimate


def correct(z: Any, estimate: Any, log_snr: Any, ratio: float, noise: Any) -> jax.Array:
    """A step of Langevin dynamics at a level."""
    alpha, sigma = alpha_sigma(log_snr)
    size = 2 * (ratio * sigma) ** 2
    return z - size * (z - alpha * estimate) / sigma**2 + jnp.sqrt(2 * size) * noise


def run(sampler: Sampler, estimate: Estimate, log_snr: Any, z: Any, key: Any, keep: bool = False) -> Any:
    """z_0 (n, F) from z_1 (n, F) along the levels; to ``keep`` the way too: all z, and all estimates."""
    gaps = jnp.diff(log_snr)
    # The first step has no estimate before it.
    ratios = jnp.concatenate([jnp.zeros(1, gaps.dtype), gaps[1:] / (2 * gaps[:-1])])
    eta, keys = sampler.noise, jax.random.split(key, len(gaps))

    def body(carry: Any, inputs: Any) -> Any:
        (z, before), (at, to, ratio, key) = carry, inputs
        found = estimate(z, at)
        if sampler.method == "ode":
            z = two_step(z, found + ratio * (found - before), at, to)
        else:
            z = step(z, found, at, to, eta, jax.random.normal(key, z.shape, z.dtype) if eta > 0 else 0.0)
        if sampler.method == "predictor_corrector":
            for one in jax.random.split(jax.random.fold_in(key, 1), sampler.num_corrections):
                noise = jax.random.normal(one, z.shape, z.dtype)
                z = correct(z, estimate(z, to), to, sampler.correction, noise)
        return (z, found), (z, found) if keep else None

    (last, _), way = jax.lax.scan(body, (z, jnp.zeros_like(z)), (log_snr[:-1], log_snr[1:], ratios, keys))
    return (last, jnp.concatenate([z[None], way[0]]), way[1]) if keep else last


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


def finish(noising: Noising, parameters: Mapping[str, Any], z: Any, log_snr: Any, key: Any, exact: bool) -> Any:
    """(n, D) rows: draws of p(x | z_0); ``exact`` real columns are those of z_0 itself, as of the probability flow."""
    alpha, sigma = alpha_sigma(log_snr)
    drawn = (z + sigma * jax.random.normal(key, z.shape, z.dtype)) / alpha
    return noising.decode(parameters, jnp.where(noising.is_real, z, drawn) if exact else drawn)


def draw(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None,
    sampler: Sampler, guidance: Guidance | None = None,
) -> np.ndarray:  # fmt: skip
    """(len(index), D): row i by member ``index[i]``, given ``context[i]``, in model space. Rows that share a member are
    drawn together, many in pieces, of which each core draws one at a time."""
    noising = _noising(pair)
    used, whose, counts = np.unique(index, return_inverse=True, return_counts=True)
    pieces = -(-int(counts.max()) // piece(noising.size))
    size = padded(-(-int(counts.max()) // pieces))
    place = np.empty(len(index), int)  # the how-manieth row of its member each is
    order = np.argsort(whose, kind="stable")
    place[order] = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    given: Any = [None] * (len(used) * pieces)
    if context is not None:
        given = np.zeros((len(used), pieces * size, context.shape[1]), jnp.result_type(float))
        given[whose, place] = context
        given = given.reshape(-1, size, context.shape[1])
    kind = None if guidance is None else guidance.kind
    one = partial(_one, noising, sampler, kind, size)
    key = ("reverse", sampler, kind, size)
    program = pair.cached(key, lambda: jax.jit(one))
    keys = jax.random.split(jax.random.key(seed), len(given))
    networks = [as_jax({n: value[m] for n, value in posterior.items()}) for m in used for _ in range(pieces)]
    extra = [_extra(guidance)] * len(given)
    drawn = np.stack([np.asarray(piece) for piece in one_per_core(program, networks, keys, given, extra)])
    return drawn.reshape(len(used), -1, *drawn.shape[2:])[whose, place]


def follow(
    pair: Pair, parameters: Mapping[str, np.ndarray], z: np.ndarray, seed: int, context: np.ndarray | None,
    sampler: Sampler, guidance: Guidance | None = None,
) -> Chain:  # fmt: skip
    """The reverse chain of one member from noise ``z`` (n, F), with the way there."""
    noising, kind = _noising(pair), None if guidance is None else guidance.kind

    def one(parameters: Any, key: Any, z: Any, context: Any, extra: Any) -> Chain:
        log_snr = levels(noising, parameters, sampler.method, sampler.steps_of(noising))
        estimate = guided(noising, parameters, kind, context, extra)
        last, way, estimates = run(sampler, estimate, log_snr, z, key, keep=True)
        rows = finish(noising, parameters, last, log_snr[-1], jax.random.fold_in(key, 1), sampler.noise == 0)
        return Chain(rows, log_snr, way, estimates)

    options = QUICK if noising.size <= FEW else None
    program = pair.cached(("follow", sampler, kind), lambda: jax.jit(one, compiler_options=options))
    given = None if context is None else jnp.asarray(context, dtype=float)
    found = program(as_jax(parameters), jax.random.key(seed), jnp.asarray(z, dtype=float), given, _extra(guidance))
    return Chain(*(np.asarray(part) for part in found))


def decoded(pair: Pair, parameters: Mapping[str, np.ndarray], e: np.ndarray) -> np.ndarray:
    """(..., D): the likeliest rows of which numbers (..., F) are, in model space."""
    program = pair.cached("decode_numbers", lambda: jax.jit(_noising(pair).decode))
    flat = program(as_jax(parameters), jnp.asarray(e, dtype=float).reshape(-1, e.shape[-1]))
    return np.asarray(flat).reshape(*e.shape[:-1], -1)


def encoded(pair: Pair, parameters: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(n, F): the numbers of rows (n, D) of model space."""
    program = pair.cached("encode_numbers", lambda: jax.jit(_noising(pair).encode))
    return np.asarray(program(as_jax(parameters), jnp.asarray(x, dtype=float)))


def ends(pair: Pair, parameters: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The least and the greatest log signal-to-noise ratio."""
    found = _noising(pair).log_snr(as_jax(parameters), jnp.asarray([1.0, 0.0]))
    return float(found[0]), float(found[1])


def _one(
    noising: Noising, sampler: Sampler, kind: Any, size: int, parameters: Any, key: Any, context: Any, extra: Any
) -> jax.Array:
    key_start, key_way, key_last = jax.random.split(key, 3)
    log_snr = levels(noising, parameters, sampler.method, sampler.steps_of(noising))
    z = jax.random.normal(key_start, (size, noising.size), jnp.result_type(float))
    last = run(sampler, guided(noising, parameters, kind, context, extra), log_snr, z, key_way)
    return finish(noising, parameters, last, log_snr[-1], key_last, sampler.noise == 0)


def _extra(guidance: Guidance | None) -> Any:
    return None if guidance is None else jax.tree.map(jnp.asarray, guidance.arrays())


def _noising(pair: Pair) -> Noising:
    assert pair.noising is not None
    return pair.noising
