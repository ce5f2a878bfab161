"""The zoo's tables: which families and engines there are, and what options each has."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from typing import Any

import pandas as pd

from ppl_gen import registry, report
from ppl_gen.errors import SettingError, did_you_mean
from ppl_gen.family import BACKENDS, Family
from ppl_gen.settings import Settings

_PARAM = re.compile(r":param ([\w, ]+): (.*?)(?=\n\s*(?::|\n)|\Z)", re.DOTALL)


def _found(kind: str) -> list[tuple[str, Any]]:
    return sorted((registry.families() if kind == "family" else registry.engines()).items())


def families_frame() -> pd.DataFrame:
    """A row per family: name, what it is, kind of density, column kinds, engines, backends."""
    rows = [
        (name, cls.title, cls.density, ", ".join(cls.kinds), ", ".join(cls.engines), ", ".join(_backends(cls, "pair")))
        for name, cls in _found("family")
    ]
    return pd.DataFrame(rows, columns=["family", "what it is", "density", "columns", "engines", "backends"])


def engines_frame() -> pd.DataFrame:
    """A row per engine: name, what it does, backends."""
    rows = [(n, cls.title, ", ".join(_backends(cls, "engine"))) for n, cls in _found("engine")]
    return pd.DataFrame(rows, columns=["engine", "what it does", "backends"])


def options_frame(cls: type[Settings], prefix: str = "") -> pd.DataFrame:
    """A row per option of a family or engine, those of nested groups by their full name: option, default, meaning."""
    found = _PARAM.findall(inspect.getdoc(cls) or "")
    meanings = {name: plain(text) for names, text in found for name in re.findall(r"\w+", names)}
    default, rows, nested = cls(), [], []
    for field in dataclasses.fields(cls):
        value = getattr(default, field.name)
        if isinstance(value, Settings):
            nested.append(options_frame(type(value), f"{prefix}{field.name}."))
        else:
            rows.append((prefix + field.name, value, meanings.get(field.name, "")))
    frame = pd.DataFrame(rows, columns=["option", "default", "meaning"], dtype=object)
    return pd.concat([frame, *nested], ignore_index=True)


def plain(text: str) -> str:
    """A docstring's text in one line, without marks of code, and of mathematics its names alone."""
    text = re.sub(r":math:`(.*?)`", lambda found: found[1].replace("\\", "").replace("{", "").replace("}", ""), text)
    return " ".join(text.split()).replace("``", "")


def find(name: str) -> type[Any]:
    """The family or engine of this name.

    :raises SettingError: there is neither; the nearest name is given.
    """
    both = {**registry.families(), **registry.engines()}
    if name.lower() not in both:
        raise SettingError(f"Unknown family or engine {name!r}: {did_you_mean(name.lower(), both)}")
    return both[name.lower()]


def show(name: str | None) -> None:
    """Both tables, or one family's or engine's options."""
    if name is None:
        report.table(families_frame(), title="Families")
        report.table(engines_frame(), title="Engines")
        report.try_next([("ppl-gen zoo gmm", "the options of one of them"), ("ppl-gen demo", "see it all at work")])
        return
    cls = find(name)
    family = issubclass(cls, Family)
    report.say(f"{cls.name}: {cls.title}", style="bold")
    if family:
        report.pairs([("density", cls.density), ("columns", ", ".join(cls.kinds)), ("engines", ", ".join(cls.engines)),
                      ("backends", ", ".join(_backends(cls, "pair")))])  # fmt: skip
    first = dataclasses.fields(cls)[0]
    report.table(options_frame(cls), title=f"Options: {'--set' if family else '--engine-set'} NAME=VALUE")
    if family:
        value = 3 if isinstance(first.default, int) else first.default
        report.try_next([(f"ppl-gen fit TABLE {cls.name} --set {first.name}={value}", "fit it")])
    else:
        option = f"--engine-set {first.name}={first.default}"
        report.try_next([(f"ppl-gen fit TABLE gmm --engine {cls.name} {option}", "use it")])


def as_json(name: str | None) -> dict[str, Any]:
    """The same as plain values."""
    if name is None:
        return {"families": families_frame(), "engines": engines_frame()}
    cls = find(name)
    return {"name": cls.name, "title": cls.title, "options": options_frame(cls)}


def _backends(cls: type[Any], suffix: str) -> list[str]:
    """The backends that a family or engine is written in, found without importing them."""
    return [b for b in BACKENDS if importlib.util.find_spec(f"{cls.__module__}.{b}_{suffix}") is not None]
