"""The training step as a torch user would write it by hand: the module itself in eager torch, under autograd.

It checks the traced twin: other code, the same numbers. It knows the bare
network only (`Problem.u` not overridden), where the estimator applies to u as a whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pintac import rng
from pintac.errors import ModelError
from pintac.frontend import active
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.tracing import trace_step
from pintac.frontend.twin import chunk_of
from pintac.frontend.weights import Layout, initial_states, problem_parameters
from pintac.ir import Graph, ancestors

_POINTS_STRIDE = 1 << 8  # key of the draw at the j-th points of term t: t + 256 j, as in the compiled step


@dataclass(frozen=True)
class Plan:
    """The pairs at one tensor of points: `columns` perturbed together, `axes` with a pair of their own each."""

    columns: tuple[int, ...]
    pairs: int
    axes: tuple[int, ...]


class EagerStep:
    """The training step of `step` on a copy of its module, at most `chunk` points at a time.

    Raises ModelError for hard constraints, for Laplacians over several ranges of columns and for estimators whose
    directions are not normal (see `SampledStep`).
    """

    def __init__(
        self,
        step: TrainStep,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if type(step.problem).u is not Problem.u:
            raise ModelError(
                f"{type(step.problem).__name__} transforms the network: its step has no plain eager form",
                location=step.location,
                hint="SampledStep differentiates the traced step",
            )
        if step.estimator.kind not in ("stein", "second-difference"):
            raise ModelError(
                f"the eager baseline draws normal directions, not {step.estimator.kind} ones",
                location=step.location,
                hint="SampledStep takes every estimator",
            )
        self.step, self.seed, self.dtype, self.chunk = step, seed, dtype, chunk
        graph, _ = trace_step(step)
        self._plans = [_plans(graph, step, term) for term in step.terms()]
        self.net, self.problem = copy.deepcopy((step.net, step.problem))
        trained_along = any(True for _ in problem_parameters(step.problem))
        self.layout = Layout.of(self.net, self.problem)
        states = initial_states(step, seed, weights)
        with torch.no_grad():
            for name, parameter in self.layout.parameters.items():
                value = states[name].T if name in self.layout.transposed else states[name]
                parameter.data = torch.from_numpy(np.array(value, order="C")).to(dtype)
        self.net.to(dtype)
        # residuals of a problem with parameters are those of the copy, which holds the trained ones
        self.terms = self.problem.terms() if trained_along else step.terms()
        self.optimizer = step.optimizer.in_torch(list(self.layout.parameters.values()))

    def run(self, t: int) -> float:
        """Step t: loss, gradients, optimizer. Returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.step.optimizer.rate(t)
        loss = self._backward(t)
        self.optimizer.step()
        return loss

    def loss_and_gradients(self, t: int) -> tuple[float, dict[str, Tensor]]:
        """The loss of step t and its gradients, by state and in the IR's layout."""
        loss = self._backward(t)
        gradients = {}
        for name, parameter in self.layout.parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
            gradients[name] = gradient.T if name in self.layout.transposed else gradient
        return loss, gradients

    def _backward(self, t: int) -> float:
        self.optimizer.zero_grad()
        total = 0.0
        for number, term in enumerate(self.terms):
            x = torch.from_numpy(term.sampler.sample(term.count, self.seed, t, number)).to(self.dtype)
            draws = _Draws(self, number, term, t)
            size = chunk_of(term, self.chunk)
            for start in range(0, term.count, size):
                rows = slice(start, min(start + size, term.count))
                derivatives = EagerDerivatives(self, draws, rows)
                with active.use_derivatives(derivatives):
                    values = term.rows(start, rows.stop - start)
                    values = None if values is None else values.to(self.dtype)
                    residual = term.evaluate(derivatives.field, x[rows], values)
                columns = residual.numel() // residual.shape[0]
                part = term.weight_at(t) * (residual**2).sum() / (term.count * columns)
                part.backward()
                total += part.item()
        return total


class _Draws:
    """The normals of one term in one step: drawn whole, cut by rows."""

    def __init__(self, step: EagerStep, number: int, term: Term, t: int) -> None:
        self.step, self.number, self.term, self.t = step, number, term, t
        self.plans = step._plans[number]
        self._known: dict[int, Tensor] = {}

    def normals(self, j: int) -> Tensor:
        """[N, P, columns] at the j-th points."""
        if j not in self._known:
            plan = self.plans[j]
            shape = (self.term.count, plan.pairs + len(plan.axes), len(plan.columns))  # drawn for every row
            key = self.number + _POINTS_STRIDE * j
            values = rng.normal(self.step.seed, rng.STREAM_DELTA, self.t, key, shape)[:, : plan.pairs]
            self._known[j] = torch.from_numpy(values).to(self.step.dtype)
        return self._known[j]


class EagerDerivatives:
    """grad, laplacian and dt by sampled evaluations of the module, shared by all operators on the same points."""

    def __init__(self, step: EagerStep, draws: _Draws, rows: slice) -> None:
        self._step, self._draws, self._rows = step, draws, rows
        self._values: dict[int, tuple[Tensor, Tensor]] = {}
        self._samples: dict[int, tuple[Tensor, Plan, Tensor, Tensor]] = {}
        self.field = self._field  # one object: operators compare it

    def _field(self, x: Tensor) -> Tensor:
        if id(x) not in self._values:
            self._values[id(x)] = (x, self._step.problem.u(self._step.net, x))
        return self._values[id(x)][1]

    def _sample(self, u: active.Function, x: Tensor) -> tuple[Plan, Tensor, Tensor]:
        """The plan, delta [n, P + axes, d] and differences [n, 2, P + axes, m] at x; pairs along axes stand last."""
        if u is not self.field:
            raise ModelError("the eager baseline has derivatives of u only", hint="SampledStep takes functions of u")
        if id(x) not in self._samples:
            plan = self._draws.plans[len(self._samples)]
            sigma = self._step.step.estimator.sigma
            count, dims = x.shape
            delta = x.new_zeros(count, plan.pairs + len(plan.axes), dims)
            if plan.pairs:
                delta[:, : plan.pairs, list(plan.columns)] = sigma * self._draws.normals(len(self._samples))[self._rows]
            for k, axis in enumerate(plan.axes):
                delta[:, plan.pairs + k, axis] = sigma
            shifted = torch.stack([x[:, None] + delta, x[:, None] - delta], 1)
            values = self._step.problem.u(self._step.net, shifted.reshape(-1, dims)).reshape(*shifted.shape[:3], -1)
            self._samples[id(x)] = (x, plan, delta, values - self._field(x)[:, None, None])
        return self._samples[id(x)][1:]

    def gradient(self, u: active.Function, x: Tensor) -> Tensor:
        plan, delta, difference = self._sample(u, x)
        sigma = self._step.step.estimator.sigma
        odd = difference[:, 0] - difference[:, 1]
        random = torch.einsum("npd,npm->nmd", delta[:, : plan.pairs], odd[:, : plan.pairs])
        result = random / (2 * sigma**2 * max(plan.pairs, 1))
        along = torch.einsum("npd,npm->nmd", delta[:, plan.pairs :], odd[:, plan.pairs :])
        return result + along / (2 * sigma**2)

    def laplacian(self, u: active.Function, x: Tensor, start: int, stop: int) -> Tensor:
        plan, delta, difference = self._sample(u, x)
        estimator = self._step.step.estimator
        sigma, pairs = estimator.sigma, plan.pairs
        even = difference.sum(1)[:, :pairs]
        if estimator.kind == "stein":
            weight = (delta[:, :pairs, start:stop] ** 2).sum(-1, keepdim=True) - (stop - start) * sigma**2
            return (weight * even).sum(1) / (2 * sigma**4 * pairs)
        return even.sum(1) / (sigma**2 * pairs)

    def time_derivative(self, u: active.Function, x: Tensor) -> Tensor:
        return self.gradient(u, x)[..., -1]


def _plans(graph: Graph, step: TrainStep, term: Term) -> list[Plan]:
    """The plan at each tensor of points of a term, in the order in which operators meet them."""
    estimator = graph.attrs["estimator"]
    dims, time, total = int(graph.attrs["dims"]), set(estimator["time_dims"]), step.estimator.pairs
    reached = ancestors(graph.outputs[f"residual:{term.name}"])
    operators = [node for node in graph.of("gradient", "laplacian") if node in reached]
    plans = []
    for x in dict.fromkeys(node.operands[1] for node in operators):
        if step.estimator.kind == "stein":
            plans.append(Plan(tuple(range(dims)), total, ()))
            continue
        here = [node for node in operators if node.operands[1] is x]
        ranges = {(node.attrs["start"], node.attrs["stop"]) for node in here if node.op == "laplacian"}
        wanted: set[int] = set()
        for node in here:
            if node.op == "gradient":
                users = [user for user in graph.users(node) if user in reached]
                cut = all(user.op == "slice" and user.attrs["axis"] == 2 for user in users)
                spans = [(user.attrs["start"], user.attrs["stop"]) for user in users] if cut else [(0, dims)]
                wanted.update(column for start, stop in spans for column in range(int(start), int(stop)))  # type: ignore[arg-type]
        covered = {column for start, stop in ranges for column in range(int(start), int(stop))}  # type: ignore[arg-type]
        if len(ranges) > 1 or covered & time:
            raise ModelError(
                f"term {term.name!r}: the eager baseline has one Laplacian, and not over time",
                location=term.location,
                hint="SampledStep covers every residual",
            )
        columns = sorted(covered if ranges else set(range(dims)) - time)
        axes = sorted(wanted - set(columns))
        plans.append(Plan(tuple(columns), total - len(axes), tuple(axes)))
    return plans
