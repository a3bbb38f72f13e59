"""One instruction as an object: its opcode and the values of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from pintac.errors import ProgramError
from pintac.isa.definition import DEFS, QUEUE_OF, Opcode
from pintac.isa.fields import GROUPS
from pintac.isa.operands import Operand
from pintac.isa.programmers_model import LOOP_LEVELS, Queue

# The names of an operand's parts in `Instruction.values`: those of single fields, those of the steps.
_OPERAND_KEYS = {
    group: (
        tuple((f.name, f"{group}.{f.name}") for f in fields(Operand) if f.name != "steps"),
        tuple(f"{group}.step{i}" for i in range(LOOP_LEVELS)),
    )
    for group in GROUPS
}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its opcode and the fields that are not zero (names as in `DEFS[opcode].fields`)."""

    opcode: Opcode
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values.get(name, 0)

    def operand(self, group: str) -> Operand:
        """The operand group as one object."""
        get, (names, steps) = self.values.get, _OPERAND_KEYS[group]
        return Operand(**{name: get(key, 0) for name, key in names}, steps=tuple([get(key, 0) for key in steps]))

    @property
    def queue(self) -> Queue | None:
        """The queue that runs it; None for loops, which run in all four."""
        if self.opcode in (Opcode.SIGNAL, Opcode.WAIT):
            return Queue(self["queue"])
        return QUEUE_OF.get(self.opcode)


def make(opcode: Opcode, operands: Mapping[str, Operand] | None = None, **header: int) -> Instruction:
    """An instruction of header fields and operand groups. Raises `ProgramError` as `check_fields` does."""
    values = {k: int(v) for k, v in header.items() if v}
    for group, operand in (operands or {}).items():
        for f in fields(Operand):
            if f.name == "steps":
                values |= {f"{group}.step{i}": int(s) for i, s in enumerate(operand.steps) if s}
            elif v := getattr(operand, f.name):
                values[f"{group}.{f.name}"] = int(v)
    instruction = Instruction(opcode, values)
    check_fields(instruction)
    return instruction


def check_fields(instruction: Instruction) -> None:
    """Raises `ProgramError` naming the field that does not exist or that its value does not fit."""
    definition = DEFS[instruction.opcode]
    for name, value in instruction.values.items():
        f = definition.fields.get(name)
        if f is None:
            raise ProgramError(f"{definition.mnemonic} has no field {name!r}")
        low, high = (-(1 << f.bits - 1), (1 << f.bits - 1) - 1) if f.signed else (0, (1 << f.bits) - 1)
        if not low <= value <= high:
            raise ProgramError(f"{definition.mnemonic}: {name} = {value} does not fit its field ({low} to {high})")
