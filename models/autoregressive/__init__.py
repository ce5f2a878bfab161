r"""Autoregressive networks: a chain of conditionals, all given by one masked network.

.. math:: p(x) = \prod_j p(x_j \mid x_{<j})

Each column's conditional has the distribution of its kind, whose parameters the network computes from the columns
before it, in the order of the table:

real         mixture of M logistics, :math:`F(x) = \sum_m w_m\, \sigma((x - \mu_m) / s_m)`, or of M normals
count        mixture of M logistics discretized: :math:`p(k) = F(k + \tfrac12) - F(k - \tfrac12)`, and
             :math:`p(0) = F(\tfrac12)` (Salimans, Karpathy, Chen & Kingma 2017, arXiv:1701.05517, eq. 2)
binary       Bernoulli
categorical  categorical

``"made"``         rows; a perceptron whose masks keep each output from the inputs that come later (Germain, Gregor,
                   Murray & Larochelle 2015, arXiv:1502.03509)
``"causal_conv"``  sequences, :math:`p(x) = \prod_t \prod_j p(x_{tj} \mid x_{t,<j}, x_{<t})`: dilated causal
                   convolutions with gated residual blocks (van den Oord et al. 2016, arXiv:1609.03499, eq. 2) sum up
                   the time steps before one, and the masked perceptron reads that sum as well
``"pixelcnn"``     images, row by row and pixel by pixel: gated masked convolutions, a vertical stack that reads the
                   rows above and a horizontal stack that reads the pixels to the left (van den Oord, Kalchbrenner,
                   Vinyals, Espeholt, Graves & Kavukcuoglu 2016, arXiv:1606.05328, figure 2), sum up the pixels before
                   one, and the masked perceptron reads that sum and the channels of the pixel before one

Counts that are pixels go from 0 to 255, and :math:`p(255) = 1 - F(254.5)`.

Draws are ancestral, each column by the inverse of its distribution function from a uniform number: D passes in turn,
T D for sequences or pixels, of which a pass computes one column only. Scoring takes one pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ppl_gen.errors import DataError
from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data

__all__ = ["Autoregressive"]

NETWORKS = ("made", "causal_conv", "pixelcnn")
REAL = ("logistic", "gaussian")


@dataclasses.dataclass(frozen=True)
class Autoregressive(NetworkFamily):
    """An autoregressive network.

    :param network: ``"made"`` for rows, ``"causal_conv"`` for sequences, ``"pixelcnn"`` for images; see above.
    :param condition_on: columns y of the table, of any kind, that are not modelled: the density is p(x | y) of the
        others given them. They are inputs that every column sees. Rows only.
    :param hidden: widths of the hidden layers of the masked perceptron, with rectified linear units.
    :param num_mixture_components: M, of real and count columns.
    :param real: what real columns are mixtures of: ``"logistic"`` or ``"gaussian"``.
    :param channels: of ``"causal_conv"`` and ``"pixelcnn"``: channels of each convolution.
    :param num_layers: convolutions in a stack, of ``"causal_conv"`` with dilations 1, 2, 4, ...; of ``"pixelcnn"``
        layers, each of which has both stacks.
    :param num_stacks: of ``"causal_conv"``: stacks upon each other.
    :param kernel_size: of ``"causal_conv"``: time steps that a convolution reads. A time step depends on the
        ``1 + (kernel_size - 1) (2 ** num_layers - 1) num_stacks`` before it (by default 64). Of ``"pixelcnn"``: rows
        that it reads, and columns to either side, the pixel's own counted: 2 is a masked filter of 3 x 3, 3 one of
        5 x 5. A pixel depends on ``1 + (kernel_size - 1) num_layers`` rows above it, and so many pixels to its left.
    :param bayesian: put priors on the weights, so that sgld draws them from their posterior, or svi fits a guide.
    :param prior_scale: the prior of a bias is normal about 0 with this standard deviation, that of a weight is narrower
        by the root of its layer's inputs; units of columns have wide ones.
    """

    name: ClassVar[str] = "autoregressive"
    title: ClassVar[str] = "Autoregressive network"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("real", "count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("svi", "sgld", "sghmc")
    allows_missing: ClassVar[bool] = False

    network: str = "made"
    condition_on: tuple[str, ...] = ()
    hidden: tuple[int, ...] = (64, 64)
    num_mixture_components: int = 8
    real: str = "logistic"
    channels: int = 32
    num_layers: int = 6
    num_stacks: int = 1
    kernel_size: int = 2
    bayesian: bool = False
    prior_scale: float = 1.0

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Masked perceptrons of rows, causal convolutions of sequences; small ones for few rows."""
        from ppl_gen.candidates import FEW, LATER, Candidate

        few = data.num_steps < FEW
        hidden, settings = (32, 32) if few else (64, 64), {"num_members": 3, "max_steps": 20_000}
        if data.lengths is not None:
            family = cls("causal_conv", hidden=hidden, channels=16 if few else 32, num_layers=4)
        else:
            family = cls(hidden=hidden, num_mixture_components=4 if few else 8)
        return [Candidate(cls.name, (family,), "svi", settings, turn=LATER, share=2.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("network", NETWORKS)
        self.require_choice("real", REAL)
        self.require_widths("hidden")
        for name in ("num_mixture_components", "channels", "num_layers", "num_stacks"):
            self.require_integer(name, 1)
        self.require_integer("kernel_size", 2)
        self.require("bayesian", isinstance(self.bayesian, bool), "true or false")
        self.require_number("prior_scale", 0.0)

    @property
    def sequences(self) -> bool:  # type: ignore[override]
        """Whether an observation is a sequence of time steps, not a row: with causal convolutions it is."""
        return self.network == "causal_conv"

    def check(self, data: Data) -> None:
        """The data must be complete, with at least 50 rows, or as many time steps; of ``"pixelcnn"`` images.

        :raises DataError: they are not.
        """
        super().check(data)
        if self.network == "pixelcnn" and data.schema.image is None:
            from ppl_gen.models.autoregressive.architecture import NO_IMAGES

            raise DataError(NO_IMAGES)
        self.refuse_missing(data)
