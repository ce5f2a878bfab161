"""ppl-gen diagnose, score, plot: what a saved fit is good for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.wording import diagnosis_in_options

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # rows of a long table that is only looked at


def diagnose(
    run: o.RunArg,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if a check fails.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Show the parameters as well.")] = False,
    bracket: Annotated[
        bool, typer.Option("--bracket", help="Of a generator, also how far its scores are off; takes as long as those.")
    ] = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> int:
    """Say whether to believe a fit: each check with its figure, its threshold and what to do about it.

    [bold]Examples[/bold]

    [cyan]ppl-gen diagnose runs/iris[/cyan]\n
    [cyan]ppl-gen diagnose runs/iris --strict --json[/cyan]
    """
    from ppl_gen import report

    fit = o.load_fit(run, backend)
    with report.working("diagnosing"):
        if bracket:
            fit.bracket()
        diagnosis = diagnosis_in_options(fit.diagnose())
    if as_json:
        document = diagnosis.to_dict()
        report.emit_json(document | {"summary": fit.summary().reset_index()} if summary else document)
    else:
        if summary:
            report.show_parameters(fit, limit=1000)
        report.show(diagnosis)
    return int(strict and not diagnosis.passed)


def score(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    hdi_prob: o.HdiOption = 0.9,
    per_step: Annotated[
        bool, typer.Option("--per-step", help="Of sequences: each time step, given the steps before it.")
    ] = False,
    num_particles: Annotated[
        int | None,
        typer.Option(
            metavar="INT",
            help="Where the density is estimated: particles of each row.",
            show_default="64; of diffusion models 16",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="Of diffusion models: flow, bound (of the chain), or auto."),
    ] = "auto",
    surrogate: o.SurrogateOption = None,
    surrogate_settings: o.SurrogateSetOption = None,
    seed: o.SeedOption = 0,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Log density of each row (nats, original units), with its interval and its anomaly p-value.

    Columns: row, log_prob, log_prob_sd, hdi_low, hdi_high, anomaly_p_value, kind. The p-value is the row's rank among
    the densities of training rows that were held out (conformal): 0.01 is as rare as one training row in a hundred.
    Where the density is estimated by importance sampling also log_prob_error (Monte Carlo), elbo and k_hat; of a
    continuous flow log_prob_error (solver), of a diffusion model also elbo and elbo_error. A family without a density,
    such as gan, has a surrogate of it, named in a column, and no p-value.

    [bold]Examples[/bold]

    [cyan]ppl-gen score runs/iris new.csv -o scores.csv[/cyan]\n
    [cyan]ppl-gen score runs/faces new.npz --surrogate ais --surrogate-set num_temperatures=1000[/cyan]\n
    [cyan]ppl-gen score runs/iris new.parquet -o scores.parquet --hdi-prob 0.95[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("scoring"):
        rows = o.read_rows(fit, table, drop)
        found = fit.score(rows, hdi_prob=hdi_prob, keep_draws=False, per_step=per_step, num_particles=num_particles,
                          method=method, seed=seed,
                          surrogate=o.make_surrogate(surrogate, surrogate_settings))  # fmt: skip
    frame = found.to_frame()
    what = several(len(found), "time step" if per_step else fit.train.unit)
    if path is not None:
        o.write_table(frame, path, overwrite=overwrite)
    measures = {"bits_per_dim": found.bits_per_dim, "perplexity": found.perplexity}
    measures = {name: value for name, value in measures.items() if value == value}  # perplexity of real columns is NaN
    named = {} if found.surrogate is None else {"surrogate": found.surrogate}
    if as_json:
        extra = {"output": str(path)} if path else {"rows": frame}
        report.emit_json({"run": run, "num_rows": len(found), "total": found.total, "kind": found.kind, **named,
                          "uncertainty": found.uncertainty, "hdi_prob": hdi_prob, **measures, **extra})  # fmt: skip
        return
    if path is None:
        kind = "".join((found.kind, *(f" ({name})" for name in named.values())))
        title = f"{what}, {kind} {'log density (nats, original units)' if found.is_density else 'log ratio (nats)'}"
        report.table(frame.drop(columns=["kind", "surrogate"], errors="ignore"), limit=SHOWN, title=title)
    more = "".join(f"; {name.replace('_', ' ')} {value:.4g}" for name, value in measures.items())
    name = "log_prob" if found.is_density else "log_ratio"
    report.say(f"mean {name} {found.total / len(found):.4f} nats over {what}{more}")
    if found.elbo is not None and found.elbo_error is not None:
        report.say(f"variational bound {found.elbo.mean():.4f} nats on average, standard error of a row "
                   f"{found.elbo_error.mean():.2g}")  # fmt: skip
    elif found.error is not None and found.elbo is not None:
        report.say(
            f"Monte Carlo error of a row {found.error.mean():.2g} on average, {found.error.max():.2g} at most; mean "
            f"elbo {found.elbo.mean():.4f} nats"
        )
    if not found.normalized:
        report.say("log Z is not known: only differences of log_prob between rows mean anything")
    elif found.kind == "unnormalised" and found.error is not None and len(found):
        report.say(f"log Z is known to {found.error.max():.2g} nats (standard error), the same in every row")
    if found.unreliable.any():
        from ppl_gen.scores import MAX_KHAT

        number = f"{found.unreliable.sum():,} of {what}"
        advice = {"unnormalised": "normalise with more", "implicit": "use --surrogate-set num_temperatures=1000"}
        how = advice.get(found.kind, "raise --num-particles")
        report.say(f"k_hat above {MAX_KHAT:g} in {number}: do not trust their log_prob, or {how}")
    if found.p_value is not None and (not fit.family.sequences or (found.p_value > 0).any()):
        report.show_anomalies(frame, what="sequences" if fit.family.sequences else "rows")
    say_where(path, len(frame), "score")


def plot(
    run: o.RunArg,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write here.", show_default="RUN/plots")
    ] = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", metavar="KIND", help="Only this picture; repeat.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Draw the pictures of a fit as .png files: chains, components, codes, predictive checks, densities.

    [bold]Examples[/bold]

    [cyan]ppl-gen plot runs/iris[/cyan]\n
    [cyan]ppl-gen plot runs/iris --kind trace --kind pairs -o pictures[/cyan]
    """
    from pathlib import Path

    from ppl_gen import report
    from ppl_gen.plots import plot_all
    from ppl_gen.storage import PLOTS

    fit = o.load_fit(run)
    with report.working("drawing"):
        paths = plot_all(fit, Path(run) / PLOTS if output is None else output, kinds=kind)
    if as_json:
        report.emit_json({"run": run, "pictures": [str(path) for path in paths]})
    else:
        for path in paths:
            report.say(str(path))


def deliver(frame: pd.DataFrame, path: Any, overwrite: bool, as_json: bool, run: str, title: str) -> None:
    """A table to a file, to the screen, or as JSON."""
    from ppl_gen import report

    if path is not None:
        o.write_table(frame, path, overwrite=overwrite)
    if as_json:
        extra = {"output": str(path)} if path else {"rows": frame}
        report.emit_json({"run": run, "num_rows": len(frame), **extra})
    elif path is None:
        report.table(frame, title=title, limit=SHOWN)
    say_where(None if as_json else path, len(frame), "row")


def several(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def say_where(path: Any, number: int, what: str) -> None:
    """That so many rows were written."""
    from ppl_gen import report

    if path is not None:
        report.say(f"{several(number, what)} in {path}", style="bold")


COMMANDS = (diagnose, score, plot)
