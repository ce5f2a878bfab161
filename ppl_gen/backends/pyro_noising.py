"""The functions of a noising process (:class:`~ppl_gen.noising.Noising`) under each member, in Pyro."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_programs import sandbox

if TYPE_CHECKING:
    from ppl_gen.pair import Pair


def over_members(pair: Pair, function: str, posterior: Mapping[str, np.ndarray], *arrays: Any) -> np.ndarray:
    """A function of the noising process under each member, (M, ...), at that member's arrays (M, ...) or None."""
    members = {name: as_tensor(value) for name, value in posterior.items()}
    given = [None if values is None else as_tensor(np.array(values, np.float64)) for values in arrays]
    call = getattr(pair.noising, function)
    with sandbox(0), torch.no_grad():
        return torch.stack([
            call({name: value[m] for name, value in members.items()}, *(v if v is None else v[m] for v in given))
            for m in range(len(next(iter(members.values()))))
        ]).numpy()  # fmt: skip
