r"""Energy-based models: a density up to a factor, by a network or by a function of the user's own.

.. math::
    p_\theta(x) = \frac{p_0(x)\, e^{-E_\theta(x)}}{Z(\theta)}, \qquad
    Z(\theta) = \int p_0(x)\, e^{-E_\theta(x)}\, dx

(LeCun, Chopra, Hadsell, Ranzato & Huang 2006, A Tutorial on Energy-Based Learning; with a base, exponential tilting:
Xiao, Kreis, Kautz & Vahdat 2021, arXiv:2010.00654, eq. 3). x is drawn from the base :math:`p_0`, and a factor, the site
``energy``, holds :math:`-E_\theta(x) - \log Z`. The base is

``"normal"``   with the mean and covariance of the training rows. A network's energy grows no faster than linearly, so
               that the density has a normaliser whatever the weights are
``"uniform"``  on a box that reaches ``margin`` of their ranges beyond the training rows; outside the density is 0
``"flow"``     realnvp layers (:mod:`ppl_gen.models.flow`) that begin as a normal and are trained with the energy

The energy is that of ``"mlp"``, a perceptron of the standardized columns with units
:math:`h / (1 + e^{-h})`, smooth, as chains follow its gradient; of ``"conv"``, convolutions of stride 2 before it; or a
function ``energy(x) -> (n,)`` of the user's, of rows x (n, D) in the units of the table, as arrays of the backend (jax
or torch), by whose operations it must be written. Such a function is the whole energy, and there is nothing to train:

.. math:: p(x) = e^{-E(x)} / Z, \qquad Z = \int e^{-E(x)}\, dx

The base is then only where chains come from (and, uniform, where the density ends).

Between the base and the density lies the path :math:`p_0(x) e^{-\beta E(x)}`, of a function
:math:`p_0(x)^{1 - \beta} e^{-\beta E(x)}`, that log Z is found on (:mod:`ppl_gen.normalizer`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ppl_gen.errors import DataError, SettingError, UnsupportedError, warn
from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data
    from ppl_gen.pair import Pair

__all__ = ["EBM"]

ENERGIES = ("mlp", "conv")
BASES = ("normal", "uniform", "flow")
COVARIANCES = ("auto", "full", "diag")
LOST = "function "  # before the name of a function that was saved with a fit
FEWEST = 2  # rows, where nothing is trained


@dataclasses.dataclass(frozen=True)
class EBM(NetworkFamily):
    """An energy-based model of real columns.

    :param energy: ``"mlp"``, ``"conv"`` (of images), or a function ``energy(x) -> (n,)`` of rows x (n, D) in the units
        of the table, whose density is ``exp(-E(x)) / Z``.
    :param base: ``"normal"``, ``"uniform"`` or ``"flow"``.
    :param hidden: widths of the hidden layers.
    :param channels: of each convolution.
    :param covariance: of the normal base: ``"full"``, ``"diag"``, or ``"auto"``, full where there are ten rows for each
        column, and no more than 100 columns.
    :param margin: of the uniform base, how far it reaches beyond the rows on each side, in ranges of the column.
    :param num_layers: of the flow base.
    """

    name: ClassVar[str] = "ebm"
    title: ClassVar[str] = "Energy-based model"
    density: ClassVar[str] = "unnormalised"
    kinds: ClassVar[tuple[str, ...]] = ("real",)
    engines: ClassVar[tuple[str, ...]] = ("contrastive", "score_matching", "noise_contrastive")
    allows_missing: ClassVar[bool] = False

    energy: str | Callable[[Any], Any] = "mlp"
    base: str = "normal"
    hidden: tuple[int, ...] = (64, 64)
    channels: tuple[int, ...] = (16, 32)
    covariance: str = "auto"
    margin: float = 0.25
    num_layers: int = 4

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Noise contrastive estimation, the quickest of its engines."""
        from ppl_gen.candidates import LAST, Candidate

        settings = {"num_members": 1, "max_steps": 5_000}
        return [Candidate(cls.name, (cls(),), "noise_contrastive", settings, turn=LAST, share=1.0, least=15.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        named = isinstance(self.energy, str) and (self.energy in ENERGIES or self.energy.startswith(LOST))
        self.require("energy", named or callable(self.energy), "'mlp', 'conv' or a function energy(x) -> (n,)")
        self.require_choice("base", BASES)
        self.require_choice("covariance", COVARIANCES)
        self.require_widths("hidden")
        self.require_widths("channels")
        self.require_number("margin", 0.0)
        self.require_integer("num_layers", 1)
        if callable(self.energy) and self.base == "flow":
            raise SettingError("EBM: base='flow' is trained with the energy, and a function of yours is not trained: "
                               "use base='normal' or 'uniform'.")  # fmt: skip

    @property
    def is_given(self) -> bool:
        """Whether the energy is a function of the user's."""
        return self.energy not in ENERGIES

    def to_config(self) -> dict[str, Any]:
        """The fields as plain JSON values; of a function its name."""
        if not callable(self.energy):
            return super().to_config()
        name = getattr(self.energy, "__qualname__", type(self.energy).__qualname__)
        return {**self.replace(energy="mlp").to_config(), "energy": LOST + name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_config`, but for a function, which no file holds."""
        return super().from_config(config)

    def prepare(self, table: Any, **data_options: Any) -> Data:
        """The table as data; for a function of the user's in its own units.

        :raises SettingError: ``standardize=True`` with such a function.
        """
        if self.is_given:
            from ppl_gen.data import Data

            standardized = table.schema.standardize if isinstance(table, Data) else data_options.get("standardize")
            if standardized:
                raise SettingError("EBM: a function of yours is of rows in the units of the table: read it with "
                                   "standardize=False.")  # fmt: skip
            if not isinstance(table, Data):
                data_options["standardize"] = False
        return super().prepare(table, **data_options)

    def check(self, data: Data) -> None:
        """The rows must be complete and vary in each column; of ``"conv"`` they must be images.

        :raises DataError: they do not.
        """
        if self.is_given and len(data) < FEWEST:
            raise DataError(f"ebm needs at least {FEWEST} rows that say where the density lies, not {len(data)}.")
        if not self.is_given:
            super().check(data)
        self.refuse_missing(data)
        if not self.is_given and data.schema.image is None:
            narrow = [c.name for j, c in enumerate(data.schema.columns) if self._has_two_values(data, j)]
            if narrow:
                warn(f"Column {narrow[0]!r} holds two values alone, and ebm models real numbers, whose density at "
                     "points has no bound: drop it, or use rbm.")  # fmt: skip
        if self.energy == "conv" and data.schema.image is None:
            raise DataError("energy='conv' models images, arrays (n, h, w) or (n, h, w, c), and this is a table: "
                            "reshape it, as in x.reshape(-1, 8, 8), or use energy='mlp'.")  # fmt: skip
        if self.base == "flow" and len(data.schema.targets) == 1:
            raise DataError("base='flow' needs at least two columns, as one half of them transforms the other: use "
                            "base='normal'.")  # fmt: skip

    @staticmethod
    def _has_two_values(data: Data, column: int) -> bool:
        values = data.x[:, column]
        return bool(((values == values.min()) | (values == values.max())).all())

    def default_engine(self, data: Data) -> tuple[str, str]:
        """Contrastive: persistent contrastive divergence; a function of the user's is only normalised."""
        if self.is_given:
            return "contrastive", "nothing to train: the function's density is normalised"
        return "contrastive", "an ensemble trained by persistent contrastive divergence"

    def build(self, backend: str, *args: Any, **options: Any) -> Pair:
        """The pair for a schema.

        :raises UnsupportedError: the energy was a function, and this family was read from a file.
        """
        if isinstance(self.energy, str) and self.energy.startswith(LOST):
            raise UnsupportedError(
                f"The energy of this fit was a {self.energy}, which no file holds: put it back, with "
                "dataclasses.replace(fit, family=fit.family.replace(energy=...))."
            )
        return super().build(backend, *args, **options)
