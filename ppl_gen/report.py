"""What the command line shows: tables, notes and progress, by rich. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.console import Console

    from ppl_gen.diagnostics import Diagnosis
    from ppl_gen.result import Fit


class _Verb(types.ModuleType):
    """``ppl_gen.report`` is this module, and as a function the verb that writes a report as a file."""

    def __call__(self, runs: Any, path: str | Path = "report.html", *, overwrite: bool = False) -> Path:
        from ppl_gen.html import report

        return report(runs, path, overwrite=overwrite)


sys.modules[__name__].__class__ = _Verb

WIDTH = 110  # columns of a table that goes to a file or a pipe

MAX_COLUMNS = 14  # of a table on the screen


def console(*, stderr: bool = False) -> Console:
    """Where to write; made afresh, so that it follows sys.stdout and the terminal's width."""
    from rich.console import Console

    class HonestConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would end the process
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    return HonestConsole(file=stream, width=None if stream.isatty() else WIDTH, highlight=False)


def say(text: str = "", *, style: str | None = None, stderr: bool = False) -> None:
    """One line of text, in which square brackets mean themselves."""
    console(stderr=stderr).print(text, style=style, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Something to know that is no result."""
    say(text, style="dim", stderr=True)


def emit_json(value: Any) -> None:
    """The one JSON document of a ``--json`` run; what JSON has no word for (NaN, infinity) is null."""
    sys.stdout.write(json.dumps(to_json(value), ensure_ascii=False, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """Plain JSON values of numpy, pandas and settings."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [dict(zip(map(str, value.columns), map(to_json, row), strict=True)) for row in value.itertuples(False)]
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)


def column_text(values: pd.Series) -> list[str]:
    """A column's values as a reader wants them: numbers with the same decimals, four digits of the usual one."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return ["" if _is_missing(value) else str(value) for value in values]
    sizes = np.abs(array[np.isfinite(array) & (array != 0)])
    usual, largest = (np.median(sizes), sizes.max()) if sizes.size else (1.0, 1.0)
    decimals = int(np.clip(3 - np.floor(np.log10(usual)), 0, 4 if largest >= 1e-3 else 6))
    return ["" if np.isnan(value) else number(value, decimals) for value in array.tolist()]


def number(value: float, decimals: int | None = None) -> str:
    """A number to four significant digits (or to so many decimals), without an exponent where it can be helped."""
    size = abs(value)
    if not np.isfinite(value) or (isinstance(value, int) and decimals is None):
        return str(value)
    if size >= 1e9 or (0 < size < 1e-6 and decimals is None):
        return f"{value:.3e}"
    if decimals is None:
        decimals = 4 if size == 0 else int(np.clip(3 - np.floor(np.log10(size)), 0, 8))
    return f"{value:.{decimals}f}"


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def table(
    frame: pd.DataFrame, *, title: str = "", limit: int = 40, index: bool = False, styles: Sequence[str] | None = None
) -> None:
    """Show a frame: numbers to the right, text to the left, at most ``limit`` rows; ``styles`` colours the rows."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    fits = _columns_that_fit(frame.head(limit), console().width)
    hidden, shown = frame.shape[1] - fits, frame.head(limit).iloc[:, :fits]
    shown = shown.reset_index() if index else shown
    result = Table(header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in shown.columns:
        is_number = np.issubdtype(np.asarray(shown[name]).dtype, np.number) if len(shown) else True
        least = max(map(len, column_text(shown[name])), default=0) if is_number else None  # numbers stay whole
        result.add_column(Text(str(name)), justify="right" if is_number else "left", overflow="fold", min_width=least)
    cells = zip(*(column_text(shown[name]) for name in shown.columns), strict=True)
    for position, row in enumerate(cells):
        result.add_row(*(Text(text) for text in row), style=styles[position] if styles else None)
    say()
    if title:
        say(title, style="bold")
    console().print(result)
    if len(frame) > limit:
        say(f"... and {len(frame) - limit:,} more rows", style="dim")
    if hidden > 0:
        say(f"... and {hidden:,} more columns: write them to a file with -o", style="dim")


def _columns_that_fit(frame: pd.DataFrame, width: int) -> int:
    """How many columns there is room for with no number broken over two lines; their names may be."""
    used = 0
    for position, name in enumerate(frame.columns[:MAX_COLUMNS]):
        longest = max(map(len, column_text(frame.iloc[:, position])), default=0)
        used += max(min(longest, 12), min(len(str(name)), 8)) + 3
        if used > width and position >= 2:
            return position
    return min(frame.shape[1], MAX_COLUMNS)


def pairs(items: Sequence[tuple[str, str]], *, title: str = "") -> None:
    """Names and what they are, in two columns."""
    from rich.table import Table
    from rich.text import Text

    if title:
        say()
        say(title, style="bold")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in items:
        grid.add_row(Text("  " + name), Text(text))
    console().print(grid)


def try_next(commands: Sequence[tuple[str, str]]) -> None:
    """What to do now: commands that work as they stand, each with what it gives."""
    say()
    say("Try next", style="bold")
    for command, purpose in commands:
        console().print(f"  {command}", style="cyan", markup=False, soft_wrap=True, end="")
        say(f"   # {purpose}", style="dim")


def heading(text: str) -> None:
    """The start of a part of a longer report."""
    from rich.rule import Rule

    say()
    console().print(Rule(text, align="left", style="blue"))


def show(item: Any) -> None:
    """Anything that rich can draw, or that says itself how (a diagnosis, a comparison)."""
    say()
    console().print(item)


def show_anomalies(frame: pd.DataFrame, number: int = 5, what: str = "rows") -> None:
    """The rows of lowest density; of sequences, those that are ranked lowest."""
    order = "log_prob" if what == "rows" else "anomaly_p_value"
    worst = frame.nsmallest(min(number, len(frame)), order)
    table(worst, title=f"The most anomalous {what}")


def show_fit(result: Fit, diagnosis: Diagnosis, run_folder: str, source: str) -> None:
    """What was chosen and why, what came out, whether to believe it, and what to do next."""
    pairs(facts(result), title=result.family.title)
    show_parameters(result, limit=24)
    show(diagnosis)
    say()
    say(f"Saved in {run_folder}", style="bold")
    run = shlex.quote(run_folder)
    pictures = (f"ppl-gen plot {run}", "pictures")
    if result.family.sequences:
        states = (f"ppl-gen latents {run} --method viterbi -o states.csv", "the state of each time step")
        try_next([
            (f"ppl-gen forecast {run} -n 24", "how it goes on"), *([states] if result.family.num_labels else []),
            (f"ppl-gen score {run} --per-step -o scores.csv", "log p(x) of each step, given the steps before it"),
            pictures,
        ])  # fmt: skip
        return
    what, how = "log p(x) of each row, with its interval", ""
    if result.family.density == "implicit":
        what, how = "log p_data / p_model of each row: it has no density", " --surrogate log_ratio"
    try_next([
        (f"ppl-gen score {run} {shlex.quote(source)}{how} -o scores.csv", what),
        (f"ppl-gen sample {run} -n 1000 -o samples.csv", "new rows"), pictures,
    ])  # fmt: skip


def show_parameters(result: Fit, *, limit: int) -> None:
    """The summary, its simplest sites (weights before matrices) first."""
    frame = result.summary()
    if frame.empty:  # weights of networks have no meaning of their own
        return
    sizes = {site: values.ndim for site, values in result.draws.posterior.items()}
    order = np.argsort([sizes.get(str(name).partition("[")[0], 0) for name in frame.index], kind="stable")
    table(frame.iloc[order], title="Parameters, in original units", index=True, limit=limit)


def facts(result: Fit) -> list[tuple[str, str]]:
    """What was fitted, by what, and why so."""
    chains = f"{result.draws.num_chains} x {result.draws.num_draws}".removeprefix("1 x ")
    spread = {"posterior": f"{chains} draws from the posterior", "guide": f"{chains} draws from the guide",
              "bootstrap": f"a point estimate, and {chains} {result.draws.refits} for its intervals",
              "ensemble": f"an ensemble of {result.draws.num_chains} members, whose spread is the interval"
              if result.draws.num_chains > 1 else "a single member, without intervals",
              "point": "a point estimate, without intervals"}  # fmt: skip
    return [
        ("family", describe(result.family)),
        ("table", result.train.describe()),
        ("engine", f"{describe(result.engine)} in {result.backend}, seed {result.seed}"),
        *(("because", reason) for reason in result.reasons),
        ("gives", spread[result.uncertainty]),
        ("took", f"{result.seconds:.1f} s"),
    ]


def describe(settings: Any) -> str:
    """A family or engine and what was changed from its defaults."""
    default = type(settings)().to_config()
    changed = {name: value for name, value in settings.to_config().items() if value != default[name]}
    return " ".join([settings.name, *(f"{name}={value}" for name, value in changed.items())])


@contextmanager
def working(label: str, *, delay: float = 1.0) -> Iterator[None]:
    """A moving bar on stderr while something of unknown length runs for more than ``delay`` seconds."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    bar.add_task(label, total=None)
    lock, over = threading.Lock(), False

    def start() -> None:
        with lock:
            if not over:
                bar.start()

    timer = threading.Timer(delay, start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over = True
            bar.stop()
