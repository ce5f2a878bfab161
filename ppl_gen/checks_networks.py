r"""The checks of an ensemble of networks: what was learnt by heart, how far the members agree, and calibration.

Rows are looked at under the members that did not train on them: each member keeps a random part of the rows for
validation. What a check asks, its threshold, and where that comes from:

====================  =======================  =======================================================================
check                 threshold                source
====================  =======================  =======================================================================
broken members        0                        a loss that is not a number
training gap          0.1 nats a column        Hastie, Tibshirani & Friedman 2009, section 7.4 (optimism): about twice
                                               the divergence of a member from the best that its network could be
member disagreement   half the sd over rows    the ranks of rows are then as reliable as an intraclass correlation of
                                               0.8 (Shrout & Fleiss 1979, Psychol. Bull. 86); 0.1 nats always pass
calibration p         p 0.01 / columns         Diebold, Gunther & Tay 1998 (Int. Econ. Rev. 39); Kolmogorov-Smirnov
independence p        p 0.01 / tests           Diebold, Hahn & Tay 1999 (Rev. Econ. Stat. 81): rank correlations
====================  =======================  =======================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppl_gen.diagnostics import Check
from ppl_gen.evidence import MAX_ROWS, draws_of_log_prob, random_rows

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

GAP = 0.1  # nats a column
SPREAD_SHARE, LEAST_SPREAD = 0.5, 0.1  # of the sd over rows; nats
P_VALUE = 0.01
CHANCE = 2.326  # standard errors that a difference of 0 exceeds once in a hundred times
NO_VALIDATION = "no rows were held out: fit with validation above 0"


def of_networks(fit: Fit) -> Found:
    """All of them; none where the fit is no ensemble of networks."""
    if fit.uncertainty != "ensemble":
        return [], {}
    found: list[Check] = []
    details: dict[str, pd.DataFrame] = {}
    if "num_broken" in fit.draws.figures:
        found.append(Check.of(
            "broken members", fit.draws.figures["num_broken"], "at most", 0, info=f"of {fit.draws.num_chains}",
            advice="Their loss stopped being a number, so they keep the last good weights: lower learning_rate.",
        ))  # fmt: skip
    if fit.pair.generate is not None:  # no density to compare: see checks_implicit
        return found, {}
    held = held_out_by(fit)
    if held is None:
        return [*found, Check("training gap", info=NO_VALIDATION)], {}
    for new, tables in (_of_members(fit, held), _of_uniforms(fit)):
        found += new
        details |= tables
    return found, details


def held_out_by(fit: Fit) -> np.ndarray | None:
    """(member, row): whether the member did not train on this row; None where each trained on all."""
    rows = fit.draws.parameters.get("validation_rows")
    if rows is None or not rows.shape[1]:
        return None
    held = np.zeros((len(rows), len(fit.train)), bool)
    np.put_along_axis(held, np.asarray(rows, np.int64), values=True, axis=1)
    return held


def _of_members(fit: Fit, held: np.ndarray) -> Found:
    """What members say of rows that they trained on and of rows that they did not; and how far they agree."""
    import pandas as pd

    rows = rows_of_both_kinds(held, fit.seed)
    seen, log_prob = ~held[:, rows], draws_of_log_prob(fit, rows)[:, 0].astype(np.float64)
    weights = None if fit.train.weights is None else np.asarray(fit.train.weights, np.float64)[rows]
    gap, error = difference(log_prob, seen, weights)
    entries = len(fit.schema.targets) * fit.train.num_steps / len(fit.train)
    unit = fit.train.unit
    found = [Check.of(
        "training gap", gap, "at most", float(f"{max(GAP * entries, CHANCE * error):.3g}"),
        info=f"± {error:.2g} nats {fit.train.a_unit} higher under members that saw it, {len(rows):,} {unit}s",
        advice="The networks have learnt rows by heart: use a smaller network (hidden, num_layers) or more rows.",
    )]  # fmt: skip
    sd = log_prob.std(axis=0, ddof=1) if len(log_prob) > 1 else np.full(len(rows), np.nan)
    if len(log_prob) > 1:
        mean = log_prob.mean(0)
        quartiles = np.quantile(mean, [0.25, 0.75])
        limit = max(SPREAD_SHARE * float(np.diff(quartiles)[0]) / 1.349, LEAST_SPREAD)  # the sd of a normal
        gain = (np.logaddexp.reduce(log_prob, axis=0) - np.log(len(log_prob)) - mean).mean()
        found.append(Check.of(
            "member disagreement", float(np.median(sd)), "at most", float(f"{limit:.3g}"),
            info=f"nats, sd over {len(log_prob)} members of a typical {unit}; their mixture gains {gain:.2g}",
            advice=f"The members disagree on which {unit}s are likely: use a smaller network or more rows, and read "
            "the intervals.",
        ))  # fmt: skip
    table = pd.DataFrame({"row": rows, "log_prob": log_prob.mean(0), "sd": sd,
                          "trained": _mean_over(log_prob, seen), "held_out": _mean_over(log_prob, ~seen)})  # fmt: skip
    return found, {"members": table}


def rows_of_both_kinds(held: np.ndarray, seed: int, limit: int = MAX_ROWS) -> np.ndarray:
    """At most ``limit`` rows that some member trained on and another did not; of one member, as many of each kind."""
    if len(held) > 1:
        both = np.flatnonzero(held.any(0) & ~held.all(0))
        if len(both) > 1:
            return both[random_rows(len(both), limit, seed)]
    parts = [np.flatnonzero(kind) for kind in (held.any(0), ~held.any(0))]
    return np.sort(np.concatenate([part[random_rows(len(part), limit, seed)] for part in parts]))


def difference(log_prob: np.ndarray, seen: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """How much higher log densities (member, row) are under members that have ``seen`` the row, and the standard error.
    Where rows are of both kinds they are compared with themselves, so that it does not matter which rows are likely."""
    weights = np.ones(seen.shape[1]) if weights is None else weights
    trained, held = _mean_over(log_prob, seen), _mean_over(log_prob, ~seen)
    if np.isfinite(trained - held).any():
        return _mean_and_error(trained - held, weights)
    (one, error), (other, more) = _mean_and_error(trained, weights), _mean_and_error(held, weights)
    return one - other, float(np.hypot(error, more))


def _mean_over(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(row,): the mean over the members that are kept; NaN where there is none."""
    number = kept.sum(0)
    return np.where(number > 0, np.where(kept, values, 0.0).sum(0) / np.maximum(number, 1), np.nan)


def _mean_and_error(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Over the values that are there."""
    there = ~np.isnan(values)
    values, share = values[there], weights[there] / weights[there].sum()
    mean = float(share @ values)
    unbiased = len(values) / max(len(values) - 1, 1)
    return mean, float(np.sqrt(unbiased * (share**2 @ (values - mean) ** 2)))


class Uniforms(NamedTuple):
    """(row, column) numbers that are uniform and independent if the fit is right, and which rows of the table."""

    rows: np.ndarray
    values: np.ndarray


def uniforms(fit: Fit) -> Uniforms | None:
    """Rows as uniform numbers (the pair's ``to_uniform``), each under a member that did not train on it: of a flow
    F(u) in the base space, else :math:`F(x_j | x_{<j})`, for whole numbers anywhere between F(x-) and F(x) (Czado,
    Gneiting & Held 2009, Biometrics 65). None where the family has no such hook, and of sequences, which have
    pseudo-residuals instead."""
    from ppl_gen import backends

    held = held_out_by(fit)
    if held is None or fit.pair.to_uniform is None or fit.family.sequences:
        return None
    rng = np.random.default_rng(fit.seed)
    rows = np.flatnonzero(held.any(0))
    rows = rows[random_rows(len(rows), MAX_ROWS, fit.seed)]
    whose = (held[:, rows] * rng.random((len(held), len(rows)))).argmax(0)
    view = fit.train.take(rows).view(fit.backend)
    ends = backends.ops(fit.backend).hook_over_draws(fit.pair, "to_uniform", fit.posterior, view)
    low, high = np.moveaxis(np.asarray(ends, np.float64)[whose, np.arange(len(rows))], -1, 0)
    return Uniforms(rows, low + (high - low) * rng.random(low.shape))


def _of_uniforms(fit: Fit) -> Found:
    """Calibration: whether held-out rows are uniform in each column, and whether the columns are independent there."""
    import pandas as pd

    from ppl_gen import images, metrics

    numbers = uniforms(fit)
    if numbers is None:
        return [], {}
    names = [column.name for column in images.named(fit.schema)]
    tests = [metrics.uniformity(column) for column in numbers.values.T]
    low = int(np.argmin([test.p_value for test in tests]))
    richer = "use a richer family (more layers, wider hidden, another transform or base), or train it longer"
    found = [Check.of(
        "calibration p", tests[low].p_value, "at least", P_VALUE / len(names),
        info=f"lowest of {len(names)}: {names[low]}; {len(numbers.rows):,} rows under members that held them out",
        advice=f"Held-out rows are not spread as predicted in {names[low]}: {richer}.",
    )]  # fmt: skip
    if len(names) > 1 and len(numbers.rows) > 2:
        worst = metrics.independence(numbers.values)
        first, second = (names[j] for j in worst.columns)
        found.append(Check.of(
            "independence p", worst.p_value, "at least", P_VALUE / worst.number,
            info=f"lowest of {worst.number}: {first} and {second}",
            advice=f"How {second} depends on {first} is not captured: {richer}.",
        ))  # fmt: skip
    table = pd.DataFrame(numbers.values, columns=names)
    return found, {"calibration": table.set_axis(pd.Index(numbers.rows, name="row"), axis=0)}
