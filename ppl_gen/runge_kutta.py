"""Dormand & Prince's method of order 5 (Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, table
II.5.2), for solvers that take equal steps, the same in both backends and for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
SHARES = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)


def step(
    field: Callable[[Any, Any], tuple[Any, Any]], start: Any, index: Any, length: Any, x: Any, total: Any
) -> tuple[Any, Any]:
    """x, and the integral ``total`` of what goes along with it, after step ``index`` of this length from ``start``, in
    either backend's arrays.

    :param field: ``(t, x) -> (dx / dt, d total / dt)``.
    """
    slopes: list[Any] = []
    others: list[Any] = []
    for node, stage in zip(NODES, STAGES, strict=True):
        slope, other = field(start + (index + node) * length, _moved(x, length, stage, slopes))
        slopes.append(slope)
        others.append(other)
    return _moved(x, length, SHARES, slopes), _moved(total, length, SHARES, others)


def _moved(x: Any, length: Any, shares: tuple[float, ...], slopes: Sequence[Any]) -> Any:
    for share, slope in zip(shares, slopes, strict=True):
        x = x + (length * share) * slope if share else x
    return x
