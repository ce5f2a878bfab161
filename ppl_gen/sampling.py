"""New rows of a fit, derived from its pair and its draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import backends, corrected, images, reverse
from ppl_gen.conditions import join, rows_to_draw_for
from ppl_gen.errors import SettingError
from ppl_gen.scoring import check_seed, point_draw

if TYPE_CHECKING:
    from ppl_gen.result import Fit

SAMPLE_ROWS = (4096, 32_768)  # rows drawn in one call, for few rows and for many


def sample(
    fit: Fit, num_samples: int, seed: int, length: int | None = None, given: Any = None, correct: str | None = None,
    choice: reverse.Choice | None = None,
) -> Any:  # fmt: skip
    """See :meth:`ppl_gen.result.Fit.sample`."""
    way = corrected.resolve(fit, correct)
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise SettingError(f"num_samples must be a whole number of at least 1, not {num_samples!r}.")
    check_seed(seed)
    if fit.family.sequences:
        from ppl_gen import timeseries

        return timeseries.sample(fit, int(num_samples), length, seed, given)
    conditions = rows_to_draw_for(fit, int(num_samples), seed, given)
    if length is not None:
        raise SettingError(f"length is for families that model sequences; {fit.family.name} models rows.")
    if conditions is None:
        drawn = sample_model_space(fit, int(num_samples), seed, None, way, choice)
        return fit.schema.decode(drawn) if fit.schema.image is None else images.decode(fit.schema, drawn)
    rows, index = conditions
    drawn = sample_model_space(fit, len(rows), seed, rows, way, choice)
    frame = fit.schema.decode(join(fit.schema, drawn, rows))
    return frame if index is None else frame.set_axis(index, axis=0)


def sample_model_space(
    fit: Fit, num_samples: int, seed: int, conditions: np.ndarray | None = None, correct: str = "none",
    choice: reverse.Choice | None = None,
) -> np.ndarray:  # fmt: skip
    """(num_samples, d): each row from a draw picked at random, or from the point estimate where there is one.

    :param conditions: (num_samples, c) what each is drawn for; d is then the number of columns that are modelled.
    """
    posterior = point_draw(fit) or fit.posterior
    rng = np.random.default_rng(seed)
    index = rng.integers(len(next(iter(posterior.values()))), size=num_samples)
    context = None if conditions is None else fit.schema.only_conditions().context(conditions)
    if correct != "none":
        return corrected.draw(fit.pair, posterior, index, seed, context, correct)
    if choice is not None:
        return reverse.draw(fit.pair, posterior, index, seed, context, choice)
    return sample_at(fit, posterior, index, seed, context)


def sample_at(
    fit: Fit, posterior: dict[str, np.ndarray], index: np.ndarray, seed: int, context: np.ndarray | None = None
) -> np.ndarray:
    """(len(index), d): row i from draw ``index[i]``, and given ``context[i]``, in model space.

    Calls have one of two lengths, the last filled up, so that few programs are compiled whatever the lengths asked for.
    """
    if fit.pair.noising is not None:
        return reverse.draw(fit.pair, posterior, index, seed, context)
    ops, size = backends.ops(fit.backend), SAMPLE_ROWS[len(index) > SAMPLE_ROWS[0]]
    filled = np.arange(-(-len(index) // size) * size) % len(index)
    parts = [
        ops.sample_rows(fit.pair, posterior, index[rows], (seed + int(start)) % 2**31,
                        context if context is None else context[rows])
        for start, rows in zip(range(0, len(filled), size), np.split(filled, len(filled) // size), strict=True)
    ]  # fmt: skip
    return np.concatenate(parts)[: len(index)]
