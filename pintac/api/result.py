"""What a training run gives back, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from pintac.program import Program


@dataclass(frozen=True)
class StepCost:
    """Modelled cost of one training step. Cycles, bytes and joules follow from the machine file (docs/MACHINE.md)."""

    cycles_per_step: int
    tcu_cycles_per_step: int
    vpu_cycles_per_step: int
    dram_bytes_per_step: int
    energy_j_per_step: float
    instructions_executed_per_step: int
    macs_per_step: int
    lower_bound_cycles: int | None


NO_COST: dict[str, None] = dict.fromkeys(StepCost.__dataclass_fields__)


@dataclass(frozen=True)
class Result:
    """A finished (or interrupted) training run.

    l2              |u_hat - u| / |u| on the test points, u_hat from the compiled forward program on the simulator
                    (quant="none": from torch in fp32); None for a problem without `exact`
    l2_float        the same with the fp32 masters through torch; None if that was not computed
    l2_twin         the error of the float twin, if it was asked for
    steps           steps done
    cost            modelled cost of a step; None for quant="none", which runs no program
    weights         trained masters by the names of the module's state_dict
    history         (step, loss, l2) as they were shown; l2 is None where it was not measured
    """

    steps: int
    seed: int
    engine: str
    machine: str
    bits: str | None
    l2: float | None
    l2_float: float | None
    cost: StepCost | None
    weights: Mapping[str, np.ndarray] = field(repr=False)
    l2_twin: float | None = None
    history: tuple[tuple[int, float | None, float | None], ...] = field(default=(), repr=False)
    sim_seconds: float = 0.0
    compile_seconds: float | None = None
    interrupted: bool = False
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    program: Program | None = field(default=None, repr=False)

    @property
    def cycles(self) -> int | None:
        """Modelled cycles of the whole run."""
        return None if self.cost is None else self.cost.cycles_per_step * self.steps

    @property
    def energy(self) -> float | None:
        """Modelled joules of the whole run."""
        return None if self.cost is None else self.cost.energy_j_per_step * self.steps

    def state_dict(self) -> dict[str, Tensor]:
        """The trained masters as torch tensors: `net.load_state_dict(result.state_dict())`."""
        from pintac.frontend.weights import as_tensors

        return as_tensors(self.weights)

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `pintac train`: a key that does not apply is null."""
        cost = NO_COST if self.cost is None else vars(self.cost)
        return {
            "l2_rel": self.l2,
            "l2_rel_float": self.l2_float,
            "l2_rel_twin": self.l2_twin,
            "steps": self.steps,
            "seed": self.seed,
            "bits": self.bits,
            **cost,
            "sim_seconds_per_step": self.sim_seconds / self.steps if self.steps else None,
            "compile_seconds": self.compile_seconds,
            "engine": self.engine,
            "machine": self.machine,
            "interrupted": self.interrupted,
            "history": [list(row) for row in self.history],
            **self.details,
        }

    def to_json(self) -> str:
        """`as_dict` as sorted JSON."""
        return json.dumps(self.as_dict(), indent=2, sort_keys=True) + "\n"
