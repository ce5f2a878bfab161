"""One HTML file that says what was asked, what came out and whether to believe it, for a reader without our tools.

The file holds all that it shows: no network, no script, pictures within it, and a content security policy that forbids
the rest. The same saved fits give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["report"]


def report(runs: Any, path: str | Path = "report.html", *, overwrite: bool = False) -> Path:
    """Write a report on fits, or on a folder of ``ppl-gen compare``, as one HTML file that needs nothing else.

    It has what was asked, the data at a glance, the ranking of fits of the same rows by held-out log density (nats),
    and of each fit its model as a graph, the diagnosis with advice, pictures, samples beside the data, log densities
    with intervals, settings, and what to do next. A part of a fit that fails says why, and the rest still comes.

    :param runs: a fit, the folder of a saved fit or of a comparison, a sequence of these, or a mapping from names.
    :param path: the file to write, named ``.html``.
    :param overwrite: replace a file that is there.
    :returns: the file's absolute path.
    :raises SettingError: nothing to report on, or the name does not end in .html.
    :raises StorageError: a folder is no fit and no comparison, or is damaged; or the file can't be written.
    """
    from ppl_gen.errors import SettingError
    from ppl_gen.files import check_output_file, write_file
    from ppl_gen.html.document import document
    from ppl_gen.html.sources import read

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"{str(path)!r}: the name of a report must end in .html.")
    target = check_output_file(path, overwrite=overwrite)
    text = document(read(runs))
    return write_file(target, lambda file: _write(file, text), overwrite=overwrite)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
