"""Progress, interruption and checkpoints: what an engine tells the world while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclasses.dataclass
class Monitor:
    """Passed to an engine, which calls :meth:`update` between compiled chunks of work.

    ``update(done, total, **figures)`` draws the bar (figures are shown beside it: loss, divergences). A checkpoint
    is a flat dictionary of numpy arrays: the whole state of the engine, so that a run that resumes gives the same
    bits as one that was never stopped. ``tag`` identifies the job (family, engine, data, seed): a checkpoint of
    another job is refused. With ``gentle``, and once the engine has said ``worth_keeping``, Ctrl-C is heard at the next
    update, between two chunks, so that it can't cut into one, nor into what follows the last; a second one stops at
    once, as the first does before. At the ``deadline``, a time of :func:`time.monotonic`, an engine is stopped in the
    same way, once it has something ``worth_keeping``; :attr:`stopped` then says so.
    """

    show: bool = False
    gentle: bool = False
    worth_keeping: bool = False
    checkpoint_path: Path | None = None
    tag: str = ""
    label: str = "fit"
    deadline: float = float("inf")
    stopped: bool = False
    delay: float = 1.0  # seconds before the bar appears: nothing flickers for a quick job
    _bar: Any = dataclasses.field(default=None, repr=False)
    _task: Any = dataclasses.field(default=None, repr=False)
    _start: float = dataclasses.field(default_factory=time.monotonic, repr=False)
    _interrupt: Any = dataclasses.field(default=None, repr=False)
    _open: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack, repr=False)

    def begin(self, total: int) -> None:
        """A long job begins, whose first update may be far off: show the bar at once."""
        if self.show and self._bar is None:
            self._bar, self._task = _rich_bar(self.label, total)

    def update(self, done: int, total: int, **figures: float) -> None:
        if self._interrupt is not None and self._interrupt.requested:
            self._interrupt.requested = False
            raise KeyboardInterrupt
        if self.worth_keeping and time.monotonic() > self.deadline:
            self.stopped = True
            raise KeyboardInterrupt
        if not self.show:
            return
        if self._bar is None:
            if time.monotonic() - self._start < self.delay:
                return
            self._bar, self._task = _rich_bar(self.label, total)
        text = "  ".join(f"{k} {v:,.6g}" for k, v in figures.items())
        rate = done / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(self._task, completed=done, total=total, figures=f"{rate:,.0f}/s  {text}")

    def counter(self, total: int) -> Callable[[], None]:
        """To be called once after each of ``total`` jobs."""
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            self.update(done, total)

        return tick

    @property
    def expired(self) -> bool:
        """Whether the deadline has come: for an engine whose every iteration leaves something to keep."""
        self.stopped |= time.monotonic() > self.deadline
        return self.stopped

    def save(self, state: dict[str, np.ndarray]) -> None:
        """Write a checkpoint (a sibling file, then renamed); does nothing unless one was asked for."""
        if self.checkpoint_path is not None:
            from ppl_gen.errors import StorageError, warn
            from ppl_gen.storage import write_checkpoint

            try:
                write_checkpoint(self.checkpoint_path, state, self.tag)
            except StorageError as error:  # a full disk is no reason to lose the fit as well
                warn(f"No checkpoint any more: {error}")
                self.checkpoint_path = None

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

    @property
    def interrupted_late(self) -> bool:
        """Whether Ctrl-C came after the last update, when all the work was done."""
        return self._interrupt is not None and self._interrupt.requested

    def __enter__(self) -> Monitor:
        if self.gentle:
            self._interrupt = self._open.enter_context(gentle_interrupt(lambda: self.worth_keeping, tell=True))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._open.close()


@contextlib.contextmanager
def gentle_interrupt(when: Callable[[], bool] = lambda: True, tell: bool = False) -> Iterator[SimpleNamespace]:
    """Within, the first Ctrl-C only sets ``requested`` of what is yielded; the next one stops at once.

    :param when: whether to be gentle now; where it is not, the first one stops at once too.
    :param tell: say so on stderr. Outside the main thread, where Python sends no interrupts, and in a job for which the
        shell has turned them off, this does nothing.
    """
    found = SimpleNamespace(requested=False)

    def hear(*_: object) -> None:
        if found.requested or not when():
            raise KeyboardInterrupt
        found.requested = True
        if tell:
            sys.stderr.write("stopping after this piece of work (Ctrl-C again: at once)\n")

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield found
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)


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
