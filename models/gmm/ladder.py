"""What a comparison tries of Gaussian mixtures."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppl_gen.candidates import QUICK, WORSE, Candidate, affordable

if TYPE_CHECKING:
    from ppl_gen.data import Data
    from ppl_gen.models.gmm import GMM

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
MANY = 2_000  # rows from which on a fit is done with fewer starts, and has no intervals


def candidates(family: type[GMM], data: Data) -> list[Candidate]:
    """A ladder of sizes for each kind of covariances, by EM; and one of full covariances that are shrunk.

    Of n rows in d columns the normal of maximum likelihood is too narrow. An LKJ prior of the correlations with
    concentration 1 + (d + 1) / 2 adds (d + 1) / 2 to the power of their determinant, as if their scatter were divided
    by n - d - 1, not n: the mean of an inverse Wishart (Murphy 2012, *Machine Learning*, sec. 4.6.2).
    """
    found, many = [], len(data) > MANY
    settings = {"num_starts": 2 if many else 4, "num_bootstraps": 0 if many else 8, "tolerance": 1e-5}
    for covariance in ("full", "tied", "diag") if data.num_columns > 1 else ("full",):
        rungs = {size: family(size, covariance=covariance) for size in SIZES if size < len(data)}
        sizes = affordable(data, list(rungs), lambda size: rungs[size].num_parameters(data.num_columns))  # noqa: B023
        name = f"{family.name} {covariance}" if data.num_columns > 1 else family.name
        share = 1.0 if covariance == "full" else 0.5
        ladder = tuple(rungs[size] for size in sizes)
        found.append(Candidate(name, ladder, "em", settings, turn=QUICK, share=share, least=0.0))
        if covariance == "full" and data.num_columns > 1:
            from ppl_gen.models.gmm import GMMPrior

            prior = GMMPrior(correlation_concentration=1 + (data.num_columns + 1) / 2)
            ladder = tuple(rungs[size].replace(prior=prior) for size in sizes)
            settings_of_map = {**settings, "objective": "map"}
            found.append(Candidate(f"{family.name} shrunk", ladder, "em", settings_of_map, turn=QUICK, least=0.0))
    return found


def lowest_bic(ladder: Sequence[GMM], data: Data, seconds: float, seed: int) -> GMM | None:
    """The rung with the lowest BIC (Schwarz 1978, Ann. Stat. 6; Fraley & Raftery 2002, J. Am. Stat. Assoc. 97), as
    scikit-learn's mixtures have it: they need no compiled program of each size. The climb ends at the second rung in a
    row that is no better, or when the time is up. None of rows with missing entries or weights, which these can't fit.
    """
    if data.mask is not None or data.weights is not None:
        return None
    from sklearn.mixture import GaussianMixture

    end, best, lowest, worse = time.monotonic() + seconds, ladder[0], float("inf"), 0
    x = data.x.astype(float)
    for family in ladder:
        mixture = GaussianMixture(family.size, covariance_type=family.covariance, reg_covar=family.covariance_floor,
                                  n_init=1, random_state=seed)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: the size is what is asked for
            value = mixture.fit(x).bic(x)
        best, lowest, worse = (family, value, 0) if value < lowest else (best, lowest, worse + 1)
        if worse >= WORSE or time.monotonic() > end:
            break
    return best
