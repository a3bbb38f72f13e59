"""How steps are compiled: every switch of `compile` and `train`, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api.lowering import Lowered, lower
from pintac.errors import UsageError
from pintac.machine import Machine
from pintac.passes import Observer, PipelineOptions

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

DEFAULT_BITS = "8/16/8/12"
MOST_EFFORT = 1000


@dataclass(frozen=True)
class Compilation:
    """What `compile` says of its arguments: `options` are the switches of the pipeline, the rest has its names."""

    options: PipelineOptions = field(default_factory=PipelineOptions)
    machine: Machine = field(default_factory=Machine.default)
    passes: str | None = None
    observers: Sequence[Observer] = ()
    verify: str = "ends"
    effort: float = 1.0

    @classmethod
    def of(
        cls,
        *,
        machine: Machine | str | Path = "pinta",
        passes: str | None = None,
        observers: Sequence[Observer] = (),
        verify: str = "ends",
        effort: float = 1.0,
        bits: str = DEFAULT_BITS,
        **switches: Any,
    ) -> Compilation:
        """From keywords; `switches` and `bits` are the pipeline's. Raises UsageError, PassError, MachineError."""
        if not isinstance(effort, (int, float, np.number)) or not 0 <= effort <= MOST_EFFORT:
            raise UsageError(f"expected an effort from 0 to {MOST_EFFORT}, got {effort!r}", hint="effort=1.0")
        options = PipelineOptions.from_bits(bits, **switches)
        return cls(options, as_machine(machine), passes, observers, verify, effort)

    def lower(self, step: TrainStep, seed: int, weights: Mapping[str, np.ndarray] | None) -> Lowered:
        """The step after all passes."""
        return lower(
            step,
            self.options,
            passes=self.passes,
            observers=self.observers,
            verify=self.verify,
            seed=seed,
            weights=weights,
            machine=self.machine,
        )


def as_machine(machine: Machine | str | Path) -> Machine:
    """A machine by itself, by name or by file. Raises MachineError."""
    return machine if isinstance(machine, Machine) else Machine.load(machine)
