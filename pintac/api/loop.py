"""The training loop: steps, live error, progress, checkpoints, Ctrl-C. It does not care what executes the steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pintac.api.following import Following, Log
from pintac.errors import PintacError
from pintac.report.files import say
from pintac.report.progress import Tick, make_progress
from pintac.runtime.history import Row
from pintac.runtime.interrupt import Interrupts

L2_SECONDS = 2.0  # between two measurements of the live error
CHECKPOINT_SECONDS = 30.0

_NOT_FINITE = "after step {}: the weights are no numbers any more"


class Steps(Protocol):
    """What runs: a session on the simulator, on the evaluator, or the float twin."""

    @property
    def step_number(self) -> int:
        """Steps done."""
        ...

    def advance(self) -> Mapping[str, float]:
        """Run one step; its `loss`, and that of each term as `loss:<term>`."""
        ...

    def answers(self) -> Mapping[str, Any]:
        """The problem's own parameters of few elements, now."""
        ...


@dataclass
class Outcome:
    """How a loop ended. The first step, which also compiles the engine, is timed apart from the others.

    `stopped` says why it ended before its last step, if not by Ctrl-C; `notes` what could not be written on the way.
    `failed` is what the callback raised, which ended it.
    """

    history: list[Row] = field(default_factory=list)
    steps: int = 0
    first_seconds: float = 0.0
    other_seconds: float = 0.0
    interrupted: bool = False
    stopped: str | None = None
    notes: list[str] = field(default_factory=list)
    failed: BaseException | None = None

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

    def note(self, text: str) -> None:
        """Something failed that is no reason to end a run; said once."""
        if text not in self.notes:
            self.notes.append(text)
            say(f"note: {text}")


def drive(
    steps: Steps,
    total: int,
    *,
    title: str,
    following: Following | None = None,
    measure: Callable[[], float] | None = None,
    macs: int | None = None,
    save: Callable[[], None] | None = None,
    history: list[Row] | None = None,
    watch: Callable[[float | None, int], bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Run until `total` steps are done, counted from the start of training (a resumed run goes on where it was).

    `following` says which steps are measured, who is told of them and when to stop; only these steps stop a run, so
    that the speed of the host decides nothing. `measure` gives the current l2 error, `macs` a step's
    multiply-accumulates (for the rate shown), `save` writes a checkpoint: every half minute, at the end, and on Ctrl-C,
    which ends the loop after the running step. `history` is that of a resumed run until now; the loop appends to it.
    `watch` is told the loss of each step and `total`, and says whether the weights are lost. A checkpoint or a line of
    the log that cannot be written ends no run; what a callback raises does, but is not raised here (`Outcome.failed`):
    the checkpoint and the results of the steps done come first.
    """
    outcome = Outcome([] if history is None else history)
    told = following or Following()
    log = None if told.log is None else Log(told.log, steps.step_number)
    l2: float | None = None
    measured = saved = clock()
    try:
        with Interrupts() as interrupts, make_progress(title, told.progress) as display:
            while steps.step_number < total and not (interrupts.asked or outcome.stopped or outcome.failed):
                before = clock()
                metrics = steps.advance()
                now = clock()
                outcome.count(now - before)
                done, loss = steps.step_number, metrics.get("loss")
                keep = told.due(done, total)
                if measure is not None and (keep or now - measured > L2_SECONDS):
                    l2 = measure()
                    measured = clock()
                per_step = outcome.seconds_per_step or 0.0
                rate = macs / per_step if macs and per_step else None
                display.show(Tick(done, total, loss, l2, rate, per_step * (total - done)))
                if keep:
                    row = Row(done, loss, l2, {**_of_terms(metrics), **steps.answers()})
                    outcome.history.append(row)
                    if log is not None and (failed := log.write(row)):
                        outcome.note(failed)
                    try:
                        reason = told.verdict(row)
                        outcome.stopped = reason if done < total else None
                    except KeyboardInterrupt:
                        interrupts.asked = True
                    except BaseException as error:  # noqa: BLE001  the user's own; it is raised when all is kept
                        outcome.failed = error
                if watch is not None and watch(loss, total):
                    outcome.stopped = _NOT_FINITE.format(done)
                if save is not None and clock() - saved > CHECKPOINT_SECONDS:
                    _save(save, outcome)
                    saved = clock()
            outcome.interrupted = steps.step_number < total and not (outcome.stopped or outcome.failed)
    finally:
        if log is not None:
            log.close()
    if save is not None:
        _save(save, outcome)
    return outcome


def _save(save: Callable[[], None], outcome: Outcome) -> None:
    try:
        save()
    except PintacError as error:
        outcome.note(str(error))


def _of_terms(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("loss:")}
