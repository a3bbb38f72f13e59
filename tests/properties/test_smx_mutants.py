"""SMX against exact scalar arithmetic, and that each seeded mistake in it is noticed (NUMERICS 1 and 2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pintac import smx

F32 = np.float32


def samples(bits: int) -> np.ndarray:
    """Blocks side by side: ordinary ones, ties, edges of the exponent range, zero, subnormal, non-finite."""
    rs = np.random.RandomState(bits)
    x = np.zeros((4, 40), F32)
    x[:, :12] = rs.standard_normal((4, 12)) * np.exp2(rs.randint(-4, 4, (4, 12)))
    limit = 2.0 ** (bits - 2)
    x[:, 12:16] = np.arange(16).reshape(4, 4) / 2 + 0.5  # halves: ties where the scale is 1
    x[0, 12] = limit * 1.5
    x[:, 16:20] = np.nextafter(F32(2), F32(0))  # just below a power of two, rounds up and is clamped
    x[:, 20:24] = -3.0e38
    x[:, 24:28] = 1.2e-38
    x[1, 28], x[2, 30] = 1e-40, -1e-42
    x[0, 32:36] = [1, np.inf, 2, 3]
    x[3, 36:40] = [np.nan, 1, 1, -1]
    return x


def quantised(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, int]:
    """NUMERICS 1, block by block and element by element, in exact arithmetic."""
    mant, code, flags = np.zeros(x.shape, int), np.zeros((x.shape[0] // 4, x.shape[1] // 4), int), 0
    limit = 2 ** (bits - 1) - 1
    for i, j in np.ndindex(code.shape):
        block = x[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        if not np.isfinite(block).all():
            code[i, j], flags = 0xFF, flags | 2
            continue
        largest = max(abs(Fraction(float(v))) for v in block.flat)
        if largest < Fraction(2) ** -126:
            code[i, j] = 127 - 63
            continue
        e = math.frexp(float(largest))[1] - 1
        flags |= e - (bits - 2) > 47
        scale = max(-63, min(47, e - (bits - 2)))
        code[i, j] = scale + 127
        for r, c in np.ndindex(4, 4):
            exact = Fraction(float(block[r, c])) / Fraction(2) ** scale
            mant[4 * i + r, 4 * j + c] = max(-limit, min(limit, round(exact)))  # round: half to even
    return mant, code, flags


def check_quantise(m: ModuleType) -> None:
    for bits in (4, 8, 12, 16):
        x = samples(bits)
        mant, code, flags = m.quantize(x, bits)
        expected = quantised(x, bits)
        np.testing.assert_array_equal(mant, expected[0])
        np.testing.assert_array_equal(code, expected[1])
        assert flags == expected[2] == 3
        assert m.quantize(x[:, :16], bits)[2] == 0
        cut, codes, _ = m.quantize(x[:, :8], bits, valid=(3, 5))
        inside = np.zeros((4, 8), F32)
        inside[:3, :5] = x[:3, :5]
        np.testing.assert_array_equal(cut, quantised(inside, bits)[0])
        np.testing.assert_array_equal(codes, quantised(inside, bits)[1])


def check_decode(m: ModuleType) -> None:
    for bits in (4, 16):
        mant, code, _ = quantised(samples(bits), bits)
        actual = m.decode(mant.astype(np.int16), code.astype(np.uint8))
        for r, c in np.ndindex(mant.shape):
            if code[r // 4, c // 4] == 0xFF:
                assert np.isnan(actual[r, c])
            else:
                exact = int(mant[r, c]) * Fraction(2) ** (int(code[r // 4, c // 4]) - 127)
                assert Fraction(float(actual[r, c])) == exact


def check_bytes(m: ModuleType) -> None:
    for bits in (4, 8, 12, 16):
        limit = 2 ** (bits - 1) - 1
        mant = np.random.RandomState(bits).randint(-limit, limit + 1, (8, 12)).astype(np.int16)
        raw = m.pack(mant, bits)
        for number in range(6):
            block = mant[number // 3 * 4 :, number % 3 * 4 :][:4, :4].reshape(-1)
            word = sum((int(v) & (1 << bits) - 1) << bits * i for i, v in enumerate(block))
            assert raw[number].tobytes() == word.to_bytes(2 * bits, "little")
        np.testing.assert_array_equal(m.unpack(raw, bits, (8, 12)), mant)


def check_matmul(m: ModuleType) -> None:
    """One rounding a block, in increasing order, in exact arithmetic before it."""
    rs = np.random.RandomState(5)
    a, b, acc = (rs.standard_normal(s).astype(F32) for s in ((6, 19), (19, 5), (6, 5)))
    for bits in ((8, 8), (16, 16)):
        qa, qb = smx.quantize(a, bits[0])[:2], smx.quantize(b, bits[1])[:2]
        expected = acc.copy()
        for i, j in np.ndindex(6, 5):
            for k in range(5):
                rows = slice(4 * k, 4 * k + 4)
                dot = sum(int(p) * int(q) for p, q in zip(qa[0][i, rows], qb[0][rows, j], strict=True))
                scale = 2.0 ** (int(qa[1][i // 4, k]) + int(qb[1][k, j // 4]) - 254)
                expected[i, j] = expected[i, j] + F32(float(F32(dot)) * scale)
        np.testing.assert_array_equal(m.matmul(qa, qb, acc.copy(), 6, 5), expected)
        turned = m.matmul_tn(m.transpose(*qa), qb, acc.copy(), 6, 5)
        np.testing.assert_array_equal(turned, expected)
    zero = m.quantize(np.zeros((4, 4), F32), 8)[:2]
    minus_one = m.quantize(np.full((4, 4), -1.0, F32), 8)[:2]
    minus = m.matmul(zero, minus_one, np.full((4, 4), -0.0, F32))
    assert not np.signbit(minus).any()


CHECKS: tuple[Callable[[ModuleType], None], ...] = (check_quantise, check_decode, check_bytes, check_matmul)

MUTANTS = [
    ("E_MIN = -63", "E_MIN = -64"),
    ("E_MAX = 47", "E_MAX = 48"),
    ("(EXP_BIAS + bits - 2)", "(EXP_BIAS + bits - 1)"),
    ("np.float32(2 ** (bits - 1) - 1)", "np.float32(2 ** (bits - 1))"),
    ("np.rint(scaled, out=scaled)", "np.trunc(scaled + np.copysign(0.5, scaled), out=scaled)"),
    ("np.clip(scaled, -limit, limit, out=scaled)", "np.clip(scaled, -limit - 1, limit, out=scaled)"),
    ("over_rows = magnitude.max(axis=-2)", "over_rows = magnitude[..., 0, :]"),
    ("nonfinite = biased_e == 0xFF", "nonfinite = biased_e == 0xFE"),
    ("if bool(((wanted > E_MAX)", "if bool(((wanted >= E_MAX + 99)"),
    ("out[..., :m, :n] = x[..., :m, :n]", "out[..., :m] = x[..., :m]"),
    ("_NAN = np.array(0x7FC00000", "_NAN = np.array(0"),
    ("b0 | (b1 & 0xF) << 8, b1 >> 4 | b2 << 4", "b0 | (b1 & 0xF) << 8, b1 >> 4 | b2 << 8"),
    ("blocks = (blocks ^ sign) - sign", "blocks = blocks - 0 * sign"),
    ("(low >> 8 & 0xF) | (high & 0xF) << 4", "(high & 0xF) | (low >> 8 & 0xF) << 4"),
    ("for j in range(0, k, BLOCK))", "for j in reversed(range(0, k, BLOCK)))"),
    (
        "acc += (a @ b).astype(np.float32, copy=False)",
        "acc += (a @ b).astype(np.float32, copy=False) * np.float32(1.0000001)",
    ),
    ("blocks = range(0, rows, BLOCK)", "blocks = range(BLOCK, rows, BLOCK)"),
    ("<= 1 << 24 else np.float64", "<= 1 << 60 else np.float64"),
]


@pytest.fixture
def load() -> Iterator[Callable[[str, str], ModuleType]]:
    """smx.py with one piece of text replaced, as a module of its own."""
    source, name = Path(smx.__file__).read_text(encoding="utf-8"), "mutated_smx"

    def make(old: str, new: str) -> ModuleType:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
        module = ModuleType(name)
        sys.modules[name] = module
        exec(compile(source.replace(old, new), name, "exec"), module.__dict__)
        return module

    yield make
    sys.modules.pop(name, None)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_smx_is_what_exact_arithmetic_says(check: Callable[[ModuleType], None]) -> None:
    check(smx)


@pytest.mark.parametrize(("old", "new"), MUTANTS, ids=[str(n) for n in range(len(MUTANTS))])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_mutant_is_killed(load: Callable[[str, str], ModuleType], old: str, new: str) -> None:
    module = load(old, new)

    def survives(check: Callable[[ModuleType], None]) -> bool:
        try:
            check(module)
        except (AssertionError, ValueError, IndexError, OverflowError, TypeError):
            return False
        return True

    assert not all(survives(check) for check in CHECKS)
