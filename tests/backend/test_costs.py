"""What orders are chosen by, against the cost model: single vector operations and matmuls of compiled steps.

`tiles/costs.py` prices a vector operation before it has addresses, `cost.py` its instructions. The first leaves out
bank conflicts, which addresses decide; the edges of the grid of lanes, where 20 columns leave lanes idle; the
bytes that reductions write and that are read once for all rows. So it never says more, and most cost the same by both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.listing.emit import Emitter
from pintac.backend.tiles.costs import vpu_cycles
from pintac.backend.tiles.tile import Item, VpuOp, walk
from pintac.backend.tiles.vpu import folded_axes, instructions
from pintac.cost import Cost, cost
from pintac.cost_matmul import map_matmul
from pintac.frontend import load_step
from pintac.isa import Opcode
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.program import Program
from pintac.report.explain.choices import _task

LEFT_OUT = 0.375
"""Part of an operation's cycles left out at most where SRAM does not limit it; of the smallest ones a cycle."""
EQUAL = 0.8
"""Part of the operations that cost the same by both."""
TOTAL = 0.9
"""Least part of a step's vector cycles that orders are chosen by: `hjb20` copies columns of points, in few banks."""

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "poisson": ("poisson2d", {"width": 64, "K": 32}, {}),
    "packed": ("poisson2d", {"width": 64, "K": 4, "estimator": "orthonormal"}, {"quant": "even-odd", "rows": "packed"}),
    "naive": ("hjb20", {"width": 64, "K": 32}, {"quant": "naive"}),
}


@dataclass(frozen=True)
class Compiled:
    """A compiled step on a machine."""

    program: Program
    machine: Machine
    items: list[Item]
    params: dict[str, int]

    def operations(self) -> Iterator[tuple[VpuOp, int, list[Cost]]]:
        """Vector operations that add to nothing, how often each is executed, what its instructions cost."""
        emitter = Emitter(self.machine, self.params)
        for op, loops in walk(self.items):
            if isinstance(op, VpuOp) and math.prod(op.shape[a] for a in folded_axes(op)) == 1:
                costs = [cost(emitter._vpu(part), self.machine) for part in instructions(op)]
                yield op, math.prod(loop.count for loop in loops), costs


@pytest.fixture(scope="module", params=sorted(CASES))
def compiled(request: pytest.FixtureRequest) -> Compiled:
    problem, options, switches = CASES[request.param]
    lowered = lower(load_step(problem, **options), PipelineOptions(**switches))
    machine = Machine.default()
    schedules: dict[str, list[Item]] = {}
    program = emit(lowered, machine, watch=schedules.__setitem__, effort=0)
    return Compiled(program, machine, schedules["step"], {name: i for i, name in enumerate(lowered.params)})


def test_vector_operations_cost_what_their_instructions_do(compiled: Compiled) -> None:
    found = total = 0
    equal: list[bool] = []
    for op, times, costs in compiled.operations():
        exact, guess = sum(c.busy for c in costs), vpu_cycles(op, compiled.machine)
        found, total = found + times * guess, total + times * exact
        equal.append(guess == exact)
        assert guess <= exact, op.name
        if all(c.limit not in ("bank conflicts", "port width") for c in costs):
            assert exact - guess <= max(LEFT_OUT * exact, len(costs)), (op.name, exact, guess)
    assert sum(equal) >= EQUAL * len(equal) > 0
    assert found >= TOTAL * total


def test_explain_prices_matmuls_as_the_cost_model_does(compiled: Compiled) -> None:
    """`_task` says again what the cost model reads of an instruction."""
    ledger = SimpleNamespace(program=compiled.program, start=0)
    matmuls = [pc for pc, i in enumerate(compiled.program.instructions) if i.opcode is Opcode.MATMUL]
    assert matmuls
    for pc in matmuls:
        exact = cost(compiled.program.instructions[pc], compiled.machine)
        task, flow = _task(ledger, pc)  # type: ignore[arg-type]
        found = map_matmul(task, flow, compiled.machine)
        assert (found.busy, found.alone, found.passes, found.drain, found.preload, found.skew, found.limit) == (
            exact.busy, exact.latency, exact.passes, exact.drain, exact.preload, exact.skew, exact.limit,
        )  # fmt: skip
