"""ppl-gen sample, forecast, train-classifier: new rows of a saved fit, and what guides them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ppl_gen.cli import options as o
from ppl_gen.cli.using import deliver, say_where, several


def sample(
    run: o.RunArg,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", metavar="INT", help="Rows, or sequences.")] = 1000,
    length: Annotated[
        int | None,
        typer.Option(metavar="INT", help="Of sequences: time steps of each.", show_default="as training sequences"),
    ] = None,
    given: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Of a conditional model: rows to draw for, -n for each.",
                     show_default="training rows at random"),
    ] = None,
    correct: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a generator, mended by its discriminator: none, rejection or latent_hmc.",
                     show_default="none"),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a diffusion model: ode, ddim, ancestral or predictor_corrector.",
                     show_default="ode"),
    ] = None,
    num_steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="INT", help="Of a diffusion model: from noise to rows.",
                     show_default="by sampler"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--sampler-set", metavar="NAME=VALUE", help="An option of --sampler, such as eta; repeat."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Of a diffusion model: how much further rows are driven than to what is "
                     "given, or to --label.", show_default="0, or 1 to a label"),
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of a diffusion model: what train-classifier wrote.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="LABEL", help="Of --classifier: which rows to draw.")] = None,
    seed: o.SeedOption = 0,
    output: o.ArrayOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:  # fmt: skip
    """Draw new rows (or whole sequences, or images), with the columns, units and types of the training table.

    [bold]Examples[/bold]

    [cyan]ppl-gen sample runs/iris -n 1000 -o samples.csv[/cyan]\n
    [cyan]ppl-gen sample runs/digits -n 64 -o samples.npz[/cyan]\n
    [cyan]ppl-gen sample runs/trial -n 5 --given doses.csv[/cyan]\n
    [cyan]ppl-gen sample runs/rings -n 1000 --correct latent_hmc[/cyan]\n
    [cyan]ppl-gen sample runs/clouds -n 1000 --sampler ddim --steps 20[/cyan]\n
    [cyan]ppl-gen sample runs/trial -n 5 --given doses.csv --guidance 2[/cyan]\n
    [cyan]ppl-gen sample runs/iris -n 5 --json[/cyan]
    """
    import pandas as pd

    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite, images=True)
    fit = o.load_fit(run, backend)
    o.refuse_array(fit, path, output)
    with report.working("sampling"):
        frame = fit.sample(
            num_samples, seed=seed, length=length, given=given, correct=correct, num_steps=num_steps, label=label,
            sampler=_sampler(sampler, settings), guidance=guidance, classifier=_classifier(fit, classifier),
        )  # fmt: skip
    if path is not None and o.is_array(path):
        o.write_images(frame, path, overwrite=overwrite)
        if as_json:
            report.emit_json({"run": run, "num_rows": len(frame), "output": str(path)})
        else:
            say_where(path, len(frame), "image")
        return
    if fit.schema.image is not None:  # their pixels
        frame = pd.DataFrame(frame.reshape(len(frame), -1), columns=list(fit.schema.names))
    title = several(len(frame), f"new {fit.train.unit}")
    if fit.family.sequences:
        title = f"{several(len(frame), 'time step')} of {several(num_samples, 'new sequence')}"
    deliver(frame, path, overwrite, as_json, run, title)


def forecast(
    run: o.RunArg,
    table: o.RowsArg = None,
    drop: o.DropOption = None,
    horizon: Annotated[int, typer.Option("--horizon", "-n", metavar="INT", help="How many time steps.")] = 24,
    num_draws: Annotated[int, typer.Option(metavar="INT", help="How many futures are drawn.")] = 1000,
    given: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="What is conditioned on, of the steps ahead.", show_default="nothing is"),
    ] = None,
    hdi_prob: o.HdiOption = 0.9,
    seed: o.SeedOption = 0,
    output: o.OutOption = None,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:  # fmt: skip
    """How sequences go on: mean, sd and predictive interval of each column, and the state's probabilities.

    [bold]Examples[/bold]

    [cyan]ppl-gen forecast runs/quakes -n 24[/cyan]\n
    [cyan]ppl-gen forecast runs/quakes new.csv -n 12 --hdi-prob 0.5 -o forecast.csv[/cyan]
    """
    from ppl_gen import report

    path = o.check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("forecasting"):
        rows = o.read_rows(fit, table, drop)
        frame = fit.forecast(horizon, rows, num_draws=num_draws, hdi_prob=hdi_prob, seed=seed, given=given)
    number = len(frame) // horizon
    whose = f" of {number:,} sequences" if number > 1 else ""
    deliver(frame, path, overwrite, as_json, run, f"The next {several(horizon, 'time step')}{whose}")


def train_classifier(
    run: o.RunArg,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Rows with their labels.")],
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The column that holds them.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Write to .safetensors.")],
    max_steps: Annotated[int, typer.Option(metavar="INT", help="Training steps at most.")] = 3000,
    seed: o.SeedOption = 0,
    overwrite: o.OverwriteOption = False,
    backend: o.BackendOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Of a diffusion model: a classifier of rows with noise, to whose labels ppl-gen sample can guide rows.

    [bold]Examples[/bold]

    [cyan]ppl-gen train-classifier runs/clouds labelled.csv sky -o sky.safetensors[/cyan]\n
    [cyan]ppl-gen sample runs/clouds --classifier sky.safetensors --label rain[/cyan]
    """
    from ppl_gen import report
    from ppl_gen.noisy_classifier import check_output

    path = check_output(output, overwrite=overwrite)
    fit = o.load_fit(run, backend)
    with report.working("training"):
        found = fit.train_classifier(table, label, max_steps=max_steps, seed=seed)
    found.save(path, overwrite=overwrite)
    if as_json:
        report.emit_json({"run": run, "labels": list(found.labels), "cross_entropy": found.cross_entropy,
                          "output": str(path)})  # fmt: skip
    else:
        report.say(f"{found!r} in {path}")


def _sampler(name: str | None, settings: list[str] | None) -> Any:
    if not settings:
        return name
    from ppl_gen.samplers import of_options

    return of_options(name, o.split_settings(settings, "name=value, such as eta=0.5"))


def _classifier(fit: Any, file: str | None) -> Any:
    if file is None:
        return None
    from ppl_gen.noisy_classifier import NoisyClassifier

    return NoisyClassifier.load(file, fit)


COMMANDS = (sample, forecast, train_classifier)
