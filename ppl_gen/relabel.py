r"""Label switching, mended: draws of a mixture or HMM whose exchangeable labels are made to agree.

The posterior of a model with K exchangeable labels has K! copies of each mode, and draws may sit in any of them. The
draws are aligned through what the labels *do*: the local posteriors :math:`r_{sik} = p(z_i = k \mid x_i, \theta_s)` at
some probe rows. The pivot :math:`q_{ik}` is the mean of the aligned :math:`r`, each draw's permutation minimises the
Kullback-Leibler divergence from its responsibilities to the pivot, and the two steps alternate until no permutation
changes (Stephens 2000, J. R. Stat. Soc. B 62, algorithm 2). Each minimisation is a linear assignment problem, so its
cost is polynomial in K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

Arrays = dict[str, np.ndarray]

MAX_ROUNDS = 100  # the objective falls at every round and has finitely many values; in practice 2 to 6 rounds
FLOOR = 1e-10  # keeps log q finite where no draw puts any mass


def relabel(
    draws: Mapping[str, np.ndarray],
    responsibilities: np.ndarray,
    label_axes: Mapping[str, Sequence[int]],
    *,
    log_density: np.ndarray | None = None,
    pivot: np.ndarray | None = None,
) -> tuple[Arrays, np.ndarray]:
    """Draws whose labels mean the same thing in every chain and draw, in a canonical order.

    The order is that of descending mean responsibility, so two fits of the same posterior agree; given a ``pivot``,
    its own order is kept instead.

    :param draws: {site: (chain, draw, *event shape)}.
    :param responsibilities: (chain * draw, probe, K), p(z = k | x) of each draw at the probe rows.
    :param label_axes: {site: axes of its event shape that the label indexes}, as
        :meth:`Family.label_axes <ppl_gen.family.Family.label_axes>` gives it.
    :param log_density: (chain * draw,), log density of each draw; the first pivot is the best of them.
    :param pivot: (probe, K), responsibilities to align to from the start (those of a point estimate, say).
    :returns: the draws, and (chain * draw, K) permutations: new label k is what was ``permutations[s, k]``.
    """
    responsibilities = np.asarray(responsibilities, np.float64)
    start = 0 if log_density is None else int(np.argmax(np.nan_to_num(np.asarray(log_density).ravel(), nan=-np.inf)))
    permutations = align(responsibilities, responsibilities[start] if pivot is None else pivot)
    if pivot is None:
        permutations = permutations[:, canonical_order(responsibilities, permutations)]
    aligned = {name: permute(values, permutations, label_axes.get(name, ())) for name, values in draws.items()}
    return aligned, permutations


def relabel_within(
    draws: Mapping[str, np.ndarray], responsibilities: np.ndarray, component_axes: Mapping[str, tuple[int, int]]
) -> tuple[Arrays, np.ndarray]:
    """The same for components within each label, whose labels agree already: each label's components for themselves.

    :param draws: {site: (chain, draw, *event shape)}.
    :param responsibilities: (chain * draw, probe, K, M), p(z = k, component m | x) of each draw at the probe rows.
    :param component_axes: {site: axes of its event shape that label and component index}.
    :returns: the draws, and (chain * draw, K, M) permutations: new component m of label k is what was
        ``permutations[s, k, m]``.
    """
    responsibilities = np.asarray(responsibilities, np.float64)
    permutations = np.empty((len(responsibilities), *responsibilities.shape[2:]), np.intp)
    for k in range(permutations.shape[1]):
        own = responsibilities[:, :, k]
        found = align(own, own[0])
        permutations[:, k] = found[:, canonical_order(own, found)]
    return {name: _permute_within(v, permutations, component_axes.get(name)) for name, v in draws.items()}, permutations


def _permute_within(values: np.ndarray, permutations: np.ndarray, axes: tuple[int, int] | None) -> np.ndarray:
    """Draws (chain, draw, *event) with the components reindexed by the permutations (S, K, M) of their labels."""
    if axes is None:
        return values
    label, component = (axis + 1 for axis in axes)
    flat = np.moveaxis(values.reshape(-1, *values.shape[2:]), (label, component), (1, 2))
    index = permutations.reshape(*permutations.shape, *(1,) * (flat.ndim - 3))
    return np.moveaxis(np.take_along_axis(flat, index, axis=2), (1, 2), (label, component)).reshape(values.shape)


def align(responsibilities: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """(draw, K): the permutation of each draw that agrees best with the iterated mean of all, started at ``pivot``."""
    permutations = np.zeros(responsibilities.shape[::2], np.intp)
    for _ in range(MAX_ROUNDS):
        # agreement[s, k, j]: how well label j of draw s does the work of the pivot's label k.
        log_pivot = np.log(np.maximum(pivot, FLOOR))
        agreement = np.matmul(log_pivot.T, responsibilities)
        proposed = np.stack([linear_sum_assignment(table, maximize=True)[1] for table in agreement])
        if np.array_equal(proposed, permutations):
            break
        permutations = proposed
        pivot = np.take_along_axis(responsibilities, permutations[:, None, :], axis=2).mean(0)
    return permutations


def canonical_order(responsibilities: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """(K,): the aligned labels from the one with the largest mean responsibility to the smallest."""
    totals = np.take_along_axis(responsibilities.mean(1), permutations, axis=1).mean(0)
    return np.argsort(-totals, kind="stable")


def permute(values: np.ndarray, permutations: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Draws (chain, draw, *event) with the event axes ``axes`` reindexed by each draw's permutation."""
    flat = values.reshape(-1, *values.shape[2:])
    for axis in axes:
        shape = [1] * flat.ndim
        shape[0], shape[axis + 1] = permutations.shape
        flat = np.take_along_axis(flat, permutations.reshape(shape), axis=axis + 1)
    return flat.reshape(values.shape)


def fraction_relabelled(permutations: np.ndarray) -> float:
    """Share of the draws whose labels differ from those of most draws: 0 where nothing ever switched."""
    _, counts = np.unique(permutations, axis=0, return_counts=True)
    return float(1.0 - counts.max() / len(permutations))
