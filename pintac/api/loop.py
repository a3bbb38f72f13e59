"""The training loop: steps, live error, progress, checkpoints, Ctrl-C. It does not care what executes the steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pintac.report.progress import Tick, make_progress
from pintac.runtime.interrupt import Interrupts

L2_SECONDS = 2.0  # between two measurements of the live error
HISTORY_POINTS = 50  # measurements kept in the result, evenly spread over the steps
CHECKPOINT_SECONDS = 30.0

History = list[tuple[int, float | None, float | None]]


class Steps(Protocol):
    """What runs: a session on the simulator, on the evaluator, or the float twin."""

    @property
    def step_number(self) -> int:
        """Steps done."""
        ...

    def advance(self) -> float | None:
        """Run one step; its loss."""
        ...


@dataclass
class Outcome:
    """How a loop ended. The first step, which also compiles the engine, is timed apart from the others."""

    history: History = field(default_factory=list)
    steps: int = 0
    first_seconds: float = 0.0
    other_seconds: float = 0.0
    interrupted: bool = False
    stopped: bool = False

    @property
    def seconds_per_step(self) -> float | None:
        """Host seconds of a step in a warm process; of the only step if there was but one."""
        if self.steps > 1:
            return self.other_seconds / (self.steps - 1)
        return self.first_seconds if self.steps else None

    def count(self, seconds: float) -> None:
        """Add a step."""
        if self.steps:
            self.other_seconds += seconds
        else:
            self.first_seconds = seconds
        self.steps += 1


def drive(
    steps: Steps,
    total: int,
    *,
    title: str,
    progress: bool = True,
    measure: Callable[[], float] | None = None,
    macs: int | None = None,
    save: Callable[[], None] | None = None,
    history: History | None = None,
    watch: Callable[[float | None, int], bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Run until `total` steps are done, counted from the start of training (a resumed run goes on where it was).

    `measure` gives the current l2 error, `macs` a step's multiply-accumulates (for the rate shown), `save` writes a
    checkpoint: every half minute, at the end, and on Ctrl-C, which ends the loop after the running step. `history` is
    that of a resumed run until now; the loop appends to it. `watch` is told the loss of each step and `total`, and says
    whether to stop.
    """
    outcome = Outcome([] if history is None else history)
    every = max(1, total // HISTORY_POINTS)
    l2: float | None = None
    measured = saved = clock()
    with Interrupts() as interrupts, make_progress(title, progress) as display:
        while steps.step_number < total and not interrupts.asked and not outcome.stopped:
            before = clock()
            loss = steps.advance()
            now = clock()
            outcome.count(now - before)
            done = steps.step_number
            keep = done % every == 0 or done == total
            if measure is not None and (keep or now - measured > L2_SECONDS):
                l2 = measure()
                measured = clock()
            if keep:
                outcome.history.append((done, loss, l2))
            per_step = outcome.seconds_per_step or 0.0
            rate = macs / per_step if macs and per_step else None
            display.show(Tick(done, total, loss, l2, rate, per_step * (total - done)))
            if watch is not None:
                outcome.stopped = watch(loss, total)
            if save is not None and clock() - saved > CHECKPOINT_SECONDS:
                save()
                saved = clock()
        outcome.interrupted = steps.step_number < total and not outcome.stopped
    if save is not None:
        save()
    return outcome
