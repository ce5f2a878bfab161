"""The verbs of a fit, derived from its pair and its draws: score, sample, latents, and held-out densities.

Rows are streamed through in chunks and reduced over draws as they come, so memory does not grow with rows times
draws. Log densities leave here in nats and in the original units of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from ppl_gen import backends, implicit, importance, noising_bound, noising_scores, unnormalised
from ppl_gen.anomaly import anomaly_p_values
from ppl_gen.data import Data, starts_of
from ppl_gen.errors import SettingError, UnsupportedError
from ppl_gen.labels import may_lack
from ppl_gen.metrics import highest_density_interval, standard_deviation
from ppl_gen.scores import Score

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import View
    from ppl_gen.result import Fit

CHUNK_VALUES = 4_000_000  # draws x rows held at once (16 MB in float32)
KEEP_VALUES = 50_000_000  # draws x rows up to which Score.log_prob is kept by default (200 MB in float32)


def encode(fit: Fit, table: Any) -> Data:
    """The table under the fit's schema; None is the training table."""
    if table is None:
        return fit.train
    known = isinstance(table, Data) and table.schema == fit.schema
    data = table if known else fit.schema.encode(table, may_lack=may_lack(fit))
    fit.family.refuse_missing(data)
    return data


def chunks(num_rows: int, num_draws: int) -> Iterator[slice]:
    """Slices of rows, all of the same length but the last."""
    size = max(1, min(num_rows, CHUNK_VALUES // max(num_draws, 1)))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def log_prob_rows(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, log p(x | theta_s) (draws, rows)) chunk by chunk, in nats and original units; of an implicit density those
    of its surrogate ``"ais"``."""
    if implicit.is_implicit(fit):
        yield from implicit.log_prob_rows(fit, data, posterior)
        return
    if noising_scores.tells_bound(fit):
        yield from noising_scores.bound_rows(fit, data, posterior)
        return
    if fit.pair.local:
        found = log_weight_rows(fit, data, posterior, importance.num_particles(fit.pair), 0)
        yield from ((rows, importance.mean_density(weights)) for rows, weights in found)
        return
    view, ops = sliceable(fit, data), backends.ops(fit.backend)
    steps = 1 if data.lengths is None else int(data.lengths.max(initial=1))
    for rows, window in importance.windows(len(data), CHUNK_VALUES // (len(next(iter(posterior.values()))) * steps)):
        values = ops.log_prob(fit.pair, posterior, view.take(window))[:, rows.start - window.start :]
        yield rows, in_original_units(fit, data, view, rows, values)


def log_weight_rows(
    fit: Fit, data: Data, posterior: dict[str, np.ndarray], num_particles: int, seed: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """The same as log importance weights (draws, particles, rows), whose mean over the particles is the density."""
    view = sliceable(fit, data)
    for rows, values in importance.log_weights(fit.pair, posterior, view, num_particles, seed):
        yield rows, in_original_units(fit, data, view, rows, values)


def in_original_units(fit: Fit, data: Data, view: View, rows: slice, values: np.ndarray) -> np.ndarray:
    """Log densities (..., rows) of model space in the units of the table."""
    if view.mask is not None and data.lengths is None:
        # Nothing observed has density 1, whatever the rounding of weights that sum to 1.
        values = np.where(np.asarray(view.mask[rows]).any(1), values, values.dtype.type(0))
    jacobian = fit.schema.log_jacobian(data.mask) if data.lengths is None else data.log_jacobian()
    return values + np.asarray(jacobian[rows] if np.ndim(jacobian) else jacobian, values.dtype)


def numerical_error(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> np.ndarray:
    """(obs,): how far a solver or an estimate of a trace may put each log density off, nats, under the worst draw; the
    log of a mean density is off by no more."""
    view, ops, found = sliceable(fit, data), backends.ops(fit.backend), np.empty(len(data))
    for rows, window in importance.windows(len(data), CHUNK_VALUES // len(next(iter(posterior.values())))):
        under_draws = ops.hook_over_draws(fit.pair, "log_prob_error", posterior, view.take(window))
        found[rows] = under_draws.max(0)[rows.start - window.start :]
    return found


def with_error_rows(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, (draws, rows, 2)): log densities as :func:`log_prob_rows`, and how far each may be off."""
    view, ops = sliceable(fit, data), backends.ops(fit.backend)
    for rows, window in importance.windows(len(data), CHUNK_VALUES // len(next(iter(posterior.values())))):
        found = ops.hook_over_draws(fit.pair, "log_prob_with_error", posterior, view.take(window))
        found = found[:, rows.start - window.start :]
        values = in_original_units(fit, data, view, rows, found[..., 0])
        yield rows, np.stack([values, found[..., 1]], -1)


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


def score(
    fit: Fit, table: Any, *, hdi_prob: float, keep_draws: bool | None, p_values: bool,
    num_particles: int | None = None, seed: int = 0, surrogate: Any = None, method: str = "auto",
) -> Score:  # fmt: skip
    """See :meth:`ppl_gen.result.Fit.score`."""
    implicit.refuse(fit, "surrogate", surrogate)
    if not 0 < hdi_prob < 1:
        raise SettingError(f"hdi_prob must be between 0 and 1, not {hdi_prob!r}.")
    number = importance.num_particles(fit.pair) if num_particles is None else num_particles
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise SettingError(f"num_particles must be a whole number of at least 1, not {num_particles!r}.")
    check_seed(seed)
    method = noising_scores.resolve(fit, method)
    data = encode(fit, table)
    num_draws, num_rows = len(next(iter(fit.posterior.values()))), len(data)
    keep = num_draws * num_rows <= KEEP_VALUES if keep_draws is None else keep_draws
    if implicit.is_implicit(fit):
        return implicit.score(fit, data, surrogate, hdi_prob=hdi_prob, keep=keep, seed=int(seed))
    if method == "bound":
        return noising_scores.score(fit, data, hdi_prob=hdi_prob, keep=keep, num_points=num_particles, seed=int(seed),
                                    p_values=p_values)  # fmt: skip
    predictive, sd, hdi = np.empty(num_rows), np.empty(num_rows), np.empty((num_rows, 2))
    kept, precisions, of_log_z, numerical = [], [], [], np.empty(num_rows)
    # A point estimate goes first among the draws, so that one pass over the rows serves both.
    point, posterior = point_draw(fit), with_point(fit)
    local = bool(fit.pair.local)
    with_error = fit.pair.log_prob_with_error is not None
    kind = fit.family.density_for(fit.schema)
    if kind == "bound":  # the flow is asked for by name
        kind = "importance" if local else "exact"
    if local:
        source = log_weight_rows(fit, data, posterior, int(number), seed)
    else:
        source = (with_error_rows if with_error else log_prob_rows)(fit, data, posterior)
    for rows, found in source:
        values = importance.mean_density(found) if local else found[..., 0] if with_error else found
        if with_error:
            numerical[rows] = (found if point is None else found[:1])[..., 1].max(0)
        if local:
            precisions.append(importance.precision(found if point is None else found[:1]))
        predictive[rows] = logsumexp(values, axis=0) - np.log(num_draws) if point is None else values[0]
        draws = values[-num_draws:]
        if fit.pair.tempered is not None:
            of_log_z.append(unnormalised.row_error(fit.posterior, draws))
        sd[rows] = standard_deviation(draws)
        hdi[rows] = highest_density_interval(draws, hdi_prob)
        if keep:
            kept.append(draws)
    error, elbo, k_hat = map(np.concatenate, zip(*precisions, strict=True)) if precisions else (None, None, None)
    if fit.pair.log_prob_error is not None:
        numerical = numerical if with_error else numerical_error(fit, data, point or posterior)
        error = numerical if error is None else np.hypot(error, numerical)
    elbo_error = None
    if fit.pair.noising is not None:
        beside = noising_scores.bounds(fit, data, point or posterior, noising_bound.BESIDE, int(seed))
        elbo, elbo_error = beside.log_predictive, beside.error
        k_hat = k_hat if importance.has_tail(int(number)) else None
        lost = np.isneginf(predictive)  # too far out for any arithmetic
        if error is not None and lost.any():
            elbo = np.where(lost, -np.inf, elbo)
            error, elbo_error = np.where(lost, np.inf, error), np.where(lost, np.inf, elbo_error)
    normalized, ranks = True, p_values and not noising_scores.tells_bound(fit)
    if of_log_z:
        error, k_hat, normalized = unnormalised.precision(fit, np.concatenate(of_log_z))
    return Score(
        log_predictive=predictive, sd=sd, hdi=hdi, kind=kind, hdi_prob=hdi_prob,
        uncertainty=fit.uncertainty, log_prob=as_dataarray(fit, kept) if keep else None,
        p_value=anomaly_p_values(fit, data, predictive) if ranks else None, steps=data.sequence_labels(),
        num_entries=num_entries(data), discrete=is_discrete(data),
        error=error, elbo=elbo, elbo_error=elbo_error, k_hat=k_hat, normalized=normalized,
    )  # fmt: skip


def num_entries(data: Data, per_step: bool = False) -> np.ndarray:
    """(obs,): how many entries of each row, sequence or (``per_step``) time step were observed."""
    mask = data.target_mask
    seen = np.full(data.num_steps, len(data.schema.targets)) if mask is None else mask.sum(1)
    return seen if data.lengths is None or per_step else np.add.reduceat(seen, starts_of(data.lengths))


def is_discrete(data: Data) -> bool:
    """Whether no column is real: the densities are then probabilities."""
    return all(column.kind != "real" for column in data.schema.target_columns)


def as_dataarray(fit: Fit, kept: list[np.ndarray]) -> Any:
    import xarray as xr

    values = np.concatenate(kept, axis=1).reshape(fit.draws.num_chains, fit.draws.num_draws, -1)
    coords = {dim: np.arange(size) for dim, size in zip(("chain", "draw", "obs"), values.shape, strict=True)}
    return xr.DataArray(values, coords=coords, dims=("chain", "draw", "obs"), name="log_prob", attrs={"units": "nats"})


def check_seed(seed: Any) -> None:
    """Raise a :class:`SettingError` unless the seed is one that every generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
        raise SettingError(f"seed must be a whole number from 0 to 2**31 - 1, not {seed!r}.")


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


def refuse_method(fit: Fit, method: str | None) -> None:
    """Raise a :class:`SettingError` where a way of telling the states of sequences is asked for of rows."""
    if method not in (None, "smoothing"):
        raise SettingError(f"method is for families that model sequences; {fit.family.name} models rows.")


def refuse_member(fit: Fit, member: int | None) -> None:
    """Raise a :class:`SettingError` where a member's latent space is asked for, and there is none."""
    if member is not None:
        raise SettingError(
            f"member is for families with codes or hidden units, such as vae; {fit.family.name} has none: leave it out."
        )
