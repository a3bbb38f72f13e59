"""Every table about instructions covers all of them, and none falls back to something for what it does not know."""

from __future__ import annotations

from collections import Counter

import pytest

from pintac import cost, footprint, isa, program_rules, timeline
from pintac.isa import ARITY, CONTROL, DEFS, PHILOX, QUEUE_OF, Instruction, MicroOp, Opcode
from pintac.isa.encoding import decode_table
from pintac.isa.regions import regions
from pintac.machine import Machine
from pintac.runtime import micro_ops
from pintac.runtime.jit import plan, vector_math
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from tests.runtime.listing import Listing
from tests.runtime.programs import ARITHMETIC, RANDOM_NUMBERS

WORK = set(QUEUE_OF)


def test_every_opcode_is_in_every_table() -> None:
    assert set(DEFS) == set(cost.COSTS) == set(timeline.KINDS) == set(Opcode)
    assert set(Opcode) - WORK == CONTROL
    assert set(program_rules.CHECKS) == WORK
    program = Listing().program()
    engine = ReferenceEngine(program, MachineState(program))
    assert set(engine._execute) == set(Opcode) - {Opcode.LOOP, Opcode.ENDLOOP}
    state = MachineState(program)
    assert set(plan._Builder(program, state, state, frozenset()).handlers) == WORK


@pytest.mark.parametrize("opcode", sorted(WORK), ids=lambda opcode: opcode.name)
def test_work_touches_memory(opcode: Opcode) -> None:
    values = {"m": 1, "n": 1, "k": 1, "rows": 1, "cols": 1, "size": 4, "count": 1, "outer": 1, "d0.kind": 1}
    known = {name: value for name, value in values.items() if name in DEFS[opcode].fields}
    assert any(region.write for region in regions(Instruction(opcode, known), (0,) * isa.LOOP_LEVELS))


def test_an_instruction_without_regions_is_no_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("pintac.isa.regions.CONTROL", "pintac.isa.CONTROL"):
        monkeypatch.setattr(table, CONTROL - {Opcode.WAIT})
    with pytest.raises(NotImplementedError, match="WAIT"):
        regions(Instruction(Opcode.WAIT, {}), ())
    with pytest.raises(NotImplementedError, match="WAIT"):
        list(footprint.accesses(decode_table([Instruction(Opcode.WAIT, {})])[0]))


def test_every_micro_operation_is_in_every_table() -> None:
    computed = set(MicroOp) - PHILOX - {MicroOp.NOP}
    assert set(ARITY) == set(MicroOp)
    assert set(micro_ops.MICRO_OPS) == set(vector_math.MICRO_OPS) == computed
    assert set(ARITHMETIC) == computed and set(RANDOM_NUMBERS) == PHILOX  # what random programs are drawn from


def test_every_micro_operation_has_one_energy() -> None:
    classes = Counter(op for names in cost.MICRO_OP_CLASSES for op in names)
    assert classes == dict.fromkeys(MicroOp, 1)
    free = {op for op in MicroOp if cost.micro_op_pj(op, Machine.default()) == 0}
    assert free == {MicroOp.NOP, MicroOp.MOV}


def test_an_unknown_micro_operation_has_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_TABLE", cost._TABLE - {MicroOp.ERF})
    with pytest.raises(KeyError):
        cost.micro_op_pj(MicroOp.ERF, Machine.default())
