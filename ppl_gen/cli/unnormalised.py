"""ppl-gen chains, normalize: what an unnormalised density needs, draws by Markov chains and its log Z."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.wording import diagnosis_in_options


def chains(
    run: o.RunArg,
    sampler: Annotated[
        str, typer.Option(metavar="NAME", help="nuts, hmc, sgld, sghmc, or tempered, which goes from mode to mode.")
    ] = "nuts",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the sampler, such as num_samples; repeat."),
    ] = None,
    member: Annotated[int, typer.Option(metavar="INT", help="Of an ensemble, whose density.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if they did not mix.")] = False,
    seed: o.SeedOption = 0,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to .nc, for ArviZ, or rows to .csv or .parquet."),
    ] = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> int:
    """Markov chains of rows from an unnormalised density, in the table's units, and whether they mixed; of a generator,
    of its noise under the discriminator's log ratio.

    [bold]Examples[/bold]

    [cyan]ppl-gen chains runs/rings --sampler tempered -o chains.nc[/cyan]\n
    [cyan]ppl-gen chains runs/rings --sampler hmc --set num_samples=500 --strict[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.chains import resolve
    from ppl_gen.files import write_file

    path = o.check_output(output, overwrite=overwrite, chains=True)
    fit = o.load_fit(run, backend)
    chosen = resolve(sampler, {}).with_options(o.split_settings(settings, "name=value, such as num_samples=500"))
    with report.working("sampling"):
        found = fit.chains(chosen, seed=seed, member=member)
    with report.working("diagnosing"):
        diagnosis = diagnosis_in_options(found.diagnose())
    if path is not None and path.suffix.lower() == ".nc":
        write_file(path, found.to_netcdf, overwrite=overwrite)
    elif path is not None:
        o.write_table(found.to_frame(), path, overwrite=overwrite)
    if as_json:
        extra = {"output": str(path)} if path else {}
        report.emit_json(diagnosis.to_dict() | {"run": run, "summary": found.summary().reset_index(), **extra})
    else:
        report.table(found.summary(), title="Columns, in original units", index=True, limit=40)
        report.show(diagnosis)
        if path is not None:
            report.say(f"{found.title.partition(': ')[2]} in {path}", style="bold")
    return int(strict and not diagnosis.passed)


def normalize(
    run: o.RunArg,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="exact, smc, ais, none; auto is exact where it can be, else smc.")
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Of smc or ais, such as num_temperatures=10000; repeat."),
    ] = None,
    seed: o.SeedOption = 0,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="NEW", help="Save here.", show_default="RUN, with --overwrite"),
    ] = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Estimate log Z of an unnormalised density anew, with its standard error, and save the fit.

    [bold]Examples[/bold]

    [cyan]ppl-gen normalize runs/digits --method ais --set num_temperatures=10000 -o runs/digits-ais[/cyan]\n
    [cyan]ppl-gen normalize runs/digits --method exact --overwrite[/cyan]
    """
    import pandas as pd

    from ppl_gen import report
    from ppl_gen.errors import SettingError
    from ppl_gen.normalizer import resolve
    from ppl_gen.storage import check_output, save

    target = run if output is None else output
    fit = o.load_fit(run, backend)
    chosen, options = resolve(method), o.split_settings(settings, "name=value, such as num_temperatures=10000")
    if isinstance(chosen, str) and options:
        raise SettingError(f"--set is for --method smc or ais: {method} has no options.")
    chosen = chosen.with_options(options) if options else chosen
    check_output(target, overwrite=overwrite)
    with report.working("normalizing"):
        found = fit.normalize(chosen, seed=seed)
    with report.working("saving"):
        save(found, target, overwrite=overwrite)
    sites = {name: found.posterior[name] for name in ("log_normalizer", "log_normalizer_error", "log_normalizer_k_hat")}
    frame = pd.DataFrame({"member": range(len(sites["log_normalizer"])), **sites})
    if as_json:
        report.emit_json({"run": target, "method": method, "members": frame})
        return
    report.table(frame, title="log Z of each member (nats), its standard error and k-hat")
    report.say(f"Saved in {target}", style="bold")


COMMANDS: tuple[Any, ...] = (chains, normalize)
