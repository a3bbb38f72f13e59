"""`pintac.compile`: a TrainStep to a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pintac.api.lowering import Lowered, lower
from pintac.errors import UsageError
from pintac.machine import Machine
from pintac.passes import Observer, PipelineOptions
from pintac.program import Program

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

DEFAULT_BITS = "8/16/8/12"


def compile(
    step: TrainStep,
    *,
    machine: Machine | str | Path = "pinta",
    quant: str = "diff",
    scheme: str = "prs",
    bits: str = DEFAULT_BITS,
    saved: str = "smx",
    passes: str | None = None,
    observers: Sequence[Observer] = (),
    verify: str = "ends",
    seed: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Program:
    """Compile a training step, and the forward evaluation of its solution, to a program.

    machine   a `Machine`, the name of a built-in one, or the path of a TOML file
    quant     "diff" (DiffQuant) or "naive" (x + delta is quantised itself)
    scheme    order in which tensor-train layers are contracted: "prs", "sequential", "dense"
    bits      weight/base/delta/gradient
    saved     how backward reads the perturbed path: "smx" (what the forward matmul read) or "f32"
    passes    a pipeline in place of the default one, such as "expand-operators,split-stein,..."
    observers see the pipeline run (dumps, times, checks); `verify` is "each", "ends" or "none"
    seed      draws the initial weights, unless `weights` (names and layout of the state_dict) are given

    Raises ModelError, PassError, IRError with the user's line, MachineError, and DoesNotFitError for a step that the
    machine cannot hold.
    """
    if quant == "none":
        raise UsageError("quant='none' is fp32 in torch: there is no program", hint="use train(step, quant='none')")
    options = PipelineOptions.from_bits(bits, quant=quant, scheme=scheme, saved=saved)
    where = as_machine(machine)
    lowered = lower(step, options, passes=passes, observers=observers, verify=verify, seed=seed, weights=weights)
    return emit(lowered, where)


def as_machine(machine: Machine | str | Path) -> Machine:
    """A machine by itself, by name or by file. Raises MachineError."""
    return machine if isinstance(machine, Machine) else Machine.load(machine)


def emit(lowered: Lowered, machine: Machine) -> Program:
    """The backend's part: graphs to a program."""
    from pintac import backend

    test = lowered.test
    return backend.lower(
        lowered.graphs,
        machine=machine,
        init=lowered.init,
        data=lowered.data,
        params=lowered.params,
        param_table=lowered.param_table,
        test_x=None if test is None else test.x,
        test_u=None if test is None else np.asarray(test.u, np.float32),
        meta=lowered.meta,
    )
