"""From a `TrainStep` to IR: the graph `step` (points and residuals of each term) and the graph `infer` (u at points).

Networks and residuals run once on sampled points under a recorder (`dispatch.py`): every operation becomes IR with the
line of user code that asked for it. TT layers and the operators grad, laplacian and dt are leaves. Shapes are those of
the step; Python control flow on shapes and constants is resolved here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pintac.errors import IRError, ModelError
from pintac.frontend import active
from pintac.frontend.dispatch import Calls, Operations
from pintac.frontend.layers import TTLinear, use_tracer
from pintac.frontend.locate import function_location, is_own_fault, traceback_location, user_code
from pintac.frontend.problem import Term, TrainStep
from pintac.frontend.recorder import Recorder
from pintac.frontend.samplers import POINTS, Draws
from pintac.frontend.traced import GRADIENT_SHAPE, Abandoned, Poisoned, Traced, Unsupported, model_error
from pintac.frontend.weights import Layout
from pintac.ir import Builder, Graph, Location, Node

INFER_ROWS = 1024
"""Rows of the `infer` graph: test points are evaluated in batches of this size."""


@dataclass(frozen=True)
class TracedStep:
    """What the passes start from.

    `step` has an output `residual:<term>` for each term and the attributes terms, estimator, optimizer; `infer` maps
    the input `x` [rows, d] to the output `u` [rows, m]. `data` are the constant arrays that either reads. `layout`
    leads between states and the module's parameters.
    """

    step: Graph
    infer: Graph
    data: Mapping[str, np.ndarray]
    layout: Layout

    @property
    def outputs(self) -> int | None:
        """The components of u; None where it is no function of the points."""
        u = self.infer.outputs.get("u")
        return None if u is None else u.shape[1]


def trace(step: TrainStep, *, infer_rows: int = INFER_ROWS, points: Mapping[str, int] | None = None) -> TracedStep:
    """Trace a training step. `points` overrides the number of points of terms, by name.

    Raises ModelError with everything that cannot be compiled, each with the user's line and a hint.
    """
    layout = Layout.of(step.net, step.problem, step.location)
    step_graph, data = trace_step(step, layout, points)
    infer_graph, more = trace_infer(step, layout, infer_rows)
    return TracedStep(step_graph, infer_graph, {**data, **more}, layout)


def trace_step(
    step: TrainStep,
    layout: Layout | None = None,
    points: Mapping[str, int] | None = None,
    *,
    only: str | None = None,
    estimator: Mapping[str, object] | None = None,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph `step` and its constant arrays; with `only`, of one term.

    `estimator` is then the attribute of the whole step: whether time is perturbed is a matter of all terms.
    """
    layout = layout or Layout.of(step.net, step.problem, step.location)
    terms = step.terms()
    builder = Builder("step")
    recorder = Recorder(builder, layout.parameters, layout.transposed, step.location)
    counts = {term.name: (points or {}).get(term.name, term.count) for term in terms}
    uses_dt = False
    for number, term in enumerate(terms):
        if only not in (None, term.name):
            continue
        x = _points(recorder, term, number, counts[term.name])
        derivatives = RecordedDerivatives(recorder)
        recorder.rows = counts[term.name]
        with _recording(recorder, derivatives, function_location(term.residual), x):
            field = Field(step, recorder)
            values = _values(recorder, term, number, counts[term.name])
            node = _residual_node(recorder, term, term.evaluate(field, x, values), counts[term.name])
            if node is not None:
                builder.output(f"residual:{term.name}", node)
        uses_dt = uses_dt or derivatives.uses_dt
    if recorder.diagnoses:
        raise model_error(recorder.diagnoses) from recorder.cause
    builder.attrs.update(
        {
            "name": step.name,
            "dims": terms[0].sampler.dim,
            "terms": [term.attrs(counts[term.name]) for term in terms],
            "estimator": estimator or step.estimator.attrs(terms[0].sampler.dim, uses_dt),
            "optimizer": step.optimizer.attrs(),
        }
    )
    return builder.finish(), recorder.data


def trace_infer(
    step: TrainStep, layout: Layout | None = None, rows: int = INFER_ROWS
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph `infer` and its constant arrays."""
    layout = layout or Layout.of(step.net, step.problem, step.location)
    dim = step.terms()[0].sampler.dim
    builder = Builder("infer", {"name": step.name, "dims": dim})
    recorder = Recorder(builder, layout.parameters, layout.transposed, step.location)
    recorder.rows = rows
    recorder.data_prefix = "infer"
    x = Traced(
        torch.linspace(0.1, 0.9, rows * dim, dtype=torch.float32).reshape(rows, dim),
        builder.input("x", (rows, dim), loc=step.location),
    )
    x.on_points = True
    recorder.points.mark(recorder.node(x))
    with _recording(recorder, RecordedDerivatives(recorder), step.location, x):
        u = Field(step, recorder)(x)
        if isinstance(u, Traced) and u.node is not None:
            builder.output("u", u.node)
    if recorder.diagnoses:
        raise model_error(recorder.diagnoses) from recorder.cause
    return builder.finish(), recorder.data


# ---------------------------------------------------------------------------------------------- running user code


@contextmanager
def _recording(
    recorder: Recorder, derivatives: RecordedDerivatives, fallback: Location, points: Traced
) -> Iterator[None]:
    """User code inside is recorded; what it raises, for these `points`, becomes a diagnosis at its line."""
    previous, recorder.fallback = recorder.fallback, fallback
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(use_tracer(derivatives))
            stack.enter_context(active.use_derivatives(derivatives))
            stack.enter_context(Calls(recorder))
            stack.enter_context(Operations(recorder))
            yield
    except Abandoned:
        pass  # reported where it happened
    except ModelError as error:
        place = error.location
        location = Location(place.file, place.line) if place is not None else fallback
        recorder.report(error.message, error.hint, location)
    except IRError as error:
        raise ModelError(error.message, location=error.location or fallback, hint=error.hint) from error
    except Exception as error:
        if is_own_fault(error):
            raise
        message, hint = _said_of(error, points, derivatives.uses_grad)
        recorder.report(message, hint, traceback_location(error.__traceback__, fallback))
        recorder.cause = recorder.cause or error
    finally:
        recorder.fallback = previous


def _said_of(error: Exception, points: Traced, uses_grad: bool) -> tuple[str, str | None]:
    """What to say of an exception of the user's code, and what to do."""
    if isinstance(error, AttributeError) and isinstance(error.obj, Field):
        return (
            f"u is a function of points, it has no {error.name!r}",
            "a coefficient that is to be found belongs to the problem: self.NAME = nn.Parameter(...) in __init__",
        )
    message = f"{type(error).__name__}: {error}"
    if not isinstance(error, (RuntimeError, IndexError)):
        return message, None  # nothing about shapes
    hint = f"x is {list(points.shape)}: {points.shape[0]} points with {points.shape[1]} coordinates each"
    return message, f"{hint}; {GRADIENT_SHAPE}" if uses_grad else hint


def _points(recorder: Recorder, term: Term, number: int, count: int) -> Traced:
    """The points of a term: IR of its sampler, and stand-in values."""
    draws = Draws(recorder.builder, number)
    with recorder.builder.at(term.location), user_code(term.location):
        node = term.sampler.emit(draws, count)
    recorder.data.update(draws.data)
    if not isinstance(node, Node) or node.shape != (count, term.sampler.dim):
        got = node.type if isinstance(node, Node) else f"a {type(node).__name__}"
        raise ModelError(
            f"the sampler of term {term.name!r} emits {got}, expected f32[{count},{term.sampler.dim}]",
            location=term.location,
        )
    values = torch.linspace(0.1, 0.9, count * term.sampler.dim, dtype=torch.float32).reshape(count, term.sampler.dim)
    x = Traced(values, node)
    x.on_points = True
    recorder.points.mark(node)
    return x


def _values(recorder: Recorder, term: Term, number: int, count: int) -> Tensor | None:
    """The values of a term: a constant that is stored with its points."""
    values = term.rows(0, count)
    if values is not None:
        recorder.store(values, f"{POINTS}{number}.values")
    return values


def _residual_node(recorder: Recorder, term: Term, result: object, count: int) -> Node | None:
    """The residual as [N, k]; diagnoses for anything else."""
    place = function_location(term.residual)
    what = f"the residual of term {term.name!r}"
    if not isinstance(result, Traced):
        if not recorder.diagnoses:
            got = (
                f"a constant of shape {tuple(result.shape)}"
                if isinstance(result, Tensor)
                else f"a {type(result).__name__}"
            )
            recorder.report(
                f"{what} must be a tensor that depends on u, got {got}", "return one residual a point", place
            )
        return None
    if result.node is None:
        return None
    shape = tuple(result.shape)
    if not result.on_parameters:
        recorder.report(
            f"{what} does not depend on the network", "call u(x), grad(u, x) or laplacian(u, x) in it", place
        )
        return None
    if len(shape) not in (1, 2) or shape[0] != count:
        loss = "no mean, no square: return the residual itself, one row a point; the loss is built from it"
        hint = GRADIENT_SHAPE if len(shape) == 3 else loss
        recorder.report(f"{what} has the shape {list(shape)}, expected [{count}] or [{count}, k]", hint, place)
        return None
    if len(shape) == 1:
        with recorder.builder.at(place):
            return recorder.builder.reshape(result.node, (count, 1))
    return result.node


class Field:
    """The solution u as residuals see it: a function of points. The same points give the same value, computed once."""

    def __init__(self, step: TrainStep, recorder: Recorder) -> None:
        self._step = step
        self._recorder = recorder
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        if id(x) not in self._known:
            self._known[id(x)] = (x, self._evaluate(x))
        return self._known[id(x)][1]

    def _evaluate(self, x: Tensor) -> Tensor:
        r = self._recorder
        if not isinstance(x, Tensor) or x.ndim != 2:
            got = f"shape {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            r.report(f"u needs points [N, d], got {got}", "keep the coordinates as columns")
            raise Abandoned
        u = self._step.problem.u(self._step.net, x)
        if not isinstance(u, Tensor) or u.ndim != 2 or u.shape[0] != x.shape[0]:
            got = f"the shape {list(u.shape)}" if isinstance(u, Tensor) else f"a {type(u).__name__}"
            r.report(
                f"the network gives {got} for {x.shape[0]} points, expected [{x.shape[0]}, m]",
                "keep one row a point and one column a component",
            )
            raise Abandoned
        return u


class RecordedDerivatives:
    """grad, laplacian, dt and TT layers as leaves of the IR."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.uses_dt = False
        self.uses_grad = False
        # The operands are kept so that their ids stay theirs.
        self._known: dict[tuple[object, ...], tuple[Traced, Traced, Traced]] = {}

    def tt_linear(self, layer: TTLinear, x: Tensor) -> Tensor:
        r = self.recorder
        parameters = [*layer.cores, *([layer.bias] if layer.bias is not None else [])]
        sources = [x] if isinstance(x, Traced) else []
        shape = (*x.shape[:-1], layer.out_features)
        if x.shape[-1:] != (layer.in_features,) or x.ndim < 2:
            r.report(
                f"TTLinear needs [N, {layer.in_features}], got {list(x.shape)}", f"the layer stands at {layer.location}"
            )
            raise Abandoned

        def build() -> Node:
            cores = [r.node(core) for core in layer.cores]
            y = r.builder.tt_matmul(r.node(x), cores, layer.in_factors, layer.out_factors, layer.ranks, lhs_role="base")
            return y if layer.bias is None else r.builder.add(y, r.node(layer.bias))

        result = self._leaf(build, shape, sources)
        result.on_parameters = result.on_parameters or any(r.parameter_name(p) is not None for p in parameters)
        return result

    def gradient(self, u: active.Function, x: Tensor) -> Tensor:
        self.uses_grad = True
        return self._gradient(u, x)

    def _gradient(self, u: active.Function, x: Tensor) -> Tensor:
        y, points = self._function_of(u, x, "grad")
        return self._derivative("gradient", y, points, {}, (*y.shape, points.shape[1]))

    def laplacian(self, u: active.Function, x: Tensor, start: int, stop: int) -> Tensor:
        y, points = self._function_of(u, x, "laplacian")
        return self._derivative("laplacian", y, points, {"start": start, "stop": stop}, tuple(y.shape))

    def time_derivative(self, u: active.Function, x: Tensor) -> Tensor:
        self.uses_dt = True
        derivative: Tensor = self._gradient(u, x)[..., -1]
        return derivative

    def _function_of(self, u: active.Function, x: Tensor, what: str) -> tuple[Traced, Traced]:
        r = self.recorder
        if not isinstance(x, Traced):
            r.report(
                f"{what}(u, x): x is a constant, not the points of the residual", "use the x that the residual is given"
            )
            raise Abandoned
        y = u(x)
        if (
            not isinstance(y, Traced)
            or not y.on_points
            or (y.node is not None and x.node is not None and not _reaches(y.node, x.node))
        ):
            r.report(f"{what}(u, x): u(x) does not depend on x", "the function must use its argument")
            raise Abandoned
        if y.ndim != 2 or y.shape[0] != x.shape[0]:
            r.report(
                f"{what}(u, x): u(x) has the shape {list(y.shape)}, expected [{x.shape[0]}, m]", "keep one row a point"
            )
            raise Abandoned
        if y.derived:
            r.report(
                f"{what} of a derivative: derivatives beyond the Laplacian are not supported",
                "use laplacian(u, x) for second derivatives; for higher ones write a system in more outputs of u",
            )
            raise Abandoned
        return y, x

    def _derivative(self, op: str, y: Traced, x: Traced, attrs: dict[str, int], shape: tuple[int, ...]) -> Traced:
        """The operator as a leaf; asked for twice, it is the same value."""
        key = (op, id(y), id(x), *attrs.values())
        if key not in self._known:

            def build() -> Node:
                return self.recorder.builder.add_op(op, (self.recorder.node(y), self.recorder.node(x)), attrs)

            result = self._leaf(build, shape, [y, x])
            result.derived = True
            self._known[key] = (result, y, x)
        return self._known[key][0]

    def _leaf(self, build: Callable[[], Node], shape: Sequence[int], sources: Sequence[Any]) -> Traced:
        """A value made by pintac itself; its stand-in numbers are ones."""
        r = self.recorder
        node: Node | None = None
        with r.builder.at(r.location()):
            try:
                node = build()
            except Poisoned:
                node = None
            except Unsupported as problem:
                r.report(problem.message, problem.hint)
        return Traced(torch.ones(tuple(shape), dtype=torch.float32), node, sources)


def _reaches(node: Node, source: Node) -> bool:
    """Whether `source` is among what `node` is computed from."""
    seen: set[Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current is source:
            return True
        if current not in seen:
            seen.add(current)
            stack.extend(current.operands)
    return False
