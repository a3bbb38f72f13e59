"""What is trained: `Problem` (terms of the loss), `Term` and the `TrainStep` that ties them to a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from pintac.errors import ModelError
from pintac.frontend.estimators import Estimator
from pintac.frontend.locate import function_location, user_code, user_location
from pintac.frontend.numbers import as_array, as_count, as_real
from pintac.frontend.optimizers import Optimizer, Scalar, advice
from pintac.frontend.samplers import Sampler
from pintac.frontend.schedules import NAMES as SCHEDULES
from pintac.frontend.schedules import Schedule, rate_of, settled
from pintac.ir import Location

Residual = Callable[..., Tensor]
"""(u, x), or (u, x, values) for a term with values."""


@dataclass(frozen=True)
class Term:
    """One term of the loss: weight * mean over points and components of residual(u, x)^2.

    `weight` is a number, or a schedule of the weights of steps t = 0, 1, 2, ...: `piecewise({0: 1.0, 1000: 300.0})`.

    `points` are drawn anew from `sampler` at every step; it may be left out for samplers with a fixed set.
    `residual(u, x)` gets the solution u, a function [N, d] -> [N, m], and the points x [N, d]; it returns [N, k]
    or [N]. With `values`, an array with a row for each point of a fixed set ([N] is taken as [N, 1]), it is
    `residual(u, x, v)`, where row i of v belongs to row i of x: measured data. The points of such a term may be taken a
    few at a time with their rows, those of a fixed set whose residual holds values itself only together.
    """

    name: str
    sampler: Sampler
    residual: Residual
    points: int | None = None
    weight: float | Schedule = 1.0
    values: np.ndarray | None = field(default=None, repr=False, compare=False)
    location: Location = field(default_factory=user_location, repr=False, compare=False)

    def __post_init__(self) -> None:
        def refuse(message: str, hint: str | None = None) -> ModelError:
            return ModelError(f"term {self.name!r}: {message}", location=self.location, hint=hint)

        if not isinstance(self.name, str) or not self.name.replace("_", "a").replace("-", "a").isalnum():
            raise refuse("a name is made of letters, digits, - and _")
        if not isinstance(self.sampler, Sampler):
            raise refuse(f"needs a sampler, got {type(self.sampler).__name__}", "for example Uniform([(0.0, 1.0)])")
        if as_count(getattr(self.sampler, "dim", None)) is None:
            name = type(self.sampler).__name__
            raise refuse(f"the sampler {name} says not how many coordinates its points have", f"{name}.dim = 2")
        if not callable(self.residual):
            raise refuse(f"needs a residual function (u, x), got {type(self.residual).__name__}")
        fixed = self.sampler.fixed_points
        points = self.points if self.points is not None else fixed
        if points is None:
            raise refuse("says not how many points to draw", "Term(..., points=100)")
        count = as_count(points)
        if count is None:
            raise refuse(f"needs a positive number of points, got {points!r}")
        if fixed is not None and count != fixed:
            raise refuse(f"asks for {count} points of a fixed set of {fixed}", "leave points out to use them all")
        weight = as_real(self.weight)
        if weight is not None and weight > 0:
            object.__setattr__(self, "weight", weight)
        elif weight is not None or not isinstance(self.weight, Schedule) or isinstance(self.weight, type):
            raise refuse(f"needs a positive weight, got {self.weight!r}", f"a number, or a schedule: {SCHEDULES}")
        else:
            with user_code(self.location):
                weights = [self.weight_at(t) for t in (0, settled(self.weight))]
            if not all(math.isfinite(value) and value >= 0 for value in weights) or not any(weights):
                raise refuse(f"needs weights that are positive, the schedule gives {weights}")
        object.__setattr__(self, "points", count)
        if self.values is not None:
            if fixed is None:
                raise refuse("has values, but its points are drawn anew at every step", "values belong to Points(...)")
            try:
                values = _rows(self.values)
            except (TypeError, ValueError) as error:
                raise refuse(f"the values are no array [n] or [n, k] of numbers: {error}") from None
            if len(values) != count:
                raise refuse(f"needs values with a row for each of {count} points, got {len(values)} rows")
            if not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values).all(1)))
                raise refuse(f"row {row} (counted from 0) of the values is not finite: {values[row].tolist()}")
            object.__setattr__(self, "values", values)

    @property
    def count(self) -> int:
        """The number of points."""
        assert self.points is not None
        return self.points

    def weight_at(self, t: int) -> float:
        """The weight in the loss of step t."""
        return self.weight if isinstance(self.weight, float) else rate_of(self.weight, 1.0, t)

    def attrs(self, points: int) -> dict[str, object]:
        """Description for the IR, at a number of points."""
        weight = self.weight if isinstance(self.weight, float) else {"schedule": self.weight.attrs()}
        return {"name": self.name, "points": points, "weight": weight}

    def rows(self, start: int, count: int) -> Tensor | None:
        """The values of `count` points from number `start` on; None for a term without."""
        return None if self.values is None else torch.from_numpy(self.values[start : start + count])

    def evaluate(self, u: Callable[[Tensor], Tensor], x: Tensor, values: Tensor | None) -> Tensor:
        """The residual at points x of this term, whose `rows` are `values`."""
        return self.residual(u, x) if values is None else self.residual(u, x, values)


def _rows(values: object) -> np.ndarray:
    """float32 [n, k] of an array or tensor [n] or [n, k]; raises TypeError or ValueError for anything else."""
    array = as_array(values, np.float32)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size:
        raise ValueError(f"the shape is {list(array.shape)}")
    return array


class Problem:
    """A PDE with its conditions. Subclasses define `terms`, and may define `u`, `exact`, `test_sampler`, `test_data`.

    `exact(x)`, if defined, is the solution at x [N, d]: [N, m]. Where it is known at some points only, `test_data()`
    gives them: x [N, d] and u [N, m]. Without either no l2 error is reported. Parameters held as attributes, an
    `nn.Parameter` or a module with some, are trained along with the network (inverse problems).
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

    def test_data(self) -> tuple[object, object] | None:
        """Points x [N, d] and the solution u [N, m] there, for the error; None: `exact` at points of `test_sampler`."""
        return None

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
    optimizer: Optimizer
    estimator: Estimator
    name: str = ""
    init: str = "xavier"
    location: Location = field(default_factory=user_location, repr=False, compare=False)
    # The terms of each problem asked for; `dataclasses.replace` hands it on, so that copies train on the same data.
    _terms: dict[int, tuple[Problem, list[Term]]] = field(default_factory=dict, repr=False, compare=False)

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
        if not isinstance(self.optimizer, Optimizer):
            raise refuse(*advice(self.optimizer))
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
        """The checked terms of the problem. Its `terms()` is called once: what it draws at random stays as it is."""
        known = self._terms.get(id(self.problem))
        if known is None or known[0] is not self.problem:
            known = self._terms[id(self.problem)] = self.problem, self._checked_terms()
        return list(known[1])

    def scalars(self) -> dict[str, Scalar]:
        """Everything that the parameter block may hold, by name: the optimizer's, and weights that are scheduled."""
        scheduled = {
            f"weight:{term.name}": Scalar(term.weight_at, settled(term.weight))
            for term in self.terms()
            if not isinstance(term.weight, float)
        }
        return {**self.optimizer.scalars(), **scheduled}

    def _checked_terms(self) -> list[Term]:
        place = self.location
        with user_code(function_location(self.problem.terms) if callable(self.problem.terms) else place):
            terms = self.problem.terms()
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
