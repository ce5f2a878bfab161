r"""Missing entries drawn from their distribution given the observed ones.

Where a guide proposes codes z, by sampling-importance-resampling: of the particles of all members that the guide
proposes for a row's observed entries :math:`x_o`, one is chosen in proportion to
:math:`w = p(x_o, z) / q(z \mid x_o)`, and the missing entries are drawn from :math:`p(x_m \mid z)` (Rezende, Mohamed &
Wierstra 2014, arXiv:1401.4082, sec. 6.3; Mattei & Frellsen 2019, arXiv:1812.02633, sec. 3.2). Members that find the row
likelier are chosen more often, as the mixture of all has it. Of a posterior the members are some draws of each chain.
Of diffusion models see :mod:`ppl_gen.inpainting`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import backends, images, inpainting, labelled, latents
from ppl_gen.conditions import join
from ppl_gen.errors import DataError, SettingError, UnsupportedError
from ppl_gen.scoring import check_seed, encode, sliceable

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.result import Fit

DRAWS = 8  # of each chain of a posterior


def impute(fit: Fit, table: Any, num_draws: int, seed: int, missing: Any = None) -> Any:
    """See :meth:`ppl_gen.result.Fit.impute`."""
    import pandas as pd

    latents.require(fit, "impute")
    latents.check_count("num_draws", num_draws)
    check_seed(seed)
    if missing is not None:
        return _impute_images(fit, table, num_draws, seed, missing)
    if fit.schema.image is not None and fit.pair.noising is not None:
        raise SettingError("Say which pixels of the images are to be drawn: missing=, True where one is.")
    if fit.schema.image is not None:
        raise UnsupportedError("Images are complete, so that there is nothing to impute: fit a table of their pixels, "
                               "images.reshape(len(images), -1), which may have missing entries.")  # fmt: skip
    if "draw" in fit.schema.names:
        raise DataError("Column 'draw' is where the number of the draw goes: rename the table's own.")
    # Scores of diffusion models want whole rows.
    data = encode(fit, table) if fit.pair.noising is None or table is None else fit.schema.encode(table)
    known = _observed(fit, table, data)
    if data.mask is None or data.mask.all():
        return _stack([known] * num_draws)
    rows = np.flatnonzero(~data.mask.all(1))
    some = data.take(rows)
    drawn = draw_missing(fit, some, num_draws, seed)
    mask, frames = data.mask[rows], []
    for values in drawn:
        new = fit.schema.decode(np.where(mask, some.x, values))
        frame = known.copy()
        for j, name in enumerate(frame.columns):
            if not mask[:, j].all():
                column, absent = frame[name].to_numpy(object, copy=True), rows[~mask[:, j]]
                column[absent] = new.iloc[:, j].to_numpy(object)[~mask[:, j]]
                frame[name] = pd.Series(column, index=frame.index).astype(new.dtypes.iloc[j])
        frames.append(frame)
    return _stack(frames)


def draw_missing(fit: Fit, data: Data, num_draws: int, seed: int) -> np.ndarray:
    """(num_draws, n, d) whole rows of model space; only their missing entries are of use."""
    if fit.pair.noising is not None:
        return inpainting.draw_missing(fit, data, num_draws, seed)
    ops, posterior = backends.codes(fit.backend), latents.members(fit, DRAWS)
    members = len(next(iter(posterior.values())))
    context = sliceable(fit, data).context
    codes, whose = [], []
    for part in latents.particles(fit, data, posterior, seed):
        pooled = part.log_weights.reshape(-1, part.log_weights.shape[-1])  # members x particles
        share = np.exp(pooled - pooled.max(0))
        chosen = latents.resample(share / share.sum(0), num_draws, seed + part.rows.start)
        values = part.values.reshape(len(pooled), *part.values.shape[2:])
        codes.append(labelled.placed(fit, np.take_along_axis(values, chosen[..., None], axis=0), chosen))
        whose.append(chosen // part.values.shape[1])
    z, member = np.concatenate(codes, 1), np.concatenate(whose, 1)
    flat, of = z.reshape(-1, z.shape[-1]), member.ravel()
    given = None if context is None else np.tile(np.asarray(context), (num_draws, 1))
    found = np.empty((len(flat), len(fit.schema.targets)))
    for m in range(members):
        at = np.flatnonzero(of == m)
        if len(at):
            one = {name: value[m] for name, value in posterior.items()}
            filled = at[np.arange(-(-len(at) // 256) * 256) % len(at)]  # of few lengths, so that few are compiled
            rows = None if given is None else given[filled]
            found[at] = ops.drawn(fit.pair, one, flat[filled], rows, (seed + m) % 2**31)[: len(at)]
    if fit.schema.conditions:
        found = join(fit.schema, found, np.tile(data.x[:, ~fit.schema.is_target], (num_draws, 1)))
    return found.reshape(num_draws, len(data), -1)


def _impute_images(fit: Fit, table: Any, num_draws: int, seed: int, missing: Any) -> np.ndarray:
    """(num_draws, n, h, w) or (num_draws, n, h, w, c): the images with these pixels drawn anew."""
    if fit.schema.image is None or fit.pair.noising is None:
        raise SettingError("missing= is for images, of diffusion models: missing entries of a table are NaN or None.")
    data, where = encode(fit, table), np.asarray(missing)
    shape = (len(data), *fit.schema.image)
    try:
        where = np.broadcast_to(where if where.ndim in (2, len(shape)) else where[..., None], shape)
    except ValueError:
        raise DataError(f"missing has the shape {np.shape(missing)}, but the images are {shape}: True or False for "
                        "each pixel, or one image of them for all.") from None  # fmt: skip
    if where.dtype != bool:
        raise DataError(f"missing must be True or False for each pixel, not {where.dtype}.")
    flat = where.reshape(len(data), -1)
    drawn = inpainting.draw_missing(fit, dataclasses.replace(data, mask=~flat), num_draws, seed)
    return np.stack([images.decode(fit.schema, np.where(flat, rows, data.x)) for rows in drawn])


def _observed(fit: Fit, table: Any, data: Data) -> pd.DataFrame:
    """The rows as they came in, where that was a table; else as they are decoded."""
    import pandas as pd

    frame = data.to_frame()
    if isinstance(table, pd.DataFrame) and set(frame.columns) <= set(table.columns):
        return table[list(frame.columns)].copy()
    return frame


def _stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    whole = pd.concat(frames)
    whole.insert(0, "draw", np.repeat(np.arange(len(frames)), len(frames[0])))
    return whole
