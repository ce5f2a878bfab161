"""The exceptions that a user can meet. Each message says what was wrong, where, and what to do about it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from difflib import get_close_matches


class PPLGenError(Exception):
    """Base of every error that ppl_gen raises on purpose; the command line prints it without a traceback."""


class DataError(PPLGenError, ValueError):
    """The table can't be used: empty, wrong columns, wrong kinds, not numbers, not finite."""


class SettingError(PPLGenError, ValueError):
    """An unknown family, engine, backend or option, or a value out of range."""


class MissingExtraError(PPLGenError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class StorageError(PPLGenError, OSError):
    """A saved fit can't be written or read: it exists already, is damaged, or is no fit at all."""


class UnsupportedError(PPLGenError, TypeError):
    """This family or engine can't do what was asked; the message names those that can."""


class FitError(PPLGenError, ArithmeticError):
    """The engine could not go on: the objective stopped being a finite number."""


class ProcessDiedError(FitError):
    """A process that did one of several jobs died, most often for lack of memory."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """One clause that names the nearest valid name, or all of them where none is near."""
    options = sorted(valid)
    near = get_close_matches(str(name), options, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "choose one of " + ", ".join(options) + "."


def warn(message: str | Warning) -> None:
    """Warn, and name the line of the caller's own that led to it: the first one outside of this package."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
