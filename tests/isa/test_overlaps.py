"""Operands that lie on top of each other: refused exactly where elements, not ranges, do."""

from __future__ import annotations

import random

import pytest

from pintac.asm import assemble
from pintac.errors import AssemblyError
from pintac.isa import Instruction, Opcode
from pintac.overlaps import complaint
from tests.isa.test_asm import SMALL

SOURCE = {"s0.kind": 1, "s0.space": 1, "s0.addr": 1 << 20, "s0.hi": 64, "s0.cstep": 1}


def vpu(rows: int, cols: int, **fields: int) -> Instruction:
    values = {name.replace("_", "."): value for name, value in fields.items()}
    return Instruction(Opcode.VPU, {"rows": rows, "cols": cols, "d0.kind": 1, "d0.space": 1, **SOURCE, **values})


REFUSED = {
    "a row over the one before": vpu(9, 37, d0_hi=16, d0_cstep=1),
    "every row in one place": vpu(9, 37, d0_cstep=1),
    "strides that meet later": vpu(9, 37, d0_hi=1, d0_cstep=7),
    "row groups": vpu(8, 4, d0_inner=4, d0_hi=8, d0_lo=4, d0_cstep=1),
    "elements in place, again and again": vpu(9, 37, d0_cstep=1, s0_addr=0, s0_hi=0),
    "blocks": vpu(12, 16, d0_bits=8, d0_addr=0, d0_eaddr=4096, d0_hi=3, d0_cstep=1),
    "exponents in mantissas": vpu(12, 16, d0_bits=8, d0_addr=0, d0_eaddr=7, d0_hi=4, d0_cstep=1),
    "sums of groups in one place": vpu(12, 16, d0_kind=2, d0_inner=4, d0_cstep=1),
    "sums of columns in one place": vpu(12, 16, d0_kind=3),
    "another element of the source": vpu(4, 4, d0_hi=4, d0_cstep=1, s0_addr=4, s0_hi=4),
    "the source transposed": vpu(4, 4, d0_hi=4, d0_cstep=1, s0_addr=0, s0_hi=1, s0_cstep=4),
    "two destinations": vpu(4, 4, d0_hi=4, d0_cstep=1, d1_kind=1, d1_space=1, d1_addr=60, d1_hi=4, d1_cstep=1),
    "quantised in place": vpu(8, 8, d0_bits=8, d0_eaddr=512, d0_hi=2, d0_cstep=1, s0_addr=0, s0_hi=8),
}
ALLOWED = {
    "rows apart": vpu(9, 37, d0_hi=37, d0_cstep=1),
    "columns apart": vpu(9, 37, d0_hi=1, d0_cstep=9),
    "one row": vpu(1, 37, d0_cstep=1),
    "strides that never meet": vpu(9, 5, d0_hi=5, d0_cstep=9),
    "groups between groups": vpu(8, 2, d0_inner=4, d0_hi=2, d0_lo=8, d0_cstep=1),
    "a sum": vpu(12, 16, d0_kind=4),
    "in place": vpu(4, 4, d0_hi=4, d0_cstep=1, s0_addr=0, s0_hi=4),
    "beside the source's columns": vpu(4, 2, d0_hi=4, d0_cstep=1, s0_addr=8, s0_hi=4),
    "another space": vpu(4, 4, d0_space=2, d0_hi=4, d0_cstep=1, s0_addr=4, s0_hi=4),
}


@pytest.mark.parametrize("case", REFUSED)
def test_overlaps_are_refused(case: str) -> None:
    assert complaint(REFUSED[case]) is not None


@pytest.mark.parametrize("case", ALLOWED)
def test_operands_apart_are_not(case: str) -> None:
    assert complaint(ALLOWED[case]) is None


def matmul(space: int, addr: int, hi: int = 8) -> Instruction:
    operands = {
        f"{group}.{name}": value
        for group, at in (("s0", 0), ("s1", 1024))
        for name, value in {"space": 1, "bits": 8, "addr": at, "eaddr": at + 512, "hi": 2}.items()
    }
    result = {"d0.space": space, "d0.addr": addr, "d0.hi": hi, "d0.cstep": 1}
    return Instruction(Opcode.MATMUL, {"m": 8, "n": 8, "k": 8, **operands, **result})


def test_a_product_lies_apart_from_its_operands() -> None:
    assert complaint(matmul(1, 2048)) is None and complaint(matmul(2, 0)) is None
    for addr in (0, 60, 512, 1024 - 4, 1536):  # mantissas and exponents, its first and its last element
        assert "still read" in str(complaint(matmul(1, addr)))
    assert "over each other" in str(complaint(matmul(1, 2048, hi=7)))


@pytest.mark.parametrize("seed", range(300))
def test_against_counting_places(seed: int) -> None:
    draw = random.Random(seed)
    rows, cols, inner = draw.randint(1, 7), draw.randint(1, 7), draw.choice((0, 0, 2, 3))
    hi, lo, cstep = (draw.randint(0, 12) for _ in range(3))
    places = [
        (r // inner * hi + r % inner * lo if inner else r * hi) + c * cstep for r in range(rows) for c in range(cols)
    ]
    found = complaint(vpu(rows, cols, d0_hi=hi, d0_lo=lo, d0_cstep=cstep, d0_inner=inner))
    assert (found is None) == (len(set(places)) == len(places))


def test_the_assembler_says_where() -> None:
    with pytest.raises(AssemblyError, match="d0 writes elements over each other") as error:
        assemble(SMALL.replace("addr=16 hi=4 cstep=1", "addr=16 hi=4 cstep=0"), "p.s")
    assert error.value.location is not None and error.value.location.line == 12
