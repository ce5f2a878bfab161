r"""How well a diffusion model's denoiser does at each noise level, on rows that its members saw and rows that they
held out.

The evidence lower bound of a row is (Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630, eq. 11-17)

.. math::
    \log p(x) \ge \mathrm{E} \log p(x \mid z_0) - D_{KL}[q(z_1 \mid x) \,\|\, \mathrm{Normal}(0, I)] - \sum_k L_k,
    \qquad L_k = \tfrac12 \int_{\lambda_k}^{\lambda_k + w_k} e^\lambda\, \mathrm{E} |e - \hat e(z_\lambda)|^2 d\lambda

in continuous time; in discrete time :math:`L_k` is the sum of :math:`\frac12 (\mathrm{SNR}_s - \mathrm{SNR}_t) |e -
\hat e(z_t)|^2` over some of the steps. The loss is cut into parts of time, and each row is looked at once in each of
them, at a level of its own. So the parts sum to the loss, without bias. Of the noise :math:`\epsilon` of a row the
multiple of :math:`|\epsilon|^2 - F` is taken off that a standard normal row would have, whose mean is 0 (of real
columns): at little noise it is nearly all that varies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppl_gen.registry import import_backend

if TYPE_CHECKING:
    from ppl_gen.result import Fit

NUM_PARTS = 20  # that time is cut into
MAX_VALUES = 6_000_000  # members x parts x rows x numbers a row
MAX_FITTED = 5_000  # rows that the best linear denoiser is found from


class Levels(NamedTuple):
    """Denoising of n rows by M members in K parts of time, from the least noise on; nats a row.

    ``rows``       (n,) which of the training rows
    ``seen``       (M, n) whether the member trained on it
    ``weights``    (n,) row weights
    ``log_snr``    (M, K) the middle of each part
    ``width``      (M, K) units of log signal-to-noise ratio that the part has
    ``nats``       (M, K, n) the part's share of the row's negative bound
    ``linear``     (M, K, n) the same of the best linear denoiser, at the same noise
    ``encoded``    (M, n, F) the rows as numbers e
    ``estimates``  (M, K, n, F) what the denoiser makes of them
    ``prior``      (M, n) divergence of the noisiest level from the standard normal
    ``data``       (M, n) log p(x given z_0), nats in model space
    """

    rows: np.ndarray
    seen: np.ndarray
    weights: np.ndarray
    log_snr: np.ndarray
    width: np.ndarray
    nats: np.ndarray
    linear: np.ndarray
    encoded: np.ndarray
    estimates: np.ndarray
    prior: np.ndarray
    data: np.ndarray

    @property
    def fresh(self) -> np.ndarray:
        """(M, n): the rows that a member is judged by, those that it held out; all where it held out none."""
        return np.where(self.seen.all(), True, ~self.seen)

    @property
    def bound(self) -> np.ndarray:
        """(M, n): the evidence lower bound, nats in model space."""
        return np.asarray(self.data - self.prior - self.nats.sum(1))


def of(fit: Fit) -> Levels:
    """The levels of some training rows, found once for a fit."""
    known = fit.__dict__.get("_noise_levels")
    if known is None:
        known = fit.__dict__["_noise_levels"] = _find(fit)
    return known


def over_members(
    fit: Fit, function: str, *arrays: np.ndarray | None, posterior: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """A function of the fit's noising process, see :class:`ppl_gen.noising.Noising`, under each member: (M, ...).

    :param arrays: (M, ...) those of each member. :param posterior: of other members than the fit's.
    """
    module = import_backend("ppl_gen.backends", f"{fit.backend}_noising", fit.backend)
    members = fit.posterior if posterior is None else posterior
    return np.asarray(module.over_members(fit.pair, function, members, *arrays), np.float64)


def times(num_steps: int | None, number: int = NUM_PARTS) -> list[np.ndarray]:
    """Parts of time: of discrete time the ends i / T of the steps (s, t] that each part has, ascending; of continuous
    time a part's two ends as shares of the range of log signal-to-noise ratios."""
    if num_steps is None:
        ends = np.linspace(0, 1, number + 1)
        return [ends[k : k + 2] for k in range(number)]
    return [part / num_steps for part in np.array_split(np.arange(1, num_steps + 1), min(number, num_steps))]


def signal_and_noise(log_snr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at log signal-to-noise ratios."""
    from scipy.special import expit

    return np.sqrt(expit(log_snr)), np.sqrt(expit(-np.asarray(log_snr)))


def repeated(values: np.ndarray | None, members: int) -> np.ndarray | None:
    """The same array for each member."""
    return None if values is None else np.broadcast_to(values, (members, *np.shape(values)))


def _find(fit: Fit) -> Levels:
    from ppl_gen.checks_networks import held_out_by, rows_of_both_kinds
    from ppl_gen.evidence import random_rows

    noising, members = fit.pair.noising, len(next(iter(fit.posterior.values())))
    assert noising is not None
    parts, held = times(noising.num_steps), held_out_by(fit)
    limit = int(np.clip(MAX_VALUES // (members * len(parts) * noising.size), 50, 1_000))
    if held is None:
        held = np.zeros((members, len(fit.train)), bool)
        rows = random_rows(len(fit.train), limit, fit.seed)
    else:
        rows = rows_of_both_kinds(held, fit.seed, limit)
    view = fit.train.take(rows).view("numpy")
    x, context = np.repeat(view.x[None], members, 0), repeated(view.context, members)
    encoded, rng = over_members(fit, "encode", x), np.random.default_rng([fit.seed, 8])
    best = _linear_of(fit, ~held)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("log_snr", "width", "nats", "linear", "estimates")}
    least, most = over_members(fit, "log_snr", repeated(np.array([1.0, 0.0]), members)).T  # of members

    def loss(estimate: np.ndarray, weight: np.ndarray, chance: np.ndarray) -> np.ndarray:
        return np.asarray(weight * (((encoded - estimate) ** 2).sum(-1) - chance))

    for ends in parts:
        log_snr, weight, width = _levels_of(fit, ends, least, most, rng, len(rows))
        alpha, sigma = (level[..., None] for level in signal_and_noise(log_snr))
        noise = rng.standard_normal(encoded.shape[1:])
        z = alpha * encoded + sigma * noise
        chance = ((alpha * sigma) ** 2 * (noise**2 - 1))[..., noising.is_real].sum(-1)
        estimate = over_members(fit, "denoise", z, log_snr, context)
        other = np.stack([best[m](z[m], log_snr[m], view.context) for m in range(members)])
        values = (log_snr.mean(1), width, loss(estimate, weight, chance), loss(other, weight, chance), estimate)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    whole = {name: np.stack(values, axis=1) for name, values in found.items()}
    prior, data = _ends(fit, x, encoded, least, most, rng)
    weights = np.ones(len(rows)) if fit.train.weights is None else np.asarray(fit.train.weights, np.float64)[rows]
    return Levels(rows, ~held[:, rows], weights, **whole, encoded=encoded, prior=prior, data=data)


def _levels_of(
    fit: Fit, ends: np.ndarray, least: np.ndarray, most: np.ndarray, rng: np.random.Generator, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a part of time: (M, n) levels of the rows and what multiplies their squared errors, and (M,) its width."""
    noising, members = fit.pair.noising, len(least)
    assert noising is not None
    spread = (rng.permutation(rows) + rng.random()) / rows  # even over the part
    if noising.num_steps is None:
        high, low = (most[:, None] + (least - most)[:, None] * end for end in ends)
        log_snr = high + (low - high) * spread
        return log_snr, 0.5 * np.exp(log_snr) * (high - low), (high - low)[:, 0]
    chosen = ends[np.minimum((spread * len(ends)).astype(int), len(ends) - 1)]
    pair = np.stack([chosen, chosen - 1 / noising.num_steps])
    after, before = np.moveaxis(over_members(fit, "log_snr", repeated(pair, members)), 1, 0)
    edges = np.array([ends[0] - 1 / noising.num_steps, ends[-1]])
    high, low = over_members(fit, "log_snr", repeated(edges, members)).T
    return after, 0.5 * (np.exp(before) - np.exp(after)) * len(ends), high - low


def _ends(
    fit: Fit, x: np.ndarray, encoded: np.ndarray, least: np.ndarray, most: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(M, n): the divergence of the noisiest level from the standard normal, and log p(x | z_0)."""
    alpha, sigma = (level[:, None, None] for level in signal_and_noise(least))
    prior = 0.5 * (alpha**2 * encoded**2 + sigma**2 - 1 - np.log(sigma**2)).sum(-1)
    alpha, sigma = (level[:, None, None] for level in signal_and_noise(most))
    noise = rng.standard_normal(encoded.shape[1:])
    data = over_members(fit, "log_likelihood", x, alpha * encoded + sigma * noise)
    assert fit.pair.noising is not None
    return prior, data + 0.5 * (noise**2 - 1)[:, np.asarray(fit.pair.noising.is_real)].sum(-1)


class _Linear:
    r"""The best linear denoiser of some rows (Wiener 1949): of a normal distribution with their mean, linear in the
    context, and covariance :math:`U \mathrm{diag}(v) U^T` (shrunk: Ledoit & Wolf 2004, J. Multivariate Anal. 88),

    .. math:: \mu + U \mathrm{diag}\Big(\frac{\alpha v}{\alpha^2 v + \sigma^2}\Big) U^T (z - \alpha \mu)
    """

    def __init__(self, encoded: np.ndarray, context: np.ndarray | None) -> None:
        from sklearn.covariance import LedoitWolf

        design = self._design(context, len(encoded))
        self.slopes = np.linalg.lstsq(design, encoded, rcond=None)[0]
        rest = encoded - design @ self.slopes
        values, self.vectors = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(rest).covariance_)
        self.values = np.maximum(values, 0)

    @staticmethod
    def _design(context: np.ndarray | None, number: int) -> np.ndarray:
        ones = np.ones((number, 1))
        return ones if context is None else np.concatenate([ones, context], axis=1)

    def __call__(self, z: np.ndarray, log_snr: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        alpha, sigma = (level[:, None] for level in signal_and_noise(log_snr))
        mean = self._design(context, len(z)) @ self.slopes
        kept = alpha * self.values / (alpha**2 * self.values + sigma**2)
        return np.asarray(mean + (((z - alpha * mean) @ self.vectors) * kept) @ self.vectors.T)


def _linear_of(fit: Fit, seen: np.ndarray) -> list[_Linear]:
    """The best linear denoiser of the rows (M, n) that each member has seen."""
    rng, number = np.random.default_rng(fit.seed), min(int(seen.sum(1).min()), MAX_FITTED)
    rows = [rng.permutation(np.flatnonzero(own))[:number] for own in seen]
    views = [fit.train.take(part).view("numpy") for part in rows]
    encoded = over_members(fit, "encode", np.stack([view.x for view in views]))
    return [_Linear(part, view.context) for part, view in zip(encoded, views, strict=True)]
