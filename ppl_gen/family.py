"""What a family is, and how its pairs are built."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_gen.errors import DataError, SettingError, did_you_mean
from ppl_gen.pair import Pair as Pair
from ppl_gen.registry import import_backend
from ppl_gen.settings import Settings

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema, View

BACKENDS = ("numpyro", "pyro")


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
    def guide_advice(self) -> str:
        """What to do where importance sampling with the guide of local latents as proposal can't tell the density."""
        return "train longer (max_steps)"

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

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """What a comparison without named models tries of this family on data like these: itself, as it is by default,
        unless a family says more."""
        from ppl_gen.candidates import Candidate

        return [Candidate(cls.name, (cls(),))]

    @classmethod
    def lowest_bic(cls, ladder: Sequence[Any], data: Data, seconds: float, seed: int) -> Any:
        """Of a :class:`~ppl_gen.candidates.Candidate`'s ladder the family with the lowest BIC on these data, found in
        about so many seconds, where this family has a quicker way than to fit each; else None."""
        return None

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

    def filters(self, posterior: Mapping[str, np.ndarray], schema: Schema) -> tuple[list[str], np.ndarray] | None:
        """Of flat draws {site: (S, *event shape)} with H binary hidden units: names of what they read, in the order of
        the columns, and how much the log odds of each rise with it (S, F, H), per standard deviation of a real column,
        from 0 to 1 of a binary one and of a categorical one with each label; None where there are no such units."""
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
