"""A program being run: training steps, inference, metrics, checkpoints. The loop around it is `api.loop`."""

from __future__ import annotations

import os

import numpy as np

from pintac import smx
from pintac.errors import CheckpointError, ExecutionError
from pintac.program import Program, Symbol
from pintac.runtime.checkpoint import Checkpoint, load_checkpoint
from pintac.runtime.engine import Engine, make_engine
from pintac.runtime.history import History
from pintac.runtime.state import MachineState, describe
from pintac.runtime.work import Work, count_work

STEP, INFER = "step", "infer"


class Session:
    """One program on one engine. Between calls the state is that after `step_number` whole steps."""

    def __init__(self, program: Program, engine: str = "jit", seed: int = 0, threads: int = 1) -> None:
        self.program = program
        self.state = MachineState(program)
        self.engine: Engine = make_engine(engine, program, self.state, threads)
        self.engine_name = engine
        self.seed = seed
        self.step_number = 0

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

    def snapshot(self) -> tuple[int, dict[str, np.ndarray]]:
        """What `restore` needs to go on from here bit for bit: the step number, states and metrics."""
        return self.step_number, {**self.state.symbols("state"), **self.state.symbols("metric")}

    def restore(self, snapshot: tuple[int, dict[str, np.ndarray]]) -> None:
        """Go back, or on, to a snapshot of this session. Status flags stay as they are."""
        self.step_number, arrays = snapshot
        for name, array in arrays.items():
            self.state.write(name, array)

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

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save_checkpoint(self, path: str | os.PathLike[str], history: History = ()) -> None:
        """Write what a later session needs to go on bit for bit, and the `history` so far."""
        arrays = {**self.state.symbols("state"), **self.state.symbols("metric")}
        status = int(self.state.status[0])
        Checkpoint(self.program.digest, self.step_number, self.seed, status, arrays, history).save(path)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> History:
        """Go back, or on, to a checkpoint of this program; its seed becomes the session's. The history until there."""
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
        return checkpoint.history
