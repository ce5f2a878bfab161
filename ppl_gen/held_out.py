"""Densities of training rows that a fit did not see: leave-one-out, folds, or the rows that each refit left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import parallel
from ppl_gen.data import Data
from ppl_gen.scoring import log_prob_rows

if TYPE_CHECKING:
    from ppl_gen.engine import Engine
    from ppl_gen.result import Fit

MIN_SEQUENCES = 10  # below which none is left out: the future of each is predicted instead
MAX_LOO_ROWS = 10_000  # rows whose leave-one-out density is found; a random subset of them in a longer table


def held_out(fit: Fit) -> np.ndarray:
    """See :attr:`ppl_gen.result.Fit.held_out`."""
    from ppl_gen.refits import score_of_fold

    if fit.pair.generate is not None:  # an implicit density: a surrogate of each row takes long, and a refit longer
        return np.full(len(fit.train), np.nan)
    jacobian = fit.train.log_jacobian()
    if fit.draws.held_out is not None:
        return np.asarray(fit.draws.held_out, np.float64) + jacobian
    if fit.uncertainty in ("posterior", "guide"):
        return leave_one_out(fit)[0]
    if fit.train.lengths is not None and len(fit.train) < MIN_SEQUENCES:  # a fold may leave next to nothing to fit to
        return np.full(len(fit.train), np.nan)
    folds = [fold for fold in _folds(fit) if len(fold[0]) >= fit.family.min_rows or fit.train.lengths is not None]
    job = (fit.family, _without_bootstrap(fit.engine), fit.backend, fit.seed)
    found = parallel.run(score_of_fold, [(*job, train, test, None) for train, test, _ in folds])
    result = np.full(len(fit.train), np.nan)  # where too few rows are left to fit the family to
    for (_, _, rows), values in zip(folds, found, strict=True):
        result[rows] = values
    return result


def leave_one_out(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """PSIS leave-one-out log density and Pareto k-hat of each training row (Vehtari, Gelman & Gabry 2017);
    NaN for the rows beyond a random ``MAX_LOO_ROWS`` of a longer table."""
    cached = fit.__dict__.get("_leave_one_out")
    if cached is None:
        from ppl_gen.arviz_bridge import loo_pointwise

        number = len(fit.train)
        rows = np.arange(number)
        if number > MAX_LOO_ROWS:
            rows = np.sort(np.random.default_rng(fit.seed).choice(number, MAX_LOO_ROWS, replace=False))
        elpd, khat = np.full(number, np.nan), np.full(number, np.nan)
        for part, values in log_prob_rows(fit, fit.train.take(rows), fit.posterior):
            weights = None if fit.train.weights is None else fit.train.weights[rows[part]]
            elpd[rows[part]], khat[rows[part]] = loo_pointwise(values, fit.draws.num_chains, weights)
        cached = fit.__dict__["_leave_one_out"] = (elpd, khat)
    return cached


def _folds(fit: Fit) -> Iterator[tuple[Data, Data, np.ndarray]]:
    number = min(5, len(fit.train))
    order = np.random.default_rng(fit.seed).permutation(len(fit.train))
    for rows in np.array_split(order, number):
        rest = np.setdiff1d(np.arange(len(fit.train)), rows)
        yield fit.train.take(rest), fit.train.take(np.sort(rows)), np.sort(rows)


def _without_bootstrap(engine: Engine) -> Engine:
    """Intervals are not asked of a refit."""
    names = {field.name for field in dataclasses.fields(engine)}
    return engine.replace(num_bootstraps=0) if "num_bootstraps" in names else engine
