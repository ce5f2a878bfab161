"""How the time of one candidate of a comparison is shared out among its fits, and the alarm at the end of it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

TRAINING = 0.55  # of a candidate's time, while it is not known what scores take; the rest is for these and for checks
CHECKING = 0.2  # of a candidate's time, for the checks of the kept fit and its file
GROWTH = 1.25  # of the time of a fold's training, for the kept fit to all rows
KEEPING = 0.6  # of all the time that there is, at most, for the kept fit
LEAST_TRAINING = 2.0  # seconds
AGAIN = 1.0  # seconds after which an alarm rings again, where nobody heard it
CALLBACKS = ("_xla_gc_callback", "remove", "__del__")  # JAX's of the garbage collector, weakref's, and finalizers


class OutOfTime(BaseException):
    """The time of a candidate is over. No Exception, so that nobody on the way takes it for one."""


@dataclasses.dataclass
class Clock:
    """How much of a candidate's time is left for training.

    ``start``, ``seconds``  its share of the time; ``until`` when it has to be done, share or not, as :func:`time.time`
    counts
    """

    start: float
    seconds: float
    until: float = float("inf")
    longest: float = 0.0  # training so far
    ended: float | None = None  # the last training

    @contextlib.contextmanager
    def fitting(self) -> Iterator[None]:
        """Within, a fit is trained."""
        begun = time.time()
        yield
        self.ended = time.time()
        self.longest = max(self.longest, self.ended - begun)

    def training(self, fits: int) -> float:
        """Seconds for the next of so many fits."""
        now = time.time()
        if self.ended is None:  # the first compiles the programs that all use, and has twice the time of each other
            free, shares = TRAINING * self.seconds - (now - self.start), (fits + 1) / 2
        else:
            between = now - self.ended  # scores, which the other fits will have too
            free = self.start + (1 - CHECKING) * self.seconds - now - (fits - 1) * between
            shares = fits
        return max(free / max(shares, 1), LEAST_TRAINING)

    def keeping(self) -> float:
        """Seconds for the fit that is kept: no fewer than any other had, else it would be worse than what was ranked,
        unless there would be no time left to look at it."""
        enough = min(GROWTH * self.longest, KEEPING * (self.until - time.time()))
        return max(self.training(1), enough)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` after so many seconds, where the system has such alarms, in the main thread."""
    able = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not able or seconds == float("inf"):
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        if not _in_callback(frame):
            raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _in_callback(frame: FrameType | None) -> bool:
    """Whether Python is within something that it called by itself: what is raised there is printed and lost."""
    while frame is not None:
        if frame.f_code.co_name in CALLBACKS:
            return True
        frame = frame.f_back
    return False
