"""Engines that train an ensemble of unnormalised densities by a loss without samples of the density."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from ppl_gen.engine import Engine
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.inference.contrastive import read_method
from ppl_gen.inference.svi import SVI

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.engine import Draws
    from ppl_gen.family import Pair
    from ppl_gen.normalizer import AIS, SMC
    from ppl_gen.progress import Monitor


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByLoss(Engine):
    """What such engines share: they train as svi trains an ensemble of networks, and normalise in the end."""

    hooks: ClassVar[tuple[str, ...]] = ("tempered",)
    trains_weights: ClassVar[bool] = True
    label: ClassVar[str]

    learning_rate: float = 2e-3
    max_steps: int = 20_000
    patience: int = 2
    batch_size: int | None = None
    num_members: int = 4
    validation: float = 0.1
    clip: float = 10.0
    normalizer: str | AIS | SMC = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.own()
        except SettingError as error:
            raise SettingError(str(error).replace("SVI", self.label, 1)) from None
        object.__setattr__(self, "normalizer", read_method(self.normalizer))

    def own(self) -> SVI:
        """The settings of the ensemble's training."""
        return SVI(
            learning_rate=self.learning_rate, max_steps=self.max_steps, patience=self.patience,
            batch_size=self.batch_size, num_members=self.num_members, validation=self.validation, clip=self.clip,
        )  # fmt: skip

    def needs_gradients(self, data: Data) -> bool:
        """Whether it takes gradients by the columns, so that they have to be real."""
        return True

    def run(self, pair: Pair, data: Data, *, seed: int, monitor: Monitor) -> Draws:
        """Fit the pair to the data.

        :raises UnsupportedError: there is nothing to train.
        :raises SettingError: a column is not real, and the loss needs gradients by columns.
        """
        if pair.tempered is not None and pair.idle is not None:
            other = [c.name for c in data.schema.target_columns if c.kind != "real"]
            if other and self.needs_gradients(data):
                raise SettingError(f"{self.label}: its loss has gradients by real columns, and {other[0]!r} is none: "
                                   "use engine 'contrastive'.")  # fmt: skip
            if getattr(pair.family, "is_given", False):
                raise UnsupportedError(f"{self.label} trains weights, and this energy, a function of yours, has none: "
                                       "use engine 'contrastive', which only normalises it.")  # fmt: skip
        return super().run(pair, data, seed=seed, monitor=monitor)

    def key(self) -> Any:
        """What tells the loss from others of the same pair."""
        return (self.name, *dataclasses.astuple(self.replace(normalizer="auto")))
