"""What a family is, what a pair is, and where they are found."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_gen.errors import DataError, SettingError, did_you_mean
from ppl_gen.registry import import_backend
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.data import Data, Schema, View
    from ppl_gen.labels import Label

BACKENDS = ("numpyro", "pyro")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model and a guide in one PPL, with the hooks that the family's algebra offers to engines.

    ``model(data, *, num_obs=None, subsample_size=None)`` is a plain function of the PPL: ``data`` is a
    :class:`~ppl_gen.data.View` of arrays (or None to draw ``num_obs`` new observations), the observed site is
    ``x``, the plate over observations is ``obs``. ``guide`` takes the same arguments. A conditional model p(x | y)
    draws a row for each row of ``View(None, context=y)``.

    Optional hooks; an engine asks for the hook, never for the family. Parameters are dictionaries of constrained
    site values, without a batch dimension:

    ``collapsed``      the model with its discrete latents summed out in closed form, same signature
    ``initialize``     ``(view, seed, num_starts) -> {site: (num_starts, *shape)}``, numpy, from the data
    ``e_step``         ``(parameters, view) -> (log_prob (n,), statistics)``: row log densities, and expected
                       sufficient statistics that add up over rows (already multiplied by the row weights)
                       (of sequences with a context, which may be kept by time step, those of all rows at once)
    ``m_step``         ``(parameters, statistics, objective) -> parameters``; objective ``"map"`` or ``"ml"``.
                       Never lowers the objective.
    ``log_prior``      ``(parameters, objective) -> scalar``: log prior in the coordinates in which ``m_step`` is
                       monotone for ``"map"``, 0 for ``"ml"``
    ``is_degenerate``  ``(parameters) -> bool array``: whether a solution sits on the boundary of its space
    ``make_guide``     ``(kind, values=None) -> guide``: a guide of the kind ``"mean_field"`` or ``"multivariate"``
                       over the non-enumerated latents, centred on the given constrained values at first
    ``log_prob_error``  ``(parameters, view) -> (n,)``: how far the log density of each row may be off, in nats, where
                       it is computed by a solver or an estimate; None where it is exact
    ``has_weights``    whether its parameters are network weights, ``param`` sites that SVI fits by maximum likelihood,
                       an ensemble of members at once; their starts are those of ``initialize``
    ``from_uniform``   ``(parameters, u) -> x``: rows, or sequences, from uniform numbers u in [0, 1) of their shape
    ``to_uniform``     ``(parameters, view) -> (*x.shape, 2)``: between which numbers each entry's u lies, F(x-) and
                       F(x) given the entries before it; equal of real columns
    ``local``          sites inside ``obs`` that the guide proposes: log p(x) is then estimated by importance sampling
    ``label``          a discrete site beside ``local`` that is summed out: ``local`` is proposed for each of its values
    ``idle``           ``(view) -> names`` of the weights that this view does not read: training leaves them out
    ``beta``           weight of the terms of ``local`` in the training objective of weights; scores ignore it
    ``decode``         ``(parameters, View(latents (n, L), context=y)) -> {"typical": x, "expected": x}``, each (n, D):
                       rows with these values of ``local``, as they would stand in a table, and with probabilities in
                       binary columns; after a latent stand shares of a ``label``. Who has it has codes as local latents
    ``walk``           ``(parameters, view, key) -> (C, T, *row)``: the states of C Markov chains, which the site
                       ``chain`` holds after training
    ``score_function``  ``(parameters, view) -> (n, D)``: gradient of log densities by x, NaN where there is none
    ``bayesian``       whether those weights have priors and are sample sites instead, for any engine

    Of a family of sequences, N of up to T steps with K hidden states (backends map them over draws):

    ``step_log_prob``       ``(parameters, view) -> (N, T)``: log p(x_t | x_1..t-1), 0 past the end; sums to log p(x)
    ``filtered``            ``(parameters, view) -> (N, T, K)``: p(z_t | x_1..t)
    ``smoothed``            ``(parameters, view) -> (N, T, K)``: p(z_t | x)
    ``most_probable_path``  ``(parameters, view) -> (N, T)``: the path of largest joint density
    ``sample_paths``        ``(parameters, view, key) -> (N, T)``: a draw of the path given x
    ``forecast``            ``(parameters, view, horizon, key) -> {"z": (N, horizon), "x": (N, horizon, D)}``: a draw
                            of the continuation

    ``key`` is the backend's source of randomness: a key in NumPyro, a seed in Pyro. Of hooks that these options rule
    out, ``lacking`` says why, and what to change.
    """

    family: Family
    backend: str
    model: Callable[..., Any]
    guide: Callable[..., Any] | None = None
    data: View | None = None
    collapsed: Callable[..., Any] | None = None
    initialize: Callable[..., Mapping[str, Any]] | None = None
    e_step: Callable[..., Any] | None = None
    m_step: Callable[..., Any] | None = None
    log_prior: Callable[..., Any] | None = None
    is_degenerate: Callable[..., Any] | None = None
    make_guide: Callable[..., Callable[..., Any]] | None = None
    has_weights: bool = False
    from_uniform: Callable[..., Any] | None = None
    to_uniform: Callable[..., Any] | None = None
    local: tuple[str, ...] = ()
    label: Label | None = None
    idle: Callable[[Any], tuple[str, ...]] | None = None
    beta: float = 1.0
    decode: Callable[..., Any] | None = None
    walk: Callable[..., Any] | None = None
    score_function: Callable[..., Any] | None = None
    bayesian: bool = False
    log_prob_error: Callable[..., Any] | None = None
    step_log_prob: Callable[..., Any] | None = None
    filtered: Callable[..., Any] | None = None
    smoothed: Callable[..., Any] | None = None
    most_probable_path: Callable[..., Any] | None = None
    sample_paths: Callable[..., Any] | None = None
    forecast: Callable[..., Any] | None = None
    lacking: Mapping[str, str] = dataclasses.field(default_factory=dict)
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def density(self) -> Callable[..., Any]:
        """The form of the model that engines use: collapsed where there is one."""
        return self.collapsed or self.model

    @property
    def has_priors(self) -> bool:
        """Whether the parameters have priors: all have, but for network weights that are fitted by likelihood alone."""
        return self.bayesian or not self.has_weights

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave when it was last asked for under this key: a program compiles once a pair."""
        if key not in self.programs:
            self.programs[key] = make()
        return self.programs[key]


@dataclasses.dataclass(frozen=True)
class Family(Settings):
    """A generative family: hyperparameters only. ``GMM(...)`` computes nothing.

    A family's folder under ``models/`` holds this class in its ``__init__.py`` and one ``<backend>_pair.py`` per
    backend that exports ``build_pair(family, schema, num_obs) -> Pair``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    density: ClassVar[str]  # "exact", "importance", "unnormalised" or "implicit"
    kinds: ClassVar[tuple[str, ...]]  # the column kinds that it models
    engines: ClassVar[tuple[str, ...]]  # those that fit it, the preferred one first
    sequences: ClassVar[bool] = False  # whether an observation is a sequence of time steps, not a row
    min_rows: ClassVar[int] = 2  # or sequences, or of networks time steps
    allows_missing: ClassVar[bool] = True  # whether missing entries are integrated out
    verbs: ClassVar[tuple[str, ...]] = ()  # of impute, reconstruct, interpolate, score_function: its fits'
    conditions_sequences: ClassVar[bool] = False  # whether condition_on is for sequences too

    def __post_init__(self) -> None:
        super().__post_init__()
        names: Any = self.condition_on
        if isinstance(names, str):  # several in one text, as the command line has them
            names = tuple(next(csv.reader([names], skipinitialspace=True), []))
            object.__setattr__(self, "condition_on", names)
        ok = isinstance(names, tuple) and all(isinstance(name, str | int) and name != "" for name in names)
        self.require("condition_on", ok and len(set(names)) == len(names), "different names of columns")

    @property
    def condition_on(self) -> tuple[str | int, ...]:
        """The columns that are conditioned on: a family of conditional densities p(x | y) has a field of this name. A
        text may name several, ``"dose, site"``; a name with a comma in it goes in a tuple, or in double quotes."""
        return ()

    @property
    def label(self) -> str | int | None:
        """The column that labels some of the rows: a semi-supervised family has a field of this name."""
        return None

    @property
    def num_labels(self) -> int:
        """How many values a discrete local latent has; 0 where there is none."""
        return 0

    def density_for(self, schema: Schema) -> str:
        """The kind of density that it has for these columns: :attr:`density` as a rule."""
        return self.density

    @property
    def accepts(self) -> tuple[str, ...]:
        """The column kinds that it models with these hyperparameters."""
        return self.kinds

    def pair(self, backend: str, table: Any, **data_options: Any) -> Pair:
        """The model/guide pair for a table, ready for the PPL's own ``SVI`` or ``MCMC``.

        :param backend: ``"numpyro"`` or ``"pyro"``.
        :param table: whatever :meth:`Data.from_table <ppl_gen.data.Data.from_table>` reads, or a ``Data``.
        :raises DataError: the table does not fit this family.
        """
        data = self.prepare(table, **data_options)
        return self.build(backend, data.schema, len(data), data.view(backend))

    def build(self, backend: str, schema: Schema, num_obs: int, view: View | None = None) -> Pair:
        """The pair for a schema; ``num_obs`` is the number of training rows (a prior may depend on it)."""
        if backend not in BACKENDS:
            raise SettingError(f"Unknown backend {backend!r}: {did_you_mean(backend, BACKENDS)}")
        return dataclasses.replace(_build(self, backend, schema.without_units(), num_obs), data=view)

    def prepare(self, table: Any, **data_options: Any) -> Data:
        """The table as :class:`~ppl_gen.data.Data` whose columns have kinds that this family models.

        :raises SettingError: ``sequence`` or ``order`` is given, but this family models rows.
        """
        from ppl_gen.conditions import condition
        from ppl_gen.data import Data

        if self.sequences and self.condition_on and not self.conditions_sequences:
            raise SettingError("condition_on is for tables whose rows are observations, not for sequences.")
        if isinstance(table, Data):
            if table.schema.is_sequence != self.sequences:
                given, wanted = ("sequences", "rows")[:: -1 if self.sequences else 1]
                how = f"pass the table itself, or Data.from_table(..., as_sequence={self.sequences})"
                raise DataError(f"{self.name} models {wanted}, but these data were read as {given}: {how}.")
            data = condition(table, self.condition_on).promote(self.accepts, self.name, self.label)
        else:
            for name in ("sequence", "order", "as_sequence"):
                if not self.sequences and data_options.get(name):
                    raise SettingError(f"{name}= is for families that model sequences; {self.name} models rows.")
            own = {"as_sequence": self.sequences, "condition_on": self.condition_on, "label": self.label}
            data = Data.from_table(table, accept=self.accepts, accept_for=self.name, **{**data_options, **own})
        self.check(data)
        return data

    def check(self, data: Data) -> None:
        """Raise a :class:`DataError` where the data can't be fitted (too few rows, say)."""
        if len(data) < Family.min_rows:
            raise DataError(f"{self.name} needs at least {Family.min_rows} {data.unit}s, the table has {len(data)}.")

    def refuse_missing(self, data: Data) -> None:
        """Raise a :class:`DataError` where an entry is missing and this family can't integrate it out."""
        if not (self.allows_missing or data.mask is None or data.mask.all()):
            from ppl_gen.selection import missing_refused

            raise missing_refused(self.name, data)

    def default_engine(self, data: Data) -> tuple[str, str]:
        """The name of the engine to use on this data, and the reason in a few words."""
        return self.engines[0], f"the usual engine for {self.name}"

    def label_axes(self) -> Mapping[str, tuple[int, ...]]:
        """For each site, the axes of its event shape that are indexed by an exchangeable label; {} if none is."""
        return {}

    def component_axes(self) -> Mapping[str, tuple[int, int]]:
        """For each site, the axes of its event shape that are indexed by the label and by a component within the label,
        where those are exchangeable as well (a mixture of mixtures); {} if none is."""
        return {}

    def component_probs(
        self, posterior: Mapping[str, np.ndarray], schema: Schema, x: np.ndarray, mask: np.ndarray | None
    ) -> np.ndarray | None:
        """p(component m | label k, row): (S, P, K, M) of flat draws {site: (S, *event shape)} at rows or time steps x
        (P, d) of model space, whose missing entries are False in ``mask``; None without ``component_axes``."""
        return None

    def site_dims(self) -> Mapping[str, tuple[str, ...]]:
        """For each site, the names of its event axes. ``column`` and ``column_other`` get the table's column names as
        coordinates (a site with both is a symmetric matrix), ``real_column`` those of the columns of a kind,
        ``category_<j>`` the labels of column j; any other name (``component``, ``state``) gets numbers; a site that is
        not named gets both."""
        return {}

    def to_original(self, posterior: Mapping[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
        """The draws {site: (..., *event shape)} in the table's units, for sites of which that has a meaning."""
        return dict(posterior)

    def ellipses(
        self, posterior: Mapping[str, np.ndarray], schema: Schema
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Gaussian components for a picture, in the table's units, for flat draws {site: (S, *event shape)}: weights
        (S, K), centres (S, K, D) and covariances (S, K, D, D); None where the family has no such components."""
        return None

    def one_step_cdf(
        self, posterior: Mapping[str, np.ndarray], filtered: np.ndarray, data: Data
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Of sequences: F(x-) and F(x), each (R, d), of every entry given the steps before it, averaged over flat draws
        {site: (S, *event shape)} whose filtered states are (S, R, K); None where there is no distribution function."""
        return None

    def step_transitions(self, posterior: Mapping[str, np.ndarray], context: np.ndarray) -> np.ndarray | None:
        """Of sequences with hidden states: the transition matrices (S, R, K, K) of the steps that follow time steps
        with these values (R, C) of what is conditioned on, under flat draws; None where there are none."""
        return None

    def num_free(self, schema: Schema) -> int | None:
        """:meth:`num_parameters` for these columns; a family whose parameters depend on their kinds overrides it."""
        return self.num_parameters(schema.num_columns)

    def num_parameters(self, num_columns: int) -> int | None:
        """Free parameters of a maximum likelihood fit, for AIC and BIC; None where that has no meaning."""
        return None


@lru_cache(maxsize=32)
def _build(family: Family, backend: str, schema: Schema, num_obs: int) -> Pair:
    """Pairs are kept, so that refits (folds, replications, a second fit) meet their compiled programs again."""
    module = import_backend(type(family).__module__, f"{backend}_pair", backend)
    return module.build_pair(family, schema, num_obs)
