"""The verbs of a fit that put its density to use: labels of rows told, and what is built on scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit
    from ppl_gen.synthetic import Synthetic


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

    def transform(self, table: Any = None, *, member: int | None = None) -> pd.DataFrame:
        """Each row (of the training table by default) as numbers, for what learns from numbers, such as scikit-learn:
        the means of its codes (``z0``, ``z1``, ...: vae, gan), the noise that makes it (diffusion), p(h = 1 | x) of
        hidden units (``h0``, ...: rbm), the probabilities of components or states (``z=0``, ...: gmm, hmm). These are
        the numbers of :meth:`latents` without what says how sure they are, with the table's row labels.

        ``FunctionTransformer(fit.transform)`` puts them into a pipeline of scikit-learn.

        :param member: of an ensemble, whose codes: each member has a latent space of its own (0 by default).
        :raises UnsupportedError: the family has no latents.
        """
        from ppl_gen.features import transform

        return transform(self._fit, table, member)

    def anomalies(self, table: Any, *, false_discovery_rate: float = 0.1, calibration: Any = None) -> pd.DataFrame:
        """Which rows are anomalies, such that of those called so at most a share of ``false_discovery_rate`` is
        normal, on average (conformal p-values by the procedure of Benjamini and Hochberg; Bates, Candès, Lei, Romano &
        Sesia 2023, Ann. Statist. 51). See :mod:`ppl_gen.anomalies`.

        Columns, in the order of the rows: row (of sequences their label), log_prob, anomaly_p_value, adjusted_p_value
        (the lowest rate at which the row is called) and is_anomaly. The frame's ``attrs`` say among how many rows each
        was ranked (``num_ranked_among``), the lowest p-value that there can be (``lowest_p_value``), and how many rows
        must have it before any is called (``rows_needed``).

        :param table: new rows; the training rows rank only among themselves.
        :param calibration: normal rows that the fit has not seen, to rank new ones among: the bound is then exact.
            Without it they are the training rows, under fits that left them out.
        :raises DataError: these are the training rows; no row has enough others to be ranked among.
        :raises UnsupportedError: the family has no held-out densities, and there is no calibration table.
        """
        from ppl_gen.anomalies import anomalies

        return anomalies(self._fit, table, false_discovery_rate, calibration)

    def synthesize(self, num_samples: int, *, holdout: Any = None, target: Any = None, seed: int = 0) -> Synthetic:
        """New rows that are to stand for the training table, ``.table``, and ``.report``, what they are good for, how
        like real rows they are, and what they give away. See :mod:`ppl_gen.synthetic`; rows that were drawn otherwise
        are judged by ``pg.evaluate_synthetic(fit, rows, holdout)``.

        :param holdout: real rows that the fit has not seen. Without them nothing is shown of utility and privacy, and
            the report says so.
        :param target: a column that a model shall learn from the synthetic rows.
        :raises UnsupportedError: the fit is of sequences or images.
        """
        from ppl_gen.synthetic import synthesize

        return synthesize(self._fit, num_samples, holdout, target, seed)
