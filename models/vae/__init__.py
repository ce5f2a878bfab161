r"""Variational autoencoders: rows decoded from local latent variables, which an encoder proposes.

.. math::
    z_i \sim p(z), \quad x_{ij} \mid z_i \sim p_j(x_{ij} \mid f_j(z_i)), \qquad
    q(z_i \mid x_i) = \mathrm{Normal}(m(x_i), \mathrm{diag}\, s(x_i)^2)

(Kingma & Welling 2014, arXiv:1312.6114; Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082). f is the decoder, m and s
are the encoder. Each column has the likelihood of its kind (``likelihood="auto"``):

real         normal; its mean is the decoder's, its standard deviation a parameter of the column
count        logistic discretized: :math:`p(k) = F(k + \tfrac12) - F(k - \tfrac12)`, :math:`p(0) = F(\tfrac12)`, and of
             pixels :math:`p(255) = 1 - F(254.5)` (Kingma et al. 2016, arXiv:1606.04934, sec. 5); location and scale
             are the decoder's
binary       Bernoulli
categorical  categorical

``"normal"``  p(z) is the standard normal
``"vamp"``    the mixture of what the encoder says of K pseudo-inputs, which are fitted:
              :math:`p(z) = \frac1K \sum_k q(z \mid u_k)` (Tomczak & Welling 2018, arXiv:1705.07120, eq. 9)
``"flow"``    a RealNVP over z (Chen et al. 2017, arXiv:1611.02731, sec. 3)

The training objective is :math:`\mathrm{E}_q \log p(x \mid z) + \beta\, (\log p(z) - \log q(z \mid x))`, the ELBO with
:math:`\beta = 1` (Higgins et al. 2017, beta-VAE); importance-weighted bounds, annealing of beta and free bits are
settings of svi. Scores are importance-sampled estimates of log p(x) (:mod:`ppl_gen.importance`), whatever beta was.

``label`` makes it semi-supervised, the model M2 of Kingma, Mohamed, Rezende & Welling 2014 (arXiv:1406.5298):

.. math::
    y_i \sim \mathrm{Categorical}(\pi), \quad z_i \sim p(z), \quad
    x_{ij} \mid y_i, z_i \sim p_j(x_{ij} \mid f_j(z_i, y_i)), \qquad q(y, z \mid x) = q(y \mid x)\, q(z \mid x, y)

With :math:`L(x, y) = \mathrm{E}_{q(z \mid x, y)} [\log p(x \mid y, z) + \log p(y) + \log p(z) - \log q(z \mid x, y)]`
the objective of a row with a label is :math:`L(x, y) + \alpha \log q(y \mid x)`, that of one without
:math:`\sum_y q(y \mid x) (L(x, y) - \log q(y \mid x))` (eq. 6 to 9). Scores are of log p(x) or log p(x, y), with
y summed out exactly where it is missing: :math:`w_k = \sum_y p(x, y, z_{ky}) / q(z_{ky} \mid x, y)`.

``bayesian=True`` gives all weights priors but the encoder's, which is trained and then held fixed. What sgld and sghmc
draw from is the density proportional to :math:`p(\theta) \exp \sum_i L_i(\theta)`, :math:`L_i` the bound of row i by K
particles (Burda, Grosse & Salakhutdinov 2016, eq. 8), which tends to the posterior as K grows; see
:mod:`ppl_gen.inference.sgld`.

A missing entry is left out of the likelihood; the encoder sees a 0 and that it is missing. With one linear layer each
way (``hidden=()``) and ``scale="shared"``, this is probabilistic PCA (Tipping & Bishop 1999, J. R. Stat. Soc. B 61).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ppl_gen import labels
from ppl_gen.errors import DataError, SettingError
from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema, View
    from ppl_gen.family import Pair

__all__ = ["VAE"]

LIKELIHOODS = {
    "auto": ("real", "count", "binary", "categorical"), "bernoulli": ("binary",), "normal": ("real",),
    "categorical": ("categorical",), "discretized_logistic": ("count",),
}  # fmt: skip
PRIORS = ("normal", "vamp", "flow")
NETWORKS = ("mlp", "conv")
SCALES = ("column", "shared")
NO_IMAGES = (
    "network='conv' models images, arrays (n, h, w) or (n, h, w, c), and this is a table: reshape it, as in "
    "x.reshape(-1, 28, 28), or choose network='mlp'."
)


@dataclasses.dataclass(frozen=True)
class VAE(NetworkFamily):
    """A variational autoencoder.

    :param latent_dim: L, the length of a latent vector z.
    :param hidden: widths of the hidden layers of the encoder, with rectified linear units; the decoder has them in
        reverse. ``()`` is one linear layer each way.
    :param likelihood: ``"auto"`` (each column by its kind), or one for all columns: ``"bernoulli"``, ``"normal"``,
        ``"categorical"`` or ``"discretized_logistic"``.
    :param beta: weight of the latent terms in the training objective.
    :param prior: ``"normal"``, ``"vamp"`` or ``"flow"``; see above.
    :param network: ``"mlp"``, or ``"conv"`` for images: convolutions of stride 2 before the encoder's hidden layers,
        and their mirror image after the decoder's.
    :param condition_on: columns y of the table, of any kind, that are not modelled: encoder and decoder read them, and
        the density is p(x | y) (Sohn, Lee & Yan 2015, Adv. Neural Inf. Process. Syst. 28).
    :param scale: of a normal likelihood: a standard deviation of each real column (``"column"``), in units of the
        column's own, or one for all of them (``"shared"``).
    :param num_pseudo_inputs: K, of the ``"vamp"`` prior.
    :param prior_layers: coupling layers of the ``"flow"`` prior.
    :param channels: of ``"conv"``: channels of each convolution; each halves height and width.
    :param label: a binary or categorical column that some rows lack: it is a discrete latent y of those; see above.
    :param classification_weight: alpha, the weight of log q(y | x) of a row with a label in the training objective.
        None: the number of other columns over the share of rows that have a label (Kingma et al. 2014, sec. 3.1.2,
        have 0.1 over the share, whatever the columns).
    :param bayesian: put priors on all weights but the encoder's, so that sgld or sghmc draws them from their posterior.
    :param prior_scale: the prior of a bias is normal about 0 with this standard deviation, that of a weight is narrower
        by the root of its layer's inputs; units of columns have wide ones.
    """

    name: ClassVar[str] = "vae"
    title: ClassVar[str] = "Variational autoencoder"
    density: ClassVar[str] = "importance"
    kinds: ClassVar[tuple[str, ...]] = LIKELIHOODS["auto"]
    engines: ClassVar[tuple[str, ...]] = ("svi", "sgld", "sghmc")
    verbs: ClassVar[tuple[str, ...]] = ("impute", "reconstruct", "interpolate")

    latent_dim: int = 4
    hidden: tuple[int, ...] = (64, 64)
    likelihood: str = "auto"
    beta: float = 1.0
    prior: str = "normal"
    network: str = "mlp"
    condition_on: tuple[str, ...] = ()
    scale: str = "column"
    num_pseudo_inputs: int = 100
    prior_layers: int = 4
    channels: tuple[int, ...] = (32, 64)
    label: str | int | None = None
    classification_weight: float | None = None
    bayesian: bool = False
    prior_scale: float = 1.0

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Half as many latent dimensions as columns; small networks for few rows. The bound of eight particles, and
        patience, as held-out densities were higher than by the ELBO (docs/decisions.md)."""
        from ppl_gen.candidates import FEW, LATER, Candidate

        family = cls(latent_dim=min(max(1, (data.num_columns + 1) // 2), 8), hidden=(32, 32) if len(data) < FEW else
                     (64, 64))  # fmt: skip
        settings = {"num_members": 2, "max_steps": 20_000, "objective": "iwae", "num_particles": 8, "patience": 10}
        return [Candidate(cls.name, (family,), "svi", settings, turn=LATER, share=2.5)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("latent_dim", 1)
        if self.hidden != ():
            self.require_widths("hidden")
        self.require_choice("likelihood", tuple(LIKELIHOODS))
        self.require_number("beta", 0.0)
        self.require_choice("prior", PRIORS)
        self.require_choice("network", NETWORKS)
        self.require_choice("scale", SCALES)
        self.require_integer("num_pseudo_inputs", 1)
        self.require_integer("prior_layers", 1)
        self.require_widths("channels")
        if self.prior == "flow" and self.latent_dim < 2:
            raise SettingError(
                "VAE: prior='flow' needs latent_dim of at least 2, as one half of z transforms the other: use "
                "prior='vamp' or 'normal'."
            )
        self.refuse_idle(["num_pseudo_inputs"], self.prior == "vamp", "prior='vamp'")
        self.refuse_idle(["prior_layers"], self.prior == "flow", "prior='flow'")
        self.refuse_idle(["channels"], self.network == "conv", "network='conv'")
        self.refuse_idle(["scale"], self.likelihood in ("auto", "normal"), "likelihood='normal' or 'auto'")
        self._check_label()
        self._check_priors()

    def _check_label(self) -> None:
        """
        :raises SettingError: the label is no name, is conditioned on, or does not go with another option.
        """
        name, weight = self.label, self.classification_weight
        self.require("label", name is None or (isinstance(name, str | int) and name != "" and name is not True
                                               and name is not False), "the name of a column")  # fmt: skip
        if weight is not None:
            ok = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < float("inf")
            self.require("classification_weight", ok, "a number of at least 0")
        if name is None:
            if weight is not None:
                raise SettingError("VAE: classification_weight is of a label, and there is none: set label=.")
            return
        if str(name) in map(str, self.condition_on):
            raise SettingError(f"VAE: column {name!r} is the label and in condition_on: leave it out of one of them.")
        if self.network == "conv":
            raise SettingError("VAE: label= is for tables, and network='conv' for images, which have no column of "
                               "labels: pass a table of pixels with network='mlp'.")  # fmt: skip
        if self.prior == "vamp":
            raise SettingError("VAE: prior='vamp' encodes pseudo-inputs, which have no label: with label= use "
                               "prior='normal' or 'flow'.")  # fmt: skip

    def _check_priors(self) -> None:
        """
        :raises SettingError: priors do not go with another option.
        """
        self.require("bayesian", isinstance(self.bayesian, bool), "true or false")
        self.require_number("prior_scale", 0.0)
        self.refuse_idle(["prior_scale"], self.bayesian, "bayesian=True")
        if not self.bayesian:
            return
        if self.label is not None:
            raise SettingError("VAE: with label= the objective trains a classifier, too, and is no bound of a "
                               "likelihood, which bayesian=True needs: leave one of them out.")  # fmt: skip
        if self.prior == "vamp":
            raise SettingError("VAE: prior='vamp' is made of what the encoder says, which has no prior with "
                               "bayesian=True: use prior='normal' or 'flow'.")  # fmt: skip
        if self.beta != 1:
            raise SettingError("VAE: only with beta=1 is the objective a bound of the likelihood, which bayesian=True "
                               "needs: leave one of them out.")  # fmt: skip

    @property
    def accepts(self) -> tuple[str, ...]:
        """The column kinds that the likelihood is of."""
        return LIKELIHOODS[self.likelihood]

    @property
    def guide_advice(self) -> str:
        """A wider encoder, longer training, and the bound that is tight where weights are even."""
        bound = "" if self.label is not None else ", or fit with objective='iwae'"
        return (f"make the networks wider (hidden), train longer (max_steps, patience){bound}; scores alone gain by "
                "more num_particles, too")  # fmt: skip

    def check(self, data: Data) -> None:
        """The data must have at least 50 rows; of ``"conv"`` images; of a label both rows with and without it.

        :raises DataError: they do not.
        """
        super().check(data)
        if self.network == "conv" and data.schema.image is None:
            raise DataError(NO_IMAGES)
        if self.label is not None:
            labels.check(data, self.label)

    def build(self, backend: str, schema: Schema, num_obs: int, view: View | None = None) -> Pair:
        """The pair for a schema. It knows the label by its place, as pairs know no names."""
        if self.label is None:
            return super().build(backend, schema, num_obs, view)
        placed = self.replace(label=f"x{labels.position(schema, self.label)}", condition_on=())
        return super(VAE, placed).build(backend, schema, num_obs, view)
