r"""Expectation maximization (Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39), maximum likelihood or MAP.

Any pair with the hooks ``e_step`` and ``m_step`` can be fitted. Several starts run at once; the best solution that is
not degenerate is the point estimate :math:`\hat\theta`. Its uncertainty comes from the bootstrap (Efron & Tibshirani
1993, *An Introduction to the Bootstrap*): ``num_bootstraps`` refits to data :math:`x^*`, each started at the point
estimate.

- Rows (Efron 1979, Ann. Stat. 7): :math:`x^*` are the rows drawn with replacement. Each row is left out of about 37 %
  of the refits, which gives its held-out density for nothing (out-of-bag; Breiman 1996).
- Parametric (Efron & Tibshirani 1993, section 6.5; for hidden Markov models Zucchini, MacDonald & Langrock 2016,
  section 3.6.2): :math:`x^* \sim p(x \mid \hat\theta)`, as many rows or sequences, as long, with the same entries
  missing and the same weights. It needs no second row, but takes the model to be right. No row is left out of a refit.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.engine import Engine
from ppl_gen.errors import SettingError

__all__ = ["EM"]

MIN_SEQUENCES = 10  # below which resampling them says little: see docs/decisions.md
MAX_SIZE = 10_000  # rows, sequences or time steps up to which there are refits by default


@dataclasses.dataclass(frozen=True)
class EM(Engine):
    """Settings of expectation maximization.

    :param objective: ``"ml"`` maximizes the likelihood, ``"map"`` the likelihood times the prior.
    :param num_starts: independent k-means starts, run together.
    :param max_iter: iterations at most.
    :param tolerance: stop when the objective per row rises by less than this (nats). Of few enough time steps to work
        on in double precision, the best solutions are taken on until the whole objective rises by less than 1e-5.
    :param num_bootstraps: bootstrap refits; None: 64 up to 10,000 rows or sequences (of a parametric bootstrap of
        sequences, up to 10,000 time steps), none above, where the sampling error of a density is small and the refits
        are not.
    :param bootstrap: what they are refits to: ``"rows"`` (rows, or whole sequences, drawn with replacement),
        ``"parametric"`` (data simulated from the point estimate), or ``"auto"``: parametric for fewer than 10
        sequences, else rows.
    """

    name: ClassVar[str] = "em"
    title: ClassVar[str] = "expectation maximization: a point estimate, intervals by bootstrap"
    checkpoints: ClassVar[bool] = False
    hooks: ClassVar[tuple[str, ...]] = ("initialize", "e_step", "m_step")

    objective: str = "ml"
    num_starts: int = 10
    max_iter: int = 1000
    tolerance: float = 1e-6
    num_bootstraps: int | None = None
    bootstrap: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("objective", ("ml", "map"))
        self.require_integer("num_starts", 1)
        self.require_integer("max_iter", 1)
        self.require_number("tolerance", 0.0)
        self.require_choice("bootstrap", ("auto", "rows", "parametric"))
        if self.num_bootstraps is not None:
            self.require_integer("num_bootstraps", 0)

    def bootstraps(self, num_obs: int, num_steps: int | None = None) -> tuple[str, int]:
        """Which bootstrap, ``"rows"`` or ``"parametric"``, and how many refits a table of so many rows gets.

        :param num_steps: of sequences, of which there are ``num_obs``, the time steps of all together.
        :raises SettingError: rows are to be resampled, but there is a single sequence.
        """
        kind = self.bootstrap
        if kind == "auto":
            kind = "parametric" if num_steps is not None and num_obs < MIN_SEQUENCES else "rows"
        size = num_steps if kind == "parametric" and num_steps is not None else num_obs
        number = self.num_bootstraps
        if number is None:
            number = 64 if size <= MAX_SIZE else 0
        if number and kind == "rows" and num_steps is not None and num_obs == 1:
            raise SettingError(
                "EM: bootstrap='rows' resamples whole sequences, and there is one only: take bootstrap='parametric'."
            )
        return kind, number
