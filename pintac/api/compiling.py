"""`pintac.compile`: a TrainStep to a program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pintac import hazards
from pintac.api.lowering import Lowered, lower
from pintac.api.running import details
from pintac.blocks import SMX_BLOCK
from pintac.errors import ExecutionError, UsageError
from pintac.ir import print_module
from pintac.machine import Machine
from pintac.passes import Observer, PipelineOptions
from pintac.program import Program
from pintac.report.closing import closing_report
from pintac.report.step_cost import step_cost
from pintac.stream import executions
from pintac.timeline import Timing, parameter_block, simulate

if TYPE_CHECKING:
    from pintac.backend.tiles.tile import Item
    from pintac.frontend import TrainStep

DEFAULT_BITS = "8/16/8/12"
CHECKED = 500_000
"""Instructions that an entry executes up to which it is checked for hazards: half a second."""


def compile(
    step: TrainStep,
    *,
    machine: Machine | str | Path = "pinta",
    quant: str = "diff",
    scheme: str = "prs",
    bits: str = DEFAULT_BITS,
    saved: str = "smx",
    block: str = SMX_BLOCK,
    rows: str = "apart",
    passes: str | None = None,
    observers: Sequence[Observer] = (),
    verify: str = "ends",
    seed: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
    effort: float = 1.0,
) -> Program:
    """Compile a training step, and the forward evaluation of its solution, to a program.

    machine   a `Machine`, the name of a built-in one, or the path of a TOML file
    quant     "diff" (DiffQuant), "even-odd" (its even/odd form) or "naive" (x + delta is quantised itself)
    scheme    order in which tensor-train layers are contracted: "prs", "sequential", "dense"
    bits      weight/base/delta/gradient, or "auto:0.05": chosen for relative errors of residual and gradient up to that
              (docs/PRECISION.md); bits of single tensors may follow: "8/16/8/12,*.delta.even*=4"
    saved     how backward reads the perturbed path: "smx" (what the forward matmul read) or "f32"
    block     shape of the blocks that share an exponent; a program has "4x4", others are for `train` on the evaluator
    rows      whether the evaluations of each point have blocks of their own ("apart") or share them with those of the
              neighbouring points where they do not fill them ("packed": ours, for few pairs and "even-odd")
    passes    a pipeline in place of the default one, such as "expand-operators,split-stein,..."
    observers see the pipeline run (dumps, times, checks); `verify` is "each", "ends" or "none"
    seed      draws the initial weights, unless `weights` (names and layout of the state_dict) are given
    effort    how long schedules are searched for, 1: a few seconds for a large step; above it, searches of 1, 2, 4 ...
              times that length and of this one, of which the program with the fastest step is taken

    Raises ModelError, PassError, IRError with the user's line, MachineError, and DoesNotFitError for a step that the
    machine cannot hold.
    """
    return build(
        step,
        machine=machine,
        quant=quant,
        scheme=scheme,
        bits=bits,
        saved=saved,
        block=block,
        rows=rows,
        passes=passes,
        observers=observers,
        verify=verify,
        seed=seed,
        weights=weights,
        effort=effort,
    ).program


@dataclass(frozen=True)
class Compiled:
    """A compilation with its levels: graphs after all passes, tiles, program."""

    lowered: Lowered
    machine: Machine
    seconds_passes: float
    effort: float = 1.0

    @cached_property
    def program(self) -> Program:
        """The program; made when first asked for."""
        return self._program_and_seconds[0]

    @property
    def seconds(self) -> float:
        """Seconds that the compilation took, imports and reports left out."""
        return self.seconds_passes + self._program_and_seconds[1]

    @cached_property
    def _program_and_seconds(self) -> tuple[Program, float]:
        start = time.perf_counter()
        program = emit(self.lowered, self.machine, effort=self.effort)
        return program, time.perf_counter() - start

    def ir(self) -> str:
        """The graphs as text."""
        return print_module(self.lowered.graphs)

    def tiles(self) -> str:
        """The tile schedule of each entry as text."""
        from pintac.backend.tiles.tile import to_text

        texts: list[str] = []

        def watch(entry: str, items: list[Item]) -> None:
            texts.append(f"; entry {entry}\n{to_text(items)}\n")

        emit(self.lowered, self.machine, watch, self.effort)
        return "".join(texts)

    def asm(self) -> str:
        """The program as assembly text."""
        from pintac.asm import disassemble

        return disassemble(self.program)

    @cached_property
    def timing(self) -> Timing:
        """What a step takes on the machine."""
        return simulate(self.program)

    def report(self, path: str | None = None) -> str:
        """The closing report."""
        return closing_report(self.program, self.timing, self.seconds, path)

    def to_json(self) -> str:
        """The compile report as JSON."""
        described = {
            **details(self.program),
            **vars(step_cost(self.program, self.timing)),
            "compile_seconds": self.seconds,
        }
        described["bits"] = self.lowered.meta["bits"]
        described["machine"] = self.machine.name
        return json.dumps(described, indent=2, sort_keys=True, allow_nan=False) + "\n"


def build(
    step: TrainStep,
    *,
    machine: Machine | str | Path = "pinta",
    quant: str = "diff",
    scheme: str = "prs",
    bits: str = DEFAULT_BITS,
    saved: str = "smx",
    block: str = SMX_BLOCK,
    rows: str = "apart",
    passes: str | None = None,
    observers: Sequence[Observer] = (),
    verify: str = "ends",
    seed: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
    effort: float = 1.0,
) -> Compiled:
    """As `compile`, with every level to look at; the program is made when it is asked for."""
    if quant == "none":
        raise UsageError("quant 'none' is fp32 in torch: there is no program", hint="train takes it")
    options = PipelineOptions.from_bits(bits, quant=quant, scheme=scheme, saved=saved, block=block, rows=rows)
    where = as_machine(machine)
    start = time.perf_counter()
    lowered = lower(
        step, options, passes=passes, observers=observers, verify=verify, seed=seed, weights=weights, machine=where
    )
    return Compiled(lowered, where, time.perf_counter() - start, effort)


def as_machine(machine: Machine | str | Path) -> Machine:
    """A machine by itself, by name or by file. Raises MachineError."""
    return machine if isinstance(machine, Machine) else Machine.load(machine)


def emit(
    lowered: Lowered,
    machine: Machine,
    watch: Callable[[str, list[Item]], None] | None = None,
    effort: float = 1.0,
) -> Program:
    """The backend's part: graphs to a program without hazards. `watch` is told the tile schedule of each entry.

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

    Entries of more than `CHECKED` instructions to execute would take seconds to look at and are not.
    """
    for entry, (start, stop) in program.entries.items():
        if executions(program.table, start, stop, parameter_block(program)).sum() > CHECKED:
            continue
        verdict = hazards.check(program, entry)
        if verdict.problems:
            problem = verdict.problems[0]
            origins = [program.debug[pc] for pc in problem.pcs if pc < len(program.debug) and program.debug[pc].file]
            raise ExecutionError(
                f"{verdict.name} in the entry {entry}: {problem.message}",
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
