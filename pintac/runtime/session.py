"""A run of a program: training steps, inference, live metrics, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pintac import smx
from pintac.errors import CheckpointError, ExecutionError, UsageError
from pintac.program import Program, Symbol
from pintac.runtime.checkpoint import Checkpoint, load_checkpoint
from pintac.runtime.engine import Engine, make_engine
from pintac.runtime.interrupt import Interrupts
from pintac.runtime.state import MachineState, describe
from pintac.runtime.work import Work, count_work

STEP, INFER = "step", "infer"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `l2` is None where it was not measured, `loss` where the program has no such metric."""

    step: int
    total: int
    loss: float | None
    l2: float | None
    steps_per_second: float
    macs_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class RunResult:
    """What a run leaves, finished or interrupted. `steps` counts from the first step ever, `seconds` this call only."""

    steps: int
    seed: int
    loss: float | None
    l2: float | None
    metrics: Mapping[str, float]
    states: Mapping[str, np.ndarray] = field(repr=False)
    history: tuple[tuple[int, float | None, float | None], ...] = field(repr=False)
    work: Work
    seconds: float
    interrupted: bool
    saturated: bool
    nonfinite: bool


class Session:
    """One program on one engine. Between calls the state is that after `step_number` whole steps."""

    def __init__(self, program: Program, engine: str = "jit", seed: int = 0, threads: int = 1) -> None:
        self.program = program
        self.state = MachineState(program)
        self.engine: Engine = make_engine(engine, program, self.state, threads)
        self.engine_name = engine
        self.seed = seed
        self.step_number = 0
        self._u_norm: float | None = None

    # --- steps --------------------------------------------------------------------------------------------------------

    def step(self, n: int = 1) -> None:
        """Run `n` training steps. Raises `ExecutionError` naming instruction and source line."""
        for _ in range(n):
            self.state.set_step(self.step_number, self.seed)
            self.engine.run(STEP)
            self.step_number += 1

    def metrics(self) -> dict[str, float]:
        """`loss` and the other scalars of the last step; empty before the first one."""
        if not self.step_number:
            return {}
        return {s.name: float(self.state.read(s.name).reshape(-1)[0]) for s in self.program.symbols_of("metric")}

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all states (masters, moments), fp32, by name."""
        return dict(self.state.symbols("state"))

    @property
    def saturated(self) -> bool:
        """Whether any block so far exceeded the largest SMX exponent."""
        return bool(self.state.status[0] & smx.FLAG_SATURATED)

    @property
    def nonfinite(self) -> bool:
        """Whether any block so far held an infinity or a NaN."""
        return bool(self.state.status[0] & smx.FLAG_NONFINITE)

    def work(self, entry: str = STEP) -> Work:
        """Instructions, MACs and VPU elements of one run of an entry at the present step."""
        self.state.set_step(self.step_number, self.seed)
        return count_work(self.program, entry, self.state.params)

    # --- inference ----------------------------------------------------------------------------------------------------

    def infer(self, x: np.ndarray) -> np.ndarray:
        """u at points `x` [n, d]: fp32 [n, m].

        The `infer` entry takes a fixed number of points; the last chunk is filled up with its last point.
        """
        source, result = self._only("input"), self._only("output")
        x = np.asarray(x, np.float32)
        if x.ndim != 2 or x.shape[1:] != source.shape[1:]:
            raise ExecutionError(
                f"points of shape {list(x.shape)} given, the program takes [n, {source.shape[1]}]",
                hint="one row a point, one column a coordinate",
            )
        rows = source.shape[0]
        u = np.empty((len(x), *result.shape[1:]), np.float32)
        self.state.set_step(self.step_number, self.seed)
        for start in range(0, len(x), rows):
            chunk = x[start : start + rows]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], rows - len(chunk), axis=0)])
            self.state.write(source.name, filled)
            self.engine.run(INFER)
            u[start : start + rows] = self.state.read(result.name)[: len(chunk)]
        return u

    def _only(self, kind: str) -> Symbol:
        symbols = self.program.symbols_of(kind)
        if len(symbols) != 1 or len(symbols[0].shape) != 2:
            found = ", ".join(f"{s.name} {describe(s)}" for s in symbols) or "none"
            raise ExecutionError(f"inference needs one {kind} symbol [points, width]; the program has: {found}")
        return symbols[0]

    def l2(self) -> float | None:
        """|u_hat - u| / |u| on the stored test points (NUMERICS 9); None without such points, or if u is 0."""
        x, u = self.program.test_x, self.program.test_u
        if x is None or u is None or INFER not in self.program.entries:
            return None
        if self._u_norm is None:
            self._u_norm = float(np.linalg.norm(u.astype(np.float64)))
        if not self._u_norm:
            return None
        difference = self.infer(x).astype(np.float64) - u
        return float(np.linalg.norm(difference)) / self._u_norm

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write what a later session needs to go on bit for bit."""
        arrays = {**self.state.symbols("state"), **self.state.symbols("metric")}
        status = int(self.state.status[0])
        Checkpoint(self.program.digest, self.step_number, self.seed, status, arrays).save(path)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Go back, or on, to a checkpoint of this program; its seed becomes the session's."""
        checkpoint = load_checkpoint(path, self.program.digest)
        wanted = {s.name: s for kind in ("state", "metric") for s in self.program.symbols_of(kind)}
        if set(checkpoint.arrays) != set(wanted):
            odd = sorted(set(checkpoint.arrays) ^ set(wanted))
            raise CheckpointError(f"{path} does not hold the states of this program: {', '.join(odd[:5])}")
        for name, array in checkpoint.arrays.items():
            if array.shape != wanted[name].shape:
                raise CheckpointError(f"{path}: {name!r} has shape {list(array.shape)}, not {describe(wanted[name])}")
        for name, array in checkpoint.arrays.items():
            self.state.write(name, array)
        self.step_number, self.seed = checkpoint.step, checkpoint.seed
        self.state.status[0] = checkpoint.status

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(
        self,
        steps: int,
        callback: Callable[[Progress], None] | None = None,
        *,
        report_every: int = 1,
        l2_every: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 0,
        resume: str | os.PathLike[str] | None = None,
    ) -> RunResult:
        """Run until `steps` steps are done in all (those of a resumed run count), then measure l2.

        callback          is told every `report_every` steps and after the last one
        l2_every          measure l2 also every so many steps (0: only at the end)
        checkpoint        file to write at the end, on Ctrl-C, and every `checkpoint_every` steps
        resume            checkpoint file to start from

        Ctrl-C ends the run after the step in progress; the result then says `interrupted`.
        """
        if steps < 0 or min(report_every, 1) < 1 or min(l2_every, checkpoint_every) < 0:
            raise UsageError(f"cannot run {steps} steps with reports every {report_every}")
        if resume is not None:
            self.load_checkpoint(resume)
        work = self.work()
        first, started = self.step_number, time.perf_counter()
        history: list[tuple[int, float | None, float | None]] = []
        with Interrupts() as interrupts:
            while self.step_number < steps and not interrupts.asked:
                self.step()
                done, now = self.step_number, self.step_number == steps
                l2 = self.l2() if l2_every and done % l2_every == 0 and not now else None
                if done % report_every == 0 or now:
                    loss = self.metrics().get("loss")
                    history.append((done, loss, l2))
                    if callback is not None:
                        rate = (done - first) / max(time.perf_counter() - started, 1e-9)
                        callback(Progress(done, steps, loss, l2, rate, rate * work.macs, (steps - done) / rate))
                if checkpoint is not None and checkpoint_every and done % checkpoint_every == 0 and not now:
                    self.save_checkpoint(checkpoint)
            seconds = time.perf_counter() - started
            if checkpoint is not None:
                self.save_checkpoint(checkpoint)
            metrics, l2 = self.metrics(), self.l2()
            if history:
                history[-1] = (*history[-1][:2], l2) if history[-1][0] == self.step_number else history[-1]
            return RunResult(
                steps=self.step_number,
                seed=self.seed,
                loss=metrics.get("loss"),
                l2=l2,
                metrics=metrics,
                states=self.state_arrays(),
                history=tuple(history),
                work=work,
                seconds=seconds,
                interrupted=self.step_number < steps,
                saturated=self.saturated,
                nonfinite=self.nonfinite,
            )
