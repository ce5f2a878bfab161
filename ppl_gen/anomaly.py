"""The anomaly p-value of a row: how low its density is among those of training rows that were held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

MIN_PEERS = 20  # training rows with the same entries missing below which a rank says too little


def anomaly_p_values(fit: Fit, data: Data, log_predictive: np.ndarray) -> np.ndarray:
    """Conformal p-value of each row: the share of held-out training densities that are no higher than its own.

    For new rows p = (1 + #{i: h_i <= s}) / (n + 1) with the held-out log densities h_i of the n training rows
    (Vovk, Gammerman & Shafer 2005, eq. 2.20). A training row is ranked by its own held-out density instead. Densities
    of different columns can't be compared, so a row is ranked among the training rows that miss the same entries as
    it does; NaN where there are fewer than ``MIN_PEERS`` of them, or nothing of the row was observed. Sequences are
    ranked by their density per observed entry, so that long and short ones compare.
    """
    if len(fit.train) < MIN_PEERS:  # whatever they are: to find them may take refits
        return np.full(len(data), np.nan)
    held_out = fit.held_out
    own_rows = data.fingerprint == fit.train.fingerprint
    values = np.where(np.isfinite(held_out), held_out, log_predictive) if own_rows else log_predictive
    if data.lengths is not None:
        held_out, values = held_out / _observed_entries(fit.train), values / _observed_entries(data)
    return _ranks(held_out, _patterns(fit.train), values, _patterns(data), own_rows)[0]


def calibrated_p_values(
    calibration: Data, of_calibration: np.ndarray, data: Data, log_predictive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) conformal p-values by the log densities of rows that the fit has not seen, and the number of these that
    each row was ranked among; see :func:`anomaly_p_values`. If those and a new row are draws of one law, in any order
    as likely, P(p <= t) <= t exactly, whatever the fit (Vovk, Gammerman & Shafer 2005, proposition 2.4)."""
    if data.lengths is not None:
        of_calibration = of_calibration / _observed_entries(calibration)
        log_predictive = log_predictive / _observed_entries(data)
    return _ranks(of_calibration, _patterns(calibration), log_predictive, _patterns(data), own_rows=False)


def _ranks(
    held_out: np.ndarray, theirs: np.ndarray, values: np.ndarray, ours: np.ndarray, own_rows: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each value among the held-out ones of the same pattern of missing entries, and their number."""
    result, number = np.full(len(values), np.nan), np.zeros(len(values), int)
    for pattern in np.unique(ours, axis=0):
        peers = np.sort(held_out[(theirs == pattern).all(1) & np.isfinite(held_out)])
        rows = (ours == pattern).all(1)
        number[rows] = len(peers)
        if len(peers) >= MIN_PEERS and (pattern.any() or not pattern.size):
            rank = np.searchsorted(peers, values[rows], side="right")
            result[rows] = np.maximum(rank, 1) / len(peers) if own_rows else (1 + rank) / (len(peers) + 1)
    return result, number


def _patterns(data: Data) -> np.ndarray:
    """(obs, d): True where observed; sequences are all alike here."""
    if data.lengths is not None:
        return np.ones((len(data), 1), bool)
    return np.ones((len(data), data.num_columns), bool) if data.mask is None else np.asarray(data.mask)


def _observed_entries(data: Data) -> np.ndarray:
    """(obs,): how many entries of each sequence were observed."""
    from ppl_gen.padding import starts_of

    assert data.lengths is not None
    mask = data.target_mask
    seen = np.full(data.num_steps, len(data.schema.targets)) if mask is None else mask.sum(1)
    return np.maximum(np.add.reduceat(seen, starts_of(data.lengths)), 1)
