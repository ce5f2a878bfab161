r"""Labels of rows told by a density: p(y | x) of one column given the others.

Of a binary or categorical column y with the labels :math:`1 \ldots C`, Bayes' rule over the joint density of a draw,

.. math:: p(y = k \mid x, \theta_s) = p(x, y = k \mid \theta_s) \Big/ \sum_{l=1}^C p(x, y = l \mid \theta_s),

where log Z of an unnormalised density cancels (Grathwohl et al. 2020, arXiv:1912.03263, sec. 3). The probabilities of
the draws are averaged, of a point estimate its own are taken, and their standard deviation over the draws says how
sure they are. What the table itself holds in that column is not looked at. Where the density is estimated by
importance sampling, the particles of all labels are at the same points. A column that was the ``label`` of a
semi-supervised family has p(y | x) of :mod:`ppl_gen.labelled`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ppl_gen import implicit, importance, labelled, scoring
from ppl_gen.errors import DataError, UnsupportedError, did_you_mean
from ppl_gen.labels import may_lack
from ppl_gen.readers import read_source

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.columns import Column
    from ppl_gen.data import Data
    from ppl_gen.result import Fit

LOWEST = -1e300  # so that rows too far out for any arithmetic, whatever their label, have even probabilities


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """p(y | x) of rows: ``mean`` (n, C), ``sd`` (n, C) over the draws, and ``agreement`` (n,), the share of draws whose
    likeliest label is that of ``mean``; ``column`` is that of y, and ``index`` the row labels."""

    column: Column
    mean: np.ndarray
    sd: np.ndarray
    agreement: np.ndarray
    index: pd.Index | None

    def labels(self) -> pd.Series:
        """(n,) the likeliest label of each row, as the training table has them."""
        found = self.column.to_table(self.mean.argmax(1)).rename(self.column.name)
        return found if self.index is None else found.set_axis(self.index)

    def probabilities(self) -> pd.DataFrame:
        """(n, C), a column for each label."""
        import pandas as pd

        return pd.DataFrame(self.mean, columns=pd.Index(self.column.levels, dtype=object), index=self.index)

    def to_frame(self) -> pd.DataFrame:
        """Columns as those of :meth:`Fit.predict <ppl_gen.result.Fit.predict>`."""
        import pandas as pd

        name, number = self.column.name, np.arange(len(self.mean))
        found: dict[str, Any] = {
            "row": number, name: self.labels().to_numpy(), f"{name}_prob": self.mean.max(1),
            f"{name}_agreement": self.agreement,
        }  # fmt: skip
        for k, value in enumerate(self.column.levels):
            found |= {f"{name}={value}": self.mean[:, k], f"{name}={value}_sd": self.sd[:, k]}
        return pd.DataFrame(found)


def predict(fit: Fit, table: Any, column: str | int, seed: int) -> Prediction:
    """See :meth:`Fit.predict <ppl_gen.result.Fit.predict>`."""
    scoring.check_seed(seed)
    j = position(fit, column)
    data = without(fit, table, j)
    own = fit.pair.label is not None and fit.schema.names[j] == labelled.column_of(fit).name
    each = labelled.probabilities(fit, data, fit.posterior, seed) if own else probabilities(fit, data, j, seed)
    # A point estimate stands before its bootstrap draws; alone it is the only draw.
    with_point = not own and fit.draws.point is not None
    centre, draws = (each[0] if with_point else each.mean(0)), each[-len(next(iter(fit.posterior.values()))) :]
    agreement = (draws.argmax(2) == centre.argmax(1)).mean(0)
    return Prediction(fit.schema.columns[j], centre, draws.std(0), agreement, data.index)


def position(fit: Fit, column: str | int) -> int:
    """Where the column stands whose labels are to be told.

    :raises DataError: there is none of this name.
    :raises UnsupportedError: it holds no labels, is conditioned on, or the fit has no density that could tell them.
    """
    schema, family, name = fit.schema, fit.family.name, str(column)
    if schema.is_sequence:
        raise UnsupportedError(f"{family} models sequences, and labels are told of rows: fit.latents says p(state) of "
                               "each time step.")  # fmt: skip
    if name not in schema.names:
        raise DataError(f"The fit has no column {name!r}: {did_you_mean(name, schema.names)}")
    if name in schema.conditions:
        raise UnsupportedError(f"Column {name!r} is conditioned on, so the fit says nothing of it: fit it as a column "
                               "like the others, without condition_on.")  # fmt: skip
    j = schema.names.index(name)
    if not schema.columns[j].levels:
        from ppl_gen import registry

        kinds = {each: registry.family(each) for each in registry.families()}
        able = ", ".join(each for each, kind in kinds.items() if "categorical" in kind.kinds
                         and kind.density != "implicit" and kind.sequences is not True)  # fmt: skip
        raise UnsupportedError(f"Column {name!r} was read as {schema.columns[j].kind}, so it has no labels to choose "
                               f"from: fit it as a category, with one of the families {able}.")  # fmt: skip
    if implicit.is_implicit(fit):
        raise UnsupportedError(f"{family} has no density that could tell labels: fit vae, autoregressive or rbm, or "
                               f"condition_on={name!r} to draw rows of a label.")  # fmt: skip
    if fit.family.density_for(schema) == "bound":
        raise UnsupportedError(f"Of these columns {family} has only a bound of the density, whose differences "
                               "tell no labels: fit vae or autoregressive, or use fit.impute.")  # fmt: skip
    return j


def without(fit: Fit, table: Any, j: int, drop: Any = None) -> Data:
    """The rows with the column missing, whatever the table holds there, even labels that were never seen; it may also
    lack the column.

    :param drop: further columns to leave out, which the training table did not have.
    """
    from ppl_gen.data import Data

    name = fit.schema.names[j]
    if table is None:
        data = fit.train
    elif isinstance(table, Data) and table.schema == fit.schema:
        data = table
    else:
        by_name = fit.schema.container == "dataframe" and fit.schema.image is None
        left_out = [name] if by_name and name in read_source(table).names else []
        data = fit.schema.encode(table, drop=[*(drop or []), *left_out] or None,
                                 may_lack=(name, *may_lack(fit)))  # fmt: skip
    mask, x = np.ones(data.x.shape, bool) if data.mask is None else data.mask.copy(), data.x.copy()
    mask[:, j], x[:, j] = False, 0
    fit.family.refuse_missing(dataclasses.replace(data, mask=filled(mask, j)))
    return dataclasses.replace(data, x=x, mask=mask)


def filled(mask: np.ndarray, j: int) -> np.ndarray | None:
    """The mask with a column observed; None where then all is."""
    mask = mask.copy()
    mask[:, j] = True
    return None if mask.all() else mask


def probabilities(fit: Fit, data: Data, j: int, seed: int) -> np.ndarray:
    """(draws, n, C): p(y | x) of each row under each draw, the point estimate before them where there is one."""
    posterior, size = scoring.with_point(fit), len(fit.schema.columns[j].levels)
    draws, found = len(next(iter(posterior.values()))), []
    assert data.mask is not None
    for rows in scoring.chunks(len(data), draws * size):
        some = data.take(rows)
        logs = np.empty((draws, len(some), size))
        for k in range(size):
            x = some.x.copy()
            x[:, j] = k
            labelled_as = dataclasses.replace(some, x=x, mask=filled(data.mask[rows], j))
            for part, values in log_joint(fit, labelled_as, posterior, seed):
                logs[:, part, k] = values
        found.append(softmax(np.maximum(logs, LOWEST), axis=2))
    return np.concatenate(found, axis=1)


def log_joint(fit: Fit, data: Data, posterior: dict[str, np.ndarray], seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, log p(x, y | theta_s) (draws, rows)), of estimated densities with particles that the seed decides."""
    if not fit.pair.local:
        return scoring.log_prob_rows(fit, data, posterior)
    found = scoring.log_weight_rows(fit, data, posterior, importance.num_particles(fit.pair), seed)
    return ((rows, importance.mean_density(weights)) for rows, weights in found)
