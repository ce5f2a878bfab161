r"""Restricted Boltzmann machines: binary hidden units, independent of each other given a row, and columns, independent
of each other given the hidden units.

.. math::
    p(x, h) = \frac1Z \exp(-E(x, h)), \qquad
    -E(x, h) = \sum_j h_j \big(c_j + \varphi(x)^\top W_j\big) + \sum_i u_i(x_i)

(Smolensky 1986, in Parallel Distributed Processing 1; Hinton 2002, Neural Comput. 14). Hidden units are summed out in
closed form: with :math:`a_j(x) = c_j + \varphi(x)^\top W_j`, minus the free energy is
:math:`\log p(x) + \log Z = \sum_i u_i(x_i) + \sum_j \log(1 + e^{a_j(x)})`, and
:math:`p(h_j = 1 \mid x) = 1 / (1 + e^{-a_j(x)})`. By the kind of a column:

binary       :math:`\varphi = x, \; u = b x`; given h it is Bernoulli with log odds :math:`b + W h`
categorical  :math:`\varphi` is the indicator of the label, :math:`u = b \cdot \varphi`; given h the softmax of
             :math:`b + W h` (Salakhutdinov, Mnih & Hinton 2007, Proc. 24th Int. Conf. Mach. Learn., sec. 2)
real         :math:`\varphi = x / \sigma, \; u = -(x - b)^2 / 2 \sigma^2`; given h it is
             :math:`\mathrm{Normal}(b + \sigma W h, \sigma^2)` (Hinton & Salakhutdinov 2006, Science 313; Krizhevsky
             2009, Learning Multiple Layers of Features from Tiny Images, sec. 1.2.2; Hinton 2012, A Practical Guide to
             Training Restricted Boltzmann Machines, sec. 13.2). The density is a mixture of :math:`2^H` normals.

The base of the tempered path is the base-rate model, of independent columns, that has the data's own frequencies, means
and standard deviations (Salakhutdinov & Murray 2008, Proc. 25th Int. Conf. Mach. Learn., sec. 4). With :math:`q` its
density and :math:`\beta` the inverse temperature the path is

.. math::
    \log p_\beta(x) = (1 - \beta) \log q(x) + \beta \sum_i u_i(x_i)
    + \sum_j \big(\log(1 + e^{\beta a_j(x)}) - (1 - \beta) \log 2\big) - \mathrm{const},

that of a machine too, so that block Gibbs sampling has closed form all along it. log Z is summed over all states of the
smaller layer where these are at most :math:`2^{20}`, as many as 20 hidden units have; else it is estimated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ppl_gen.family import Family
from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema

__all__ = ["RBM"]

VISIBLE = {
    "auto": ("real", "binary", "categorical"), "bernoulli": ("binary",), "gaussian": ("real",),
    "categorical": ("categorical",),
}  # fmt: skip
SCALES = ("learnt", "fixed")


@dataclasses.dataclass(frozen=True)
class RBM(NetworkFamily):
    """A restricted Boltzmann machine.

    :param num_hidden: H, how many hidden units. Up to 20 the log normalizer is exact.
    :param visible: ``"auto"`` (each column by its kind), or one for all columns: ``"bernoulli"``, ``"gaussian"`` or
        ``"categorical"``.
    :param scale: of real columns: the standard deviation given the hidden units is ``"learnt"``, or ``"fixed"`` at the
        column's own (1 after standardizing, as in Hinton 2012).
    """

    name: ClassVar[str] = "rbm"
    title: ClassVar[str] = "Restricted Boltzmann machine"
    density: ClassVar[str] = "unnormalised"
    kinds: ClassVar[tuple[str, ...]] = VISIBLE["auto"]
    engines: ClassVar[tuple[str, ...]] = ("contrastive",)
    allows_missing: ClassVar[bool] = False

    num_hidden: int = 16
    visible: str = "auto"
    scale: str = "learnt"

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """So few hidden units that log Z is exact."""
        from ppl_gen.candidates import LAST, Candidate

        settings = {"num_members": 1, "max_steps": 2_000}
        return [Candidate(cls.name, (cls(16),), "contrastive", settings, turn=LAST, share=0.7, least=15.0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_hidden", 1)
        self.require_choice("visible", tuple(VISIBLE))
        self.require_choice("scale", SCALES)

    @property
    def accepts(self) -> tuple[str, ...]:
        """The column kinds that the visible units are of."""
        return VISIBLE[self.visible]

    def check(self, data: Data) -> None:
        """The data must have at least 50 rows, and no missing entry.

        :raises DataError: they do not.
        """
        super().check(data)
        self.refuse_missing(data)

    def filters(self, posterior: Mapping[str, np.ndarray], schema: Schema) -> tuple[list[str], np.ndarray]:
        """The weights, with names of the numbers that a row is read as. Real columns are divided by their standard
        deviation given the hidden units before they are read, and multiplied by that of the table here."""
        from ppl_gen.models.rbm.architecture import resolve

        architecture = resolve(self, schema)
        weight = np.array(posterior["weight"], np.float64)
        places, names = np.empty(0, int), list[str]()
        for group, where in architecture.parts():
            if group.kind == "real":
                unit = posterior["base_log_scale"] - posterior["visible_log_scale"]
                weight[:, where] *= np.exp(unit.astype(np.float64))[..., None]
            for j in group.columns:
                column = schema.target_columns[j]
                names += [f"{column.name}={v}" for v in column.categories] if column.categories else [column.name]
                places = np.append(places, [j] * group.num_inputs)
        order = np.argsort(places, kind="stable")
        return [names[i] for i in order], weight[:, order]

    def default_engine(self, data: Data) -> tuple[str, str]:
        """Contrastive divergence."""
        return Family.default_engine(self, data)
