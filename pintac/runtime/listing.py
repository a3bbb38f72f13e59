"""Walking a listing with its loops expanded: what every sequential engine does between instructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pintac import isa
from pintac.errors import ExecutionError
from pintac.isa import Opcode
from pintac.program import Program


@dataclass(frozen=True)
class SourceLine:
    """The user's line that an instruction was compiled from."""

    file: str
    line: int


def execution_error(program: Program, pc: int, message: str, hint: str | None = None) -> ExecutionError:
    """An error that names the instruction, the IR op it comes from and the user's source line."""
    origin = program.origin(pc)
    of = f" of {origin.op}" if origin.op else ""
    name = program.instructions[pc].opcode.name.lower()
    place = SourceLine(origin.file, origin.line) if origin.file else None
    return ExecutionError(f"instruction {pc} ({name}{of}): {message}", location=place, hint=hint)


def loop_ends(program: Program) -> dict[int, int]:
    """The `endloop` of every `loop`, by instruction number."""
    ends, open_loops = {}, []
    for pc, instruction in enumerate(program.instructions):
        if instruction.opcode is Opcode.LOOP:
            open_loops.append(pc)
        elif instruction.opcode is Opcode.ENDLOOP:
            ends[open_loops.pop()] = pc
    return ends


def loop_count(program: Program, pc: int, params: np.ndarray) -> int:
    """How often the loop at `pc` runs. Raises `ExecutionError` for a parameter above its static maximum."""
    instruction = program.instructions[pc]
    limit = instruction["count"]
    if instruction["param"] == isa.NO_PARAM:
        return limit
    count = int(params[instruction["param"]])
    if count > limit:
        name = program.params[instruction["param"]]
        raise execution_error(program, pc, f"parameter {name!r} is {count}, the loop runs at most {limit} times")
    return count


def walk(program: Program, entry: str, params: np.ndarray) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(instruction number, loop indices) of everything an entry executes, in order, loops themselves left out.

    Indices of levels that are not open are 0.
    """
    pc, stop = program.entry(entry)
    ends = loop_ends(program)
    starts = {end: start for start, end in ends.items()}
    index, counts = [0] * isa.LOOP_LEVELS, [0] * isa.LOOP_LEVELS
    instructions = program.instructions
    while pc < stop:
        instruction = instructions[pc]
        if instruction.opcode is Opcode.LOOP:
            level = instruction["level"]
            index[level], counts[level] = 0, loop_count(program, pc, params)
            if not counts[level]:
                pc = ends[pc]
        elif instruction.opcode is Opcode.ENDLOOP:
            level = instruction["level"]
            index[level] += 1
            if index[level] < counts[level]:
                pc = starts[pc]
            else:
                index[level] = 0
        else:
            yield pc, tuple(index)
        pc += 1
