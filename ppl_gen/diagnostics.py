"""Whether to believe a fit: every check with its figure, its threshold, a verdict, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from ppl_gen.result import Fit


@dataclasses.dataclass(frozen=True)
class Check:
    """One question put to a fit.

    ``passed`` is None where there is nothing to pass: the line informs. ``rule`` says which side of the threshold is
    good: ``"at most"`` or ``"at least"``. ``advice`` is one sentence, empty unless the check failed.
    """

    name: str
    figure: float | None = None
    threshold: float | None = None
    passed: bool | None = None
    info: str = ""
    advice: str = ""
    rule: str = "at most"

    @classmethod
    def of(cls, name: str, figure: float, rule: str, threshold: float, *, info: str = "", advice: str = "") -> Check:
        """The check that ``figure`` is ``rule`` (at most, at least) ``threshold``; a figure that is NaN fails."""
        passed = bool(figure <= threshold if rule == "at most" else figure >= threshold)
        return cls(name, float(figure), threshold, passed, info, "" if passed else advice, rule)

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: "info"}[self.passed]

    @property
    def limit(self) -> str:
        """The threshold in words: ``<= 1.01``."""
        if self.threshold is None:
            return ""
        return f"{'<=' if self.rule == 'at most' else '>='} {format_figure(self.threshold)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a figure that is not finite becomes text, since JSON has no such number."""
        values = dataclasses.asdict(self)
        figure = self.figure
        return values | {"figure": figure if figure is None or np.isfinite(figure) else str(figure)}


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """The checks of one fit, with a verdict. Printing it shows the table.

    ``details`` holds what the figures were taken from, as DataFrames: ``parameters`` and ``log_prob`` (R-hat, ESS and
    MCSE of each quantity), ``loo`` or ``held_out`` (each row's held-out density, with its k-hat), ``density`` (the
    error and k-hat of each row's, where it is estimated), ``members`` (of an ensemble, each row's under the members
    that trained on it and those that did not), ``calibration`` (held-out rows as uniform numbers, a column each),
    ``latents`` (of codes, each dimension of each member), ``walk`` (of a walk-back chain, each column of each member),
    ``normalizer`` and ``chains`` (of an unnormalised density, each member's log Z, and each column of its chains),
    ``modes``, ``generators``, ``course`` and ``bracket`` (of an implicit density, clusters of the rows and the samples
    in them, each member's samples, those of the course of training, and bounds of simulated rows), ``noise_levels``
    (of a diffusion model, the loss, and the calibration of the denoiser, in each part of time),
    ``predictive`` (each statistic observed and replicated), ``pit`` (a column each). Only those that apply are there.
    """

    title: str
    checks: tuple[Check, ...]
    details: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def verdict(self) -> str:
        """One line: all well, or what failed."""
        judged = sum(check.passed is not None for check in self.checks)
        if self.passed:
            return f"PASS: all {judged} checks passed."
        return f"FAIL: {len(self.failed)} of {judged} checks failed: {'; '.join(c.name for c in self.failed)}."

    def __getitem__(self, name: str) -> Check:
        """The check of this name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are: {', '.join(check.name for check in self.checks)}")

    def to_frame(self) -> pd.DataFrame:
        """A row per check: check, figure, threshold, verdict, info, advice."""
        import pandas as pd

        rows = [(c.name, c.figure, c.limit, c.verdict, c.info, c.advice) for c in self.checks]
        return pd.DataFrame(rows, columns=["check", "figure", "threshold", "verdict", "info", "advice"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: title, verdict, passed and the checks."""
        checks = [check.to_dict() | {"verdict": check.verdict} for check in self.checks]
        return {"title": self.title, "verdict": self.verdict, "passed": self.passed, "checks": checks}

    def __str__(self) -> str:
        rows = [("", "check", "figure", "limit", "")]
        rows += [(c.verdict, c.name, format_figure(c.figure), c.limit, c.info) for c in self.checks]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]),
                       row[3].ljust(widths[3]), row[4])).rstrip() for row in rows
        ]  # fmt: skip
        advice = [f"  {check.name}: {check.advice}" for check in self.failed]
        return "\n".join([self.title, *lines, self.verdict, *advice])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left", title_style="bold", header_style="dim", box=None)
        table.add_column("")
        table.add_column("check")
        table.add_column("figure", justify="right")
        table.add_column("limit")
        table.add_column("", style="dim", ratio=1)
        style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("·", "dim")}
        for check in self.checks:
            mark, colour = style[check.passed]
            figure = Text(format_figure(check.figure), style=colour)
            limit = Text(check.limit, style="dim")
            table.add_row(Text(mark, style=colour), check.name, figure, limit, Text(check.info))
        verdict = Text(self.verdict, style="bold green" if self.passed else "bold red")
        advice = [Text(f"→ {check.name}: {check.advice}", style="yellow") for check in self.failed]
        return Group(table, Text(), verdict, *advice)


def format_figure(value: float | None) -> str:
    """Four significant digits, and no exponent where none is needed."""
    if value is None:
        return ""
    if not np.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def diagnose(fit: Fit) -> Diagnosis:
    """Put every check that applies to this kind of fit; :mod:`ppl_gen.checks` says what each is and where from."""
    from ppl_gen import (
        checks,
        checks_contrastive,
        checks_diffusion,
        checks_energies,
        checks_implicit,
        checks_latents,
        checks_networks,
        checks_surrogates,
        denoising,
    )

    found: list[Check] = []
    details: dict[str, pd.DataFrame] = {}
    for part in (checks.of_run, checks.of_chains, checks.of_guide, checks.of_held_out, checks.of_density,
                 checks_networks.of_networks, checks_latents.of_latents, denoising.of_walk,
                 checks_energies.of_energies, checks_contrastive.of_contrasts, checks_implicit.of_implicit,
                 checks_surrogates.of_bracket, checks_diffusion.of_diffusion,
                 checks.of_predictions):  # fmt: skip
        new, tables = part(fit)
        found += new
        details |= tables
    engine = f"{fit.engine.name} in {fit.backend}"
    chains, number = fit.draws.num_chains, f"{fit.draws.num_draws:,}"
    draws = {"posterior": f"{chains} chains x {number} draws", "guide": f"{number} draws from the guide",
             "bootstrap": f"{number} {fit.draws.refits}",
             "ensemble": f"{chains} member{'s' * (chains != 1)}"}.get(fit.uncertainty, "a point estimate")  # fmt: skip
    return Diagnosis(f"{fit.family.name} by {engine}, {fit.train.describe()}, {draws}", tuple(found), details)


def elements(fit: Fit) -> tuple[list[str], np.ndarray]:
    """Every scalar parameter of the posterior in original units: names such as ``locs[0, sepal length]``, and draws
    (chain, draw, number). Entries that the model holds constant (the diagonal of a correlation matrix) are left out,
    and of a matrix of columns by columns, which is symmetric, the upper half."""
    posterior = fit.family.to_original(fit.draws.posterior, fit.schema)
    dims = fit.family.site_dims()
    names: list[str] = []
    parts: list[np.ndarray] = []
    for site, values in posterior.items():
        shape = values.shape[2:]
        axes = dims.get(site, ("",) * len(shape))
        labels = [fit.schema.axis_names(axis) or range(n) for axis, n in zip(axes, shape, strict=True)]
        pair = [a for a, axis in enumerate(axes) if axis in ("column", "column_other")]
        kept = [at for at in np.ndindex(*shape) if len(pair) < 2 or at[pair[0]] >= at[pair[1]]]
        for index in kept:
            names.append(f"{site}[{', '.join(str(labels[a][i]) for a, i in enumerate(index))}]" if shape else site)
        parts.append(np.stack([np.asarray(values[(..., *index)], np.float64) for index in kept], axis=-1))
    if not parts:  # a family whose parameters have no meaning of their own, such as a network's weights
        return [], np.empty((fit.draws.num_chains, fit.draws.num_draws, 0))
    draws = np.concatenate(parts, axis=2)
    # An entry that is constant but for rounding (a correlation of a column with itself) is no parameter.
    rounding = 2 * np.finfo(np.float32).eps * np.abs(draws).max((0, 1))
    varies = np.ptp(draws, axis=(0, 1)) > rounding if draws.shape[0] * draws.shape[1] > 1 else np.ones(len(names), bool)
    return [name for name, keep in zip(names, varies, strict=True) if keep], draws[:, :, varies]


def chain_statistics(draws: np.ndarray) -> pd.DataFrame:
    """mean, sd, mcse_mean, ess_bulk, ess_tail and r_hat of each quantity in (chain, draw, number)."""
    import pandas as pd

    from ppl_gen import arviz_bridge as az

    return pd.DataFrame({
        "mean": draws.mean((0, 1)), "sd": draws.std((0, 1), ddof=1), "mcse_mean": az.mcse(draws),
        "ess_bulk": az.ess(draws, "bulk"), "ess_tail": az.ess(draws, "tail"), "r_hat": az.rhat(draws),
    })  # fmt: skip


def summary(fit: Fit, hdi_prob: float = 0.9) -> pd.DataFrame:
    """A row per scalar parameter, labels aligned, in original units where that has a meaning.

    Columns: ``mean``, ``sd``, ``hdi_low``, ``hdi_high``; after MCMC also ``mcse_mean``, ``ess_bulk``, ``ess_tail`` and
    ``r_hat`` (independent draws from a guide or a bootstrap have no use for them); where there is a point estimate it
    comes first, as ``estimate``, and is all that there is without a bootstrap.

    :raises SettingError: ``hdi_prob`` is not between 0 and 1.
    """
    import pandas as pd

    from ppl_gen import arviz_bridge as az
    from ppl_gen.errors import SettingError

    if not 0 < hdi_prob < 1:
        raise SettingError(f"hdi_prob must be between 0 and 1, not {hdi_prob!r}.")
    names, draws = elements(fit)
    frame = pd.DataFrame(index=pd.Index(names, name="parameter"))
    if fit.draws.point is not None:
        frame["estimate"] = _point_elements(fit).reindex(names)
    if draws.shape[0] * draws.shape[1] == 1:
        return frame if "estimate" in frame else frame.assign(estimate=draws[0, 0])
    interval = az.hdi(draws, hdi_prob)
    frame = frame.assign(mean=draws.mean((0, 1)), sd=draws.std((0, 1), ddof=1), hdi_low=interval[:, 0],
                         hdi_high=interval[:, 1])  # fmt: skip
    if fit.uncertainty == "posterior":
        chains = chain_statistics(draws)[["mcse_mean", "ess_bulk", "ess_tail", "r_hat"]]
        frame = frame.assign(**{name: chains[name].to_numpy() for name in chains})
    return frame


def _point_elements(fit: Fit) -> pd.Series:
    import pandas as pd

    assert fit.draws.point is not None
    as_draw = {name: np.asarray(value)[None, None] for name, value in fit.draws.point.items()}
    alone = dataclasses.replace(fit, draws=dataclasses.replace(fit.draws, posterior=as_draw))
    names, values = elements(alone)
    return pd.Series(values[0, 0], index=names)
