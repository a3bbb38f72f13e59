"""The jit engine: executes a program with compiled kernels, bit-identical to the reference engine."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from pintac.errors import ExecutionError, UsageError
from pintac.isa import NO_PARAM, Opcode, Space
from pintac.program import Program
from pintac.runtime.jit import interpreter, plan, sharing, split, team
from pintac.runtime.jit.compiler import function_pointer, library
from pintac.runtime.listing import execution_error, loop_count
from pintac.runtime.memory import aligned_bytes
from pintac.runtime.state import MachineState

MAX_THREADS = 64


def _yield_function() -> int:
    """Address of a function that gives the processor to another thread; 0 where none is known."""
    if sys.platform == "win32":
        return 0
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


@dataclass(frozen=True, eq=False)
class _Team:
    """An entry for several threads: their plans and rows; `number` are those of its instructions in the program."""

    plans: tuple[plan.Plan, ...]
    rows: tuple[np.ndarray, ...]
    number: np.ndarray


class JitEngine:
    """Executes a program on a `MachineState`.

    threads: how many compute together. Every instruction is executed by one of them and no sum is taken apart, so the
    bits are the same for any number (`sharing`, `team`). Raises `UsageError` for less than one.
    isa: "avx512", "portable" or "auto" (see `compiler.lowering`); all leave the same bits.
    The state's arrays must stay where they are (write into them, do not replace them).
    """

    def __init__(self, program: Program, state: MachineState, threads: int = 1, isa: str = "auto") -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"{threads} threads", hint=f"between 1 and {MAX_THREADS}")
        self.program = program
        self.state = state
        self.threads = threads
        self._library = library(isa)
        self._use("interpreter", interpreter.write_interpreter)
        self._plans: dict[str, plan.Plan] = {}
        self._parametric: dict[str, list[int]] = {}  # loops whose counts are parameters
        self._teams: dict[tuple[str, bytes], _Team] = {}
        self._others = ThreadPoolExecutor(threads - 1, "pintac") if threads > 1 else None
        self._memories = [team.ThreadMemory(state) for _ in range(threads - 1)]
        self._shared = aligned_bytes(8 * interpreter.TEAM_WORDS * (1 + threads), 0).view(np.int64)
        memories: list[MachineState | team.ThreadMemory] = [state, *self._memories]
        self._bases = np.array([[m.padded(space).ctypes.data for space in Space] for m in memories], np.int64)
        self._yield = _yield_function()

    def _use(self, key: str, writer: plan.Writer) -> None:
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        address = self._library.addresses({key: writer})[key]
        self._call = function_pointer(address, word, pointer, word, pointer, pointer, pointer, pointer)

    def instrument(self) -> None:
        """From now on one thread counts clock ticks and executions in the plan's steps (see `interpreter.TICKS`)."""
        self._use("interpreter timed", partial(interpreter.write_interpreter, timed=True))

    @property
    def instruction_set(self) -> str:
        """The code style in use: "avx512" or "portable"."""
        return self._library.style.name

    def prepare(self, entry: str) -> plan.Plan:
        """Compile what an entry needs (`run` does it on first use). Raises `ExecutionError` for a bad access."""
        if entry not in self._plans:
            self._plans[entry] = plan.build(self.program, self.state, entry, self._library.addresses)
        return self._plans[entry]

    def macs(self, entry: str) -> int:
        """Multiply-accumulates of one run of an entry, parametric loops at their maximum."""
        return self.prepare(entry).macs

    def run(self, entry: str) -> None:
        """Run an entry; see `Engine.run`."""
        p = self.prepare(entry)
        counts = self._loop_counts(entry)
        if self._others is None:
            arrays = (p.steps, p.records, p.arguments, self.state.params, p.flags)
            steps, *rest = (a.ctypes.data for a in arrays)
            step = self._call(steps, len(p.instruction_of), *rest)
            if step >= 0:
                raise self._bad_row(int(p.instruction_of[step]))
            return
        crew = self._team(entry, counts)
        self._shared[:] = 0
        waiting = [self._others.submit(self._run, thread, crew) for thread in range(1, self.threads)]
        failed = [self._run(0, crew), *(other.result() for other in waiting)]
        for memory in self._memories:
            self.state.status |= memory.status
            memory.status[:] = 0
        for p, step in zip(crew.plans, failed, strict=True):
            if step >= 0:
                raise self._bad_row(int(crew.number[p.instruction_of[step]]))

    def _team(self, entry: str, counts: np.ndarray) -> _Team:
        """The rows of all threads, for these counts of parametric loops."""
        key = (entry, counts.tobytes())
        if key not in self._teams:
            program, number, given = split.split(self.program, entry, self.threads)
            shared = sharing.share(program, entry, self.state.params, self.threads, given)
            make = partial(plan.build, program, self.state, entry, self._library.addresses)
            plans = (make(), *(make(memory, shared.of_machine) for memory in self._memories))
            steps, flags = plan.steps_by_instruction(plans[0], program), plan.cleared_flags(plans[0])
            rows = team.rows_of_threads(program, shared, self.threads, steps, flags)
            self._teams[key] = _Team(plans, tuple(rows), number)
        return self._teams[key]

    @cached_property
    def _team_call(self) -> Callable[..., int]:
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        address = self._library.addresses({"team interpreter": interpreter.write_team_interpreter})["team interpreter"]
        types = (pointer, word, pointer, pointer, pointer, pointer, pointer, word, pointer, pointer)
        return function_pointer(address, word, *types)

    def _run(self, thread: int, crew: _Team) -> int:
        """One thread's part of a run: -1, or the step where it failed, or that another thread did."""
        p, rows = crew.plans[thread], crew.rows[thread]
        arrays = (p.steps, p.records, p.arguments, p.flags, self._shared)
        return self._team_call(
            rows.ctypes.data, len(rows), *(a.ctypes.data for a in arrays), thread, self._bases.ctypes.data,
            self._yield or None,
        )  # fmt: skip

    def _bad_row(self, pc: int) -> ExecutionError:
        return execution_error(self.program, pc, "a numbered row lies outside DRAM")

    def _loop_counts(self, entry: str) -> np.ndarray:
        """How often each parametric loop runs now, int64. Raises `ExecutionError` above its static maximum."""
        if entry not in self._parametric:
            listing = ((pc, self.program.instructions[pc]) for pc in range(*self.program.entry(entry)))
            loops = [pc for pc, i in listing if i.opcode is Opcode.LOOP and i["param"] != NO_PARAM]
            self._parametric[entry] = loops
        return np.array([loop_count(self.program, pc, self.state.params) for pc in self._parametric[entry]], np.int64)
