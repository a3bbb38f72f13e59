"""The float twin: the same training step in torch, unquantised (NUMERICS 9).

Same first weights, random words, estimator and schedule as the compiled step; the loss is the *unsplit* sampled loss
and its gradients are torch autograd's. In float64 it is the oracle for the passes' gradients, in float32 the accuracy
that quantised results stand beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pintac.errors import ModelError
from pintac.frontend.interpret import Operators, draw, run_graph
from pintac.frontend.problem import Term, TrainStep
from pintac.frontend.samplers import POINTS
from pintac.frontend.tracing import trace_step
from pintac.frontend.weights import Arrays, Layout, initial_states
from pintac.ir import Graph, Node, ancestors

DOUBLE = torch.float64
"""For rooms that have no torch."""

Expand = Callable[[Graph], Graph]
"""Makes sampled evaluations of gradient and laplacian: the pass `expand-operators`."""

Progress = Callable[[int, float], object]
"""Called after each step with its number and loss."""


class SampledStep:
    """The training step of `step` in torch: the loss and gradients of any step number, and training.

    `expand` turns derivatives into sampled evaluations. `chunk` is the largest number of points evaluated at once
    (gradients are accumulated; the loss is additive over points); None evaluates every term whole. A fixed set of
    points is evaluated whole where it has no derivatives, and where its residual holds a value for each. `states` and
    the gradients are keyed and laid out like the IR's.
    """

    def __init__(
        self,
        step: TrainStep,
        expand: Expand,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.step = step
        self.seed = seed
        self.dtype = dtype
        self.terms = step.terms()
        self.layout = Layout.of(step.net, step.problem, step.location)
        self.chunk = chunk
        self.states: dict[str, Tensor] = {
            name: torch.from_numpy(value.copy()).to(dtype).requires_grad_(True)
            for name, value in initial_states(step, seed, weights).items()
        }
        self._expand = expand
        self._whole: tuple[Graph, Arrays, Graph] | None = None
        self._chunks: dict[str, int] = {}
        self._parts: dict[tuple[str, int], tuple[Graph, Arrays]] = {}
        self._drawn: dict[tuple[object, ...], np.ndarray] = {}
        self._drawn_step = -1
        self.term_losses: dict[str, float] = {}
        """Of the last `loss_and_gradients`, weighted."""

    def trace(self) -> None:
        """Trace everything that a step evaluates, for whatever is wrong to be said before the first one."""
        for term in self.terms:
            for start, stop in self._slices(term):
                if stop - start == term.count:
                    self._all()
                else:
                    self._some(term, stop - start)

    # ---- the loss

    def loss(self, t: int) -> Tensor:
        """The loss of step t with its autograd graph, all points at once."""
        return torch.stack([self._part(term, t, _Rows(0, term.count, term.count)) for term in self.terms]).sum()

    def residuals(self, t: int) -> dict[str, Tensor]:
        """The residuals of step t by term: [N, m]."""
        return {term.name: self._residual(term, t, _Rows(0, term.count, term.count)) for term in self.terms}

    def loss_and_gradients(self, t: int) -> tuple[float, dict[str, Tensor]]:
        """The loss of step t and its gradients by state, chunk by chunk."""
        gradients = {name: torch.zeros_like(state) for name, state in self.states.items()}
        total = 0.0
        self.term_losses = {term.name: 0.0 for term in self.terms}
        for term in self.terms:
            for start, stop in self._slices(term):
                part = self._part(term, t, _Rows(start, stop, term.count))
                found = torch.autograd.grad(part, list(self.states.values()), allow_unused=True)
                total += float(part.detach())
                self.term_losses[term.name] += float(part.detach())
                for name, gradient in zip(self.states, found, strict=True):
                    if gradient is not None:
                        gradients[name] += gradient
        return total, gradients

    def _slices(self, term: Term) -> list[tuple[int, int]]:
        """(start, stop) of the points of what is evaluated at once."""
        size = self._chunk(term)
        return [(start, min(start + size, term.count)) for start in range(0, term.count, size)]

    def _part(self, term: Term, t: int, rows: _Rows) -> Tensor:
        residual = self._residual(term, t, rows)
        return term.weight_at(t) * (residual**2).sum() / (rows.total * residual.shape[1])

    def _residual(self, term: Term, t: int, rows: _Rows) -> Tensor:
        graph, data = self._all() if rows.whole else self._some(term, rows.stop - rows.start)
        params = {"seed": self.seed, "step": t}

        def random(node: Node) -> Tensor:
            return rows.cut(self._draw(node, t, (rows.total, *node.shape[1:])))

        def constants(node: Node) -> Tensor:
            name = str(node.attrs["name"])
            values = data[name]
            return rows.cut(values) if name.startswith(POINTS) else torch.from_numpy(values)

        key = f"residual:{term.name}"
        operators = self._operators(graph)
        return run_graph(graph, self.states, params, self.dtype, [key], random, constants, operators)[key]

    def _operators(self, graph: Graph) -> Operators | None:
        """What derivatives mean that `expand` has left; here it leaves none."""
        return None

    def _draw(self, node: Node, t: int, shape: tuple[int, ...]) -> np.ndarray:
        """The random numbers of a whole term at step t, drawn once for all its chunks."""
        if self._drawn_step != t:
            self._drawn.clear()
            self._drawn_step = t
        key = (node.attrs["kind"], node.attrs["stream"], node.attrs["term"], shape)
        if key not in self._drawn:
            self._drawn[key] = draw(node, self.seed, t, shape)
        return self._drawn[key]

    def _all(self) -> tuple[Graph, Arrays]:
        """The expanded graph of all terms, and its constant arrays."""
        return self._traced()[0], self._traced()[1]

    def _traced(self) -> tuple[Graph, Arrays, Graph]:
        if self._whole is None:
            graph, data = trace_step(self.step, self.layout)
            self._whole = self._expand(graph), data, graph
        return self._whole

    def _chunk(self, term: Term) -> int:
        """How many points of a term are evaluated at once."""
        size = chunk_of(term, self.chunk)
        if self.chunk is None or term.sampler.fixed_points is None or term.count <= self.chunk:
            return size
        if term.name not in self._chunks:
            self._chunks[term.name] = self.chunk if self._can_be_cut(term, self.chunk) else size
        return self._chunks[term.name]

    def _can_be_cut(self, term: Term, size: int) -> bool:
        """Whether a fixed set of points has derivatives, and a residual that takes some of its points alone."""
        graph = self._traced()[2]
        below = ancestors(graph.outputs[f"residual:{term.name}"])
        if not any(node in below for node in graph.of("gradient", "laplacian")):
            return False
        try:
            for points in {size, term.count % size or size}:
                self._some(term, points)
        except ModelError:  # rows of the user's own
            return False
        return True

    def _some(self, term: Term, points: int) -> tuple[Graph, Arrays]:
        """The expanded graph of one term at `points` of its points, and its constant arrays, those of all points."""
        key = term.name, points
        if key not in self._parts:
            _, data, traced = self._traced()
            estimator = traced.attrs["estimator"]
            whole, _ = trace_step(self.step, self.layout, only=term.name, estimator=estimator)
            counts = {term.name: points}
            part, own = trace_step(self.step, self.layout, counts, only=term.name, estimator=estimator)
            _refuse_counted_constants(part, whole)
            drawn = {name: values for name, values in data.items() if name.startswith(POINTS)}
            self._parts[key] = self._expand(part), {**own, **drawn}
        return self._parts[key]

    # ---- training

    def train(self, steps: int, progress: Progress | None = None, start: int = 0) -> list[float]:
        """Runs `steps` steps from step number `start`; returns their losses. torch's optimizer, the step's schedule."""
        losses: list[float] = []
        for t, loss in enumerate(self.steps(steps, start), start):
            losses.append(loss)
            if progress is not None:
                progress(t, loss)
        return losses

    def steps(self, steps: int, start: int = 0) -> Iterator[float]:
        """As `train`, one step each time the next loss is asked for."""
        optimizer = self.step.optimizer.in_torch(list(self.states.values()))
        for t in range(start, start + steps):
            for group in optimizer.param_groups:
                group["lr"] = self.step.optimizer.rate(t)
            loss, gradients = self.loss_and_gradients(t)
            for name, state in self.states.items():
                state.grad = gradients[name]
            optimizer.step()
            yield loss

    def arrays(self) -> Arrays:
        """The states now, float32, in the IR's layout."""
        return {name: state.detach().to(torch.float32).numpy().copy() for name, state in self.states.items()}

    def weights(self) -> Arrays:
        """The states now in torch's names and layout."""
        return self.layout.export(self.arrays())


def chunk_of(term: Term, most: int | None) -> int:
    """How many points of a term are evaluated at once where at most `most` shall be: of a fixed set all."""
    whole = most is None or term.sampler.fixed_points is not None
    return term.count if whole else min(most or 1, term.count)


def _refuse_counted_constants(part: Graph, whole: Graph) -> None:
    """Constants made for a number of points (not a sampler's) are not those of the whole in a trace of fewer points."""
    for node in whole.of("const", "data"):
        if str(node.attrs.get("name", "")).startswith(POINTS) or len(node.attrs.get("values", (0, 0))) == 1:  # type: ignore[arg-type]
            continue
        if part.node(node.name).shape != node.shape:
            raise ModelError(
                f"a constant has one row a point {list(node.shape)}: the term cannot be evaluated in chunks",
                location=node.loc,
                hint="chunk=None evaluates all points at once",
            )


@dataclass(frozen=True)
class _Rows:
    """The points start..stop of the `total` of a term: random tensors are drawn whole, then cut."""

    start: int
    stop: int
    total: int

    @property
    def whole(self) -> bool:
        return self.stop - self.start == self.total

    def cut(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[self.start : self.stop])
