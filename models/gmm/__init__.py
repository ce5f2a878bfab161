r"""Gaussian mixture: K normal components with unknown weights, locations and covariances.

.. math::
    w &\sim \mathrm{Dirichlet}(\alpha), \quad
    \mu_k \sim \mathrm{Normal}(m_k, t_k), \quad
    s_k \sim \mathrm{HalfNormal}(\tau_k), \quad
    R_k = C_k C_k^\top \sim \mathrm{LKJ}(\eta_k), \\
    z_i &\sim \mathrm{Categorical}(w), \quad
    x_i \mid z_i = k \sim \mathrm{Normal}(\mu_k, \Sigma_k), \quad
    \Sigma_k = \mathrm{diag}(s_k)\, R_k\, \mathrm{diag}(s_k)

so that :math:`p(x_i) = \sum_k w_k \mathrm{Normal}(x_i \mid \mu_k, \Sigma_k)`; the label :math:`z_i` is enumerated and
summed out exactly. Missing entries are integrated out exactly too: the marginal of a normal is a normal.
With ``num_components="auto"`` the weights follow a truncated stick-breaking (Dirichlet process) prior.

References: McLachlan & Peel, *Finite Mixture Models* (2000); Lewandowski, Kurowicka & Joe 2009, J. Multivar. Anal. 100
(LKJ); Ishwaran & James 2001, JASA 96 (truncated stick-breaking); Connor & Mosimann 1969, JASA 64 (its density on the
simplex); Ghahramani & Jordan 1994, NIPS 6 (EM with missing entries).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_gen.errors import DataError
from ppl_gen.family import Family
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema

__all__ = ["GMM", "GMMPrior"]

COVARIANCES = ("full", "tied", "diag", "spherical")


def as_numbers(value: Any) -> np.ndarray | None:
    """The value as an array of finite floats, or None where it is none."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if np.all(np.isfinite(array)) and not isinstance(value, bool | str) else None


def _is_correlation(value: np.ndarray) -> bool:
    if value.ndim not in (2, 3) or value.shape[-1] != value.shape[-2]:
        return False
    unit = np.allclose(np.diagonal(value, axis1=-2, axis2=-1), 1.0)
    return bool(unit and np.allclose(value, np.swapaxes(value, -1, -2)) and np.linalg.eigvalsh(value).min() > 1e-10)


@dataclasses.dataclass(frozen=True)
class GMMPrior(Settings):
    """The prior, in model space: real columns are standardized unless the table was read with ``standardize=False``.

    Each hyperparameter is a number, a list with one number per component, or (for locations and scales) a nested
    list ``[components][columns]``; ``[[...]]`` with one row gives one value per column.

    :param concentration: of the Dirichlet over the weights. The default, 4, keeps components from emptying, where the
        posterior has further modes (Frühwirth-Schnatter 2006, *Finite Mixture and Markov Switching Models*, sec. 4.2);
        1 is uniform. Not used by ``num_components="auto"``.
    :param loc: means of the normal prior of the locations. The default is the mean of the data.
    :param loc_scale: standard deviations of that prior. The default, 2, covers a standardized column with its tails.
    :param scale: scales of the half-normal prior of each component's standard deviations. The default, 1, is the
        standard deviation of the whole column, which a component seldom exceeds.
    :param correlation_concentration: of the LKJ prior of the correlation matrices, at least 1; 1 is uniform over
        correlation matrices, more prefers weak correlations. (Below 1 its density has no bound.)
    :param weights: fixed weights (K,), which then are not inferred.
    :param locs: fixed locations (K, D), or (K,) with one column.
    :param scales: fixed standard deviations: a number, or full and diag (K, D), tied (D,), spherical (K,).
    :param correlation: fixed correlation matrices: full (K, D, D) or one (D, D) for all, tied (D, D).
    """

    concentration: Any = 4.0
    loc: Any = 0.0
    loc_scale: Any = 2.0
    scale: Any = 1.0
    correlation_concentration: Any = 1.0
    weights: Any = None
    locs: Any = None
    scales: Any = None
    correlation: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("concentration", "loc_scale", "scale"):
            self._require_numbers(name, lambda v: np.all(v > 0), "positive numbers, evenly nested")
        self._require_numbers("loc", lambda v: True, "numbers, evenly nested")
        self._require_numbers("correlation_concentration", lambda v: np.all(v >= 1), "numbers of at least 1")
        self._require_fixed("weights", lambda v: v.ndim == 1 and np.all(v > 0) and abs(v.sum() - 1) < 1e-6,
                            "None or positive numbers that sum to 1")  # fmt: skip
        self._require_fixed("locs", lambda v: v.ndim in (1, 2), "None or a list per component of numbers per column")
        self._require_fixed("scales", lambda v: np.all(v > 0), "None or positive numbers, evenly nested")
        self._require_fixed("correlation", _is_correlation, "None or correlation matrices")

    def _require_numbers(self, name: str, rule: Any, text: str) -> None:
        value = as_numbers(getattr(self, name))
        self.require(name, value is not None and value.size > 0 and bool(rule(value)), text)

    def _require_fixed(self, name: str, rule: Any, text: str) -> None:
        if getattr(self, name) is not None:
            self._require_numbers(name, rule, text)


@dataclasses.dataclass(frozen=True)
class GMM(Family):
    """A Gaussian mixture.

    :param num_components: how many components, or ``"auto"``: a truncated stick-breaking (Dirichlet process) prior
        whose unneeded components get next to no weight.
    :param covariance: ``"full"`` (a matrix per component), ``"tied"`` (one matrix for all), ``"diag"`` (a diagonal
        per component) or ``"spherical"`` (one number per component).
    :param prior: see :class:`GMMPrior`.
    :param max_components: the truncation of ``"auto"``.
    :param expected_components: what ``"auto"`` expects before it sees the data: the mean number of components that
        hold at least one of the training rows. Between 1 and half of ``max_components``, so that the truncation
        does not matter.
    :param covariance_floor: the least eigenvalue of a covariance that EM allows, in model space (where a column has
        variance 1). The likelihood of a mixture has no bound without one; a solution that touches it is degenerate.

    Sites: ``weights`` (K,), ``locs`` (K, D), ``scales`` ((K, D); tied (D,); spherical (K,)), ``corr_cholesky``
    (full (K, D, D); tied (D, D); else absent, as with one column); local: ``z``. A fixed site is ``deterministic``,
    and with one component so is ``weights``.
    """

    name: ClassVar[str] = "gmm"
    title: ClassVar[str] = "Gaussian mixture"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("real",)
    engines: ClassVar[tuple[str, ...]] = ("nuts", "svi", "em", "sgld", "hmc", "sghmc")

    num_components: int | str = 2
    covariance: str = "full"
    prior: GMMPrior = GMMPrior()
    max_components: int = 20
    expected_components: float = 5.0
    covariance_floor: float = 1e-6

    def __post_init__(self) -> None:
        from ppl_gen.models.gmm.hyperparameters import check_components

        super().__post_init__()
        if self.num_components != "auto":
            rule = "a whole number of at least 1, or 'auto'"
            whole = isinstance(self.num_components, int) and not isinstance(self.num_components, bool)
            self.require("num_components", whole and int(self.num_components) >= 1, rule)
        self.require_choice("covariance", COVARIANCES)
        self.require("prior", isinstance(self.prior, GMMPrior), "a GMMPrior")
        self.require_integer("max_components", 3)
        self.require_number("expected_components", 1.0)
        self.require("expected_components", self.expected_components <= self.max_components / 2,
                     f"at most half of max_components ({self.max_components})")  # fmt: skip
        self.require_number("covariance_floor", 0.0)
        check_components(self)

    @property
    def num_labels(self) -> int:
        """K, see :attr:`size`."""
        return self.size

    @property
    def is_auto(self) -> bool:
        """Whether the weights follow the stick-breaking prior."""
        return self.num_components == "auto"

    @property
    def size(self) -> int:
        """K: the number of components, or the truncation of ``"auto"``."""
        return self.max_components if self.is_auto else int(self.num_components)

    def check(self, data: Data) -> None:
        """The data must have at least as many rows, and distinct rows, as there are components.

        :raises DataError: too few rows.
        :raises SettingError: an array in the prior does not fit the number of columns.
        """
        from ppl_gen.models.gmm.hyperparameters import resolve

        super().check(data)
        resolve(self, data.num_columns, len(data))
        needed = 1 if self.is_auto else self.size
        if len(data) < needed:
            raise DataError(f"gmm with {needed} components needs at least {needed} rows, the table has {len(data)}.")
        if len(data) <= 100_000:
            x = np.where(data.mask, data.x, np.nan) if data.mask is not None else data.x
            distinct = len(np.unique(x, axis=0))
            if distinct < needed:
                raise DataError(
                    f"gmm with {needed} components needs at least {needed} different rows, the table has {distinct}."
                )

    def default_engine(self, data: Data) -> tuple[str, str]:
        """NUTS where sampling takes seconds to minutes; variational inference for ``"auto"``; else EM."""
        shape = f"{len(data):,} rows x {data.num_columns} columns"
        if self.is_auto:
            return "svi", f"{self.size} components of which most are empty: their posterior is hard to sample"
        if len(data) <= 2_000 and data.num_columns <= 10 and len(data) * data.num_columns * self.size <= 100_000:
            return "nuts", f"{shape} is small enough to sample the posterior"
        return "em", f"{shape} and {self.size} components are too much to sample in a few minutes"

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Full, tied and diagonal covariances, each with as many components as BIC says."""
        from ppl_gen.models.gmm.ladder import candidates

        return candidates(cls, data)

    @classmethod
    def lowest_bic(cls, ladder: Sequence[GMM], data: Data, seconds: float, seed: int) -> GMM | None:
        """By scikit-learn's mixtures, of complete rows without weights."""
        from ppl_gen.models.gmm.ladder import lowest_bic

        return lowest_bic(ladder, data, seconds, seed)

    def label_axes(self) -> Mapping[str, tuple[int, ...]]:
        """The component is the first axis of each site but the scales and correlations of ``"tied"``; none where the
        prior tells components apart, so that labels mean something and are not to be exchanged."""
        if self._tells_apart():
            return {}
        axes = {"weights": (0,), "locs": (0,)}
        if self.covariance != "tied":
            axes["scales"] = (0,)
        if self.covariance == "full":
            axes["corr_cholesky"] = axes["correlation"] = (0,)
        return axes

    def _tells_apart(self) -> bool:
        per_component = ["concentration", "loc", "loc_scale", "correlation_concentration", "weights", "locs"]
        per_component += [] if self.covariance == "tied" else ["scale", "scales"]
        values = [
            as_numbers(getattr(self.prior, name)) for name in per_component if getattr(self.prior, name) is not None
        ]
        if self.prior.correlation is not None and np.ndim(self.prior.correlation) == 3:
            values.append(np.asarray(self.prior.correlation))
        return any(value is not None and value.ndim > 0 and bool(np.ptp(value, axis=0).any()) for value in values)

    def site_dims(self) -> Mapping[str, tuple[str, ...]]:
        """See :meth:`Family.site_dims <ppl_gen.family.Family.site_dims>`."""
        lead = () if self.covariance == "tied" else ("component",)
        return {
            "weights": ("component",), "locs": ("component", "column"),
            "scales": lead if self.covariance == "spherical" else (*lead, "column"),
            "correlation": (*lead, "column", "column_other"),
        }  # fmt: skip

    def to_original(self, posterior: Mapping[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
        """Locations and standard deviations in the units of the table, and correlations."""
        from ppl_gen.models.gmm.units import to_original

        return to_original(self, posterior, schema)

    def ellipses(
        self, posterior: Mapping[str, np.ndarray], schema: Schema
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, centres and covariances of the components in the units of the table."""
        from ppl_gen.models.gmm.units import ellipses

        return ellipses(self, posterior, schema)

    def num_parameters(self, num_columns: int) -> int:
        """Free parameters: weights K - 1, locations K D, and those of the covariances; fixed ones do not count."""
        k, d, prior = self.size, num_columns, self.prior
        scales = {"full": k * d, "tied": d, "diag": k * d, "spherical": k}[self.covariance]
        correlations = {"full": k, "tied": 1}.get(self.covariance, 0) * d * (d - 1) // 2
        counts = {"weights": k - 1, "locs": k * d, "scales": scales, "correlation": correlations}
        return sum(count for name, count in counts.items() if getattr(prior, name) is None)
