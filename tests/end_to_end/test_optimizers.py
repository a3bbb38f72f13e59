"""Optimizers and schedules from the description to the program: bits of the evaluator, rates of the float twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pintac
from pintac import SGD, Adam, AdamW, cosine_decay, exponential_decay, linear_decay, piecewise, warmup
from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower, parameter_table
from pintac.api.steps import schedule_of
from pintac.errors import ModelError
from pintac.frontend import SampledStep, TrainStep, load_step
from pintac.frontend.optimizers import Optimizer
from pintac.machine import Machine
from pintac.passes.expand_operators import ExpandOperators
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together

OPTIMIZERS = {
    "adamw": AdamW(1e-2, weight_decay=0.1, schedule=linear_decay(6)),
    "sgd": SGD(1e-3),
    "momentum": SGD(1e-4, momentum=0.9, schedule=piecewise({0: 1.0, 2: 0.1})),
    "nesterov": SGD(1e-4, momentum=0.9, nesterov=True, weight_decay=0.01),
}
UNQUANTISED = "expand-operators,split-stein,reorder-tt{order=prs},differentiate,expand-optimizer,lower-delta"


def step_with(file: Path, optimizer: Optimizer) -> TrainStep:
    given = load_step(f"{file}:step")
    return TrainStep(given.net, given.problem, optimizer, given.estimator)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_program_and_evaluator_agree_to_the_bit(name: str, tiny_file: Path) -> None:
    lowered = lower(step_with(tiny_file, OPTIMIZERS[name]))
    session = Session(emit(lowered, Machine.load("pinta")), "jit", seed=0)
    reference = EvaluatorSession(lowered, seed=0)
    step_together(session, reference, steps=4)
    expected = reference.state_arrays()
    moved = [key for key in expected if not np.array_equal(expected[key], lowered.init[key])]
    assert set(moved) == set(expected), "every weight and moment has changed"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_quantisation_it_is_the_twin(name: str, tiny_file: Path) -> None:
    """In float64 only the rates differ, which a program has in fp32."""
    step = step_with(tiny_file, OPTIMIZERS[name])
    session = EvaluatorSession(lower(step, passes=UNQUANTISED), mode="float64")
    twin = SampledStep(step, ExpandOperators().run, dtype=torch.float64)
    for loss in twin.steps(4):
        session.step()
        assert session.metrics()["loss"] == pytest.approx(loss, rel=1e-5)
    states = session.state_arrays()
    for key, value in twin.arrays().items():
        np.testing.assert_allclose(states[key], value, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_holds_the_momentum(tiny_file: Path, tmp_path: Path) -> None:
    step = step_with(tiny_file, OPTIMIZERS["nesterov"])
    file = tmp_path / "run.ckpt"
    whole = pintac.train(step, 4, progress=False)
    pintac.train(step, 2, progress=False, checkpoint=file)
    resumed = pintac.train(step, 4, progress=False, checkpoint=file, resume=True)
    assert all(np.array_equal(whole.weights[key], resumed.weights[key]) for key in whole.weights)


class Stairs:
    """A schedule of the user's own, equal for many steps before it changes."""

    def value(self, t: int) -> float:
        return 0.5 ** min(t // 10, 3)

    def attrs(self) -> dict[str, object]:
        return {"kind": "stairs", "settled": 30}


SCHEDULES = {
    "constant": (None, (0, 1, 20_000)),
    "linear": (linear_decay(100), (0, 1, 50, 99, 100, 500)),
    "long": (linear_decay(100_000), (0, 49_999, 50_000, 75_000, 99_999, 100_000, 200_000)),
    "down to": (linear_decay(10, lr_min=1e-5), (0, 5, 10, 20_000)),
    "cosine": (cosine_decay(200, lr_min=1e-4), (0, 100, 199, 200, 20_000)),
    "exponential": (exponential_decay(0.9, every=100, steps=60_000), (0, 1, 150, 59_999, 60_000, 70_000)),
    "staircase": (exponential_decay(0.9, every=100, steps=1000, staircase=True), (0, 99, 100, 1000, 5000)),
    "piecewise": (piecewise({0: 1.0, 5000: 0.1, 60_000: 0.01}), (0, 4999, 5000, 59_999, 60_000, 99_999)),
    "warmup": (warmup(10, then=cosine_decay(90, lr_min=1e-5)), (0, 4, 9, 10, 55, 100, 20_000)),
    "own": (Stairs(), (0, 9, 10, 29, 30, 10_000)),
}


@pytest.mark.parametrize("make", [Adam, AdamW, SGD])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_program_has_the_rates_of_the_twin(name: str, make: Callable[..., Optimizer], tiny_file: Path) -> None:
    """Row t of the table, or the last one, is what torch's optimizer is set to, in fp32; nothing is cut off."""
    schedule, steps = SCHEDULES[name]
    optimizer = make(1e-3, schedule=schedule)
    step = step_with(tiny_file, optimizer)
    names = tuple(optimizer.scalars())
    table = parameter_table(step, names)
    for t in steps:
        row = table[min(t, len(table) - 1)].view(np.float32)[2:]
        expected = {"lr": optimizer.rate(t)}
        if make is not SGD:
            expected |= {"bc1": 1 / (1 - 0.9 ** (t + 1)), "bc2": 1 / (1 - 0.999 ** (t + 1))}
        if make is AdamW:
            expected["keep"] = 1 - 0.01 * optimizer.rate(t)
        if optimizer.rate(t) == 0.0:
            expected = {key: value for key, value in expected.items() if not key.startswith("bc")}
        for key, value in expected.items():
            assert row[names.index(key)] == np.float32(value), (key, t)
    assert list(table[:, 1]) == list(range(len(table)))


def test_schedules_are_what_they_say() -> None:
    rates = {name: [Adam(1.0, schedule=SCHEDULES[name][0]).rate(t) for t in SCHEDULES[name][1]] for name in SCHEDULES}
    assert rates["long"] == pytest.approx([1.0, 0.50001, 0.5, 0.25, 1e-5, 0.0, 0.0])
    assert rates["down to"] == pytest.approx([1.0, 0.500005, 1e-5, 1e-5])
    assert rates["cosine"] == pytest.approx([1.0, 0.50005, 1.617e-4, 1e-4, 1e-4], rel=1e-3)
    assert rates["exponential"][:3] == pytest.approx([1.0, 0.9**0.01, 0.9**1.5])
    assert rates["exponential"][4] == rates["exponential"][5]
    assert rates["staircase"] == pytest.approx([1.0, 1.0, 0.9, 0.9**10, 0.9**10])
    assert rates["piecewise"] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert rates["warmup"] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.500005, 1e-5, 1e-5])


def test_exponential_decay_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    by_torch = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.97)
    ours = SGD(0.1, schedule=exponential_decay(0.97, every=1, steps=50))
    for t in range(50):
        assert ours.rate(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        by_torch.step()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Adam(schedule=linear_decay(1 << 21)), "2,097,153 steps"),
        (Adam(beta2=1 - 1e-7), "steps"),
    ],
)
def test_a_table_that_is_too_long_is_refused(optimizer: Optimizer, message: str, tiny_file: Path) -> None:
    step = step_with(tiny_file, optimizer)
    with pytest.raises(ModelError) as caught:
        parameter_table(step, tuple(optimizer.scalars()))
    assert message in caught.value.message and caught.value.location == step.location
    assert schedule_of(optimizer.attrs()) in (0, 1 << 21)


def test_a_schedule_that_does_not_say_when_it_settles() -> None:
    class Silent(Stairs):
        def attrs(self) -> dict[str, object]:
            return {"kind": "stairs"}

    with pytest.raises(ModelError, match="from which step on") as caught:
        Adam(schedule=Silent())
    assert "piecewise" in (caught.value.hint or "")
    assert caught.value.location is not None and caught.value.location.file.endswith("test_optimizers.py")
