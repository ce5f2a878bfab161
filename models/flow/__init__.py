r"""Normalizing flows: a base distribution carried through layers that can be inverted.

With :math:`u = f(x)` for an invertible f with weights w,

.. math:: \log p(x) = \log p_u(f(x)) + \log |\det \partial f / \partial x|

(Rezende & Mohamed 2015, arXiv:1505.05770). f is an elementwise affine map, then ``num_layers`` layers:

``"realnvp"``  affine coupling: :math:`u_b = (x_b - m(x_a)) e^{-s(x_a)}`, :math:`u_a = x_a` (Dinh, Sohl-Dickstein &
               Bengio 2017, arXiv:1605.08803, eq. 7 and 8)
``"nsf"``      coupling by monotone rational-quadratic splines (Durkan, Bekasov, Murray & Papamakarios 2019,
               arXiv:1906.04032, sec. 3)
``"maf"``      masked autoregressive: :math:`u_i = (x_i - m_i(x_{<i})) e^{-s_i(x_{<i})}` (Papamakarios, Pavlakou &
               Murray 2017, arXiv:1705.07057, eq. 3 to 5)
``"nsf_ar"``   the same by splines
``"iaf"``      inverse autoregressive: :math:`x_i = m_i(u_{<i}) + e^{s_i(u_{<i})} u_i` (Kingma et al. 2016,
               arXiv:1606.04934, eq. 10)
``"cnf"``      continuous: x is carried along dx/dt = f(x, t) (Chen et al. 2018, arXiv:1806.07366; Grathwohl et al.
               2019, arXiv:1810.01367); see :mod:`ppl_gen.models.flow.cnf`

Coupling layers are as fast in both directions. Autoregressive ones take D passes in one: maf and nsf_ar when they
draw, iaf when it scores (and so when it is fitted). A continuous flow takes 6 passes of its network in each of
``num_layers`` steps of its solver, in both.

Whole-number columns (counts, binary ones, codes of categories in the order of their labels) have no density. The flow
is that of a continuous row v, and x = floor(v): with u uniform on the unit cube of these columns,

.. math:: P(x) = \mathrm{E}_u\, p(x + u), \qquad \mathrm{E}_u \log p(x + u) \le \log P(x)

(Theis, van den Oord & Bethge 2016, arXiv:1511.01844, sec. 3.1; Ho et al. 2019, arXiv:1902.00275, sec. 3.1). It is
fitted by the bound, with fresh u at every step, and scored by importance sampling (:mod:`ppl_gen.importance`). Where a
draw falls outside of a column's range it is moved to the nearest value; that mass is in no score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ppl_gen.errors import DataError
from ppl_gen.network_family import NetworkFamily

if TYPE_CHECKING:
    from ppl_gen.candidates import Candidate
    from ppl_gen.data import Data, Schema

__all__ = ["Flow"]

TRANSFORMS = ("realnvp", "nsf", "maf", "nsf_ar", "iaf", "cnf")
BASES = ("normal", "student_t", "mixture")
LAYERS = {"realnvp": 8, "nsf": 4, "maf": 5, "nsf_ar": 3, "iaf": 5, "cnf": 8}


@dataclasses.dataclass(frozen=True)
class Flow(NetworkFamily):
    """A normalizing flow.

    :param transform: the kind of layer: ``"realnvp"`` (affine coupling), ``"nsf"`` (spline coupling), ``"maf"`` (masked
        autoregressive, affine), ``"nsf_ar"`` (the same with splines), ``"iaf"`` (inverse autoregressive) or ``"cnf"``
        (continuous).
    :param num_layers: how many; None takes as many as the kind needs as a rule (8 realnvp, 5 maf and iaf, 4 nsf,
        3 nsf_ar). Of cnf: the steps of its solver, 8.
    :param hidden: widths of the hidden layers of each conditioner, a perceptron with rectified linear units (cnf: with
        tanh).
    :param base: ``"normal"``, ``"student_t"`` (heavy tails, degrees of freedom fitted per column) or ``"mixture"``
        (of ``num_components`` normals with diagonal covariances, fitted).
    :param num_components: normals of the ``"mixture"`` base.
    :param num_bins: bins of a spline.
    :param condition_on: columns y of the table, of any kind, that are not modelled: the density is p(x | y) of the
        others given them (Winkler, Worrall, Hoogeboom & Welling 2019, arXiv:1912.00042). They are inputs of
        every conditioner, standardized, a category as an indicator per label.
    :param bound: splines act on [-bound, bound] of model space, where columns have standard deviation 1, and are the
        identity beyond it, so that tails are those of the base.
    :param num_probes: of cnf with more than two hidden layers and more than 20 columns, whose trace is estimated: the
        random vectors that it is estimated from. Fewer columns or hidden layers have an exact trace.
    :param bayesian: put priors on the weights, so that sgld draws them from their posterior, or svi fits a guide.
    :param prior_scale: the prior of a bias, and of shifts, log scales and the numbers of the base, is normal about its
        start with this standard deviation; that of a weight is narrower by the root of its layer's inputs.
    """

    name: ClassVar[str] = "flow"
    title: ClassVar[str] = "Normalizing flow"
    density: ClassVar[str] = "exact"
    kinds: ClassVar[tuple[str, ...]] = ("real", "count", "binary", "categorical")
    engines: ClassVar[tuple[str, ...]] = ("svi", "sgld", "sghmc")
    allows_missing: ClassVar[bool] = False

    transform: str = "nsf"
    num_layers: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    base: str = "normal"
    num_components: int = 8
    num_bins: int = 8
    bound: float = 5.0
    condition_on: tuple[str, ...] = ()
    num_probes: int = 8
    bayesian: bool = False
    prior_scale: float = 1.0

    @classmethod
    def candidates(cls, data: Data) -> Sequence[Candidate]:
        """Autoregressive layers, affine and of splines, whose held-out densities were above those of coupling layers on
        every table that was tried (docs/decisions.md), with heavy tails, without which a stray row can cost a table its
        place; splines alone of one column. Small networks for few rows."""
        from ppl_gen.candidates import FEW, LATER, Candidate

        few = len(data) < FEW
        affine = {"maf": 3 if few else 5} if data.num_columns > 1 else {}
        transforms = {"nsf_ar": 1 if few or not affine else 3, **affine}
        hidden, settings = (32, 32) if few else (64, 64), {"num_members": 6, "max_steps": 20_000}
        families = {name: cls(name, num_layers=layers, hidden=hidden, base="student_t")
                    for name, layers in transforms.items()}  # fmt: skip
        return [Candidate(f"{cls.name} {name}", (family,), "svi", settings, turn=LATER, share=3.0)
                for name, family in families.items()]  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("transform", TRANSFORMS)
        self.require_choice("base", BASES)
        if self.num_layers is not None:
            self.require_integer("num_layers", 1)
        self.require_widths("hidden")
        self.require_integer("num_components", 1)
        self.require_integer("num_bins", 2)
        self.require_number("bound", 0.0)
        self.require_integer("num_probes", 2)
        self.require("bayesian", isinstance(self.bayesian, bool), "true or false")
        self.require_number("prior_scale", 0.0)

    @property
    def size(self) -> int:
        """The number of layers."""
        return self.num_layers or LAYERS[self.transform]

    @property
    def parameters_per_column(self) -> int:
        """What the conditioner gives for each column that is transformed: shift and scale, or a spline's numbers."""
        return 3 * self.num_bins - 1 if self.transform.startswith("nsf") else 2

    def density_for(self, schema: Schema) -> str:
        """Exact for real columns; with others the noise added to them has to be integrated out."""
        return "exact" if all(c.kind == "real" for c in schema.target_columns) else "importance"

    @property
    def guide_advice(self) -> str:
        """The proposal is uniform in each cell, so the density must not be too steep there."""
        return ("where in its cell a whole number or label lies matters much: use fewer layers (num_layers), or the "
                "families vae or autoregressive, which give such columns probabilities of their own; scores alone gain "
                "by more num_particles, too")  # fmt: skip

    def check(self, data: Data) -> None:
        """The data must be complete, with at least 50 rows, and two columns for coupling layers.

        :raises DataError: they are not.
        """
        super().check(data)
        self.refuse_missing(data)
        whole = [column.name for column in data.schema.target_columns if column.kind != "real"]
        if self.bayesian and whole:
            names = ", ".join(map(repr, whole))
            holds, it = ("holds", "it") if len(whole) == 1 else ("hold", "them")
            raise DataError(
                f"bayesian=True of a flow takes real columns only, but {names} {holds} whole numbers or labels: leave "
                f"bayesian out, drop {it}, read numbers as real (kinds={{{whole[0]!r}: 'real'}}), or fit "
                "autoregressive, which takes columns of any kind with bayesian=True."
            )
        if len(data.schema.targets) == 1 and self.transform in ("realnvp", "nsf"):
            raise DataError(
                f"transform={self.transform!r} needs at least two columns, as one half of them transforms the other: "
                "use transform='nsf_ar' (or 'maf') for a single column."
            )
