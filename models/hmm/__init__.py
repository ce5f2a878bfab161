r"""Hidden Markov model: a sequence whose hidden state follows a Markov chain of K states.

.. math::
    \pi &\sim \mathrm{Dirichlet}(\alpha_0), \quad A_{k\cdot} \sim \mathrm{Dirichlet}(\alpha + \kappa e_k), \quad
    \phi_k \sim p(\phi), \\
    z_1 &\sim \mathrm{Categorical}(\pi), \quad z_t \mid z_{t-1} = k \sim \mathrm{Categorical}(A_{k\cdot}), \quad
    x_t \mid z_t = k \sim p(x_t \mid \phi_k)

One observation is one whole sequence. Its path z is summed out exactly, by the forward recursion

.. math:: \alpha_t(j) = p(x_t \mid \phi_j) \sum_k \alpha_{t-1}(k) A_{kj}, \quad p(x_{1:T}) = \sum_k \alpha_T(k).

Missing time steps, and missing columns of a step, are integrated out exactly: they leave their factor out.

With columns :math:`y_t` that are conditioned on, the step from t to t + 1 has probabilities of its own

.. math:: A_t(k, j) = \mathrm{softmax}_j \left( \log A_{kj} + B_{kj} \cdot y_t \right), \quad
    B_{kjc} \sim \mathrm{Normal}(0, \sigma),

a multinomial logit for each state, A being those where all covariates are 0: at their means, as real ones are
standardized.

References: Rabiner 1989, Proc. IEEE 77 (recursions, Viterbi, Baum-Welch); Zucchini, MacDonald & Langrock, *Hidden
Markov Models for Time Series* (2016) (stationary starts, pseudo-residuals); Fox, Sudderth, Jordan & Willsky 2011, Ann.
Appl. Stat. 5 (sticky prior); Frühwirth-Schnatter 2006, *Finite Mixture and Markov Switching Models*; Hughes, Guttorp
& Charles 1999, Appl. Stat. 48, and Visser & Speekenbrink 2010, J. Stat. Softw. 36(7) (transitions by covariates).
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

__all__ = ["HMM", "HMMPrior"]

REAL = ("gaussian", "gaussian_full", "student_t", "mixture")
KIND_OF = dict.fromkeys(REAL, "real") | {"poisson": "count", "bernoulli": "binary", "categorical": "categorical"}
EMISSIONS = (*KIND_OF, "auto")
MAX_CATEGORICAL = 256  # categorical columns
INITIALS = ("free", "stationary", "uniform", "none")
FIXABLE = ("initial_probs", "transition_matrix", "locs", "scales", "rates", "probs", "df", "mixture_weights")


@dataclasses.dataclass(frozen=True)
class HMMPrior(Settings):
    """The prior, in model space: real columns are standardized unless the table was read with ``standardize=False``.

    Each hyperparameter is a number, a list with one number per state, or a nested list ``[states][columns]``;
    ``[[...]]`` with one row gives one value per column.

    :param initial_concentration: of the Dirichlet over the first state; 1 is uniform.
    :param transition_concentration: of the Dirichlet over each row of the transition matrix; 1 is uniform.
    :param stickiness: added to that of staying in the same state (Fox et al. 2011); 0 has no preference.
    :param loc: means of the normal prior of the locations. The default is the mean of the data.
    :param loc_scale: standard deviations of that prior; 2 covers a standardized column with its tails.
    :param scale: scales of the half-normal prior of each state's standard deviations.
    :param correlation_concentration: of the LKJ prior of ``"gaussian_full"``, at least 1; 1 is uniform.
    :param df_concentration, df_rate: of the gamma prior of the degrees of freedom of ``"student_t"`` (Juárez & Steel
        2010, J. Bus. Econ. Stat. 28).
    :param rate_concentration, rate_rate: of the gamma prior of ``"poisson"`` rates, in counts; by default exponential
        with mean 100.
    :param prob_concentration: both parameters of the beta prior of ``"bernoulli"`` probabilities; 1 is uniform.
    :param category_concentration: of the Dirichlet over the categories of ``"categorical"``; 1 is uniform.
    :param coef_scale: standard deviations of the normal prior of ``transition_coefs``, for covariates in model space.
    :param mixture_concentration: of the Dirichlet over the components within each state of ``"mixture"``.
    :param initial_probs, transition_matrix, mixture_weights: fixed rows of probabilities that sum to 1, which then are
        not inferred.
    :param locs, scales, rates, probs, df: fixed values, which then are not inferred: a number, one per state, or the
        whole array.
    """

    initial_concentration: Any = 1.0
    transition_concentration: Any = 1.0
    stickiness: Any = 0.0
    loc: Any = 0.0
    loc_scale: Any = 2.0
    scale: Any = 1.0
    correlation_concentration: Any = 1.0
    df_concentration: Any = 2.0
    df_rate: Any = 0.1
    rate_concentration: Any = 1.0
    rate_rate: Any = 0.01
    prob_concentration: Any = 1.0
    category_concentration: Any = 1.0
    mixture_concentration: Any = 2.0
    coef_scale: Any = 1.0
    initial_probs: Any = None
    transition_matrix: Any = None
    locs: Any = None
    scales: Any = None
    rates: Any = None
    probs: Any = None
    df: Any = None
    mixture_weights: Any = None

    def __post_init__(self) -> None:
        from ppl_gen.models.hmm.hyperparameters import check_prior

        super().__post_init__()
        check_prior(self)


@dataclasses.dataclass(frozen=True)
class HMM(Family):
    """A hidden Markov model.

    :param num_states: K.
    :param emission: what a state says about a time step: ``"gaussian"`` (independent columns), ``"gaussian_full"`` (a
        covariance matrix per state), ``"student_t"``, ``"mixture"`` (of ``num_mixtures`` normals per state),
        ``"poisson"`` (counts), ``"bernoulli"`` (binary columns), ``"categorical"``, or ``"auto"``: each column by its
        kind (real gaussian, count poisson, binary bernoulli, categorical).
    :param initial: the first state's distribution: ``"free"`` (inferred), ``"stationary"`` (that of the transition
        matrix), ``"uniform"``, or ``"none"``: every first state has weight 1, so the density is not normalized.
    :param num_mixtures: components within each state of ``"mixture"``.
    :param prior: see :class:`HMMPrior`.
    :param covariance_floor: the least variance (least eigenvalue of a covariance) that EM allows, in model space.
    :param condition_on: columns of the table, of any kind, that are not modelled: they are covariates of the
        transitions. Those of a time step govern the step to the next one.

    Sites: ``initial_probs`` (K,) where free, ``transition_matrix`` (K, K), with covariates ``transition_coefs``
    (K, K, C), and of the emission ``locs``, ``scales`` (K, D), ``corr_cholesky`` (K, D, D), ``df`` (K,),
    ``mixture_weights`` (K, M) with ``locs``, ``scales`` (K, M, D), ``rates`` (K, D), ``probs`` (K, D),
    ``category_probs_<column number>`` (K, C); local: ``z``. A fixed site is ``deterministic``.

    :raises SettingError: a value is out of range, or has no effect beside the others.
    """

    name: ClassVar[str] = "hmm"
    title: ClassVar[str] = "Hidden Markov model"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("real", "count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("nuts", "svi", "em", "sgld", "hmc", "sghmc")
    sequences: ClassVar[bool] = True
    conditions_sequences: ClassVar[bool] = True

    num_states: int = 2
    emission: str = "gaussian"
    initial: str = "free"
    num_mixtures: int = 2
    prior: HMMPrior = HMMPrior()
    covariance_floor: float = 1e-6
    condition_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from ppl_gen.models.hmm.effects import check_effects

        super().__post_init__()
        self.require_integer("num_states", 1)
        self.require_choice("emission", EMISSIONS)
        self.require_choice("initial", INITIALS)
        self.require_integer("num_mixtures", 1)
        self.require("prior", isinstance(self.prior, HMMPrior), "an HMMPrior")
        self.require_number("covariance_floor", 0.0)
        check_effects(self)

    @property
    def num_labels(self) -> int:
        """K."""
        return self.num_states

    @property
    def accepts(self) -> tuple[str, ...]:
        """The column kinds that this emission models."""
        return self.kinds if self.emission == "auto" else (KIND_OF[self.emission],)

    def check(self, data: Data) -> None:
        """There must be at least as many time steps, and different ones, as there are states.

        :raises DataError: too few time steps.
        :raises SettingError: an array in the prior does not fit the number of states or columns, or a hyperparameter
            is of a kind of column that the table has none of.
        """
        from ppl_gen.models.hmm.hyperparameters import resolve

        resolve(self, data.schema)
        seen = len(data.x) if data.target_mask is None else int(data.target_mask.any(1).sum())
        if seen < 2:
            raise DataError(f"hmm needs at least 2 observed time steps, the table has {seen}.")
        if seen < self.num_states:
            raise DataError(
                f"hmm with {self.num_states} states needs at least {self.num_states} observed time steps, "
                f"the table has {seen}."
            )

    def default_engine(self, data: Data) -> tuple[str, str]:
        """NUTS where sampling takes seconds to minutes, else EM."""
        steps = len(data.x)
        shape = f"{steps:,} time steps in {len(data):,} sequence{'s' * (len(data) > 1)}"
        if self.emission == "student_t" and self.prior.df is None and steps * self.num_states > 10_000:
            return "svi", f"{shape} are too much to sample in a few minutes, and degrees of freedom have no EM"
        if steps * self.num_states <= 10_000 and self.num_states <= 6:
            return "nuts", f"{shape} and {self.num_states} states are few enough to sample the posterior"
        return "em", f"{shape} and {self.num_states} states are too much to sample in a few minutes"

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Emissions by the kinds of columns, each with as many states as BIC says."""
        from ppl_gen.models.hmm.ladder import candidates

        return candidates(cls, data)

    def label_axes(self) -> Mapping[str, tuple[int, ...]]:
        """The state is the first axis of each site, and the second of the transition matrix too; none where the prior
        tells states apart, so that labels mean something and are not to be exchanged."""
        from ppl_gen.models.hmm.hyperparameters import tells_apart

        if tells_apart(self.prior):
            return {}
        names = [*FIXABLE, "corr_cholesky", "correlation", *(f"category_probs_{j}" for j in range(MAX_CATEGORICAL))]
        return {**dict.fromkeys(names, (0,)), "transition_matrix": (0, 1), "transition_coefs": (0, 1)}

    def component_axes(self) -> Mapping[str, tuple[int, int]]:
        """Of ``"mixture"`` the second axis of locations, scales and weights; none where the prior tells components
        apart."""
        from ppl_gen.models.hmm.components import tells_components_apart

        if self.emission != "mixture" or self.num_mixtures < 2 or tells_components_apart(self.prior):
            return {}
        return dict.fromkeys(("locs", "scales", "mixture_weights"), (0, 1))

    def component_probs(
        self, posterior: Mapping[str, np.ndarray], schema: Schema, x: np.ndarray, mask: np.ndarray | None
    ) -> np.ndarray:
        """See :func:`ppl_gen.models.hmm.components.component_probs`."""
        from ppl_gen.models.hmm.components import component_probs

        return component_probs(self, posterior, schema, x, mask)

    def site_dims(self) -> Mapping[str, tuple[str, ...]]:
        """See :meth:`Family.site_dims <ppl_gen.family.Family.site_dims>`."""
        each = ("state", "component") if self.emission == "mixture" else ("state",)
        real, count, binary = ("column",) * 3
        if self.emission == "auto":  # a site covers the columns of one kind only, which go by number
            real, count, binary = "real_column", "count_column", "binary_column"
        return {
            "initial_probs": ("state",), "transition_matrix": ("state", "next_state"),
            "transition_coefs": ("state", "next_state", "condition"), "locs": (*each, real),
            "scales": (*each, real), "correlation": ("state", "column", "column_other"), "df": ("state",),
            "mixture_weights": each, "rates": ("state", count), "probs": ("state", binary),
        } | {f"category_probs_{j}": ("state", f"category_{j}") for j in range(MAX_CATEGORICAL)}  # fmt: skip

    def to_original(self, posterior: Mapping[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
        """Locations and standard deviations in the units of the table, and correlations."""
        from ppl_gen.models.hmm.units import to_original

        return to_original(self, posterior, schema)

    def one_step_cdf(
        self, posterior: Mapping[str, np.ndarray], filtered: np.ndarray, data: Data
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`ppl_gen.models.hmm.residuals.one_step_cdf`."""
        from ppl_gen.models.hmm.residuals import one_step_cdf

        return one_step_cdf(self, posterior, filtered, data)

    def step_transitions(self, posterior: Mapping[str, np.ndarray], context: np.ndarray) -> np.ndarray:
        """See :meth:`Family.step_transitions <ppl_gen.family.Family.step_transitions>`."""
        from ppl_gen.models.hmm.residuals import step_transitions

        return step_transitions(posterior, context)

    def num_free(self, schema: Schema) -> int:
        """Free parameters of a maximum likelihood fit: first state, transition matrix, emissions; fixed ones do not
        count."""
        from ppl_gen.models.hmm.hyperparameters import num_parameters, resolve

        return num_parameters(resolve(self, schema))
