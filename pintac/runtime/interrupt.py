"""Ctrl-C between steps: a run stops where its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Inside, the first SIGINT only sets `asked`; the second one raises KeyboardInterrupt as usual.

    Signals belong to the main thread: in any other this changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._active = False

    def __enter__(self) -> Interrupts:
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._previous = signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._previous)

    def _notice(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
