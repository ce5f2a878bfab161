"""Engines that sample a posterior, run on a density of something else than parameters: a row, or noise behind a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.engine import Draws, Engine
from ppl_gen.pair import Pair
from ppl_gen.progress import Monitor
from ppl_gen.registry import import_backend
from ppl_gen.view import View


class _OneRow:
    """Stands for the data of an engine: what it samples is a single row."""

    def __len__(self) -> int:
        return 1


def of_latent(
    pair: Pair, model: Any, parameters: Any, starts: Mapping[str, np.ndarray], space: str, settings: Engine, seed: int
) -> Draws:
    """What an engine draws of a model whose latent sites are these ``starts`` (C, *shape), and which reads the
    parameters as the context of its data."""
    backend = import_backend("ppl_gen.backends", f"{pair.backend}_data_space", pair.backend)
    data_pair = Pair(
        pair.family, pair.backend, model, collapsed=model,
        data=View(backend.arrays({"x": np.zeros((1, 1))})["x"], context=parameters),
        initialize=lambda view, seed, number: starts, programs=pair.cached(f"{space} programs", dict),
    )  # fmt: skip
    return settings.run(data_pair, _OneRow(), seed=seed, monitor=Monitor())  # type: ignore[arg-type]
