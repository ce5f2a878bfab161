"""Rows of a diffusion model, drawn by the reverse chain of :mod:`ppl_gen.samplers`, and the ways there."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppl_gen import guidance as guidances
from ppl_gen import samplers
from ppl_gen.errors import FitError, SettingError
from ppl_gen.registry import import_backend

if TYPE_CHECKING:
    from ppl_gen.guidance import Guidance
    from ppl_gen.pair import Pair
    from ppl_gen.result import Fit
    from ppl_gen.samplers import Sampler

PIECE_VALUES = 1_000_000  # numbers of rows that are drawn at once, of images with a network of many channels
PIECES = (64, 8192)  # rows at once, at least and at most


class Way(NamedTuple):
    """How rows came about, at noise levels ``log_snr`` (N + 1,) from noise to rows; all in model space:

    ``rows``       (n, D) the rows
    ``noisy``      (N + 1, n, D) z at each level, read as a row
    ``estimates``  (N, n, D) the rows that the denoiser saw behind it
    """

    rows: np.ndarray
    log_snr: np.ndarray
    noisy: np.ndarray
    estimates: np.ndarray


class Choice(NamedTuple):
    """A sampler and its guidance, checked against the fit."""

    sampler: Sampler
    guidance: Guidance | None


def module(backend: str) -> ModuleType:
    return import_backend("ppl_gen.backends", f"{backend}_reverse", backend)


def choose(
    fit: Fit, sampler: Any = None, num_steps: int | None = None, guidance: Any = None, classifier: Any = None,
    label: Any = None,
) -> Choice | None:  # fmt: skip
    """How a diffusion model is to be sampled; None for other families.

    :raises UnsupportedError: one of these is given, and the family is none.
    :raises SettingError: one of them is none that this fit can use.
    """
    noising = fit.pair.noising
    if noising is None:
        guidances.refuse(fit, sampler=sampler, num_steps=num_steps, guidance=guidance, classifier=classifier,
                         label=label)  # fmt: skip
        return None
    made = samplers.make(sampler, num_steps)
    made.steps_of(noising)
    return Choice(made, guidances.resolve(fit, guidance, classifier, label))


def draw(
    pair: Pair, posterior: Mapping[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None = None,
    choice: Choice | None = None,
) -> np.ndarray:  # fmt: skip
    """(len(index), D): row i by member ``index[i]``, given ``context[i]``, in model space."""
    sampler, guidance = choice or Choice(samplers.Sampler(), None)
    found: np.ndarray = module(pair.backend).draw(pair, posterior, np.asarray(index), seed, context, sampler, guidance)
    lost = ~np.isfinite(found).all(1)
    if lost.any():
        of = f"{lost.sum():,} of {len(found):,} rows grew beyond all numbers on their way"
        if guidance is None:
            raise FitError(f"{of}: take more steps (num_steps), or train the model longer.")
        raise SettingError(f"{of}: guidance={guidance.weight:g} drives them there, so lower it.")
    return found


def draw_table(
    pair: Pair, parameters: Mapping[str, np.ndarray], number: int, seed: int, context: np.ndarray | None
) -> np.ndarray:
    """(number, D): rows by one set of parameters."""
    one = {name: np.asarray(value)[None] for name, value in parameters.items()}
    return draw(pair, one, np.zeros(number, int), seed, context)


def follow(
    fit: Fit, number: int, *, sampler: Any = None, num_steps: int | None = None, guidance: Any = None,
    classifier: Any = None, label: Any = None, given: Any = None, member: int = 0, seed: int = 0,
) -> Way:  # fmt: skip
    """``number`` rows of one member with their ways from noise (of a conditional fit as many for each row of
    ``given``), the same noise with every sampler of this seed."""
    from ppl_gen.conditions import rows_to_draw_for
    from ppl_gen.latents import member_of

    choice = choose(fit, sampler, num_steps, guidance, classifier, label)
    noising, ops = fit.pair.noising, module(fit.backend)
    if choice is None or noising is None:
        guidances.refuse(fit, follow=True)
        raise AssertionError
    parameters = {name: value[0] for name, value in member_of(fit, member).items()}
    conditions = rows_to_draw_for(fit, number, seed, given)
    context = None if conditions is None else fit.schema.only_conditions().context(conditions[0])
    count = number if context is None else len(context)
    z = np.random.default_rng(seed).standard_normal((count, noising.size))
    found = ops.follow(fit.pair, parameters, z, seed, context, choice.sampler, choice.guidance)
    return Way(found.rows, found.log_snr, ops.decoded(fit.pair, parameters, found.z),
               ops.decoded(fit.pair, parameters, found.estimate))  # fmt: skip


def piece(size: int) -> int:
    """Rows of so many numbers that are drawn at once."""
    return int(np.clip(PIECE_VALUES // max(size, 1), *PIECES))


def padded(number: int) -> int:
    """The number of rows of the program that draws ``number``: of few sizes, so that few are compiled."""
    return max(16, 1 << (number - 1).bit_length()) if number <= 256 else -(-number // 256) * 256
