"""Looks at a training run while it runs: when, for how long, and what a failed step began with.

A look costs host time, never a bit: it evaluates a few points of the step on the IR with copies of the weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pintac.errors import IRError
from pintac.report import diagnostics
from pintac.report.diagnostics import Finding, Settings, show
from pintac.report.probe import Probe, Sample, from_text
from pintac.report.purpose import from_meta

if TYPE_CHECKING:
    from pintac.api.sigma import SigmaLook
    from pintac.program import Program

SHARE = 0.02
"""Share of the host time of a run that looking may take, but for the looks that are taken whatever they take."""
SETTLED_LOOKS, LONG_RUN = 2, 100
"""The first look always; in runs of so many steps also so many from step `SETTLED` on, without which some faults of
runs of a few seconds would never be found."""
SNAPSHOT_SHARE = 0.005
"""The same for copies of the weights, from which a step that failed is repeated."""


class Watched(Protocol):
    """A session: what it holds, and how to put it back."""

    @property
    def step_number(self) -> int: ...

    def step(self, n: int = 1) -> None: ...

    def state_arrays(self) -> dict[str, np.ndarray]: ...

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...


Params = Callable[[int], Mapping[str, float]]
"""The parameter block of a step by name, seed and step number included."""


class Watch:
    """Diagnoses a run: call it after every step; `findings` are what it found, each said once."""

    def __init__(
        self,
        session: Watched,
        probe: Callable[[], Probe | None],
        params: Params,
        meta: Mapping[str, Any],
        say: Callable[[Finding], None] = show,
        clock: Callable[[], float] = time.perf_counter,
        share: float | None = None,
        sigma: SigmaLook | None = None,
    ) -> None:
        self.findings: list[Finding] = []
        self.seconds = 0.0
        self._session, self._params, self._say, self._clock = session, params, say, clock
        self._share = SHARE if share is None else share
        self._sigma = sigma
        self._settings = Settings.of(meta)
        self._make_probe, self._made = probe, False
        self._probe: Probe | None = None
        self._samples: list[Sample] = []
        self._losses: list[float] = []
        self._start = clock()
        self._look_seconds = self._snapshot_seconds = 0.0
        self._last: Any = session.snapshot()
        self._next_snapshot = session.step_number + 1

    def before_steps(self, total: int) -> None:
        """What can be said before the first step of `total`."""
        if "lr" in self._params(0):
            for finding in diagnostics.spent(lambda t: self._params(t)["lr"], total):
                self._found(finding)
        before, done = self._clock(), self._session.step_number
        if done < total:
            self._look_at_sigma(done, done + 1)
        self._look_seconds += self._clock() - before

    def after_step(self, loss: float | None, total: int) -> bool:
        """Look at the session after a step; whether training should stop."""
        before = self._clock()
        stop = self._look(loss, total)
        self.seconds += self._clock() - before
        return stop

    def as_json(self) -> tuple[dict[str, Any], ...]:
        """The findings for the JSON of a result."""
        return tuple(finding.as_dict() for finding in self.findings)

    # --- when ---------------------------------------------------------------------------------------------------------

    def _look(self, loss: float | None, total: int) -> bool:
        step = self._session.step_number
        if loss is not None and not math.isfinite(loss):
            return self._not_finite(step, loss)
        if loss is not None:
            self._losses.append(loss)
        if due(step) or step == total:
            for finding in diagnostics.losses(self._losses, self._settings, step == total):
                self._found(finding)
            if self._affordable(step, total):
                self._sample(step)
        if step >= self._next_snapshot:
            before = self._clock()
            self._last = self._session.snapshot()
            self._snapshot_seconds += self._clock() - before
            elapsed = self._clock() - self._start
            pause = self._snapshot_seconds / (SNAPSHOT_SHARE * elapsed) if elapsed > 0 else 1.0
            self._next_snapshot = step + max(1, math.ceil(pause))
        return False

    def _affordable(self, step: int, total: int) -> bool:
        looks = len(self._samples)
        settled = sum(sample.step >= diagnostics.SETTLED for sample in self._samples)
        if not looks or (total >= LONG_RUN and step >= diagnostics.SETTLED and settled < SETTLED_LOOKS):
            return True
        expected = self._look_seconds + self._look_seconds / looks
        return expected <= self._share * (self._clock() - self._start)

    # --- what ---------------------------------------------------------------------------------------------------------

    def _sample(self, step: int) -> None:
        before = self._clock()
        probe = self._the_probe()
        if probe is not None:
            sample = probe.sample(step, self._params(step), self._session.state_arrays())
            self._samples.append(sample)
            for test in (diagnostics.exponents, diagnostics.masking, diagnostics.vanished):
                for finding in test(sample, self._settings):
                    self._found(finding)
            for overall in (diagnostics.rounding, diagnostics.low_rank):
                for finding in overall(self._samples, self._settings):
                    self._found(finding)
        self._look_at_sigma(step, step)
        self._look_seconds += self._clock() - before

    def _look_at_sigma(self, step: int, said: int) -> None:
        if self._sigma is None or any(f.kind == diagnostics.LONG for f in self.findings):
            return
        seed = int(self._params(step)["seed"])
        for finding in self._sigma(seed, step, self._session.state_arrays(), said):
            self._found(finding)

    def _the_probe(self) -> Probe | None:
        if not self._made:
            self._made = True
            try:
                self._probe = self._make_probe()
            except IRError:  # sets of points that cannot be cut: only the loss is watched
                self._probe = None
        return self._probe

    def _not_finite(self, step: int, loss: float) -> bool:
        """Repeat the steps since the last copy of the weights up to the failed one, and look where it begins."""
        states = self._session.state_arrays()
        ends = not all(np.isfinite(value).all() for value in states.values())
        if not any(f.kind == "not finite" for f in self.findings):
            failed = self._session.snapshot()
            self._session.restore(self._last)
            while self._session.step_number < step - 1:
                self._session.step()
            before = self._session.state_arrays()
            self._session.restore(failed)
            probe = self._the_probe()
            found = None if probe is None else probe.first_nonfinite(self._params(step - 1), before)
            op, place = (None, None) if found is None else (found[0].name, found[1])
            self._found(diagnostics.not_finite(step, loss, op, place, ends, self._settings))
        return ends

    def _found(self, finding: Finding) -> None:
        if all(f.kind != finding.kind for f in self.findings):
            self.findings.append(finding)
            self._say(finding)


def due(step: int) -> bool:
    """1, 2, 5, 10, 20, 50, 100, ..."""
    while step and step % 10 == 0:
        step //= 10
    return step in (1, 2, 5)


def watch_program(session: Watched, program: Program, seed: int) -> Watch:
    """A watch over a session of a program; one that does not hold its step as IR is watched by its loss alone."""

    def probe() -> Probe | None:
        if "probe" not in program.meta:
            return None
        data = {name.removeprefix("data:"): array for name, array in program.data.items()}
        return Probe(from_text(program.meta["probe"]), from_meta(program.meta, "step"), data)

    return Watch(session, probe, parameters_of(program.params, program.param_table, seed), program.meta)


def parameters_of(names: Sequence[str], table: np.ndarray, seed: int) -> Params:
    """The parameter block of each step from its table; the last row holds for all later ones."""

    def params(step: int) -> dict[str, float]:
        row = table[min(step, len(table) - 1)].view(np.float32)
        return {**dict(zip(names, map(float, row), strict=True)), "seed": seed, "step": step}

    return params
