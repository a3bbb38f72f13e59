"""The type of every op's result: every rule, kept and broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pintac.errors import IRError
from pintac.ir import OPS, Builder, Location, Node

HERE = Location("net.py", 12)

Make = Callable[[Builder, Callable[..., Node]], Node]

GOOD: list[tuple[str, Make, str]] = [
    ("state", lambda b, x: b.state("w", (2, 3)), "f32[2,3]"),
    ("scalar", lambda b, x: b.scalar("lr"), "f32[]"),
    ("const", lambda b, x: b.const([1, 2], (2,)), "f32[2]"),
    ("splat", lambda b, x: b.const(1.0, (2, 3)), "f32[2,3]"),
    ("random", lambda b, x: b.random("normal", 1, 0, (4, 2)), "f32[4,2]"),
    ("broadcasting", lambda b, x: b.add(x(4, 1, 1, 8), x(2, 5, 8)), "f32[4,2,5,8]"),
    ("scalar operand", lambda b, x: b.mul(2, x(3)), "f32[3]"),
    ("compare", lambda b, x: b.compare("le", x(3, 1), x(1, 4)), "f32[3,4]"),
    ("select", lambda b, x: b.select(x(2, 1), x(1, 3), 0.0), "f32[2,3]"),
    ("delta_act", lambda b, x: b.delta_act("exp", x(4, 1, 1, 8), x(4, 2, 3, 8)), "f32[4,2,3,8]"),
    ("matmul", lambda b, x: b.matmul(x(4, 2, 5, 3), x(3, 7)), "f32[4,2,5,7]"),
    ("matmul transposed", lambda b, x: b.matmul(x(5, 3), x(7, 3), transpose_b=True), "f32[5,7]"),
    ("matmul acc", lambda b, x: b.matmul(x(5, 3), x(3, 7), x(5, 7)), "f32[5,7]"),
    ("matmul smx", lambda b, x: b.matmul(b.quantize(x(5, 3), 8), b.quantize(x(3, 7), 12)), "f32[5,7]"),
    ("matmul_tn", lambda b, x: b.matmul_tn(x(4, 2, 5, 3), x(4, 2, 5, 7)), "f32[3,7]"),
    ("tt", lambda b, x: b.tt_matmul(x(5, 6), [x(1, 2, 3), x(3, 3, 1), x(1, 4, 1)], (2, 3), (4,), (3, 1)), "f32[5,4]"),
    ("gradient", lambda b, x: b.gradient(x(5, 2), x(5, 3)), "f32[5,2,3]"),
    ("laplacian", lambda b, x: b.laplacian(x(5, 2), x(5, 3), 1, 3), "f32[5,2]"),
    ("perturb", lambda b, x: b.perturb(x(5, 3), x(5, 2, 4, 3)), "f32[5,2,4,3]"),
    ("difference", lambda b, x: b.difference(x(5, 2, 4, 3), x(5, 1, 1, 3)), "f32[5,2,4,3]"),
    ("reshape", lambda b, x: b.reshape(x(4, 6), (2, 12)), "f32[2,12]"),
    ("permute", lambda b, x: b.permute(x(4, 6, 3), (2, 0, 1)), "f32[3,4,6]"),
    ("slice", lambda b, x: b.slice(x(4, 6), -1, 2, 5), "f32[4,3]"),
    ("concat", lambda b, x: b.concat([x(4, 6), x(4, 1), x(4, 2)], -1), "f32[4,9]"),
    ("broadcast", lambda b, x: b.broadcast(x(1, 6), (3, 4, 6)), "f32[3,4,6]"),
    ("pad", lambda b, x: b.pad(x(4, 6), 0, 1, 2), "f32[7,6]"),
    ("sum all", lambda b, x: b.sum(x(4, 6)), "f32[]"),
    ("sum", lambda b, x: b.sum(x(4, 6, 3), (-1, 0)), "f32[6]"),
    ("amax", lambda b, x: b.amax(x(4, 6, 3), (1,), keepdims=True), "f32[4,1,3]"),
    ("quantize", lambda b, x: b.quantize(x(3, 4, 6), 4), "smx4[3,4,6]"),
    ("decode", lambda b, x: b.decode(b.quantize(x(4, 6), 16)), "f32[4,6]"),
]

BAD: list[tuple[str, Make, str]] = [
    ("const size", lambda b, x: b.const([1, 2], (3,)), "2 values for the shape"),
    ("broadcasting", lambda b, x: b.add(x(4, 3), x(2, 3)), "do not broadcast"),
    ("smx operand", lambda b, x: b.add(b.quantize(x(4, 4), 8), x(4, 4)), "works on f32"),
    ("matmul inner", lambda b, x: b.matmul(x(4, 3), x(4, 3)), "contracts 3 with 4"),
    ("matmul transposed inner", lambda b, x: b.matmul(x(4, 3), x(3, 4), transpose_b=True), "contracts 3 with 4"),
    ("matmul rank", lambda b, x: b.matmul(x(3), x(3, 4)), "rank 2 or more"),
    ("matmul rhs rank", lambda b, x: b.matmul(x(2, 4, 3), x(2, 3, 4)), "b of rank 2"),
    ("matmul mixed", lambda b, x: b.matmul(b.quantize(x(4, 3), 8), x(3, 4)), "both f32 or both smx"),
    ("matmul acc", lambda b, x: b.matmul(x(4, 3), x(3, 4), x(4)), "start value must be f32[4,4]"),
    ("matmul_tn rows", lambda b, x: b.matmul_tn(x(2, 4, 3), x(8, 3)), "must agree"),
    ("matmul_tn acc", lambda b, x: b.matmul_tn(x(4, 3), x(4, 2), x(2, 3)), "start value must be f32[3,2]"),
    (
        "tt core",
        lambda b, x: b.tt_matmul(x(5, 2), [x(1, 2, 3), x(2, 4, 1)], (2,), (4,), (3,)),
        "core 2 must be f32[3,4,1]",
    ),
    ("tt cores", lambda b, x: b.tt_matmul(x(5, 2), [x(1, 2, 3), x(3, 4, 1)], (2,), (4,), (3, 1)), "as many cores"),
    ("tt input", lambda b, x: b.tt_matmul(x(5, 3), [x(1, 2, 3), x(3, 4, 1)], (2,), (4,), (3,)), "must be [..., 2]"),
    ("gradient rows", lambda b, x: b.gradient(x(5, 2), x(4, 3)), "needs y [N, m]"),
    ("laplacian columns", lambda b, x: b.laplacian(x(5, 2), x(5, 3), 1, 4), "columns 1..4"),
    ("perturb", lambda b, x: b.perturb(x(5, 3), x(5, 2, 3)), "perturb needs"),
    ("difference", lambda b, x: b.difference(x(5, 2, 4, 3), x(5, 3)), "difference needs"),
    ("reshape", lambda b, x: b.reshape(x(4, 6), (5, 5)), "number of elements"),
    ("permute", lambda b, x: b.permute(x(4, 6), (0, 0)), "not a permutation"),
    ("slice empty", lambda b, x: b.slice(x(4, 6), 1, 3, 3), "slice 3..3"),
    ("slice axis", lambda b, x: b.slice(x(4, 6), 2, 0, 1), "axis 2 is outside"),
    ("concat", lambda b, x: b.concat([x(4, 6), x(3, 6)], 1), "does not fit"),
    ("broadcast", lambda b, x: b.broadcast(x(2, 6), (3, 6)), "do not broadcast"),
    ("broadcast to less", lambda b, x: b.broadcast(x(2, 6), (1, 6)), "does not broadcast to"),
    ("pad", lambda b, x: b.pad(x(4), 0, -1, 0), "negative"),
    ("sum twice", lambda b, x: b.sum(x(4, 6), (1, -1)), "once each"),
    ("sum axis", lambda b, x: b.sum(x(4, 6), (2,)), "outside rank"),
    ("quantize vector", lambda b, x: b.quantize(x(4), 8), "two dimensions"),
    ("decode", lambda b, x: b.decode(x(4, 4)), "needs an smx value"),
    ("arity", lambda b, x: b.add_op("tanh", (x(1), x(1))), "takes 1 operands, got 2"),
]


def source(b: Builder) -> Callable[..., Node]:
    return lambda *shape: b.input(f"x{len(b.finish().nodes)}", shape)


@pytest.mark.parametrize(("make", "type_"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_the_type_of_a_result(make: Make, type_: str) -> None:
    b = Builder("g")
    with b.at(HERE):
        node = make(b, source(b))
    assert str(node.type) == type_
    assert node.loc == HERE


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_broken_rules_are_reported_at_the_source_line(make: Make, message: str) -> None:
    b = Builder("g")
    with pytest.raises(IRError) as caught, b.at(HERE):
        make(b, source(b))
    assert message in caught.value.message
    assert str(caught.value).startswith("net.py:12: ")


def test_every_op_is_among_the_cases() -> None:
    b = Builder("g")
    with b.at(HERE):
        ops = {make(b, source(b)).op for _, make, _ in GOOD}
    untested = {name for name, op in OPS.items() if name not in ops and op.category != "elementwise"}
    assert untested == {"input", "data"}  # the rule of state
