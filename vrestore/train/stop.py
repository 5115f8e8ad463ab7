"""When a run ends before its last step: its time is over, or somebody has asked it to."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType
from typing import Any, Self

AGAIN_S = 2.0  # a launcher hands on the Ctrl-C that its processes have had from the terminal

log = logging.getLogger("vrestore.train")


class Stop:
    """``due()`` after so many seconds, and once the run is asked to end.

    Inside ``with``, which belongs in the main thread, the first Ctrl-C (SIGINT) or polite kill
    (SIGTERM) only asks, so that the step is finished and saved; a later Ctrl-C ends it at once.
    """

    def __init__(self, after_s: float | None = None) -> None:
        self.asked = False
        self._end = None if after_s is None else time.monotonic() + after_s
        self._asked_at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def due(self) -> bool:
        """Whether the run is to end after this step."""
        return self.asked or (self._end is not None and time.monotonic() >= self._end)

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and number == signal.SIGINT and now - self._asked_at > AGAIN_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_at = True, now
            log.info("stopping after this step; Ctrl-C again stops at once, and saves nothing")


def leave_to_main(_: int) -> None:
    """In a process that makes samples: it is not to end before the run that it makes them for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
