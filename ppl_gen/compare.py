"""Which model predicts better: held-out log density on the same rows, with the error of each difference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.errors import DataError, SettingError
from ppl_gen.family import Family
from ppl_gen.implicit import check_surrogate, resolve
from ppl_gen.normalizer import is_normalized
from ppl_gen.progress import Monitor
from ppl_gen.ranking import Comparison, as_table, cautions, how_held_out, rank, weak_loo
from ppl_gen.refits import held_out_rows
from ppl_gen.result import Fit
from ppl_gen.scoring import check_seed

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Engine

__all__ = ["Comparison", "compare"]


def compare(
    models: Mapping[str, Family | Fit] | Sequence[Family | Fit] | None = None,
    table: Any = None,
    *,
    folds: int | None = None,
    test: Any = None,
    engine: Engine | str | Mapping[str, Engine | str | None] | None = None,
    backend: str | Mapping[str, str | None] | None = None,
    seed: int = 0,
    progress: bool = False,
    surrogate: Any = None,
    budget: str | float | None = None,
    n_jobs: int | None = None,
    memory: str | int | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    **data_options: Any,
) -> Comparison:
    """Rank families or fits by the log density of rows that they have not seen.

    Without models, those that suit the columns and the size of the table are tried, side by side in processes and
    within a time ``budget``, and the result is a :class:`~ppl_gen.verdicts.TableComparison`; so are families that are
    named together with a budget, ``n_jobs``, ``memory`` or a ``folder``. Up to 500 rows are held out in 5 folds, of
    more a fifth is held out at random; see :mod:`ppl_gen.held_out_splits`.

    With ``test``, families are fitted to ``table`` and everything is scored on the test rows. Without it, families are
    refitted to ``folds`` parts of the table, each row scored by the fit that left it out; a fit is judged by
    :attr:`Fit.held_out <ppl_gen.result.Fit.held_out>` on its training rows, which must be the table's. Of fewer
    sequences than folds, the second half of each is predicted step by step: it is cut in ``folds`` windows, and the
    steps of each are scored, given the steps before them, by a fit to all that came before the window.

    The standard error of a difference is that of the paired differences, sqrt(n Var_i(a_i - b_i)) (Vehtari, Gelman &
    Gabry 2017, Stat. Comput. 27, eq. 24). Stacking weights maximize the held-out density of the mixture of the
    models' predictive distributions (Yao, Vehtari, Simpson & Gelman 2018, Bayesian Anal. 13, eq. 2.3).

    :param models: a mapping from name to family or fit, or a sequence (named by what differs from the defaults); None:
        those that suit the table.
    :param folds: 5 by default, in which each row is held out once.
    :param table: the training table; may be left out where all are fits.
    :param test: held-out rows that no fit has seen.
    :param engine: for the refits, as in :func:`ppl_gen.fit`; None lets each family choose. It and ``backend`` may be
        mappings from a model's name.
    :param surrogate: ``"ais"``, or settings such as ``AIS(num_temperatures=1000)``: what stands for the density of
        families that have none, such as gan. Without it these are not compared with families that have one.
    :param budget: wall-clock time of the whole, ``"5m"``, ``"90s"``, ``"1h"`` or seconds; 5 minutes by default.
    :param n_jobs: processes; None: as many as there are cores.
    :param memory: that the processes may take together, ``"8G"`` or bytes; None: 70 % of what is available. There are
        no more processes than fit in it.
    :param folder: where the ranking, the fits and what each candidate gave are kept. The same call with the same folder
        goes on where it was interrupted; ``overwrite`` starts afresh.
    :param data_options: ``columns``, ``kinds``, ``weights`` and so on, as in :func:`ppl_gen.fit`.
    :raises DataError: the models were not fitted to the same rows, or were fitted to the test rows.
    :raises SettingError: no models, a model that is neither family nor fit, or too many folds; a budget, a seed or a
        surrogate that is none.
    :raises StorageError: the folder holds something else, or can't be written.
    """
    started = time.time()
    check_seed(seed)
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int | np.integer)):
        raise SettingError(f"folds must be a whole number, not {folds!r}.")
    if surrogate is not None:
        resolve(surrogate)
    if table is None and models is not None and not isinstance(models, Mapping | list | tuple):
        models, table = None, models  # a table alone
    limits = {"budget": budget, "n_jobs": n_jobs, "memory": memory}
    if models is None or folder is not None or any(limit is not None for limit in limits.values()):
        job = {"folds": folds, "test": test, "seed": seed, "surrogate": surrogate, "progress": progress,
               "folder": folder, "overwrite": overwrite, "data_options": data_options, "started": started}  # fmt: skip
        return _of_table(models, table, engine, backend, limits, job)
    folds = 5 if folds is None else folds
    named = _named(models)
    fits = [model for model in named.values() if isinstance(model, Fit)]
    families = {name: model.family if isinstance(model, Fit) else model for name, model in named.items()}
    check_surrogate(list(families.values()), [] if test is not None else [fit.family for fit in fits], surrogate)
    job = {"engine": engine, "backend": backend, "seed": seed, "surrogate": surrogate}
    prepared = {name: _prepare(model, table, data_options) for name, model in named.items()}
    _require_same_rows(prepared)
    data = next(iter(prepared.values()))
    forward = test is None and data.lengths is not None and len(data) < folds
    if forward and any(isinstance(model, Fit) for model in named.values()):
        raise SettingError(
            f"A fit has seen every end of the {len(data)} sequence{'s' * (len(data) > 1)}: give families, which are "
            "refitted to the beginnings, or held-out sequences as test."
        )
    if test is None and not forward and not 2 <= folds <= len(data):
        number = f"the number of {data.unit}s ({len(data)})"
        raise SettingError(f"The number of folds must be from 2 to {number}, not {folds!r}.")
    refits = sum(isinstance(model, Family) for model in named.values()) * (folds if test is None else 1)
    with Monitor(show=progress, label="compare") as monitor:
        tick = monitor.counter(refits)
        found = {
            name: held_out_rows(model, prepared[name], test, folds, _job_of(name, job), tick)
            for name, model in named.items()
        }
    unit = "time step" if forward else data.unit
    pointwise, dropped = as_table({name: values for name, (values, _) in found.items()}, unit)
    weights = None if test is not None or forward or data.weights is None else np.asarray(data.weights)[pointwise.index]
    densities = {name: family.density_for(prepared[name].schema) for name, family in families.items()}
    densities = {name: f"{kind}: ais" if kind == "implicit" else kind for name, kind in densities.items()}
    frame = rank(pointwise, weights, densities, {name: engine for name, (_, engine) in found.items()})
    how = how_held_out(named, folds, test, f"{len(pointwise):,}", data.unit)
    if forward:
        how = f"{len(pointwise):,} time steps, predicted one ahead by fits to what came before, {folds} windows"
    warnings = cautions(frame, prepared, len(pointwise), dropped, unit)
    if test is None:
        warnings += tuple(filter(None, (weak_loo(name, model) for name, model in named.items())))
    return Comparison(frame, pointwise, how, warnings, unit)


def _of_table(
    models: Any, table: Any, engine: Any, backend: Any, limits: Mapping[str, Any], job: dict[str, Any]
) -> Comparison:
    """A comparison within limits, of the named families or of those that suit the table."""
    from ppl_gen import contest
    from ppl_gen.candidates import named

    if table is None:
        raise SettingError("compare needs a table to fit the families to.")
    chosen = None
    if models is not None:
        everything = _named(models)
        families = {name: model for name, model in everything.items() if isinstance(model, Family)}
        if len(families) < len(everything):
            raise SettingError("budget, n_jobs, memory and folder are for families, which are fitted here: of fits "
                               "leave them out.")  # fmt: skip
        check_surrogate(list(families.values()), [], job["surrogate"])
        each = {name: _job_of(name, {"engine": engine, "backend": backend}) for name in families}
        chosen = named(families, {n: e["engine"] for n, e in each.items()}, {n: e["backend"] for n, e in each.items()})
    elif engine is not None or backend is not None:
        raise SettingError("engine and backend are of models that are named: name some, or leave both out.")
    shown = str(table) if isinstance(table, str | Path) else f"a {type(table).__name__}"
    return contest.run(table, chosen, limits=contest.Limits.of(**limits), shown=shown, **job)


def _named(models: Mapping[str, Family | Fit] | Sequence[Family | Fit]) -> dict[str, Family | Fit]:
    listed = list(models.values() if isinstance(models, Mapping) else models)
    if not listed:
        raise SettingError("compare needs at least one family or fit.")
    for model in listed:
        if not isinstance(model, Family | Fit):
            raise SettingError(f"A model must be a family such as GMM(2) or a fit, not {type(model).__name__}.")
        if isinstance(model, Fit) and model.family.density == "unnormalised" and not is_normalized(model.posterior):
            raise SettingError(f"log Z of this fit of {model.family.name} is not known, so its densities can't be "
                               "compared with others: compare model.normalize('smc').")  # fmt: skip
    if isinstance(models, Mapping):
        return {str(name): model for name, model in models.items()}
    names = labels([model.family if isinstance(model, Fit) else model for model in listed])
    return dict(zip(names, listed, strict=True))


def _job_of(name: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one model's refits: an entry that is a mapping is by name of model."""
    return {key: value.get(name) if isinstance(value, Mapping) else value for key, value in job.items()}


def labels(families: Sequence[Family]) -> list[str]:
    """Each family in one line: its name, the options that are not at their defaults in any of them, and a number
    where that does not tell them apart."""
    changed = set()
    for family in families:
        default = type(family)().to_config()
        changed |= {(family.name, k) for k, v in family.to_config().items() if v != default[k]}
    names = []
    for family in families:
        shown = [f"{k}={v}" for k, v in family.to_config().items() if (family.name, k) in changed and _is_short(v)]
        names.append(" ".join([family.name, *shown]))
    return [name if names.count(name) == 1 else f"{name} #{place + 1}" for place, name in enumerate(names)]


def _is_short(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _prepare(model: Family | Fit, table: Any, data_options: Mapping[str, Any]) -> Data:
    if isinstance(model, Family):
        if table is None:
            raise SettingError("compare needs a table to fit the families to.")
        return model.prepare(table, **data_options)
    if table is None:
        return model.train
    from ppl_gen.scoring import encode

    if not _same_rows(encode(model, table), model.train):
        raise DataError(
            "A fit was not made from this table: compare fits of the same table, or give held-out "
            f"{model.train.unit}s as test."
        )
    return model.train


def _require_same_rows(prepared: Mapping[str, Data]) -> None:
    (first, data), *others = prepared.items()
    for name, other in others:
        if not _same_rows(data, other):
            raise DataError(
                f"Models {first!r} and {name!r} were not given the same {data.unit}s ({data.describe()}; "
                f"{other.describe()})."
            )


def _same_rows(first: Data, second: Data) -> bool:
    """The same observations, whatever kinds and scales the columns are read with."""
    if first.fingerprint == second.fingerprint:
        return True
    if first.schema.names != second.schema.names or len(first) != len(second):
        return False
    pairs = zip(first.to_frame().items(), second.to_frame().items(), strict=True)
    return all(_same_values(a.to_numpy(), b.to_numpy()) for (_, a), (_, b) in pairs)


def _same_values(first: np.ndarray, second: np.ndarray) -> bool:
    import pandas as pd

    if first.dtype.kind in "fiub" and second.dtype.kind in "fiub":
        return np.allclose(first.astype(float), second.astype(float), rtol=1e-6, equal_nan=True)
    return pd.Series(first).equals(pd.Series(second))
