"""Codes of rows under a diffusion model in torch, the twin of ``numpyro_noising_codes``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_gen.backends.pyro_ops import as_tensor
from ppl_gen.backends.pyro_probability_flow import code_of, row_of
from ppl_gen.backends.pyro_programs import sandbox

if TYPE_CHECKING:
    from ppl_gen.pair import Pair
    from ppl_gen.view import View


def codes(pair: Pair, parameters: Mapping[str, np.ndarray], view: View) -> np.ndarray:
    """(n, F): z_1 of rows."""
    assert pair.noising is not None
    weights = {name: as_tensor(value) for name, value in parameters.items()}
    context = None if view.context is None else as_tensor(view.context)
    with sandbox(0), torch.no_grad():
        return code_of(pair.noising, weights, as_tensor(view.x), context).numpy()


def decoded(
    pair: Pair, parameters: Mapping[str, np.ndarray], values: np.ndarray, context: np.ndarray | None
) -> np.ndarray:
    """(n, D): rows of codes (n, F)."""
    assert pair.noising is not None
    weights = {name: as_tensor(value) for name, value in parameters.items()}
    given = None if context is None else as_tensor(context)
    with sandbox(0), torch.no_grad():
        return row_of(pair.noising, weights, as_tensor(values), given).numpy()
