"""Hand-laid instruction words, and that each seeded mistake in the encoder, decoder or address rule breaks them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pintac import isa
from pintac.errors import ProgramError

Isa = SimpleNamespace


def words(raw: bytes) -> list[int]:
    return np.frombuffer(raw, "<u4").tolist()


def layout(m: Isa) -> None:
    """Bits written down by hand from the field list: header from bit 8, groups from word 12."""
    loop = words(m.encode(m.make(m.Opcode.LOOP, level=1, param=255, count=70000)))
    assert loop[:2] == [1 | 1 << 8 | 255 << 11, 70000] and not any(loop[2:])

    operands = {
        "s0": m.Operand(
            kind=1, space=2, bits=12, addr=2**32 - 1, eaddr=7, hi=-1, lo=5, cstep=1, steps=(1, -2, 3, 4, 5)
        ),
        "d0": m.Operand(kind=1, space=1, inner=65535, ring_level=4, ring_size=7, ring_step=-(2**31)),
    }
    matmul = words(m.encode(m.make(m.Opcode.MATMUL, operands, tb=1, acc=1, dataflow=2, m=65535, n=3, k=9)))
    assert matmul[:3] == [7 | 1 << 9 | 1 << 10 | 2 << 11 | 65535 << 13, 3 | 9 << 16, 0]
    minus = 2**32
    assert matmul[12:24] == [1 | 2 << 3 | 12 << 5, 2**32 - 1, 7, minus - 1, 5, 1, 1, minus - 2, 3, 4, 5, 0]
    assert matmul[72:84] == [1 | 1 << 3 | 4 << 10 | 7 << 13 | 65535 << 16, *[0] * 10, 2**31]
    assert not any(matmul[24:72]) and not any(matmul[84:])

    ops = [m.micro_op(m.MicroOp.SELECT, 8, 16, 20), m.micro_op(m.MicroOp.ABS, 7)]
    assert ops == [24 | 8 << 6 | 16 << 11 | 20 << 16, 7 | 7 << 6]
    vpu = m.encode(m.make(m.Opcode.VPU, uops=2, uop0=ops[0], uop1=ops[1], imm0=m.float_bits(1.0), scalar2=9))
    packed = int.from_bytes(vpu, "little") >> 6 * 32
    assert packed & (1 << 42) - 1 == ops[0] | ops[1] << 21
    assert packed >> 8 * 21 + 8 & 255 == 9
    assert 0x3F800000 in words(vpu)[:6]


def inverse(m: Isa) -> None:
    """Decoding gives back what was encoded, signs included, and refuses everything else."""
    values = {"s0.addr": 3, "s0.hi": -7, "s1.step4": -(2**31), "d0.bits": 31, "size": 2**32 - 1, "gather": 1}
    instruction = m.Instruction(m.Opcode.LOAD, values)
    back = m.decode(m.encode(instruction))
    assert (back.opcode, dict(back.values)) == (m.Opcode.LOAD, values)
    assert m.split_micro_op(m.micro_op(m.MicroOp.LT, 17, 18, 19)) == (m.MicroOp.LT, 17, 18, 19)
    table = m.decode_table([back])
    assert table[0, m.column(m.Opcode.LOAD, "s1.step4")] == -(2**31)
    assert table[0, m.column(m.Opcode.LOAD, "size")] == 2**32 - 1
    unknown = max(m.Opcode) + 1
    for bad in (bytes([unknown]) + bytes(m.WORD_BYTES - 1), m.encode(m.make(m.Opcode.ENDLOOP))[:-1] + b"\1"):
        with pytest.raises(ProgramError):
            m.decode(bad)
    for field, value in (("size", 2**32), ("s0.hi", 2**31), ("s0.hi", -(2**31) - 1), ("size", -1)):
        with pytest.raises(ProgramError):
            m.encode(m.Instruction(m.Opcode.LOAD, {field: value}))


def addresses(m: Isa) -> None:
    """The address rule of `pintac.isa.operands`, at indices worked out by hand."""
    o = m.Operand(addr=100, steps=(10, 1, 0, 0, 0), ring_level=1, ring_size=3, ring_step=1000)
    assert m.operand_address(o, (2, 5, 0, 0, 0)) == (100 + 20 + 5 + 2000, 0)
    smx = m.Operand(bits=12, addr=100, eaddr=50, steps=(3, 0, 0, 0, 0))
    assert m.operand_address(smx, (2, 0, 0, 0, 0)) == (100 + 6 * 24, 56)
    product = {
        "s0": m.Operand(kind=1, space=1, bits=8, addr=0, eaddr=900, hi=3, cstep=1),
        "s1": m.Operand(kind=1, space=1, bits=4, addr=200, eaddr=950, hi=1, cstep=1),
        "d0": m.Operand(kind=1, space=2, addr=0, hi=6, cstep=1),
    }
    got = m.regions(m.make(m.Opcode.MATMUL, product, ta=1, m=5, n=3, k=9), (0,) * 5)
    # the left operand is stored as [9, 5]: 3 x 2 blocks of 16 bytes, 3 blocks from row to row
    assert [(r.start, r.size, r.count, r.stride, r.write) for r in got] == [
        (0, 32, 3, 48, False),
        (900, 2, 3, 3, False),
        (200, 8, 3, 8, False),
        (950, 1, 3, 1, False),
        (0, 12, 5, 24, True),
    ]
    assert got[0].end == 2 * 48 + 32
    assert m.sink_shape(m.Sink.SUM_ROWS, 12, 5, 4) == (3, 5)
    assert m.sink_shape(m.Sink.MAX_COLS, 12, 5, 0) == (12, 1)


CHECKS: tuple[Callable[[Isa], None], ...] = (layout, inverse, addresses)

MUTANTS = [
    ("out, bit = [], 8", "out, bit = [], 9"),
    ("bit = 12 * 32 * (number + 1)", "bit = 12 * 32 * number"),
    ("first = 6 * 32", "first = 7 * 32"),
    ("first + 21 * i", "first + 20 * i"),
    ("rest + 8 * (i - 1)", "rest + 8 * i"),
    ("a << 6 | b << 11 | c << 16", "a << 6 | c << 11 | b << 16"),
    ("bits >> 11 & 31", "bits >> 11 & 15"),
    ("value -= 1 << f.bits", "value = -value"),
    ("if f.signed and value >> f.bits - 1", "if value >> f.bits - 1"),
    ("if raw & ~seen:", "if raw & ~seen & 1:"),
    ("value = raw >> f.lo & mask", "value = raw >> f.lo & mask >> 1"),
    ("if not low <= value <= high:", "if not low <= value <= high + 1:"),
    ('word.to_bytes(WORD_BYTES, "little")', 'word.to_bytes(WORD_BYTES, "big")'),
    ("row[definition.fields[name].column] = value", "row[definition.fields[name].column] = abs(value)"),
    ("(index[o.ring_level] % o.ring_size)", "(index[o.ring_level] // o.ring_size)"),
    ("o.addr + offset * 2 * o.bits, o.eaddr + offset", "o.addr + offset * o.bits, o.eaddr + offset"),
    ("o.addr + offset * 2 * o.bits, o.eaddr + offset", "o.addr + offset * 2 * o.bits, o.eaddr"),
    ("sum(i * s for i, s in zip", "max(i * s for i, s in zip"),
    ('((k, m) if instruction["ta"] else (m, k))', '((m, k) if instruction["ta"] else (m, k))'),
    ("o.hi * 2 * o.bits, 1, 0, write", "o.hi * o.bits, 1, 0, write"),
    ("return rows // (group or rows), cols", "return group or rows, cols"),
]


def imported(package: str) -> Isa:
    """What a package of the instruction set exports, with its encoder and its regions."""
    modules = [import_module(name) for name in (package, f"{package}.encoding", f"{package}.regions")]
    return SimpleNamespace(**{name: value for module in modules for name, value in vars(module).items()})


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Isa]]:
    """A copy of the package with one piece of text of one file replaced."""
    name = "mutated_isa"

    def make(old: str, new: str) -> Isa:
        sources = {path.name: path.read_text(encoding="utf-8") for path in Path(isa.__file__).parent.glob("*.py")}
        found = [file for file, text in sources.items() for _ in range(text.count(old))]
        assert len(found) == 1, f"{old!r} occurs {len(found)} times"
        (tmp_path / name).mkdir()
        for file, text in sources.items():
            (tmp_path / name / file).write_text(text.replace(old, new).replace("pintac.isa", name), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return imported(name)

    yield make
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_the_tables_agree_with_what_was_laid_out_by_hand(check: Callable[[Isa], None]) -> None:
    check(imported("pintac.isa"))


def survives(mutant: Isa, check: Callable[[Isa], None]) -> bool:
    try:
        check(mutant)
    except (AssertionError, ValueError, OverflowError, KeyError, ProgramError, pytest.fail.Exception):
        return False
    return True


def test_a_copy_without_a_mistake_survives(load: Callable[[str, str], Isa]) -> None:
    copy = load("first = 6 * 32", "first = 192")
    assert copy.Opcode is not isa.Opcode and all(survives(copy, check) for check in CHECKS)


@pytest.mark.parametrize(("old", "new"), MUTANTS, ids=[str(n) for n in range(len(MUTANTS))])
def test_a_mutant_is_killed(load: Callable[[str, str], Isa], old: str, new: str) -> None:
    mutant = load(old, new)
    assert not all(survives(mutant, check) for check in CHECKS)
