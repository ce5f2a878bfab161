"""Scores of a diffusion model: its probability flow's density with the variational bound beside it, or the bound alone
(:mod:`ppl_gen.probability_flow`, :mod:`ppl_gen.noising_bound`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import noising_bound, scoring
from ppl_gen.errors import SettingError, did_you_mean
from ppl_gen.metrics import highest_density_interval, standard_deviation
from ppl_gen.scores import Score

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

METHODS = ("auto", "bound")


def check_method(fit: Fit, method: Any) -> None:
    """Raise a :class:`SettingError` unless this is how a score can be had of this fit."""
    if method not in METHODS:
        how = f": {did_you_mean(method, METHODS)}" if isinstance(method, str) else f", one of {', '.join(METHODS)}."
        raise SettingError(f"Unknown method of a score, {method!r}{how}")
    if method == "bound" and fit.pair.noising is None:
        raise SettingError(f"method='bound' is the variational bound of diffusion models; that of {fit.family.name}, "
                           "if it has one, is in score().elbo: leave method out.")  # fmt: skip


def bounds(fit: Fit, data: Data, posterior: dict[str, np.ndarray], num_points: int, seed: int) -> noising_bound.Bounds:
    """The bounds of all rows in the units of the table."""
    view, parts = scoring.sliceable(fit, data), []
    for rows, found in noising_bound.bounds(fit.pair, posterior, view, num_points, seed):
        by_draw, log_predictive = (
            scoring.in_original_units(fit, data, view, rows, each) for each in (found.by_draw, found.log_predictive)
        )
        parts.append(noising_bound.Bounds(by_draw, log_predictive, found.error))
    if not parts:
        return noising_bound.Bounds(np.empty((len(next(iter(posterior.values()))), 0)), np.empty(0), np.empty(0))
    return noising_bound.Bounds(*(np.concatenate(each, axis=-1) for each in zip(*parts, strict=True)))


def score(fit: Fit, data: Data, *, hdi_prob: float, keep: bool, num_points: int | None, seed: int) -> Score:
    """The bound of each row as its score. Without p-values: the densities of rows held out are not bounds.

    :param num_points: times and noises of each row; None: :data:`~ppl_gen.noising_bound.NUM_POINTS`.
    """
    number, point = num_points or noising_bound.NUM_POINTS, scoring.point_draw(fit)
    found = bounds(fit, data, fit.posterior, number, seed)
    best = found if point is None else bounds(fit, data, point, number, seed)
    return Score(
        log_predictive=best.log_predictive, sd=standard_deviation(found.by_draw),
        hdi=highest_density_interval(found.by_draw, hdi_prob), kind="bound", hdi_prob=hdi_prob,
        uncertainty=fit.uncertainty, log_prob=scoring.as_dataarray(fit, [found.by_draw]) if keep else None,
        num_entries=scoring.num_entries(data), discrete=scoring.is_discrete(data), error=best.error,
        elbo=best.log_predictive, elbo_error=best.error,
    )  # fmt: skip
