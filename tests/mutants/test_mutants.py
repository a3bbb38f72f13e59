"""Seeded mutants: each is killed by a named test or check of this repository, which passes on the unmutated code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from pintac import isa, smx
from pintac.backend.listing import allocate as allocator
from pintac.backend.listing.check import check as check_allocation
from pintac.backend.tiles import tile
from pintac.backend.tiles.tile import Item, Loop
from pintac.errors import PintacError
from pintac.ir import Builder, Node, deltas, gradients
from pintac.ir.ops import DELTA_FUNCTIONS
from pintac.isa import DEFS, Opcode
from pintac.isa.encoding import decode
from pintac.machine import Machine
from tests.backend.schedules import dram, load, move, sram, store
from tests.ir import test_deltas as delta_tests
from tests.ir import test_gradients as gradient_tests
from tests.isa import test_words as word_tests
from tests.properties import test_smx as smx_tests

KILLED = (AssertionError, PintacError, ValueError)
Check = Callable[[], None]
Patch = Callable[[pytest.MonkeyPatch], None]


def killed(check: Check, patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes on the code as it is and fails on the mutant."""
    check()
    with monkeypatch.context() as context:
        patch(context)
        with pytest.raises(KILLED):
            check()
    check()


# --- smx --------------------------------------------------------------------------------------------------------------

HALVES = smx_tests.tensor(3, (8, 7), "halves")
WIDE = smx_tests.tensor(4, (8, 7), "wide")


def quantise_by_hand() -> None:
    for x in (HALVES, WIDE):
        for b in smx.BITS:
            mant, code, _ = smx.quantize(x, b)
            expected_mant, expected_code = smx_tests.quantize_by_hand(x, b)
            np.testing.assert_array_equal(mant, expected_mant)
            np.testing.assert_array_equal(code, expected_code)


def decoded_values() -> None:
    for b in smx.BITS:
        mant, code, _ = smx.quantize(WIDE, b)
        exact = mant * np.exp2(np.repeat(np.repeat(code.astype(float) - 127, 4, 0), 4, 1))
        np.testing.assert_array_equal(smx.decode(mant, code), exact.astype(np.float32))


def packed_bits() -> None:
    smx_tests.test_bits_are_where_they_should_be.hypothesis.inner_test(5, 12)  # type: ignore[attr-defined]


def packing_round_trip() -> None:
    smx_tests.test_packing_round_trips.hypothesis.inner_test(5, 12, [2, 2])  # type: ignore[attr-defined]


def product_by_hand() -> None:
    x = smx_tests.tensor(5, (8, 40))
    a, b = smx.quantize(x, 8)[:2], smx.quantize(np.ascontiguousarray(x.T), 16)[:2]
    acc = np.zeros((8, 8), np.float32)
    np.testing.assert_array_equal(smx.matmul(a, b, acc.copy()), smx_tests.matmul_by_hand(a, b, acc))


def of_quantise(change: Callable[[np.ndarray, int], np.ndarray]) -> Patch:
    """A mutant of the mantissas: the format with the same exponents, the mantissas made by `change(scaled, bits)`."""
    original = smx.quantize

    def mutant(x: np.ndarray, bits: int, *args: Any, **kwargs: Any) -> Any:
        mant, code, flags = original(x, bits, *args, **kwargs)
        padded = np.zeros(mant.shape, np.float64)
        padded[..., : x.shape[-2], : x.shape[-1]] = x
        scaled = padded / np.exp2(np.repeat(np.repeat(code.astype(float) - 127, 4, -2), 4, -1))
        return change(scaled, 2 ** (bits - 1) - 1).astype(np.int16), code, flags

    return lambda m: m.setattr(smx, "quantize", mutant)


def patched(name: str, make: Callable[[Any], Any]) -> Patch:
    """Replace a function of smx by one made from it."""
    return lambda m: m.setattr(smx, name, make(getattr(smx, name)))


def nearest(scaled: np.ndarray, limit: int) -> np.ndarray:
    return np.clip(np.rint(scaled), -limit, limit)


def test_the_unmutated_quantise_in_this_form_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants below differ from the format in what they change and in nothing else."""
    of_quantise(nearest)(monkeypatch)
    quantise_by_hand()


SMX: Mapping[str, tuple[Check, Patch]] = {
    "ties away from zero": (
        quantise_by_hand,
        of_quantise(lambda s, limit: np.clip(np.sign(s) * np.floor(np.abs(s) + 0.5), -limit, limit)),
    ),
    "truncation": (quantise_by_hand, of_quantise(lambda s, limit: np.clip(np.trunc(s), -limit, limit))),
    "rounding up": (quantise_by_hand, of_quantise(lambda s, limit: np.clip(np.ceil(s), -limit, limit))),
    "clamp one too low": (
        quantise_by_hand,
        of_quantise(lambda s, limit: np.clip(nearest(s, limit), 1 - limit, limit - 1)),
    ),
    "no clamp": (quantise_by_hand, of_quantise(lambda s, limit: np.rint(s))),
    "exponent one too high": (quantise_by_hand, patched("quantize", lambda f: lambda x, b: _shifted(f(x, b), 1))),
    "bias of 126 at decode": (decoded_values, patched("decode", lambda f: lambda m, c: f(m, c) * np.float32(2))),
    "bias of 126 everywhere": (quantise_by_hand, lambda m: m.setattr(smx, "EXP_BIAS", 126)),
    "blocks packed by columns": (packed_bits, patched("pack", lambda f: lambda m, b: f(_transposed(m), b))),
    "high nibble first": (packed_bits, patched("pack", lambda f: lambda m, b: _swapped(f(m, b)))),
    "sign lost at unpack": (
        packing_round_trip,
        patched("unpack", lambda f: lambda d, b, s: f(d, b, s) & (2 ** (b - 1) - 1)),
    ),
    "accumulation from the end": (product_by_hand, patched("matmul", lambda f: _backwards(f))),
    "one rounding a product": (product_by_hand, lambda m: m.setattr(smx, "_add_block_products", _add_late)),
}  # fmt: skip


def _shifted(found: tuple[np.ndarray, np.ndarray, int], by: int) -> tuple[np.ndarray, np.ndarray, int]:
    return found[0], found[1] + np.uint8(by), found[2]


def _transposed(mant: np.ndarray) -> np.ndarray:
    blocks = mant.reshape(mant.shape[0] // 4, 4, mant.shape[1] // 4, 4)
    return np.ascontiguousarray(blocks.transpose(0, 3, 2, 1)).reshape(mant.shape)


def _swapped(data: np.ndarray) -> np.ndarray:
    return ((data << 4) | (data >> 4)).astype(np.uint8)


def _backwards(matmul: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def mutant(a: smx.Smx, b: smx.Smx, acc: np.ndarray) -> np.ndarray:
        k = a[0].shape[1] // 4
        columns = np.concatenate([np.arange(4 * j, 4 * j + 4) for j in reversed(range(k))])
        left = a[0][:, columns], a[1][:, ::-1].copy()
        return matmul(left, (b[0][columns], b[1][::-1].copy()), acc)

    return mutant


def _add_late(acc: np.ndarray, pairs: Any) -> None:
    acc += np.sum([a.astype(np.float64) @ b for a, b in pairs], axis=0).astype(np.float32)


@pytest.mark.parametrize("name", SMX)
def test_smx(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, patch = SMX[name]
    killed(check, patch, monkeypatch)


# --- decoder ----------------------------------------------------------------------------------------------------------


def words_round_trip() -> None:
    """Every field of every opcode by itself at its ends: `test_words_decode_to_what_was_encoded` on fixed words."""
    for opcode in Opcode:
        for f in DEFS[opcode].fields.values():
            for value in (-(1 << f.bits - 1), -1) if f.signed else ((1 << f.bits) - 1, 1):
                word_tests.test_words_decode_to_what_was_encoded.hypothesis.inner_test(  # type: ignore[attr-defined]
                    isa.Instruction(opcode, {f.name: value})
                )


def of_decode(opcode: Opcode, field: str, change: Callable[[int, int], int]) -> Patch:
    """A decoder that reads one field wrongly: `change(value, bits)`."""
    original, bits = decode, DEFS[opcode].fields[field].bits

    def mutant(word: bytes) -> isa.Instruction:
        found = original(word)
        if found.opcode != opcode or field not in found.values:
            return found
        return replace(found, values={**found.values, field: change(found.values[field], bits)})

    return lambda m: m.setattr(word_tests, "decode", mutant)


def unsigned(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


DECODER = {
    "rows shifted by one bit": of_decode(Opcode.VPU, "rows", lambda v, bits: v >> 1),
    "k loses its top bit": of_decode(Opcode.MATMUL, "k", lambda v, bits: v & ((1 << bits - 1) - 1)),
    "sign of a step lost": of_decode(Opcode.MATMUL, "s0.step1", unsigned),
    "sign of a row stride lost": of_decode(Opcode.LOAD, "s0.hi", unsigned),
    "semaphore off by one": of_decode(Opcode.WAIT, "sem", lambda v, bits: v ^ 1),
    "transpose flag dropped": of_decode(Opcode.MATMUL, "tb", lambda v, bits: 0),
    "immediate byte-swapped": of_decode(
        Opcode.VPU, "imm2", lambda v, bits: int.from_bytes(v.to_bytes(4, "little"), "big")
    ),
}


@pytest.mark.parametrize("name", DECODER)
def test_decoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(words_round_trip, DECODER[name], monkeypatch)


# --- allocator --------------------------------------------------------------------------------------------------------


def allocation_owns_its_bytes() -> None:
    """`pintac.backend.listing.check` on a chain, on a value read twice and on a loop that reads what came before it.

    And no operation writes bytes of another buffer that it reads: engines may write rows before they read the last.
    """
    machine = Machine.default()
    a, b, c, d, kept, inside, other = (sram(name) for name in ("a", "b", "c", "d", "kept", "inside", "other"))
    source, out = dram("source", 0), dram("out", 1024)
    loop = Loop(0, 3, [move(kept, inside), store(inside, out), load(source, other), store(other, out)])
    listings: list[list[Item]] = [
        [load(source, a), move(a, b), move(b, c), store(c, out)],
        [load(source, a), load(source, b), move(a, c), move(b, d), store(c, out), store(a, out), store(d, out)],
        [load(source, kept), loop],
    ]
    for items in listings:
        allocator.allocate(items, machine)
        check_allocation(items, machine)
        for op in [op for op, _ in tile.walk(items) if isinstance(op, tile.TileOp)]:
            for read in (v.buffer for v in op.reads()):
                for written in (v.buffer for v in op.writes() if v.buffer.space == read.space):
                    start, other = read.addr or 0, written.addr or 0
                    assert start + read.bytes <= other or other + written.bytes <= start, (read.name, written.name)


def of_lifetimes(change: Callable[[allocator.Life], allocator.Life]) -> Patch:
    original = allocator.lifetimes
    return lambda m: m.setattr(
        allocator, "lifetimes", lambda *given: {b: change(life) for b, life in original(*given).items()}
    )


ALLOCATOR: Mapping[str, Patch] = {
    "lives end one too early": of_lifetimes(lambda life: allocator.Life(life.first, life.last - 1)),
    "lives begin one too late": of_lifetimes(lambda life: allocator.Life(life.first + 1, life.last)),
    "an end that is a begin is no overlap": lambda m: m.setattr(
        allocator, "_overlap", lambda a, b: a.first < b.last and b.first < a.last
    ),
    "loops keep nothing": lambda m: m.setattr(allocator, "lifetimes", _without_loops(allocator.lifetimes)),
    "everything at zero": lambda m: m.setattr(allocator, "_overlap", lambda a, b: False),
}


def _without_loops(lifetimes: Callable[..., dict[Any, allocator.Life]]) -> Callable[..., dict[Any, Any]]:
    return lambda items, *rest: lifetimes([op for op, _ in tile.walk(items) if isinstance(op, tile.TileOp)], *rest)


@pytest.mark.parametrize("name", ALLOCATOR)
def test_allocator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(allocation_owns_its_bytes, ALLOCATOR[name], monkeypatch)


# --- gradient table ---------------------------------------------------------------------------------------------------


def gradients_match_torch(op: str) -> None:
    """The cases of `test_gradient` that use the op."""
    used = False
    for name, make, fn, shapes in gradient_tests.CASES:
        b = Builder("g")
        with b.at(gradient_tests.HERE):
            make(b, *(b.input(f"x{i}", shape) for i, shape in enumerate(shapes)))
        if any(node.op == op for node in b.finish().nodes) or name.startswith(op):
            used = True
            gradient_tests.test_gradient(make, fn, shapes)
    assert used


def with_rule(module: Any, table: str, op: str, rule: Any) -> Patch:
    """One rule of a table replaced."""
    return lambda m: m.setattr(module, table, MappingProxyType({**getattr(module, table), op: rule}))


def grad_mutant(op: str, change: Callable[[Builder, Callable[[], Node]], Node], which: int) -> Patch:
    original: Any = gradients.GRADIENTS[op]

    def rule(b: Builder, node: Node, ops: Any, g: Node) -> Any:
        built = list(original(b, node, ops, g))
        build = built[which]
        built[which] = lambda: change(b, build)
        return built

    return with_rule(gradients, "GRADIENTS", op, rule)


DIFFERENTIABLE = {
    "add": 1, "sub": 1, "mul": 1, "div": 1, "min": 1, "max": 1, "neg": 0, "sqrt": 0, "abs": 0, "exp": 0, "log": 0,
    "tanh": 0, "sigmoid": 0, "sin": 0, "cos": 0, "erf": 0, "select": 2, "matmul": 1, "matmul_tn": 1, "perturb": 0,
    "reshape": 0, "permute": 0, "slice": 0, "concat": 1, "broadcast": 0, "pad": 0, "sum": 0, "amax": 0, "quantize": 0,
    "decode": 0,
}  # fmt: skip
"""The last operand with a gradient, of each op that a case of the gradient tests uses."""


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_sign_of_a_gradient(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = grad_mutant(op, lambda b, build: b.neg(build()), DIFFERENTIABLE[op])
    killed(lambda: gradients_match_torch(op), mutant, monkeypatch)


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_dropped_gradient(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = grad_mutant(op, lambda b, build: b.mul(build(), 0.0), DIFFERENTIABLE[op])
    killed(lambda: gradients_match_torch(op), mutant, monkeypatch)


def act_gradients_match(fn: str) -> None:
    gradient_tests.test_gradient_of_delta_act(fn, [(4, 1, 1, 3), (4, 2, 5, 3)])


@pytest.mark.parametrize("which", [0, 1], ids=["base", "delta"])
@pytest.mark.parametrize("factor", [-1.0, 0.0], ids=["sign", "dropped"])
@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_gradient_of_delta_act(fn: str, factor: float, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = gradients._DELTA_ACT[fn]

    def rule(b: Builder, *args: Node) -> Any:
        built: list[Any] = list(original(b, *args))
        build = built[which]
        built[which] = lambda: b.mul(build(), factor)
        return built

    killed(lambda: act_gradients_match(fn), with_rule(gradients, "_DELTA_ACT", fn, rule), monkeypatch)


# --- delta table ------------------------------------------------------------------------------------------------------

SPLIT = dict(delta_tests.CASES)


def deltas_match(case: str) -> None:
    """`test_a_rule_gives_the_difference_of_the_perturbed_and_the_base_value` on one case."""
    delta_tests.test_a_rule_gives_the_difference_of_the_perturbed_and_the_base_value(SPLIT[case], 0.3)


def delta_mutant(op: str, change: Callable[[Builder, Node], Node]) -> Patch:
    original: Any = deltas.DELTA_RULES[op]
    return with_rule(deltas, "DELTA_RULES", op, lambda b, node, pairs: change(b, original(b, node, pairs)))


SPLIT_OPS = ("add", "sub", "mul", "div", "select", "reshape", "permute", "slice", "concat", "pad", "broadcast", "sum",
             "matmul", "tt_matmul", *DELTA_FUNCTIONS)  # fmt: skip


@pytest.mark.parametrize("op", SPLIT_OPS)
def test_sign_of_a_delta(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lambda: deltas_match(op), delta_mutant(op, lambda b, delta: b.neg(delta)), monkeypatch)


def _mul_first_order(b: Builder, node: Node, pairs: Any) -> Node:
    (x, dx), (y, dy) = pairs
    return b.add(b.mul(x, dy), b.mul(dx, y))


def _div_first_order(b: Builder, node: Node, pairs: Any) -> Node:
    (x, dx), (y, dy) = pairs
    return b.div(b.sub(dx, b.mul(b.div(x, y), dy)), y)


def _left_only(b: Builder, node: Node, pairs: Any) -> Node:
    return pairs[0][1]


DELTAS: Mapping[str, tuple[str, str, Any]] = {
    "product without the second order": ("mul", "mul", _mul_first_order),
    "square without the second order": ("square", "mul", _mul_first_order),
    "quotient by the base": ("div", "div", _div_first_order),
    "sum without its right operand": ("add", "add", _left_only),
    "difference without its right operand": ("sub", "sub", _left_only),
    "difference that adds": ("sub", "sub", deltas.DELTA_RULES["add"]),
    "constant minus delta keeps its sign": ("sub from constant", "sub", lambda b, node, pairs: pairs[1][1]),
    "matmul without its start value": (
        "matmul acc", "matmul", lambda b, node, pairs: b.matmul(pairs[0][1], pairs[1][0]),
    ),
    "select of the other branch": (
        "select", "select", lambda b, node, pairs: b.select(pairs[0][0], pairs[2][1], pairs[1][1]),
    ),
    "difference of cos for sin": ("sin", "sin", lambda b, node, pairs: b.delta_act("cos", *pairs[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", DELTAS)
def test_deltas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, op, rule = DELTAS[name]
    killed(lambda: deltas_match(case), with_rule(deltas, "DELTA_RULES", op, rule), monkeypatch)


def act_is_true(fn: str) -> None:
    delta_tests.test_delta_act_is_the_true_difference_in_double(fn, 1e-3)


def _first_order(fn: str) -> Callable[[Builder, Node, Node], Node]:
    """fn'(Y) D, without the second order."""
    slopes: dict[str, Callable[[Builder, Node], Node]] = {
        "tanh": lambda b, y: b.sub(1.0, b.mul(b.tanh(y), b.tanh(y))),
        "sigmoid": lambda b, y: b.mul(b.sigmoid(y), b.sub(1.0, b.sigmoid(y))),
        "sin": lambda b, y: b.cos(y),
        "cos": lambda b, y: b.neg(b.sin(y)),
        "exp": lambda b, y: b.exp(y),
        "log": lambda b, y: b.div(1.0, y),
        "sqrt": lambda b, y: b.div(0.5, b.sqrt(y)),
    }
    return lambda b, y, d: b.mul(slopes[fn](b, y), d)


@pytest.mark.parametrize("kind", ["sign", "first order", "by subtraction"])
@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_delta_act(fn: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = deltas._DELTA_ACT[fn]
    mutant: Any = {
        "sign": lambda b, y, d: b.neg(original(b, y, d)),
        "first order": _first_order(fn),
        "by subtraction": lambda b, y, d: b.sub(b.unary(fn, b.add(y, d)), b.unary(fn, y)),
    }[kind]
    killed(lambda: act_is_true(fn), with_rule(deltas, "_DELTA_ACT", fn, mutant), monkeypatch)
