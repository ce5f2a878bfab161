r"""The checks of codes, local latent vectors that a guide (an encoder) proposes: whether they are used, whether the
guide finds them, and whether the prior is what they are spread like.

Each is put to every member of an ensemble, and to the last draw of each chain of a posterior, in its own latent space,
and the worst is shown:

====================  ===========================  ===================================================================
check                 threshold                    source
====================  ===========================  ===================================================================
active units          1                            Burda, Grosse & Salakhutdinov 2016 (arXiv:1509.00519, sec. 5.2): a
                                                   dimension whose mean varies over the rows by more than 0.01
posterior collapse    half of the dimensions       Lucas, Tucker, Grosse & Norouzi 2019 (arXiv:1911.02469, definition
                                                   1): a dimension whose divergence from the prior is below 0.01 nats
                                                   in 99 % of the rows
ELBO gap              0.5 nats a dimension         Cremer, Li & Duvenaud 2018 (arXiv:1801.03558): the divergence of the
                                                   guide from p(z | x); 0.5 nats is about a standard deviation that is
                                                   wrong by a factor of 2
aggregate posterior   p 0.01 / members             energy distance between draws of codes of the rows and of the prior,
                                                   by permutations (Székely & Rizzo 2004, InterStat 5)
====================  ===========================  ===================================================================

``density k-hat`` (:mod:`ppl_gen.checks`) says whether the estimates of log p(x) are to be trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppl_gen.diagnostics import Check
from ppl_gen.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

ACTIVE = 0.01  # variance over rows of a dimension's mean
COLLAPSED, COLLAPSED_ROWS = 0.01, 0.99  # nats; share of the rows
MAX_COLLAPSED = 0.5  # of the dimensions
GAP = 0.5  # nats a dimension
P_VALUE = 0.01
MAX_TESTED, PERMUTATIONS = 300, 999  # codes of either kind; permutations
NUM_PARTICLES = 256  # of a divergence without a closed form


class Codes(NamedTuple):
    """What the guide says of some rows under each member: ``mean`` and ``sd`` (M, n, L), and ``kl`` (M, n, J), its
    divergence from the prior in each dimension, or in all together (J = 1)."""

    mean: np.ndarray
    sd: np.ndarray
    kl: np.ndarray

    @classmethod
    def of(cls, fit: Fit) -> Codes:
        """Those of the rows that checks look at, kept with the fit."""
        from ppl_gen import backends, latents

        found = fit.__dict__.get("_codes")
        if found is None:
            train = Evidence.of(fit).train
            ops, kl, posterior = backends.codes(fit.backend), [], latents.members(fit)
            for _, view, kept in latents.parts(fit, train):
                kl.append(ops.divergences(fit.pair, posterior, view, NUM_PARTICLES, fit.seed)[:, kept])
            mean, sd = latents.codes(fit, train, posterior)
            found = fit.__dict__["_codes"] = cls(mean, sd, np.concatenate(kl, 1).astype(np.float64))
        return found

    @property
    def active(self) -> np.ndarray:
        """(M, L): whether a dimension's mean varies over the rows."""
        return np.asarray(self.mean.var(1) > ACTIVE)

    @property
    def collapsed(self) -> np.ndarray:
        """(M, L): whether it says nothing of nearly all rows; where divergences are not known by dimension, whether it
        is not active."""
        if self.kl.shape[2] < self.mean.shape[2]:
            return ~self.active
        return np.asarray((self.kl < COLLAPSED).mean(1) >= COLLAPSED_ROWS)


def of_latents(fit: Fit) -> Found:
    """All of them; none where rows have no codes."""
    import pandas as pd

    if fit.pair.decode is None:
        return [], {}
    codes = Codes.of(fit)
    members, number, size = len(codes.mean), codes.active.sum(1), codes.mean.shape[2]
    found = [_active(number, size), _collapse(codes), _divergence(codes), _gap(fit, size), _aggregate(fit, codes)]
    by_dimension = codes.kl.mean(1) if codes.kl.shape[2] == size else np.full((members, size), np.nan)
    table = pd.DataFrame({
        "member": np.arange(members).repeat(size), "dimension": np.tile(np.arange(size), members),
        "kl": by_dimension.ravel(), "variance_of_mean": codes.mean.var(1).ravel(),
        "active": codes.active.ravel(), "collapsed": codes.collapsed.ravel(),
    })  # fmt: skip
    return found, {"latents": table}


def _active(number: np.ndarray, size: int) -> Check:
    each = ", ".join(map(str, number[:6])) + ", ..." * (len(number) > 6)
    return Check.of(
        "active units",
        number.min(),
        "at least",
        1,
        info=f"of {size} latent dimensions; by member {each}",
        advice="The decoder takes no notice of the codes: anneal beta (svi annealing), give free_bits, lower beta, or "
        "take a less flexible likelihood.",
    )


def _collapse(codes: Codes) -> Check:
    share = codes.collapsed.mean(1)
    return Check.of(
        "posterior collapse", share.max(), "at most", MAX_COLLAPSED,
        info="share of latent dimensions whose posterior is the prior, worst member",
        advice="Most of the latent dimensions are not used: lower latent_dim, or anneal beta (svi annealing) or give "
        "free_bits if they should be.",
    )  # fmt: skip


def _divergence(codes: Codes) -> Check:
    """The rate: how much a row's code tells of it."""
    total = codes.kl.sum(2).mean(1)
    info = "nats a row, all dimensions, mean of members"
    if codes.kl.shape[2] > 1:
        each = np.sort(codes.kl.mean(1).mean(0))[::-1]
        info += "; by dimension " + ", ".join(f"{v:.2g}" for v in each[:6]) + ", ..." * (len(each) > 6)
    return Check("latent KL", float(total.mean()), info=info)


def _gap(fit: Fit, size: int) -> Check:
    score = Evidence.of(fit).score
    assert score.elbo is not None
    assert score.error is not None
    gap = score.log_predictive - score.elbo
    error = float(np.sqrt(np.mean(score.error**2) / len(gap)))
    return Check.of(
        "ELBO gap",
        gap.mean(),
        "at most",
        GAP * size,
        info=f"± {error:.1g} nats {fit.train.a_unit}: log p(x) by importance sampling minus the ELBO",
        advice="The encoder is far from p(z | x): make it larger (hidden), train longer, or fit with objective='iwae'.",
    )


def _aggregate(fit: Fit, codes: Codes) -> Check:
    from ppl_gen import backends, latents
    from ppl_gen.scoring import sliceable

    rng, worst = np.random.default_rng(fit.seed), 1.0
    posterior, (members, rows, _) = latents.members(fit), codes.mean.shape
    chosen = rng.permutation(rows)[:MAX_TESTED]
    context = sliceable(fit, Evidence.of(fit).train.take(chosen)).context
    for m in range(members):
        spread = codes.sd[m, chosen] * rng.standard_normal((len(chosen), codes.mean.shape[2]))
        one = {name: value[m] for name, value in posterior.items()}
        prior = backends.codes(fit.backend).prior(fit.pair, one, len(chosen), context, fit.seed)
        worst = min(worst, permutation_p(codes.mean[m, chosen] + spread, prior.astype(np.float64), rng))
    return Check.of(
        "aggregate posterior p",
        worst,
        "at least",
        P_VALUE / members,
        info=f"lowest of members: {members}; {len(chosen)} codes of rows against as many of the prior",
        advice="Codes of the rows are not spread like the prior, so draws come from where no rows are: use "
        "prior='vamp' or 'flow', or train longer.",
    )


def permutation_p(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> float:
    """p-value of the energy distance between two samples of rows, (n, L) and (m, L), in units of their common standard
    deviations, among random divisions of them all into two such samples."""
    from scipy.spatial.distance import cdist

    whole = np.concatenate([first, second])
    whole = whole / np.maximum(whole.std(0), 1e-12)
    distances, number = cdist(whole, whole), len(first)
    signs = np.ones((PERMUTATIONS + 1, len(whole)))
    signs[:] = np.where(np.arange(len(whole)) < number, 1 / number, -1 / len(second))
    signs[1:] = rng.permuted(signs[1:], axis=1)
    energy = -np.einsum("pi,pi->p", signs @ distances, signs)  # 2 E|X - Y| - E|X - X'| - E|Y - Y'|
    return float((energy >= energy[0] * (1 - 1e-12)).mean())
