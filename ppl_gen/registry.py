"""Families and engines are the folders under ``models/`` and ``inference/``: nothing else is to be registered."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from ppl_gen.errors import MissingExtraError, SettingError, did_you_mean

_EXTRAS = {"pyro": "pyro", "torch": "pyro", "zuko": "pyro"}


@cache
def _folders(package: str, base_path: str) -> dict[str, type]:
    """The one Settings subclass that each folder of a package exports, by its ``name``."""
    base_module, base_name = base_path.split(":")
    base = getattr(importlib.import_module(base_module), base_name)
    root = importlib.import_module(package)
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(root.__path__):
        if info.ispkg and not info.name.startswith("_"):
            module = importlib.import_module(f"{package}.{info.name}")
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__:
                    found[value.name] = value  # type: ignore[attr-defined]
    return found


def families() -> dict[str, type]:
    """Every family class by its name, found in the folders of ``ppl_gen.models``."""
    return _folders("ppl_gen.models", "ppl_gen.family:Family")


def engines() -> dict[str, type]:
    """Every engine class by its name, found in the folders of ``ppl_gen.inference``."""
    return _folders("ppl_gen.inference", "ppl_gen.engine:Engine")


def family(name: str) -> Any:
    """The family class of this name.

    :raises SettingError: unknown name (the nearest valid one is named).
    """
    return _look_up("family", name, families())


def engine(name: str) -> Any:
    """The engine class of this name.

    :raises SettingError: unknown name (the nearest valid one is named).
    """
    return _look_up("engine", name, engines())


def _look_up(what: str, name: str, table: dict[str, type]) -> type:
    if name.lower() not in table:
        raise SettingError(f"Unknown {what} {name!r}: {did_you_mean(name.lower(), table)}")
    return table[name.lower()]


def import_backend(package: str, module: str, backend: str) -> ModuleType:
    """Import ``package.module``; a missing optional dependency gives one line that says what to install."""
    try:
        return importlib.import_module(f"{package}.{module}")
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise MissingExtraError(
            f"The {backend} backend needs {error.name}, which is not installed: pip install 'ppl_gen[{extra}]'"
        ) from None
