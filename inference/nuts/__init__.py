r"""No-U-Turn sampling (Hoffman & Gelman 2014, J. Mach. Learn. Res. 15; Betancourt 2017, arXiv:1701.02434).

The JAX engine samples with blackjax over the log density that NumPyro derives from the pair; the torch engine with
Pyro's own NUTS, jitted. Step size and diagonal mass matrix are adapted in Stan's three windows. Chains start at EM
solutions (the best of ``num_starts`` k-means starts, drawn afresh for each chain) where the pair has the hooks, else
at the pair's initial values.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.engine import Engine

__all__ = ["NUTS"]


@dataclasses.dataclass(frozen=True)
class NUTS(Engine):
    """Settings of the No-U-Turn sampler.

    :param num_samples: draws kept per chain.
    :param num_warmup: adaptation steps per chain, not kept.
    :param num_chains: independent chains.
    :param target_accept: acceptance rate that the step size is adapted to; raise it when there are divergences.
    :param max_tree_depth: a trajectory doubles at most this many times.
    :param num_starts: k-means starts per chain, the best EM solution of which the chain starts from.
    """

    name: ClassVar[str] = "nuts"
    title: ClassVar[str] = "No-U-Turn sampler: draws from the posterior"

    num_samples: int = 1000
    num_warmup: int = 500
    num_chains: int = 4
    target_accept: float = 0.9
    max_tree_depth: int = 10
    num_starts: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("num_samples", 4)
        self.require_integer("num_warmup", 20)
        self.require_integer("num_chains", 1)
        self.require_integer("max_tree_depth", 1)
        self.require_integer("num_starts", 1)
        self.require_number("target_accept", 0.0, 1.0)
