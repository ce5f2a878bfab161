"""Progress, interruption and checkpoints: what an engine tells the world while it runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass
class Monitor:
    """Passed to an engine, which calls :meth:`update` between compiled chunks of work.

    ``update(done, total, **figures)`` draws the bar (figures are shown beside it: loss, divergences). A checkpoint
    is a flat dictionary of numpy arrays: the whole state of the engine, so that a run that resumes gives the same
    bits as one that was never stopped. ``tag`` identifies the job (family, engine, data, seed): a checkpoint of
    another job is refused.
    """

    show: bool = False
    checkpoint_path: Path | None = None
    tag: str = ""
    label: str = "fit"
    delay: float = 1.0  # seconds before the bar appears: nothing flickers for a quick job
    _bar: Any = dataclasses.field(default=None, repr=False)
    _task: Any = dataclasses.field(default=None, repr=False)
    _start: float = dataclasses.field(default_factory=time.monotonic, repr=False)

    def update(self, done: int, total: int, **figures: float) -> None:
        if not self.show:
            return
        if self._bar is None:
            if time.monotonic() - self._start < self.delay:
                return
            self._bar, self._task = _rich_bar(self.label, total)
        text = "  ".join(f"{k} {v:,.6g}" for k, v in figures.items())
        rate = done / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(self._task, completed=done, total=total, figures=f"{rate:,.0f}/s  {text}")

    def save(self, state: dict[str, np.ndarray]) -> None:
        """Write a checkpoint (a sibling file, then renamed); does nothing unless one was asked for."""
        if self.checkpoint_path is not None:
            from ppl_gen.storage import write_checkpoint

            write_checkpoint(self.checkpoint_path, state, self.tag)

    def load(self) -> dict[str, np.ndarray] | None:
        """The checkpoint to resume from, or None."""
        if self.checkpoint_path is None or not self.checkpoint_path.exists():
            return None
        from ppl_gen.storage import read_checkpoint

        return read_checkpoint(self.checkpoint_path, self.tag)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rich_bar(label: str, total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[figures]}", style="dim"), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    bar.start()
    return bar, bar.add_task(label, total=total, figures="")
