"""The verbs of a fit that make rows: sample, impute, forecast, and what guides them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.noisy_classifier import NoisyClassifier
    from ppl_gen.result import Fit


class Generation:
    """Verbs of :class:`ppl_gen.result.Fit`, the only class that this is a base of."""

    @property
    def _fit(self) -> Fit:
        return cast("Fit", self)

    def sample(
        self, num_samples: int, *, seed: int = 0, length: int | None = None, given: Any = None,
        correct: str | None = None, sampler: Any = None, num_steps: int | None = None, guidance: float | None = None,
        classifier: Any = None, label: Any = None,
    ) -> Any:  # fmt: skip
        """New rows from the posterior predictive distribution: a DataFrame with the columns, dtypes and units that came
        in; new images as an array (n, h, w) or (n, h, w, c) of the dtype that came in.

        :param num_samples: how many rows; of a family that models sequences, how many whole sequences.
        :param length: time steps of each sequence; by default those of training sequences picked at random.
        :param given: of a conditional model p(x | y), a table of y: ``num_samples`` rows are drawn for each row of it,
            in order, and keep its row labels (of sequences, so many for each sequence of it, which are numbered). Other
            columns of it are not looked at. Without it each new row is drawn for the y of a training row picked at
            random (in proportion to the row weights).
        :param correct: of families with a discriminator, how its log ratio mends what the generator makes: ``"none"``
            (the default), ``"rejection"`` (Azadi et al. 2019, arXiv:1810.06758) or ``"latent_hmc"`` (Che et al. 2020,
            arXiv:2003.06060). See :mod:`ppl_gen.corrected`.
        :param sampler: of diffusion models ``"ode"`` (the default), ``"ddim"``, ``"ancestral"`` or
            ``"predictor_corrector"``, or settings such as ``Sampler("ddim", eta=0.5)``: see :mod:`ppl_gen.samplers`.
        :param num_steps: of diffusion models, how many steps from noise to rows.
        :param guidance: of diffusion models, how much further than the condition rows are driven: 0 draws rows of
            p(x | y), and is the default (Ho & Salimans 2022, arXiv:2207.12598). See :mod:`ppl_gen.guidance`.
        :param classifier: of diffusion models without a condition, one of :meth:`train_classifier`: rows are driven to
            its ``label``, with the weight ``guidance``, 1 by default.
        :raises DataError: ``given`` lacks a column that is conditioned on, or a value of one.
        :raises SettingError: guidance of a fit that has nothing to be guided to; more steps than it has noise levels.
        """
        from ppl_gen import reverse
        from ppl_gen.sampling import sample

        choice = reverse.choose(self._fit, sampler, num_steps, guidance, classifier, label)
        return sample(self._fit, num_samples, seed, length, given, correct, choice)

    def train_classifier(
        self, table: Any, label: Any, *, hidden: Any = (64, 64), max_steps: int = 3000, seed: int = 0
    ) -> NoisyClassifier:
        """Of a diffusion model without a condition, a classifier of rows with noise, by which :meth:`sample` is guided
        to a label. See :mod:`ppl_gen.noisy_classifier`.

        :param table: rows with their labels; rows whose label is missing are left out.
        :param label: the column that holds the labels, which the fit need not have; or a label for each row.
        :param hidden: widths of the network's hidden layers.
        :raises DataError: there is no such column, or it holds a single label.
        :raises UnsupportedError: the family is no diffusion model.
        """
        from ppl_gen.noisy_classifier import train

        return train(self._fit, table, label, hidden, max_steps, seed)

    def impute(self, table: Any = None, *, num_draws: int = 10, seed: int = 0, missing: Any = None) -> Any:
        """Each row with its missing entries drawn given the observed ones, ``num_draws`` times: whole tables one after
        the other, told apart by a column ``draw``; observed entries are as they came in.

        Multiple imputations (Rubin 1987, Multiple Imputation for Nonresponse in Surveys): analyse each table by itself,
        and the results differ by how sure the missing entries are.

        :param missing: of images, for diffusion models: True for the pixels to draw given the others, (h, w), or such
            an array for each image; the images come back as (num_draws, n, h, w) or (num_draws, n, h, w, c).
        :raises UnsupportedError: the family can't, and the message says which can; or the rows are images, which are
            complete, and the family is no diffusion model.
        """
        from ppl_gen.imputation import impute

        return impute(self._fit, table, num_draws, seed, missing)

    def forecast(self, horizon: int, table: Any = None, *, num_draws: int = 1000, hdi_prob: float = 0.9, seed: int = 0,
                 draws: bool = False, given: Any = None) -> pd.DataFrame:  # fmt: skip
        """How each sequence (of the training table by default) goes on: ``horizon`` time steps.

        A row per sequence and step: mean, sd and highest density interval of each column over ``num_draws`` futures,
        each under a draw of the parameters, and the share of futures in each state.

        :param draws: give the futures themselves instead: a row per draw, sequence and step.
        :param given: of a model that is conditioned on columns, these of the ``horizon`` steps ahead: a table, with the
            column of the sequences' labels where there are several.
        :raises UnsupportedError: the family models rows.
        :raises SettingError: ``given`` is missing, or nothing is conditioned on.
        """
        from ppl_gen.timeseries import forecast

        return forecast(self._fit, horizon, table, num_draws, hdi_prob, seed, draws, given)
