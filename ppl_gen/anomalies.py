r"""Rows called anomalies such that the share of false calls is bounded: conformal p-values and the procedure of
Benjamini and Hochberg.

Each of m new rows has the p-value of :mod:`ppl_gen.anomaly`, the rank of its density among those of n rows that the
fit did not see. With them in ascending order and :math:`\alpha` the rate, the rows up to the last k with
:math:`p_{(k)} \le \alpha k / m` are called (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57). P-values that share
their n rows depend on each other, but positively, so that the expected share of false calls is at most
:math:`\alpha m_0 / m`, with :math:`m_0` of the new rows normal (Bates, Candès, Lei, Romano & Sesia 2023, Ann. Statist.
51, theorem 2). The adjusted p-value of a row is the lowest rate at which it is called.

This holds exactly where the n rows are a ``calibration`` table of normal rows that the fit has not seen. Without one
they are the training rows under fits that left them out, which are not quite exchangeable with new rows: the refits saw
fewer rows than the fit has. Anomalies among the n rows raise the p-values, so that fewer rows are called.

No p-value is below :math:`1 / (n + 1)`, so that at least :math:`m / (\alpha (n + 1))` rows must have this lowest one
before any is called.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.anomaly import MIN_PEERS, calibrated_p_values
from ppl_gen.errors import DataError, SettingError, UnsupportedError, warn
from ppl_gen.scoring import encode
from ppl_gen.two_tables import refuse_training_rows

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit


def anomalies(fit: Fit, table: Any, rate: float, calibration: Any) -> pd.DataFrame:
    """See :meth:`Fit.anomalies <ppl_gen.result.Fit.anomalies>`."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
        raise SettingError(f"false_discovery_rate must be between 0 and 1, not {rate!r}.")
    data = encode(fit, table)
    if data.fingerprint == fit.train.fingerprint and calibration is None:
        raise DataError("These are the training rows, which rank only among themselves, so that none stands out: pass "
                        "other rows, or rows that are known to be normal as calibration.")  # fmt: skip
    score = fit.score(data, keep_draws=False, p_values=calibration is None)
    if calibration is None:
        if score.p_value is None:
            raise UnsupportedError(
                f"{fit.family.name} has no held-out densities of its training rows to rank new ones among: pass rows "
                "that it has not seen and that are known to be normal as calibration."
            )
        p_value, number = score.p_value, int(np.isfinite(fit.held_out).sum()) if len(fit.train) >= MIN_PEERS else 0
    else:
        known = encode(fit, calibration)
        refuse_training_rows(known, fit.train, "calibration table")
        theirs = fit.score(known, keep_draws=False, p_values=False).log_predictive
        p_value, each = calibrated_p_values(known, theirs, data, score.log_predictive)
        number = int(each.max(initial=0))
    return _called(score.to_frame(), p_value, number, float(rate))


def _called(frame: pd.DataFrame, p_value: np.ndarray, number: int, rate: float) -> pd.DataFrame:
    """The columns of the verb, given the p-values and how many rows they are ranks among."""
    from scipy.stats import false_discovery_control

    seen = np.isfinite(p_value)
    if not seen.any():
        raise DataError(f"No row has a p-value: each needs {MIN_PEERS} training or calibration rows that were held "
                        f"out, with the same entries missing, to be ranked among; there are {number}.")  # fmt: skip
    if not seen.all():
        warn(f"{(~seen).sum():,} of {len(seen):,} rows have no p-value, and are not called: fewer than {MIN_PEERS} of "
             "the rows that they would be ranked among miss the same entries.")  # fmt: skip
    adjusted = np.full(len(p_value), np.nan)
    adjusted[seen] = false_discovery_control(p_value[seen])
    needed = rows_needed(number, int(seen.sum()), rate)
    if needed > seen.sum():
        warn(f"No row can be called an anomaly at a rate of {rate:g}: with {number:,} rows to be ranked among, no "
             f"p-value is below {1 / (number + 1):.2g}. At least {math.ceil(1 / rate) - 1:,} are needed.")  # fmt: skip
    value = "log_prob" if "log_prob" in frame else "log_ratio"
    steps = list(frame.columns[: list(frame.columns).index(value)])
    # A rounding above the rate is no reason to leave a row out: p-values are fractions.
    found = frame[[*steps, value]].assign(anomaly_p_value=p_value, adjusted_p_value=adjusted,
                                          is_anomaly=adjusted <= rate * (1 + 1e-12))  # fmt: skip
    found.attrs = {"num_ranked_among": number, "lowest_p_value": 1 / (number + 1), "rows_needed": needed}
    return found


def rows_needed(number: int, num_rows: int, rate: float) -> int:
    """How many of ``num_rows`` rows must have the lowest p-value, 1 / (``number`` + 1), before any is called."""
    return max(1, math.ceil(num_rows / (rate * (number + 1)) - 1e-9))
