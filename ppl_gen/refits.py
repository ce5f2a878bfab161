"""The held-out densities of one model of a comparison. Folds are jobs of joblib: see :mod:`ppl_gen.parallel`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import parallel
from ppl_gen.result import Fit
from ppl_gen.two_tables import refuse_training_rows

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Engine
    from ppl_gen.family import Family


def held_out_rows(
    model: Family | Fit, data: Data, test: Any, folds: int, job: Mapping[str, Any], tick: Callable[[], None]
) -> tuple[np.ndarray, str]:
    """(obs,) log density of rows that the model has not seen, and the engine's name."""
    from ppl_gen.fit import choose, fit

    if isinstance(model, Fit):
        if test is None:
            return model.held_out, model.engine.name
        return score_of(model, test, job["surrogate"]), model.engine.name
    engine, backend, _ = choose(model, data, job["engine"], job["backend"])
    if "num_bootstraps" in engine.to_config():
        engine = engine.replace(num_bootstraps=0)  # intervals are not asked for here

    def refit(train: Data) -> Fit:
        result = fit(model, train, engine=engine, backend=backend, seed=job["seed"])
        tick()
        return result

    if test is not None:
        return score_of(refit(data), test, job["surrogate"]), engine.name
    if data.lengths is not None and len(data) < folds:
        from ppl_gen.one_step_ahead import forward_scores

        return forward_scores(data, folds, refit), engine.name
    parts = np.array_split(np.random.default_rng(job["seed"]).permutation(len(data)), folds)

    def jobs() -> Iterator[tuple[Any, ...]]:
        for rows in parts:
            rest = np.setdiff1d(np.arange(len(data)), rows)
            yield model, engine, backend, job["seed"], data.take(rest), data.take(np.sort(rows)), job["surrogate"]

    result = np.empty(len(data))
    for rows, values in zip(parts, parallel.run(score_of_fold, jobs(), done=tick), strict=True):
        result[np.sort(rows)] = values
    return result, engine.name


def score_of_fold(
    family: Family, engine: Engine, backend: str, seed: int, train: Data, held_out: Data, surrogate: Any
) -> np.ndarray:
    """(obs,) log predictive density of the held-out rows under a fit to the others."""
    from ppl_gen.fit import fit

    return log_predictive(fit(family, train, engine=engine, backend=backend, seed=seed), held_out, surrogate)


def score_of(fit: Fit, test: Any, surrogate: Any) -> np.ndarray:
    """(obs,) log predictive density of test rows.

    :raises DataError: they are, beyond chance, among the training rows.
    """
    from ppl_gen.scoring import encode

    rows = encode(fit, test)
    refuse_training_rows(rows, fit.train, "test table")
    return log_predictive(fit, rows, surrogate)


def log_predictive(fit: Fit, rows: Data, surrogate: Any) -> np.ndarray:
    """(obs,) log predictive density, of an implicit family by its surrogate."""
    chosen = surrogate if fit.family.density == "implicit" else None
    return fit.score(rows, p_values=False, keep_draws=False, surrogate=chosen).log_predictive
