r"""The checks themselves: what each asks, its threshold, and where that comes from.

Each function takes a fit and gives ``(checks, details)``; it gives none where it does not apply. Those of sequences
are in ``checks_sequences``, those of ensembles of networks in ``checks_networks``.

=====================  ===========  ==================================================================================
check                  threshold    source
=====================  ===========  ==================================================================================
R-hat                  1.01         Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 (Bayesian Anal. 16), section 4;
                                    judged over many quantities: see :func:`rhat_limit`
bulk and tail ESS      100 a chain  Vehtari et al. 2021, section 4.2
MCSE / sd              0.1          Gelman et al. 2013, Bayesian Data Analysis, section 10.5: adds 0.5 % to the interval
divergences            0.1 %        Betancourt 2017 (arXiv:1701.02434), section 6.2: a few may be false positives
E-BFMI                 0.3          Betancourt 2016 (arXiv:1604.00695)
tree depth             1 %          Betancourt 2017, appendix A.3: costs time, not truth
step (SGLD)            10 %         of the variance: see ppl_gen.inference.sgld
guide k-hat            0.7          Yao, Vehtari, Simpson & Gelman 2018 (arXiv:1802.02538), section 2.1
LOO k-hat              5 % of rows  above min(1 - 1/log10 S, 0.7) of Vehtari et al. 2024 (JMLR 25), section 3.2.4
density k-hat          5 % of rows  above 0.7 (Vehtari et al. 2024), where log p(x) is an estimate
posterior predictive   p 0.01       Gelman et al. 2013, section 6.3; one p-value for all statistics: predictive.check
LOO-PIT                p 0.01       Gelman et al. 2013, section 6.3; Kolmogorov-Smirnov, Bonferroni over columns
=====================  ===========  ==================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import arviz_bridge as az
from ppl_gen import checks_sequences
from ppl_gen.diagnostics import Check, chain_statistics, elements
from ppl_gen.evidence import Evidence, posterior_khat
from ppl_gen.normalizer import is_normalized
from ppl_gen.scores import MAX_KHAT

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit

Found = tuple[list[Check], dict[str, "pd.DataFrame"]]

RHAT, ESS_PER_CHAIN, MCSE_OVER_SD = 1.01, 100, 0.1
STEP_EXCESS = 0.1  # of the variance; 5 % of an sd
DIVERGENT_SHARE, BFMI, DEEP_SHARE = 0.001, 0.3, 0.01
KHAT_SHARE = 0.05  # of the rows may have a k-hat above the limit; their densities are uncertain, the sum is not much
P_VALUE = 0.01
MIN_DRAWS = 4  # per chain, below which R-hat and ESS are not defined


def of_run(fit: Fit) -> Found:
    """Whether the engine got to its end, and to the same place from several starts."""
    figures, found = fit.draws.figures, []
    if fit.draws.interrupted:
        found.append(Check("finished", passed=False, info="interrupted before the end",
                           advice="Fit again and let it finish."))  # fmt: skip
    if "converged" in figures:
        of_ratio = "num_ratio_steps" in figures  # a game has no loss that falls; what is trained after it has
        steps = figures.get("num_iterations", figures.get("num_ratio_steps" if of_ratio else "num_steps"))
        converged = bool(figures["converged"])
        limit = "ratio_steps" if of_ratio else "max_iter" if fit.engine.name == "em" else "max_steps"
        what = "the log ratio, " if of_ratio else ""
        info = "" if steps is None else f"{what}after {steps:,.0f} steps"
        found.append(Check("converged", passed=converged, info=info,
                           advice="" if converged else f"Allow more: raise {limit}."))  # fmt: skip
    if "degenerate" in figures:
        bad = bool(figures["degenerate"])
        where, what = ("time steps", "states") if fit.family.sequences else ("rows", "components")
        some = int(figures.get("num_starts_degenerate", 0))
        found.append(Check(
            "not degenerate", passed=not bad,
            info=f"{some} of {int(figures['num_starts'])} starts were" if some else "",
            advice=f"The likelihood has run off to a spike on a few {where}: use fewer {what} or objective='map'."
            if bad else "",
        ))  # fmt: skip
    starts = int(figures.get("num_starts", 1))
    if "num_starts_agreeing" in figures and starts > 1:
        found.append(Check.of(
            "starts that agree", float(figures["num_starts_agreeing"]), "at least", min(2, starts),
            info=f"of {starts} reached the best objective",
            advice="Only one start found the best solution, so a better one may exist: raise num_starts.",
        ))  # fmt: skip
    return found, {}


def of_chains(fit: Fit) -> Found:
    """MCMC: whether the chains agree and have explored enough, for parameters and for log p(x)."""
    if fit.uncertainty != "posterior":
        return [], {}
    evidence = Evidence.of(fit)
    networks = hasattr(fit.engine, "num_pilot") and fit.pair.has_weights
    starts = "num_pilot" if networks else "num_starts"
    names, draws = elements(fit)
    probe_names, probes = evidence.probes
    found, details = [], {}
    for key, what, values, labels in (("parameters", "parameters", draws, names),
                                      ("log_prob", "log p(x)", probes, probe_names)):  # fmt: skip
        if values.shape[1] < MIN_DRAWS or not values.shape[2]:
            continue
        table = chain_statistics(values).set_axis(labels, axis=0)
        found += _mixing(what, table, values.shape[0], values.shape[1], starts)
        details[key] = table
    return found + _sampler(fit), details


def rhat_limit(num_chains: int, num_quantities: int, ess: float) -> float:
    r"""The R-hat that the worst of many quantities may have: 1.01, or what chance alone would give it.

    The means of m half chains, each of effective size N, differ by chance so that
    :math:`\hat R^2 \approx 1 + \chi^2_{m-1} / ((m - 1) N)` (Vats & Knudson 2021, Stat. Sci. 36). At the least ESS
    that passes here (100 a chain, N = 50) one quantity is then below 1.01 on average, but the worst of a hundred is
    not, however healthy the chains. So the limit is the Bonferroni 1 % point of this law where that is larger, at
    the effective size found and never below the least that passes. Nothing is missed by it: chains that disagree
    lower the ESS just as much.

    :param ess: the lowest effective size of the quantities.
    """
    from scipy.stats import chi2

    halves = 2 * num_chains
    size = max(np.nan_to_num(ess), ESS_PER_CHAIN * num_chains) / halves
    excess = chi2.isf(P_VALUE / max(num_quantities, 1), halves - 1) / ((halves - 1) * size)
    return max(RHAT, round(float(np.sqrt(1 + excess)), 3))


def _mixing(what: str, table: pd.DataFrame, chains: int, draws: int, starts: str) -> list[Check]:
    least = ESS_PER_CHAIN * chains
    worst = {name: _worst(table[name], largest=name == "r_hat") for name in ("r_hat", "ess_bulk", "ess_tail")}
    error = _worst(table["mcse_mean"] / table["sd"], largest=True)
    more = "Draw more: raise num_samples, and num_warmup if R-hat is high too."
    split = f"Chains disagree: raise num_warmup and {starts}, or simplify the model."
    over, limit = f"{worst['r_hat'][0]}, worst of {len(table)}", rhat_limit(chains, len(table), worst["ess_bulk"][1])
    return [
        Check.of(f"R-hat, {what}", worst["r_hat"][1], "at most", limit, info=over, advice=split),
        Check.of(f"bulk ESS, {what}", worst["ess_bulk"][1], "at least", least, info=worst["ess_bulk"][0], advice=more),
        Check.of(f"tail ESS, {what}", worst["ess_tail"][1], "at least", least, info=worst["ess_tail"][0], advice=more),
        Check.of(f"MCSE / sd, {what}", error[1], "at most", MCSE_OVER_SD, info=error[0], advice=more),
    ]


def _worst(column: pd.Series, largest: bool) -> tuple[str, float]:
    """The name and value of the worst entry; an undefined one is the worst of all."""
    if column.isna().any():
        return f"{column.index[column.isna()][0]}", float("nan")
    name = column.idxmax() if largest else column.idxmin()
    return str(name), float(column[name])


def _sampler(fit: Fit) -> list[Check]:
    stats, found = fit.draws.sample_stats, []
    if "diverging" in stats:
        number, total = int(np.sum(stats["diverging"])), np.size(stats["diverging"])
        found.append(Check.of(
            "divergences", number, "at most", int(DIVERGENT_SHARE * total), info=f"of {total:,} draws",
            advice="The sampler meets curvature too sharp for its step: raise target_accept to 0.95 or 0.99.",
        ))  # fmt: skip
    if "energy" in stats and fit.draws.num_draws >= MIN_DRAWS:
        found.append(Check.of(
            "E-BFMI", float(np.min(az.bfmi(stats["energy"]))), "at least", BFMI, info="lowest of the chains",
            advice="Momentum resampling explores the energy poorly: raise num_warmup, or make the priors tighter.",
        ))  # fmt: skip
    deepest = getattr(fit.engine, "max_tree_depth", None)
    if "tree_depth" in stats and deepest is not None:
        found.append(Check.of(
            "tree depth reached", float(np.mean(np.asarray(stats["tree_depth"]) >= deepest)), "at most", DEEP_SHARE,
            info=f"share of draws at max_tree_depth = {deepest}",
            advice="Trajectories are cut short, so draws are correlated: raise max_tree_depth or num_warmup.",
        ))  # fmt: skip
    excess = fit.draws.figures.get("variance_inflation")
    if excess is not None:
        found.append(Check.of(
            "variance added by the step", float(excess), "at most", STEP_EXCESS,
            info="share, in the stiffest direction; less elsewhere",
            advice="The step is too long for the posterior's curvature: lower step_size.",
        ))  # fmt: skip
    moved = fit.draws.figures.get("relabelled_fraction")
    if moved is not None:
        found.append(Check("draws relabelled", float(moved), info="share whose labels were switched, mended already"))
    return found


def of_guide(fit: Fit) -> Found:
    """SVI: whether the guide is near enough to the posterior for importance sampling to bridge the rest."""
    if fit.uncertainty != "guide" or fit.draws.log_weights is None:
        return [], {}
    log_weights = np.asarray(fit.draws.log_weights, np.float64)
    _, k = az.psis(log_weights) if (log_weights < np.inf).all() else (None, np.inf)
    return [Check.of(
        "guide k-hat", float(k), "at most", az.min_khat(len(log_weights)),
        info=f"of log p(x, theta) - log q(theta), {len(log_weights):,} guide draws",
        advice="The guide is far from the posterior: use guide='multivariate', or NUTS for intervals to rely on.",
    )], {}  # fmt: skip


def of_held_out(fit: Fit) -> Found:
    """Held-out density: PSIS-LOO for a posterior, validation rows of an ensemble, out-of-bag or refitted folds."""
    import pandas as pd

    if fit.pair.generate is not None:
        return [], {}
    evidence = Evidence.of(fit)
    if fit.pair.tempered is not None and not is_normalized(fit.posterior):
        return [], {}
    if not evidence.has_posterior:
        elpd = fit.held_out[np.isfinite(fit.held_out)]
        if not len(elpd):
            why = "too few sequences to leave one out: a comparison predicts the second half of each from the first"
            return [Check("held-out ELPD", info=why)], {}
        how = "5 folds refitted" if fit.draws.held_out is None else "out-of-bag"
        how = "validation rows" if fit.uncertainty == "ensemble" and fit.draws.held_out is not None else how
        return [_elpd(elpd, fit, how)], {"held_out": pd.DataFrame({"elpd": fit.held_out})}
    loo, khat = evidence.loo, posterior_khat(fit)
    if loo is None:
        return checks_sequences.left_future_out(fit)
    assert khat is not None
    unit = fit.train.unit
    rows = f"{unit}s" if khat.rows == len(fit.train) else f"random {unit}s"
    found = [
        Check.of(
            "LOO k-hat", khat.above / khat.rows, "at most", KHAT_SHARE,
            info=f"{khat.above} of {khat.rows:,} {rows} above {khat.limit:.2g}; highest {np.max(loo.k):.2f}",
            advice=f"Leaving out single {unit}s changes the fit too much for PSIS-LOO: compare by folds instead, "
            f"and look at those {unit}s (details['loo']).",
        ),
        _elpd(loo.elpd, fit, f"PSIS-LOO, p_loo {np.sum(loo.p) * len(fit.train) / len(loo.p):.1f}"),
    ]  # fmt: skip
    table = pd.DataFrame({unit: evidence.rows, "elpd": loo.elpd, "k_hat": loo.k, "p_loo": loo.p})
    return found, {"loo": table}


def _elpd(pointwise: np.ndarray, fit: Fit, how: str) -> Check:
    number, one = len(fit.train), fit.train.a_unit
    total, error = pointwise.mean() * number, np.sqrt(number) * pointwise.std(ddof=1) if len(pointwise) > 1 else np.nan
    return Check("held-out ELPD", float(total), info=f"± {error:.1f} nats, {total / number:.3f} {one} ({how})")


def of_density(fit: Fit) -> Found:
    """Where log p(x) is estimated by importance sampling: whether its weights allow it, and how sure it is."""
    import pandas as pd

    if not fit.pair.local or fit.pair.generate is not None:
        return [], {}
    score = Evidence.of(fit).score
    assert score.error is not None
    if score.k_hat is None:  # of a few particles there is no tail to judge
        info = f"standard error of log p(x), mean {fit.train.a_unit}; the greatest {score.error.max(initial=0.0):.2g}"
        return [Check("density error", float(score.error.mean()), info=info)], {}
    above = int(score.unreliable.sum())
    found = Check.of(
        "density k-hat", above / len(score), "at most", KHAT_SHARE,
        info=f"{above} of {len(score):,} rows above {MAX_KHAT:g}; Monte Carlo error a row {score.error.mean():.2g}",
        advice=f"The guide proposes latents too far from where they are: {fit.family.guide_advice}.",
    )  # fmt: skip
    table = {"row": Evidence.of(fit).rows, "log_prob_error": score.error, "elbo": score.elbo, "k_hat": score.k_hat}
    return [found], {"density": pd.DataFrame(table)}


def of_predictions(fit: Fit) -> Found:
    """Whether tables drawn from the fit look like the table that it was fitted to."""
    import pandas as pd

    from ppl_gen import images, metrics, predictive

    evidence = Evidence.of(fit)
    columns = images.named(fit.schema)
    replicates = evidence.replicates.reshape(-1, *evidence.observed.shape)
    ppc = predictive.check(evidence.observed, replicates, columns, evidence.entry_weights)
    worst = ppc.table.iloc[0]
    richer = "more states or another emission" if fit.family.sequences else "a richer family or more components"
    if fit.pair.has_weights:
        richer = "wider hidden layers, more steps or another family"
    found = [Check.of(
        "posterior predictive p", ppc.p_value, "at least", P_VALUE,
        info=f"furthest out of {len(ppc.table)}: {worst['statistic']}",
        advice=f"The fit does not reproduce the {worst['statistic']}: use {richer}.",
    )]  # fmt: skip
    if fit.train.lengths is not None:
        return checks_sequences.with_residuals(fit, found, {"predictive": ppc.table})
    pit = predictive.pit(evidence.observed, replicates, _pit_weights(evidence), fit.seed)
    tests = [metrics.uniformity(pit[:, j]) for j in range(len(columns))]
    low = int(np.argmin([test.p_value for test in tests]))
    found.append(Check.of(
        "LOO-PIT p" if evidence.has_posterior else "PIT p", tests[low].p_value, "at least", P_VALUE / len(columns),
        info=f"lowest of {len(columns)}: {columns[low].name}",
        advice=f"The predicted distribution of {columns[low].name} is not the observed one: "
        f"use {richer}.",
    ))  # fmt: skip
    return found, {"predictive": ppc.table, "pit": pd.DataFrame(pit, columns=[c.name for c in columns])}


def _pit_weights(evidence: Evidence) -> np.ndarray | None:
    """(rows, replicates) leave-one-out weights of the draws that the replicates come from."""
    if evidence.loo is None:
        return None
    log_weights = evidence.loo.log_weights[:, evidence.flat_draws]
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)
