"""A fit on disk: a folder of three files that hold values only, so that loading a stranger's fit can't run anything.

``fit.json``                what was fitted, how, to what: family, engine, backend, seed, versions, schema, fingerprint,
                            and the size and SHA-256 of the other two files (its own last line is its own SHA-256)
``parameters.safetensors``  every array, to the bit: the draws and the training rows in model space
``inference_data.nc``       the ArviZ object, for ArviZ and xarray users; loading a fit does not need it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.codec import digest, hash_document, plain, read_arrays, revive, sign, write_arrays
from ppl_gen.errors import PPLGenError, StorageError
from ppl_gen.files import OVERWRITE, aside, check_writable, first_line, reason, resolve, write_file, write_folder
from ppl_gen.times import sequences_from_config, sequences_to_config

if TYPE_CHECKING:
    from ppl_gen.engine import Draws
    from ppl_gen.result import Fit

FORMAT = "ppl_gen fit"
FORMAT_VERSION = 1
JSON, ARRAYS, ARVIZ = "fit.json", "parameters.safetensors", "inference_data.nc"
PLOTS = "plots"  # the one folder that may stand beside the files: pictures of this fit, replaced with it
_MAPPINGS = ("posterior", "point", "sample_stats", "parameters")  # fields of Draws that hold named arrays
_TYPES: dict[str, Any] = {
    "backend": str, "seed": int, "seconds": int | float, "uncertainty": str, "interrupted": bool, "reasons": list,
    "versions": dict, "figures": dict, "schema": dict, "family": dict, "engine": dict, "data": dict, "empty": list,
}  # fmt: skip
_SINGLES = ("losses", "log_weights", "held_out")  # ... and those that hold one array


def save(fit: Fit, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the fit to a folder, whole or not at all.

    :param overwrite: replace a fit that is there; anything else that is there is never replaced.
    :raises StorageError: the path exists, or can't be written (full disk, no permission); what was there is untouched.
    """
    from ppl_gen.arviz_groups import groups, to_netcdf

    path = check_output(path, overwrite=overwrite)
    arrays = _arrays(fit)

    def fill(folder: Path) -> None:
        write_arrays(folder / ARRAYS, arrays, {})
        to_netcdf(*groups(fit), folder / ARVIZ)
        document = _document(fit, arrays)
        document["files"] = {name: _stamp(folder / name) for name in (ARRAYS, ARVIZ)}
        (folder / JSON).write_text(sign(plain(document)), encoding="utf-8")

    write_folder(path, fill, overwrite=overwrite)
    return path


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """The folder to save a fit in, as an absolute path; refuses, before any work is done, one that can't be had.

    :raises StorageError: it exists and is not to be replaced, or is no fit, or nothing can be written there.
    """
    path = resolve(path)
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path} is a file: choose another name.")
    if path.is_dir() and any(path.iterdir()):
        foreign = sorted(p.name for p in path.iterdir() if not _is_ours(p))
        if foreign or not (path / JSON).exists():
            what = f"holds files that are not part of a fit ({', '.join(foreign[:3])})" if foreign else "is no fit"
            raise StorageError(f"{path} exists and {what}, so it is never replaced: choose another name.")
        if not overwrite:
            raise StorageError(f"{path} holds a fit already: choose another name, or replace it ({OVERWRITE}).")
    check_writable(path)
    return path


def _is_ours(path: Path) -> bool:
    if path.name == PLOTS and path.is_dir():
        return all(p.suffix in {".png", ".svg", ".pdf"} for p in path.iterdir())
    return path.name in {JSON, ARRAYS, ARVIZ}


def load(path: str | Path, *, backend: str | None = None) -> Fit:
    """Read a fit that :func:`save` wrote.

    :param backend: score and sample by this backend instead of the one that fitted; parameters are the same in both.
    :raises StorageError: no fit is there, or it is damaged, or was written by a newer ppl_gen.
    """
    path = resolve(path)
    if not path.exists() and aside(path).exists():
        path = aside(path)  # an overwrite was cut short: this is the old fit, whole
    document = _read_document(path)
    try:
        for name in (ARRAYS, ARVIZ):
            _check_file(path / name, document["files"][name])
        return _rebuild(document, read_arrays(path / ARRAYS)[0], backend)
    except StorageError:
        raise
    except (PPLGenError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        detail = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else first_line(error)
        raise StorageError(f"{path} can't be read as a fit: {detail}") from error


def write_checkpoint(path: str | Path, state: Mapping[str, np.ndarray], tag: str) -> None:
    """Write an engine's state to one file, whole or not at all; ``tag`` names the job that may resume from it."""
    arrays = {name: np.asarray(value, order="C") for name, value in state.items()}
    metadata = {"format": "ppl_gen checkpoint", "tag": tag, "sha256": digest(arrays)}
    write_file(path, lambda temporary: write_arrays(temporary, arrays, metadata), overwrite=True)


def read_checkpoint(path: str | Path, tag: str) -> dict[str, np.ndarray]:
    """The state that :func:`write_checkpoint` wrote for the same job.

    :raises StorageError: no checkpoint, damaged, or of another job.
    """
    arrays, metadata = read_arrays(Path(path))
    advice = "delete it to start afresh, or name another file"
    if metadata.get("format") != "ppl_gen checkpoint":
        raise StorageError(f"{path} is no checkpoint of ppl_gen: name another file.")
    if metadata.get("sha256") != digest(arrays):
        raise StorageError(f"{path} is damaged (its content does not match its checksum): {advice}.")
    if metadata.get("tag") != tag:
        raise StorageError(f"{path} is the checkpoint of another job (family, engine, data or seed differ): {advice}.")
    return arrays


def _document(fit: Fit, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """fit.json, but for the stamps of the other files."""
    draws = fit.draws
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        "family": {"name": fit.family.name, "options": fit.family.to_config()},
        "engine": {"name": fit.engine.name, "options": fit.engine.to_config()},
        "backend": fit.backend,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "reasons": list(fit.reasons),
        "versions": dict(fit.versions),
        "uncertainty": fit.uncertainty,
        "interrupted": draws.interrupted,
        "figures": dict(draws.figures),
        "schema": fit.schema.to_config(),
        "data": {"rows": fit.train.num_steps, "fingerprint": fit.train.fingerprint, **sequences_to_config(fit.train)},
        "arrays": {name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in arrays.items()},
        "empty": [name for name in _MAPPINGS if getattr(draws, name) == {}],
    }


def _arrays(fit: Fit) -> dict[str, np.ndarray]:
    """Every array of a fit under a name of its own."""
    found = {f"train/{name}": value for name, value in _train_arrays(fit.train).items()}
    for field in _MAPPINGS:
        found |= {f"{field}/{name}": value for name, value in (getattr(fit.draws, field) or {}).items()}
    found |= {name: getattr(fit.draws, name) for name in _SINGLES if getattr(fit.draws, name) is not None}
    if "held_out" in fit.__dict__:  # found already, and slow to find again
        found["fit/held_out"] = fit.held_out
    return {name: np.asarray(value, order="C") for name, value in found.items()}


def _train_arrays(data: Any) -> dict[str, np.ndarray]:
    order = data.order  # of what times it holds, the document says
    parts = {
        "x": data.x, "mask": data.mask, "weights": data.weights, "lengths": data.lengths,
        "order": order if order is None or order.dtype.kind not in "Mm" else order.view(np.int64),
    }  # fmt: skip
    return {name: value for name, value in parts.items() if value is not None}


def _rebuild(document: Mapping[str, Any], arrays: dict[str, np.ndarray], backend: str | None) -> Fit:
    from ppl_gen import registry
    from ppl_gen.data import Data, Schema
    from ppl_gen.family import BACKENDS
    from ppl_gen.result import Fit

    for name, kind in _TYPES.items():
        if not isinstance(document[name], kind):
            raise TypeError(f"{JSON} has {name} = {str(document[name])[:40]!r}.")
    schema = Schema.from_config(document["schema"])
    parts = {name.removeprefix("train/"): value for name, value in arrays.items() if name.startswith("train/")}
    train = Data(schema, **(parts | sequences_from_config(document["data"], parts, schema)))
    if train.x.shape != (document["data"]["rows"], schema.num_columns):
        raise ValueError(f"the training rows have the shape {train.x.shape}, which is not the schema's.")
    backend = backend or document["backend"]
    if backend not in BACKENDS:
        raise ValueError(f"the backend {backend!r} is none of {', '.join(BACKENDS)}.")
    fit = Fit(
        family=registry.family(document["family"]["name"]).from_config(document["family"]["options"]),
        engine=registry.engine(document["engine"]["name"]).from_config(document["engine"]["options"]),
        backend=backend, seed=document["seed"], schema=schema, train=train,
        draws=_draws(document, arrays), versions=document["versions"], seconds=document["seconds"],
        reasons=tuple(document["reasons"]),
    )  # fmt: skip
    if "fit/held_out" in arrays:
        fit.__dict__["held_out"] = arrays["fit/held_out"]
    return fit


def _draws(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Draws:
    from ppl_gen.engine import Draws

    fields: dict[str, Any] = {name: arrays.get(name) for name in _SINGLES}
    for field in _MAPPINGS:
        names = [name for name in arrays if name.startswith(f"{field}/")]
        named = {name.removeprefix(f"{field}/"): arrays[name] for name in names}
        fields[field] = named or ({} if field in document["empty"] else None)
    if len({value.shape[:2] for value in fields["posterior"].values() if value.ndim > 1}) != 1:
        raise ValueError("the sites of the posterior differ in their numbers of chains and draws.")
    return Draws(
        uncertainty=document["uncertainty"], figures=document["figures"], interrupted=document["interrupted"], **fields
    )


def _read_document(path: Path) -> dict[str, Any]:
    """fit.json, checked: a fit, of a version that we read, as it was written."""
    if not path.exists():
        raise StorageError(f"No fit at {path}: there is no such folder.")
    if not path.is_dir():
        raise StorageError(f"{path} is no fit but a file: give the folder of a fit.")
    if not (path / JSON).is_file():
        raise StorageError(f"{path} is no fit: it has no {JSON}.")
    try:
        text = (path / JSON).read_text(encoding="utf-8")
        raw = json.loads(text)
    except OSError as error:
        raise StorageError(f"{path / JSON} can't be read: {reason(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path / JSON} is damaged: it is not JSON ({first_line(error)}).") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise StorageError(f"{path} is no fit of ppl_gen: {JSON} does not say that it is.")
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StorageError(
            f"{path} has format {version}, written by a newer ppl_gen; this one reads up to {FORMAT_VERSION}."
        )
    signed = raw.pop("sha256", None)
    if signed != hash_document(raw):
        raise StorageError(f"{path / JSON} is damaged: its content does not match its checksum.")
    return revive(raw)


def _stamp(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _check_file(file: Path, stamp: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise StorageError(f"{file.parent} is damaged: {file.name} is missing.")
    try:
        found = _stamp(file)
    except OSError as error:
        raise StorageError(f"{file} can't be read: {reason(error)}.") from error
    if found["bytes"] != stamp["bytes"]:
        raise StorageError(f"{file} is damaged: it has {found['bytes']:,} bytes instead of {stamp['bytes']:,}.")
    if found != stamp:
        raise StorageError(f"{file} is damaged: its content does not match its checksum.")
