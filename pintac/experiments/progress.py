"""What is shown while runs are made: a line a finished run with the time that is left, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from pintac.experiments.execute import Event
from pintac.experiments.runs import Run
from pintac.experiments.store import Store
from pintac.report.progress import duration

LINE_SECONDS = 30.0  # between lines about running ones
SIBLINGS = 10  # seeds that are looked at for how long a configuration takes


class RunProgress:
    """Shows events and estimates the time left.

    A run's seconds are estimated from finished runs: of the same configuration, else the mean of those made now.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        store: Store,
        jobs: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._clock, self._jobs = stream or sys.stderr, clock, jobs
        self._total, self._done = len(runs), 0
        self._expected = {run: _expected(run, store) for run in runs}
        self._left = set(runs)
        self._shares: dict[Run, float] = {}
        self._started: dict[Run, float] = {}
        self._taken: list[float] = []
        self._last = clock()

    def show(self, event: Event) -> None:
        """Note an event; print it if it is worth a line."""
        now = self._clock()
        run = event.run
        if event.kind == "started":
            self._started[run] = now
            self._line(f"{run.name} ...")
        elif event.kind == "step":
            self._shares[run] = event.step / event.total
            if now - self._last >= LINE_SECONDS:
                self._line(f"{run.name}: step {event.step}/{event.total}")
        else:
            self._left.discard(run)
            self._shares.pop(run, None)
            taken = now - self._started.pop(run, now)
            self._done += event.kind != "interrupted"
            if event.kind == "finished":
                self._taken.append(taken)
            text = f"{event.kind}, {event.message}" if event.message else event.kind
            self._line(f"{run.name}: {text} ({duration(taken)})")

    def eta(self) -> float | None:
        """Seconds that are left; None while nothing is known of any run."""
        mean = sum(self._taken) / len(self._taken) if self._taken else None
        seconds = 0.0
        for run in self._left:
            expected = self._expected[run] or mean
            if expected is None:
                return None
            seconds += expected * (1 - self._shares.get(run, 0.0))
        return seconds / max(1, min(self._jobs, len(self._left)))

    def _line(self, text: str) -> None:
        self._last = self._clock()
        eta = self.eta()
        left = f", ETA {duration(eta)}" if eta is not None and self._left else ""
        print(f"[{self._done}/{self._total}{left}] {text}", file=self._stream, flush=True)


def _expected(run: Run, store: Store) -> float | None:
    """Seconds that a finished run with another seed took."""
    for seed in range(SIBLINGS):
        done = store.load(run.but(seed=seed))
        if done is not None and done.result.get("sim_seconds_per_step"):
            return float(done.result["sim_seconds_per_step"]) * int(done.result["steps"])
    return None
