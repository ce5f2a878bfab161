"""The verbs of families whose rows have codes, local latent vectors that a guide proposes: latents, reconstruct,
interpolate.

The members of an ensemble have latent spaces of their own, in which the same row lies elsewhere: codes are always those
of one member.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import backends, images, importance
from ppl_gen.conditions import join
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.scoring import check_seed, encode, sliceable

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit
    from ppl_gen.view import View

METHODS = ("guide", "importance", "draws")
ROWS = 4096  # coded or decoded at once
NUM_PARTICLES = 512  # that draws are chosen from


def require(fit: Fit, verb: str) -> None:
    """Raise an :class:`UnsupportedError` that names the families that can, unless this fit's can."""
    if verb in fit.family.verbs:
        return
    from ppl_gen import registry

    able = ", ".join(name for name in registry.families() if verb in registry.family(name).verbs)
    raise UnsupportedError(f"{fit.family.name} can't {verb}; families that can: {able}.")


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raise a :class:`SettingError` unless the value is a whole number of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise SettingError(f"{name} must be a whole number of at least {low}, not {value!r}.")


def member_of(fit: Fit, member: Any) -> dict[str, np.ndarray]:
    """{site: (1, *event)}: the parameters of one member.

    :raises SettingError: there is no such member.
    """
    number = len(next(iter(fit.posterior.values())))
    ok = isinstance(member, int | np.integer) and not isinstance(member, bool) and 0 <= member < number
    if not ok:
        raise SettingError(f"member must be a whole number from 0 to {number - 1}, not {member!r}.")
    return {name: value[member : member + 1] for name, value in fit.posterior.items()}


def members(fit: Fit, number: int = 1) -> dict[str, np.ndarray]:
    """{site: (M, *event)}: the parameters of all members; of a posterior the last draw of each chain, or ``number`` of
    its draws at even distances."""
    if fit.uncertainty != "posterior":
        return fit.posterior
    draws = fit.draws.num_draws
    kept = draws - 1 - np.arange(min(number, draws)) * (draws // min(number, draws))
    return {name: value[:, kept].reshape(-1, *value.shape[2:]) for name, value in fit.draws.posterior.items()}


def codes(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the guide, (draws, n, L) each."""
    ops, found = backends.codes(fit.backend), []
    for _, view, kept in parts(fit, data):
        mean, sd = ops.moments(fit.pair, posterior, view)
        found.append((mean[:, kept], sd[:, kept]))
    mean, sd = (np.concatenate(each, axis=1).astype(np.float64) for each in zip(*found, strict=True))
    return mean, sd


def points(fit: Fit, data: Data, posterior: dict[str, np.ndarray]) -> np.ndarray:
    """(n, L) codes to decode, the means of the guide under one draw; with a label (n, L + C), the likeliest."""
    from ppl_gen import labelled, noising_codes

    if fit.pair.noising is not None:
        return noising_codes.codes(fit, data, posterior)
    return labelled.placed(fit, codes(fit, data, posterior)[0][0], labelled.likeliest(fit, data, posterior))


def parts(fit: Fit, data: Data, size: int = ROWS) -> Iterator[tuple[slice, View, slice]]:
    """The rows some at a time, all as many, so that one program serves them: which they are, their view, and which of
    its rows are new."""
    view = sliceable(fit, data)
    for rows, window in importance.windows(len(data), size):
        yield rows, view.take(window), slice(rows.start - window.start, None)


def latents(fit: Fit, table: Any, method: str | None, num_draws: int, seed: int, member: int) -> pd.DataFrame:
    """See :meth:`ppl_gen.result.Fit.latents`."""
    import pandas as pd

    from ppl_gen import labelled

    method = method or METHODS[0]
    if method not in METHODS:
        raise SettingError(f"method must be one of {', '.join(METHODS)} for {fit.family.name}, not {method!r}.")
    check_count("num_draws", num_draws)
    check_seed(seed)
    data, posterior = encode(fit, table), member_of(fit, member)
    first: dict[str, Any] = {"row": np.arange(len(data))}
    if fit.pair.label is not None and method != "draws":
        first |= labelled.table(fit, data, seed)
    if method == "guide":
        mean, sd = codes(fit, data, posterior)
        return _frame(first, mean[0], sd[0])
    rows, found = np.arange(len(data)), list[tuple[np.ndarray, ...]]()
    for part in particles(fit, data, posterior, seed):
        share = _shares(part.log_weights)[0]
        if method == "draws":
            chosen = resample(share, num_draws, seed + part.rows.start)
            found.append((np.take_along_axis(part.values[0], chosen[..., None], axis=0), chosen))
            continue
        mean = np.einsum("kn,knl->nl", share, part.values[0])
        variance = np.einsum("kn,knl->nl", share, (part.values[0] - mean) ** 2)
        found.append((mean, np.sqrt(variance), importance.k_hat(part.log_weights[0].T)))
    if method == "draws":  # (num_draws, n, L)
        values, chosen = (np.concatenate(each, axis=1).swapaxes(0, 1) for each in zip(*found, strict=True))
        frame = pd.DataFrame({"row": rows.repeat(num_draws), "draw": np.tile(np.arange(num_draws), len(rows))})
        frame = frame.assign(**labelled.drawn(fit, chosen.ravel()))
        return frame.assign(**{f"z{j}": values[..., j].ravel() for j in range(values.shape[-1])})
    mean, sd, k_hat = (np.concatenate(each) for each in zip(*found, strict=True))
    return _frame(first, mean, sd).assign(k_hat=k_hat)


def features(fit: Fit, table: Any, method: str | None, member: int) -> pd.DataFrame:
    """Of families with binary hidden units, p(h_j = 1 | x) of each; see :meth:`ppl_gen.result.Fit.latents`."""
    import pandas as pd

    if method not in (None, "guide"):
        raise SettingError(f"The posterior of hidden units is exact: leave method out for {fit.family.name}.")
    data, posterior, ops = encode(fit, table), member_of(fit, member), backends.ops(fit.backend)
    found = [ops.hook_over_draws(fit.pair, "features", posterior, view)[0, kept] for _, view, kept in parts(fit, data)]
    shares = np.concatenate(found).astype(np.float64)
    return pd.DataFrame({"row": np.arange(len(data))} | {f"h{j}": share for j, share in enumerate(shares.T)})


def _frame(first: dict[str, np.ndarray], mean: np.ndarray, sd: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    each = ((f"z{j}", mean[:, j], f"z{j}_sd", sd[:, j]) for j in range(mean.shape[1]))
    columns = {name: value for one, m, other, s in each for name, value in ((one, m), (other, s))}
    return pd.DataFrame(first | columns)


class Particles:
    """Some rows' particles and log importance weights: ``values`` (draws, K, n, L), ``log_weights`` (draws, K, n). With
    a label K are those of all C labels, particle k being of label k modulo C."""

    def __init__(self, rows: slice, values: np.ndarray, log_weights: np.ndarray) -> None:
        self.rows, self.values, self.log_weights = rows, values, log_weights


def particles(
    fit: Fit, data: Data, posterior: dict[str, np.ndarray], seed: int, number: int = NUM_PARTICLES
) -> Iterator[Particles]:
    """Particles of each row under each draw, with weights in model space; the same points of the unit cube for all."""
    ops, local = backends.ops(fit.backend), backends.codes(fit.backend)
    uniforms = None
    draws = len(next(iter(posterior.values()))) * (1 if fit.pair.label is None else fit.pair.label.size)
    for rows, view, kept in parts(fit, data, max(1, importance.CHUNK_VALUES // (number * draws))):
        if uniforms is None:
            uniforms = importance.points(number, ops.local_size(fit.pair, posterior, view.take(slice(0, 1))), seed)
        log_weights = ops.log_weights(fit.pair, posterior, view, uniforms, seed, by_label=True)[..., kept]
        values = local.particles(fit.pair, posterior, view, uniforms, seed)[:, :, kept]
        yield Particles(rows, values.astype(np.float64), log_weights.astype(np.float64))


def _shares(log_weights: np.ndarray) -> np.ndarray:
    """(draws, K, n) weights that sum to 1 over the particles."""
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def resample(share: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Sampling-importance-resampling (Rubin 1988, Bayesian Statistics 3): of particles with weights ``share`` (K, n)
    that sum to 1, those that ``number`` draws for each row fall on (number, n)."""
    rng = np.random.default_rng(seed)
    chosen = np.empty((number, share.shape[1]), np.intp)
    for i, column in enumerate(np.cumsum(share, axis=0).T):
        chosen[:, i] = np.searchsorted(column, rng.random(number) * column[-1], side="right")
    return np.minimum(chosen, len(share) - 1)


def reconstruct(fit: Fit, table: Any, member: int) -> Any:
    """See :meth:`ppl_gen.result.Fit.reconstruct`."""
    require(fit, "reconstruct")
    data, posterior = encode(fit, table), member_of(fit, member)
    found = decoded(fit, posterior, points(fit, data, posterior), sliceable(fit, data).context)["typical"]
    return to_table(fit, found, data)


def decoded(
    fit: Fit, posterior: dict[str, np.ndarray], values: np.ndarray, context: np.ndarray | None
) -> dict[str, np.ndarray]:
    """{name: (n, D)}: the pair's ``decode`` of codes (n, L), or those of :func:`points`, under one member."""
    from ppl_gen import noising_codes

    if fit.pair.noising is not None:
        return {"typical": noising_codes.decoded(fit, posterior, values, context)}
    ops, one = backends.codes(fit.backend), {name: value[0] for name, value in posterior.items()}
    found: list[dict[str, np.ndarray]] = []
    for rows, window in importance.windows(len(values), ROWS):
        given = None if context is None else np.asarray(context[window])
        part = ops.decoded(fit.pair, one, values[window], given)
        found.append({name: each[rows.start - window.start :] for name, each in part.items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def to_table(fit: Fit, x: np.ndarray, data: Data) -> Any:
    """Modelled columns (n, D) of model space as a table, or images; what is conditioned on, and the row labels, are
    those of ``data``."""
    if fit.schema.image is not None:
        return images.decode(fit.schema, x)
    whole = join(fit.schema, x, data.x[:, ~fit.schema.is_target]) if fit.schema.conditions else x
    frame = fit.schema.decode(whole)
    return frame if data.index is None else frame.set_axis(data.index, axis=0)


def interpolate(fit: Fit, first: Any, second: Any, num_steps: int, member: int) -> Any:
    """See :meth:`ppl_gen.result.Fit.interpolate`."""
    require(fit, "interpolate")
    check_count("num_steps", num_steps, 2)
    ends, posterior = [encode(fit, table) for table in (first, second)], member_of(fit, member)
    if len(ends[0]) != len(ends[1]):
        unit = fit.train.unit
        raise DataError(f"interpolate goes from each {unit} of one table to that of another: pass as many of both, not "
                        f"{len(ends[0])} and {len(ends[1])} {unit}s.")  # fmt: skip
    kept = ~fit.schema.is_target
    differ = (ends[0].x[:, kept] != ends[1].x[:, kept]).any(0)
    if differ.any():
        name = fit.schema.names[int(np.flatnonzero(kept)[differ][0])]
        raise DataError(f"Column {name!r} is conditioned on, and differs between the ends: give both the same value.")
    one, other = (points(fit, end, posterior) for end in ends)
    line = between(fit, one, other, num_steps).reshape(-1, one.shape[1])
    whole = ends[0].take(np.repeat(np.arange(len(one)), num_steps))
    found = decoded(fit, posterior, line, sliceable(fit, whole).context)["typical"]
    table = to_table(fit, found, whole)
    return table if fit.schema.image is not None else table.reset_index(drop=True)


def between(fit: Fit, first: np.ndarray, second: np.ndarray, num_steps: int) -> np.ndarray:
    """(n, num_steps, L): the codes from one (n, L) to the other, on a line; of noise on a great circle."""
    from ppl_gen import noising_codes

    if fit.pair.noising is not None:
        return noising_codes.between(first, second, num_steps)
    share = np.linspace(0, 1, num_steps)[None, :, None]
    return np.asarray(first[:, None] * (1 - share) + second[:, None] * share)
