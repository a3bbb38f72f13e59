"""The units of an entry with the kernels of their sweeps: what does not depend on where values live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.grouping.fuse import Fuser, KernelStep, Step
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import Sweep, Unit, Units
from pintac.ir import Node

WHOLE_PARAMETERS = 24
"""Parameters up to this part of SRAM are worked on whole: their transfers then lie beside other work."""


@dataclass(frozen=True)
class Fused:
    """Units, and the steps of each sweep but those of deferred gradients."""

    units: Units
    steps: Mapping[Sweep, Sequence[Step]]

    def kernels_between_nests(self, unit: Unit) -> int:
        """How many kernels run between the nests of the points of an iteration."""
        return sum(isinstance(step, KernelStep) for s in unit.between_nests for step in self.steps[s])


def fused(entry: Entry, choices: Choices, earlier: Fused | None = None) -> Fused:
    """The units of an entry under these choices, fused; `earlier`, of the same entry, if it is the same."""
    whole = entry.machine.sram_kib * 1024 // WHOLE_PARAMETERS if choices.whole is None else choices.whole
    unrolled = choices.tiling.unrolled
    if earlier is not None:
        units = earlier.units
        if (units.deferred, units.unrolled, units.whole) == (choices.deferred, unrolled, whole):
            return earlier
    units = Units(entry.graph, whole, choices.deferred, unrolled, entry.again, choices.tiling.per_sign)
    outputs = frozenset(map(root, entry.graph.outputs.values()))
    steps: dict[Sweep, Sequence[Step]] = {}
    for unit in units.units:
        for sweep in unit.sweeps if unit.kind != "deferred" else ():
            steps[sweep] = _steps(sweep, unit, units, outputs, entry.machine.vpu_max_micro_ops)
    return Fused(units, steps)


def _steps(sweep: Sweep, unit: Unit, units: Units, outputs: frozenset[Node], max_micro_ops: int) -> list[Step]:
    inside = set(sweep.nodes)

    def external(node: Node) -> bool:
        if node not in units.of:  # a value inside a random number
            return False
        return node in outputs or units.folded_by_loops(node) or not inside.issuperset(units.executed_users(node))

    fuser = Fuser(sweep.nodes, lambda node: units.key(node, unit), external, max_micro_ops)
    steps = fuser.steps()
    units.standins |= fuser.standins
    return steps
