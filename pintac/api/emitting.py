"""The backend's part: lowered graphs to a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pintac.api import checking
from pintac.api.checking import check
from pintac.api.lowering import Lowered
from pintac.errors import ExecutionError
from pintac.machine import Machine
from pintac.program import Program
from pintac.timeline import simulate

if TYPE_CHECKING:
    from pintac.backend.tiles.tile import Item

def emit(
    lowered: Lowered,
    machine: Machine,
    watch: Callable[[str, list[Item]], None] | None = None,
    effort: float = 1.0,
) -> Program:
    """The program of lowered graphs, without hazards. `watch` is told the tile schedule of each entry.

    The costs that orders are searched by are not those of a simulation, and a longer search can find worse; so of
    several the one that is fastest in a simulation is taken, the shortest of equals.
    """
    found: list[tuple[Program, list[tuple[str, list[Item]]]]] = []
    for length in searches(effort):
        seen: list[tuple[str, list[Item]]] = []
        found.append((_after_one_search(lowered, machine, seen, length), seen))
    program, schedules = min(found, key=lambda f: simulate(f[0]).cycles) if len(found) > 1 else found[0]
    refuse_hazards(program)
    if watch is not None:
        for name, items in schedules:
            watch(name, items)
    return program


def refuse_hazards(program: Program) -> None:
    """Raise `ExecutionError`, a bug of the compiler, where the result of an entry depends on timing, or is wrong.

    Entries of more than `checking.AT_ONCE` instructions to execute would take seconds to look at and are not.
    """
    for found in check(program, checking.AT_ONCE):
        if found.verdict is not None and found.verdict.problems:
            problem = found.verdict.problems[0]
            origins = [program.debug[pc] for pc in problem.pcs if pc < len(program.debug) and program.debug[pc].file]
            raise ExecutionError(
                f"{found.name} in the entry {found.entry}: {problem.message}",
                location=origins[-1] if origins else None,
                hint="this is a bug of the compiler, please report it",
            )


def searches(effort: float) -> list[float]:
    """Lengths of the searches that an effort stands for."""
    lengths = []
    length = 1.0
    while length < effort:
        lengths.append(length)
        length *= 2
    return [*lengths, effort]


def _after_one_search(
    lowered: Lowered, machine: Machine, schedules: list[tuple[str, list[Item]]], effort: float
) -> Program:
    """The program after one search of this length; its tile schedules are appended to `schedules`."""
    from pintac.backend.lower import lower as lower_to_program

    test = lowered.test
    return lower_to_program(
        lowered.graphs,
        machine=machine,
        init=lowered.init,
        data=lowered.data,
        params=lowered.params,
        param_table=lowered.param_table,
        test_x=None if test is None else test.x,
        test_u=None if test is None else np.asarray(test.u, np.float32),
        meta=lowered.meta,
        watch=lambda name, items: schedules.append((name, items)),
        effort=effort,
    )
