"""Distributions of columns by their kinds, what both backends share: groups of columns, their units, and starts.

``backends/numpyro_columns.py`` and its twin have the densities and distribution functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.networks import Weight

if TYPE_CHECKING:
    from ppl_gen.columns import Column

REACH = 10.0  # numbers are read as within +-REACH: what the network says of an outlier can't overflow
MIN_SCALE = 1e-3  # the least that a component may have, so that a repeated value is no spike of infinite density
UNIT = 0.5413248546129181  # softplus(UNIT) = 1
STEPS = {4: 24, 8: 48}  # of the search for a quantile, by the bytes of a float
LEAST_SCALE = {"real": 1e-6, "count": 0.5}  # of a column that hardly varies


@dataclasses.dataclass(frozen=True)
class Group:
    """Columns of one kind, and of one number of categories: their inputs and outputs of the network.

    ``columns``         their places in the table
    ``num_inputs``      numbers that one column is encoded as; inputs are (columns, num_inputs) in a row
    ``num_parameters``  of one column's conditional; outputs are (num_parameters, columns) in a row
    ``first_input``     where their inputs start
    ``first_output``    where their outputs start
    ``upper``           the greatest value of counts that have one
    """

    kind: str
    columns: tuple[int, ...]
    num_inputs: int
    num_parameters: int
    first_input: int
    first_output: int
    upper: int | None = None

    @property
    def size(self) -> int:
        """How many columns."""
        return len(self.columns)

    @property
    def where(self) -> Any:
        """The columns as an index: a slice where they stand together."""
        first = self.columns[0]
        return slice(first, first + self.size) if self.columns[-1] - first == self.size - 1 else np.array(self.columns)

    @property
    def outputs(self) -> slice:
        """Their outputs among all."""
        return slice(self.first_output, self.first_output + self.num_parameters * self.size)


def group_columns(
    columns: Sequence[Column], num_parameters: Callable[[str, int], int], upper: int | None = None
) -> tuple[Group, ...]:
    """The columns by kind.

    :param num_parameters: ``(kind, number of categories) -> `` outputs of a column.
    :param upper: the greatest value of counts, if they have one.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for place, column in enumerate(columns):
        members.setdefault((column.kind, len(column.categories or ())), []).append(place)
    groups, first_input, first_output = [], 0, 0
    for (kind, size), places in members.items():
        inputs, outputs = size if kind == "categorical" else 1, num_parameters(kind, size)
        groups.append(Group(kind, tuple(places), inputs, outputs, first_input, first_output,
                            upper if kind == "count" else None))  # fmt: skip
        first_input, first_output = first_input + inputs * len(places), first_output + outputs * len(places)
    return tuple(groups)


def unit_layout(groups: Sequence[Group]) -> dict[str, Weight]:
    """Locations and log scales of columns of numbers; of counts also those of log(1 + count), as the network reads
    (of counts with a greatest value those of the count). Real columns come standardized, so 1 is a wide prior of
    theirs; counts come as they are."""
    layout: dict[str, Weight] = {}
    for group in groups:
        wide = float(group.upper or 100)
        names = {
            "real": {"real": (1.0, 1.0)},
            "count": {"count": (wide, 3.0), "count_input": (3.0 if group.upper is None else wide, 3.0)},
        }
        for name, (shift, log_scale) in names.get(group.kind, {}).items():
            layout[f"{name}_shift"] = Weight((group.size,), prior=shift)
            layout[f"{name}_log_scale"] = Weight((group.size,), prior=log_scale)
    return layout


def start_units(values: dict[str, np.ndarray], group: Group, x: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Set the starts of a group's units to moments of its columns (n, size), of entries that ``mask`` has."""
    if group.kind not in LEAST_SCALE:
        return
    least = LEAST_SCALE[group.kind]
    _set_units(values, group.kind, x, mask, least)
    if group.kind == "count":
        bounded = group.upper is not None
        _set_units(values, "count_input", x if bounded else np.log1p(x), mask, least if bounded else 1e-3)


def _set_units(values: dict[str, np.ndarray], name: str, x: np.ndarray, mask: np.ndarray | None, least: float) -> None:
    mean, sd = _moments(x, mask)
    values[f"{name}_shift"] += mean
    values[f"{name}_log_scale"] += np.log(np.maximum(sd, least))


def _moments(x: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if mask is None:
        return x.mean(0), x.std(0)
    number = np.maximum(mask.sum(0), 1)
    mean = np.where(mask, x, 0.0).sum(0) / number
    return mean, np.sqrt(np.where(mask, (x - mean) ** 2, 0.0).sum(0) / number)


def logits(group: Group, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(num_parameters, columns) of binary or categorical columns (n, size): from their frequencies."""
    seen = np.ones(x.shape, bool) if mask is None else mask
    if group.kind == "binary":
        share = ((x * seen).sum(0) + 0.5) / (seen.sum(0) + 1)
        return np.asarray(np.log(share / (1 - share))[None])
    counts = ((x[:, None] == np.arange(group.num_parameters)[:, None]) & seen[:, None]).sum(0)
    return np.asarray(np.log((counts + 0.5) / (seen.sum(0) + 0.5 * group.num_parameters)))
