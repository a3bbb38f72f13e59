"""The rules of even and odd halves: what the plus and minus evaluations say, without cancellation."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from pintac.errors import IRError
from pintac.ir import DELTA_RULES, Builder, Location, Node, verify
from pintac.ir.deltas import Refusal
from pintac.ir.evaluate import evaluate
from pintac.ir.even_odd import EVEN_ODD_RULES, UNPERTURBED, Halves, both_signs, even_odd_rule, halves_of
from pintac.ir.ops import DELTA_FUNCTIONS
from tests.ir.test_deltas import BASE, CASES, FULL, HERE, TRUE, Make, N, P, W

HALF = (N, 1, P, W)


def test_the_table_covers_what_has_a_delta_rule() -> None:
    assert set(EVEN_ODD_RULES) == set(DELTA_RULES)
    for op, rule in EVEN_ODD_RULES.items():
        assert isinstance(rule, Refusal) == isinstance(DELTA_RULES[op], Refusal), op


def halves_through(b: Builder, out: Node, known: dict[Node, tuple[Node, Halves]]) -> Halves:
    """What split-stein does, in small: base and halves of every node up to `out`."""
    for node in b.finish().nodes:
        if node in known or node.op == "const":
            known.setdefault(node, (node, UNPERTURBED))
            continue
        operands = [known[operand] for operand in node.operands]
        halves = even_odd_rule(b, node, operands)
        attrs = dict(node.attrs)
        if node.op in ("reshape", "broadcast"):
            attrs["shape"] = (N, 1, 1, *node.shape[3:])
        if halves.perturbed:
            base = b.add_op(node.op, [base for base, _ in operands], attrs, loc=HERE)
        else:
            base = operands[0][0] if node.op == "broadcast" else node
        known[node] = (base, halves)
        if node is out:
            return halves
    raise AssertionError("out is not in the graph")


@pytest.mark.parametrize("make", [case[1] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("scale", [0.3, 1e-9])
@pytest.mark.parametrize("first", [True, False], ids=["no even half", "both halves"])
def test_a_rule_gives_the_differences_of_both_signs(make: Make, scale: float, first: bool) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.uniform(0.5, 1.4, size=BASE) for name in ("x", "y")}
    feeds |= {f"{half}{name}": scale * rng.uniform(-1, 1, size=HALF) / 2 for half in "ab" for name in "xy"}
    if first:
        feeds |= {name: np.zeros(HALF) for name in ("bx", "by")}
    feeds["w"] = rng.normal(size=(4, 4))
    b = Builder("g")
    with b.at(HERE):
        x, y, w = b.input("x", BASE), b.input("y", BASE), b.input("w", (4, 4))
        halves = {name: Halves(b.input(f"a{name}", HALF), b.input(f"b{name}", HALF)) for name in "xy"}
        p, q = (b.add(base, both_signs(b, halves[name], FULL)) for base, name in ((x, "x"), (y, "y")))
        given = {name: Halves(halves[name].odd, None) for name in "xy"} if first else halves
        known = {p: (x, given["x"]), q: (y, given["y"])}
        known |= {node: (node, UNPERTURBED) for node in b.finish().nodes if node not in (p, q)}
        out = make(b, p, q, w)
        known |= {n: (n, UNPERTURBED) for n in b.finish().nodes if n.op == "reshape" and n.operands == (w,)}
        found = halves_through(b, out, known)
        assert found.perturbed and all(h is None or h.shape[1] == 1 for h in (found.odd, found.even))
        b.output("delta", both_signs(b, found, out.shape))
        b.output("perturbed", out)
    with_delta = evaluate(verify(b.finish()), feeds)
    zeros = {f"{half}{name}": np.zeros(HALF) for half in "ab" for name in "xy"}
    at_base = evaluate(b.finish(), {**feeds, **zeros})["perturbed"]
    difference = with_delta["perturbed"] - at_base
    digits = 1e-14 * np.max(np.abs(at_base)) + 1e-13 * scale  # what the subtraction here loses
    np.testing.assert_allclose(with_delta["delta"], difference, rtol=1e-12, atol=4 * digits)
    assert np.any(difference != 0)


def halves_of_op(op: str, operands: dict[str, np.ndarray], even: bool) -> tuple[np.ndarray, np.ndarray]:
    """Odd and even half of op(x, y) or op(x), all at [1, 1, 1, n]."""
    n = next(iter(operands.values())).size
    shape, names = (1, 1, 1, n), [name for name in "xy" if name in operands]
    b = Builder("g")
    with b.at(Location("net.py", 1)):
        bases = {name: b.input(name, shape) for name in names}
        given = {
            name: Halves(b.input(f"a{name}", shape), b.input(f"b{name}", shape) if even else None) for name in names
        }
        full = [b.broadcast(bases[name], (1, 2, 1, n)) for name in names]
        node = b.add_op(op, full)
        found = even_odd_rule(b, node, [(bases[name], given[name]) for name in names])
        assert found.odd is not None and found.even is not None
        b.output("odd", found.odd)
        b.output("even", found.even)
    result = evaluate(b.finish(), {name: value.reshape(shape) for name, value in operands.items()})
    return result["odd"].ravel(), result["even"].ravel()


@pytest.mark.parametrize("op", ["mul", "div"])
def test_products_and_quotients_do_not_cancel(op: str) -> None:
    """Each half to twelve digits by itself, where the even one is 1e-12 of the odd one: against rational numbers."""
    rng = np.random.default_rng(1)
    feeds = {name: rng.uniform(0.5, 1.4, size=40) for name in "xy"}
    feeds |= {f"a{name}": 1e-12 * rng.uniform(0.1, 1, size=40) * sign for name, sign in (("x", 1), ("y", -1))}
    feeds |= {f"b{name}": 1e-24 * rng.uniform(0.1, 1, size=40) * sign for name, sign in (("x", 1), ("y", -1))}
    if op == "mul":
        feeds["ay"], feeds["by"] = -feeds["ay"], -feeds["by"]
    odd, even = halves_of_op(op, feeds, even=True)
    for i in range(40):
        x, y, ax, ay, bx, by = (Fraction(float(feeds[name][i])) for name in ("x", "y", "ax", "ay", "bx", "by"))
        of = (lambda u, v: u * v) if op == "mul" else (lambda u, v: u / v)
        plus, minus = (of(x + bx + s * ax, y + by + s * ay) - of(x, y) for s in (1, -1))
        assert odd[i] == pytest.approx(float((plus - minus) / 2), rel=1e-12)
        assert even[i] == pytest.approx(float((plus + minus) / 2), rel=1e-12)


@pytest.mark.parametrize("fn", DELTA_FUNCTIONS)
@pytest.mark.parametrize("even", [False, True])
def test_the_even_half_of_an_activation_keeps_its_digits(fn: str, even: bool) -> None:
    """A sum of two differences of size sigma, itself of size sigma^2: it loses sigma of the digits, not sigma^2."""
    rng = np.random.default_rng(2)
    sigma = 1e-4
    feeds = {"x": rng.uniform(0.5, 1.2, size=30), "ax": sigma * rng.uniform(0.5, 1, size=30)}
    if even:
        feeds["bx"] = sigma**2 * rng.uniform(0.5, 1, size=30)
    _, found = halves_of_op(fn, feeds, even)
    with mpmath.workdps(60):
        of = TRUE[fn]
        for i in range(30):
            x, a, b = (mpmath.mpf(float(feeds[name][i])) if name in feeds else 0 for name in ("x", "ax", "bx"))
            expected = (of(x + b + a) + of(x + b - a)) / 2 - of(x)
            assert float(found[i]) == pytest.approx(float(expected), abs=1e-15 * sigma * 10)


@pytest.mark.parametrize("form", ["mul", "negated", "padded", "sliced", "joined", "spread", "zero"])
def test_antithetic_rows_are_recognised(form: str) -> None:
    """delta- = -delta+ in every form in which expand-operators makes it: no even half, no arithmetic on it."""
    b = Builder("g")
    with b.at(HERE):
        z = b.input("z", (N, 1, P, 2))
        signs = b.const((1.0, -1.0), (1, 2, 1, 1))
        delta = b.mul(z, signs)
        constant = b.const((0.5, 0.0, -0.5, 0.0), (1, 2, 1, 2))
        delta = {
            "mul": lambda: delta,
            "negated": lambda: b.neg(delta),
            "padded": lambda: b.pad(delta, 3, 1, 1),
            "sliced": lambda: b.slice(delta, 3, 0, 1),
            "joined": lambda: b.concat([delta, b.const(0.0, (N, 2, P, 1))], 3),
            "spread": lambda: b.broadcast(constant, (N, 2, P, 2)),
            "zero": lambda: b.const(0.0, (N, 2, P, 2)),
        }[form]()
        found = halves_of(b, delta)
        assert found.even is None and found.odd is not None
        b.output("both", both_signs(b, found, delta.shape))
        b.output("delta", delta)
    result = evaluate(b.finish(), {"z": np.random.default_rng(0).standard_normal((N, 1, P, 2))})
    np.testing.assert_array_equal(result["both"], result["delta"])


@pytest.mark.parametrize("op", sorted(op for op, rule in DELTA_RULES.items() if isinstance(rule, Refusal))[:4])
def test_refusals_have_a_place_and_a_hint(op: str) -> None:
    b = Builder("g")
    with b.at(HERE):
        x = b.input("x", FULL)
        node = b.unary("abs", x)
        with pytest.raises(IRError) as caught:
            even_odd_rule(b, node, [(x, Halves(x, None))])
    assert caught.value.location == HERE and caught.value.hint and op
