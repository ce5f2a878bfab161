"""What families of neural networks have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ppl_gen.errors import DataError
from ppl_gen.family import Family

if TYPE_CHECKING:
    import numpy as np

    from ppl_gen.data import Data, Schema

MIN_ROWS = 50  # with fewer, validation rows say nothing and the networks follow each row


@dataclasses.dataclass(frozen=True)
class NetworkFamily(Family):
    """A family whose parameters are weights of networks: at least 50 rows, and nothing to say of the parameters."""

    min_rows: ClassVar[int] = MIN_ROWS

    def check(self, data: Data) -> None:
        """The data must have at least 50 rows, or as many time steps.

        :raises DataError: it has fewer.
        """
        super().check(data)
        number, what = (len(data), f"{data.unit}s") if data.lengths is None else (data.num_steps, "time steps")
        if number < self.min_rows:
            simpler = "hmm" if self.sequences else "gmm" if all(c.kind == "real" for c in data.schema.columns) else ""
            other = f"fit a simpler family, such as {simpler}, instead" if simpler else "it takes more of them"
            raise DataError(f"{self.name} needs at least {self.min_rows} {what}, the table has {number}: {other}.")

    def default_engine(self, data: Data) -> tuple[str, str]:
        """SVI: an ensemble fitted by maximum likelihood; SGLD where the weights have priors."""
        if getattr(self, "bayesian", False):
            return "sgld", "bayesian=True: draws of the weights from their posterior"
        return "svi", "an ensemble of members fitted by maximum likelihood"

    def to_original(self, posterior: Mapping[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
        """Nothing: weights of a network have no meaning of their own."""
        return {}
