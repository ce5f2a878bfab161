"""Starting values of a hidden Markov model: k-means on time steps, the same for both backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ppl_gen.data import View
    from ppl_gen.models.hmm.hyperparameters import Block, Hyperparameters

MAX_STEPS = 10_000  # k-means sees at most this many time steps: it only has to find the right neighbourhood
COEF_JITTER = 0.1  # standard deviation of the coefficients of covariates
WINDOW = 5  # time steps averaged by every other start


def initialize(hyper: Hyperparameters, view: View, seed: int, num_starts: int) -> dict[str, np.ndarray]:
    """Values of the inferred sites from ``num_starts`` clusterings of the time steps, each (num_starts, *event shape),
    float64.

    The starts take turns: k-means on the steps as they are, k-means on moving averages (which finds regimes that
    overlap), the steps nearest to random ones, and a random path that stays where it is nine times in ten (which finds
    states that differ by what follows them). Features are the real columns, roots of counts, and one-hot
    categories; missing entries stand at the mean for this purpose. The transition matrix counts the labels' changes
    along each sequence; coefficients of covariates are about 0, in the first start 0. All are shrunk towards the pooled
    values. The same seed gives the same values.
    """
    rng = np.random.default_rng(seed)
    steps = _Steps(hyper, view)
    starts = []
    for index in range(num_starts):
        order = _order(hyper, steps, labels := steps.cluster(hyper.num_states, index % 4, rng))
        starts.append(_sites(hyper, steps, np.argsort(order)[labels], rng))
        if hyper.num_context:
            noise = COEF_JITTER * rng.standard_normal(hyper.coef_scale.shape) * (index > 0)
            starts[-1]["transition_coefs"] = noise - noise.mean(1, keepdims=True)
    return {name: np.stack([s[name] for s in starts]) for name in starts[0] if name not in hyper.fixed}


class _Steps:
    """The time steps of all sequences that have a weight, stacked: values (R, D), mask, weights, features, runs."""

    def __init__(self, hyper: Hyperparameters, view: View) -> None:
        x = np.asarray(view.x).astype(np.float64)
        mask = np.ones(x.shape, bool) if view.mask is None else np.asarray(view.mask).astype(bool)
        weights = np.ones(len(x)) if view.weights is None else np.asarray(view.weights).astype(np.float64)
        weights = weights if np.any(weights > 0) else np.ones(len(x))
        lengths = np.full(len(x), x.shape[1]) if view.lengths is None else np.asarray(view.lengths)
        inside = (np.arange(x.shape[1]) < lengths[:, None]) & (weights > 0)[:, None]
        self.x, self.mask = x[inside], mask[inside]
        self.weights = np.broadcast_to(weights[:, None], inside.shape)[inside]
        self.sequence = np.broadcast_to(np.arange(len(x))[:, None], inside.shape)[inside]
        self.features = self._features(hyper)

    def _features(self, hyper: Hyperparameters) -> np.ndarray:
        parts = []
        for block in hyper.blocks:
            for j in block.columns:
                seen, column = self.mask[:, j], self.x[:, j]
                if block.kind == "categorical":
                    values = np.eye(hyper.num_categories[j])[column.astype(int)]
                else:
                    values = (np.sqrt(np.maximum(column, 0)) if block.kind == "poisson" else column)[:, None]
                total = max(seen.sum(), 1)
                mean = (values * seen[:, None]).sum(0) / total
                spread = np.sqrt((((values - mean) * seen[:, None]) ** 2).sum() / total)
                parts.append(np.where(seen[:, None], values - mean, 0.0) / max(spread, 1e-6))
        return np.concatenate(parts, axis=1)

    def cluster(self, k: int, kind: int, rng: np.random.Generator) -> np.ndarray:
        """(R,): labels."""
        from sklearn.cluster import KMeans

        if kind == 3:
            moves = rng.random(len(self.x)) < 0.1
            moves[0] = True
            return rng.integers(k, size=moves.sum())[np.cumsum(moves) - 1]
        features = self.features if kind != 1 else self._smooth()
        number = int(rng.integers(2**31 - 1))
        if len(np.unique(features[:MAX_STEPS], axis=0)) < k:  # ties are split at random
            features = features + 0.1 * rng.standard_normal(features.shape)
        rows = rng.choice(len(features), min(MAX_STEPS, len(features)), replace=False)
        if kind == 2:
            centres = features[rows[:k]] if len(rows) >= k else features[rng.integers(len(features), size=k)]
        else:
            fitted = KMeans(k, n_init=1, random_state=number).fit(features[rows], sample_weight=self.weights[rows])
            centres = fitted.cluster_centers_
        distance = (centres**2).sum(-1) - 2 * features @ centres.T
        return distance.argmin(1)

    def _smooth(self) -> np.ndarray:
        """Moving averages along each sequence."""
        total, number = np.zeros_like(self.features), np.zeros(len(self.features))
        for shift in range(-(WINDOW // 2), WINDOW // 2 + 1):
            rows = np.arange(len(total)) + shift
            inside = (rows >= 0) & (rows < len(total))
            rows = np.where(inside, rows, 0)
            same = inside & (self.sequence[rows] == self.sequence)
            total += np.where(same[:, None], self.features[rows], 0.0)
            number += same
        return total / number[:, None]


def _order(hyper: Hyperparameters, steps: _Steps, labels: np.ndarray) -> np.ndarray:
    """Which cluster becomes which state: matched to what the prior says of the states, else by falling weight."""
    k = hyper.num_states
    counts = np.bincount(labels, steps.weights, minlength=k)
    target = _expected(hyper)
    if target is None:
        return np.argsort(-counts, kind="stable")
    from scipy.optimize import linear_sum_assignment

    columns, wanted, spread = target
    one_hot = np.eye(k)[labels] * steps.weights[:, None]
    seen = steps.mask[:, columns]
    centres = one_hot.T @ (steps.x[:, columns] * seen) / np.maximum(one_hot.T @ seen, 1e-6)
    distance = (((centres[None] - wanted[:, None]) / spread[:, None]) ** 2).sum(-1)
    return linear_sum_assignment(distance)[1]


def _expected(hyper: Hyperparameters) -> tuple[list[int], np.ndarray, np.ndarray] | None:
    """Columns, and the means and spreads (K, columns) that the prior gives them, where they differ between states."""
    for block in hyper.blocks:
        for name in ("locs", "rates", "probs"):
            if name not in _SITES_OF.get(block.kind, ()):
                continue
            kind, parameters = hyper.sites[name]
            mean, spread = _mean_and_spread(kind, parameters)
            if name in hyper.fixed:
                mean = hyper.fixed[name]
            mean, spread = (v.mean(1) if v.ndim == 3 else v for v in (mean, spread))
            if np.ptp(mean, axis=0).any():
                return list(block.columns), mean, np.maximum(spread, 1e-6)
    return None


_SITES_OF = {
    "gaussian": ("locs",), "gaussian_full": ("locs",), "student_t": ("locs",), "mixture": ("locs",),
    "poisson": ("rates",), "bernoulli": ("probs",),
}  # fmt: skip


def _mean_and_spread(kind: str, parameters: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    a, b = parameters
    if kind == "normal":
        return a, b
    if kind == "gamma":
        return a / b, np.sqrt(a) / b
    return a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)


def _sites(hyper: Hyperparameters, steps: _Steps, labels: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    k = hyper.num_states
    one_hot = np.eye(k)[labels] * steps.weights[:, None]
    same = steps.sequence[1:] == steps.sequence[:-1]
    pairs = one_hot[:-1][same].T @ np.eye(k)[labels[1:][same]]
    first = one_hot[np.flatnonzero(np.append(True, ~same))].sum(0)
    # One step of each kind more, and one of staying: no transition is impossible at the start.
    pairs = pairs + 1.0 / k + np.eye(k)
    sites: dict[str, Any] = {"transition_matrix": pairs / pairs.sum(-1, keepdims=True)}
    if hyper.initial == "free":
        sites["initial_probs"] = (first + 1.0) / (first + 1.0).sum()
    for block in hyper.blocks:
        sites |= _emission_sites(hyper, block, steps, one_hot, rng)
    return sites


def _emission_sites(
    hyper: Hyperparameters, block: Block, steps: _Steps, one_hot: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    columns = list(block.columns)
    x, seen = steps.x[:, columns], steps.mask[:, columns].astype(float)
    if block.kind == "categorical":
        sites = {}
        for i, j in enumerate(columns):
            codes = np.eye(hyper.num_categories[j])[x[:, i].astype(int)] * seen[:, i, None]
            pooled = (codes.sum(0) + 1) / (codes.sum() + codes.shape[1])
            counts = one_hot.T @ codes + 2 * pooled
            sites[f"category_probs_{j}"] = counts / counts.sum(-1, keepdims=True)
        return sites
    count = one_hot.T @ seen
    total = np.maximum((one_hot.sum(1)[:, None] * seen).sum(0), 1e-6)
    pooled = (one_hot.T @ (x * seen)).sum(0) / total
    means = (one_hot.T @ (x * seen) + pooled) / (count + 1)  # shrunk by one time step
    if block.kind == "poisson":
        return {"rates": np.maximum(means, 0.05)}
    if block.kind == "bernoulli":
        return {"probs": np.clip((one_hot.T @ (x * seen) + 2 * pooled) / (count + 2), 0.02, 0.98)}
    return _normal_sites(hyper, block, one_hot, x, seen, means, rng)


def _normal_sites(
    hyper: Hyperparameters, block: Block, one_hot: np.ndarray, x: np.ndarray, seen: np.ndarray, means: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    k, d = means.shape
    weights, count = one_hot.sum(1)[:, None], one_hot.T @ seen
    means = hyper.fixed["locs"] if "locs" in hyper.fixed and block.kind != "mixture" else means
    residual = (x - (one_hot / weights) @ means) * seen
    within = (weights * residual**2).sum(0) / np.maximum((weights * seen).sum(0), 1e-6)
    mean = (weights * x * seen).sum(0) / np.maximum((weights * seen).sum(0), 1e-6)
    overall = (weights * seen * (x - mean) ** 2).sum(0) / np.maximum((weights * seen).sum(0), 1e-6)
    pooled = np.maximum(np.maximum(within, 1e-3 * overall), 2 * hyper.floor)
    shrink = d + 2.0
    variance = (one_hot.T @ residual**2 + shrink * pooled) / (count + shrink)
    scales = np.sqrt(variance)
    sites: dict[str, Any] = {"locs": means, "scales": scales}
    if block.kind == "student_t":
        sites["df"] = np.full(k, 10.0)
    if block.kind == "mixture":
        m = hyper.num_mixtures
        noise = rng.standard_normal((k, m, d)) * scales[:, None, :] * (m > 1)
        sites = {"locs": means[:, None, :] + noise, "scales": np.repeat(scales[:, None, :], m, axis=1)}
        sites["mixture_weights"] = np.full((k, m), 1 / m)
    if "corr_cholesky" in hyper.sites:
        scatter = np.einsum("rk,ri,rj->kij", one_hot, residual, residual) + shrink * np.eye(d) * pooled
        size = np.sqrt(np.diagonal(scatter, axis1=-2, axis2=-1))
        corr = scatter / size[:, :, None] / size[:, None, :]
        sites["corr_cholesky"] = np.linalg.cholesky(0.95 * corr + 0.05 * np.eye(d))
    return sites
