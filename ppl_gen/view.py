"""The arrays that a model reads, of one backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.errors import MissingExtraError, SettingError, did_you_mean


class View(NamedTuple):
    """The arrays that a model reads, of one backend.

    ``x``         (n, d) model space, 0.0 where missing
    ``mask``      (n, d) True where observed, or None where nothing is missing
    ``weights``   (n,) row weights, or None
    ``patterns``  (P, d) the distinct rows of ``mask``, or None
    ``pattern``   (n,) which of them is each row's, or None
    ``lengths``   (n,) time steps of each sequence, or None where all are as long
    ``context``   (n, c) the columns that are conditioned on, categories as indicators, or None; ``x`` has the others,
                  and is None where it is to be drawn for this context

    Of sequences, ``x`` and ``mask`` are (n, T, d), ``context`` is (n, T, c) and ``pattern`` (n, T), T the longest; past
    the end of a shorter one x is 0.0 and the mask False.
    """

    x: Any
    mask: Any = None
    weights: Any = None
    patterns: Any = None
    pattern: Any = None
    lengths: Any = None
    context: Any = None

    def take(self, rows: Any) -> View:
        """Some rows, by a slice or their numbers. The table of patterns stays whole, so that its shape does not
        change."""
        leaves = {name: leaf for name, leaf in self._asdict().items() if leaf is not None and name != "patterns"}
        return self._replace(**{name: leaf[rows] for name, leaf in leaves.items()})


def num_rows(data: View | None, num_obs: int | None) -> int:
    """The size of a model's plate over observations: that of the data, or as many as are to be drawn."""
    if data is not None:
        return len(data.context if data.x is None else data.x)
    if num_obs is None:
        raise ValueError("Give the data, or num_obs, the number of observations to draw.")
    return num_obs


def batch_of(data: View | None, rows: Any, subsample_size: int | None) -> View | None:
    """The rows of a mini-batch, or all of them."""
    return data if data is None or subsample_size is None else data.take(rows)


def backend_arrays(backend: str) -> tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any], float]:
    """How to make a backend's float arrays and its other arrays, and the largest float that it holds."""
    if backend == "numpyro":
        import jax.numpy as jnp

        dtype = jnp.result_type(float)
        return (lambda a: jnp.asarray(a, dtype=dtype)), jnp.asarray, float(jnp.finfo(dtype).max)
    if backend != "pyro":
        raise SettingError(f"Unknown backend {backend!r}: {did_you_mean(backend, ('numpy', 'numpyro', 'pyro'))}")
    try:
        import torch
    except ModuleNotFoundError:
        message = "The pyro backend needs torch, which is not installed: pip install 'ppl_gen[pyro]'"
        raise MissingExtraError(message) from None
    default = torch.get_default_dtype()
    return (
        lambda a: torch.as_tensor(np.ascontiguousarray(a)).to(default),
        lambda a: torch.as_tensor(np.ascontiguousarray(a)).to(torch.bool if a.dtype == bool else torch.int64),
        float(torch.finfo(default).max),
    )
