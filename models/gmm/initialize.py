"""Starting values of a mixture: k-means, the same for both backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.gmm.hyperparameters import Hyperparameters

MAX_ROWS = 10_000  # k-means sees at most this many rows: it only has to find the right neighbourhood


def initialize(hyper: Hyperparameters, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Values of the inferred sites from ``num_starts`` runs of k-means, each (num_starts, *event shape), float64.

    Each run has its own k-means++ start and, in a large table, its own rows. Missing entries stand at the mean of
    their column for this purpose only. Covariances are those within clusters, shrunk towards the pooled variances by
    D + 2 rows, so that a small cluster is never singular. Components come by falling weight, or matched to what the
    prior says of each. The same seed gives the same values.
    """
    rng = np.random.default_rng(seed)
    x, weights = _complete(view)
    starts = []
    for _ in range(num_starts):
        rows = rng.choice(len(x), MAX_ROWS, replace=False) if len(x) > MAX_ROWS else slice(None)
        labels, centres = _cluster(hyper, x[rows], weights[rows], int(rng.integers(2**31 - 1)))
        starts.append(_sites(hyper, x[rows], weights[rows], labels, centres))
    return {name: np.stack([s[name] for s in starts]) for name in starts[0] if name not in hyper.fixed}


def _complete(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a weight, missing entries imputed by column means, and those weights."""
    x = np.asarray(view.x).astype(np.float64)
    weights = np.ones(len(x)) if view.weights is None else np.asarray(view.weights).astype(np.float64)
    if view.mask is not None:
        mask = np.asarray(view.mask)
        means = (x * mask).sum(0) / np.maximum(mask.sum(0), 1)
        x = np.where(mask, x, means)
    return (x[weights > 0], weights[weights > 0]) if np.any(weights > 0) else (x, np.ones(len(x)))


def _cluster(hyper: Hyperparameters, x: np.ndarray, weights: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and centres (K, D)."""
    from sklearn.cluster import KMeans

    k = hyper.num_components
    if "locs" in hyper.fixed:
        centres = hyper.fixed["locs"]
        return np.argmin(((x[:, None, :] - centres) ** 2).sum(-1), axis=1), centres
    rng = np.random.default_rng(seed)
    spread = np.sqrt(np.average((x - x.mean(0)) ** 2, axis=0)) + 1e-6
    if len(x) <= 50 * k and len(np.unique(x, axis=0)) < k:
        # Fewer different rows than components: k-means on a blurred copy splits ties at random.
        copies = -(-k // len(x))
        x, weights = np.tile(x, (copies, 1)), np.tile(weights, copies)
        x = x + 0.1 * spread * rng.standard_normal(x.shape)
        result = KMeans(k, n_init=1, random_state=seed).fit(x, sample_weight=weights)
        return result.labels_[: len(x) // copies], result.cluster_centers_
    result = KMeans(k, n_init=1, random_state=seed).fit(x, sample_weight=weights)
    return result.labels_, result.cluster_centers_


def _sites(
    hyper: Hyperparameters, x: np.ndarray, weights: np.ndarray, labels: np.ndarray, centres: np.ndarray
) -> dict[str, np.ndarray]:
    k, d = centres.shape
    one_hot = np.eye(k)[labels] * weights[:, None]
    counts = one_hot.sum(0)
    order = _order(hyper, counts, centres)
    one_hot, counts, centres, labels = one_hot[:, order], counts[order], centres[order], np.argsort(order)[labels]
    residual = x - centres[labels]
    pooled = np.average(residual**2, axis=0, weights=weights)
    total = np.average((x - np.average(x, axis=0, weights=weights)) ** 2, axis=0, weights=weights)
    pooled = np.maximum(np.maximum(pooled, 1e-3 * total), 2 * hyper.floor)
    scatter = ((one_hot[:, :, None] * residual[:, None, :]).reshape(len(x), -1).T @ residual).reshape(k, d, d)
    shrink = d + 2.0
    if hyper.tied:
        covariance = (scatter.sum(0) + shrink * np.diag(pooled)) / (counts.sum() + shrink)
    else:
        covariance = (scatter + shrink * np.diag(pooled)) / (counts + shrink)[:, None, None]
    scales = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    sites: dict[str, Any] = {
        "weights": (counts + 0.01 * counts.sum() / k) / (1.01 * counts.sum()),
        "locs": centres,
        "scales": np.sqrt(np.mean(scales**2, axis=-1)) if hyper.covariance == "spherical" else scales,
    }
    if hyper.dense:
        sites["corr_cholesky"] = np.linalg.cholesky(covariance) / scales[..., None]
    return sites


def _order(hyper: Hyperparameters, counts: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Which cluster becomes which component."""
    falling = np.argsort(-counts, kind="stable")
    if "locs" in hyper.fixed:
        return np.arange(len(counts))
    if np.ptp(hyper.loc, axis=0).any():
        from scipy.optimize import linear_sum_assignment

        distance = (((centres[None] - hyper.loc[:, None]) / hyper.loc_scale[:, None]) ** 2).sum(-1)
        return linear_sum_assignment(distance)[1]
    if "weights" in hyper.fixed:
        order = np.empty_like(falling)
        order[np.argsort(-hyper.fixed["weights"], kind="stable")] = falling
        return order
    return falling
