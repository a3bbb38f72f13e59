"""Steps that are timed: every arrangement trains the same step; blocks in torch; memory that is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pintac import smx
from pintac.errors import UsageError
from pintac.frontend import TrainStep, builtin_step
from pintac.frontend.interpret import run_graph
from pintac.frontend.timed import Arrangement, TimedStep, peak_bytes, seconds_of
from pintac.ir import Builder, Location
from pintac.passes import PassManager, parse_pipeline

GRADIENTS = "expand-operators,{split}reorder-tt{{order={order}}},differentiate,lower-delta,{smx}canonicalize,dce"


@pytest.fixture
def step() -> TrainStep:
    return builtin_step("poisson2d", width=8, hidden=2, rank=2, K=4, sigma=0.1, interior=6, boundary=5)


def passes(text: str = "expand-operators"):  # type: ignore[no-untyped-def]
    return PassManager(parse_pipeline(text)).run


def after(step: TrainStep, text: str, *how: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of three steps, and the states after them."""
    timed = TimedStep(step, passes(text), Arrangement(*how))  # type: ignore[arg-type]
    losses = [timed() for _ in range(3)]
    return losses, {name: state.detach().clone() for name, state in timed.states.items()}


@pytest.mark.parametrize("method", ["nested", "forward"])
def test_recorded_steps_are_the_eager_ones(step: TrainStep, method: str) -> None:
    losses, states = after(step, "expand-operators", method, "eager")
    found, weights = after(step, "expand-operators", method, "flat")
    assert found == pytest.approx(losses, rel=1e-5)
    for name, state in states.items():
        torch.testing.assert_close(weights[name], state, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 3, 4])
@pytest.mark.parametrize("order", ["prs", "sequential"])
def test_gradients_by_the_passes_are_those_of_autograd(step: TrainStep, chunk: int | None, order: str) -> None:
    """Whole and in chunks (4 points at a time are 3: they have to divide 6), both with the paths split and not."""
    losses, states = after(step, "expand-operators", "sampled", "eager", chunk)
    for split in ("", "split-stein{form=plus-minus},", "split-stein{form=even-odd},"):
        text = GRADIENTS.format(split=split, order=order, smx="")
        found, weights = after(step, text, "explicit", "eager", chunk)
        assert found == pytest.approx(losses, rel=2e-3)
        for name, state in states.items():
            torch.testing.assert_close(weights[name], state, rtol=0, atol=5e-4)


def test_emulated_quantisation_trains_nearly_the_same(step: TrainStep) -> None:
    losses, _ = after(step, "expand-operators", "sampled", "eager")
    text = GRADIENTS.format(
        split="split-stein{form=even-odd},", order="prs", smx="insert-smx{weight=8,base=16,delta=8,grad=12},"
    )
    found, _ = after(step, text, "explicit", "eager")
    assert found != losses
    assert found == pytest.approx(losses, rel=0.05)


def test_compiled(step: TrainStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is the recorded step, whole; that compilers keep its meaning is not ours to test."""
    given = []

    def compile_(recorded, fullgraph: bool, dynamic: bool):  # type: ignore[no-untyped-def]
        given.append((fullgraph, dynamic))
        return recorded

    monkeypatch.setattr(torch, "compile", compile_)
    losses, _ = after(step, "expand-operators", "forward", "compiled", 3)
    assert given == [(True, False)] * 2  # the boundary, and three interior points
    assert losses == pytest.approx(after(step, "expand-operators", "forward", "eager", 3)[0], rel=1e-5)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_blocks_in_torch_hold_the_values_of_smx(bits: int) -> None:
    generator = np.random.default_rng(bits)
    x = (generator.standard_normal((3, 7, 10)) * 2.0 ** generator.integers(-80, 50, (3, 7, 10))).astype(np.float32)
    x[0, :4, :4] = 0.0
    x[1] = generator.standard_normal((7, 10)) * np.float32(1.9)
    x[2, 0, 0] = np.float32(2.0**-140)
    builder = Builder("q")
    with builder.at(Location.synthetic("test")):
        builder.output("y", builder.decode(builder.quantize(builder.input("x", x.shape), bits)))
    found = run_graph(builder.finish(), {"x": torch.from_numpy(x)}, {}, torch.float32)["y"].numpy()
    np.testing.assert_array_equal(found, smx.dequantize(x, bits))


def test_memory_is_the_most_that_was_held() -> None:
    def work() -> None:
        a = torch.zeros(1_000_000)  # 4 MB
        b = a + 1  # 8 MB
        del a
        c = b + 1  # 8 MB again
        del b, c

    assert 8_000_000 <= peak_bytes(work) < 8_100_000


def test_seconds_leave_the_first_steps_out() -> None:
    calls = []
    assert len(seconds_of(lambda: calls.append(0), budget=10.0, most=5, warm=3)) == 5
    assert len(calls) == 8
    assert len(seconds_of(lambda: None, budget=0.0)) == 1


@pytest.mark.parametrize("wrong", [{"method": "neste"}, {"mode": "fast"}, {"device": "tpu"}, {"chunk": 0}])
def test_unknown_arrangements(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Arrangement(**wrong)  # type: ignore[arg-type]
