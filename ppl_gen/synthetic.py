r"""Whether synthetic rows may stand for real ones: what they are good for, how like they are, and what they give away.

Utility: gradient-boosted trees are trained on the synthetic rows, and on the training rows, to tell a ``target`` column
of held-out rows (train on synthetic, test on real; Esteban, Hyland & Rätsch 2017, arXiv:1706.02633). The figure is what
is lost, with a standard error over the held-out rows.

Fidelity: the two tests of :mod:`ppl_gen.two_samples` of synthetic rows against held-out ones.

Privacy: copies of training rows, how close samples lie to them, and two attacks (:mod:`ppl_gen.membership`). A test
passes only where the upper end of its one-sided 95 % interval is below the limit: with few rows nothing is shown.
Without held-out rows nothing can be tested at all. A report that passes says that these attacks found no leak. That is
less than privacy: none of this is a guarantee, such as differential privacy gives.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import implicit, membership, two_samples
from ppl_gen.diagnostics import Check, Diagnosis
from ppl_gen.errors import DataError, UnsupportedError, did_you_mean
from ppl_gen.scoring import check_seed, encode
from ppl_gen.two_tables import check_count, points, refuse_training_rows

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MAX_ADVANTAGE = 0.1  # of an attack, at the upper end of its interval
MAX_NEARER = (1 + MAX_ADVANTAGE) / 2  # the share of samples that lie nearer to training rows than to others
MAX_LOST = 0.05  # of AUROC, accuracy or R squared
MIN_P = 0.01
BOUND = ", 95 % bound"
LEAK = "the model has learned training rows by heart: fit a simpler one, or train it for less long"
ONE_SIDED, CLEAR = 1.645, 2.326  # standard errors of a 95 % bound, and of a leak that chance makes once in a hundred
MAX_ROWS = 2_000  # of members and of others that an attack is tried on
MIN_ROWS = 20
UNTESTED = (
    "NOT SHOWN TO BE PRIVATE: without a holdout, rows that the fit has not seen, nothing that the rows give away can "
    "be tested."
)
CLEAN = "No leak found by {} tests, which is no guarantee: the rows are not private by proof (no differential privacy)."


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticReport(Diagnosis):
    """What was found of synthetic rows: checks, as of a :class:`~ppl_gen.diagnostics.Diagnosis`.

    ``privacy`` is ``"untested"``, ``"leak"``, ``"not shown"`` (too few rows to tell) or ``"no leak found"``; ``leaks``
    names the checks that found one beyond chance.
    """

    privacy: str = "untested"
    leaks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed, and privacy was tested."""
        return not self.failed and self.privacy == "no leak found"

    @property
    def verdict(self) -> str:
        """Of privacy first, then what else failed."""
        unsure = [_short(check.name) for check in self.failed if check.name in self._private]
        said = {
            "untested": UNTESTED, "leak": f"LEAKS TRAINING ROWS: {'; '.join(map(_short, self.leaks))}.",
            "not shown": f"NOT SHOWN TO BE PRIVATE: too few rows to exclude a leak ({'; '.join(unsure)}).",
            "no leak found": CLEAN.format(len(self._private)),
        }[self.privacy]  # fmt: skip
        others = [check.name for check in self.failed if check.name not in self._private]
        return said + (f" Also failed: {'; '.join(others)}." if others else "")

    @property
    def _private(self) -> tuple[str, ...]:
        return tuple(check.name for check in self.checks if check.name.startswith("privacy: "))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return super().to_dict() | {"privacy": self.privacy, "leaks": list(self.leaks)}


def _short(name: str) -> str:
    return name.removeprefix("privacy: ").removesuffix(BOUND)


@dataclasses.dataclass(frozen=True, eq=False)
class Synthetic:
    """Synthetic rows, ``table``, and what was found of them, ``report``."""

    table: pd.DataFrame
    report: SyntheticReport


def synthesize(fit: Fit, num_samples: int, holdout: Any, target: Any, seed: int) -> Synthetic:
    """See :meth:`Fit.synthesize <ppl_gen.result.Fit.synthesize>`."""
    check_count("num_samples", num_samples, MIN_ROWS)
    _refuse(fit)
    table = fit.sample(num_samples, seed=seed)
    return Synthetic(table, evaluate_synthetic(fit, table, holdout, target=target, seed=seed))


def evaluate_synthetic(
    fit: Fit, synthetic: Any, holdout: Any = None, *, target: str | int | None = None, seed: int = 0
) -> SyntheticReport:
    """Utility, fidelity and privacy of synthetic rows; see :mod:`ppl_gen.synthetic`.

    :param fit: the fit whose training rows they stand for, and whose density is attacked as well.
    :param synthetic: the rows, whoever drew them: a table with the columns of the training table.
    :param holdout: real rows that the fit has not seen. None: nothing is said of utility and privacy.
    :param target: the column to be told from the others.
    :raises DataError: a table has other columns, or fewer than 20 rows without missing entries, or the synthetic one
        misses an entry; the holdout has training rows; there is no such target.
    :raises UnsupportedError: the fit is of sequences or images.
    """
    check_seed(seed)
    _refuse(fit)
    own = _whole(fit.train)
    train = own.to_frame().reset_index(drop=True)
    made = encode(fit, synthetic).to_frame().reset_index(drop=True)
    known = None if holdout is None else encode(fit, holdout)
    if known is not None:
        refuse_training_rows(known, fit.train, "holdout")
    held = None if known is None else _whole(known).to_frame().reset_index(drop=True)
    name = None if target is None else _target(train, target)
    _check_number("synthetic table", len(made), len(made))
    if known is not None and held is not None:
        _check_number("holdout", len(known), len(held))
    if len(train) < len(fit.train):
        _check_number("training table", len(fit.train), len(train))
    title = f"{len(made):,} synthetic rows for {len(fit.train):,} training rows of {fit.family.name}"
    real, which = (train, "training") if held is None else (held, "held-out")
    checks = [*_left_out(fit.train, known), *_fidelity(real, made, which, len(train), seed)]
    if held is None:
        missing = "need a holdout, rows that the fit has not seen"
        return SyntheticReport(title, (*checks, Check("utility and privacy", info=missing)))
    utility = [] if name is None else _utility(train, made, held, name, seed)
    private, leaks = _privacy(fit, own, made, held, seed)
    passed = all(check.passed for check in private)
    state = "leak" if leaks else "no leak found" if passed else "not shown"
    return SyntheticReport(title, (*utility, *checks, *private), privacy=state, leaks=leaks)


def _refuse(fit: Fit) -> None:
    if fit.schema.is_sequence or fit.schema.image is not None:
        what = "sequences" if fit.schema.is_sequence else "images"
        raise UnsupportedError(f"Synthetic rows are judged as rows of a table, and this fit is of {what}: draw them "
                               "with fit.sample.")  # fmt: skip


def _whole(data: Data) -> Data:
    """The rows without missing entries: tests by distances take no others."""
    return data if data.mask is None else data.take(np.flatnonzero(data.mask.all(axis=1)))


def _check_number(what: str, number: int, whole: int) -> None:
    """Raise a :class:`DataError` for too few rows without missing entries."""
    if whole < MIN_ROWS:
        lacking = "" if whole == number else f" of {number} without missing entries"
        more = "" if whole == number else ": the tests compare whole rows; to sample the fit needs none"
        raise DataError(f"The {what} has {whole} rows{lacking}, and at least {MIN_ROWS} are needed{more}.")


def _left_out(train: Data, known: Data | None) -> list[Check]:
    """A note of how many rows have missing entries, which no test looks at."""
    told = [f"{lost:,} of {len(data):,} {what} rows" for what, data in (("training", train), ("held-out", known))
            if data is not None and (lost := len(data) - len(_whole(data)))]  # fmt: skip
    info = f"{' and '.join(told)}: the tests take rows without missing entries"
    return [Check("rows left out", info=info)] if told else []


def _target(train: pd.DataFrame, target: str | int) -> Any:
    for name in train.columns:
        if str(name) == str(target):
            return name
    raise DataError(f"The table has no column {str(target)!r}: {did_you_mean(str(target), map(str, train.columns))}")


def _fidelity(real: pd.DataFrame, made: pd.DataFrame, which: str, number: int, seed: int) -> list[Check]:
    # The model has the errors of its training rows: of more rows than half as many the tests would see no other fault.
    most = max(MIN_ROWS, min(number // 2, MAX_ROWS // 2))
    mmd = two_samples.mmd(real, made, max_rows=most, seed=seed)
    told = two_samples.classifier_two_sample_test(real, made, max_rows=most, seed=seed)
    where = f"against {min(len(real), most):,} {which} rows"
    advice = "the model does not fit: see fit.diagnose(), and compare families"
    return [
        Check.of("fidelity: MMD p-value", mmd.p_value, "at least", MIN_P, advice=advice,
                 info=f"squared discrepancy {mmd.squared:.2g}, {where}"),
        Check.of("fidelity: classifier p-value", told.p_value, "at least", MIN_P, advice=advice,
                 info=f"tells {told.accuracy:.1%} of {told.num_test:,} rows right, 50 % by chance"),
    ]  # fmt: skip


def _utility(train: pd.DataFrame, made: pd.DataFrame, held: pd.DataFrame, name: Any, seed: int) -> list[Check]:
    from ppl_gen.usefulness import train_on_each

    found = train_on_each(train, made, held, name, seed)
    info = f"{found.synthetic:.3f} after training on synthetic rows, {found.real:.3f} on real ones; ± {found.error:.3f}"
    return [Check.of(f"utility: {found.measure} of {name} lost", found.real - found.synthetic, "at most", MAX_LOST,
                     info=info, advice="synthetic rows teach less than real ones: see fit.diagnose()")]  # fmt: skip


def _privacy(
    fit: Fit, own: Data, made: pd.DataFrame, held: pd.DataFrame, seed: int
) -> tuple[list[Check], tuple[str, ...]]:
    """The checks, and the names of those that found a leak beyond chance; ``own`` are the training rows."""
    import pandas as pd

    train = own.to_frame().reset_index(drop=True)
    rest = pd.concat([made, held], ignore_index=True)
    x, others = points(train, rest, seed=seed)
    samples, fresh = others[: len(made)], others[len(made) :]
    near = membership.closeness(x, fresh, samples, seed)
    number, rng = min(len(train), len(held), MAX_ROWS), np.random.default_rng([seed, 2])
    ours, theirs = (np.sort(rng.permutation(len(rows))[:number]) for rows in (train, held))
    attacks = {"distance": (-membership.nearest(x[ours], samples), -membership.nearest(fresh[theirs], samples))}
    if not implicit.is_implicit(fit):
        data = own.take(ours), encode(fit, held.iloc[theirs])
        one, other = (fit.score(rows, keep_draws=False, p_values=False).log_predictive for rows in data)
        attacks["density"] = (one, other)
    how = {"distance": "the distance to the closest sample", "density": "log p(x)"}
    limit = MAX_NEARER - 0.5
    bounded = [("nearer to training than to other rows", near.nearer - 0.5, near.error, 0.5, _nearer(near))]
    for name, values in attacks.items():
        found = membership.advantage(*values, seed)
        info = f"{found.value:.3f} ± {found.error:.3f}, told of {2 * number:,} rows by {how[name]}"
        bounded.append((f"advantage by {name}", found.value, found.error, 0.0, info))
    checks = [_copies(near, len(made), len(held))]
    leaks = [] if checks[0].passed else [checks[0].name]
    for name, value, error, chance, info in bounded:
        most = limit if chance else MAX_ADVANTAGE
        is_clear = value > CLEAR * error and value + ONE_SIDED * error > most
        advice = LEAK if is_clear else "too few rows to exclude a leak: hold out more, and draw more"
        bound = min(chance + value + ONE_SIDED * error, 1.0)  # of a share, or of a difference of two
        checks.append(Check.of(f"privacy: {name}{BOUND}", bound, "at most", chance + most, info=info, advice=advice))
        leaks += [checks[-1].name] * is_clear
    return checks, tuple(leaks)


def _copies(near: membership.Closeness, num_samples: int, num_held_out: int) -> Check:
    share = near.chance_copies
    error = np.sqrt(share * (1 - share) * (1 / num_samples + 1 / num_held_out))
    return Check.of("privacy: copies of training rows", near.copies, "at most", share + 3 * float(error),
                    info=f"share of samples; of held-out rows {share:.2g}", advice=LEAK)  # fmt: skip


def _nearer(near: membership.Closeness) -> str:
    return (f"{near.nearer:.3f} ± {near.error:.3f}; median distance {near.samples[1]:.3g} of samples to the closest "
            f"training row, of held-out rows {near.held_out[1]:.3g}")  # fmt: skip
