r"""Whether samples, or densities, give away which rows a model was trained on.

Each attack gives every row a number that is to be high for members, the training rows, and low for others, rows of the
same law that were held out. A threshold t calls the rows above it members; its advantage is

.. math:: \mathrm{Adv} = P(\text{called} \mid \text{member}) - P(\text{called} \mid \text{not a member}),

0 where nothing is given away and 1 where all is (Yeom, Giacomelli, Fredrikson & Jha 2018, arXiv:1709.01604, definition
4). The best threshold of half of the rows is judged by the other half, and the other way round, so that the figure is
not above 0 for having been chosen.

``density``   log p(x), which a model that has learned its rows by heart has too high of them (ibid.)
``distance``  minus the distance to the nearest sample (Chen, Yu, Zhang & Fritz 2020, arXiv:1909.03935, section 4.1)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COPY = 1e-9  # standard deviations within which two rows are the same
SUBSETS = 5  # of the longer of training and held-out rows, as long as the shorter


class Advantage(NamedTuple):
    """The advantage of an attack, its standard error, and how many members and others it was tried on."""

    value: float
    error: float
    num_members: int
    num_others: int


def advantage(members: np.ndarray, others: np.ndarray, seed: int = 0) -> Advantage:
    """The advantage of the best threshold, cross-fitted over two halves of the rows.

    :param members: (n,) what the attack says of training rows; ``others``: (m,) of held-out ones.
    """
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(values), 2) for values in (members, others)]
    values, variances = [], []
    for k in (0, 1):
        limit = best_threshold(halves[0][k], halves[1][k])
        rates = [(float((part[1 - k] >= limit).mean()), len(part[1 - k])) for part in halves]
        values.append(rates[0][0] - rates[1][0])
        # Of a rate of 0 or 1 the error is not 0: as if one row more had been called, and one more not.
        shares = [((rate * number + 1) / (number + 2), number) for rate, number in rates]
        variances.append(sum(share * (1 - share) / number for share, number in shares))
    return Advantage(float(np.mean(values)), float(np.sqrt(np.sum(variances)) / 2), len(members), len(others))


def best_threshold(members: np.ndarray, others: np.ndarray) -> float:
    """The number at and above which calling rows members has the highest advantage."""
    limits = np.unique(np.concatenate([members, others]))
    called = [1 - np.searchsorted(np.sort(values), limits, side="left") / len(values) for values in (members, others)]
    return float(limits[np.argmax(called[0] - called[1])])


def nearest(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(n,): the distance of each row to the closest of the others, in the units of the points."""
    from sklearn.neighbors import NearestNeighbors

    return np.asarray(NearestNeighbors(n_neighbors=1).fit(among).kneighbors(rows)[0][:, 0])


class Closeness(NamedTuple):
    """Distances to the closest training row, of samples and of held-out rows (5 % quantiles and medians, in standard
    deviations), the shares of either that are copies of one, and the share of samples that lie closer to a training row
    than to any of as many held-out rows, 1/2 where samples favour neither, with its standard error."""

    samples: tuple[float, float]
    held_out: tuple[float, float]
    copies: float
    chance_copies: float
    nearer: float
    error: float


def closeness(train: np.ndarray, held_out: np.ndarray, samples: np.ndarray, seed: int = 0) -> Closeness:
    """How close samples are to training rows, beside what fresh rows are (Platzer & Reutterer 2021, Front. Big Data 4).

    :param train: (n, d) points; ``held_out`` (m, d), ``samples`` (s, d) as well.
    """
    own, fresh = nearest(samples, train), nearest(held_out, train)
    number, rng, shares = min(len(train), len(held_out)), np.random.default_rng(seed), []
    for _ in range(SUBSETS if len(train) != len(held_out) else 1):
        one, other = (nearest(samples, rows[rng.permutation(len(rows))[:number]]) for rows in (train, held_out))
        tie = np.abs(one - other) <= COPY
        shares.append(float(np.where(tie, 0.5, one < other).mean()))
    # Samples that are near the same row fare alike: the second term is at least what simulated normals in 2 to 10
    # columns have.
    error = 0.5 * np.sqrt(1 / len(samples) + 1 / (4 * number))
    return Closeness(_quantiles(own), _quantiles(fresh), float((own <= COPY).mean()), float((fresh <= COPY).mean()),
                     float(np.mean(shares)), float(error))  # fmt: skip


def _quantiles(distances: np.ndarray) -> tuple[float, float]:
    low, middle = np.quantile(distances, (0.05, 0.5))
    return float(low), float(middle)
