"""ppl-gen compare: which model predicts a table best."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_gen.cli import options as o


def compare(
    table: o.TableArg,
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC]", help="'FAMILY name=value ...', any number.", show_default="all that suit"),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="INT",
            help="Refits per model; each part is scored unseen.",
            show_default="5; without SPEC above 500 rows a fifth is held out",
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="TABLE", help="Score this table instead of folds.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Of the whole: 5m, 90s, 1h or seconds.", show_default="5m")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="INT", help="Processes.", show_default="one a core")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of all processes: 8G or 500M.", show_default="70 % of what is free"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Keep all here, and resume from it.",
            show_default="without SPEC runs/TABLE-compare",
        ),
    ] = None,
    overwrite: o.OverwriteOption = False,
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
    surrogate: o.SurrogateOption = None,
    surrogate_settings: o.SurrogateSetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Rank models by the log density of rows that they have not seen (ELPD), with the error of each difference.

    Without SPEC, every family that suits the table is tried within the budget, and the fits are kept. The same command
    goes on where it was interrupted. A spec is a family with its options; engine=, engine.NAME= and backend= in it
    overrule the command's.

    [bold]Examples[/bold]

    [cyan]ppl-gen compare iris.csv[/cyan]\n
    [cyan]ppl-gen compare wine.csv --budget 10m --jobs 4 -o runs/wine[/cyan]\n
    [cyan]ppl-gen compare iris.csv "gmm num_components=2" "gmm num_components=3"[/cyan]\n
    [cyan]ppl-gen compare iris.csv gmm "gmm covariance=tied" --engine em --test new.csv[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.compare import compare as run

    limits = {"budget": budget, "n_jobs": jobs, "memory": memory, "folder": output, "overwrite": overwrite}
    job = {
        "folds": folds, "test": test, "seed": seed, "progress": sys.stderr.isatty(),
        "surrogate": o.make_surrogate(surrogate, surrogate_settings), **limits,
        **o.data_options(columns, drop, kind, weights, no_standardize, sequence, order),
    }  # fmt: skip
    parsed = o.parse_specs(specs or [])
    if parsed:
        default = o.make_engine(engine, o.split_settings(engine_settings), parsed[0].family)
        job |= {"engine": {spec.text: spec.engine or default for spec in parsed},
                "backend": {spec.text: spec.backend or backend for spec in parsed}}  # fmt: skip
        found = run({spec.text: spec.family for spec in parsed}, table, **job)
    else:
        _refuse_without_specs(engine, engine_settings, backend)
        job["folder"] = output or str(Path("runs") / f"{Path(table).stem}-compare")
        found = _go_on(run, table, job)
    found = _in_options(found)
    if as_json:
        report.emit_json(found.to_dict())
        return
    report.show(found)
    if job["folder"] is not None:
        report.say()
        report.say(f"Kept in {job['folder']}", style="bold")
    if following := getattr(found, "next", None):
        report.try_next(following)
    elif parsed:
        words = _words(columns, drop, kind, weights, sequence, order, no_standardize)
        best = _as_options(found.best, engine, engine_settings, backend)
        report.try_next([(shlex.join(["ppl-gen", "fit", table, *best, *words]), "fit the best one")])


def _in_options(found: Any) -> Any:
    """The comparison with its advice in options of the command line."""
    from ppl_gen.cli.wording import in_options

    changes: dict[str, Any] = {"warnings": tuple(map(in_options, found.warnings))}
    if hasattr(found, "left_out"):
        out = [dataclasses.replace(each, why=in_options(each.why)) for each in found.left_out]
        changes["left_out"] = tuple(out)
    return dataclasses.replace(found, **changes)


def _go_on(run: Any, table: str, job: dict[str, Any]) -> Any:
    try:
        return run(None, table, **job)
    except KeyboardInterrupt as error:
        told = str(error) or f"models that are done are kept in {job['folder']}; the same command goes on from there"
        raise KeyboardInterrupt(told) from None


def _refuse_without_specs(engine: str | None, engine_settings: list[str] | None, backend: str | None) -> None:
    from ppl_gen.errors import SettingError

    if engine is not None or engine_settings or backend is not None:
        raise SettingError("--engine, --engine-set and --backend are of models that are named: name some, such as "
                           "'gmm num_components=3', or leave them out.")  # fmt: skip


def _words(
    columns: list[str] | None, drop: list[str] | None, kind: list[str] | None, weights: str | None,
    sequence: str | None, order: str | None, no_standardize: bool,
) -> list[str]:  # fmt: skip
    """The options by which the table was read, as the words of another command."""
    lists = {"--columns": columns, "--drop": drop, "--kind": kind}
    words = [word for flag, values in lists.items() for value in values or () for word in (flag, value)]
    single = {"--weights": weights, "--sequence": sequence, "--order": order}
    words += [word for flag, value in single.items() if value is not None for word in (flag, value)]
    return words + (["--no-standardize"] if no_standardize else [])


def _as_options(spec: str, engine: str | None, engine_settings: list[str] | None, backend: str | None) -> list[str]:
    """A model of a comparison as the words of ``ppl-gen fit``; its own engine and backend overrule the command's."""
    name, *items = shlex.split(spec)
    own = o.split_settings(items)
    backend, chosen = own.pop("backend", backend), own.pop("engine", None)
    inner = {key.removeprefix("engine."): own.pop(key) for key in list(own) if key.startswith("engine.")}
    settings = inner if chosen else o.split_settings(engine_settings)
    words = [name, *(word for key, value in own.items() for word in ("--set", f"{key}={value}"))]
    engine = chosen or engine
    words += ["--engine", engine] if engine else []
    words += [word for key, value in settings.items() for word in ("--engine-set", f"{key}={value}")]
    return words + (["--backend", backend] if backend else [])


COMMANDS = (compare,)
