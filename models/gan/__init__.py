r"""Generative adversarial networks: rows that a network makes of noise, trained against one that tells them from data.

.. math::
    z_i \sim \mathrm{Normal}(0, I), \qquad x_i = G(z_i)

(Goodfellow et al. 2014, arXiv:1406.2661). The density of x is implicit: it has no formula. With D(x) the output of the
discriminator, r at rows of data and s at rows of the generator, the two minimise in turn (``loss``)

non_saturating  :math:`\mathrm{E} \log(1 + e^{-r}) + \mathrm{E} \log(1 + e^{s})` and
                :math:`\mathrm{E} \log(1 + e^{-s})` (Goodfellow et al. 2014, sec. 3, the last remark)
minimax         the same, and :math:`-\mathrm{E} \log(1 + e^{s})`, whose gradient vanishes where the discriminator is
                sure (eq. 1). With JS the Jensen-Shannon divergence, the value at the best discriminator, minus its
                loss, is 2 JS - 2 log 2
wasserstein     :math:`\mathrm{E}\, s - \mathrm{E}\, r` and :math:`-\mathrm{E}\, s` (Arjovsky, Chintala & Bottou 2017,
                arXiv:1701.07875)
hinge           :math:`\mathrm{E} \max(0, 1 - r) + \mathrm{E} \max(0, 1 + s)` and :math:`-\mathrm{E}\, s` (Lim & Ye
                2017, arXiv:1705.02894)
least_squares   :math:`\tfrac12 \mathrm{E} (r - 1)^2 + \tfrac12 \mathrm{E} s^2` and :math:`\tfrac12 \mathrm{E} (s -
                1)^2` (Mao et al. 2017, arXiv:1611.04076, eq. 9)

with a term beside the loss, or weights that are put back after each step of the discriminator (``regularizer``)

gradient_penalty   :math:`\lambda\, \mathrm{E} (\|\nabla D(\hat x)\| - 1)^2` between data and generated rows (Gulrajani
                   et al. 2017, arXiv:1704.00028, eq. 3)
r1                 :math:`\tfrac{\lambda}{2} \mathrm{E} \|\nabla D(x)\|^2` at data (Mescheder, Geiger & Nowozin 2018,
                   arXiv:1801.04406, eq. 9)
clip               weights within :math:`\pm c` (Arjovsky et al. 2017, algorithm 1)
spectral_norm      weight matrices of largest singular value 1, by power iterations (Miyato, Kataoka, Koyama & Yoshida
                   2018, arXiv:1802.05957, algorithm 1)
jacobian_clamping  of the generator: :math:`\lambda\, \mathrm{E} [\max(Q - b, 0)^2 + \max(a - Q, 0)^2]` with :math:`Q =
                   \|G(z) - G(z')\| / \|z - z'\|`, z' a step of length 1 from z (Odena et al. 2018, arXiv:1802.08768,
                   algorithm 1)

The networks see labels as indicators. The generator's labels are the largest of logits plus Gumbel noise, and their
gradient is that of the softmax at temperature :math:`\tau` (Jang, Gu & Poole 2017, arXiv:1611.01144, sec. 2.2;
Maddison, Mnih & Teh 2017, arXiv:1611.00712). The noise is :math:`-\log(-\log \Phi(z))` of further coordinates of z, so
that rows are functions of z alone. Real columns are seen as they are, or with ``normalization="modes"`` as the
component of a mixture of normals of the column and the place in it (Xu, Skoularidou, Cuesta-Infante & Veeramachaneni
2019, arXiv:1907.00503, sec. 4.2), which fits columns of several peaks.

Counts are rounded, with the gradient of what they are rounded from, and seen after log(1 + x); those of pixels as they
are. With data the model is that of rows under noise about the generator's (Wu, Burda, Salakhutdinov & Grosse 2017,
arXiv:1611.04273, sec. 2): real columns :math:`\mathrm{Normal}(G(z), \sigma^2)`, counts logistic discretized of that
standard deviation, labels by their softmax, with the Gumbel noise summed out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ppl_gen.errors import DataError, SettingError
from ppl_gen.family import Family
from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema

__all__ = ["GAN"]

NETWORKS = ("mlp", "conv")
LOSSES = ("non_saturating", "minimax", "wasserstein", "hinge", "least_squares")
PENALTIES = {"gradient_penalty": 10.0, "r1": 1.0, "jacobian_clamping": 1.0}  # with a weight, and its default
REGULARIZERS = (*PENALTIES, "clip", "spectral_norm")
NORMALIZATIONS = ("auto", "standard", "modes")
MAX_MODAL = 50  # real columns that are normalised by modes of their own accord: a mixture is fitted to each
THRESHOLDS = {"wasserstein": None, "least_squares": 0.5}


@dataclasses.dataclass(frozen=True)
class GAN(NetworkFamily):
    """A generative adversarial network.

    :param latent_dim: length of the noise that the generator's network reads. Labels have noise of their own.
    :param generator: ``"mlp"``, or ``"conv"`` for images: dense layers, then convolutions, each of which doubles height
        and width.
    :param discriminator: ``"mlp"``, or ``"conv"`` for images: convolutions of stride 2, then dense layers.
    :param generator_hidden: widths of the hidden layers of the generator, with rectified linear units. ``()`` is a
        linear generator.
    :param discriminator_hidden: widths of the hidden layers of the discriminator, with leaky rectified linear units.
        ``()`` is a linear one.
    :param channels: of each convolution, from the image inwards.
    :param loss: ``"non_saturating"``, ``"minimax"``, ``"wasserstein"``, ``"hinge"`` or ``"least_squares"``.
    :param regularizer: ``"gradient_penalty"``, ``"r1"``, ``"clip"``, ``"spectral_norm"``, ``"jacobian_clamping"`` or
        None.
    :param regularizer_weight: lambda above. None: 10 of the gradient penalty, 1 of ``"r1"`` and of the Jacobian's.
    :param clip: c, the bound of the discriminator's weights.
    :param jacobian_range: a and b, between which the generator's rows move per step of the noise.
    :param pack: rows that the discriminator judges together (Lin et al. 2018, arXiv:1712.04086), against samples that
        lack variety.
    :param condition_on: columns y of the table, of any kind, that are not modelled: both networks read them, and rows
        are drawn given y (Mirza & Osindero 2014, arXiv:1411.1784).
    :param observation_sd: sigma, the standard deviation of real columns about the generator's rows under which rows of
        data are scored and inverted, in standard deviations of the column.
    :param normalization: of real columns: ``"standard"``; ``"modes"``, see above; ``"auto"``: modes in tables of up
        to 50 real columns, else standard.
    :param max_modes: components of the mixture of a column at most; the Bayesian information criterion says how many.
    :param temperature: tau, of the softmax whose gradient labels have.
    """

    name: ClassVar[str] = "gan"
    title: ClassVar[str] = "Generative adversarial network"
    density: ClassVar[str] = "implicit"
    kinds: ClassVar[tuple[str, ...]] = ("real", "count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("adversarial", "discrepancy")
    allows_missing: ClassVar[bool] = False

    latent_dim: int = 4
    generator: str = "mlp"
    discriminator: str = "mlp"
    generator_hidden: tuple[int, ...] = (128, 128)
    discriminator_hidden: tuple[int, ...] = (128, 128)
    channels: tuple[int, ...] = (32, 64)
    loss: str = "non_saturating"
    regularizer: str | None = "r1"
    regularizer_weight: float | None = None
    clip: float = 0.01
    jacobian_range: tuple[float, float] = (0.1, 20.0)
    pack: int = 1
    condition_on: tuple[str, ...] = ()
    observation_sd: float = 0.1
    normalization: str = "auto"
    max_modes: int = 10
    temperature: float = 0.5

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """One member, as its surrogate takes long."""
        from ppl_gen.candidates import LAST, Candidate

        settings = {"num_members": 1, "max_steps": 3_000}
        return [Candidate(cls.name, (cls(),), "adversarial", settings, turn=LAST, share=2.0, least=30.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("latent_dim", 1)
        self.require_integer("pack", 1)
        self.require_integer("max_modes", 2)
        for name in ("generator", "discriminator"):
            self.require_choice(name, NETWORKS)
        for name in ("generator_hidden", "discriminator_hidden"):
            if getattr(self, name) != ():
                self.require_widths(name)
        self.require_widths("channels")
        self.require_choice("loss", LOSSES)
        if self.regularizer == "none":  # as a command line has it
            object.__setattr__(self, "regularizer", None)
        if self.regularizer is not None:
            self.require_choice("regularizer", REGULARIZERS)
        self.require_choice("normalization", NORMALIZATIONS)
        if self.regularizer_weight is not None:
            self.require_number("regularizer_weight", 0.0)
        for name in ("clip", "observation_sd", "temperature"):
            self.require_number(name, 0.0)
        self._check_range()
        self._refuse_contradictions()

    def _check_range(self) -> None:
        value = self.jacobian_range
        ok = isinstance(value, tuple) and len(value) == 2 and all(
            isinstance(each, int | float) and not isinstance(each, bool) for each in value
        )  # fmt: skip
        self.require("jacobian_range", ok and 0 <= value[0] < value[1] < float("inf"), "two numbers of at least 0, the "
                     "smaller first")  # fmt: skip

    def _refuse_contradictions(self) -> None:
        """
        :raises SettingError: an option changes nothing beside the others, or the loss has no lower bound.
        """
        weighted = " or ".join(f"regularizer={name!r}" for name in PENALTIES)
        convolutions = "conv" in (self.generator, self.discriminator)
        self.refuse_idle(["regularizer_weight"], self.regularizer in PENALTIES, weighted)
        self.refuse_idle(["clip"], self.regularizer == "clip", "regularizer='clip'")
        self.refuse_idle(["jacobian_range"], self.regularizer == "jacobian_clamping", "regularizer='jacobian_clamping'")
        self.refuse_idle(["max_modes"], self.normalization != "standard", "normalization='modes' or 'auto'")
        self.refuse_idle(["channels"], convolutions, "generator='conv' or discriminator='conv'")
        if convolutions and self.normalization == "modes":
            raise SettingError("GAN: normalization='modes' is for the columns of a table, and convolutions are for "
                               "images: leave it out.")  # fmt: skip
        if self.loss == "wasserstein" and self.regularizer in (None, "jacobian_clamping"):
            raise SettingError("GAN: loss='wasserstein' has no bound unless the discriminator's slope is held: set "
                               "regularizer='gradient_penalty', 'clip', 'spectral_norm' or 'r1'.")  # fmt: skip

    @property
    def penalty(self) -> float:
        """lambda, the weight of the regularizer's term; 0 where it has none."""
        if self.regularizer_weight is not None:
            return float(self.regularizer_weight)
        return PENALTIES.get(self.regularizer or "", 0.0)

    @property
    def of_game(self) -> tuple[str, ...]:
        """The options that differ from their defaults, and that only the losses of the game read."""
        default = {field.name: field.default for field in dataclasses.fields(self)}
        names = ("loss", "regularizer", "regularizer_weight", "clip", "jacobian_range", "pack")
        return tuple(name for name in names if getattr(self, name) != default[name])

    @property
    def threshold(self) -> float | None:
        """The output of the discriminator above which it says that a row is data; None of a critic."""
        return THRESHOLDS.get(self.loss, 0.0)

    def has_modes(self, schema: Schema) -> bool:
        """Whether real columns are normalised by modes."""
        real = sum(column.kind == "real" for column in schema.target_columns)
        most = float("inf") if self.normalization == "modes" else MAX_MODAL
        return 0 < real <= most and schema.image is None and self.normalization != "standard"

    def check(self, data: Data) -> None:
        """The data must have at least 50 rows, no missing entry, and of ``"conv"`` be images.

        :raises DataError: they do not.
        :raises SettingError: an option is of columns of another kind.
        """
        super().check(data)
        self.refuse_missing(data)
        kinds = {column.kind for column in data.schema.target_columns}
        if self.normalization == "modes" and "real" not in kinds:
            raise SettingError("GAN: normalization='modes' is of real columns, and the table has none: leave it out.")
        if kinds.isdisjoint(("binary", "categorical")) and not self.has_modes(data.schema):
            self.refuse_idle(["temperature"], False, "labels, or of columns seen by their modes,")
        if self.normalization == "modes" and data.schema.image is not None:
            raise DataError("normalization='modes' is for the columns of a table, and these are images: leave it out.")
        if "conv" in (self.generator, self.discriminator) and data.schema.image is None:
            raise DataError("'conv' models images, arrays (n, h, w) or (n, h, w, c), and this is a table: reshape it, "
                            "as in x.reshape(-1, 28, 28), or choose 'mlp'.")  # fmt: skip

    def default_engine(self, data: Data) -> tuple[str, str]:
        """Adversarial training."""
        return Family.default_engine(self, data)
