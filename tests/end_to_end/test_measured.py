"""Inverse problems: measured values at fixed points, unknown coefficients and functions, solutions known as data."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pintac
from pintac import Adam, Points, Problem, SecondDifference, Stein, Term, TrainStep, Uniform, grad, laplacian
from pintac.api.calibration import Calibration
from pintac.api.emitting import emit
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower, pipeline
from pintac.frontend import SampledStep, test_set, trace
from pintac.frontend.autodiff import AutodiffStep
from pintac.frontend.timed import Arrangement, TimedStep
from pintac.machine import Machine
from pintac.passes import PipelineOptions
from pintac.passes.expand_operators import ExpandOperators
from pintac.runtime.session import Session
from tests.end_to_end.agreement import step_together
from tests.frontend.eager_step import EagerStep

BOX = [(0.0, 1.0), (0.0, 1.0)]
AT = np.random.default_rng(0).random((19, 2)).astype(np.float32)
SEEN = np.sin(AT.sum(1, keepdims=True)).astype(np.float32)
UNQUANTISED = (
    "expand-operators,split-stein,reorder-tt{order=prs},differentiate,expand-optimizer,lower-delta,canonicalize,dce"
)


class Measured(Problem):
    """k laplacian u = f with values of u at AT: k is a number, or a function of the points."""

    def __init__(self, how: str, unknown: str) -> None:
        self.how, self.data = how, torch.from_numpy(SEEN)
        self.k = nn.Parameter(torch.tensor(0.5)) if unknown == "number" else None
        # named `layers` to make sure that what a module is called does not matter
        self.layers = mlp(2, 4, 1) if unknown == "function" else None
        self.several = nn.ModuleDict({"a": nn.ParameterList([torch.ones(1), torch.ones(1)])})

    def terms(self) -> list[Term]:
        pde = Term("pde", Uniform(BOX), self.pde, points=11)
        if self.how == "values":
            return [pde, Term("data", Points(AT), self.misfit, values=SEEN[:, 0], weight=3)]
        return [pde, Term("data", Points(AT), self.seen, weight=3.0)]

    def pde(self, u: Any, x: Tensor) -> Tensor:
        k = self.k if self.layers is None else torch.sigmoid(self.layers(x))
        return k * laplacian(u, x) + self.several["a"][0] * torch.sin(x.sum(-1, keepdim=True)) - grad(u, x)[..., 0]

    def seen(self, u: Any, x: Tensor) -> Tensor:
        return u(x) - self.data

    def misfit(self, u: Any, x: Tensor, v: Tensor) -> Tensor:
        return u(x) - v

    def test_data(self) -> tuple[object, object]:
        return AT, SEEN


def mlp(*widths: int) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())][:-1])


def step_of(how: str = "values", unknown: str = "number", K: int = 8) -> TrainStep:
    torch.manual_seed(0)
    return TrainStep(mlp(2, 8, 1), Measured(how, unknown), Adam(1e-2), Stein(K=K, sigma=0.1))


KINDS = [("tensor", "number"), ("values", "number"), ("values", "function")]


@pytest.mark.parametrize(("how", "unknown"), KINDS)
def test_the_float_twin_and_a_float_run_take_measured_data(how: str, unknown: str) -> None:
    """With few points at a time for the equation (K evaluations each), and the measured ones whole."""
    step = step_of(how, unknown, K=512)  # 4 points at once
    quantised = pintac.train(step, 3, progress=False, twin=True)
    by_itself = pintac.train(step, 3, progress=False, quant="none")
    assert quantised.l2_twin == by_itself.l2 and quantised.l2 == pytest.approx(by_itself.l2, rel=0.1)
    assert pintac.train(step, 2, progress=False, quant="none", derivatives="forward").l2 is not None


@pytest.mark.parametrize(("how", "unknown"), KINDS)
def test_chunks_of_the_equation_add_up(how: str, unknown: str) -> None:
    step = step_of(how, unknown)
    whole = SampledStep(step, ExpandOperators().run, dtype=torch.float64)
    parts = SampledStep(step, ExpandOperators().run, dtype=torch.float64, chunk=4)
    (loss, gradients), (again, found) = whole.loss_and_gradients(1), parts.loss_and_gradients(1)
    assert again == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("how", "unknown"), KINDS)
def test_program_evaluator_and_twin_see_the_same_data(how: str, unknown: str) -> None:
    step = step_of(how, unknown)
    lowered = lower(step)
    session, evaluator = Session(emit(lowered, Machine.load("pinta"))), EvaluatorSession(lowered)
    step_together(session, evaluator, steps=3)
    exact = EvaluatorSession(lower(step, passes=UNQUANTISED), mode="float64")
    twin = SampledStep(step, ExpandOperators().run, dtype=torch.float64)
    for loss in twin.steps(3):
        exact.step()
        assert exact.metrics()["loss"] == pytest.approx(loss, rel=1e-5)


FORCE = torch.from_numpy(SEEN)
CUT: dict[str, tuple[Term, int]] = {
    "derivatives": (Term("pde", Points(AT), lambda u, x: laplacian(u, x) - x[:, :1]), 4),
    "values": (Term("pde", Points(AT), lambda u, x, v: laplacian(u, x) - v, values=SEEN), 4),
    "rows of its own": (Term("pde", Points(AT), lambda u, x: laplacian(u, x) - FORCE), 19),
    "the first rows": (Term("pde", Points(AT), lambda u, x: laplacian(u, x) - FORCE[: len(x)]), 19),
    "functions of the values": (Term("pde", Points(AT), lambda u, x, v: laplacian(u, x) - v**2, values=SEEN), 19),
    "no derivatives": (Term("pde", Points(AT), lambda u, x: u(x) - x[:, :1]), 19),
}


@pytest.mark.parametrize("name", CUT)
def test_fixed_points_are_cut_where_they_can_be(name: str) -> None:
    """The equation at many fixed points is not evaluated all at once, unless its residual holds rows of its own."""
    term, size = CUT[name]

    class Fixed(Problem):
        def terms(self) -> list[Term]:
            return [term]

    step = TrainStep(mlp(2, 8, 1), Fixed(), Adam(), Stein(K=4, sigma=0.1))
    whole = SampledStep(step, ExpandOperators().run, dtype=torch.float64)
    parts = SampledStep(step, ExpandOperators().run, dtype=torch.float64, chunk=4)
    assert parts._chunk(term) == size
    (loss, gradients), (again, found) = whole.loss_and_gradients(1), parts.loss_and_gradients(1)
    assert again == pytest.approx(loss, rel=1e-12)
    for key, gradient in gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-9, atol=1e-9)


def test_other_forms_of_the_step_take_values() -> None:
    step = step_of()
    twin = SampledStep(step, ExpandOperators().run, dtype=torch.float64)
    eager = EagerStep(step, dtype=torch.float64, chunk=4)
    assert eager.loss_and_gradients(0)[0] == pytest.approx(twin.loss_and_gradients(0)[0], rel=1e-8)
    assert np.isfinite(AutodiffStep(step, "forward", chunk=4).loss_and_gradients(0)[0])
    assert np.isfinite(TimedStep(step, ExpandOperators().run, Arrangement(chunk=4))())
    calibration = Calibration(step, pipeline(PipelineOptions()), states=[])
    assert calibration.terms == ("pde", "data")


def test_what_is_unknown_is_trained_along() -> None:
    for unknown, names in (("number", ["k"]), ("function", ["layers.0.weight", "layers.2.bias"])):
        step = step_of(unknown=unknown)
        result = pintac.train(step, 3, progress=False)
        start = lower(step).init
        for name in (*names, "several.a.0"):
            found = result.weights[f"problem.{name}"]
            first = start[f"problem.{name}"]
            assert not np.array_equal(found, first.T if found.shape != first.shape or found.ndim == 2 else first), name
        assert not any(name.startswith("problem.") for name in result.state_dict())
        copy.deepcopy(step.net).load_state_dict(result.state_dict())


def test_a_function_of_the_problem_is_drawn_like_the_network() -> None:
    """From the seed of the run, whatever torch drew when the module was made."""
    first, other = (lower(step_of(unknown="function")).init, lower(step_of(unknown="function"), seed=1).init)
    torch.manual_seed(5)
    again = lower(TrainStep(mlp(2, 8, 1), Measured("values", "function"), Adam(), Stein(K=8, sigma=0.1))).init
    name = "problem.layers.0.weight"
    assert first[name].shape == (2, 4) and np.array_equal(first[name], again[name])
    assert not np.array_equal(first[name], other[name])


def test_the_error_is_measured_on_the_data_given() -> None:
    test = test_set(step_of())
    assert test is not None and np.array_equal(test.x, AT) and np.array_equal(test.u, SEEN.astype(np.float64))


class AtRandom(Problem):
    """Data that terms() makes at random, without a seed."""

    calls = 0

    def terms(self) -> list[Term]:
        self.calls += 1
        x = np.random.default_rng().random((6, 2))
        values = torch.rand(6, 1)
        return [Term("data", Points(x), lambda u, x: u(x) - values)]

    def exact(self, x: Tensor) -> Tensor:
        return x[:, :1]


def test_terms_are_made_once() -> None:
    step = TrainStep(mlp(2, 8, 1), AtRandom(), Adam(), SecondDifference(K=4, sigma=0.1))
    program = lower(step)
    again = trace(step)
    assert program.data.keys() >= again.data.keys()
    for name, values in again.data.items():
        assert np.array_equal(values, program.data[name])
    points = program.data["points.0.0"]
    assert program.test is not None and np.array_equal(program.test.x, points)
    expected = SampledStep(step, ExpandOperators().run).loss(0).item()
    unquantised = EvaluatorSession(lower(step, passes=UNQUANTISED), mode="float64")
    unquantised.step()
    assert unquantised.metrics()["loss"] == pytest.approx(expected, rel=1e-5)
    assert EagerStep(step).loss_and_gradients(0)[0] == pytest.approx(expected, rel=1e-5)
    Calibration(step, pipeline(PipelineOptions()))  # makes a step of its own, with another estimator
    assert step.problem.calls == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Term("a", Uniform(BOX), len, points=3, values=[1, 2, 3]), "drawn anew"),
        (lambda: Term("a", Points(AT), len, values=[1.0]), "a row for each of 19 points, got 1 rows"),
        (lambda: Term("a", Points(AT), len, values=["x"] * 19), "no array .* of numbers"),
        (lambda: Term("a", Points(AT), len, values=SEEN * np.nan), "row 0 .* is not finite"),
    ],
)
def test_values_that_cannot_be(make: Callable[[], Term], message: str) -> None:
    with pytest.raises(pintac.PintacError, match=message):
        make()
