"""The verbs of a fit, derived from its pair and its draws: score, sample, latents, and held-out densities.

Rows are streamed through in chunks and reduced over draws as they come, so memory does not grow with rows times
draws. Log densities leave here in nats and in the original units of the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from ppl_gen import backends
from ppl_gen.data import Data
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.metrics import highest_density_interval
from ppl_gen.result import Score

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import View
    from ppl_gen.result import Fit

CHUNK_VALUES = 4_000_000  # draws x rows held at once (16 MB in float32)
KEEP_VALUES = 50_000_000  # draws x rows up to which Score.log_prob is kept by default (200 MB in float32)
SAMPLE_ROWS = (4096, 32_768)  # rows drawn in one call, for few rows and for many
MIN_PEERS = 20  # training rows with the same entries missing below which a rank says too little
MIN_SEQUENCES = 10  # below which none is left out: the future of each is predicted instead
MAX_LOO_ROWS = 10_000  # rows whose leave-one-out density is found; a random subset of them in a longer table


def encode(fit: Fit, table: Any) -> Data:
    """The table under the fit's schema; None is the training table."""
    if table is None:
        return fit.train
    return table if isinstance(table, Data) and table.schema == fit.schema else fit.schema.encode(table)


def chunks(num_rows: int, num_draws: int) -> Iterator[slice]:
    """Slices of rows, all of the same length but the last."""
    size = max(1, min(num_rows, CHUNK_VALUES // max(num_draws, 1)))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def log_prob_rows(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, log p(x | theta_s) (draws, rows)) chunk by chunk, in nats and original units."""
    ops = backends.ops(fit.backend)
    view = sliceable(fit, data)
    jacobian = fit.schema.log_jacobian(data.mask) if data.lengths is None else data.log_jacobian()
    steps = 1 if data.lengths is None else int(data.lengths.max(initial=1))
    size = None
    for rows in chunks(len(data), len(next(iter(posterior.values()))) * steps):
        length = rows.stop - rows.start
        size = size or length
        # The last chunk begins earlier, so that all have one shape and one compiled program serves them.
        start = rows.stop - size
        values = ops.log_prob(fit.pair, posterior, view.take(slice(start, rows.stop)))[:, rows.start - start :]
        if data.mask is not None and data.lengths is None:
            # Nothing observed has density 1, whatever the rounding of weights that sum to 1.
            values = np.where(data.mask[rows].any(1), values, values.dtype.type(0))
        yield rows, values + np.asarray(jacobian[rows] if np.ndim(jacobian) else jacobian, values.dtype)


def sliceable(fit: Fit, data: Data) -> View:
    """The whole table as arrays whose slices cost nothing: a slice of a JAX array would compile, once per position."""
    return data.view("numpy" if fit.backend == "numpyro" else fit.backend)


def point_draw(fit: Fit) -> dict[str, np.ndarray] | None:
    """The point estimate as a single draw."""
    return None if fit.draws.point is None else {name: value[None] for name, value in fit.draws.point.items()}


def with_point(fit: Fit) -> dict[str, np.ndarray]:
    """The draws, with the point estimate before them where there is one and it is not the only draw."""
    point = point_draw(fit)
    if point is None or fit.uncertainty == "point":
        return fit.posterior
    return {name: np.concatenate([point[name], value]) for name, value in fit.posterior.items()}


def score(fit: Fit, table: Any, *, hdi_prob: float, keep_draws: bool | None, p_values: bool) -> Score:
    """See :meth:`ppl_gen.result.Fit.score`."""
    if not 0 < hdi_prob < 1:
        raise SettingError(f"hdi_prob must be between 0 and 1, not {hdi_prob!r}.")
    data = encode(fit, table)
    num_draws, num_rows = len(next(iter(fit.posterior.values()))), len(data)
    keep = num_draws * num_rows <= KEEP_VALUES if keep_draws is None else keep_draws
    predictive, sd, hdi = np.empty(num_rows), np.empty(num_rows), np.empty((num_rows, 2))
    kept = []
    # A point estimate goes first among the draws, so that one pass over the rows serves both.
    point = point_draw(fit)
    for rows, values in log_prob_rows(fit, data, with_point(fit)):
        predictive[rows] = logsumexp(values, axis=0) - np.log(num_draws) if point is None else values[0]
        draws = values[-num_draws:]
        sd[rows] = draws.std(axis=0, dtype=np.float64)
        hdi[rows] = highest_density_interval(draws, hdi_prob)
        if keep:
            kept.append(draws)
    return Score(
        log_predictive=predictive, sd=sd, hdi=hdi, kind=fit.family.density, hdi_prob=hdi_prob,
        uncertainty=fit.uncertainty, log_prob=_as_dataarray(fit, kept) if keep else None,
        p_value=anomaly_p_values(fit, data, predictive) if p_values else None, steps=data.sequence_labels(),
    )  # fmt: skip


def _as_dataarray(fit: Fit, kept: list[np.ndarray]) -> Any:
    import xarray as xr

    values = np.concatenate(kept, axis=1).reshape(fit.draws.num_chains, fit.draws.num_draws, -1)
    coords = {dim: np.arange(size) for dim, size in zip(("chain", "draw", "obs"), values.shape, strict=True)}
    return xr.DataArray(values, coords=coords, dims=("chain", "draw", "obs"), name="log_prob", attrs={"units": "nats"})


def anomaly_p_values(fit: Fit, data: Data, log_predictive: np.ndarray) -> np.ndarray:
    """Conformal p-value of each row: the share of held-out training densities that are no higher than its own.

    For new rows p = (1 + #{i: h_i <= s}) / (n + 1) with the held-out log densities h_i of the n training rows
    (Vovk, Gammerman & Shafer 2005, eq. 2.20). A training row is ranked by its own held-out density instead. Densities
    of different columns can't be compared, so a row is ranked among the training rows that miss the same entries as
    it does; NaN where there are fewer than ``MIN_PEERS`` of them, or nothing of the row was observed. Sequences are
    ranked by their density per observed entry, so that long and short ones compare.
    """
    if len(fit.train) < MIN_PEERS:  # whatever they are: to find them may take refits
        return np.full(len(data), np.nan)
    held_out = fit.held_out
    own_rows = data.fingerprint == fit.train.fingerprint
    values = np.where(np.isfinite(held_out), held_out, log_predictive) if own_rows else log_predictive
    if data.lengths is not None:
        held_out, values = held_out / _observed_entries(fit.train), values / _observed_entries(data)
    result = np.full(len(data), np.nan)
    theirs, ours = _patterns(fit.train), _patterns(data)
    for pattern in np.unique(ours, axis=0):
        peers = np.sort(held_out[(theirs == pattern).all(1) & np.isfinite(held_out)])
        rows = (ours == pattern).all(1)
        if len(peers) >= MIN_PEERS and (pattern.any() or not pattern.size):
            rank = np.searchsorted(peers, values[rows], side="right")
            result[rows] = np.maximum(rank, 1) / len(peers) if own_rows else (1 + rank) / (len(peers) + 1)
    return result


def _patterns(data: Data) -> np.ndarray:
    """(obs, d): True where observed; sequences are all alike here."""
    if data.lengths is not None:
        return np.ones((len(data), 1), bool)
    return np.ones((len(data), data.num_columns), bool) if data.mask is None else np.asarray(data.mask)


def _observed_entries(data: Data) -> np.ndarray:
    """(obs,): how many entries of each sequence were observed."""
    from ppl_gen.padding import starts_of

    assert data.lengths is not None
    seen = np.full(data.num_steps, data.num_columns) if data.mask is None else data.mask.sum(1)
    return np.maximum(np.add.reduceat(seen, starts_of(data.lengths)), 1)


def sample(fit: Fit, num_samples: int, seed: int, length: int | None = None) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.sample`."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise SettingError(f"num_samples must be a whole number of at least 1, not {num_samples!r}.")
    check_seed(seed)
    if fit.family.sequences:
        from ppl_gen import timeseries

        return timeseries.sample(fit, int(num_samples), length, seed)
    if length is not None:
        raise SettingError(f"length is for families that model sequences; {fit.family.name} models rows.")
    return fit.schema.decode(sample_model_space(fit, int(num_samples), seed))


def check_seed(seed: Any) -> None:
    """Raise a :class:`SettingError` unless the seed is one that every generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
        raise SettingError(f"seed must be a whole number from 0 to 2**31 - 1, not {seed!r}.")


def sample_model_space(fit: Fit, num_samples: int, seed: int) -> np.ndarray:
    """(num_samples, d): each row from a draw picked at random, or from the point estimate where there is one."""
    posterior = point_draw(fit) or fit.posterior
    rng = np.random.default_rng(seed)
    index = rng.integers(len(next(iter(posterior.values()))), size=num_samples)
    return sample_at(fit, posterior, index, seed)


def sample_at(fit: Fit, posterior: dict[str, np.ndarray], index: np.ndarray, seed: int) -> np.ndarray:
    """(len(index), d): row i from draw ``index[i]``, in model space.

    Calls have one of two lengths, the last filled up, so that few programs are compiled whatever the lengths asked for.
    """
    ops, size = backends.ops(fit.backend), SAMPLE_ROWS[len(index) > SAMPLE_ROWS[0]]
    filled = np.resize(index, -(-len(index) // size) * size)
    parts = [
        ops.sample_rows(fit.pair, posterior, filled[start : start + size], (seed + start) % 2**31)
        for start in range(0, len(filled), size)
    ]
    return np.concatenate(parts)[: len(index)]


def latents(fit: Fit, table: Any) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.latents`. Per enumerated site ``z``: ``z`` (the most probable value),
    ``z_prob`` (its probability), ``z_agreement`` (share of draws whose most probable value it is), and for each
    value k ``z=k`` and ``z=k_sd`` (posterior mean and sd over draws of p(z = k | x, theta))."""
    import pandas as pd

    data, ops = encode(fit, table), backends.ops(fit.backend)
    point = point_draw(fit)
    num_draws = len(next(iter(fit.posterior.values())))
    parts: list[pd.DataFrame] = []
    whole = sliceable(fit, data)
    for rows in chunks(len(data), num_draws * 16):
        view = whole.take(rows)
        columns: dict[str, np.ndarray] = {"row": np.arange(rows.start, rows.stop)}
        tables = ops.local_posterior(fit.pair, fit.posterior, view)
        centres = tables if point is None else ops.local_posterior(fit.pair, point, view)
        for name, table_ in tables.items():
            centre = centres[name].mean(0, dtype=np.float64)
            best = centre.argmax(-1)
            columns[name] = best
            columns[f"{name}_prob"] = centre.max(-1)
            columns[f"{name}_agreement"] = (table_.argmax(-1) == best).mean(0)
            for k in range(centre.shape[-1]):
                columns[f"{name}={k}"] = centre[:, k]
                columns[f"{name}={k}_sd"] = table_[:, :, k].std(0, dtype=np.float64)
        parts.append(pd.DataFrame(columns))
    if len(parts[0].columns) == 1:
        raise UnsupportedError(f"{fit.family.name} has no local latent variables.")
    return pd.concat(parts, ignore_index=True)


def refuse_method(fit: Fit, method: str) -> None:
    """Raise a :class:`SettingError` where a way of telling the states of sequences is asked for of rows."""
    if method != "smoothing":
        raise SettingError(f"method is for families that model sequences; {fit.family.name} models rows.")


def held_out(fit: Fit) -> np.ndarray:
    """See :attr:`ppl_gen.result.Fit.held_out`."""
    jacobian = fit.train.log_jacobian()
    if fit.draws.held_out is not None:
        return np.asarray(fit.draws.held_out, np.float64) + jacobian
    if fit.uncertainty in ("posterior", "guide"):
        return leave_one_out(fit)[0]
    if fit.train.lengths is not None and len(fit.train) < MIN_SEQUENCES:  # a fold may leave next to nothing to fit to
        return np.full(len(fit.train), np.nan)
    result = np.full(len(fit.train), np.nan)
    for train, test, rows in _folds(fit):
        refit = _refit(fit, train)
        result[rows] = score(refit, test, hdi_prob=0.9, keep_draws=False, p_values=False).log_predictive
    return result


def leave_one_out(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """PSIS leave-one-out log density and Pareto k-hat of each training row (Vehtari, Gelman & Gabry 2017);
    NaN for the rows beyond a random ``MAX_LOO_ROWS`` of a longer table."""
    cached = fit.__dict__.get("_leave_one_out")
    if cached is None:
        from ppl_gen.arviz_bridge import loo_pointwise

        number = len(fit.train)
        rows = np.arange(number)
        if number > MAX_LOO_ROWS:
            rows = np.sort(np.random.default_rng(fit.seed).choice(number, MAX_LOO_ROWS, replace=False))
        elpd, khat = np.full(number, np.nan), np.full(number, np.nan)
        for part, values in log_prob_rows(fit, fit.train.take(rows), fit.posterior):
            weights = None if fit.train.weights is None else fit.train.weights[rows[part]]
            elpd[rows[part]], khat[rows[part]] = loo_pointwise(values, fit.draws.num_chains, weights)
        cached = fit.__dict__["_leave_one_out"] = (elpd, khat)
    return cached


def _folds(fit: Fit) -> Iterator[tuple[Data, Data, np.ndarray]]:
    number = min(5, len(fit.train))
    order = np.random.default_rng(fit.seed).permutation(len(fit.train))
    for rows in np.array_split(order, number):
        rest = np.setdiff1d(np.arange(len(fit.train)), rows)
        yield fit.train.take(rest), fit.train.take(np.sort(rows)), np.sort(rows)


def _refit(fit: Fit, train: Data) -> Fit:
    """The same job on other rows, without the bootstrap."""
    from ppl_gen.fit import fit as run

    names = {field.name for field in dataclasses.fields(fit.engine)}
    engine = fit.engine.replace(num_bootstraps=0) if "num_bootstraps" in names else fit.engine
    return run(fit.family, train, engine=engine, backend=fit.backend, seed=fit.seed)
