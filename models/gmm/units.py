"""The mixture's parameters in the units of the table, and as ellipses for a picture: numpy, for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ppl_gen.data import Schema
    from ppl_gen.models.gmm import GMM


def to_original(family: GMM, posterior: Mapping[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
    r"""Locations :math:`\ell_d + s_d \mu_{kd}` and standard deviations :math:`s_d \sigma_{kd}` in the units of column
    d; weights and correlations have none. One spherical scale for columns of different units stays in model space.
    A Cholesky factor L is given as the correlation matrix :math:`L L^T` that it stands for."""
    loc, scale = np.array([c.loc for c in schema.columns]), schema.scales
    result = dict(posterior)
    if "locs" in result:
        result["locs"] = loc + scale * result["locs"]
    if "scales" in result and family.covariance != "spherical":
        result["scales"] = scale * result["scales"]
    elif "scales" in result and np.ptp(scale) == 0:
        result["scales"] = scale[0] * result["scales"]
    if "corr_cholesky" in result:
        factor = np.asarray(result.pop("corr_cholesky"))
        result["correlation"] = np.where(np.eye(len(scale), dtype=bool), 1.0, factor @ np.swapaxes(factor, -1, -2))
    return result


def ellipses(
    family: GMM, posterior: Mapping[str, np.ndarray], schema: Schema
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (S, K), centres (S, K, D) and covariances (S, K, D, D) of flat draws, in the units of the table."""
    from ppl_gen.models.gmm.hyperparameters import resolve

    columns, number = schema.num_columns, family.size
    fixed = resolve(family, columns, 2).fixed
    draws = len(next(iter(posterior.values())))
    sites = {name: np.broadcast_to(value, (draws, *np.shape(value))) for name, value in fixed.items()} | dict(posterior)
    scales = sites["scales"]
    if family.covariance == "spherical":
        scales = np.repeat(scales[..., None], columns, axis=-1)
    shape = (draws, number, columns)
    scales = np.broadcast_to(scales if scales.ndim == 3 else scales[:, None, :], shape) * schema.scales
    factor = np.broadcast_to(np.eye(columns), (*shape, columns))
    if "corr_cholesky" in sites:
        chosen = sites["corr_cholesky"]
        factor = np.broadcast_to(chosen if chosen.ndim == 4 else chosen[:, None], (*shape, columns))
    factor = scales[..., None] * factor
    centres = np.array([c.loc for c in schema.columns]) + schema.scales * sites["locs"]
    weights = sites.get("weights", np.ones((draws, number)) / number)
    return weights, centres, factor @ np.swapaxes(factor, -1, -2)
