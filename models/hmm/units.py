"""The parameters of a hidden Markov model in the units of the table: numpy, for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ppl_gen.data import Schema
    from ppl_gen.models.hmm import HMM


def to_original(family: HMM, posterior: Mapping[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
    """Locations and standard deviations in the units of their columns; a Cholesky factor as the correlation matrix that
    it stands for. Rates and probabilities have the table's units already."""
    from ppl_gen.models.hmm.hyperparameters import blocks_of

    result, schema = dict(posterior), schema.only_targets()
    real = [block.columns for block in blocks_of(family, schema) if "locs" in result and block.kind in _REAL]
    for columns in real:
        loc = np.array([schema.columns[j].loc for j in columns])
        scale = schema.scales[list(columns)]
        result["locs"] = loc + scale * result["locs"]
        if "scales" in result:
            result["scales"] = scale * result["scales"]
    if "corr_cholesky" in result:
        factor = np.asarray(result.pop("corr_cholesky"))
        one = np.eye(factor.shape[-1], dtype=bool)
        result["correlation"] = np.where(one, 1.0, factor @ np.swapaxes(factor, -1, -2))
    return result


_REAL = ("gaussian", "gaussian_full", "student_t", "mixture")
