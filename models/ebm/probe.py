"""What is asked of a function of the user's before it is an energy: shapes, numbers, and that its density ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppl_gen.errors import SettingError

RAYS = 32  # directions besides the axes
NEAR, FAR = (0.5, 1.0, 2.0, 4.0), (512.0, 1024.0)  # standard deviations
LEAST_FALL = 0.5 * np.log(2)  # of log density from the one far distance to the other: like 1 / sqrt(r) in 1-d
SLACK = 0.98  # of the least fall, D log 2, along a direction at random
SEARCHES, TRIES = 60, 64  # of the direction along which the energy rises least
ROWS = 200


def check_energy(
    energy: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], object], x: np.ndarray, is_bounded: bool,
    where: str,
) -> None:  # fmt: skip
    """Raise a :class:`SettingError` unless the function is an energy of rows.

    :param energy: ``(n, D) -> (n,)``, numpy.
    :param slope: its gradient at rows (n, D), as chains take it, compiled where the backend compiles.
    :param x: (n, D) the table's rows.
    :param is_bounded: whether the density is 0 outside of a box.
    :param where: the backend's arrays, in words.
    """
    some = x[:: max(len(x) // ROWS, 1)]
    for number in (len(some), 1):
        _check_shape(energy, slope, some[:number], where)
    values = energy(some)
    _refuse(values, some, np.isnan(values), "is not a number")
    _refuse(values, some, np.isinf(values), "is infinite at a row of the table, whose density is then 0 or infinite")
    centre, scale = x.mean(0), np.maximum(x.std(0), 1e-12)
    rng = np.random.default_rng(0)
    axes, rest = np.eye(x.shape[1]), _unit(rng.standard_normal((RAYS, x.shape[1])))
    directions = np.concatenate([axes, -axes, rest])
    near = np.concatenate([centre + distance * scale * directions for distance in NEAR])
    if not is_bounded:
        values = energy(near)
        _refuse(values, near, np.isnan(values), "is not a number")
        _refuse(values, near, values == -np.inf, "is minus infinity")
        _check_far(energy, centre, scale, directions)


def _check_far(
    energy: Callable[[np.ndarray], np.ndarray], centre: np.ndarray, scale: np.ndarray, directions: np.ndarray
) -> None:
    """Whether the density falls far out: like r^-D along directions at random, since it does so in whole cones; like
    1 / sqrt(r) at least along each axis, and along the direction of the least rise that a search finds."""
    width = len(centre)

    def rise(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inner, outer = np.split(energy(np.concatenate([centre + distance * scale * unit for distance in FAR])), 2)
        with np.errstate(invalid="ignore"):
            found = np.where(np.isneginf(outer), -np.inf, outer - inner)
        return np.where(np.isnan(found), np.inf, found), np.stack([inner, outer], 1)

    found, values = rise(directions)
    limits = np.full(len(directions), LEAST_FALL)
    limits[2 * width :] = SLACK * width * np.log(2)
    rng, reach, best = np.random.default_rng(1), 0.5, int(found.argmin())
    direction, lowest, at = directions[best], found[best], values[best]
    for _ in range(SEARCHES if width > 1 and not (found < limits).any() else 0):
        tried = _unit(direction + reach * rng.standard_normal((TRIES, width)))
        rises, ends = rise(tried)
        i = int(rises.argmin())
        if rises[i] < lowest:
            direction, lowest, at = tried[i], rises[i], ends[i]
        else:
            reach *= 0.5
    low = np.flatnonzero(found < limits)
    if not len(low) and lowest >= LEAST_FALL:
        return
    if len(low):
        direction, at = directions[low[0]], values[low[0]]
    inner, outer = (centre + distance * scale * direction for distance in FAR)
    raise SettingError(
        f"EBM: the energy does not grow as fast as its density needs: from {_row(inner)} to {_row(outer)} it goes from "
        f"{at[0]:.4g} to {at[1]:.4g}, so that the density has no finite integral: add a term that grows, such as "
        "0.5 * (x**2).sum(-1), or use base='uniform', which ends the density at a box."
    )


def _unit(directions: np.ndarray) -> np.ndarray:
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


def _check_shape(
    energy: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], object], x: np.ndarray, where: str
) -> None:
    what = "energy"
    try:
        shape = np.shape(energy(x))
        if shape == (len(x),):
            what = "energy's gradient"
            slope(x)
    except SettingError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else ""
        library = "jax.numpy" if "jax" in where else "torch"
        raise SettingError(f"EBM: the {what} failed on rows {x.shape}, {where}; write it in operations of {library}. "
                           f"{type(error).__name__}: {first}") from error  # fmt: skip
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
