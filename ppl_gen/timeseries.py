"""The verbs of a fit to sequences, derived from its pair and its draws: steps scored, paths inferred, futures drawn.

An observation is a whole sequence; what is said here is said of its time steps, stacked as in ``Data.x``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from ppl_gen import backends
from ppl_gen.conditions_sequences import sample_given, sequences_to_draw_for, with_future_context
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.metrics import highest_density_interval, standard_deviation
from ppl_gen.padding import unpad
from ppl_gen.scores import Score
from ppl_gen.scoring import (
    CHUNK_VALUES,
    check_seed,
    encode,
    is_discrete,
    num_entries,
    point_draw,
    sliceable,
    with_point,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit

METHODS = ("smoothing", "filtering", "viterbi", "draws")
MAX_DRAWS = 400  # draws that paths and futures are found under, evenly spread; more would only cost time
MAX_VALUES = 100_000_000  # drawn entries that are held at once: some gigabytes while they are made into a table


def require_sequences(fit: Fit, verb: str) -> None:
    """Raise an :class:`UnsupportedError` unless the family models sequences."""
    if not fit.family.sequences:
        from ppl_gen import registry

        # Of a family that models either, by its options, it is a property: true of the class.
        others = ", ".join(name for name in registry.families() if registry.family(name).sequences)
        raise UnsupportedError(
            f"{fit.family.name} models rows here, which have no {verb}; families that can: {others}."
        )


def blocks(data: Data, per_step: int) -> Iterator[slice]:
    """Slices of sequences, so few that steps times ``per_step`` fit in memory; all but the last of one length."""
    assert data.lengths is not None
    size = max(1, CHUNK_VALUES // max(int(data.lengths.max(initial=1)) * per_step, 1))
    return (slice(start, min(start + size, len(data))) for start in range(0, len(data), size))


def over_draws(fit: Fit, hook: str, data: Data, posterior: dict[str, np.ndarray], per_step: int = 1,
               **options: Any) -> np.ndarray:  # fmt: skip
    """(draws, R, ...): a hook of the pair that gives (N, T, ...), under each draw, its steps stacked."""
    assert data.lengths is not None
    ops, view = backends.ops(fit.backend), sliceable(fit, data)
    number = len(next(iter(posterior.values())))
    parts = []
    for rows in blocks(data, number * per_step):
        found = ops.hook_over_draws(fit.pair, hook, posterior, view.take(rows), **options)
        inner = np.moveaxis(np.asarray(found), 0, 2)  # (n, T, draws, ...)
        parts.append(np.moveaxis(unpad(inner, data.lengths[rows]), 1, 0))
    return np.concatenate(parts, axis=1)


def step_log_prob(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> np.ndarray:
    """(draws, R): log p(x_t | x_<t, theta_s) of each time step, nats, original units."""
    values = over_draws(fit, "step_log_prob", data, posterior)
    return values + np.asarray(fit.schema.log_jacobian(data.mask), values.dtype)


def telescoped(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    r"""(R,): one-step-ahead log predictive densities from those under each draw (S, R).

    .. math:: \log p(x_t \mid x_{<t}) = \log \tfrac1S \sum_s p(x_{\le t} \mid \theta_s)
              - \log \tfrac1S \sum_s p(x_{<t} \mid \theta_s)

    so that the steps of a sequence sum to its own log predictive density.
    """
    result, start = np.empty(values.shape[1]), 0
    for length in lengths:
        part = np.cumsum(values[:, start : start + length], axis=1, dtype=np.float64)
        joint = logsumexp(part, axis=0) - np.log(len(values))
        result[start : start + length] = np.diff(joint, prepend=0.0)
        start += length
    return result


def score_steps(fit: Fit, table: Any, hdi_prob: float) -> Score:
    """See :meth:`ppl_gen.result.Fit.score` with ``per_step``."""
    require_sequences(fit, "time steps")
    if not 0 < hdi_prob < 1:
        raise SettingError(f"hdi_prob must be between 0 and 1, not {hdi_prob!r}.")
    data = encode(fit, table)
    values = step_log_prob(fit, data, with_point(fit))
    draws = values[-len(next(iter(fit.posterior.values()))) :]
    assert data.lengths is not None
    predictive = telescoped(draws, data.lengths) if fit.draws.point is None else values[0].astype(np.float64)
    return Score(
        log_predictive=predictive, sd=standard_deviation(draws),
        hdi=highest_density_interval(draws, hdi_prob), kind=fit.family.density_for(fit.schema), hdi_prob=hdi_prob,
        uncertainty=fit.uncertainty, steps=data.step_labels(), num_entries=num_entries(data, per_step=True),
        discrete=is_discrete(data),
    )  # fmt: skip


def latents(fit: Fit, table: Any, method: str, num_draws: int, seed: int) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.latents`: a row per time step.

    ``"smoothing"`` and ``"filtering"``: ``z`` (the most probable state given the whole sequence, or what came so far),
    ``z_prob``, ``z_agreement`` (share of parameter draws whose most probable state it is), and for each state k
    ``z=k`` and ``z=k_sd`` (mean and sd over draws of its probability). ``"viterbi"``: ``z``, the state that most
    draws' most probable paths go through, and ``z_agreement``, their share. ``"draws"``: paths drawn from the
    posterior, each under a parameter draw of its own, ``draw 0``, ``draw 1``, ...
    """
    import pandas as pd

    require_sequences(fit, "state paths")
    if fit.pair.smoothed is None:
        raise UnsupportedError(f"{fit.family.name} has no hidden states, so nothing to infer about a time step.")
    if method not in METHODS:
        from ppl_gen.errors import did_you_mean

        raise SettingError(f"Unknown method {method!r}: {did_you_mean(str(method), METHODS)}")
    check_seed(seed)
    data = encode(fit, table)
    frame = data.step_labels()
    size = fit.family.num_labels
    if method == "draws":
        require_room(data.num_steps, num_draws, f"{data.num_steps:,} time steps", "paths")
        chosen = spread(fit, num_draws, repeat=True)
        paths = over_draws(fit, "sample_paths", data, chosen, seed=seed)
        return pd.concat([frame, pd.DataFrame({f"draw {s}": path for s, path in enumerate(paths)})], axis=1)
    draws = spread(fit, MAX_DRAWS)
    if method == "viterbi":
        paths = over_draws(fit, "most_probable_path", data, draws)
        share = np.stack([(paths == k).mean(0) for k in range(size)], axis=-1)
        point = point_draw(fit)
        best = share.argmax(-1) if point is None else over_draws(fit, "most_probable_path", data, point)[0]
        return frame.assign(z=best, z_agreement=np.take_along_axis(share, best[:, None], 1)[:, 0])
    hook = {"smoothing": "smoothed", "filtering": "filtered"}[method]
    tables = over_draws(fit, hook, data, draws, size)
    point = point_draw(fit)
    centre = tables.mean(0, dtype=np.float64) if point is None else over_draws(fit, hook, data, point, size)[0]
    best = centre.argmax(-1)
    columns = {"z": best, "z_prob": centre.max(-1), "z_agreement": (tables.argmax(-1) == best).mean(0)}
    for k in range(size):
        columns |= {f"z={k}": centre[:, k], f"z={k}_sd": tables[:, :, k].std(0, dtype=np.float64)}
    return frame.assign(**columns)


def require_room(each: int, num_draws: Any, what: str, draws: str) -> None:
    """Raise a :class:`SettingError` unless there is a whole number of draws, that fit in memory."""
    if isinstance(num_draws, bool) or not isinstance(num_draws, int | np.integer) or num_draws < 1:
        raise SettingError(f"num_draws must be a whole number of at least 1, not {num_draws!r}.")
    if each * int(num_draws) > MAX_VALUES:
        too_much = f"{what} in {num_draws:,} {draws} would not fit in memory"
        raise SettingError(f"{too_much}: lower num_draws=, or ask for less.")


def spread(fit: Fit, number: int, repeat: bool = False) -> dict[str, np.ndarray]:
    """At most ``number`` draws, evenly spread; exactly so many with ``repeat``, each about as often as any other."""
    total = len(next(iter(fit.posterior.values())))
    chosen = np.linspace(0, total - 1, min(number, total)).astype(int)
    if repeat and number > total:
        chosen = np.arange(number) * total // number
    return {name: value[chosen] for name, value in fit.posterior.items()}


def sample(fit: Fit, num_samples: int, length: int | None, seed: int, given: Any = None) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.sample`: whole sequences, as long as training sequences picked at random."""
    conditions = sequences_to_draw_for(fit, num_samples, length, seed, given)
    if conditions is not None:
        return sample_given(fit, conditions, seed)
    lengths = fit.train.lengths
    assert lengths is not None
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1):
        raise SettingError(f"length must be a whole number of at least 1, not {length!r}.")
    rng, longest = np.random.default_rng(seed), int(length or lengths.max())
    if num_samples * longest * fit.schema.num_columns > MAX_VALUES:
        too_much = f"{num_samples:,} sequences of {longest:,} time steps would not fit in memory"
        raise SettingError(f"{too_much}: ask for fewer, or for shorter ones.")
    sizes = np.full(num_samples, length) if length else rng.choice(lengths, size=num_samples)
    posterior = point_draw(fit) or fit.posterior
    index = rng.integers(len(next(iter(posterior.values()))), size=num_samples)
    return fit.schema.decode_sequences(sample_sequences(fit, posterior, index, sizes, seed))


def sample_sequences(
    fit: Fit, posterior: dict[str, np.ndarray], index: np.ndarray, lengths: np.ndarray, seed: int,
    context: np.ndarray | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Sequence i, (lengths[i], d) in model space, from draw ``index[i]``; given ``context[i]``, (n, T, c), d is the
    number of columns that are modelled."""
    longest = int(np.max(lengths))
    size = max(1, CHUNK_VALUES // (longest * fit.schema.num_columns))
    size = min(size, 1 << (len(index) - 1).bit_length())  # few programs: one for each power of two
    filled = np.resize(np.arange(len(index)), -(-len(index) // size) * size)
    ops, found = backends.ops(fit.backend), []
    for start in range(0, len(filled), size):
        part = filled[start : start + size]
        given = None if context is None else context[part]
        drawn = ops.sample_rows(fit.pair, posterior, index[part], (seed + start) % 2**31, given, num_steps=longest)
        found += list(drawn)
    return [values[:length] for values, length in zip(found, lengths, strict=False)]


def forecast(
    fit: Fit, horizon: int, table: Any, num_draws: int, hdi_prob: float, seed: int, draws: bool, given: Any = None
) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.forecast`."""
    import pandas as pd

    require_sequences(fit, "future")
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
        raise SettingError(f"horizon must be a whole number of at least 1, not {horizon!r}.")
    if not 0 < hdi_prob < 1:
        raise SettingError(f"hdi_prob must be between 0 and 1, not {hdi_prob!r}.")
    check_seed(seed)
    data = encode(fit, table)
    what = f"{horizon:,} steps of {len(data):,} sequence{'s' * (len(data) != 1)}"
    require_room(horizon * len(data) * (data.num_columns + 1), num_draws, what, "futures")
    view = with_future_context(fit, data, horizon, given)
    found = backends.ops(fit.backend).hook_over_draws(
        fit.pair, "forecast", spread(fit, num_draws, repeat=True), view, seed=seed, horizon=horizon
    )
    futures, states = np.asarray(found["x"]), found.get("z")  # (S, N, horizon, d), (S, N, horizon)
    labels = data.future_labels(horizon)
    schema, number = fit.schema.only_targets(), len(futures)
    table = schema.decode(futures.reshape(-1, futures.shape[-1]))
    if draws:
        whose = labels.take(np.tile(np.arange(len(labels)), number)).reset_index(drop=True)
        whose.insert(0, "draw", np.repeat(np.arange(number), len(labels)))
        whole = pd.concat([whose, table], axis=1)
        return whole if states is None else whole.assign(z=np.ravel(states))
    columns: dict[str, Any] = {}
    for column in schema.columns:
        name = column.name
        if column.kind == "categorical":
            values = table[name].to_numpy(object).reshape(number, -1)
            columns |= {f"{name}={label}": (values == label).mean(0) for label in column.categories or ()}
            continue
        numbers = table[name].to_numpy(np.float64).reshape(number, -1)
        low, high = highest_density_interval(numbers, hdi_prob).T
        columns |= {f"{name}_mean": numbers.mean(0), f"{name}_sd": numbers.std(0), f"{name}_low": low,
                    f"{name}_high": high}  # fmt: skip
    for k in range(0 if states is None else fit.family.num_labels):
        columns[f"z={k}"] = (np.asarray(states) == k).mean(0).ravel()
    return labels.assign(**columns)
