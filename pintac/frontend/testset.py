"""Where and how the error of a solution is measured (NUMERICS 9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from pintac import rng
from pintac.accuracy import l2_rel
from pintac.errors import ModelError
from pintac.frontend.locate import function_location
from pintac.frontend.problem import Problem, TrainStep, test_term
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
    """The test set of a problem, None if it has no exact solution. `exact` is evaluated in float64.

    Points come from the stream `test`, drawn by the problem's `test_sampler` (a fixed point set is used whole).
    Raises ModelError when `exact` gives something else than [n, m], with m = `outputs` if that is given: the columns
    of u.
    """
    problem = step.problem
    if not problem.has_exact:
        return None
    sampler = problem.test_sampler()
    x = sampler.sample(sampler.fixed_points or n, TEST_SEED, stream=rng.STREAM_TEST)
    with torch.no_grad():
        u = problem.exact(torch.from_numpy(x).double())  # type: ignore[attr-defined]
    if not isinstance(u, torch.Tensor) or u.ndim != 2 or u.shape[0] != len(x):
        got = list(u.shape) if isinstance(u, torch.Tensor) else type(u).__name__
        raise ModelError(
            f"exact(x) gives {got} for {len(x)} points, expected [{len(x)}, m]",
            location=function_location(problem.exact),  # type: ignore[attr-defined]
            hint="keep the column: sum(-1, keepdim=True), x[:, i:i+1]",
        )
    if outputs is not None and u.shape[1] != outputs:
        raise ModelError(
            f"exact(x) gives {_columns(u.shape[1])}, u has {_columns(outputs)}",
            location=function_location(problem.exact),  # type: ignore[attr-defined]
            hint="exact(x) is the whole solution, in the order of the network's outputs: torch.cat([u, v], 1)",
        )
    if type(problem).test_sampler is not Problem.test_sampler:
        return TestSet(x, u.numpy())
    term, inside = test_term(step.terms())
    return TestSet(x, u.numpy(), term.name, inside)


def _columns(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"


test_set.__test__ = False  # type: ignore[attr-defined]


def predict_float(step: TrainStep, weights: Mapping[str, np.ndarray], x: np.ndarray, batch: int = 4096) -> np.ndarray:
    """u at x [n, d] through torch in float32 with `weights` (torch's names and layout): [n, m].

    The module computes with them while this runs and has its own values again afterwards.
    """
    with torch.no_grad(), _holding(Layout.of(step.net, step.problem), weights):
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
