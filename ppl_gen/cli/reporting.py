"""ppl-gen report: one HTML file on fits, or on a comparison."""

from __future__ import annotations

from typing import Annotated

import typer

from ppl_gen.cli import options as o


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Folders of saved fits, or the folder of one comparison.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Write to this .html file.")] = (
        "report.html"
    ),
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the web browser.")] = False,
    overwrite: o.OverwriteOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Write one HTML file that a reader needs no tools for: what was asked, the data, the ranking, and for each fit its
    model as a graph, the diagnosis with advice, pictures, samples beside the data, intervals, and what to do next.

    The file loads nothing and has no scripts. Several fits of the same rows are ranked by held-out log density.

    [bold]Examples[/bold]

    [cyan]ppl-gen report runs/iris -o iris.html[/cyan]\n
    [cyan]ppl-gen report runs/iris runs/iris-flow -o both.html --open[/cyan]\n
    [cyan]ppl-gen report runs/iris-compare --overwrite --json[/cyan]
    """
    from ppl_gen import report as console
    from ppl_gen.html import report as write

    with console.working("writing the report"):
        path = write(runs, output, overwrite=overwrite)
    if as_json:
        console.emit_json({"runs": runs, "report": str(path), "bytes": path.stat().st_size})
    else:
        console.say(f"Report in {path} ({path.stat().st_size / 1e6:.1f} MB)", style="bold")
    if open_it:
        typer.launch(path.as_uri())


COMMANDS = (report,)
