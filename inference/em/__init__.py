r"""Expectation maximization (Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39), maximum likelihood or MAP.

Any pair with the hooks ``e_step`` and ``m_step`` can be fitted. Several starts run at once; the best solution that is
not degenerate is the point estimate. Its uncertainty comes from the nonparametric bootstrap (Efron 1979, Ann. Stat. 7):
``num_bootstraps`` refits, each to the rows drawn with replacement, started at the point estimate. Each row is left
out of about 37 % of them, which gives its held-out density for nothing (out-of-bag; Breiman 1996).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.engine import Engine
from ppl_gen.errors import SettingError

__all__ = ["EM"]

MIN_SEQUENCES = 10


@dataclasses.dataclass(frozen=True)
class EM(Engine):
    """Settings of expectation maximization.

    :param objective: ``"ml"`` maximizes the likelihood, ``"map"`` the likelihood times the prior.
    :param num_starts: independent k-means starts, run together.
    :param max_iter: iterations at most.
    :param tolerance: stop when the objective per row rises by less than this (nats).
    :param num_bootstraps: bootstrap refits; None: 64 up to 10,000 rows, none above (where the sampling error of a
        density is small and the refits are not), and none for fewer than 10 sequences, which are resampled whole.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("objective", ("ml", "map"))
        self.require_integer("num_starts", 1)
        self.require_integer("max_iter", 1)
        self.require_number("tolerance", 0.0)
        if self.num_bootstraps is not None:
            self.require_integer("num_bootstraps", 0)

    def bootstraps(self, num_obs: int, sequences: bool = False) -> int:
        """How many bootstrap refits a table of this many rows or sequences gets.

        :raises SettingError: they were asked for, but there is a single sequence, which can't be resampled.
        """
        if self.num_bootstraps is not None:
            if sequences and num_obs == 1 and self.num_bootstraps:
                raise SettingError(
                    "EM: num_bootstraps resamples whole sequences, and there is one only: set it to 0, or take "
                    "intervals from NUTS or SVI."
                )
            return self.num_bootstraps
        few = num_obs < MIN_SEQUENCES if sequences else False
        return 64 if num_obs <= 10_000 and not few else 0
