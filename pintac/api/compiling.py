"""`pintac.compile`: a TrainStep to a program."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api.compilation import DEFAULT_BITS, Compilation
from pintac.api.emitting import emit
from pintac.api.lowering import Lowered
from pintac.api.named import as_step, say_if_discarded
from pintac.api.running import details
from pintac.api.steps import seed_of
from pintac.api.weights import arrays_of
from pintac.blocks import SMX_BLOCK
from pintac.errors import UsageError
from pintac.ir import print_module
from pintac.machine import Machine
from pintac.passes import Observer
from pintac.program import Program
from pintac.report.closing import closing_report
from pintac.report.step_cost import step_cost
from pintac.timeline import Timing, simulate

if TYPE_CHECKING:
    from pintac.backend.tiles.tile import Item
    from pintac.frontend import TrainStep


def compile(
    step: TrainStep | str,
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

    step      a `TrainStep`, the name of a built-in problem, or "my_pde.py:step"
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
    how = Compilation.of(
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
        effort=effort,
    )
    named = as_step(step, how.options.scheme, seed_of(seed))
    return build(named, how, seed=seed_of(seed), weights=arrays_of(weights)).program


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
    how: Compilation | None = None,
    *,
    seed: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
    **switches: Any,
) -> Compiled:
    """As `compile`, with every level to look at; the program is made when it is asked for.

    `how` says it all at once; without it, `switches` are the keywords of `compile`.
    """
    chosen = how or Compilation.of(**switches)
    if chosen.options.quant == "none":
        raise UsageError("quant 'none' is fp32 in torch: there is no program", hint="train takes it")
    say_if_discarded(step, weights)
    start = time.perf_counter()
    lowered = chosen.lower(step, seed, weights)
    return Compiled(lowered, chosen.machine, time.perf_counter() - start, chosen.effort)
