"""Progress of a training run: a live bar in a terminal or notebook, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

LINE_SECONDS = 10.0  # between plain lines: a log should not fill up


@dataclass(frozen=True)
class Tick:
    """Where a run stands after `step` of `total` steps. `rate` is simulated MACs a second of host time."""

    step: int
    total: int
    loss: float | None = None
    l2: float | None = None
    rate: float | None = None
    eta: float | None = None


class Progress(Protocol):
    """Shows ticks; a context manager, so that an interrupted run leaves a clean terminal."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def show(self, tick: Tick) -> None: ...


def make_progress(title: str, enabled: bool = True, stream: TextIO | None = None) -> Progress:
    """The display that suits `stream` (default stderr): silent, live, or plain lines."""
    if not enabled:
        return Silent()
    from rich.console import Console

    console = Console(file=stream or sys.stderr)
    if console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal):
        return Live(title, console)
    return Lines(title, stream or sys.stderr)


def describe(tick: Tick) -> str:
    """`step 20/100  loss 3.1e-01  l2 4.20e-02  1.2 GMAC/s  ETA 0:14`."""
    parts = [f"step {tick.step}/{tick.total}"]
    if tick.loss is not None:
        parts.append(f"loss {tick.loss:.3e}")
    if tick.l2 is not None:
        parts.append(f"l2 {tick.l2:.2e}")
    if tick.rate is not None:
        parts.append(f"{tick.rate / 1e9:.2f} GMAC/s")
    if tick.eta is not None:
        parts.append(f"ETA {duration(tick.eta)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`1:02:03`, `4:05`, rounded up to a second."""
    whole = max(0, int(-(-seconds // 1)))
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return

    def show(self, tick: Tick) -> None:
        return


class Lines(Silent):
    """One line for the first tick, one every `LINE_SECONDS`, one for the last."""

    def __init__(self, title: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._stream, self._clock = title, stream, clock
        self._last: float | None = None

    def show(self, tick: Tick) -> None:
        now = self._clock()
        if self._last is not None and now - self._last < LINE_SECONDS and tick.step < tick.total:
            return
        self._last = now
        print(f"{self._title}: {describe(tick)}", file=self._stream, flush=True)


class Live(Silent):
    """A rich progress bar."""

    def __init__(self, title: str, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=False,
        )
        self._task = self._bar.add_task(title, total=None, text="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, tick: Tick) -> None:
        self._bar.update(self._task, total=tick.total, completed=tick.step, text=describe(tick))
