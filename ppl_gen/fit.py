"""fit(): a family, a table and an engine become a Fit."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen import backends, registry
from ppl_gen.data import Data
from ppl_gen.engine import Draws, Engine
from ppl_gen.errors import SettingError, did_you_mean, warn
from ppl_gen.family import BACKENDS, Family, Pair
from ppl_gen.files import check_writable, resolve
from ppl_gen.padding import inside
from ppl_gen.progress import Monitor
from ppl_gen.result import Fit
from ppl_gen.scoring import check_seed

MAX_PROBE_STEPS = 2_000  # time steps of sequences looked at for it
NUM_PROBES = 200  # rows whose responsibilities tell one label from another


def fit(
    family: Family | str,
    table: Any,
    *,
    engine: Engine | str | None = None,
    backend: str | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    keep_partial: bool = False,
    max_seconds: float | None = None,
    **data_options: Any,
) -> Fit:
    """Fit a family to a table.

    :param family: a family such as ``GMM(num_components=3)``, or a family's name.
    :param table: a DataFrame, an array, a path (.csv, .parquet, .npy, .npz) or a :class:`~ppl_gen.data.Data`.
    :param engine: an engine such as ``NUTS(num_samples=1000)``, its name, or None to choose by family and data.
    :param backend: ``"numpyro"`` or ``"pyro"``; None is numpyro.
    :param seed: the same seed gives the same bits on the same machine.
    :param progress: draw a progress bar on stderr.
    :param checkpoint: a file to write the engine's state to as it runs, and to resume from; removed at the end.
    :param keep_partial: on Ctrl-C, finish the piece of work at hand and return the fit with what was drawn so far
        instead of raising (a second Ctrl-C raises at once).
    :param max_seconds: stop the engine after so long, between two pieces of its work, and return the fit with what it
        has by then: the weights of networks so far, or the draws. An engine that has nothing yet goes on until it has.
    :param data_options: ``columns``, ``drop``, ``kinds``, ``standardize``, ``weights``: see
        :meth:`Data.from_table <ppl_gen.data.Data.from_table>`.
    :raises DataError: the table can't be used for this family.
    :raises SettingError: unknown family, engine or backend; a prior that fixes every parameter.
    :raises FitError: the objective stopped being a finite number.
    """
    chosen = family if isinstance(family, Family) else registry.family(str(family))()
    data = chosen.prepare(table, **data_options)
    engine, backend, reasons = choose(chosen, data, engine, backend)
    check_seed(seed)
    if chosen.num_free(data.schema) == 0:
        raise SettingError(f"The prior of {chosen.name} fixes every parameter, so none is left to infer: free one.")
    if checkpoint is not None and not engine.checkpoints:
        raise SettingError(f"Engine {engine.name!r} keeps no checkpoint, it is quick: leave checkpoint= out.")
    pair = chosen.build(backend, data.schema, len(data), data.view(backend))
    if checkpoint is not None and not Path(checkpoint).exists():
        check_writable(resolve(checkpoint))
    monitor = Monitor(
        show=progress, gentle=keep_partial, checkpoint_path=Path(checkpoint) if checkpoint else None,
        tag=_tag(chosen, engine, backend, seed, data), label=f"{chosen.name} by {engine.name}",
        deadline=_deadline(max_seconds),
    )  # fmt: skip
    start = time.perf_counter()
    with monitor:
        draws = engine.run(pair, data, seed=int(seed), monitor=monitor)
        if draws.interrupted and not (keep_partial or monitor.stopped):
            raise KeyboardInterrupt
        draws = align_labels(chosen, pair, data, draws)
        result = Fit(
            family=chosen, engine=engine, backend=backend, seed=int(seed), schema=data.schema, draws=draws, train=data,
            versions=versions(backend), seconds=time.perf_counter() - start, reasons=reasons,
        )  # fmt: skip
        if monitor.interrupted_late:
            warn("Ctrl-C came after the last draw: the fit is complete.")
    # The pair's compiled programs serve the fit's verbs too; its view of the data need not be kept twice.
    result.__dict__["pair"] = dataclasses.replace(pair, data=None)
    if checkpoint and not draws.interrupted:
        Path(checkpoint).unlink(missing_ok=True)
    return result


def _deadline(max_seconds: float | None) -> float:
    """When an engine has to stop, as :func:`time.monotonic` counts."""
    if max_seconds is None:
        return float("inf")
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float) or not max_seconds > 0:
        raise SettingError(f"max_seconds must be a number above 0, not {max_seconds!r}.")
    return time.monotonic() + max_seconds


def choose(
    family: Family, data: Data, engine: Engine | str | None, backend: str | None
) -> tuple[Engine, str, tuple[str, ...]]:
    """The engine and backend to use, and why in words."""
    reasons = []
    if engine is None:
        engine, reason = family.default_engine(data)
        reasons.append(f"engine {engine}: {reason}")
    if isinstance(engine, str):
        engine = registry.engine(engine)()
    if not isinstance(engine, Engine):
        raise SettingError(f"engine must be an engine such as NUTS() or its name, not {engine!r}.")
    if backend is None:
        backend = "numpyro"
        reasons.append("backend numpyro: compiled by XLA, and in the base installation")
    if backend not in BACKENDS:
        raise SettingError(f"Unknown backend {backend!r}: {did_you_mean(str(backend), BACKENDS)}")
    return engine, backend, tuple(reasons)


def align_labels(family: Family, pair: Pair, data: Data, draws: Draws) -> Draws:
    """Undo label switching: relabel every draw (and the point estimate) against a common pivot, and then components
    within labels."""
    axes = {name: ax for name, ax in family.label_axes().items() if name in draws.posterior}
    within = {name: ax for name, ax in family.component_axes().items() if name in draws.posterior}
    if not axes and not within:
        return draws
    from ppl_gen.relabel import relabel, relabel_within

    chains, number = draws.num_chains, draws.num_draws
    stacked = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.posterior.items()}
    if draws.point is not None:
        stacked = {name: np.concatenate([draws.point[name][None], value]) for name, value in stacked.items()}
    probabilities, x, mask = _label_probabilities(pair, data, stacked)
    aligned, switched = {name: value[None] for name, value in stacked.items()}, np.zeros(probabilities.shape[::2])
    if axes:
        aligned, permutations = relabel(aligned, probabilities, axes)
        probabilities = np.take_along_axis(probabilities, permutations[:, None, :], axis=2)
        switched = permutations
    if within:
        flat = {name: value[0] for name, value in aligned.items()}
        each = family.component_probs(flat, data.schema, x, mask)
        assert each is not None
        aligned, permutations = relabel_within(aligned, probabilities[..., None] * each, within)
        switched = np.concatenate([switched, permutations.reshape(len(permutations), -1)], axis=1)
    flat, point = {name: value[0] for name, value in aligned.items()}, None
    if draws.point is not None:
        point = {name: value[0] for name, value in flat.items()}
        flat, switched = {name: value[1:] for name, value in flat.items()}, switched[1:]
    return dataclasses.replace(
        draws,
        posterior={name: value.reshape(chains, number, *value.shape[1:]) for name, value in flat.items()},
        point=point,
        figures={**draws.figures, "relabelled_fraction": float(np.any(switched != switched[:1], axis=-1).mean())},
    )


def _label_probabilities(
    pair: Pair, data: Data, draws: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(draws, probes, K): of a few rows, or of the time steps of a few sequences, spread over the table; and the values
    (probes, d) and masks of those."""
    ops = backends.ops(pair.backend)
    if data.lengths is None:
        some = data.take(np.linspace(0, len(data) - 1, min(NUM_PROBES, len(data))).astype(int))
        (found,) = ops.local_posterior(pair, draws, some.view(pair.backend)).values()
        return found, some.x[:, some.schema.is_target], some.target_mask
    steps = np.cumsum(data.lengths)
    some = data.take(slice(0, max(1, int((steps <= MAX_PROBE_STEPS).sum()))))
    if some.num_steps > MAX_PROBE_STEPS:  # one long sequence: its beginning
        mask = None if some.mask is None else some.mask[:MAX_PROBE_STEPS]
        some = dataclasses.replace(some, x=some.x[:MAX_PROBE_STEPS], mask=mask, weights=None, index=None, order=None,
                                   lengths=np.array([MAX_PROBE_STEPS]))  # fmt: skip
    assert some.lengths is not None
    found = ops.hook_over_draws(pair, "smoothed", draws, some.view(pair.backend))[:, inside(some.lengths)]
    chosen = np.linspace(0, some.num_steps - 1, min(NUM_PROBES, some.num_steps)).astype(int)
    x, mask = some.x[:, some.schema.is_target], some.target_mask
    return found[:, chosen], x[chosen], None if mask is None else mask[chosen]


def versions(backend: str) -> Mapping[str, str]:
    """Versions of what the numbers depend on."""
    names = {"numpyro": ("jax", "numpyro", "blackjax"), "pyro": ("torch", "pyro-ppl")}[backend]
    return {name: importlib.metadata.version(name) for name in (*names, "numpy", "arviz", "ppl_gen")}


def _tag(family: Family, engine: Engine, backend: str, seed: int, data: Data) -> str:
    """What a checkpoint must have in common with the job that resumes from it."""
    guide = getattr(engine, "guide", None)
    config = {
        name: value if not callable(value) else getattr(value, "__qualname__", repr(type(value)))
        for name, value in engine.to_config().items()
    }
    job = [family.name, family.to_config(), engine.name, config, backend, seed, data.fingerprint, str(type(guide))]
    return hashlib.blake2b(json.dumps(job, sort_keys=True).encode(), digest_size=16).hexdigest()
