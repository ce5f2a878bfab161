r"""Denoising autoencoders: a network learns to undo a corruption of rows, and with it where rows lie.

.. math::
    \tilde x_i \sim C(\tilde x \mid x_i), \qquad
    \max_\theta \sum_i \mathrm{E}_C \log p_\theta(x_i \mid \tilde x_i)

(Vincent, Larochelle, Bengio & Manzagol 2008, Proc. 25th Int. Conf. Mach. Learn.; Vincent 2011, Neural Comput. 23).
The corruption C is the guide, which proposes a corrupted row for each row; the reconstruction :math:`p_\theta` is the
model, in which each column has the likelihood of its kind, as in vae (real columns normal, with a standard deviation of
the column's own):

real, count         C adds normal noise, of ``noise`` standard deviations of the column (of counts after log(1 + x))
binary, categorical C replaces the value, with probability ``flip``, by another one, all others equally likely

To corrupt and to reconstruct by turns is a Markov chain, the walk-back chain (Bengio, Yao, Alain & Vincent 2013,
arXiv:1305.6663, sec. 3). With T its transition, its stationary distribution :math:`\pi`

.. math::
    \pi(x) = \int \pi(x')\, T(x \mid x')\, dx', \qquad
    T(x \mid x') = \int C(\tilde x \mid x')\, p_\theta(x \mid \tilde x)\, d\tilde x

estimates the distribution of the rows. After training the chain is run, and S of its states :math:`x^{(s)}` are kept
with the weights, at the site ``chain``. The density of the model is that of one more step from them,

.. math::
    p(x) = \frac1S \sum_s T(x \mid x^{(s)}) = \int p_\theta(x \mid \tilde x)\, \tilde p(\tilde x)\, d\tilde x, \qquad
    \tilde p(\tilde x) = \frac1S \sum_s C(\tilde x \mid x^{(s)}),

which integrates to 1 whatever S is, and tends to :math:`\pi` as S grows (Bengio & Yao 2013, arXiv:1311.6184, have the
same estimate without the second sum). It is estimated by importance sampling with C as proposal: of a reconstruction
that is exact all weights are the same.

The score, the gradient of the log density, follows from the mean reconstruction :math:`\hat x` of a real column:
:math:`(\hat x(x) - x) / \sigma^2`, with :math:`\sigma` the noise's standard deviation, is that of the density of
corrupted rows, and tends to that of the rows as :math:`\sigma` falls (Alain & Bengio 2014, J. Mach. Learn. Res. 15,
theorem 1; Miyasawa 1961, Bull. Int. Stat. Inst. 38).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data

__all__ = ["DenoisingAutoencoder"]


@dataclasses.dataclass(frozen=True)
class DenoisingAutoencoder(NetworkFamily):
    """A denoising autoencoder.

    :param noise: standard deviation of the normal noise in real and count columns, in standard deviations of the column
        (of counts, of log(1 + count)). Less noise blurs less, and the chain mixes more slowly.
    :param flip: probability that the value of a binary or categorical column is replaced by another.
    :param hidden: widths of the hidden layers, with rectified linear units. ``()`` is a linear reconstruction.
    :param num_chains: walk-back chains, from rows of the table at random.
    :param num_states: states kept of each.
    :param num_warmup: steps of each before the first that is kept.
    :param thinning: steps from one kept state to the next.
    """

    name: ClassVar[str] = "dae"
    title: ClassVar[str] = "Denoising autoencoder"
    density: ClassVar[str] = "importance"
    kinds: ClassVar[tuple[str, ...]] = ("real", "count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("svi",)
    allows_missing: ClassVar[bool] = False
    verbs: ClassVar[tuple[str, ...]] = ("score_function",)

    noise: float = 0.5
    flip: float = 0.2
    hidden: tuple[int, ...] = (64, 64)
    num_chains: int = 4
    num_states: int = 128
    num_warmup: int = 500
    thinning: int = 20

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Two members."""
        from ppl_gen.candidates import LAST, Candidate

        settings = {"num_members": 2, "max_steps": 5_000}
        return [Candidate(cls.name, (cls(),), "svi", settings, turn=LAST, share=0.7, least=15.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_number("noise", 0.0)
        self.require("noise", self.noise >= 0.01, "at least 0.01 standard deviations")
        self.require_number("flip", 0.0, 1.0)
        if self.hidden != ():
            self.require_widths("hidden")
        self.require_integer("num_chains", 2)
        self.require_integer("num_states", 4)
        self.require_integer("num_warmup", 0)
        self.require_integer("thinning", 1)

    @property
    def guide_advice(self) -> str:
        """The corruption is the proposal: it has to cover the states of the chain that a row may come from."""
        return "raise noise, and flip where columns hold labels; scores alone gain by more num_particles, too"

    def check(self, data: Data) -> None:
        """The data must have at least 50 rows, and no missing entry.

        :raises DataError: they do not.
        """
        super().check(data)
        self.refuse_missing(data)
