"""One family over a grid of its options, and one family from several starts; side by side where joblib is told so."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import parallel
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.family import Family
from ppl_gen.progress import Monitor
from ppl_gen.ranking import Comparison, as_table, cautions, rank
from ppl_gen.scoring import check_seed
from ppl_gen.settings import parse_value

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.engine import Engine
    from ppl_gen.result import Fit

ENGINE = "engine."  # before the name of an option of the engine's


def sweep(
    family: Family | str,
    table: Any,
    grid: Mapping[str, Iterable[Any]],
    *,
    folds: int = 5,
    test: Any = None,
    engine: Engine | str | None = None,
    backend: str | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: bool = False,
    **data_options: Any,
) -> Comparison:
    """Rank every combination of some options of a family, or of its engine, by held-out log density.

    Each point is compared as :func:`ppl_gen.compare` does it, on the same folds; the standard error of a difference is
    that of the paired differences.

    :param family: a family, or its name; its other options stay as they are.
    :param grid: the values of each option, such as ``{"num_components": [1, 2, 3], "prior.loc_scale": [1, 2],
        "engine.num_starts": [1, 10]}``.
    :param folds: as of :func:`ppl_gen.compare`, like ``test``, ``engine``, ``backend`` and ``data_options``.
    :param n_jobs: how many processes; None is what ``joblib.parallel_config`` says, else one.
    :raises SettingError: an option that the family or the engine does not have, or a grid without points.
    """
    check_seed(seed)
    chosen = _family(family)
    named = points(chosen, grid)
    first = chosen.with_options(_of_family(next(iter(named.values()))))
    start = _engine(first, table, engine, data_options) if _has_engine(grid) else engine
    families = {name: chosen.with_options(_of_family(point)) for name, point in named.items()}
    engines = {name: _changed(start, point) for name, point in named.items()}
    prepared = {name: each.prepare(table, **data_options) for name, each in families.items()}
    options = {"folds": folds, "test": test, "backend": backend, "seed": seed}
    jobs = [(name, families[name], prepared[name], engines[name], options) for name in named]
    with Monitor(show=progress, label="sweep") as monitor:
        found = parallel.run(_compared, jobs, n_jobs=n_jobs, done=monitor.counter(len(jobs)))
    return _together(found, prepared, test is not None)


def points(family: Family, grid: Mapping[str, Iterable[Any]]) -> dict[str, dict[str, Any]]:
    """{"num_components=2 covariance=full": {"num_components": 2, "covariance": "full"}, ...}: every combination."""
    values = {str(name): _values(name, each) for name, each in grid.items()}
    if not values:
        raise SettingError(f"A sweep needs an option of {family.name} and its values, such as num_components=1,2,3.")
    combinations = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    return {" ".join(f"{name}={_short(value)}" for name, value in point.items()): point for point in combinations}


def split_values(text: str) -> list[Any]:
    """``"1,2,3"`` as [1, 2, 3], ``"full,tied"`` as two words; what stands in brackets stays together."""
    whole = parse_value(f"[{text}]")
    return whole if isinstance(whole, list) else [parse_value(part.strip()) for part in text.split(",")]


def _values(name: str, values: Any) -> list[Any]:
    listed = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if not listed or "" in listed:
        raise SettingError(f"Option {name!r} of the sweep has no value: give one or more.")
    for value in listed:
        if listed.count(value) > 1:
            raise SettingError(f"Option {name!r} of the sweep has the value {value!r} twice.")
    return listed


def _short(value: Any) -> str:
    return str(value).replace(" ", "")


def _family(family: Family | str) -> Family:
    from ppl_gen import registry

    return family if isinstance(family, Family) else registry.family(str(family))()


def _has_engine(grid: Iterable[str]) -> bool:
    return any(str(name).startswith(ENGINE) for name in grid)


def _of_family(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if not name.startswith(ENGINE)}


def _engine(family: Family, table: Any, engine: Engine | str | None, data_options: Mapping[str, Any]) -> Engine:
    """The engine whose options are changed: the one that is named, or that the family chooses for this table."""
    from ppl_gen.fit import choose

    return choose(family, family.prepare(table, **data_options), engine, None)[0]


def _changed(engine: Any, point: Mapping[str, Any]) -> Any:
    options = {name.removeprefix(ENGINE): value for name, value in point.items() if name.startswith(ENGINE)}
    return engine.with_options(options) if options else engine


def _compared(name: str, family: Family, data: Data, engine: Any, options: Mapping[str, Any]) -> Comparison:
    """One point of a sweep, by itself."""
    from ppl_gen.compare import compare

    return compare({name: family}, data, engine=engine, **options)


def _together(found: list[Comparison], prepared: Mapping[str, Data], by_test: bool) -> Comparison:
    """The comparisons of the points as one."""
    names, unit = list(prepared), found[0].unit
    columns = {name: one.pointwise[name] for name, one in zip(names, found, strict=True)}
    number = 1 + max(int(values.index.max()) for values in columns.values())
    filled = {name: values.reindex(range(number)).to_numpy() for name, values in columns.items()}
    pointwise, dropped = as_table(filled, unit)
    data = prepared[names[0]]
    own = by_test or unit == "time step" or data.weights is None
    weights = None if own else np.asarray(data.weights)[pointwise.index]
    figures = {key: {name: one.frame.loc[name, key] for name, one in zip(names, found, strict=True)}
               for key in ("density", "engine")}  # fmt: skip
    frame = rank(pointwise, weights, figures["density"], figures["engine"])
    warnings = cautions(frame, prepared, len(pointwise), dropped, unit)
    return Comparison(frame, pointwise, found[0].how, warnings, unit)


@dataclasses.dataclass(frozen=True, eq=False)
class Restarts:
    """Fits of one family to one table that differ in their seeds alone.

    ``fits``       in the order of the seeds
    ``frame``      a row per seed, the best first: ``log_density`` of the training rows (the sum, nats, original units),
                   ``difference`` to the best, ``seconds``
    ``log_prob``   (restart, obs) log density of each training row (nats, original units), in the order of the seeds
    """

    fits: tuple[Fit, ...]
    frame: pd.DataFrame
    log_prob: np.ndarray

    @property
    def best(self) -> Fit:
        """The fit under which the training rows have the highest density."""
        seed = self.frame.index[0]
        return next(fit for fit in self.fits if fit.seed == seed)

    @property
    def disagreement(self) -> np.ndarray:
        """(obs,) the standard deviation of log p(x) of each training row over the restarts, in nats: 0 where every
        start ends in the same place."""
        return self.log_prob.std(0, ddof=1)

    def __str__(self) -> str:
        spread = self.disagreement
        head = f"{len(self.fits)} restarts of {self.fits[0].family} by {self.fits[0].engine.name}"
        table = self.frame.to_string(float_format=lambda value: f"{value:,.2f}")
        last = f"log p(x) of a row differs by {np.median(spread):.2g} nats (median sd), {spread.max():.2g} at most."
        return "\n".join([head, table, last])


def restarts(
    family: Family | str,
    table: Any,
    *,
    seeds: Iterable[int] = range(4),
    engine: Engine | str | None = None,
    backend: str | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
    **data_options: Any,
) -> Restarts:
    """Fit a family several times, each with a seed of its own: does the answer depend on where the engine starts?

    The best is the one of the highest log density of the training rows. That is fair between optima of one model; it
    does not choose between models, for which see :func:`sweep`.

    :param seeds: two or more.
    :param n_jobs: how many processes; None is what ``joblib.parallel_config`` says, else one.
    :raises UnsupportedError: the family has no density by which fits could be compared.
    :raises SettingError: fewer than two seeds, or one of them twice.
    """
    import pandas as pd

    chosen, listed = _family(family), list(seeds)
    for seed in listed:
        check_seed(seed)
    if len(listed) < 2 or len(set(listed)) < len(listed):
        raise SettingError(f"Restarts need two or more different seeds, not {listed}.")
    if chosen.density == "implicit":
        raise UnsupportedError(f"{chosen.name} has no density by which restarts could be compared: see fit.diagnose().")
    data = chosen.prepare(table, **data_options)
    with Monitor(show=progress, label="restarts") as monitor:
        jobs = [(chosen, data, engine, backend, seed) for seed in listed]
        found = parallel.run(_started, jobs, n_jobs=n_jobs, done=monitor.counter(len(jobs)))
    log_prob = np.stack([values for _, values in found])
    if not np.isfinite(log_prob).all():
        raise DataError("Some rows have no finite density under one of the restarts: look at fit.diagnose() of one.")
    weights = np.ones(len(data)) if data.weights is None else data.weights
    total = log_prob @ weights
    frame = pd.DataFrame(
        {"log_density": total, "difference": total - total.max(), "seconds": [fit.seconds for fit, _ in found]},
        index=pd.Index(listed, name="seed"),
    )  # fmt: skip
    best_first = frame.sort_values("log_density", ascending=False, kind="stable")
    return Restarts(tuple(fit for fit, _ in found), best_first, log_prob)


def _started(family: Family, data: Data, engine: Any, backend: str | None, seed: int) -> tuple[Fit, np.ndarray]:
    from ppl_gen.fit import fit

    result = fit(family, data, engine=engine, backend=backend, seed=seed)
    return result, result.score(p_values=False, keep_draws=False).log_predictive
