"""ppl-gen zoo, fit, demo: from a table to a fit."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.wording import diagnosis_in_options

if TYPE_CHECKING:
    from ppl_gen.diagnostics import Diagnosis
    from ppl_gen.family import Family
    from ppl_gen.result import Fit


def zoo(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A family or engine: show its options.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the families and engines; with a name, its options and what they mean.

    [bold]Examples[/bold]

    [cyan]ppl-gen zoo[/cyan]\n
    [cyan]ppl-gen zoo gmm[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.cli import listing

    if as_json:
        report.emit_json(listing.as_json(name))
    else:
        listing.show(name)


def fit(
    table: o.TableArg,
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="Its name, such as gmm; see `ppl-gen zoo`.")],
    settings: o.SetOption = None,
    engine: o.EngineOption = None,
    engine_settings: o.EngineSetOption = None,
    backend: o.BackendOption = None,
    seed: o.SeedOption = 0,
    columns: o.ColumnsOption = None,
    drop: o.DropOption = None,
    kind: o.KindOption = None,
    weights: o.WeightsOption = None,
    sequence: o.SequenceOption = None,
    order: o.OrderOption = None,
    no_standardize: o.RawOption = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="RUN", help="Save here.", show_default="runs/TABLE-FAMILY"),
    ] = None,
    overwrite: o.OverwriteOption = False,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep the engine's state here; resume from it if it is there.")
    ] = None,
    keep_partial: Annotated[bool, typer.Option("--keep-partial", help="On Ctrl-C, save the draws so far.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Fit a family to a table, diagnose it and save it.

    [bold]Examples[/bold]

    [cyan]ppl-gen fit iris.csv gmm --set num_components=3 -o runs/iris[/cyan]\n
    [cyan]ppl-gen fit iris.csv gmm --drop Species --engine nuts --seed 1[/cyan]\n
    [cyan]ppl-gen fit iris.csv gmm --set prior.loc_scale=3 --engine em[/cyan]\n
    [cyan]ppl-gen fit iris.csv gmm --engine nuts --engine-set num_samples=1000[/cyan]
    """
    from ppl_gen.storage import check_output

    chosen = o.make_family(family, o.split_settings(settings))
    run_folder = str(Path("runs") / f"{Path(table).stem}-{chosen.name}") if output is None else output
    job = {
        "engine": o.make_engine(engine, o.split_settings(engine_settings), chosen), "backend": backend, "seed": seed,
        "checkpoint": checkpoint, "keep_partial": keep_partial,
        **o.data_options(columns, drop, kind, weights, no_standardize, sequence, order),
    }  # fmt: skip
    check_output(run_folder, overwrite=overwrite)
    _fit_and_show(chosen, table, job, run_folder, overwrite, as_json)


def _fit_and_show(
    family: Family, table: str, job: dict[str, Any], run_folder: str, overwrite: bool, as_json: bool
) -> None:
    from ppl_gen import report
    from ppl_gen.fit import fit as run
    from ppl_gen.progress import gentle_interrupt
    from ppl_gen.storage import save

    try:
        result = run(family, table, progress=sys.stderr.isatty(), **job)
        with gentle_interrupt() if job["keep_partial"] else contextlib.nullcontext() as interrupt:
            if result.draws.interrupted:
                raise KeyboardInterrupt(_save_partial(result, run_folder))
            with report.working("saving"):
                save(result, run_folder, overwrite=overwrite)
        if interrupt is not None and interrupt.requested:
            raise KeyboardInterrupt(f"the fit is complete, and saved in {run_folder}")
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(str(error) or _lost(job)) from None
    with report.working("diagnosing"):
        diagnosis = diagnosis_in_options(result.diagnose())
    if as_json:
        report.emit_json(_fit_json(result, diagnosis, run_folder))
    else:
        report.show_fit(result, diagnosis, run_folder, table)


def _save_partial(result: Fit, run_folder: str) -> str:
    """Save an interrupted fit, beside an older run rather than over it; returns what to tell."""
    from ppl_gen.storage import save

    target = Path(run_folder)
    number = 0
    while target.exists():
        number += 1
        target = Path(f"{run_folder}-partial" + (f"-{number}" if number > 1 else ""))
    save(result, target)
    draws = result.draws
    return f"what there was ({draws.num_chains} x {draws.num_draws} draws) is saved in {target}"


def _lost(job: dict[str, Any]) -> str:
    """What to tell when Ctrl-C leaves nothing to save."""
    if job["checkpoint"] is not None and Path(job["checkpoint"]).exists():
        return f"no fit was saved; the same command goes on from {job['checkpoint']}"
    if job["keep_partial"]:
        return "nothing was saved, since nothing had been drawn"
    return "nothing was saved (--keep-partial saves what has been drawn)"


def _fit_json(result: Fit, diagnosis: Diagnosis, run_folder: str) -> dict[str, Any]:
    return {
        "run": run_folder,
        "family": {"name": result.family.name, "options": result.family.to_config()},
        "engine": {"name": result.engine.name, "options": result.engine.to_config()},
        "backend": result.backend, "seed": result.seed, "reasons": list(result.reasons), "seconds": result.seconds,
        "uncertainty": result.uncertainty, "chains": result.draws.num_chains, "draws": result.draws.num_draws,
        "figures": dict(result.draws.figures), "summary": result.summary().reset_index(),
        "diagnosis": diagnosis.to_dict(),
    }  # fmt: skip


def demo(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Write here.")] = "runs/demo",
    seed: o.SeedOption = 0,
    as_json: o.JsonOption = False,
) -> None:
    """The whole path on an embedded table (iris): compare, fit, diagnose, score, sample, draw, save; under a minute.

    [bold]Example[/bold]

    [cyan]ppl-gen demo[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.demo import run

    if not as_json:
        run(output, seed=seed)
        return
    with contextlib.redirect_stdout(sys.stderr):
        result = run(output, seed=seed)
    report.emit_json(_fit_json(result, result.diagnose(), str(Path(output) / "fit")))


COMMANDS = (zoo, fit, demo)
