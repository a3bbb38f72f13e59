"""The rows of a team replayed byte by byte, in any order that its waits allow, on versions instead of values.

A version is the position of the stream that wrote a byte; -1: what was there before. Shares no code with what makes the
rows: bytes come from `isa.regions.regions`, the stream from `listing.walk`.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from pintac import isa
from pintac.isa import Instruction, Opcode, Space
from pintac.isa.regions import regions
from pintac.program import Program
from pintac.runtime.jit import plan, sharing, split, team
from pintac.runtime.jit.compiler import library
from pintac.runtime.listing import walk
from pintac.runtime.state import MachineState
from pintac.timeline import parameter_block

Place = tuple[int, int]
"""Space and byte."""


class WrongVersionError(AssertionError):
    """Somebody read what somebody else should not have written yet, or should have."""


def touched(instruction: Instruction, write: bool, index: tuple[int, ...] = (0,) * isa.LOOP_LEVELS) -> set[Place]:
    """The bytes that an instruction reads, or writes."""
    return {
        (int(r.space), r.start + j * r.outer_stride + i * r.stride + byte)
        for r in regions(instruction, list(index))
        if r.write == write
        for j in range(r.outer)
        for i in range(r.count)
        for byte in range(r.size)
    }


class Replay:
    """A program's entry `step` for so many threads."""

    def __init__(self, program: Program, threads: int) -> None:
        cut, _, given = split.split(program, "step", threads)
        self.program = cut
        params = parameter_block(program)
        shared = sharing.share(cut, "step", params, threads, given)
        self.of_machine = shared.of_machine
        make = partial(plan.build, cut, MachineState(cut), "step", library().addresses)
        made = make()
        steps, flags = plan.steps_by_instruction(made, cut), plan.cleared_flags(made)
        self.instruction_of = made.instruction_of
        self.rows = team.rows_of_threads(cut, shared, threads, steps, flags)
        # What everybody should see: the stream in its own order.
        self.reads: dict[tuple[int, ...], dict[Place, int]] = {}
        self.position: dict[tuple[int, ...], int] = {}
        last: dict[Place, int] = {}
        work = {Opcode.MATMUL, Opcode.VPU, Opcode.LOAD, Opcode.STORE}
        for position, (pc, index) in enumerate(walk(cut, "step", params)):
            instruction = cut.instructions[pc]
            if instruction.opcode in work:
                key = (pc, *index)
                self.position[key] = position
                self.reads[key] = {place: last.get(place, -1) for place in touched(instruction, False, index)}
                last.update(dict.fromkeys(touched(instruction, True, index), position))
        self.last = last

    def run(self, seed: int) -> None:
        """One order. Raises `WrongVersionError`, or `AssertionError` if nobody can go on."""
        draw = np.random.default_rng(seed)
        threads = len(self.rows)
        memory: list[dict[Place, int]] = [{} for _ in range(threads)]
        done, seen = [0] * threads, set()
        patience = draw.choice([1, 3, 40])  # how long a thread goes on before another one may
        while any(done[t] < len(self.rows[t]) for t in range(threads)):
            able = [t for t in range(threads) if done[t] < len(self.rows[t]) and self._able(t, done)]
            assert able, "every thread waits"
            t = int(draw.choice(able))
            for _ in range(int(draw.integers(1, patience + 1))):
                if done[t] < len(self.rows[t]) and self._able(t, done):
                    self._do(t, self.rows[t][done[t]], memory, seen)
                    done[t] += 1
        assert seen == set(self.position), "an execution is missing"
        for place, version in self.last.items():
            if memory[0].get(place, -1) != version:
                raise WrongVersionError(f"{place} ends as {memory[0].get(place, -1)}, not {version}")

    def _able(self, t: int, done: list[int]) -> bool:
        row = self.rows[t][done[t]]
        return row[0] != team.WAIT or done[int(row[1])] >= row[2]

    def _do(self, t: int, row: np.ndarray, memory: list[dict[Place, int]], seen: set[tuple[int, ...]]) -> None:
        code, *words = (int(w) for w in row)
        if code == team.COPY:
            who, space, first, size, count, stride = words[:6]
            for i in range(count):
                for byte in range(first + i * stride, first + i * stride + size):
                    memory[t][space, byte] = memory[who].get((space, byte), -1 if who == 0 else -2)
        elif code == team.RUN:
            pc = int(self.instruction_of[words[0]])
            key = (pc, *words[1 : 1 + isa.LOOP_LEVELS])
            assert key not in seen, "an execution is there twice"
            seen.add(key)

            def of(place: Place) -> dict[Place, int]:
                machine = t == 0 or (place[0] == Space.DRAM and pc in self.of_machine)
                return memory[0] if machine else memory[t]

            for place, version in self.reads[key].items():
                found = of(place).get(place, -1 if of(place) is memory[0] else -2)
                if found != version:
                    raise WrongVersionError(f"{key} reads version {found} of {place}, not {version}")
            instruction = self.program.instructions[pc]
            for place in touched(instruction, True, key[1:]):
                of(place)[place] = self.position[key]
