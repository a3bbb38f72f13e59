"""Where and how the error of a solution is measured (NUMERICS 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from pintac import rng
from pintac.accuracy import l2_rel
from pintac.errors import ModelError
from pintac.frontend.locate import function_location, user_code
from pintac.frontend.numbers import as_array
from pintac.frontend.problem import Problem, TrainStep, test_term
from pintac.frontend.samplers import Sampler
from pintac.frontend.weights import Layout

TEST_POINTS = 16384
"""Points of the test set: fixed number, fixed order."""

TEST_SEED = 0
"""The test set is the same for every run, whatever its seed."""


@dataclass(frozen=True)
class TestSet:
    """Points x [n, d] and exact values u [n, m], float32 and float64.

    `term` is the one whose points these are, "" for those of a sampler of the problem's own. `inside` is False where
    every term draws a fixed set or a surface, so that these points may say nothing about the rest of the domain.
    """

    __test__ = False  # not a test case for pytest

    x: np.ndarray
    u: np.ndarray
    term: str = ""
    inside: bool = True

    def l2_rel(self, u_hat: np.ndarray) -> float:
        """The error of `u_hat` [n, m]."""
        return l2_rel(u_hat, self.u)

    def first(self, n: int) -> TestSet:
        """The first `n` of its points."""
        return replace(self, x=self.x[:n], u=self.u[:n])

    def l2_constant(self) -> float:
        """The error of the best constant: a trivial column of every accuracy table."""
        return l2_rel(np.broadcast_to(self.u.mean(0), self.u.shape), self.u)

    def l2_affine(self) -> float:
        """The error of the best affine function of x (least squares): the other trivial column."""
        design = np.hstack([self.x.astype(np.float64), np.ones((len(self.x), 1))])
        return l2_rel(design @ np.linalg.lstsq(design, self.u, rcond=None)[0], self.u)


def test_set(step: TrainStep, n: int = TEST_POINTS, outputs: int | None = None) -> TestSet | None:
    """The test set of a problem: its `test_data`, else `exact` in float64, None if it has neither.

    Points for `exact` come from the stream `test`, drawn by the problem's `test_sampler` (a fixed point set is used
    whole). Raises ModelError at the user's line for what these functions raise, and for other shapes than [n, m], with
    m = `outputs` if that is given: the columns of u.
    """
    problem = step.problem
    given = _given(step, outputs)
    if given is not None or not problem.has_exact:
        return given
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
    _check_columns("exact(x)", problem.exact, u.shape[1], outputs)  # type: ignore[attr-defined]
    _check_values("exact(x)", problem.exact, x, u.detach().double().numpy())  # type: ignore[attr-defined]
    if type(problem).test_sampler is not Problem.test_sampler:
        return TestSet(x, u.detach().double().numpy())
    term, inside = test_term(step.terms())
    return TestSet(x, u.detach().double().numpy(), term.name, inside)


def _check_columns(what: str, function: Callable[..., object], given: int, outputs: int | None) -> None:
    """A solution has the columns of u."""
    if outputs is not None and given != outputs:
        raise ModelError(
            f"{what} gives {_columns(given)}, u has {_columns(outputs)}",
            location=function_location(function),
            hint=f"{what} is the whole solution, in the order of the network's outputs: torch.cat([u, v], 1)",
        )


def _check_values(what: str, function: Callable[..., object], x: np.ndarray, u: np.ndarray) -> None:
    """A solution is finite, and somewhere not 0: an error is measured relative to it."""
    wrong = ~np.isfinite(u).all(1)
    if wrong.any():
        first = x[int(np.argmax(wrong))]
        raise ModelError(
            f"{what} is not finite at {wrong.sum()} of {len(x)} test points, for example x = {first.tolist()}",
            location=function_location(function),
            hint="test points are drawn where the first term draws; test_sampler(self) or test_data(self) names others",
        )
    if not u.any():
        raise ModelError(
            f"{what} is 0 at all {len(x)} test points: there is no error relative to that",
            location=function_location(function),
            hint=f"leave {what.split('(')[0]} out: the losses say how far from 0 u is",
        )


def _columns(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"


def _sampler(step: TrainStep) -> Sampler:
    """Where the error is measured."""
    problem = step.problem
    if type(problem).test_sampler is Problem.test_sampler:
        return test_term(step.terms())[0].sampler
    place = function_location(problem.test_sampler)
    with user_code(place):
        sampler = problem.test_sampler()
    dim = step.terms()[0].sampler.dim
    if not isinstance(sampler, Sampler) or sampler.dim != dim:
        got = f"one of {sampler.dim}" if isinstance(sampler, Sampler) else f"a {type(sampler).__name__}"
        raise ModelError(f"test_sampler() must give a sampler with {dim} coordinates, got {got}", location=place)
    return sampler


def _given(step: TrainStep, outputs: int | None) -> TestSet | None:
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
    if not np.isfinite(x).all():
        raise ModelError("test_data() gives points that are not finite", location=place)
    _check_columns("test_data()", step.problem.test_data, u.shape[1], outputs)
    _check_values("test_data()", step.problem.test_data, x, u)
    return TestSet(np.ascontiguousarray(x, np.float32), u)


test_set.__test__ = False  # type: ignore[attr-defined]


def predict_float(step: TrainStep, weights: Mapping[str, np.ndarray], x: np.ndarray, batch: int = 4096) -> np.ndarray:
    """u at x [n, d] through torch in float32 with `weights` (torch's names and layout): [n, m].

    The module computes with them while this runs and has its own values again afterwards.
    """
    with torch.no_grad(), _holding(Layout.of(step.net, step.problem, step.location), weights):
        parts = [step.problem.u(step.net, torch.from_numpy(x[i : i + batch])) for i in range(0, len(x), batch)]
    return torch.cat(parts).numpy()


@contextmanager
def _holding(layout: Layout, weights: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Parameters with other values: a module that keeps an activation in an attribute cannot be copied."""
    own = {name: parameter.data for name, parameter in layout.parameters.items()}
    try:
        for name, parameter in layout.parameters.items():
            parameter.data = torch.from_numpy(np.array(weights[name], np.float32))
        yield
    finally:
        for name, parameter in layout.parameters.items():
            parameter.data = own[name]
