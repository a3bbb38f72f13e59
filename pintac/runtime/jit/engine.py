"""The jit engine: executes a program with compiled kernels, bit-identical to the reference engine."""

from __future__ import annotations

import ctypes
from functools import partial

from pintac.isa import NO_PARAM, Opcode
from pintac.program import Program
from pintac.runtime.jit import interpreter, plan
from pintac.runtime.jit.compiler import function_pointer, library
from pintac.runtime.listing import execution_error, loop_count
from pintac.runtime.state import MachineState


class JitEngine:
    """Executes a program on a `MachineState`.

    threads: part of the interface of engines; this one executes in the calling thread.
    isa: "avx512", "portable" or "auto" (see `compiler.lowering`); all leave the same bits.
    The state's arrays must stay where they are (write into them, do not replace them).
    """

    def __init__(self, program: Program, state: MachineState, threads: int = 1, isa: str = "auto") -> None:
        self.program = program
        self.state = state
        self._library = library(isa)
        self._use("interpreter", interpreter.write_interpreter)
        self._plans: dict[str, plan.Plan] = {}

    def _use(self, key: str, writer: plan.Writer) -> None:
        address = self._library.addresses({key: writer})[key]
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        self._call = function_pointer(address, word, pointer, word, word, pointer, pointer, pointer, pointer)

    def instrument(self) -> None:
        """From now on count clock ticks and executions in the plan's steps (see `interpreter.TICKS`)."""
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
        self._check_parameters(entry)
        arrays = (p.steps, p.records, p.arguments, self.state.params, p.flags)
        steps, records, arguments, params, flags = (a.ctypes.data for a in arrays)
        failed = self._call(steps, 0, len(p.instruction_of), records, arguments, params, flags)
        if failed >= 0:
            message = "a numbered row lies outside DRAM"
            raise execution_error(self.program, int(p.instruction_of[failed]), message)

    def _check_parameters(self, entry: str) -> None:
        """Parametric loop counts within their static maximum."""
        start, stop = self.program.entry(entry)
        for pc in range(start, stop):
            instruction = self.program.instructions[pc]
            if instruction.opcode is Opcode.LOOP and instruction["param"] != NO_PARAM:
                loop_count(self.program, pc, self.state.params)
