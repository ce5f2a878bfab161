"""ppl-gen: the command line.

Results go to stdout, notes and progress to stderr. Exit status: 0 done; 1 a check failed under ``diagnose --strict``;
2 the user's error, told in one or two lines; 130 interrupted. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ppl_gen import __version__
from ppl_gen.cli import (
    codes,
    comparing,
    compiled,
    drawing,
    fitting,
    reporting,
    sweeping,
    unnormalised,
    uses,
    using,
    wording,
)

INTERRUPTED, USER_ERROR, BROKEN_PIPE = 130, 2, 141

app = typer.Typer(
    name="ppl-gen", add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ppl-gen {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Generative models of your table: fitted, diagnosed, scored and sampled, in NumPyro or Pyro.

    [bold]Start with[/bold]

    [cyan]ppl-gen demo[/cyan]\n
    [cyan]ppl-gen zoo[/cyan]\n
    [cyan]ppl-gen fit iris.csv gmm --set num_components=3 -o RUN[/cyan]\n
    [cyan]ppl-gen diagnose RUN[/cyan]
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


PARTS = (fitting, comparing, sweeping, using, uses, drawing, codes, reporting, unnormalised)
COMMANDS = tuple(command for part in PARTS for command in part.COMMANDS)
for command in COMMANDS:
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            for category in (DeprecationWarning, FutureWarning):  # of libraries: nothing that the user could do
                warnings.simplefilter("ignore", category)
            return _run(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # the reader (head, less) has gone: nothing more to say, and nowhere to say it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(arguments: list[str]) -> int:
    from ppl_gen.errors import PPLGenError

    try:
        compiled.keep()
        command = typer.main.get_command(app)
        # Not command.main(): it has its own ways with Ctrl-C, broken pipes and errors.
        with command.make_context("ppl-gen", arguments) as context:
            status = command.invoke(context)
        sys.stdout.flush()
        return int(status or 0)
    except typer.Exit as done:  # --help, --version
        return done.exit_code
    except typer.TyperException as error:
        return _fail(f"{_usage(error)} See ppl-gen {_command(arguments)}--help.")
    except KeyboardInterrupt as error:
        sys.stderr.write(f"ppl-gen: interrupted{': ' if str(error) else ''}{error}\n")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (PPLGenError, OSError) as error:
        return _fail(_describe(error))
    except MemoryError:
        return _fail("not enough memory for this job: use fewer rows, draws or components.")


def _fail(message: str) -> int:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    sys.stderr.write("ppl-gen: " + "\n  ".join(_folded(lines)) + "\n")
    return USER_ERROR


def _folded(lines: list[str]) -> list[str]:
    """At most two lines, and those of a list, which begin with a dash."""
    points = [line for line in lines[1:] if line.startswith("- ")]
    rest = " ".join(line for line in lines[1:] if not line.startswith("- "))
    return [*lines[:1], *([rest] if rest else []), *points]


def _describe(error: Exception) -> str:
    """An error in words; advice that is given in Python is put as an option of the command line."""
    from ppl_gen.errors import PPLGenError
    from ppl_gen.files import reason

    if isinstance(error, PPLGenError):
        return wording.in_options(str(error))
    name = getattr(error, "filename", None)
    return f"{name}: {reason(error)}." if name else f"{reason(error)}."


def _usage(error: typer.TyperException) -> str:
    """What was wrong with the command line, with the nearest valid option."""
    from ppl_gen.errors import did_you_mean

    near, name = getattr(error, "possibilities", None), getattr(error, "option_name", "")
    name = name.lstrip("-").replace("-", "_")
    if (place := wording.place_of(name)) is not None:
        return f"{error.message}: it is an option of {', '.join(place[1])}: {place[0]} {name}=..."
    text = wording.in_options(error.format_message().rstrip())
    if near:
        hint = did_you_mean(name, near)
        text = f"{error.message}: {hint}" if hint.startswith("did") else str(error.message)
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _command(arguments: list[str]) -> str:
    """The command that a usage error is about, with a space after it."""
    names = {function.__name__.replace("_", "-") for function in COMMANDS}
    return next((f"{word} " for word in arguments if word in names), "")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one note, without the file and line of a library."""
    lines = str(message).strip().splitlines()
    if lines:
        sys.stderr.write(f"note: {wording.in_options(lines[0])}\n")
