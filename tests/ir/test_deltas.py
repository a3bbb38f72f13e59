"""DiffQuant's rules: the delta of every op is the true difference, to the last digits, however small it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from pintac.errors import IRError
from pintac.ir import DELTA_RULES, OPS, Builder, Graph, Location, Node, delta_rule, lower_delta_act, rewrite, verify
from pintac.ir.deltas import Refusal
from pintac.ir.evaluate import evaluate
from pintac.ir.ops import DELTA_FUNCTIONS

HERE = Location("net.py", 12)
N, P, W = 3, 2, 4
BASE, FULL = (N, 1, 1, W), (N, 2, P, W)

TRUE = {name: getattr(mpmath, name) for name in ("tanh", "sin", "cos", "exp", "log", "sqrt")}
TRUE["sigmoid"] = lambda x: 1 / (1 + mpmath.exp(-x))


def true_difference(fn: str, y: np.ndarray, d: np.ndarray) -> np.ndarray:
    with mpmath.workdps(150):
        of = TRUE[fn]
        pairs = zip(*(array.ravel() for array in np.broadcast_arrays(y, d)), strict=True)
        values = [float(of(mpmath.mpf(float(a)) + mpmath.mpf(float(b))) - of(mpmath.mpf(float(a)))) for a, b in pairs]
    return np.array(values).reshape(np.broadcast_shapes(y.shape, d.shape))


def delta_act_graph(fn: str, y: tuple[int, ...], d: tuple[int, ...]) -> Graph:
    b = Builder("g")
    with b.at(HERE):
        b.output("out", b.delta_act(fn, b.input("y", y), b.input("d", d)))
    return b.finish()


def lowered(graph: Graph) -> Graph:
    return rewrite(
        graph, lambda b, node, ops: lower_delta_act(b, str(node.attrs["fn"]), *ops) if node.op == "delta_act" else None
    )


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
@pytest.mark.parametrize("scale", [0.3, 1e-3, 1e-7, 1e-12, 1e-100])
def test_delta_act_is_the_true_difference_in_double(fn: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(0.5, 1.4, size=BASE)  # away from the zeros of the derivatives
    d = scale * rng.uniform(-1, 1, size=FULL)
    out = evaluate(delta_act_graph(fn, BASE, FULL), {"y": y, "d": d})["out"]
    np.testing.assert_allclose(out, true_difference(fn, y, d), rtol=4e-15 if scale < 0.1 else 1e-14)


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
@pytest.mark.parametrize("scale", [0.3, 1e-2, 1e-5, 1e-10])
def test_delta_act_keeps_its_digits_in_single(fn: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(0.5, 1.4, size=BASE).astype(np.float32)
    d = (scale * rng.uniform(-1, 1, size=FULL)).astype(np.float32)
    out = evaluate(delta_act_graph(fn, BASE, FULL), {"y": y, "d": d}, mode="smx")["out"]
    np.testing.assert_allclose(out, true_difference(fn, y, d), rtol=2e-6)
    if scale <= 1e-5:  # what subtracting two fp32 values would give
        of = {"sigmoid": lambda x: 1 / (1 + np.exp(-x))}.get(fn) or getattr(np, fn)
        naive = (of(y + d) - of(y)).astype(np.float32)
        assert np.max(np.abs(naive / true_difference(fn, y, d) - 1)) > 1e-3


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_a_zero_delta_gives_zero_and_far_ones_stay_finite(fn: str) -> None:
    y = np.array([[0.25, 1.0, 4.0, 9.0]])
    for d in (np.zeros((1, 4)), np.full((1, 4), 20.0), y):
        for mode, tolerance in (("float64", 1e-13), ("smx", 1e-5)):
            out = evaluate(delta_act_graph(fn, (1, 4), (1, 4)), {"y": y, "d": d}, mode=mode)["out"]
            np.testing.assert_allclose(out, true_difference(fn, y, d), rtol=tolerance, atol=tolerance)
            assert d.any() or not out.any()


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
@pytest.mark.parametrize("mode", ["float64", "float32", "smx"])
def test_delta_act_and_its_lowering_have_the_same_bits(fn: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    feeds = {"y": rng.normal(size=BASE), "d": rng.normal(size=FULL) * 10.0 ** rng.integers(-9, 2, size=FULL)}
    graph = delta_act_graph(fn, BASE, FULL)
    assert not lowered(graph).of("delta_act")
    direct, by_ops = (evaluate(verify(g), feeds, mode=mode)["out"] for g in (graph, lowered(graph)))
    assert direct.tobytes() == by_ops.tobytes()


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
def test_the_lowering_fits_one_vpu_instruction(fn: str) -> None:
    """What depends on D is at most 8 micro-ops; what depends on Y alone has the size of a base row."""
    graph = lowered(delta_act_graph(fn, BASE, FULL))
    assert sum(node.shape == FULL for node in graph.nodes if node.op not in ("input", "const")) <= 8


# ---- the rules of the other ops: a perturbed expression against its split form

Make = Callable[..., Node]


def split(b: Builder, out: Node, pairs: dict[Node, tuple[Node, Node | None]]) -> Node:
    """What split-stein does, in small: base and delta of every node up to `out`."""
    for node in b.finish().nodes:
        if node in pairs or node.op == "const":
            pairs.setdefault(node, (node, None))
            continue
        operands = [pairs[operand] for operand in node.operands]
        delta = delta_rule(b, node, operands)
        attrs = dict(node.attrs)
        if node.op in ("reshape", "broadcast"):
            attrs["shape"] = (N, 1, 1, *node.shape[3:])
        if delta is not None:
            base = b.add_op(node.op, [base for base, _ in operands], attrs, loc=HERE)
        else:  # the base of what was only spread over the evaluations is what was spread
            base = operands[0][0] if node.op == "broadcast" else node
        pairs[node] = (base, delta)
        if node is out:
            assert delta is not None and delta.shape == out.shape
            return delta
    raise AssertionError("out is not in the graph")


CASES: list[tuple[str, Make]] = [
    ("add", lambda b, p, q, w: b.add(p, q)),
    ("add constant", lambda b, p, q, w: b.add(3.0, p)),
    ("add wider constant", lambda b, p, q, w: b.add(b.const(1.0, (W,)), b.sum(p, (3,), keepdims=True))),
    ("sub", lambda b, p, q, w: b.sub(p, q)),
    ("sub from constant", lambda b, p, q, w: b.sub(1.0, p)),
    ("sub constant", lambda b, p, q, w: b.sub(p, 1.0)),
    ("mul", lambda b, p, q, w: b.mul(p, q)),
    ("square", lambda b, p, q, w: b.mul(p, p)),
    ("mul constant", lambda b, p, q, w: b.mul(b.mul(2.0, p), 0.5)),
    ("div", lambda b, p, q, w: b.div(p, q)),
    ("div constant", lambda b, p, q, w: b.div(p, 3.0)),
    ("reciprocal", lambda b, p, q, w: b.div(1.0, p)),
    ("neg", lambda b, p, q, w: b.neg(p)),
    ("select", lambda b, p, q, w: b.select(b.const([1, 0, 0, 1], (W,)), p, q)),
    ("select constant", lambda b, p, q, w: b.select(b.const([1, 0, 0, 1], (W,)), p, 2.0)),
    ("reshape", lambda b, p, q, w: b.reshape(p, (N, 2, P, 2, 2))),
    ("permute", lambda b, p, q, w: b.permute(b.reshape(p, (N, 2, P, 2, 2)), (0, 1, 2, 4, 3))),
    ("slice", lambda b, p, q, w: b.slice(p, 3, 1, 3)),
    ("concat", lambda b, p, q, w: b.concat([p, b.broadcast(b.const([1, 2, 3, 4] * N, BASE), FULL), q], 3)),
    ("pad", lambda b, p, q, w: b.pad(p, 3, 1, 2)),
    ("broadcast", lambda b, p, q, w: b.broadcast(b.slice(p, 3, 0, 1), FULL)),
    ("sum", lambda b, p, q, w: b.sum(p, (3,), keepdims=True)),
    ("matmul", lambda b, p, q, w: b.matmul(p, w, rhs_role="weight")),
    ("matmul transposed", lambda b, p, q, w: b.matmul(p, w, transpose_b=True)),
    ("matmul acc", lambda b, p, q, w: b.matmul(p, w, q)),
    ("tt_matmul", lambda b, p, q, w: b.tt_matmul(
        p, [b.reshape(w, (1, 4, 4)), b.const([1, 2, 3, 4], (4, 1, 1))], (4,), (1,), (4,))),
    *[(fn, lambda b, p, q, w, fn=fn: b.unary(fn, p)) for fn in DELTA_FUNCTIONS],
]  # fmt: skip


@pytest.mark.parametrize("make", [case[1] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("scale", [0.3, 1e-9])
def test_a_rule_gives_the_difference_of_the_perturbed_and_the_base_value(make: Make, scale: float) -> None:
    """Against the op itself in exact rational arithmetic where it is rational, else within the digits of a double."""
    rng = np.random.default_rng(0)
    feeds = {name: rng.uniform(0.5, 1.4, size=BASE) for name in ("x", "y")}
    feeds |= {f"d{name}": scale * rng.uniform(-1, 1, size=FULL) for name in ("x", "y")}
    feeds["w"] = rng.normal(size=(4, 4))
    b = Builder("g")
    with b.at(HERE):
        x, y = b.input("x", BASE), b.input("y", BASE)
        dx, dy = b.input("dx", FULL), b.input("dy", FULL)
        p, q, w = b.add(x, dx), b.add(y, dy), b.input("w", (4, 4))
        pairs: dict[Node, tuple[Node, Node | None]] = {p: (x, dx), q: (y, dy)}
        pairs |= {node: (node, None) for node in (x, y, dx, dy, w)}
        out = make(b, p, q, w)
        # a reshape of the (unperturbed) weight keeps its own shape
        pairs |= {node: (node, None) for node in b.finish().nodes if node.op == "reshape" and node.operands == (w,)}
        b.output("delta", split(b, out, pairs))
        b.output("perturbed", out)
    with_delta = evaluate(verify(b.finish()), feeds)
    at_base = evaluate(b.finish(), {**feeds, "dx": np.zeros(FULL), "dy": np.zeros(FULL)})
    difference = with_delta["perturbed"] - at_base["perturbed"]
    digits = 1e-14 * np.max(np.abs(at_base["perturbed"])) + 1e-13 * scale  # what the subtraction here loses
    np.testing.assert_allclose(with_delta["delta"], difference, rtol=1e-12, atol=4 * digits)
    assert np.any(difference != 0)


def exact(op: str, x: float, dx: float, y: float, dy: float) -> float:
    of = {"mul": lambda a, b: a * b, "div": lambda a, b: a / b}[op]
    fx, fdx, fy, fdy = map(Fraction, (x, dx, y, dy))
    return float(of(fx + fdx, fy + fdy) - of(fx, fy))


@pytest.mark.parametrize("op", ["mul", "div"])
def test_products_and_quotients_do_not_cancel(op: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.5, 1.4, size=(2, 50)).tolist()
    dx, dy = (1e-12 * rng.uniform(0.1, 1, size=(2, 50)) * [[1], [-1 if op == "div" else 1]]).tolist()
    b = Builder("g")
    with b.at(HERE):
        nodes = [b.input(name, (50,)) for name in ("x", "dx", "y", "dy")]
        whole = b.add_op(op, (b.add(nodes[0], nodes[1]), b.add(nodes[2], nodes[3])))
        delta = delta_rule(b, whole, [(nodes[0], nodes[1]), (nodes[2], nodes[3])])
        assert delta is not None
        b.output("delta", delta)
    out = evaluate(b.finish(), {"x": np.array(x), "dx": np.array(dx), "y": np.array(y), "dy": np.array(dy)})["delta"]
    expected = [exact(op, *values) for values in zip(x, dx, y, dy, strict=True)]
    np.testing.assert_allclose(out, expected, rtol=1e-14)


def refused(make: Make, pairs: Sequence[bool]) -> IRError:
    b = Builder("g")
    with b.at(HERE):
        node = make(b, b.input("x", FULL), b.input("y", FULL))
        operands = [
            (operand, operand if perturbed else None) for operand, perturbed in zip(node.operands, pairs, strict=True)
        ]
        with pytest.raises(IRError) as caught:
            delta_rule(b, node, operands)
    return caught.value


@pytest.mark.parametrize(
    ("make", "pairs", "message"),
    [
        (lambda b, x, y: b.abs(x), [True], "abs: has a kink"),
        (lambda b, x, y: b.max(x, y), [True, False], "max: has a kink"),
        (lambda b, x, y: b.amax(x, (3,)), [True], "amax: has a kink"),
        (lambda b, x, y: b.compare("lt", x, y), [True, False], "compare: compares a perturbed value"),
        (lambda b, x, y: b.select(x, y, y), [True, False, False], "select: the condition depends"),
        (lambda b, x, y: b.erf(x), [True], "erf: no cancellation-free"),
        (lambda b, x, y: b.floor(x), [True], "floor: jumps"),
        (lambda b, x, y: b.round(x), [True], "round: jumps"),
        (lambda b, x, y: b.quantize(x, 8), [True], "quantize: deltas are split before"),
        (lambda b, x, y: b.matmul(x, b.input("w", (W, 2))), [False, True], "matmul: the weight depends"),
        (lambda b, x, y: b.matmul_tn(x, y), [True, False], "matmul_tn: contracts the rows"),
        (lambda b, x, y: b.perturb(b.input("z", (N, W)), y), [False, True], "perturb: a perturbed point is perturbed"),
        (lambda b, x, y: b.difference(x, b.input("z", BASE)), [True, True], "difference: the base evaluation"),
    ],
)
def test_what_has_no_rule_is_refused_at_its_line_with_a_remedy(make: Make, pairs: list[bool], message: str) -> None:
    error = refused(make, pairs)
    assert error.message.startswith(message)
    assert str(error).startswith("net.py:12: ") and error.hint


def test_unperturbed_operands_give_no_delta_for_any_op() -> None:
    b = Builder("g")
    with b.at(HERE):
        x = b.input("x", BASE)
        for node in (b.abs(x), b.compare("lt", x, 0.0), b.erf(x), b.tanh(x)):
            assert delta_rule(b, node, [(operand, None) for operand in node.operands]) is None


def test_difference_returns_the_delta_and_matmul_marks_its_operand() -> None:
    b = Builder("g")
    with b.at(HERE):
        x, d, w = b.input("x", BASE), b.input("d", FULL), b.input("w", (W, 2))
        p = b.add(x, d)
        assert delta_rule(b, b.difference(p, x), [(x, d), (x, None)]) is d
        delta = delta_rule(b, b.matmul(p, w, lhs_role="base", rhs_role="weight"), [(x, d), (w, None)])
    assert delta is not None and (delta.attrs["lhs_role"], delta.attrs["rhs_role"]) == ("delta", "weight")


def test_every_rule_is_tested_or_refused() -> None:
    b = Builder("g")
    with b.at(HERE):
        for _, make in CASES:
            make(b, b.input("p", FULL), b.input("q", FULL), b.input("w", (4, 4)))
    tested = {node.op for node in b.finish().nodes} | {"difference", "perturb"}
    refusals = {op for op, rule in DELTA_RULES.items() if isinstance(rule, Refusal)}
    assert {op for op in OPS if op not in tested} == refusals - {"input", "const"}
