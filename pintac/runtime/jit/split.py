"""A program with its long accumulations in pieces: the same bits, and something to do for every thread.

A weight gradient of a wide layer is one sum over all points, added to where it lies by one matmul after the other. Cut
along the rows of the result, it is as many independent sums of the same terms in the same order.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pintac import isa
from pintac.isa import Instruction, Opcode, Operand
from pintac.isa.encoding import encode_program
from pintac.program import Program

LONG = 700_000
"""Multiply-accumulates of a matmul that is worth cutting: some 8 microseconds."""
_BLOCK = 4


class Split(NamedTuple):
    """A program of one entry, cut for a team.

    `number` [instructions] are those of the whole program, `thread` whose piece an instruction is; -1: a whole one.
    """

    program: Program
    number: np.ndarray
    thread: np.ndarray


def split(program: Program, entry: str, threads: int) -> Split:
    """This entry alone, with a piece of every long accumulating matmul for each thread."""
    start, stop = program.entry(entry)
    instructions: list[Instruction] = []
    number: list[int] = []
    thread: list[int] = []
    for pc in range(start, stop):
        pieces = _pieces(program.instructions[pc], threads)
        instructions += pieces
        number += [pc] * len(pieces)
        thread += list(range(threads)) if len(pieces) > 1 else [-1]
    made = replace(
        program,
        code=encode_program(instructions),
        entries={entry: (0, len(instructions))},
        debug=tuple(program.debug[pc] for pc in number) if program.debug else (),
    )
    return Split(made, np.array(number, np.int64), np.array(thread, np.int64))


def _pieces(instruction: Instruction, parts: int) -> list[Instruction]:
    """The instruction, cut along the rows of its result if it is a long accumulation."""
    if instruction.opcode is not Opcode.MATMUL or not instruction["acc"]:
        return [instruction]
    m, n, k = (instruction[name] for name in "mnk")
    blocks = -(-m // _BLOCK)
    if m * n * k < LONG or blocks < parts:
        return [instruction]
    left, right, result = (instruction.operand(g) for g in ("s0", "s1", "d0"))
    header = {f.name: instruction[f.name] for f in isa.DEFS[Opcode.MATMUL].header}
    pieces = []
    for first, last in pairwise(min(blocks * i // parts * _BLOCK, m) for i in range(parts + 1)):
        operands = {
            "s0": _moved(left, 0, first) if instruction["ta"] else _moved(left, first, 0),
            "s1": right,
            "d0": replace(result, addr=result.addr + 4 * first * result.hi),
        }
        pieces.append(isa.make(Opcode.MATMUL, operands, **(header | {"m": last - first})))
    return pieces


def _moved(o: Operand, row: int, col: int) -> Operand:
    """An SMX operand from this element on; rows and columns are multiples of 4."""
    block = row // _BLOCK * o.hi + col // _BLOCK
    return replace(o, addr=o.addr + block * 2 * o.bits, eaddr=o.eaddr + block)
