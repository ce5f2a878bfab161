"""ppl-gen sweep: one family over a grid of options."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from ppl_gen.cli import options as o


def sweep(
    table: o.TableArg,
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="One of those that `ppl-gen zoo` lists.")],
    grid: Annotated[
        list[str], typer.Argument(metavar="NAME=A,B", help="An option and its values; engine.NAME is the engine's.")
    ],
    settings: o.SetOption = None,
    folds: Annotated[int, typer.Option(metavar="INT", help="Refits per point; each part is scored unseen.")] = 5,
    test: Annotated[str | None, typer.Option(metavar="TABLE", help="Score this table instead of folds.")] = None,
    jobs: Annotated[int, typer.Option(metavar="INT", help="Processes side by side; -1 is one per core.")] = 1,
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
    as_json: o.JsonOption = False,
) -> None:
    """Rank every combination of some options of one family by the log density of rows that they have not seen.

    [bold]Examples[/bold]

    [cyan]ppl-gen sweep iris.csv gmm num_components=1,2,3 --engine em[/cyan]\n
    [cyan]ppl-gen sweep iris.csv gmm num_components=2,3 covariance=full,tied --engine em --jobs 2[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.parallel import check_n_jobs
    from ppl_gen.sweeps import split_values
    from ppl_gen.sweeps import sweep as run

    check_n_jobs(jobs)
    chosen = o.make_family(family, o.split_settings(settings))
    values = o.split_settings(grid, "NAME=A,B, such as num_components=1,2,3")
    found = run(
        chosen, table, {name: split_values(text) for name, text in values.items()}, folds=folds, test=test,
        engine=o.make_engine(engine, o.split_settings(engine_settings), chosen), backend=backend, seed=seed,
        n_jobs=jobs, progress=sys.stderr.isatty(),
        **o.data_options(columns, drop, kind, weights, no_standardize, sequence, order),
    )  # fmt: skip
    if as_json:
        report.emit_json(found.to_dict())
        return
    report.show(found)
    options = o.repeat_data_options(columns, drop, kind, weights, no_standardize, sequence, order)
    by = engine or (found.frame.loc[found.best, "engine"] if "engine." in found.best else None)
    words = [*_fit_options(found.best, settings, by, engine_settings), *options]
    words += ["--backend", backend] if backend else []
    report.try_next([(shlex.join(["ppl-gen", "fit", table, family, *words]), "fit the best one")])


def _fit_options(best: str, settings: list[str] | None, engine: str | None, own: list[str] | None) -> list[str]:
    """The best point as options of ``ppl-gen fit``; its values overrule the command's."""
    point = o.split_settings(shlex.split(best))
    inner = {name.removeprefix("engine."): value for name, value in point.items() if name.startswith("engine.")}
    outer = {name: value for name, value in point.items() if not name.startswith("engine.")}
    words = [word for k, v in {**o.split_settings(settings), **outer}.items() for word in ("--set", f"{k}={v}")]
    words += ["--engine", engine] if engine else []
    return words + [w for k, v in {**o.split_settings(own), **inner}.items() for w in ("--engine-set", f"{k}={v}")]


COMMANDS = (sweep,)
