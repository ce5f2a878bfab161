r"""The checks of an unnormalised density: how sure its log Z is, and whether its Markov chains mix.

===========================  ==========================  ==============================================================
check                        threshold                   source
===========================  ==========================  ==============================================================
log Z standard error         0.1 nats                    densities of rows are then off by a tenth, all the same way
log Z k-hat                  0.7                         Vehtari, Simpson, Gelman, Yao & Gabry 2024, J. Mach. Learn.
                                                         Res. 25
AIS effective sample size    100                         1 / sum of squared weights (Kong, Liu & Wong 1994, J. Am.
(SMC: of the worst step)                                 Stat. Assoc. 89); their error is then a tenth or less
log Z forward-reverse gap    3 standard errors, or 0.1   Grosse, Ghahramani & Adams 2015, arXiv:1511.02543
model chains R-hat           1.01                        Vehtari et al. 2021; over many quantities see
                                                         :func:`ppl_gen.checks.rhat_limit`
model chains bulk ESS        100 a chain, or half of it  Vehtari et al. 2021, section 4.2
===========================  ==========================  ==============================================================

The worst member of an ensemble is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.denoising import of_columns
from ppl_gen.diagnostics import Check
from ppl_gen.normalizer import TRAJECTORY, is_normalized
from ppl_gen.scores import MAX_KHAT

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

MAX_ERROR, MAX_GAP, MIN_ESS = 0.1, 0.1, 100  # nats, nats, particles
MORE = "Normalise with more: fit.normalize(AIS(num_temperatures=..., num_chains=...)) or SMC(num_particles=...)."


def of_energies(fit: Fit) -> Found:
    """All of them; none where the density is normalised as it is."""
    if fit.pair.tempered is None or "log_normalizer" not in fit.posterior:
        return [], {}
    found, details = _of_normalizer(fit)
    more, tables = _of_chains(fit)
    return found + more, details | tables


def trajectories(fit: Fit) -> np.ndarray:
    """(members, rows, columns of :data:`ppl_gen.normalizer.TRAJECTORY`); NaN where log Z was not estimated."""
    return np.asarray(fit.posterior["annealing"], np.float64)


def is_annealed(fit: Fit) -> bool:
    """Whether log Z was estimated along a path of temperatures."""
    return (
        fit.pair.tempered is not None
        and "annealing" in fit.posterior
        and bool(np.isfinite(trajectories(fit)[:, -1, 0]).all())
    )


def _of_normalizer(fit: Fit) -> Found:
    import pandas as pd

    parts = {name: fit.posterior[name].astype(np.float64) for name in
             ("log_normalizer", "log_normalizer_error", "log_normalizer_k_hat")}  # fmt: skip
    value, error, k_hat = parts.values()
    table = pd.DataFrame({"member": np.arange(len(value)), **parts})
    if not is_normalized(fit.posterior):
        return [Check("log Z", info="not known: only differences of scores mean anything; fit.normalize('smc')")], {}
    worst = int(error.argmax())
    found = [Check.of("log Z standard error", error[worst], "at most", MAX_ERROR, advice=MORE,
                      info=f"log Z {value[worst]:.3f} nats" + (", exact" if error[worst] == 0 else ""))]  # fmt: skip
    if not is_annealed(fit):
        return found, {"normalizer": table}
    path = {name: trajectories(fit)[:, :, j] for j, name in enumerate(TRAJECTORY)}
    reverse, gap = path["reverse"][:, -1], path["reverse"][:, -1] - value
    limits = np.maximum(MAX_GAP, 3 * np.hypot(error, path["reverse_error"][:, -1]))
    table = table.assign(reverse=reverse, reverse_error=path["reverse_error"][:, -1], ess=path["ess"].min(1))
    split, least = int((np.abs(gap) - limits).argmax()), int(path["ess"].min(1).argmin())
    found += [
        Check.of("log Z k-hat", k_hat.max(), "at most", MAX_KHAT, advice=f"Trust neither log Z nor its error. {MORE}"),
        Check.of("AIS effective sample size", path["ess"][least].min(), "at least", MIN_ESS, advice=MORE,
                 info="particles, at the worst temperature"),
        Check.of("log Z forward-reverse gap", abs(gap[split]), "at most", float(f"{limits[split]:.3g}"),
                 info=f"from {value[split]:.3f} forward to {reverse[split]:.3f} backward",
                 advice=f"Forward and backward disagree: particles or chains miss a part of the density. {MORE}"),
    ]  # fmt: skip
    return found, {"normalizer": table}


def _of_chains(fit: Fit) -> Found:
    from ppl_gen.checks import ESS_PER_CHAIN, rhat_limit

    chains = np.asarray(fit.posterior["chain"], np.float64)
    number, kept = chains.shape[1:3]
    if number * kept < 8 or not np.ptp(chains, axis=(1, 2)).any(axis=-1).all():
        return [], {}
    table = of_columns(fit, chains)
    split, slow = table.iloc[table["r_hat"].argmax()], table.iloc[table["ess_bulk"].argmin()]
    advice = (
        "Chains go too seldom from one part of the density to another, so new rows weigh the parts by where the chains "
        "began: sample by fit.chains(sampler='tempered'), or raise thinning of fit.normalize(SMC(thinning=...))."
    )
    return [
        Check.of("model chains R-hat", split["r_hat"], "at most", rhat_limit(number, len(table), slow["ess_bulk"]),
                 info=f"{split['column']}, worst of {len(table)}; {number} chains x {kept} states", advice=advice),
        Check.of("model chains bulk ESS", slow["ess_bulk"], "at least", min(ESS_PER_CHAIN * number, number * kept / 2),
                 info=f"{slow['column']}, worst of {len(table)}", advice=advice),
    ], {"chains": table}  # fmt: skip
