"""The VPU of the reference engine against whole-array formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pintac import isa, rng, smx, vmath
from pintac.isa import Kind, MicroOp, Operand, Sink, Space
from tests.runtime.execute import normal, run, smx_at, words
from tests.runtime.listing import IMM, PAR, REG, SRC, Listing, fp32, uop

F32 = np.float32
rs = np.random.RandomState(0)


A, B, C = normal(5, 7), normal(5, 7), np.where(rs.rand(5, 7) < 0.5, 0, normal(5, 7)).astype(F32)
A[0, :5] = [0.0, -0.0, np.inf, -np.inf, 1e-42]
POSITIVE = np.abs(A)
HALVES = (np.arange(2, 37).reshape(5, 7) * 0.25 * np.where(np.arange(7) % 2, -1, 1)).astype(F32)
HALVES[np.abs(HALVES) < 1] += 8  # zeros are in a test of their own: Python's have no sign


def flag(condition: np.ndarray) -> np.ndarray:
    return condition.astype(F32)


CASES: dict[MicroOp, tuple[tuple[np.ndarray, ...], Callable[..., np.ndarray]]] = {
    MicroOp.MOV: ((A,), lambda a: a),
    MicroOp.ADD: ((A, B), lambda a, b: a + b),
    MicroOp.SUB: ((A, B), lambda a, b: a - b),
    MicroOp.MUL: ((A, B), lambda a, b: a * b),
    MicroOp.DIV: ((A, B), lambda a, b: (a.astype(np.float64) / b).astype(F32)),
    MicroOp.NEG: ((A,), lambda a: -a),
    MicroOp.ABS: ((A,), np.abs),
    MicroOp.MIN: ((A, B), vmath.minimum),
    MicroOp.MAX: ((A, B), vmath.maximum),
    MicroOp.SQRT: ((POSITIVE,), lambda a: np.sqrt(a.astype(np.float64)).astype(F32)),
    MicroOp.EXP: ((A,), vmath.exp),
    MicroOp.LOG: ((POSITIVE,), vmath.log),
    MicroOp.TANH: ((A,), vmath.tanh),
    MicroOp.SIGMOID: ((A,), vmath.sigmoid),
    MicroOp.SIN: ((B,), vmath.sin),
    MicroOp.COS: ((B,), vmath.cos),
    MicroOp.ERF: ((A,), vmath.erf),
    MicroOp.LT: ((A, B), lambda a, b: flag(a < b)),
    MicroOp.LE: ((C, C.copy()), lambda a, b: flag(a <= b)),
    MicroOp.GT: ((A, B), lambda a, b: flag(a > b)),
    MicroOp.GE: ((A, B), lambda a, b: flag(a >= b)),
    MicroOp.EQ: ((C, np.abs(C)), lambda a, b: flag(a == b)),
    MicroOp.NE: ((C, np.abs(C)), lambda a, b: flag(a != b)),
    MicroOp.FLOOR: ((HALVES,), lambda a: np.array([[math.floor(v) for v in row] for row in a.tolist()], F32)),
    MicroOp.ROUND: ((HALVES,), lambda a: np.array([[round(v) for v in row] for row in a.tolist()], F32)),
    MicroOp.SELECT: ((C, A, B), lambda c, a, b: np.where(c != 0, a, b)),
}


@pytest.mark.parametrize("op", CASES, ids=lambda op: op.name)
def test_micro_op(op: MicroOp) -> None:
    listing = Listing()
    arrays, formula = CASES[op]
    with np.errstate(all="ignore"):
        arrays = tuple(np.asarray(a, F32) for a in arrays)
        expected = formula(*arrays)
    sources = [listing.source(a) for a in arrays]
    sink = listing.sink((5, 7))
    listing.vpu((5, 7), sources, [uop(op, *(SRC + i for i in range(len(arrays))))], [(sink, REG)])
    actual = words(run(listing), sink, (5, 7))
    assert expected.dtype == F32
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))


def test_floor_and_round_of_special_values() -> None:
    whole, inf = 2.0**23, np.inf
    x = [0.0, -0.0, 1e-42, -1e-42, 0.5, -0.5, 1.5, 2.5, -2.5, whole - 0.5, 0.5 - whole, whole + 1, -3e38, inf, -inf]
    floors = [0.0, -0.0, 0, -1, 0, -1, 1, 2, -3, whole - 1, -whole, whole + 1, -3e38, inf, -inf]
    rounds = [0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 2, 2, -2, whole, -whole, whole + 1, -3e38, inf, -inf]
    for op, expected in ((MicroOp.FLOOR, floors), (MicroOp.ROUND, rounds)):
        listing = Listing()
        shape = (1, len(x) + 1)
        source, sink = listing.source(np.array([[*x, np.nan]], F32)), listing.sink(shape)
        listing.vpu(shape, [source], [uop(op, SRC)], [(sink, REG)])
        actual = words(run(listing), sink, shape)[0]
        np.testing.assert_array_equal(actual, np.array([*expected, np.nan], F32))
        np.testing.assert_array_equal(np.signbit(actual[:-1]), np.signbit(np.array(expected, F32)))


def test_every_arithmetic_micro_op_has_a_case() -> None:
    assert set(CASES) == set(MicroOp) - isa.PHILOX - {MicroOp.NOP}


@pytest.mark.parametrize("op", [MicroOp.LT, MicroOp.LE, MicroOp.GT, MicroOp.GE, MicroOp.EQ, MicroOp.NE])
def test_comparisons_with_nan_are_false_except_ne(op: MicroOp) -> None:
    listing = Listing()
    source, sink = listing.source(np.full((1, 2), np.nan, F32)), listing.sink((1, 2))
    listing.vpu((1, 2), [source], [uop(op, SRC, IMM)], [(sink, REG)])
    np.testing.assert_array_equal(words(run(listing), sink, (1, 2)), float(op is MicroOp.NE))


def test_chain_of_eight_with_immediates_scalars_and_registers() -> None:
    table = np.zeros((2, 4), np.uint32)
    table[:, 2] = np.array([0.25, 0.5], F32).view(np.uint32)
    table[:, 3] = np.array([3.0, 7.0], F32).view(np.uint32)
    listing = Listing(("lr", "bc"), table)
    x, sink, other = listing.source(B), listing.sink((5, 7)), listing.sink((5, 7))
    chain = [
        uop(MicroOp.MUL, SRC, IMM + 3),
        uop(MicroOp.NOP),
        uop(MicroOp.ADD, REG, PAR),
        uop(MicroOp.MUL, REG + 2, REG + 2),
        uop(MicroOp.SUB, REG + 3, PAR + 2),
        uop(MicroOp.ABS, REG + 4),
        uop(MicroOp.SQRT, REG + 5),
        uop(MicroOp.DIV, REG + 6, IMM),
    ]
    listing.vpu(
        (5, 7),
        [x],
        chain,
        [(sink, REG + 7), (other, REG + 2)],
        imm0=isa.float_bits(3.0),
        imm3=isa.float_bits(-1.5),
        scalar0=2,
        scalar2=3,
    )
    state = run(listing, step=1)
    r2 = B * F32(-1.5) + F32(0.5)
    np.testing.assert_array_equal(words(state, sink, (5, 7)), np.sqrt(np.abs(r2 * r2 - F32(7))) / F32(3))
    np.testing.assert_array_equal(words(state, other, (5, 7)), r2)


# --- operands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", smx.BITS)
@pytest.mark.parametrize("shape", [(4, 4), (1, 1), (5, 7), (9, 3), (8, 12)])
def test_smx_sources_decode_and_smx_sinks_quantise(bits: int, shape: tuple[int, int]) -> None:
    listing = Listing()
    x = (normal(*shape) * np.exp2(rs.randint(-30, 30, shape))).astype(F32)
    source, dense, packed = listing.source(x, bits), listing.sink(shape), listing.sink(shape, bits=bits)
    listing.vpu(shape, [source], [uop(MicroOp.MUL, SRC, IMM)], [(dense, SRC), (packed, REG)], imm0=isa.float_bits(1.7))
    state = run(listing)
    decoded = smx.dequantize(x, bits)
    np.testing.assert_array_equal(words(state, dense, shape), decoded)
    mant, code, _ = smx.quantize(decoded * F32(1.7), bits)
    actual = smx_at(state, packed, shape)
    np.testing.assert_array_equal(actual[0], mant)
    np.testing.assert_array_equal(actual[1], code)


def test_the_padding_of_a_quantised_tile_is_zero_although_cos_of_padding_is_one() -> None:
    listing = Listing()
    sink = listing.sink((5, 6), bits=8)
    listing.vpu((5, 6), [listing.source(np.zeros((5, 6), F32))], [uop(MicroOp.COS, SRC)], [(sink, REG)])
    mant, _code = smx_at(run(listing), sink, (5, 6))
    assert (mant[:5, :6] != 0).all()
    assert not mant[5:].any() and not mant[:, 6:].any()


@pytest.mark.parametrize(("value", "flags"), [(1.0, 0), (1e30, smx.FLAG_SATURATED), (np.nan, smx.FLAG_NONFINITE)])
def test_status_flags_stick(value: float, flags: int) -> None:
    listing = Listing()
    sink = listing.sink((4, 4), bits=8)
    for x in (value, 1.0):
        listing.vpu((4, 4), [listing.source(np.full((4, 4), x, F32))], (), [(sink, SRC)])
    assert run(listing).status[0] == flags


LAYOUTS: dict[str, tuple[dict[str, int], Callable[[np.ndarray], np.ndarray]]] = {
    "row broadcast": ({"hi": 0}, lambda m: np.tile(m[:4], (6, 1))),
    "column broadcast": ({"hi": 1, "cstep": 0}, lambda m: np.repeat(m[:6, None], 4, 1)),
    "scalar": ({"hi": 0, "cstep": 0}, lambda m: np.full((6, 4), m[0])),
    "transposed": ({"hi": 1, "cstep": 6}, lambda m: m[:24].reshape(4, 6).T),
    "every other column": ({"hi": 9, "cstep": 2}, lambda m: m[:54].reshape(6, 9)[:, :8:2]),
    "a row to a group": ({"hi": 4, "inner": 3}, lambda m: np.repeat(m[:8].reshape(2, 4), 3, 0)),
    "groups": ({"hi": 20, "inner": 4, "lo": 5}, lambda m: m[:40].reshape(8, 5)[:6, :4]),
    "groups over again": ({"hi": 0, "inner": 2, "lo": 4}, lambda m: np.tile(m[:8].reshape(2, 4), (3, 1))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp32_layouts_as_sources(layout: str) -> None:
    fields, expected = LAYOUTS[layout]
    listing = Listing()
    memory = normal(60)
    addr, _ = listing.on_chip(memory[None])
    sink = listing.sink((6, 4))
    listing.vpu((6, 4), [fp32(addr, **fields)], (), [(sink, SRC)])
    np.testing.assert_array_equal(words(run(listing), sink, (6, 4)), expected(memory))


@pytest.mark.parametrize("layout", ["transposed", "every other column", "groups"])
@pytest.mark.parametrize("space", [Space.SRAM, Space.PSUM])
def test_fp32_layouts_as_sinks(layout: str, space: Space) -> None:
    fields, view = LAYOUTS[layout]
    listing = Listing()
    x = normal(6, 4)
    sink = fp32(listing.allocate(space, 240), space=space, **fields)
    listing.vpu((6, 4), [listing.source(x)], (), [(sink, SRC)])
    memory = run(listing).padded(space).view(F32)[sink.addr // 4 :]
    np.testing.assert_array_equal(view(memory), x)


def test_in_place() -> None:
    listing = Listing()
    x = listing.source(A)
    listing.vpu((5, 7), [x], [uop(MicroOp.NEG, SRC)], [(Operand(Sink.WRITE, addr=x.addr, hi=7, cstep=1), REG)])
    np.testing.assert_array_equal(words(run(listing), x, (5, 7)), -A)


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_philox_micro_ops_give_the_words_of_the_counter() -> None:
    listing = Listing()
    index = Operand(Kind.INDEX, addr=2**32 - 5, hi=4, cstep=1)
    stream = 9 | 3 << 16
    sinks = [listing.sink((3, 4)) for _ in range(3)]
    ops = sorted(isa.PHILOX)
    for op, sink in zip(ops, sinks, strict=True):
        listing.vpu((3, 4), [index], [uop(op, SRC, IMM + 1)], [(sink, REG)], imm1=stream)
    state = run(listing, step=11, seed=5)
    numbers = (np.arange(12) + 2**32 - 5).astype(np.uint32).reshape(3, 4)
    word = rng.words(seed=5, stream=9, step=11, term=3, index=numbers)
    scale = 2.0**-24
    np.testing.assert_array_equal(words(state, sinks[0], (3, 4)), (word[..., 0] >> 8) * scale)
    np.testing.assert_array_equal(words(state, sinks[1], (3, 4)), ((word[..., 0] >> 8) + 1) * scale)
    np.testing.assert_array_equal(words(state, sinks[2], (3, 4)), (word[..., 1] >> 8) * scale)


def test_normals_are_eight_micro_ops() -> None:
    listing = Listing()
    index, sink = Operand(Kind.INDEX, hi=5, cstep=1), listing.sink((6, 5))
    chain = [
        uop(MicroOp.PHILOX_U1, SRC, IMM + 3),
        uop(MicroOp.LOG, REG),
        uop(MicroOp.MUL, REG + 1, IMM),
        uop(MicroOp.SQRT, REG + 2),
        uop(MicroOp.PHILOX_U2, SRC, IMM + 3),
        uop(MicroOp.MUL, REG + 4, IMM + 1),
        uop(MicroOp.COS, REG + 5),
        uop(MicroOp.MUL, REG + 3, REG + 6),
    ]
    immediates = {"imm0": isa.float_bits(-2.0), "imm1": isa.float_bits(2 * np.pi), "imm3": 4 | 1 << 16}
    listing.vpu((6, 5), [index], chain, [(sink, REG + 7)], **immediates)
    state = run(listing, step=2, seed=77)
    expected = rng.normal(seed=77, stream=4, step=2, term=1, shape=(6, 5))
    np.testing.assert_array_equal(words(state, sink, (6, 5)), expected)


# --- reductions -------------------------------------------------------------------------------------------------------


def sum_in_fours(values: list[F32], start: F32) -> F32:
    """NUMERICS 3, one number at a time."""
    total = start
    for i in range(0, len(values), 4):
        x = values[i : i + 4] + [F32(0)] * (4 - len(values[i : i + 4]))
        total = total + ((x[0] + x[1]) + (x[2] + x[3]))
    return total


def reduce_scalars(kind: Sink, x: np.ndarray, group: int, acc: np.ndarray | None) -> np.ndarray:
    rows, cols = x.shape
    is_sum = kind in (Sink.SUM_ROWS, Sink.SUM_COLS, Sink.SUM_ALL)

    def fold(values: list[F32], start: F32 | None) -> F32:
        if is_sum:
            return sum_in_fours(values, F32(0) if start is None else start)
        return max(values if start is None else [start, *values])

    def old(r: int, c: int) -> F32 | None:
        return None if acc is None else acc[r, c]

    if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS):
        parts = range(0, rows, group)
        return np.array([[fold(list(x[g : g + group, c]), old(g // group, c)) for c in range(cols)] for g in parts])
    if kind in (Sink.SUM_COLS, Sink.MAX_COLS):
        return np.array([[fold(list(x[r]), old(r, 0))] for r in range(rows)])
    return np.array([[fold([fold(list(x[r]), None) for r in range(rows)], old(0, 0))]])


@pytest.mark.parametrize("kind", list(Sink)[2:], ids=lambda k: k.name)
@pytest.mark.parametrize("shape", [(1, 1), (6, 5), (12, 9), (8, 4)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_reductions(kind: Sink, shape: tuple[int, int], accumulate: bool) -> None:
    groups = [0, 1, 2] if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS) and shape[0] % 2 == 0 else [0]
    for group in groups:
        listing = Listing()
        x = (normal(*shape) * np.exp2(rs.randint(-8, 8, shape))).astype(F32)
        out = isa.sink_shape(kind, *shape, group)
        before = normal(*out)
        addr, _ = listing.on_chip(before)
        sink = Operand(kind, Space.SRAM, addr=addr, inner=group, hi=out[1], cstep=1)
        listing.vpu(shape, [listing.source(x)], (), [(sink, SRC)], acc0=int(accumulate))
        expected = reduce_scalars(kind, x, group or shape[0], before if accumulate else None)
        np.testing.assert_array_equal(words(run(listing), sink, out), expected.astype(F32))


def test_a_sum_of_minus_zeros_is_plus_zero() -> None:
    listing = Listing()
    sink = listing.sink((1, 1), Sink.SUM_ALL)
    listing.vpu((4, 4), [listing.source(np.full((4, 4), -0.0, F32))], (), [(sink, SRC)])
    assert not np.signbit(words(run(listing), sink, (1, 1))).any()


def test_a_reduction_scatters_with_its_strides() -> None:
    listing = Listing()
    x = normal(4, 3)
    addr = listing.allocate(Space.PSUM, 64)
    sink = Operand(Sink.SUM_ROWS, Space.PSUM, addr=addr, inner=2, hi=1, cstep=2)
    listing.vpu((4, 3), [listing.source(x)], (), [(sink, SRC)])
    memory = run(listing).padded(Space.PSUM).view(F32)[:6].reshape(3, 2)
    np.testing.assert_array_equal(memory.T, x.reshape(2, 2, 3).sum(axis=1))
