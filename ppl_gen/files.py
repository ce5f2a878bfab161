"""Files and folders that appear whole or not at all: written beside their place under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ppl_gen.errors import StorageError

OVERWRITE = "--overwrite, or overwrite=True in Python"
_REASONS = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied", errno.EPERM: "permission denied", errno.ENOTDIR: "a part of its path is a file",
    errno.ENAMETOOLONG: "the name is too long", errno.ENOENT: "no such file or folder",
    errno.EFBIG: "the file is too big", errno.EISDIR: "it is a folder", errno.EIO: "the disk failed",
}  # fmt: skip


def reason(error: BaseException) -> str:
    """An operating system's error in a few words."""
    number = getattr(error, "errno", None) or _quoted_number(error)
    return _REASONS.get(number or 0, "") or getattr(error, "strerror", None) or first_line(error)


def _quoted_number(error: BaseException) -> int | None:
    """The number of the system's error that a library quotes in the text of its own (safetensors, HDF5)."""
    found = re.search(r"(?:os error|errno =?) ?(\d+)", str(error), re.IGNORECASE)
    return int(found[1]) if found else None


def _failure(path: Path, error: Exception) -> Exception:
    """What to raise when writing went wrong: our own error if it was the disk's doing, else the error itself."""
    if isinstance(error, StorageError) or not (isinstance(error, OSError) or _quoted_number(error)):
        return error
    return StorageError(f"{path} can't be written: {reason(error)}.")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def resolve(path: str | Path) -> Path:
    """The absolute path, links followed, so that what is renamed lies beside the real place.

    :raises StorageError: it is no path, or may not be looked at.
    """
    if not str(path):
        raise StorageError("An empty path was given: name a file or a folder.")
    try:
        found = Path(path).expanduser().resolve()
        found.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path} is no path that can be used: {reason(error)}.") from error
    return found


def write_file(path: str | Path, write: Callable[[Path], None], *, overwrite: bool = False) -> Path:
    """Let ``write(temporary path)`` write a file, then put it in its place; on any failure nothing is left behind.

    The temporary name keeps the suffix, which tells some writers their format.

    :raises StorageError: the file exists and ``overwrite`` is false, or it can't be written.
    """
    path = check_output_file(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _finish(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except Exception as error:
        raise _failure(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def check_output_file(path: str | Path, *, overwrite: bool) -> Path:
    """The absolute path of an output file; refuses, before any work is done, one that can't be put in its place.

    :raises StorageError: it exists and may not be replaced, or is a folder.
    """
    path = resolve(path)
    if path.is_dir():
        raise StorageError(f"{path} is a folder: give the name of a file.")
    if path.exists() and not overwrite:
        raise StorageError(f"{path} exists already: choose another name, or replace it ({OVERWRITE}).")
    check_writable(path)
    return path


def check_writable(path: Path) -> None:
    """Try to write beside a path that is to be made, in the nearest folder that exists; leaves nothing behind.

    :raises StorageError: that is a file, or nothing can be written there.
    """
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        raise StorageError(f"{path} can't be written: {parent} is a file.")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=parent))
    except OSError as error:
        raise StorageError(f"{path} can't be written: {reason(error)}.") from error


def write_folder(path: Path, fill: Callable[[Path], None], *, overwrite: bool) -> None:
    """Let ``fill(temporary folder)`` write the files, then put the folder in its place.

    An existing folder is moved aside under the name :func:`aside` gives, the new one renamed in, the old one removed:
    whenever the machine stops, the old or the new is there, whole, under one of these two names. ``path`` is resolved.

    :raises StorageError: it can't be written; what was there before is untouched.
    """
    old, temporary = aside(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        fill(temporary)
        for file in [*temporary.iterdir(), temporary]:
            _finish(file)
        if path.exists() and overwrite:
            os.rename(path, old)
        os.rename(temporary, path)
        _sync(path.parent)
    except Exception as error:
        raise _failure(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # a disk that can't rename now: the next load or save does it
            recover(path)


def aside(path: Path) -> Path:
    """Where the old folder waits while the new one is renamed in."""
    return path.with_name(f".{path.name}.old")


def recover(path: Path) -> None:
    """Finish what an interrupted overwrite began: put the old folder back if there is no new one, else remove it."""
    old = aside(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, path)


def _finish(path: Path) -> None:
    """Give it the permissions of any new file (some writers make private ones), and have the disk hold it."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
    _sync(path)


def _sync(path: Path) -> None:
    """Have the disk hold it before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
