"""Settings that travel: frozen dataclasses to and from JSON and the command line's ``name=value`` strings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ppl_gen.errors import SettingError, did_you_mean


class _Named(type):
    """Classes that name the nearest option where they are made with one that they don't have."""

    if not TYPE_CHECKING:  # so that type checkers see the fields

        def __call__(cls, *args: Any, **options: Any) -> Any:
            _refuse_unknown(cls, options)
            return super().__call__(*args, **options)

        @property
        def __signature__(cls) -> inspect.Signature:
            own = inspect.signature(cls.__init__)
            return own.replace(parameters=list(own.parameters.values())[1:])


@dataclasses.dataclass(frozen=True)
class Settings(metaclass=_Named):
    """Base of families, priors and engines: values only, checked when made, equal when their fields are equal."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _freeze(getattr(self, field.name)))

    def __str__(self) -> str:
        """As one would write it: the fields that differ from their defaults."""
        fields = dataclasses.fields(self)
        told = [f"{f.name}={value!s}" if isinstance(value := getattr(self, f.name), Settings) else f"{f.name}={value!r}"
                for f in fields if f.default is dataclasses.MISSING or getattr(self, f.name) != f.default]  # fmt: skip
        return f"{type(self).__name__}({', '.join(told)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with the named fields changed.

        :raises SettingError: a name is no field of this class (the nearest valid one is named).
        """
        _refuse_unknown(type(self), changes)
        return dataclasses.replace(self, **changes)

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """A copy changed by ``name=value`` strings, or by values; ``prior.loc_scale`` reaches into a nested field."""
        changes: dict[str, Any] = {}
        nested: dict[str, dict[str, Any]] = {}
        for path, text in options.items():
            head, _, rest = path.partition(".")
            if rest:
                nested.setdefault(head, {})[rest] = text
            else:
                value = parse_value(text) if isinstance(text, str) else text
                # Of an option that is a word, "none" is a word as well.
                changes[head] = text if value is None and isinstance(getattr(self, head, None), str) else value
        for head, inner_options in nested.items():
            inner = getattr(self, head, None)
            if not isinstance(inner, Settings):
                raise self._no_group(head)
            if head not in changes:  # else it was set to a value as well, which is no group: refused below
                changes[head] = inner.with_options(inner_options)
        return self.replace(**changes)  # all at once: one may make sense only with another

    def _no_group(self, name: str) -> SettingError:
        """The error for ``name.inner=value`` where ``name`` holds no options of its own."""
        fields = [f.name for f in dataclasses.fields(self)]
        nested = [field for field in fields if isinstance(getattr(self, field), Settings)]
        if name in fields:
            return SettingError(f"Option {name!r} of {type(self).__name__} is a value: it has no options inside.")
        hint = did_you_mean(name, nested) if nested else "none of its options has options inside."
        return SettingError(f"{type(self).__name__} has no option group {name!r}: {hint}")

    def to_config(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_config`; a nested field is read by the class of its default."""
        default, values = cls(), {}
        for name, value in config.items():
            inner = getattr(default, name, None)
            values[name] = type(inner).from_config(value) if isinstance(inner, Settings) else value
        return default.replace(**values)

    def require(self, name: str, ok: bool, rule: str) -> None:
        """Raise a :class:`SettingError` that names the option, the rule and the value, unless ``ok``."""
        if not ok:
            raise SettingError(f"{type(self).__name__}: {name} must be {rule}, not {getattr(self, name)!r}.")

    def require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Raise a :class:`SettingError` with the nearest valid value, unless the field is one of ``choices``."""
        value = getattr(self, name)
        if value not in choices:
            raise SettingError(f"{type(self).__name__}: unknown {name} {value!r}: {did_you_mean(str(value), choices)}")

    def refuse_idle(self, names: Iterable[str], used: bool, by: str) -> None:
        """Raise a :class:`SettingError` where one of the fields is not at its default and nothing uses it.

        :param by: the setting that would, such as ``prior='vamp'``.
        """
        for field in dataclasses.fields(self):
            if not used and field.name in names and getattr(self, field.name) != field.default:
                raise SettingError(
                    f"{type(self).__name__}: {field.name} is of {by} alone, and changes nothing here: leave it out, or "
                    f"set {by}."
                )

    def require_integer(self, name: str, low: int) -> None:
        value = getattr(self, name)
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= low
        self.require(name, ok, f"a whole number of at least {low}")

    def require_widths(self, name: str) -> None:
        """Raise a :class:`SettingError` unless the field is the width of a layer or of several; one becomes a tuple."""
        value: Any = getattr(self, name)
        widths = value if isinstance(value, tuple) else (value,)
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in widths)
        self.require(name, bool(widths) and whole, "whole numbers of at least 1, such as 64,64 or (64, 64)")
        object.__setattr__(self, name, widths)

    def require_number(self, name: str, low: float, high: float = float("inf")) -> None:
        value = getattr(self, name)
        ok = isinstance(value, int | float) and not isinstance(value, bool) and low < value < high
        self.require(name, ok, f"a number above {low:g}" + (f" and below {high:g}" if high < float("inf") else ""))


def _refuse_unknown(cls: Any, options: Iterable[str]) -> None:
    valid = [f.name for f in dataclasses.fields(cls)]
    for name in options:
        if name not in valid:
            raise SettingError(f"{cls.__name__} has no option {name!r}: {did_you_mean(name, valid)}")


def parse_value(text: str) -> Any:
    """A command-line value: a Python literal where it is one (``3``, ``0.5``, ``[1, 2]``), else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _freeze(value: Any) -> Any:
    """Arrays and lists become nested tuples, so that settings compare, hash and print."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(_freeze(v) for v in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_config()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
