"""What a comparison without named models tries: the families that suit the table, and why the others don't.

A family says itself which of its configurations are worth trying (``candidates(data)`` of
:class:`~ppl_gen.family.Family`), so that a new folder under ``models/`` joins by itself.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_gen.errors import DataError, PPLGenError, SettingError

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Engine
    from ppl_gen.family import Family

QUICK, LATER, LAST = 0, 1, 2  # when a candidate has its turn
FEW = 1_500  # rows below which networks are small
WORSE = 2  # rungs in a row with no lower BIC at which the climb of a ladder ends
MANY_LABELS = 0.5  # of the rows: a column of more different labels tells rows apart, and can't be learnt
FEW_LABELS = 10  # that a column of few rows may have in any case
MANY_VALUES = 50  # whole numbers of more different values than this are read as real by all models


NO_DENSITY = ("it has no density; a surrogate by annealed importance sampling can stand for it: ask with "
              "surrogate='ais'.")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that a comparison tries.

    ``name``      as it stands in the table
    ``ladder``    a family, or several that differ in size, smallest first, all fitted by maximum likelihood: the one
                  with the lowest BIC (Schwarz 1978, Ann. Stat. 6) on the rows it is fitted to is taken
    ``engine``    its name, or None: as the family chooses; ``settings`` are those of it
    ``turn``      when it is tried: quick and sure ones first
    ``share``     of the time budget, relative to the others
    ``least``     seconds below which it is not worth starting
    """

    name: str
    ladder: tuple[Family, ...]
    engine: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    backend: str | None = None
    turn: int = LATER
    share: float = 1.0
    least: float = 8.0

    @property
    def family(self) -> Family:
        """The family, whose size is not yet chosen."""
        return self.ladder[0]

    def make_engine(self, family: Family, data: Data) -> Engine:
        """The engine with its settings."""
        from ppl_gen import registry

        name = family.default_engine(data)[0] if self.engine is None else self.engine
        return registry.engine(name)().replace(**self.settings)

    def to_config(self) -> dict[str, Any]:
        """What decides its numbers, as plain JSON values."""
        return {
            "name": self.name, "family": self.family.name, "ladder": [family.to_config() for family in self.ladder],
            "engine": self.engine, "backend": self.backend,
            "settings": {key: getattr(value, "to_config", lambda v=value: v)() for key, value in self.settings.items()},
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A family, or one of its configurations, that was not tried or did not come to an end; and why, in a sentence."""

    model: str
    why: str


def choose(data: Data, surrogate: Any = None) -> tuple[list[Candidate], list[LeftOut]]:
    """The candidates for these data, those that have their turn first in front; and the families that do not suit.

    :param surrogate: what stands for the density of an implicit family; without it such families are left out.
    :raises SettingError: no family suits.
    """
    from ppl_gen import registry

    found: list[Candidate] = []
    without: list[LeftOut] = []
    kinds: dict[str, Any] = registry.families()
    for name, kind in sorted(kinds.items()):
        if kind.density == "implicit" and surrogate is None:
            why = unsuited(kind(), data) or NO_DENSITY
            without.append(LeftOut(name, why))
            continue
        reasons = []
        for candidate in kind.candidates(data):
            why = unsuited(candidate.family, data)
            if why:
                reasons.append(LeftOut(candidate.name, why))
            else:
                found.append(candidate)
        if reasons and len({each.why for each in reasons}) == 1:
            reasons = [LeftOut(name if len(reasons) == len(kind.candidates(data)) else reasons[0].model,
                               reasons[0].why)]  # fmt: skip
        without += reasons
    if not found:
        why = "; ".join(f"{each.model}: {each.why}" for each in without)
        raise SettingError(f"No family suits this table. {why}")
    return sorted(found, key=lambda each: each.turn), without


def unsuited(family: Family, data: Data) -> str:
    """Why a family can't model these data as they are read, in a sentence; empty where it can."""
    if data.lengths is None and family.sequences:
        return "it models sequences of time steps: name the column that orders them (order=, sequence=)."
    if data.lengths is not None and not family.sequences:
        return "it models rows, and these are sequences of time steps."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns that it may turn out not to be tried on
            prepared = family.prepare(data)
        family.refuse_missing(prepared)
    except PPLGenError as error:
        return str(error)
    widened = [
        (ours, theirs) for ours, theirs in zip(data.schema.columns, prepared.schema.columns, strict=True)
        if ours.kind != theirs.kind
    ]  # fmt: skip
    if widened:
        ours, theirs = widened[0]
        return (
            f"it would read column {ours.name!r}, of kind {ours.kind}, as {theirs.kind}, whose density can't be "
            f"ranked with probabilities: kinds={{{ours.name!r}: '{theirs.kind}'}} reads it so for all."
        )
    return ""


def read(table: Any, options: Mapping[str, Any]) -> tuple[Data, tuple[str, ...]]:
    """The table as every candidate is to read it, and what to tell about it.

    Kinds are the same for all, as a density and a probability can't be ranked. Whole numbers of many different values
    (:data:`MANY_VALUES`) whose kind is not given are read as real, which every family models.
    """
    from ppl_gen.data import Data

    if isinstance(table, Data):
        return table, ()
    is_sequence = any(options.get(name) is not None for name in ("sequence", "order")) or options.get("as_sequence")
    data = Data.from_table(table, **options)
    given = dict(options.get("kinds") or {})
    _refuse_identifiers(data, given)
    many = [
        column.name for j, column in enumerate(data.schema.columns)
        if column.kind == "count" and column.name not in given and _distinct(data, j) > MANY_VALUES
    ]  # fmt: skip
    if not many or data.schema.image is not None or is_sequence:
        return data, ()
    data = Data.from_table(table, **{**options, "kinds": {**given, **dict.fromkeys(many, "real")}})
    names, verb = ", ".join(map(repr, many[:5])) + (", ..." if len(many) > 5 else ""), "s" * (len(many) > 1)
    return data, (f"Column{verb} {names} hold{'s' * (len(many) == 1)} whole numbers of more than {MANY_VALUES} values: "
                  f"read as real by all models (kinds={{{many[0]!r}: 'count'}} keeps counts).",)  # fmt: skip


def _refuse_identifiers(data: Data, given: Mapping[str, Any]) -> None:
    """Raise of labels that hardly ever come twice, unless their kind is given: held-out rows have others."""
    for column in data.schema.columns:
        labels = len(column.categories or ())
        if (
            column.kind == "categorical"
            and column.name not in given
            and labels > max(MANY_LABELS * data.num_steps, FEW_LABELS)
        ):
            raise DataError(
                f"Column {column.name!r} has {labels:,} different labels in {data.num_steps:,} rows, as names, "
                f"identifiers and dates have: no model can foresee those of others. Drop it (drop=[{column.name!r}]), "
                f"or turn it into numbers; kinds={{{column.name!r}: 'categorical'}} keeps it as it is."
            )


def _distinct(data: Data, column: int) -> int:
    import numpy as np

    return len(np.unique(data.x[:, column]))


def named(models: Mapping[str, Family], engines: Mapping[str, Engine | str | None],
          backends: Mapping[str, str | None]) -> list[Candidate]:  # fmt: skip
    """Models that were named, as candidates that share the time evenly."""
    return [
        Candidate(name, (family,), _name_of(engines[name]), _settings(engines[name]), backends[name], turn=QUICK)
        for name, family in models.items()
    ]  # fmt: skip


def _name_of(engine: Engine | str | None) -> str | None:
    return engine if engine is None or isinstance(engine, str) else engine.name


def _settings(engine: Any) -> dict[str, Any]:
    """The settings of an engine that differ from its defaults."""
    if engine is None or isinstance(engine, str):
        return {}
    return {
        field.name: getattr(engine, field.name) for field in dataclasses.fields(engine)
        if getattr(engine, field.name) != field.default
    }  # fmt: skip


def affordable(data: Data, sizes: Sequence[int], parameters: Any) -> list[int]:
    """The sizes of a ladder whose free parameters are no more than half of the observed numbers; at least the first."""
    numbers = data.x.size if data.mask is None else int(data.mask.sum())
    kept = [size for size in sizes if 2 * parameters(size) <= numbers]
    return kept or list(sizes[:1])
