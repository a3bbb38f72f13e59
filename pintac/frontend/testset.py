"""Where and how the error of a solution is measured (NUMERICS 9)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pintac import rng
from pintac.errors import ModelError
from pintac.frontend.locate import function_location, user_code
from pintac.frontend.numbers import as_array
from pintac.frontend.problem import Problem, TrainStep
from pintac.frontend.samplers import Sampler
from pintac.frontend.tracing import trace_infer
from pintac.frontend.weights import Layout
from pintac.ir import Location

TEST_POINTS = 16384
"""Points of the test set: fixed number, fixed order."""

TEST_SEED = 0
"""The test set is the same for every run, whatever its seed."""


@dataclass(frozen=True)
class TestSet:
    """Points x [n, d] and exact values u [n, m], float32 and float64."""

    __test__ = False  # not a test case for pytest

    x: np.ndarray
    u: np.ndarray

    def l2_rel(self, u_hat: np.ndarray) -> float:
        """|u_hat - u|_2 / |u|_2 over all points and components; `u_hat` is [n, m]."""
        if u_hat.shape != self.u.shape:
            raise ModelError(f"the solution has the shape {u_hat.shape}, exact values have {self.u.shape}")
        return l2_rel(u_hat, self.u)

    def l2_constant(self) -> float:
        """The error of the best constant: a trivial column of every accuracy table."""
        return l2_rel(np.broadcast_to(self.u.mean(0), self.u.shape), self.u)

    def l2_affine(self) -> float:
        """The error of the best affine function of x (least squares): the other trivial column."""
        design = np.hstack([self.x.astype(np.float64), np.ones((len(self.x), 1))])
        return l2_rel(design @ np.linalg.lstsq(design, self.u, rcond=None)[0], self.u)


def l2_rel(u_hat: np.ndarray, u: np.ndarray) -> float:
    """|u_hat - u|_2 / |u|_2 in float64."""
    return float(np.linalg.norm(np.asarray(u_hat, np.float64) - u) / np.linalg.norm(np.asarray(u, np.float64)))


def test_set(step: TrainStep, n: int = TEST_POINTS) -> TestSet | None:
    """The test set of a problem: its `test_data`, else `exact` in float64, None if it has neither.

    Points for `exact` come from the stream `test`, drawn by the problem's `test_sampler` (a fixed point set is used
    whole). Raises ModelError at the user's line for what these functions raise, and for other shapes than [n, m].
    """
    problem = step.problem
    given = _given(step)
    if given is not None or not problem.has_exact:
        return given if given is None else _fitting(step, given, function_location(problem.test_data))
    sampler = _sampler(step)
    x = sampler.sample(sampler.fixed_points or n, TEST_SEED, stream=rng.STREAM_TEST)
    hint = "exact gets float64 points: make constants of their type, for example self.a.to(x)"
    with torch.no_grad(), user_code(function_location(problem.exact), hint):  # type: ignore[attr-defined]
        u = problem.exact(torch.from_numpy(x).double())  # type: ignore[attr-defined]
    if not isinstance(u, torch.Tensor) or u.ndim != 2 or u.shape[0] != len(x):
        got = list(u.shape) if isinstance(u, torch.Tensor) else type(u).__name__
        raise ModelError(
            f"exact(x) gives {got} for {len(x)} points, expected [{len(x)}, m]",
            location=function_location(problem.exact),  # type: ignore[attr-defined]
            hint="keep the column: sum(-1, keepdim=True), x[:, i:i+1]",
        )
    return _fitting(step, TestSet(x, u.detach().double().numpy()), function_location(problem.exact))  # type: ignore[attr-defined]


def _fitting(step: TrainStep, test: TestSet, place: Location) -> TestSet:
    """The test set, if it has as many components as u."""
    components = trace_infer(step, rows=2)[0].outputs["u"].shape[1]
    if test.u.shape[1] != components:
        raise ModelError(
            f"the exact solution has {test.u.shape[1]} components, u has {components}",
            location=place,
            hint="a column for each output of the network, in their order",
        )
    return test


def _sampler(step: TrainStep) -> Sampler:
    """Where the error is measured."""
    problem = step.problem
    if type(problem).test_sampler is Problem.test_sampler:
        return step.terms()[0].sampler
    place = function_location(problem.test_sampler)
    with user_code(place):
        sampler = problem.test_sampler()
    dim = step.terms()[0].sampler.dim
    if not isinstance(sampler, Sampler) or sampler.dim != dim:
        got = f"one of {sampler.dim}" if isinstance(sampler, Sampler) else f"a {type(sampler).__name__}"
        raise ModelError(f"test_sampler() must give a sampler with {dim} coordinates, got {got}", location=place)
    return sampler


def _given(step: TrainStep) -> TestSet | None:
    """What the problem's `test_data` says."""
    place = function_location(step.problem.test_data)
    with user_code(place):
        data = step.problem.test_data()
    if data is None:
        return None
    dim = step.terms()[0].sampler.dim
    try:
        x, u = (as_array(part, np.float64) for part in data)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"test_data() must give (x, u): {error}", location=place, hint="two arrays, x [n, d] and u [n, m]"
        ) from None
    u = u[:, None] if u.ndim == 1 else u
    if x.ndim != 2 or x.shape[1] != dim or u.ndim != 2 or len(x) != len(u) or not len(x):
        raise ModelError(
            f"test_data() gives x {list(x.shape)} and u {list(u.shape)}, expected [n, {dim}] and [n, m]", location=place
        )
    if not (np.isfinite(x).all() and np.isfinite(u).all()):
        raise ModelError("test_data() gives numbers that are not finite", location=place)
    return TestSet(np.ascontiguousarray(x, np.float32), u)


test_set.__test__ = False  # type: ignore[attr-defined]


def predict_float(step: TrainStep, weights: Mapping[str, np.ndarray], x: np.ndarray, batch: int = 4096) -> np.ndarray:
    """u at x [n, d] through torch in float32 with `weights` (torch's names and layout): [n, m]."""
    net, problem = copy.deepcopy((step.net, step.problem))
    layout = Layout.of(net, problem)
    with torch.no_grad():
        for name, parameter in layout.parameters.items():
            parameter.copy_(torch.from_numpy(np.array(weights[name])))
        parts = [problem.u(net, torch.from_numpy(x[i : i + batch])) for i in range(0, len(x), batch)]
    return torch.cat(parts).numpy()
