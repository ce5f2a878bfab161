"""The verbs of a fit that put its density to use: labels of rows told, and what is built on scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit


class Uses:
    """Verbs of :class:`ppl_gen.result.Fit`, the only class that this is a base of."""

    @property
    def _fit(self) -> Fit:
        return cast("Fit", self)

    def predict_proba(self, table: Any, column: str | int, *, seed: int = 0) -> pd.DataFrame:
        """p(y | x) of a binary or categorical column y given the other columns of each row: a column for each label,
        in the order of the training table's labels, and the table's row labels. See :mod:`ppl_gen.prediction`.

        :param table: rows; they may lack the column, and what they have in it is not looked at. None: training rows.
        :param column: y. A ``label`` of a semi-supervised family, or any column that was modelled as labels.
        :param seed: of densities that are estimated by importance sampling.
        :raises DataError: there is no such column, or a value is missing that the family can't integrate out.
        :raises UnsupportedError: the column holds no labels or is conditioned on, or the family has no density.
        """
        from ppl_gen.prediction import predict

        return predict(self._fit, table, column, seed).probabilities()

    def predict(self, table: Any, column: str | int, *, seed: int = 0) -> pd.DataFrame:
        """The likeliest label of each row, and how sure it is: as :meth:`predict_proba`, with what the draws or the
        members of an ensemble differ by.

        Columns: row; the column's own name, the likeliest label; ``<name>_prob``, its probability;
        ``<name>_agreement``, the share of draws that find it the likeliest; and for each label ``<name>=<label>``, its
        probability, and ``<name>=<label>_sd``, the standard deviation of that over the draws.
        """
        from ppl_gen.prediction import predict

        return predict(self._fit, table, column, seed).to_frame()
