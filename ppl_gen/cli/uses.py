"""ppl-gen predict: what a fit is put to use for."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.using import deliver, several


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


COMMANDS = (predict,)
