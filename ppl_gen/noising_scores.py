"""Scores of a diffusion model: its probability flow's density with the variational bound beside it, or the bound alone
(:mod:`ppl_gen.probability_flow`, :mod:`ppl_gen.noising_bound`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import noising_bound, scoring
from ppl_gen.anomaly import anomaly_p_values
from ppl_gen.errors import SettingError, did_you_mean
from ppl_gen.metrics import highest_density_interval, standard_deviation
from ppl_gen.scores import Score

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

METHODS = ("auto", "flow", "bound")


def tells_bound(fit: Fit) -> bool:
    """Whether a fit's densities are told by the bound, unless another method is asked for."""
    return fit.pair.noising is not None and fit.pair.noising.is_dear


def resolve(fit: Fit, method: Any) -> str:
    """``"flow"``, or ``"bound"``; of other families ``"auto"``.

    :raises SettingError: an unknown method, or one of diffusion models for another family.
    """
    if method not in METHODS:
        how = f": {did_you_mean(method, METHODS)}" if isinstance(method, str) else f", one of {', '.join(METHODS)}."
        raise SettingError(f"Unknown method of a score, {method!r}{how}")
    if fit.pair.noising is None and method != "auto":
        what = "variational bound" if method == "bound" else "probability flow"
        other = f"; that of {fit.family.name}, if it has one, is in score().elbo" if method == "bound" else ""
        raise SettingError(f"method={method!r} is the {what} of diffusion models{other}: leave method out.")
    if method == "auto" and fit.pair.noising is not None:
        return "bound" if tells_bound(fit) else "flow"
    return str(method)


def bound_rows(
    fit: Fit, data: Data, posterior: dict[str, np.ndarray]
) -> Iterator[tuple[slice, np.ndarray]]:  # fmt: skip
    """(rows, bounds (draws, rows) of log p(x | theta_s)) chunk by chunk, in nats and original units."""
    view = scoring.sliceable(fit, data)
    for rows, found in noising_bound.bounds(fit.pair, posterior, view, noising_bound.NUM_POINTS, 0):
        yield rows, scoring.in_original_units(fit, data, view, rows, found.by_draw)


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


def score(
    fit: Fit, data: Data, *, hdi_prob: float, keep: bool, num_points: int | None, seed: int, p_values: bool = False
) -> Score:
    """The bound of each row as its score. It has p-values only where rows held out have bounds, too.

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
        p_value=anomaly_p_values(fit, data, best.log_predictive) if p_values and tells_bound(fit) else None,
    )  # fmt: skip
