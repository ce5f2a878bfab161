"""The prior of a mixture as arrays of full shape: what both backends build their sites from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ppl_gen.errors import SettingError
from ppl_gen.models.gmm import GMM, as_numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Hyperparameters:
    """Numpy arrays, float64; K components, D columns.

    ``concentration`` (K,); ``stick`` the concentration of the stick-breaking prior, or None; ``loc``, ``loc_scale``
    (K, D); ``scale`` of the shape of the site ``scales``; ``correlation_concentration`` (K,), tied ();
    ``fixed`` {site: value} of the sites that are not inferred. ``dense``: covariances have off-diagonal entries.
    """

    num_components: int
    num_columns: int
    num_obs: int
    covariance: str
    floor: float
    concentration: np.ndarray
    stick: float | None
    loc: np.ndarray
    loc_scale: np.ndarray
    scale: np.ndarray
    correlation_concentration: np.ndarray
    fixed: dict[str, np.ndarray]

    @property
    def dense(self) -> bool:
        return self.num_columns > 1 and self.covariance in ("full", "tied")

    @property
    def tied(self) -> bool:
        return self.covariance == "tied"

    @property
    def obstacle(self) -> str:
        """Why EM has no M-step, and what to change; empty where it has. There is none where only one of scales and
        correlations is fixed."""
        if not self.dense or ("scales" in self.fixed) == ("corr_cholesky" in self.fixed):
            return ""
        one, other = ("scales", "correlation")[:: 1 if "scales" in self.fixed else -1]
        return f"with {one} fixed alone, {other} has no update in closed form: fix both in the prior, or neither"


def resolve(family: GMM, num_columns: int, num_obs: int) -> Hyperparameters:
    """Every hyperparameter at its full shape.

    :raises SettingError: an array has a shape that does not fit K components and ``num_columns`` columns.
    """
    k, d, prior = family.size, num_columns, family.prior
    scales_shape = {"full": (k, d), "tied": (d,), "diag": (k, d), "spherical": (k,)}[family.covariance]
    return Hyperparameters(
        num_components=k, num_columns=d, num_obs=num_obs, covariance=family.covariance,
        floor=float(family.covariance_floor),
        concentration=_fill("concentration", prior.concentration, (k,)),
        stick=stick_concentration(family.expected_components, num_obs) if family.is_auto else None,
        loc=_fill("loc", prior.loc, (k, d)), loc_scale=_fill("loc_scale", prior.loc_scale, (k, d)),
        scale=_fill("scale", prior.scale, scales_shape),
        correlation_concentration=_fill(
            "correlation_concentration", prior.correlation_concentration, () if family.covariance == "tied" else (k,)
        ),
        fixed=_fixed(family, scales_shape, d),
    )  # fmt: skip


def check_components(family: GMM) -> None:
    """Raise a :class:`SettingError` where an array of the prior does not fit the number of components.

    The number of columns is not known yet: the arrays themselves say what it would have to be.
    """
    prior, k = family.prior, family.size
    for name in ("concentration", "loc", "loc_scale", "scale", "correlation_concentration", "weights", "locs"):
        value = getattr(prior, name)
        shape = np.shape(value)
        per_component = name != "scale" or family.covariance != "tied"
        allowed = (k,) if name in ("weights", "locs") else (1, k)
        if value is not None and shape and per_component and shape[0] not in allowed:
            raise SettingError(f"GMMPrior: {name} has {shape[0]} entries for {k} components.")
    if prior.correlation is not None and family.covariance not in ("full", "tied"):
        raise SettingError(f"GMMPrior: covariance {family.covariance!r} has no correlation to fix.")
    if prior.weights is not None and family.is_auto:
        raise SettingError("GMMPrior: weights can't be fixed with num_components='auto'.")


def _fill(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Broadcast: a 1-d array counts components, unless the site has no component axis."""
    array = np.asarray(as_numbers(value))
    if array.ndim == 1 and len(shape) == 2:
        array = array[:, None]
    elif array.ndim == 2 and len(shape) == 1 and 1 in array.shape:
        array = array.reshape(-1)
    try:
        return np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise SettingError(
            f"GMMPrior: {name} has shape {np.shape(value)}, which does not fit {shape} "
            f"({_axes(shape)}); give one number, one per component, or the whole array."
        ) from None


def _axes(shape: tuple[int, ...]) -> str:
    return {0: "one number", 1: "one number per component or column", 2: "components, columns"}.get(
        len(shape), "components, columns, columns"
    )


def _fixed(family: GMM, scales_shape: tuple[int, ...], d: int) -> dict[str, np.ndarray]:
    prior, k = family.prior, family.size
    fixed = {}
    if prior.weights is not None or k == 1:
        weights = _fill("weights", prior.weights or 1.0, (k,))
        fixed["weights"] = weights / weights.sum()
    if prior.locs is not None:
        fixed["locs"] = _fill("locs", prior.locs, (k, d))
    if prior.scales is not None:
        fixed["scales"] = _fill("scales", prior.scales, scales_shape)
    if prior.correlation is not None and d > 1:
        shape = (d, d) if family.covariance == "tied" else (k, d, d)
        fixed["corr_cholesky"] = np.linalg.cholesky(_fill("correlation", prior.correlation, shape))
    return fixed


def stick_concentration(expected: float, num_obs: int) -> float:
    r"""The concentration :math:`\alpha` of a Dirichlet process that occupies ``expected`` components with n rows.

    Solves :math:`\sum_{i=0}^{n-1} \alpha / (\alpha + i) = \alpha (\psi(\alpha + n) - \psi(\alpha)) = ` expected
    (Antoniak 1974, Ann. Stat. 2) on the log scale; expectations that n rows can't reach are cut to 0.9 n.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma

    target = min(expected, max(0.9 * num_obs, 1.0 + 1e-3)) if num_obs > 1 else 1.0
    if target <= 1.0:
        return 1.0

    def excess(log_alpha: float) -> float:
        alpha = np.exp(log_alpha)
        return float(alpha * (digamma(alpha + num_obs) - digamma(alpha)) - target)

    return float(np.exp(brentq(excess, np.log(1e-8), np.log(1e8))))
