"""What is trained: `Problem` (terms of the loss), `Term`, `Adam` and the `TrainStep` that ties them to a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pintac.errors import ModelError
from pintac.frontend.estimators import Estimator
from pintac.frontend.locate import user_location
from pintac.frontend.samplers import Sampler
from pintac.frontend.schedules import Constant, Schedule
from pintac.ir import Location

Residual = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Term:
    """One term of the loss: weight * mean over points and components of residual(u, x)^2.

    `points` are drawn anew from `sampler` at every step; it may be left out for samplers with a fixed set.
    `residual(u, x)` gets the solution u, a function [N, d] -> [N, m], and the points x [N, d]; it returns [N, k]
    or [N].
    """

    name: str
    sampler: Sampler
    residual: Residual
    points: int | None = None
    weight: float = 1.0
    location: Location = field(default_factory=user_location, repr=False, compare=False)

    def __post_init__(self) -> None:
        def refuse(message: str, hint: str | None = None) -> ModelError:
            return ModelError(f"term {self.name!r}: {message}", location=self.location, hint=hint)

        if not isinstance(self.name, str) or not self.name.replace("_", "a").replace("-", "a").isalnum():
            raise refuse("a name is made of letters, digits, - and _")
        if not isinstance(self.sampler, Sampler):
            raise refuse(f"needs a sampler, got {type(self.sampler).__name__}", "for example Uniform([(0.0, 1.0)])")
        if not callable(self.residual):
            raise refuse(f"needs a residual function (u, x), got {type(self.residual).__name__}")
        fixed = self.sampler.fixed_points
        points = self.points if self.points is not None else fixed
        if points is None:
            raise refuse("says not how many points to draw", "Term(..., points=100)")
        if isinstance(points, bool) or not isinstance(points, int) or points < 1:
            raise refuse(f"needs a positive number of points, got {points!r}")
        if fixed is not None and points != fixed:
            raise refuse(f"asks for {points} points of a fixed set of {fixed}", "leave points out to use them all")
        if not (isinstance(self.weight, (int, float)) and math.isfinite(self.weight) and self.weight > 0):
            raise refuse(f"needs a positive weight, got {self.weight!r}")
        object.__setattr__(self, "points", points)

    @property
    def count(self) -> int:
        """The number of points."""
        assert self.points is not None
        return self.points


class Problem:
    """A PDE with its conditions. Subclasses define `terms`, and may define `u`, `exact` and `test_sampler`.

    `exact(x)`, if defined, is the solution at x [N, d]: [N, m]; without it no l2 error is reported.
    An `nn.Parameter` held as an attribute is trained along with the network (inverse problems).
    """

    def terms(self) -> Sequence[Term]:
        """The terms of the loss."""
        raise ModelError(
            f"{type(self).__name__} does not define terms()",
            location=user_location(),
            hint='def terms(self): return [Term("interior", sampler, self.pde, points=100)]',
        )

    def u(self, net: nn.Module, x: Tensor) -> Tensor:
        """The solution [N, m] made of the network and the points: here net(x).

        Override it for hard constraints: `return self.g(x) + (1 - x[:, -1:]) * net(x)` is exact where the factor is 0,
        whatever the network does. The estimator is applied to the network, the product rule is exact (NUMERICS 7).
        """
        result: Tensor = net(x)
        return result

    def test_sampler(self) -> Sampler:
        """Where the error is measured: by default the sampler of the first term that draws inside (`test_term`)."""
        return test_term(self.terms())[0].sampler

    @property
    def has_exact(self) -> bool:
        """Whether `exact` is defined."""
        return callable(getattr(self, "exact", None))


def test_term(terms: Sequence[Term]) -> tuple[Term, bool]:
    """(the term on whose points the error is measured, whether they are drawn inside).

    The first one whose sampler is neither a fixed set nor a surface; the first one if there is none.
    """
    for term in terms:
        if term.sampler.fixed_points is None and not term.sampler.on_surface:
            return term, True
    return terms[0], False


test_term.__test__ = False  # type: ignore[attr-defined]  # not a test case for pytest


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction, fp32 masters and moments. The rate of step t is lr * schedule.value(t)."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        values = (self.lr, self.beta1, self.beta2, self.eps)
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise ModelError(f"Adam needs finite numbers, got {self!r}", location=user_location())
        if self.lr <= 0 or self.eps <= 0 or not 0 <= self.beta1 < 1 or not 0 <= self.beta2 < 1:
            raise ModelError(
                f"Adam needs lr > 0, eps > 0 and betas in [0, 1), got {self!r}",
                location=user_location(),
            )
        if self.schedule is not None and not callable(getattr(self.schedule, "value", None)):
            raise ModelError(
                f"Adam: not a schedule: {self.schedule!r}",
                location=user_location(),
                hint="constant(), linear_decay(steps) or cosine_decay(steps)",
            )

    def rate(self, t: int) -> float:
        """The learning rate of step t = 0, 1, 2, ..."""
        return self.lr * (self.schedule or Constant()).value(t)

    def attrs(self) -> dict[str, object]:
        """Description for the IR and the program."""
        return {
            "kind": "adam",
            "lr": float(self.lr),
            "beta1": float(self.beta1),
            "beta2": float(self.beta2),
            "eps": float(self.eps),
            "schedule": (self.schedule or Constant()).attrs(),
        }


INITS = ("xavier", "module")


@dataclass(frozen=True)
class TrainStep:
    """One training step: everything `compile` and `train` need.

    `init` says where the first weights come from. "xavier" (default): every Linear and TTLinear is drawn from the seed
    of the run (NUMERICS 9), so that several seeds and the float twin mean something; other parameters keep the module's
    values. "module": all parameters as they are in `net`. Weights given to `train` win over both. `net` is not changed.
    """

    net: nn.Module
    problem: Problem
    optimizer: Adam
    estimator: Estimator
    name: str = ""
    init: str = "xavier"
    location: Location = field(default_factory=user_location, repr=False, compare=False)

    def __post_init__(self) -> None:
        def refuse(message: str, hint: str | None = None) -> ModelError:
            return ModelError(f"TrainStep: {message}", location=self.location, hint=hint)

        if not isinstance(self.net, nn.Module):
            raise refuse(f"the first argument must be an nn.Module, got {_describe(self.net)}")
        if isinstance(self.problem, type) and issubclass(self.problem, Problem):
            raise refuse(
                f"the problem is the class {self.problem.__name__}, not an object", f"{self.problem.__name__}()"
            )
        if not isinstance(self.problem, Problem):
            raise refuse(f"the second argument must be a Problem, got {_describe(self.problem)}")
        if not isinstance(self.optimizer, Adam):
            raise refuse(*_optimizer_advice(self.optimizer))
        if not isinstance(self.estimator, Estimator):
            raise refuse(
                f"the fourth argument must be an estimator, got {_describe(self.estimator)}",
                "SecondDifference(K=512, sigma=0.01) or Stein(K=512, sigma=0.01)",
            )
        if self.init not in INITS:
            raise refuse(f"init is one of {INITS}, got {self.init!r}")
        if not self.name:
            object.__setattr__(self, "name", type(self.problem).__name__)

    def terms(self) -> list[Term]:
        """The checked terms of the problem."""
        terms = self.problem.terms()
        place = self.location
        if not isinstance(terms, (list, tuple)) or not terms or any(not isinstance(term, Term) for term in terms):
            raise ModelError(f"{type(self.problem).__name__}.terms() must return a list of Term", location=place)
        names = [term.name for term in terms]
        if len(set(names)) != len(names):
            raise ModelError(f"two terms have the same name: {names}", location=terms[-1].location)
        widths = {term.sampler.dim for term in terms}
        if len(widths) != 1:
            listed = ", ".join(f"{term.name}: {term.sampler.dim}" for term in terms)
            raise ModelError(
                f"the terms have points of different dimensions ({listed})",
                location=terms[-1].location,
                hint="u takes points of one dimension; use Product(..., At(value)) to fix coordinates",
            )
        return list(terms)


def _describe(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _optimizer_advice(optimizer: object) -> tuple[str, str]:
    name = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
    if isinstance(optimizer, str):
        name = optimizer
    if "lbfgs" in name.lower():
        return (
            "LBFGS cannot be compiled: its line search evaluates the loss a varying number of times a step, "
            "and a step here is one fixed program on freshly drawn points",
            "use pintac.Adam(lr, schedule=linear_decay(steps))",
        )
    if isinstance(optimizer, torch.optim.Optimizer) or (
        isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    ):
        return (
            f"torch.optim.{name} runs in torch; the compiled step needs a description",
            "use pintac.Adam(lr, beta1, beta2, eps)",
        )
    return f"the third argument must be an optimizer, got {_describe(optimizer)}", "use pintac.Adam(1e-3)"
