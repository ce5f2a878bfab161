"""What is asked of a function of the user's before it is an energy: shapes, numbers, and that its density ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppl_gen.errors import SettingError

RAYS = 32  # directions besides the axes
NEAR, FAR = (0.5, 1.0, 2.0, 4.0), (512.0, 1024.0)  # standard deviations
LEAST_FALL = 0.5 * np.log(2)  # of log density from the one far distance to the other: like 1 / sqrt(r) in 1-d
ROWS = 200


def check_energy(energy: Callable[[np.ndarray], np.ndarray], x: np.ndarray, is_bounded: bool, where: str) -> None:
    """Raise a :class:`SettingError` unless the function is an energy of rows.

    :param energy: ``(n, D) -> (n,)``, numpy.
    :param x: (n, D) the table's rows.
    :param is_bounded: whether the density is 0 outside of a box.
    :param where: the backend's arrays, in words.
    """
    some = x[:: max(len(x) // ROWS, 1)]
    for number in (len(some), 1):
        _check_shape(energy, some[:number], where)
    values = energy(some)
    _refuse(values, some, np.isnan(values), "is not a number")
    _refuse(values, some, np.isinf(values), "is infinite at a row of the table, whose density is then 0 or infinite")
    centre, scale = x.mean(0), np.maximum(x.std(0), 1e-12)
    rng = np.random.default_rng(0)
    axes, rest = np.eye(x.shape[1])[: 2 * RAYS], rng.standard_normal((RAYS, x.shape[1]))
    rays = np.concatenate([axes, -axes, rest / np.linalg.norm(rest, axis=1, keepdims=True)]) * scale
    near = np.concatenate([centre + distance * rays for distance in NEAR])
    if not is_bounded:
        values = energy(near)
        _refuse(values, near, np.isnan(values), "is not a number")
        _refuse(values, near, values == -np.inf, "is minus infinity")
        inner, outer = (energy(centre + distance * rays) for distance in FAR)
        with np.errstate(invalid="ignore"):
            open_ended = (outer == -np.inf) | (outer - inner < LEAST_FALL)  # NaN and plus infinity are neither
        if open_ended.any():
            i = int(np.argmax(open_ended))
            raise SettingError(
                f"EBM: the energy does not grow without bound: from {_row(centre + FAR[0] * rays[i])} to "
                f"{_row(centre + FAR[1] * rays[i])} it goes from {inner[i]:.4g} to {outer[i]:.4g}, so that its density "
                "has no finite integral: add a term that grows, such as 0.5 * (x**2).sum(-1), or use base='uniform', "
                "which ends the density at a box."
            )


def _check_shape(energy: Callable[[np.ndarray], np.ndarray], x: np.ndarray, where: str) -> None:
    try:
        shape = np.shape(energy(x))
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(f"EBM: the energy failed on rows {x.shape}, {where}: {type(error).__name__}: "
                           f"{str(error).splitlines()[0] if str(error) else ''}") from error  # fmt: skip
    if shape != (len(x),):
        raise SettingError(f"EBM: the energy of rows {x.shape} must have shape ({len(x)},), one number a row, not "
                           f"{shape}: sum over the last axis, as in (x**2).sum(-1).")  # fmt: skip


def _refuse(values: np.ndarray, x: np.ndarray, bad: np.ndarray, what: str) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise SettingError(f"EBM: the energy at {_row(x[i])} is {values[i]}: it {what}; mend the function, or drop "
                           "such rows.")  # fmt: skip


def _row(x: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in x[:6]) + (", ...)" if len(x) > 6 else ")")
