"""Rows that are held out, the same ones of every candidate: a part of the rows, folds, or the future of sequences."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.candidates import Candidate
from ppl_gen.errors import SettingError
from ppl_gen.two_tables import refuse_training_rows

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.family import Family
    from ppl_gen.result import Fit
    from ppl_gen.scores import Score
    from ppl_gen.trials import Clock, Job

FOLDED = 500  # rows up to which each is held out in one of several folds
FOLDS = 5
WINDOWS = 3  # of the second half of few sequences
FEW_SEQUENCES = 10  # below which their future is predicted
HELD_OUT = 0.2  # of more rows
MAX_HELD_OUT, MAX_TRAINING = 10_000, 100_000  # rows
NUM_DRAWN = 1_000  # rows whose densities say what the 90 % region is; a third of it of families that draw by steps
REGION = 0.9
MIN_SCORED = 20  # complete rows below which nothing is said of the region
FEW_LENGTHS = 3  # of sequences


@dataclasses.dataclass
class Held:
    """What one candidate says of the held-out rows, and of each of the models that folds chose."""

    families: list[Family]
    engine: Any
    backend: str
    fit: Fit | None  # that the kept one may be: to all training rows
    density: str = "exact"
    seconds: float = 0.0
    stopped: bool = False
    pointwise: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    error: np.ndarray | None = None
    k_hat: np.ndarray | None = None
    inside: list[np.ndarray] = dataclasses.field(default_factory=list)
    drawn: int = 0

    def add(self, part: np.ndarray, scored: Score) -> None:
        """The scores of some held-out rows."""
        self.pointwise[part] = scored.log_predictive
        self.density = scored.kind if scored.surrogate is None else f"{scored.kind}: {scored.surrogate}"
        for name, values in (("error", scored.error), ("k_hat", scored.k_hat)):
            if values is not None:
                if getattr(self, name) is None:
                    setattr(self, name, np.full(len(self.pointwise), np.nan))
                getattr(self, name)[part] = values

    def to_dict(self) -> dict[str, Any]:
        from ppl_gen.trials import most_common

        family = self.families[0] if len(self.families) == 1 else most_common(self.families)
        share, error = coverage(self.inside, self.drawn)
        return {
            "family": family.name, "options": family.to_config(), "engine": self.engine.name, "backend": self.backend,
            "engine_options": self.engine.to_config(), "density": self.density, "seconds": self.seconds,
            "stopped": self.stopped, "pointwise": self.pointwise, "error": self.error, "k_hat": self.k_hat,
            "calibration": share, "calibration_se": error, "sizes": [family.to_config() for family in self.families],
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Split:
    """``parts``: (training rows, held-out rows) of each fit; ``rows``: all held-out rows, in the order of their scores;
    ``test``: held-out data that are no part of the table; ``windows``: that the second half of sequences is cut in."""

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    rows: np.ndarray
    how: str
    unit: str
    test: Data | None = None
    windows: int = 0

    @classmethod
    def of(cls, data: Data, folds: int | None, test: Any, seed: int) -> Split:
        """How the rows of these data are held out.

        :raises SettingError: too many folds, or too few rows.
        :raises DataError: test rows are, beyond chance, among those of the table.
        """
        number, unit = len(data), data.unit
        if test is not None:
            held = data.schema.encode(test)
            refuse_training_rows(held, data, "test table")
            every = np.arange(number)
            rows = np.arange(len(held))
            return cls(((every, rows),), rows, f"{len(held):,} test {unit}s", unit, held)
        if data.lengths is not None and number < (FEW_SEQUENCES if folds is None else folds):
            windows = folds or WINDOWS
            steps = int((data.lengths - np.maximum(data.lengths // 2, 1)).sum())
            how = f"{steps:,} time steps, predicted one ahead by fits to what came before, {windows} windows"
            return cls((), np.arange(steps), how, "time step", windows=windows)
        if folds is None and number > FOLDED:
            return cls._one(data, seed)
        count = min(folds or FOLDS, number) if folds is None else folds
        if not 2 <= count <= number:
            limits = f"from 2 to the number of {unit}s ({number})"
            raise SettingError(f"The number of folds must be {limits}, not {folds!r}.")
        return cls(_folds(number, count, seed), np.arange(number), f"{number:,} {unit}s, {count} folds refitted", unit)

    @classmethod
    def _one(cls, data: Data, seed: int) -> Split:
        order = np.random.default_rng(seed).permutation(len(data))
        size = min(int(HELD_OUT * len(data)), MAX_HELD_OUT)
        held, rest = np.sort(order[:size]), np.sort(order[size : size + MAX_TRAINING])
        how = f"{size:,} {data.unit}s held out at random, {len(rest):,} to fit to"
        return cls(((rest, held),), held, how, data.unit)

    def kept_rows(self, data: Data) -> Data:
        """The rows that the kept fit is of: the training rows, or after folds all of them."""
        return data.take(self.parts[0][0]) if len(self.parts) == 1 else data

    def weights(self, data: Data) -> np.ndarray | None:
        """Of the held-out rows."""
        if self.windows:
            return None
        held = data if self.test is None else self.test
        return None if held.weights is None else np.asarray(held.weights)[self.rows]

    def run(self, job: Job, clock: Clock) -> Held:
        """Fit the candidate to each part, and score what it was not fitted to."""
        import time

        start = time.perf_counter()
        prepared = job.candidate.family.prepare(job.data)
        first = Candidate.make_engine(job.candidate, job.candidate.family, prepared)
        held = Held([], first, job.candidate.backend or "numpyro", None, pointwise=np.full(len(self.rows), np.nan))
        if self.windows:
            self._forward(job, clock, held)
        else:
            for place, (training, rows) in enumerate(self.parts):
                self._one_part(job, clock, held, prepared, training, rows, len(self.parts) - place)
        held.seconds = time.perf_counter() - start
        return held

    def _one_part(
        self, job: Job, clock: Clock, held: Held, data: Data, training: np.ndarray, rows: np.ndarray, left: int
    ) -> None:
        """The first of the parts that are left, after which folds have the fit that is kept."""
        from ppl_gen.trials import train

        with clock.fitting():
            fit, family = train(job, data.take(training), clock.training(left + (len(self.parts) > 1)))
        held.families.append(family)
        held.stopped |= fit.draws.interrupted
        source = data if self.test is None else self.test
        # All rows of few are scored, so that one program serves every fold, whatever its length.
        whole = len(self.parts) > 1
        scored = _score(fit, source if whole else source.take(rows), job.surrogate)
        kept = _some(scored, rows) if whole else scored
        held.add(rows if len(self.parts) > 1 else np.arange(len(rows)), kept)
        inside, drawn = region(fit, source.take(rows), kept.log_predictive, job)
        if inside is not None:
            held.inside.append(inside)
            held.drawn += drawn
        held.fit = fit if not whole else None

    def _forward(self, job: Job, clock: Clock, held: Held) -> None:
        from ppl_gen.one_step_ahead import forward_scores
        from ppl_gen.trials import train

        left = self.windows

        def refit(data: Data) -> Fit:
            nonlocal left, job
            with clock.fitting():
                fit, family = train(job, data, clock.training(left + 1))
            left -= 1
            # The size that the first beginnings chose is kept: it knows nothing of what comes after them.
            job = dataclasses.replace(job, candidate=dataclasses.replace(job.candidate, ladder=(family,)))
            held.families.append(family)
            held.stopped |= fit.draws.interrupted
            return fit

        held.pointwise = forward_scores(job.candidate.family.prepare(job.data), self.windows, refit)
        held.density = job.candidate.family.density_for(job.data.schema)


def _folds(number: int, count: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Parts of the rows at random. All fits are to the same number of rows, so that they share compiled programs: where
    parts differ by a row, one row at random is left out of the fits to more."""
    rng = np.random.default_rng(seed)
    parts = np.array_split(rng.permutation(number), count)
    size = number - len(parts[0])
    found = []
    for rows in parts:
        rest = np.setdiff1d(np.arange(number), rows)
        found.append((np.sort(rng.choice(rest, size, replace=False)), np.sort(rows)))
    return tuple(found)


def _score(fit: Fit, data: Data, surrogate: Any) -> Score:
    chosen = surrogate if fit.family.density == "implicit" else None
    return fit.score(data, p_values=False, keep_draws=False, surrogate=chosen)


def _some(scored: Score, rows: np.ndarray) -> Score:
    """The scores of some rows."""
    names = ("log_predictive", "sd", "hdi", "error", "elbo", "elbo_error", "k_hat")
    whole = {name: getattr(scored, name) for name in names}
    values: dict[str, Any] = {name: None if value is None else value[rows] for name, value in whole.items()}
    return dataclasses.replace(scored, **values)


def region(fit: Fit, data: Data, log_prob: np.ndarray, job: Job) -> tuple[np.ndarray | None, int]:
    """Of complete rows, whether each is within the fit's own 90 % region of highest density (Hyndman 1996, Am. Stat.
    50; as a test of coverage Harrison, Sutton, Carvalho & Hobson 2015, Mon. Not. R. Astron. Soc. 451): whether its
    density is above that of a tenth of rows drawn from the fit. None where it can't be said."""
    if fit.family.density == "implicit" or fit.schema.conditions:
        return None, 0
    complete = np.ones(len(data), bool) if data.mask is None or data.lengths is not None else data.mask.all(1)
    if complete.sum() < min(MIN_SCORED, len(data)) or (data.mask is not None and data.lengths is not None):
        return None, 0
    slow = fit.pair.noising is not None or fit.pair.tempered is not None or fit.pair.walk is not None
    number = NUM_DRAWN // 3 if slow else NUM_DRAWN
    if data.lengths is None:
        drawn = fit.sample(number, seed=job.seed)
        limit = np.quantile(_score(fit, drawn, None).log_predictive, 1 - REGION)
        return log_prob[complete] >= limit, number
    lengths = np.unique(data.lengths)
    if len(lengths) > FEW_LENGTHS:
        return None, 0
    inside = np.zeros(len(data), bool)
    for length in lengths:
        drawn = fit.sample(number // 4, length=int(length), seed=job.seed)
        limit = np.quantile(_score(fit, drawn, None).log_predictive, 1 - REGION)
        inside |= (data.lengths == length) & (log_prob >= limit)
    return inside, number // 4


def coverage(inside: list[np.ndarray], drawn: int) -> tuple[float | None, float | None]:
    """The share of rows within the region, and its standard error: that of a share of so many rows, and of the region's
    limit, a quantile of so many drawn ones."""
    if not inside:
        return None, None
    values = np.concatenate(inside)
    share = float(values.mean())
    p = float(np.clip(share, 1 / (len(values) + 1), len(values) / (len(values) + 1)))
    return share, float(np.sqrt(p * (1 - p) / len(values) + REGION * (1 - REGION) / drawn))
