"""The reference interpreter: its three arithmetics, its order of summation, its errors."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pintac import rng, smx, vmath
from pintac.errors import IRError
from pintac.ir import Builder, Graph, Location, Node
from pintac.ir.evaluate import Evaluator, SmxValue, evaluate, ordered_sum

HERE = Location("net.py", 12)
F32 = np.float32


def graph(make: Callable[..., Node], **shapes: Sequence[int]) -> Graph:
    b = Builder("g")
    with b.at(HERE):
        b.output("out", make(b, *(b.input(name, shape) for name, shape in shapes.items())))
    return b.finish()


def run(make: Callable[..., Node], mode: str = "smx", **arrays: np.ndarray) -> np.ndarray:
    return evaluate(graph(make, **{name: array.shape for name, array in arrays.items()}), arrays, mode=mode)["out"]


# ---- sums (NUMERICS 3)


def scalar_sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The definition, element by element."""

    def grouped(values: list[np.float32], acc: np.float32) -> np.float32:
        for i in range(0, len(values), 4):
            a, b, c, d = (values[i : i + 4] + [F32(0)] * 3)[:4]
            acc = acc + ((a + b) + (c + d))
        return acc

    kept = [range(n) if axis not in axes else [0] for axis, n in enumerate(x.shape)]
    out = np.zeros([len(r) for r in kept], F32)
    last = x.ndim - 1
    outer = [axis for axis in axes if axis != last]
    for index in itertools.product(*kept):

        def element(at: dict[int, int], index: tuple[int, ...] = index) -> np.float32:
            where = [at.get(axis, i) for axis, i in enumerate(index)]
            if last not in axes:
                return x[tuple(where)]
            return grouped([x[(*where[:-1], j)] for j in range(x.shape[-1])], F32(0))

        if not outer:
            out[index] = element({})
            continue
        acc = F32(0)
        for position in itertools.product(*(range(x.shape[axis]) for axis in outer[:-1])):
            at = dict(zip(outer[:-1], position, strict=True))
            acc = grouped([element({**at, outer[-1]: i}) for i in range(x.shape[outer[-1]])], acc)
        out[index] = acc
    return out


@pytest.mark.parametrize("shape", [(1,), (4,), (7,), (9, 5), (3, 2, 6, 5), (2, 4, 1), (5, 1, 1, 3)])
def test_sums_run_in_the_stated_order(shape: tuple[int, ...]) -> None:
    r = np.random.default_rng(0)
    x = (r.normal(size=shape) * 10.0 ** r.integers(-4, 5, size=shape)).astype(F32)
    for count in range(1, len(shape) + 1):
        for axes in itertools.combinations(range(len(shape)), count):
            expected = scalar_sum(x, axes)
            assert ordered_sum(x, axes, keepdims=True).tobytes() == expected.tobytes(), axes
            dropped = run(lambda b, x, axes=axes: b.sum(x, axes), mode="smx", x=x)
            assert dropped.tobytes() == expected.reshape(dropped.shape).tobytes()


def test_the_order_of_a_sum_is_seen_in_its_bits() -> None:
    x = np.array([1, 2.0**-24, 0, 0, 2.0**-24], F32)
    assert ordered_sum(x, (0,)) == 1  # each half ulp meets the 1 alone
    assert ordered_sum(x[::-1].copy(), (0,)) == F32(1 + 2.0**-23)  # here they meet each other first


def test_a_sum_of_nothing_but_minus_zero_is_plus_zero() -> None:
    for shape in ((4,), (8, 4), (3,)):
        assert not np.signbit(ordered_sum(np.full(shape, -0.0, F32), tuple(range(len(shape))))).any()


def test_double_sums_are_exact_enough() -> None:
    x = np.random.default_rng(0).normal(size=(50, 40))
    np.testing.assert_allclose(run(lambda b, x: b.sum(x, (0,)), mode="float64", x=x), x.sum(0), rtol=1e-13)


# ---- elementwise and sources


@pytest.mark.parametrize("fn", ["exp", "log", "tanh", "sigmoid", "sin", "cos", "erf"])
def test_single_functions_are_those_of_vmath(fn: str) -> None:
    x = np.linspace(0.1, 3, 37, dtype=F32)
    for mode in ("float32", "smx"):
        assert run(lambda b, x: b.unary(fn, x), mode=mode, x=x).tobytes() == getattr(vmath, fn)(x).tobytes()
    double = run(lambda b, x: b.unary(fn, x), mode="float64", x=x)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, getattr(vmath, fn)(x), rtol=1e-6)


def test_constants_and_parameters_are_rounded_to_the_arithmetic() -> None:
    b = Builder("g")
    with b.at(HERE):
        b.output("const", b.const([0.1, 0.2], (2,)))
        b.output("splat", b.const(0.1, (2, 3)))
        b.output("lr", b.scalar("lr"))
    double = evaluate(b.finish(), params={"lr": 0.1})
    assert double["lr"] == 0.1 and double["const"][1] == 0.2 and (double["splat"] == np.full((2, 3), 0.1)).all()
    single = evaluate(b.finish(), params={"lr": 0.1}, mode="smx")
    assert single["lr"] == F32(0.1) and single["const"].dtype == F32 and single["const"][0] == F32(0.1)


def test_random_numbers_are_those_of_the_key_in_every_mode() -> None:
    b = Builder("g")
    with b.at(HERE):
        b.output("u", b.random("uniform", 1, 7, (5, 3)))
        b.output("n", b.random("normal", 2, 8, (4, 1, 2)))
    for mode in ("float64", "float32", "smx"):
        out = evaluate(b.finish(), params={"seed": 3, "step": 11}, mode=mode)
        np.testing.assert_array_equal(out["u"], rng.uniform(3, 1, 11, 7, (5, 3)))
        np.testing.assert_array_equal(out["n"], rng.normal(3, 2, 11, 8, (4, 1, 2)))
        assert out["u"].dtype == (np.float64 if mode == "float64" else F32)


def test_comparisons_and_select() -> None:
    x, y = np.array([1, 2, 3, np.nan], F32), np.array([2, 2, 2, 2], F32)
    expected = {
        "lt": [1, 0, 0, 0],
        "le": [1, 1, 0, 0],
        "gt": [0, 0, 1, 0],
        "ge": [0, 1, 1, 0],
        "eq": [0, 1, 0, 0],
        "ne": [1, 0, 1, 1],
    }
    for mode in ("float64", "smx"):
        for kind, bits in expected.items():
            np.testing.assert_array_equal(run(lambda b, x, y, kind=kind: b.compare(kind, x, y), mode, x=x, y=y), bits)
        chosen = run(lambda b, x, y: b.select(b.compare("ge", x, y), x, b.neg(y)), mode, x=x, y=y)
        np.testing.assert_array_equal(chosen, [-2, 2, 3, -2])


def test_structure_ops() -> None:
    x = np.arange(24, dtype=F32).reshape(2, 3, 4)
    np.testing.assert_array_equal(run(lambda b, x: b.permute(x, (2, 0, 1)), x=x), x.transpose(2, 0, 1))
    np.testing.assert_array_equal(run(lambda b, x: b.slice(x, 1, 1, 3), x=x), x[:, 1:3])
    np.testing.assert_array_equal(run(lambda b, x: b.pad(x, 2, 1, 2), x=x), np.pad(x, [(0, 0), (0, 0), (1, 2)]))
    np.testing.assert_array_equal(run(lambda b, x: b.concat([x, x], 1), x=x), np.concatenate([x, x], 1))
    np.testing.assert_array_equal(run(lambda b, x: b.amax(b.neg(x), (0, 2)), x=x), (-x).max((0, 2)))
    np.testing.assert_array_equal(run(lambda b, x: b.amax(x, (1,), keepdims=True), x=x), x.max(1, keepdims=True))


def test_a_tt_layer_is_the_product_with_the_reshaped_weight() -> None:
    r = np.random.default_rng(0)
    x = r.normal(size=(5, 6))
    cores = {f"c{k}": r.normal(size=shape) for k, shape in enumerate([(1, 2, 3), (3, 3, 2), (2, 4, 3), (3, 2, 1)])}
    out = run(lambda b, x, *c: b.tt_matmul(x, c, (2, 3), (4, 2), (3, 2, 3)), "float64", x=x, **cores)
    weight = np.einsum("anb,bmc,cpd,dqe->nmpq", *cores.values()).reshape(6, 8)
    np.testing.assert_allclose(out, x @ weight, rtol=1e-12)


# ---- quantised arithmetic


def quantised_matmul(b: Builder, x: Node, w: Node) -> Node:
    return b.matmul(b.quantize(x, 8), b.quantize(w, 12))


def test_quantised_matmuls_are_those_of_the_format() -> None:
    r = np.random.default_rng(0)
    x, w, g = (r.normal(size=shape).astype(F32) for shape in ((3, 5, 7), (7, 6), (3, 5, 6)))
    qx, qw, qg = (smx.quantize(array, bits)[:2] for array, bits in ((x, 8), (w, 12), (g, 12)))
    assert run(quantised_matmul, x=x, w=w).tobytes() == smx.matmul(qx, qw, m=5, n=6).tobytes()
    back = run(lambda b, g, w: b.matmul(b.quantize(g, 12), b.quantize(w, 12), transpose_b=True), g=g, w=w)
    assert back.tobytes() == smx.matmul(qg, smx.transpose(*qw), m=5, n=7).tobytes()
    dw = run(lambda b, x, g: b.matmul_tn(b.quantize(x, 8), b.quantize(g, 12)), x=x, g=g)
    assert dw.tobytes() == smx.matmul_tn(qx, qg, m=7, n=6).tobytes()
    start = r.normal(size=(3, 5, 6)).astype(F32)
    sum_ = run(lambda b, x, w, a: b.matmul(b.quantize(x, 8), b.quantize(w, 12), a), x=x, w=w, a=start)
    assert sum_.tobytes() == smx.matmul(qx, qw, start, m=5, n=6).tobytes()


def test_quantisation_is_the_identity_in_the_float_modes() -> None:
    r = np.random.default_rng(0)
    x, w = r.normal(size=(5, 7)), r.normal(size=(7, 6))
    np.testing.assert_allclose(run(quantised_matmul, "float64", x=x, w=w), x @ w, rtol=1e-13)
    np.testing.assert_allclose(run(quantised_matmul, "float32", x=x, w=w), x @ w, rtol=1e-4)
    assert run(lambda b, x: b.decode(b.quantize(x, 4)), "float32", x=x).tobytes() == x.astype(F32).tobytes()
    assert np.abs(run(lambda b, x: b.decode(b.quantize(x, 4)), "smx", x=x) - x).max() > 0.01
    start = np.full((5, 6), 2.0)
    out = run(lambda b, x, w, a: b.matmul(x, w, a), "float64", x=x, w=w, a=start)
    np.testing.assert_allclose(out, 2 + x @ w, rtol=1e-12)


def test_a_quantised_output_is_decoded_and_flags_are_gathered() -> None:
    x = np.array([[1.0, np.inf, 3.0, 4.0, 5.0]], F32)
    evaluator = Evaluator("smx")
    out = evaluator.run(graph(lambda b, x: b.quantize(x, 8), x=(1, 5)), {"x": x})["out"]
    assert out.shape == (1, 5) and np.isnan(out[0, :4]).all() and out[0, 4] == 5
    assert evaluator.flags == smx.FLAG_NONFINITE


def test_tracing_sees_every_value_and_dead_ones_are_freed() -> None:
    program = graph(lambda b, x: b.tanh(b.quantize(b.sin(b.cos(x)), 8) and b.exp(b.sin(b.cos(x)))), x=(4, 4))
    alive: dict[str, weakref.ref[object]] = {}
    most = 0

    def trace(node: Node, value: object) -> None:
        nonlocal most
        alive[node.name] = weakref.ref(value)
        most = max(most, sum(ref() is not None for ref in alive.values()))
        assert isinstance(value, SmxValue) == node.type.is_smx

    evaluate(program, {"x": np.ones((4, 4))}, mode="smx", trace=trace)
    assert list(alive) == [node.name for node in program.nodes]
    assert most <= 3 < len(program.nodes)  # the feed, an operand, a result


# ---- errors


def test_fp32_contractions_do_not_exist_on_the_machine() -> None:
    x = np.ones((4, 4))
    for make in (lambda b, x: b.matmul(x, x), lambda b, x: b.matmul_tn(x, x)):
        with pytest.raises(IRError, match=r"net.py:12: .*the machine has no fp32 matmul.*\n.*insert-smx"):
            run(make, x=x)
    with pytest.raises(IRError, match=r"net.py:12: .*\n.*reorder-tt"):
        run(
            lambda b, x, c, d: b.tt_matmul(x, [c, d], (4,), (4,), (1,)), x=x, c=np.ones((1, 4, 1)), d=np.ones((1, 4, 1))
        )


def test_operators_have_no_value() -> None:
    with pytest.raises(IRError, match=r"net.py:12: gradient has no value.*\n.*expand-operators"):
        run(lambda b, x: b.gradient(x, x), x=np.ones((4, 4)))


def test_everything_that_is_missing_is_said_at_once() -> None:
    b = Builder("step")
    with b.at(HERE):
        b.state("w", (2, 3)), b.input("x", (4,)), b.scalar("lr"), b.random("normal", 1, 0, (2,))
    with pytest.raises(IRError) as caught:
        evaluate(b.finish(), {"x": np.ones(3)}, {"seed": 1})
    for text in ("state 'w' : f32[2,3]", "input 'x' is f32[4], its value [3]", "parameter 'lr'", "parameter 'step'"):
        assert text in caught.value.message
    assert caught.value.location == HERE


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(IRError, match="unknown evaluation mode 'double'"):
        evaluate(Builder("g").finish(), mode="double")
