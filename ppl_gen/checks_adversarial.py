r"""The checks of how a generator was trained: whether its game with a discriminator came to rest.

=========================  ========================  ==================================================================
check                      threshold                 source
=========================  ========================  ==================================================================
diverged members           0                         losses or weights that are not numbers
discriminator saturation   accuracy 0.95             Arjovsky & Bottou 2017 (arXiv:1701.04862), theorem 2.4: the
                                                     gradient vanishes at a perfect discriminator. An accuracy of 0.95
                                                     is a total variation of 0.9
oscillation                sd of the accuracy 0.1    Mescheder, Geiger & Nowozin 2018 (arXiv:1801.04406): training that
                                                     goes round in circles; the total variation then swings by 0.2
mode hopping               energy coefficient 0.05   Székely & Rizzo 2013 (J. Stat. Plan. Inference 143), of the last
                                                     two snapshots of samples (Metz et al. 2017, arXiv:1611.02163,
                                                     section 3); a shift by 0.45 standard deviations has as much
=========================  ========================  ==================================================================

The worst member is shown. Accuracies are those at rows that were held out, where there are any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.diagnostics import Check
from ppl_gen.evidence import random_rows
from ppl_gen.two_tables import points

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

ACCURACY = 0.95
SWING = 0.1
HOPPING = 0.05
MIN_WINDOWS = 8  # of the half of a trace that is looked at


def of_training(fit: Fit) -> Found:
    """What the course of training says: the discriminator's accuracy, window by window, and samples on the way."""
    found: list[Check] = []
    details: dict[str, pd.DataFrame] = {}
    if "num_diverged" in fit.draws.figures:
        found.append(Check.of(
            "diverged members", fit.draws.figures["num_diverged"], "at most", 0, info=f"of {fit.draws.num_chains}",
            advice="They keep the weights of the window before: lower learning_rate, or use regularizer='r1'.",
        ))  # fmt: skip
    accuracy = accuracy_of(fit)
    if accuracy is not None and len(accuracy):
        found += _of_accuracy(accuracy)
    snapshots = fit.draws.parameters.get("snapshots")
    if snapshots is not None and len(snapshots) > 1:
        table = course_of(np.asarray(snapshots, np.float64), fit)
        last = table[table["snapshot"] == table["snapshot"].max()]
        worst = last.iloc[int(last["moved"].argmax())]
        found.append(Check.of(
            "mode hopping", worst["moved"], "at most", HOPPING,
            info="energy coefficient of the last two snapshots of samples, 0 where they are alike, at most 1",
            advice="Samples still move from place to place: lower learning_rate, raise ema, or train longer.",
        ))  # fmt: skip
        details["course"] = table
    return found, details


def accuracy_of(fit: Fit) -> np.ndarray | None:
    """(window, member): how often the discriminator is right; the mean of its accuracy at rows and at samples."""
    found = fit.draws.parameters
    if {"accuracy_data", "accuracy_fakes"} <= set(found):
        return (np.asarray(found["accuracy_data"], np.float64) + np.asarray(found["accuracy_fakes"], np.float64)) / 2
    return None


def _of_accuracy(accuracy: np.ndarray) -> list[Check]:
    windows = len(accuracy)
    last = np.nanmean(accuracy[-max(1, windows // 4) :], axis=0)
    found = [Check.of(
        "discriminator saturation", np.nanmax(last), "at most", ACCURACY,
        info="its accuracy on rows and samples at the end, worst member (1/2 where it can't tell them)",
        advice="The discriminator is sure, so the generator learns nothing from it: use regularizer='r1' or "
        "loss='wasserstein', lower discriminator_learning_rate, or fewer num_discriminator_steps.",
    )]  # fmt: skip
    half = accuracy[windows // 2 :]
    half = half[:, np.isfinite(half).all(0)]
    if len(half) >= MIN_WINDOWS and half.shape[1]:
        time = np.linspace(-1, 1, len(half))
        rest = half - half.mean(0) - time[:, None] * (time @ half) / (time @ time)
        swing = rest.std(0, ddof=2)
        worst = int(swing.argmax())
        power = np.abs(np.fft.rfft(rest[:, worst]))[1:]
        period = len(half) / (1 + int(power.argmax()))
        found.append(Check.of(
            "oscillation", swing[worst], "at most", SWING,
            info=f"sd of the discriminator's accuracy over the last half of training, period {period:.3g} windows",
            advice="The players chase each other: lower learning_rate, use regularizer='r1', or raise ema.",
        ))  # fmt: skip
    return found


def course_of(snapshots: np.ndarray, fit: Fit) -> pd.DataFrame:
    """A row for each snapshot (T, member, n, D) and member: ``spread``, the mean distance of two samples over that of
    two rows; ``to_rows``, the energy coefficient of samples against rows; ``moved``, against the snapshot before."""
    import pandas as pd

    rows = fit.train.x[random_rows(len(fit.train), snapshots.shape[2], fit.seed)][:, fit.schema.is_target]
    tables = [_targets(fit, part) for part in (rows, *snapshots.reshape(-1, *snapshots.shape[2:]))]
    known = [points(tables[0], table)[1] for table in tables[1:]]
    rows = points(tables[0], tables[0])[0]
    apart = nearest_and_mean(rows)[1]
    members, found = snapshots.shape[1], []
    for t in range(len(snapshots)):
        for m in range(members):
            now = known[t * members + m]
            before = known[(t - 1) * members + m] if t else None
            found.append({"snapshot": t, "member": m, "spread": nearest_and_mean(now)[1] / max(apart, 1e-300),
                          "to_rows": energy_coefficient(rows, now),
                          "moved": np.nan if before is None else energy_coefficient(before, now)})  # fmt: skip
    return pd.DataFrame(found)


def _targets(fit: Fit, x: np.ndarray) -> Any:
    """Model-space rows of the columns that are modelled as a table, or images."""
    from ppl_gen import images

    return fit.schema.only_targets().decode(x) if fit.schema.image is None else images.decode(fit.schema, x)


def energy_coefficient(first: np.ndarray, second: np.ndarray) -> float:
    r"""Energy distance over :math:`2\,\mathrm{E}\|X - Y\|`, from 0 (one distribution) to 1 (Székely & Rizzo 2013)."""
    from scipy.spatial.distance import cdist, pdist

    between = float(cdist(first, second).mean())
    return max(1 - (pdist(first).mean() + pdist(second).mean()) / (2 * between), 0.0) if between > 0 else 0.0


def nearest_and_mean(x: np.ndarray) -> tuple[float, float]:
    """Of rows (n, d): the median distance to the nearest other row, and the mean distance of two rows."""
    from scipy.spatial.distance import pdist, squareform

    distances = pdist(x)
    whole = squareform(distances)
    np.fill_diagonal(whole, np.inf)
    return float(np.median(whole.min(1))), float(distances.mean())
