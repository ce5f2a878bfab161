"""Codes of rows under a diffusion model: the noise z_1 that the probability flow makes of a row, one to one.

A table of real columns and its codes stand for each other but for the solver's error; of labels and counts the code is
that of their own numbers, in the middle of what z_0 may be. The codes of one member are not those of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import importance, latents
from ppl_gen.errors import SettingError
from ppl_gen.registry import import_backend
from ppl_gen.scoring import encode

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit


def table(fit: Fit, rows: Any, method: str | None, member: int) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.latents`: ``z0``, ``z1``, ... of each row, F of them."""
    import pandas as pd

    if method not in (None, "flow"):
        raise SettingError(f"The probability flow makes one code of a row: leave method out for {fit.family.name}.")
    data, posterior = encode(fit, rows), latents.member_of(fit, member)
    found = codes(fit, data, posterior)
    return pd.DataFrame({"row": np.arange(len(data))} | {f"z{j}": found[:, j] for j in range(found.shape[1])})


def codes(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> np.ndarray:
    """(n, F): z_1 of the rows under one member."""
    backend, one = backend_of(fit), {name: value[0] for name, value in posterior.items()}
    assert fit.pair.noising is not None
    found = [backend.codes(fit.pair, one, view)[kept] for _, view, kept in latents.parts(fit, data)]
    return np.concatenate([np.empty((0, fit.pair.noising.size)), *found]).astype(np.float64)


def decoded(fit: Fit, posterior: dict[str, np.ndarray], values: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    """(n, D): the likeliest rows of codes (n, F) under one member, in model space."""
    backend, one = backend_of(fit), {name: value[0] for name, value in posterior.items()}
    found = [np.empty((0, len(fit.schema.targets)))]
    for rows, window in importance.windows(len(values), latents.ROWS):
        given = None if context is None else np.asarray(context[window])
        found.append(backend.decoded(fit.pair, one, values[window], given)[rows.start - window.start :])
    return np.concatenate(found)


def between(first: np.ndarray, second: np.ndarray, num_steps: int) -> np.ndarray:
    r"""(n, num_steps, F): on the great circle between codes (n, F),
    :math:`[\sin((1 - s) \theta)\, a + \sin(s \theta)\, b] / \sin \theta`, which keeps the length that noise has (Song,
    Meng & Ermon 2021, arXiv:2010.02502, eq. 67)."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(1) / np.maximum(lengths, np.finfo(float).tiny)
    angle = np.maximum(np.arccos(np.clip(cosine, -1.0, 1.0)), 1e-6)[:, None, None]
    share = np.linspace(0, 1, num_steps)[None, :, None]
    shares = [np.sin(part * angle) / np.sin(np.minimum(angle, np.pi - 1e-6)) for part in (1 - share, share)]
    return np.asarray(shares[0] * first[:, None] + shares[1] * second[:, None])


def backend_of(fit: Fit) -> Any:
    """The module of the fit's backend: ``codes``, ``decoded``."""
    return import_backend("ppl_gen.backends", f"{fit.backend}_noising_codes", fit.backend)
