"""The jit engine: executes a program with compiled kernels, bit-identical to the reference engine."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from pintac.errors import UsageError
from pintac.isa import NO_PARAM, Opcode, Space
from pintac.program import Program
from pintac.runtime.jit import interpreter, parallel, plan
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


class JitEngine:
    """Executes a program on a `MachineState`.

    threads: how many compute together. Each instruction's result is cut into as many pieces and no sum is taken apart,
    so the bits are the same for any number. Raises `UsageError` for less than one.
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
        self._plans: dict[str, tuple[plan.Plan, ...]] = {}
        self._team = aligned_bytes(8 * interpreter.TEAM_WORDS * (1 + threads), 0).view(np.int64)
        self._status = [aligned_bytes(4, 0).view(np.uint32)[:1] for _ in range(threads)]
        self._yield = _yield_function()
        self._others = ThreadPoolExecutor(threads - 1, "pintac") if threads > 1 else None

    def _use(self, key: str, writer: plan.Writer) -> None:
        address = self._library.addresses({key: writer})[key]
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        types = (pointer, word, word, pointer, pointer, pointer, pointer, pointer, word, pointer)
        self._call = function_pointer(address, word, *types)

    def instrument(self) -> None:
        """From now on count clock ticks and executions in the plan's steps (see `interpreter.TICKS`)."""
        self._use("interpreter timed", partial(interpreter.write_interpreter, timed=True))

    @property
    def instruction_set(self) -> str:
        """The code style in use: "avx512" or "portable"."""
        return self._library.style.name

    def prepare(self, entry: str) -> plan.Plan:
        """Compile what an entry needs (`run` does it on first use); the first thread's plan.

        Raises `ExecutionError` for a bad access.
        """
        if entry not in self._plans:
            make = partial(plan.build, self.program, self.state, entry, self._library.addresses)
            if self.threads == 1:
                self._plans[entry] = (make(),)
            else:
                sizes = [self.state.size(space) for space in Space]
                shares = parallel.share(self.program, entry, self.threads, sizes)
                self._plans[entry] = tuple(
                    make(plan.Share(shares, thread, self.threads, self._status[thread]))
                    for thread in range(self.threads)
                )
        return self._plans[entry][0]

    def macs(self, entry: str) -> int:
        """Multiply-accumulates of one run of an entry, parametric loops at their maximum."""
        self.prepare(entry)
        return sum(p.macs for p in self._plans[entry])

    def run(self, entry: str) -> None:
        """Run an entry; see `Engine.run`."""
        self.prepare(entry)
        plans = self._plans[entry]
        self._check_parameters(entry)
        self._team[:] = 0
        waiting = [self._others.submit(self._run, i, plans[i]) for i in range(1, len(plans))] if self._others else []
        failed = [self._run(0, plans[0]), *(other.result() for other in waiting)]
        for status in self._status if waiting else ():
            self.state.status |= status
            status[:] = 0
        for p, step in zip(plans, failed, strict=True):
            if step >= 0:
                message = "a numbered row lies outside DRAM"
                raise execution_error(self.program, int(p.instruction_of[step]), message)

    def _run(self, thread: int, p: plan.Plan) -> int:
        """One thread's part of a run: -1, or where it failed, or that another thread did."""
        arrays = (p.steps, p.records, p.arguments, self.state.params, p.flags, self._team)
        steps, records, arguments, params, flags, team = (a.ctypes.data for a in arrays)
        last = len(p.instruction_of)
        return self._call(steps, 0, last, records, arguments, params, flags, team, thread, self._yield or None)

    def _check_parameters(self, entry: str) -> None:
        """Parametric loop counts within their static maximum."""
        start, stop = self.program.entry(entry)
        for pc in range(start, stop):
            instruction = self.program.instructions[pc]
            if instruction.opcode is Opcode.LOOP and instruction["param"] != NO_PARAM:
                loop_count(self.program, pc, self.state.params)
