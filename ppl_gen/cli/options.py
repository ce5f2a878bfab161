"""Arguments that several commands share, and how their text is read."""

from __future__ import annotations

import csv
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ppl_gen.data import Data
    from ppl_gen.engine import Engine
    from ppl_gen.family import Family
    from ppl_gen.result import Fit

TableArg = Annotated[
    str, typer.Argument(metavar="TABLE", help="A .csv, .parquet, .npy or .npz file, FILE.npz:NAME of several arrays.")
]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a saved fit.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of tables.")]
SeedOption = Annotated[int, typer.Option(metavar="INT", help="The same seed gives the same bits.")]
SurrogateOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of a family without a density: ais or log_ratio.", show_default="ais"),
]
SurrogateSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--surrogate-set", metavar="NAME=VALUE", help="An option of --surrogate ais, such as num_temperatures; repeat."
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output's place.")]
BackendOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="numpyro or pyro.", show_default="numpyro, or as the fit was made")
]
EngineOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Each family has its own: see `zoo`.", show_default="by family and data"),
]
EngineSetOption = Annotated[
    list[str] | None, typer.Option("--engine-set", metavar="NAME=VALUE", help="An option of the engine; repeat.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option of the family (prior.NAME reaches inside); repeat."),
]
RowsArg = Annotated[str | None, typer.Argument(metavar="[TABLE]", help="The rows.", show_default="training rows")]
OutOption = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this .csv or .parquet file.")
]
ArrayOption = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to this .csv or .parquet file; images: .npz, .npy."),
]
ColumnsOption = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Use these columns only; repeat.")]
DropOption = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Leave these columns out; repeat.")]
KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="COLUMN=KIND", help="real, count, binary or categorical; repeat."),
]
WeightsOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that holds row weights.")]
SequenceOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column that tells the sequences of time steps apart.")
]
OrderOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column by which time steps are in order: numbers or dates.")
]
HdiOption = Annotated[float, typer.Option(metavar="P", help="Probability that the interval holds.")]
RawOption = Annotated[bool, typer.Option("--no-standardize", help="Model real columns in their own units.")]


def split_names(texts: list[str] | None) -> list[str] | None:
    """Each ``a,b`` as two names; a name that holds a comma goes in double quotes."""
    if not texts:
        return None
    from ppl_gen.errors import SettingError

    found = []
    for text in texts:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
        if not names or not all(names):
            raise SettingError(f"{text!r} is no list of column names, such as 'width,height'.")
        found += names
    return found


def make_surrogate(name: str | None, settings: list[str] | None) -> Any:
    """What stands for a density that a family does not have: a name, or settings of it; None where none is named."""
    if not settings:
        return name
    from ppl_gen.errors import SettingError
    from ppl_gen.implicit import resolve

    chosen = resolve(name)
    if chosen == "log_ratio":
        raise SettingError("--surrogate-set is for --surrogate ais: log_ratio has no options.")
    return chosen.with_options(split_settings(settings, "name=value, such as num_temperatures=1000"))  # type: ignore[union-attr]


def split_settings(items: list[str] | None, example: str = "name=value, such as num_components=3") -> dict[str, str]:
    """``["name=value", ...]`` as a dictionary.

    :raises SettingError: an item has no name or no equals sign, or a name is given twice.
    """
    from ppl_gen.errors import SettingError

    found = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"{item!r} is not of the form {example}.")
        if name.strip() in found:
            raise SettingError(f"{name.strip()!r} is given twice.")
        found[name.strip()] = value.strip()
    return found


def read_rows(fit: Fit, table: str | None, drop: list[str] | None) -> Data | None:
    """The rows to use a fit on; None is its training rows."""
    from ppl_gen.errors import SettingError
    from ppl_gen.labels import may_lack

    if table is not None:
        return fit.schema.encode(table, drop=split_names(drop), may_lack=may_lack(fit))
    if drop:
        raise SettingError("--drop leaves out columns of a TABLE, but none was given.")
    return None


def data_options(
    columns: list[str] | None,
    drop: list[str] | None,
    kinds: list[str] | None,
    weights: str | None,
    raw: bool,
    sequence: str | None,
    order: str | None,
) -> dict[str, Any]:
    """The keyword arguments of ``Data.from_table``."""
    return {
        "columns": split_names(columns), "drop": split_names(drop),
        "kinds": split_settings(kinds, "COLUMN=KIND, such as age=real") or None,
        "weights": weights, "standardize": not raw, "sequence": sequence, "order": order,
    }  # fmt: skip


def repeat_data_options(
    columns: list[str] | None,
    drop: list[str] | None,
    kinds: list[str] | None,
    weights: str | None,
    raw: bool,
    sequence: str | None,
    order: str | None,
) -> list[str]:
    """The words of the command line that these came from, for another command on the same table."""
    lists = {"--columns": columns, "--drop": drop, "--kind": kinds}
    words = [word for flag, values in lists.items() for value in values or () for word in (flag, value)]
    single = {"--weights": weights, "--sequence": sequence, "--order": order}
    words += [word for flag, value in single.items() if value is not None for word in (flag, value)]
    return words + (["--no-standardize"] if raw else [])


def make_family(name: str, options: dict[str, str]) -> Family:
    """A family from its name and ``name=value`` strings; raises :class:`SettingError`."""
    from ppl_gen import registry

    return registry.family(name)().with_options(options)


def make_engine(name: str | None, options: dict[str, str], family: Family) -> Engine | None:
    """An engine from its name and ``name=value`` strings, or None to choose one for this family; raises
    :class:`SettingError`."""
    from ppl_gen import registry
    from ppl_gen.errors import SettingError

    if name is None:
        if options:
            raise SettingError(
                f"Options of an engine need its name as well: add --engine {' or '.join(family.engines)}."
            )
        return None
    return registry.engine(name)().with_options(options)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One line of a comparison: ``gmm num_components=2 covariance=tied engine=em engine.num_starts=5 backend=pyro``."""

    text: str
    family: Family
    engine: Engine | None
    backend: str | None

    @classmethod
    def parse(cls, text: str) -> Spec:
        from ppl_gen.errors import SettingError

        try:
            name, *items = shlex.split(text) or [""]
        except ValueError as error:
            raise SettingError(f"{text!r} is not of the form 'gmm num_components=2': {error}.") from None
        options = split_settings(items)
        backend = options.pop("backend", None)
        engine_name = options.pop("engine", None)
        of_engine = {key[len("engine.") :]: options.pop(key) for key in list(options) if key.startswith("engine.")}
        family = make_family(name, options)
        return cls(text, family, make_engine(engine_name, of_engine, family), backend)


def parse_specs(texts: list[str]) -> list[Spec]:
    """The models of a comparison.

    :raises SettingError: one of them is malformed, or given twice.
    """
    from ppl_gen.errors import SettingError

    for text in texts:
        if texts.count(text) > 1:
            raise SettingError(f"{text!r} is given twice: a comparison needs different models.")
    return [Spec.parse(text) for text in texts]


def load_fit(run: str, backend: str | None = None) -> Fit:
    """The saved fit at this folder; raises :class:`StorageError`, or :class:`SettingError` for the backend."""
    from ppl_gen.errors import SettingError, did_you_mean
    from ppl_gen.family import BACKENDS
    from ppl_gen.storage import load

    if backend is not None and backend not in BACKENDS:
        raise SettingError(f"Unknown backend {backend!r}: {did_you_mean(backend, BACKENDS)}")
    return load(run, backend=backend)


def check_output(output: str | None, *, overwrite: bool, images: bool = False, chains: bool = False) -> Path | None:
    """The file to write a table to, or new ``images``, or ``chains`` as netCDF, refused before any work is done if it
    can't be one."""
    from ppl_gen.errors import SettingError
    from ppl_gen.files import check_output_file

    if output is None:
        return None
    path = Path(output).expanduser()
    arrays = images and path.suffix.lower() in (".npy", ".npz")
    netcdf = chains and path.suffix.lower() == ".nc"
    if path.suffix.lower() not in (".csv", ".parquet") and not (arrays or netcdf):
        names = ".nc, .csv or .parquet" if chains else ".csv or .parquet"
        raise SettingError(f"{output!r}: the name must end in {names}, which says how to write the table.")
    check_output_file(path, overwrite=overwrite)
    return path


def is_array(path: Path) -> bool:
    """Whether images are written there as an array."""
    return path.suffix.lower() in (".npy", ".npz")


def refuse_array(fit: Fit, path: Path | None, output: str | None) -> None:
    """Raise a :class:`SettingError` where a table would be written as an array of images."""
    from ppl_gen.errors import SettingError

    if path is not None and is_array(path) and fit.schema.image is None:
        raise SettingError(
            f"{output!r}: {fit.family.name} was fitted to a table, not to images: write a .csv or .parquet."
        )


def write_images(images: np.ndarray, path: Path, *, overwrite: bool) -> None:
    """Write images (n, h, w) or (n, h, w, c) as .npy, or as the array ``images`` of an .npz, whole or not at all."""
    import numpy as np

    from ppl_gen.files import write_file

    if path.suffix.lower() == ".npy":
        write_file(path, lambda temporary: np.save(temporary, images), overwrite=overwrite)
    else:
        write_file(path, lambda temporary: np.savez_compressed(temporary, images=images), overwrite=overwrite)


def write_table(frame: pd.DataFrame, path: Path, *, overwrite: bool) -> None:
    """Write a frame, whole or not at all, in the format that the suffix names."""
    from ppl_gen.files import write_file

    if path.suffix.lower() == ".csv":
        write_file(path, lambda temporary: frame.to_csv(temporary, index=False), overwrite=overwrite)
    else:
        write_file(path, lambda temporary: frame.to_parquet(temporary, index=False), overwrite=overwrite)
