"""ppl-gen latents, reconstruct, interpolate, impute, score-function: what is behind rows, and rows made from it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.using import deliver, several

MemberOption = Annotated[int, typer.Option(metavar="INT", help="Of an ensemble, whose latent space.")]


def latents(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of sequences: smoothing, filtering, viterbi or draws of the path; of codes: guide, importance or "
            "draws.",
            show_default="smoothing, or guide",
        ),
    ] = None,
    num_draws: Annotated[int, typer.Option(metavar="INT", help="Of --method draws: how many paths or codes.")] = 100,
    member: Annotated[
        int | None, typer.Option(metavar="INT", help="Of codes of an ensemble: whose.", show_default="0")
    ] = None,
    seed: o.SeedOption = 0,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """What is hidden behind each row, such as its component: probabilities, the likeliest value and how sure it is. Of
    an autoencoder the row's code: mean and standard deviation of each dimension.

    [bold]Examples[/bold]

    [cyan]ppl-gen latents runs/iris[/cyan]\n
    [cyan]ppl-gen latents runs/iris new.csv -o components.csv[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("inferring latents"):
        rows = o.read_rows(fit, table, drop)
        frame = fit.latents(rows, method=method, num_draws=num_draws, seed=seed, member=member)
    what = several(len(frame), "time step" if fit.family.sequences else "row")
    deliver(frame, path, overwrite, as_json, run, f"Latents of {what}")


def reconstruct(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    member: MemberOption = 0,
    output: o.ArrayOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Each row, or image, as an autoencoder decodes it from its code.

    [bold]Examples[/bold]

    [cyan]ppl-gen reconstruct runs/digits new.npz -o reconstructed.npz[/cyan]\n
    [cyan]ppl-gen reconstruct runs/patients --json[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite, images=True)
    fit = o.load_fit(run, backend)
    o.refuse_array(fit, path, output)
    with report.working("reconstructing"):
        frame = fit.reconstruct(o.read_rows(fit, table, drop), member=member)
    _deliver_rows(fit, frame, path, overwrite, as_json, run, "Reconstructions of")


def interpolate(
    run: o.RunArg,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Table or images to begin at.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="As many rows or images to end at.")],
    num_steps: Annotated[int, typer.Option("--num-steps", "-n", metavar="INT", help="Rows on each line.")] = 10,
    member: MemberOption = 0,
    output: o.ArrayOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Rows, or images, decoded along the line between the codes of two.

    [bold]Examples[/bold]

    [cyan]ppl-gen interpolate runs/digits three.npz eight.npz -n 12 -o between.npz[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite, images=True)
    fit = o.load_fit(run, backend)
    o.refuse_array(fit, path, output)
    with report.working("interpolating"):
        one, other = (o.read_rows(fit, table, None) for table in (first, second))
        frame = fit.interpolate(one, other, num_steps, member=member)
    _deliver_rows(fit, frame, path, overwrite, as_json, run, "From one row to another:")


def impute(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    num_draws: Annotated[int, typer.Option("--num-draws", "-n", metavar="INT", help="How many whole tables.")] = 10,
    seed: o.SeedOption = 0,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Missing entries drawn given the observed ones: whole tables one after the other, told apart by the column draw.

    [bold]Examples[/bold]

    [cyan]ppl-gen impute runs/patients patients.csv -n 20 -o imputed.csv[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite, images=True)
    fit = o.load_fit(run, backend)
    o.refuse_array(fit, path, output)
    with report.working("imputing"):
        frame = fit.impute(o.read_rows(fit, table, drop), num_draws=num_draws, seed=seed)
    deliver(frame, path, overwrite, as_json, run, f"{several(num_draws, 'table')}, missing entries drawn")


def score_function(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """The direction from each row to the data: the gradient of its log density, in nats per unit of each real column.

    [bold]Examples[/bold]

    [cyan]ppl-gen score-function runs/iris new.csv -o directions.csv[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("reconstructing"):
        frame = fit.score_function(o.read_rows(fit, table, drop))
    deliver(frame, path, overwrite, as_json, run, f"Score function of {several(len(frame), 'row')}")


def _deliver_rows(fit: Any, frame: Any, path: Any, overwrite: bool, as_json: bool, run: str, title: str) -> None:
    """Rows as a table, or images as an array where the file is one."""
    import pandas as pd

    from ppl_gen import report

    number = len(frame)
    if path is not None and o.is_array(path):
        o.write_images(frame, path, overwrite=overwrite)
        if as_json:
            report.emit_json({"run": run, "num_rows": number, "output": str(path)})
        else:
            report.say(f"{several(number, 'image')} in {path}", style="bold")
        return
    if fit.schema.image is not None:  # their pixels
        frame = pd.DataFrame(frame.reshape(number, -1), columns=list(fit.schema.names))
    deliver(frame, path, overwrite, as_json, run, f"{title} {several(number, fit.train.unit)}")


COMMANDS = (latents, reconstruct, interpolate, impute, score_function)
