r"""Diffusion models: a chain of latent variables that a network learns to run backwards, and whose guide adds noise.

A row x is encoded as F numbers e: real columns and counts (after log(1 + x)) standardized, a binary value as +-1, a
category as its indicator, centred and scaled. The guide adds noise to them, with no parameter of its own,

.. math::
    q(z_t \mid x) = \mathrm{Normal}(\alpha_t e, \sigma_t^2), \qquad \alpha_t^2 = \mathrm{sigmoid}(\lambda_t), \quad
    \sigma_t^2 = \mathrm{sigmoid}(-\lambda_t),

the log signal-to-noise ratio :math:`\lambda_t` falling from t = 0 to t = 1 (Sohl-Dickstein, Weiss, Maheswaranathan &
Ganguli 2015, arXiv:1503.03585; Ho, Jain & Abbeel 2020, arXiv:2006.11239; Kingma, Salimans, Poole & Ho 2021,
arXiv:2107.00630, whose notation this is). The model is the chain backwards, from
:math:`p(z_1) = \mathrm{Normal}(0, 1)`,

.. math::
    p(z_s \mid z_t) = q(z_s \mid z_t, e = \hat e_\theta(z_t, \lambda_t)), \quad s = t - 1/T, \qquad
    x_j \sim p(x_j \mid z_0),

with a network's estimate :math:`\hat e` of e given :math:`z_t`. The evidence lower bound is a sum over the T steps,
each a KL divergence between normals,

.. math::
    \log p(x) \ge \mathrm{E}_q \log p(x \mid z_0) - \mathrm{KL}(q(z_1 \mid x) \| p(z_1)) -
    \sum_{i=1}^T \tfrac12 (\mathrm{SNR}(s_i) - \mathrm{SNR}(t_i))\, \mathrm{E}_q \| e - \hat e(z_{t_i}) \|^2,
    \qquad \mathrm{SNR} = e^\lambda,

of which training takes one step of each row, at random, T times (Kingma et al., eq. 11 to 14). As T grows the sum tends
to :math:`-\frac12 \int_0^1 \mathrm{SNR}'(t)\, \mathrm{E} \| e - \hat e \|^2 dt` (eq. 18), the bound of continuous time.
With :math:`\hat\epsilon = (z - \alpha \hat e) / \sigma` its integrand is
:math:`-\frac12 \lambda'(t) \|\epsilon - \hat\epsilon\|^2`, so another ``weighting`` of the terms makes it the loss of
Ho et al., that of denoising score matching.

What x is given :math:`z_0`, which has next to no noise: real columns are :math:`\mathrm{Normal}(z_0 / \alpha_0,
\sigma_0^2 / \alpha_0^2)` in standard units, counts the cells of the same normal about whole numbers, a label has
:math:`p(k \mid z_0) \propto q(z_0 \mid k)` (Kingma et al., sec. 3.3).

The network's output f says :math:`\hat e` of numbers by ``parametrization``:

``"velocity"``  :math:`\hat e = \alpha z - \sigma f` (Salimans & Ho 2022, arXiv:2202.00512, sec. 4)
``"noise"``     :math:`\hat e = (z - \sigma f) / \alpha` (Ho et al. 2020)
``"data"``      :math:`\hat e = f`
``"score"``     :math:`\nabla \log p(z) = -z + f / \sigma`, the score of the standard normal and a correction
                (Song & Ermon 2019, arXiv:1907.05600)

Of labels it is, whatever the parametrization, the mean of their codes :math:`e_k` under :math:`p_k \propto \exp(f_k)\,
q(z_t \mid k)`: what the label's own numbers say of it is exact, the network adds what the other columns say (score
interpolation, Dieleman et al. 2022, arXiv:2211.15089, sec. 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ppl_gen.errors import DataError, SettingError
from ppl_gen.network_family import NetworkFamily
from ppl_gen.probability_flow import MAX_EXACT

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema

__all__ = ["Diffusion"]

SCHEDULES = ("cosine", "linear", "learned")
PARAMETRIZATIONS = ("velocity", "noise", "data", "score")
NETWORKS = ("mlp", "unet")
WEIGHTINGS = ("auto", "elbo", "simple", "min_snr")
NO_IMAGES = (
    "network='unet' models images, arrays (n, h, w) or (n, h, w, c), and this is a table: reshape it, as in "
    "x.reshape(-1, 28, 28), or choose network='mlp'."
)


@dataclasses.dataclass(frozen=True)
class Diffusion(NetworkFamily):
    """A diffusion model.

    :param schedule: of the log signal-to-noise ratio over time: ``"cosine"`` (Nichol & Dhariwal 2021,
        arXiv:2102.09672; Hoogeboom, Heek & Salimans 2023, arXiv:2301.11093, eq. 4), ``"linear"`` (that of Ho et al.
        2020, in continuous time Song et al. 2021, arXiv:2011.13456, appendix C) or ``"learned"``, monotone and
        piecewise linear: in discrete time it is fitted by the bound, in continuous time, where that does not depend on
        it, so that the terms of the bound vary least (Kingma et al. 2021, sec. 5.1).
    :param parametrization: what the network says of a noisy row: its ``"velocity"``, its ``"noise"``, the row itself
        (``"data"``) or the ``"score"``; see above.
    :param num_steps: T, the steps of the chain. None: continuous time, so that samplers take as many as they are told.
    :param network: ``"mlp"``, or ``"unet"`` for images.
    :param hidden: of ``"mlp"``: widths of its hidden layers.
    :param channels: of ``"unet"``: channels of its levels, each of half the height and width of the one before.
    :param weighting: of the terms of the bound in training: ``"elbo"`` leaves them as they are; ``"simple"`` weighs the
        errors of the noise evenly over time (Ho et al. 2020, eq. 14); ``"min_snr"`` those of the row by
        min(SNR, 5) (Hang et al. 2023, arXiv:2303.09556, sec. 3.4). ``"auto"`` is ``"simple"``, whose gradients vary
        less, and ``"elbo"`` with a learned schedule, which evens them. Scores are those of the same chain in any case.
    :param condition_on: columns y of the table, of any kind, that are not modelled: the network reads them, and the
        density is p(x | y).
    :param condition_dropout: probability that a row's conditions are hidden from the network in a training step, so
        that it learns the model without them too, which classifier-free guidance needs (Ho & Salimans 2022,
        arXiv:2207.12598). 0: never.
    :param log_snr_range: the least and the greatest log signal-to-noise ratio, at t = 1 and t = 0.
    """

    name: ClassVar[str] = "diffusion"
    title: ClassVar[str] = "Diffusion model"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("real", "count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("svi",)
    allows_missing: ClassVar[bool] = False
    verbs: ClassVar[tuple[str, ...]] = ("impute", "reconstruct", "interpolate", "score_function")

    schedule: str = "cosine"
    parametrization: str = "velocity"
    num_steps: int | None = None
    network: str = "mlp"
    hidden: tuple[int, ...] = (128, 128)
    channels: tuple[int, ...] = (32, 64)
    weighting: str = "auto"
    condition_on: tuple[str, ...] = ()
    condition_dropout: float = 0.1
    log_snr_range: tuple[float, float] = (-10.0, 10.0)

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """One member, as its density is dear to score."""
        from ppl_gen.candidates import LAST, Candidate

        return [Candidate(cls.name, (cls(),), "svi", {"num_members": 1}, turn=LAST, share=2.0, least=20.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("schedule", SCHEDULES)
        self.require_choice("parametrization", PARAMETRIZATIONS)
        if self.num_steps is not None:
            self.require_integer("num_steps", 2)
        self.require_choice("network", NETWORKS)
        self.require_widths("hidden")
        self.require_widths("channels")
        self.require_choice("weighting", WEIGHTINGS)
        dropout = self.condition_dropout
        ok = isinstance(dropout, int | float) and not isinstance(dropout, bool) and 0 <= dropout < 1
        self.require("condition_dropout", ok, "a number of at least 0, and below 1")
        self.refuse_idle(["condition_dropout"], bool(self.condition_on), "condition_on")
        self.refuse_idle(["hidden"], self.network == "mlp", "network='mlp'")
        self.refuse_idle(["channels"], self.network == "unet", "network='unet'")
        self._check_range()
        if self.schedule == "learned" and self.weighting not in ("auto", "elbo"):
            raise SettingError(
                f"Diffusion: schedule='learned' is fitted by the evidence lower bound, of which weighting="
                f"{self.weighting!r} makes another loss: use weighting='elbo', or schedule='cosine' or 'linear'."
            )

    def _check_range(self) -> None:
        value = self.log_snr_range
        ok = isinstance(value, tuple) and len(value) == 2 and all(
            isinstance(each, int | float) and not isinstance(each, bool) for each in value
        )  # fmt: skip
        self.require("log_snr_range", ok and -20 <= value[0] <= -4 and 4 <= value[1] <= 20,
                     "two numbers: one from -20 to -4, at which next to nothing of a row is left, and one from 4 to "
                     "20, at which next to no noise is")  # fmt: skip

    @property
    def weighs(self) -> str:
        """The weighting that is meant."""
        if self.weighting == "auto":
            return "elbo" if self.schedule == "learned" else "simple"
        return self.weighting

    def density_for(self, schema: Schema) -> str:
        """Exact for real columns, by the probability flow; with others z_0 has to be integrated out. The bound where
        the flow would take long: of more than 20 numbers without a closed form of the trace, as of a U-net."""
        columns = schema.target_columns
        size = sum(len(c.categories or ()) if c.kind == "categorical" else 1 for c in columns)
        labels = any(c.kind in ("binary", "categorical") for c in columns)
        if size > MAX_EXACT and (self.network == "unet" or len(self.hidden) > 2 or labels):
            return "bound"
        return "exact" if all(c.kind == "real" for c in columns) else "importance"

    @property
    def guide_advice(self) -> str:
        """The proposal is the noise about a row's own numbers."""
        return "train longer (max_steps, patience), or raise the upper end of log_snr_range"

    def check(self, data: Data) -> None:
        """The data must have at least 50 rows, no missing entry, and of ``"unet"`` be images.

        :raises DataError: they do not.
        """
        super().check(data)
        self.refuse_missing(data)
        if self.network == "unet" and data.schema.image is None:
            raise DataError(NO_IMAGES)
