"""ppl-gen anomalies, predict, synthesize, transform: what a fit is put to use for."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.using import SHOWN, deliver, say_where, several


def predict(
    run: o.RunArg,
    table: o.RowsArg = None,
    *,
    column: Annotated[
        str, typer.Option("--column", "-c", metavar="NAME", help="The column of labels: binary or categorical.")
    ],
    drop: o.DropOption = None,
    seed: o.SeedOption = 0,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """The likeliest label of each row given its other columns, by Bayes' rule over the fit's density.

    Columns: row, the label, its probability, the share of draws (or members) that agree, and for each label its
    probability and the standard deviation of that over the draws. The table may lack the column; what it holds there
    is not looked at.

    [bold]Examples[/bold]

    [cyan]ppl-gen predict runs/patients new.csv --column diagnosis -o labels.csv[/cyan]\n
    [cyan]ppl-gen predict runs/patients --column diagnosis --json[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.prediction import position, without

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("telling labels"):
        rows = without(fit, table, position(fit, column), o.split_names(drop))
        frame = fit.predict(rows, column, seed=seed)
    deliver(frame, path, overwrite, as_json, run, f"Labels of {several(len(frame), 'row')}: {column}")


def anomalies(
    run: o.RunArg,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="New rows.")],
    fdr: Annotated[
        float, typer.Option("--fdr", metavar="P", help="Share of normal rows among those called, on average, at most.")
    ] = 0.1,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Normal rows that the fit has not seen.", show_default="training rows, left out"
        ),
    ] = None,
    drop: o.DropOption = None,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Which rows are anomalies, such that the share of false calls is bounded (the false discovery rate).

    Columns: row, log_prob, anomaly_p_value (the rank of the row's density among rows that the fit did not see),
    adjusted_p_value (the lowest rate at which the row is called), is_anomaly.

    [bold]Examples[/bold]

    [cyan]ppl-gen anomalies runs/machines new.csv --fdr 0.1 -o anomalies.csv[/cyan]\n
    [cyan]ppl-gen anomalies runs/machines new.csv --calibration normal.csv --json[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("scoring"):
        rows, known = o.read_rows(fit, table, drop), o.read_rows(fit, calibration, None)
        frame = fit.anomalies(rows, false_discovery_rate=fdr, calibration=known)
    called, unit = frame[frame["is_anomaly"]].sort_values("anomaly_p_value"), fit.train.unit
    if path is not None:
        o.write_table(frame, path, overwrite=overwrite)
    if as_json:
        extra = {"output": str(path)} if path else {"rows": frame}
        report.emit_json({"run": run, "num_rows": len(frame), "num_anomalies": len(called),
                          "false_discovery_rate": fdr, **frame.attrs, **extra})  # fmt: skip
        return
    report.say(f"{len(called):,} of {several(len(frame), unit)} called, at a false discovery rate of {fdr:g}")
    if len(called):
        report.table(called.drop(columns="is_anomaly"), limit=SHOWN, title="Anomalies, the clearest first")
    ranked, needed = frame.attrs["num_ranked_among"], frame.attrs["rows_needed"]
    report.note(f"Ranked among {several(ranked, unit)}: the lowest p-value is {1 / (ranked + 1):.2g}, and {needed:,} "
                f"with it are needed before any is called.")  # fmt: skip
    say_where(path, len(frame), unit)


def synthesize(
    run: o.RunArg,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", metavar="INT", help="Rows.")] = 1000,
    holdout: Annotated[
        str | None, typer.Option(metavar="FILE", help="Real rows that the fit has not seen, to judge by.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column that a model is to learn from the rows.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if a check fails.")] = False,
    seed: o.SeedOption = 0,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> int:
    """New rows to stand for the training table, and whether they can: what a model learns from them, how like real rows
    they are, and whether they give training rows away. Without --holdout nothing is shown of the first and the last.

    [bold]Examples[/bold]

    [cyan]ppl-gen synthesize runs/patients -n 5000 --holdout test.csv --target diagnosis -o synthetic.csv[/cyan]\n
    [cyan]ppl-gen synthesize runs/patients --holdout test.csv --strict --json[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.cli.wording import diagnosis_in_options

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("drawing and judging"):
        known = o.read_rows(fit, holdout, None)
        found = fit.synthesize(num_samples, holdout=known, target=target, seed=seed)
    judged = diagnosis_in_options(found.report)
    if path is not None:
        o.write_table(found.table, path, overwrite=overwrite)
    if as_json:
        extra = {"output": str(path)} if path else {"rows": found.table}
        report.emit_json({"run": run, "num_rows": num_samples, **judged.to_dict(), **extra})
    else:
        report.show(judged)
        say_where(path, num_samples, "row")
    return int(strict and not judged.passed)


def transform(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    member: Annotated[
        int | None, typer.Option(metavar="INT", help="Of codes of an ensemble: whose.", show_default="0")
    ] = None,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Each row as numbers that stand for it, for another program to learn from: the means of its codes, the probability
    of each hidden unit, or those of the components.

    [bold]Examples[/bold]

    [cyan]ppl-gen transform runs/patients new.csv -o features.csv[/cyan]\n
    [cyan]ppl-gen transform runs/patients -o features.parquet[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("inferring latents"):
        frame = fit.transform(o.read_rows(fit, table, drop), member=member)
    deliver(frame, path, overwrite, as_json, run, f"Features of {several(len(frame), 'row')}")


COMMANDS = (anomalies, predict, synthesize, transform)
