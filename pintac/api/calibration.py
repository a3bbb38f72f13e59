"""How much of the residual and of the gradient each quantised tensor spoils, measured on a few points.

The training step is lowered for a few points a term, without its optimizer, and evaluated without any rounding at two
sets of weights: the initial ones, and those that `TRAINED` steps lead to. Then one tensor at a time is rounded to 4 and
to 8 bits and what depends on it is evaluated again; 12 and 16 bits follow from 8, since the energy of a rounding error
falls by 2^8 with four bits. All of it is in float64, though a run is not: in fp32 the last bits of a processor's sums
and functions lead to other weights after 200 steps, and so to other choices. Errors (docs/PRECISION.md):

- of the residual of a term: rms over the points of the difference to the exact residual, over the largest rms of the
  summands that the residual is made of (laplacian u and the source, say). The residual itself would be no scale:
  training makes it vanish, by cancellation of summands that stay what they are.
- of the gradient: l2 norm over all parameters of the difference to the exact gradient of the same samples, over the
  root mean square of gradients on the way to these weights, which is the size by which Adam divides. The exact gradient
  is that of the network with rounded weights: this network is what is trained (NUMERICS 6), and what rounding its
  weights changes is counted in its residual.

Rounding errors of different tensors are taken to be independent: their energies add up to the predicted ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac import smx, vmath
from pintac.ir import Builder, Graph, Node
from pintac.ir.evaluate import Evaluator, Value
from pintac.passes import Pass
from pintac.passes.canonicalize import Canonicalize
from pintac.passes.dataflow import continue_from
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.expand_optimizer import ExpandOptimizer
from pintac.passes.insert_smx import InsertSMX
from pintac.passes.pack_rows import PackRows
from pintac.passes.tensors import WIDTHS, role_of

if TYPE_CHECKING:
    from pintac.frontend import Term, TrainStep

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

SEED = 0  # of weights and samples: the choice is a function of the step alone, not of the seed of a run
TRAINED = 200
ROWS = 2048  # evaluations of a term: they bound time and memory
MOST_POINTS = 32
MEASURED = (4, 8)
GRADIENT = "gradient"

_RESIDUAL, _SUMMAND = "calibration:residual:", "calibration:summand:"


@dataclass(frozen=True)
class State:
    """Weights at which errors are measured; `gradient` is the size of gradients that an error is relative to (0: of
    the gradient there)."""

    name: str
    arrays: Arrays
    gradient: float = 0.0


@dataclass(frozen=True)
class Errors:
    """Relative errors by (state, what): the terms' names and `GRADIENT`."""

    values: Mapping[tuple[str, str], float]

    @property
    def residual(self) -> float:
        """The largest error of a residual."""
        return max((value for (_, what), value in self.values.items() if what != GRADIENT), default=0.0)

    @property
    def gradient(self) -> float:
        """The largest error of a gradient."""
        return max((value for (_, what), value in self.values.items() if what == GRADIENT), default=0.0)

    @property
    def largest(self) -> float:
        """What a budget bounds."""
        return max(self.residual, self.gradient)


class Calibration:
    """A step that can be evaluated with any tensors rounded to any bits.

    `tensors` are their names in the order of the graph, `roles` say which operand each is. `energies[name][bits]` is
    the vector of squared errors, in the order of `keys`, that rounding this tensor alone makes.
    """

    def __init__(self, step: TrainStep, passes: Sequence[Pass], states: Sequence[State] | None = None) -> None:
        from pintac.frontend.tracing import trace_step

        points = {term.name: _few(term, step.estimator.K) for term in step.terms()}
        traced, data = trace_step(step, points=points)
        graph, names = before_budget(_watched(traced), passes)
        self.graph = graph
        self.data = data
        self.terms = tuple(term.name for term in step.terms())
        self.nodes: dict[str, list[Node]] = {}
        for node in graph.of("quantize"):
            self.nodes.setdefault(names[node.name], []).append(node)
        self.tensors = tuple(self.nodes)
        self.roles = {name: role_of(name) for name in self.tensors}
        self.scalars = {name: scalar(0) for name, scalar in step.scalars().items()}
        self.states = tuple(states if states is not None else calibration_states(step))
        self.keys = tuple((state.name, what) for state in self.states for what in (*self.terms, GRADIENT))
        self._runs = [_Run(self, number, state) for number, state in enumerate(self.states)]
        self.energies = {name: self._energies(name) for name in self.tensors}

    def predicted(self, bits: Mapping[str, int]) -> Errors:
        """What the errors of an assignment (name -> bits) should be: the root of the sum of the tensors' energies."""
        total = np.sum([self.energies[name][bits[name]] for name in self.tensors], axis=0)
        return Errors(dict(zip(self.keys, map(float, np.sqrt(total)), strict=True)))

    def observed(self, bits: Mapping[str, int]) -> Errors:
        """The errors of an assignment, all tensors rounded at once and all else exact."""
        found: dict[tuple[str, str], float] = {}
        for run in self._runs:
            found |= run.errors(bits)
        return Errors({key: found[key] for key in self.keys})

    def on_machine(self, bits: Mapping[str, int]) -> Errors:
        """As `observed`, with the arithmetic of the machine, bit for bit."""
        found: dict[tuple[str, str], float] = {}
        for run in self._runs:
            found |= run.errors(bits, exact=True)
        return Errors({key: found[key] for key in self.keys})

    def _energies(self, name: str) -> dict[int, Array]:
        found: dict[int, Array] = {}
        for bits in MEASURED:
            errors: dict[tuple[str, str], float] = {}
            for run in self._runs:
                errors |= run.errors({name: bits})
            found[bits] = np.array([errors[key] ** 2 for key in self.keys])
        for bits in WIDTHS:
            if bits not in found:
                found[bits] = found[bits - 4] / 256.0
        return dict(sorted(found.items()))


def before_budget(graph: Graph, passes: Sequence[Pass]) -> tuple[Graph, dict[str, str]]:
    """A traced graph after the passes up to insert-smx, gradients in place of the optimizer, rows packed if they are to
    be; and what each quantize node makes. All tensors have 16 bits."""
    for number, pass_ in enumerate(passes):
        if isinstance(pass_, InsertSMX):
            wide = dataclasses.replace(
                pass_, weight=16, base=16, delta=16, grad=16, policy="roles", budget=0.05, objective="cycles", bits=""
            )
            inserted, names = wide.insert(graph)
            for later in passes[number:]:
                inserted = later.run(inserted) if isinstance(later, PackRows) else inserted
            return Canonicalize().run(inserted), names
        if not isinstance(pass_, ExpandOptimizer):
            graph = pass_.run(graph)
    raise AssertionError("asked for the bits of a pipeline without insert-smx")


def calibration_states(step: TrainStep, weights: Arrays | None = None) -> tuple[State, ...]:
    """The initial weights, and those after some steps of training with few evaluations.

    Any estimator with little variance leads to weights of the same kind, so the training has one of eight evaluations.
    """
    from pintac.frontend import DOUBLE, OrthonormalDirections, SampledStep

    estimator = step.estimator
    if estimator.K > 8:
        estimator = OrthonormalDirections(K=8, sigma=estimator.sigma)
    twin = SampledStep(
        dataclasses.replace(step, estimator=estimator),
        ExpandOperators().run,
        seed=SEED,
        weights=weights,
        dtype=DOUBLE,
    )
    first = twin.arrays()
    squares = []
    for _ in twin.steps(TRAINED):
        squares.append(sum(float((s.grad.double() ** 2).sum()) for s in twin.states.values() if s.grad is not None))
    recent = squares[TRAINED // 2 :]
    return State("initial", first), State("trained", twin.arrays(), float(np.sqrt(np.mean(recent))))


def _few(term: Term, evaluations: int) -> int:
    """The number of points that a term is measured on; a fixed set of points is taken whole."""
    if term.sampler.fixed_points is not None:
        return term.count
    return min(term.count, MOST_POINTS, max(2, ROWS // evaluations))


def _watched(graph: Graph) -> Graph:
    """The graph with its residuals and their summands as further outputs, which passes keep."""
    builder, new = continue_from(graph)
    for key, node in graph.outputs.items():
        builder.output(key, new[node])
        if key.startswith("residual:"):
            term = key.removeprefix("residual:")
            builder.output(_RESIDUAL + term, new[node])
            for number, summand in enumerate(_summands(node)):
                builder.output(f"{_SUMMAND}{term}:{number}", new[summand])
    return builder.finish()


def _summands(node: Node) -> list[Node]:
    """What a residual is the sum of, signs left out; adding a parameter belongs to the network."""
    if node.op in ("neg", "reshape", "broadcast"):
        return _summands(node.operands[0])
    if node.op in ("add", "sub") and all(operand.op != "state" for operand in node.operands):
        return [summand for operand in node.operands for summand in _summands(operand)]
    return [node]


class _Rounding(Evaluator):
    """Exact but for some tensors, which are rounded, and for erf, which NumPy has not."""

    def __init__(self, params: Mapping[str, float]) -> None:
        super().__init__("float64", params)
        self.functions = {**self.functions, "erf": lambda x: vmath.erf(np.asarray(x, np.float32)).astype(np.float64)}
        self.bits: Mapping[Node, int] = {}

    def value(self, node: Node, operands: Sequence[Value]) -> Value:
        if node.op == "quantize" and node in self.bits:
            assert isinstance(operands[0], np.ndarray)
            rounded = smx.dequantize(np.ascontiguousarray(operands[0], np.float32), self.bits[node])
            return rounded.astype(np.float64)
        return super().value(node, operands)


class _Run:
    """The step at one state: its exact values, and what changes when tensors are rounded."""

    def __init__(self, calibration: Calibration, number: int, state: State) -> None:
        self.calibration = calibration
        self.graph = calibration.graph
        self.state = state
        self.params = {"seed": SEED, "step": number, **calibration.scalars}
        self.feeds = {**calibration.data, **state.arrays}
        self.evaluator = _Rounding(self.params)
        self.values: dict[Node, Value] = {}
        self.evaluator.run(self.graph, self.feeds, lambda node, value: self.values.update({node: value}))
        self.gradients = [node for key, node in self.graph.outputs.items() if key.startswith("grad:")]
        self.scale = state.gradient or self._norm(self.values, {})

    def errors(self, bits: Mapping[str, int], exact: bool = False) -> dict[tuple[str, str], float]:
        nodes = self.calibration.nodes
        weights = {name: b for name, b in bits.items() if self.calibration.roles[name] == "weight"}
        rounded = self._machine(bits) if exact else self._changed({n: b for t, b in bits.items() for n in nodes[t]})
        reference = self._changed({n: b for t, b in weights.items() for n in nodes[t]})
        found = {}
        for term in self.calibration.terms:
            node = self.graph.outputs[_RESIDUAL + term]
            summands = [n for key, n in self.graph.outputs.items() if key.startswith(f"{_SUMMAND}{term}:")]
            scale = max(_rms(self.values[n]) for n in summands)
            difference = _array(rounded.get(node, self.values[node])) - _array(self.values[node])
            found[self.state.name, term] = _rms(difference) / scale if scale else 0.0
        found[self.state.name, GRADIENT] = self._norm(rounded, reference, difference=True) / (self.scale or 1.0)
        return found

    def _norm(self, values: Mapping[Node, Value], reference: Mapping[Node, Value], difference: bool = False) -> float:
        total = 0.0
        for node in self.gradients:
            value = _array(values.get(node, self.values[node]))
            if difference:
                value = value - _array(reference.get(node, self.values[node]))
            total += float((value**2).sum())
        return float(np.sqrt(total))

    def _changed(self, bits: Mapping[Node, int]) -> dict[Node, Value]:
        """The values that differ from the exact ones."""
        self.evaluator.bits = bits
        changed: dict[Node, Value] = {}
        with np.errstate(all="ignore"):
            for node in self.graph.nodes:
                if node in bits or any(operand in changed for operand in node.operands):
                    operands = [changed.get(operand, self.values[operand]) for operand in node.operands]
                    changed[node] = self.evaluator.value(node, operands)
        return changed

    def _machine(self, bits: Mapping[str, int]) -> dict[Node, Value]:
        """The outputs in the machine's arithmetic."""
        graph = with_bits(self.graph, {n: b for t, b in bits.items() for n in self.calibration.nodes[t]})
        results = Evaluator("smx", self.params).run(graph, self.feeds)
        return {node: results[key] for key, node in self.graph.outputs.items()}


def with_bits(graph: Graph, bits: Mapping[Node, int]) -> Graph:
    """The graph with other widths of some quantize nodes."""
    builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        operands = [new[operand] for operand in node.operands]
        attrs = {**node.attrs, "bits": bits[node]} if node in bits else node.attrs
        new[node] = builder.add_op(node.op, operands, attrs, loc=node.loc, name=node.name)
    for key, node in graph.outputs.items():
        builder.output(key, new[node])
    return builder.finish()


def _array(value: Value) -> Array:
    assert isinstance(value, np.ndarray)
    return value.astype(np.float64)


def _rms(value: Value) -> float:
    return float(np.sqrt(np.mean(_array(value) ** 2)))
