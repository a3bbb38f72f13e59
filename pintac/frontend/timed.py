"""Training steps as fast as torch takes them: what a host needs for the work that a program does on PINTA.

The graphs are those of `SampledStep` and `AutodiffStep`. What differs is what a measurement should not charge torch
for: random numbers are torch's own (the same count of uniforms and normals, not the same values), constants are made
once, the optimizer is fused. Three ways to run a step:

eager      operation by operation under torch's autograd
flat       recorded once with its gradients (`make_fx`), replayed operation by operation, without the autograd engine
compiled   the recorded step through torch.compile
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pintac.errors import UsageError, suggest
from pintac.frontend.autodiff import METHODS, operators_of
from pintac.frontend.interpret import run_graph
from pintac.frontend.problem import Term, TrainStep
from pintac.frontend.tracing import trace_step
from pintac.frontend.twin import Expand, chunk_of
from pintac.frontend.weights import Layout, initial_states
from pintac.ir import Builder, Graph, Node
from pintac.ir.graph import ancestors

SAMPLED, EXPLICIT = "sampled", "explicit"
MODES = ("eager", "flat", "compiled")


@dataclass(frozen=True)
class Arrangement:
    """How torch takes a step.

    method   "sampled" (the estimator), "explicit" (the estimator, gradients by the passes, without autograd), or a way
             of `AutodiffStep` to differentiate
    mode     one of `MODES`
    chunk    points at a time of terms with derivatives, so that activations stay in cache, or the largest number below
             that divides them; None: all at once
    device   "cpu" or "cuda"
    """

    method: str = SAMPLED
    mode: str = "eager"
    chunk: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        methods = (SAMPLED, EXPLICIT, *METHODS)
        for value, known in ((self.method, methods), (self.mode, MODES), (self.device, ("cpu", "cuda"))):
            if value not in known:
                raise UsageError(f"unknown arrangement {value!r}", hint=suggest(value, list(known)))
        if self.chunk is not None and self.chunk < 1:
            raise UsageError(f"expected a positive number of points at a time, got {self.chunk}")


class TimedStep:
    """Calling it takes one training step on fresh points.

    `passes` make sampled evaluations, "explicit" also `grad:<state>`.
    """

    def __init__(self, step: TrainStep, passes: Expand, how: Arrangement, seed: int = 0) -> None:
        self.how = how
        self._step, self._passes = step, passes
        self._layout = Layout.of(step.net, step.problem, step.location)
        self._generator = torch.Generator(device=how.device).manual_seed(seed)
        self.states = {
            name: torch.from_numpy(value.copy()).to(how.device).requires_grad_(True)
            for name, value in initial_states(step, seed).items()
        }
        self.optimizer = step.optimizer.in_torch(list(self.states.values()), fused=True)
        self._parts = [self._part(terms, chunk) for terms, chunk in self._groups()]

    def __call__(self) -> float:
        """One step; its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in self._parts:
            for _ in range(part.times):
                total += part.run(part.draw(self._generator), list(self.states.values()))
        self.optimizer.step()
        if self.how.device == "cuda":
            torch.cuda.synchronize()
        return total

    def _groups(self) -> list[tuple[list[Term], int | None]]:
        """Terms that are evaluated together, and the points at a time: those with derivatives alone, in chunks."""
        terms = self._step.terms()
        if self.how.chunk is None:
            return [(terms, None)]
        graph = trace_step(self._step, self._layout)[0]
        derived = [term for term in terms if _has_operators(graph, term)]
        plain = [term for term in terms if term not in derived]
        chunks = [_divisor(term.count, chunk_of(term, self.how.chunk)) for term in derived]
        return [
            *([(plain, None)] if plain else []),
            *(([term], chunk) for term, chunk in zip(derived, chunks, strict=True)),
        ]

    def _part(self, terms: Sequence[Term], chunk: int | None) -> _Part:
        counts = {term.name: chunk for term in terms} if chunk is not None else None
        times = 1
        if chunk is not None:
            times = terms[0].count // chunk
        graph, data = trace_step(self._step, self._layout, counts)
        if self.how.method in (SAMPLED, EXPLICIT):
            graph = self._passes(_of_terms(graph, terms))
        constants = {name: torch.from_numpy(value).to(self.how.device) for name, value in data.items()}
        return _Part(graph, list(terms), times, constants, list(self.states), self.how)


class _Part:
    """The loss of some terms at some of their points, `times` times a step, and its gradients."""

    def __init__(
        self,
        graph: Graph,
        terms: Sequence[Term],
        times: int,
        constants: dict[str, Tensor],
        names: Sequence[str],
        how: Arrangement,
    ) -> None:
        self.times = times
        self._graph, self._names, self._how, self._constants = graph, names, how, constants
        if how.method == EXPLICIT:
            self._keys = ["metric:loss", *(f"grad:{name}" for name in names)]
            self._scales = [1.0 / times] * len(self._keys)
        else:
            self._keys = [f"residual:{term.name}" for term in terms]
            self._scales = [
                term.weight_at(0) / (graph.outputs[key].shape[1] * term.count)
                for term, key in zip(terms, self._keys, strict=True)
            ]
        needed = ancestors(*(graph.outputs[key] for key in self._keys))
        self._random = [node for node in graph.of("random") if node in needed]
        self._known = {node: constant_of(node).to(how.device) for node in graph.of("const") if node in needed}
        self._recorded: Callable[[list[Tensor], list[Tensor]], list[Tensor]] | None = None

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Fresh random numbers."""
        device = self._how.device
        return [
            (torch.rand if node.attrs["kind"] == "uniform" else torch.randn)(
                node.shape, generator=generator, device=device
            )
            for node in self._random
        ]

    def run(self, random: list[Tensor], states: list[Tensor]) -> float:
        """Adds the gradients to those of the states; the loss."""
        if self._how.mode == "eager" and self._how.method != EXPLICIT:
            loss = self._loss(random, states)
            loss.backward()
            return loss.item()
        if self._recorded is None:
            eager = self._how.mode == "eager"
            self._recorded = self._loss_and_gradients if eager else self._record(random, states)
        with torch.no_grad():
            loss, *gradients = self._recorded(random, states)
            for state, gradient in zip(states, gradients, strict=True):
                if state.grad is None:
                    state.grad = gradient
                else:
                    state.grad += gradient
        return loss.item()

    def _loss(self, random: list[Tensor], states: list[Tensor]) -> Tensor:
        found = self._outputs(random, states)
        return torch.stack([scale * (r**2).sum() for r, scale in zip(found, self._scales, strict=True)]).sum()

    def _loss_and_gradients(self, random: list[Tensor], states: list[Tensor]) -> list[Tensor]:
        if self._how.method == EXPLICIT:
            found = self._outputs(random, states)
            return [scale * value for value, scale in zip(found, self._scales, strict=True)]
        leaves = [state.detach().requires_grad_(True) for state in states]
        with torch.enable_grad():
            loss = self._loss(random, leaves)
        return [loss.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]

    def _outputs(self, random: list[Tensor], states: list[Tensor]) -> list[Tensor]:
        known = {**self._known, **dict(zip(self._random, random, strict=True))}
        feeds = {**self._constants, **dict(zip(self._names, states, strict=True))}
        sampled = self._how.method in (SAMPLED, EXPLICIT)
        operators = None if sampled else operators_of(self._how.method, self._graph)
        found = run_graph(
            self._graph, feeds, {}, torch.float32, self._keys,
            data=lambda node: self._constants[str(node.attrs["name"])][: node.shape[0]],
            operators=operators, known=known,
        )  # fmt: skip
        return [found[key] for key in self._keys]

    def _record(
        self, random: list[Tensor], states: list[Tensor]
    ) -> Callable[[list[Tensor], list[Tensor]], list[Tensor]]:
        from torch.fx.experimental.proxy_tensor import make_fx

        def step(random: list[Tensor], states: list[Tensor]) -> list[Tensor]:
            return self._loss_and_gradients(random, states)

        recorded = make_fx(step)(random, states)
        recorded.graph.eliminate_dead_code()
        recorded.recompile()
        if self._how.mode == "flat":
            return recorded
        return torch.compile(recorded, fullgraph=True, dynamic=False)


def _of_terms(graph: Graph, terms: Sequence[Term]) -> Graph:
    """The graph of some terms alone."""
    if len(graph.attrs["terms"]) == len(terms):
        return graph
    names = {term.name for term in terms}
    builder = Builder(graph.name, {**graph.attrs, "terms": [t for t in graph.attrs["terms"] if t["name"] in names]})
    new: dict[Node, Node] = {}
    kept = {key: node for key, node in graph.outputs.items() if key.removeprefix("residual:") in names}
    needed = ancestors(*kept.values())
    for node in graph.nodes:
        if node in needed or node.op == "state":
            new[node] = builder.copy(node, [new[operand] for operand in node.operands])
    for key, node in kept.items():
        builder.output(key, new[node])
    return builder.finish()


def constant_of(node: Node) -> Tensor:
    """The value of a `const`."""
    values = torch.tensor(node.attrs["values"], dtype=torch.float32)
    return values[0].expand(node.shape) if values.numel() == 1 else values.reshape(node.shape)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is not above `most`."""
    return next(size for size in range(min(count, most), 0, -1) if count % size == 0)


def _has_operators(graph: Graph, term: Term) -> bool:
    below = ancestors(graph.outputs[f"residual:{term.name}"])
    return any(node in below for node in graph.of("gradient", "laplacian"))


# ---------------------------------------------------------------------------------------------- measurements


def seconds_of(step: Callable[[], object], budget: float, most: int = 200, warm: int = 2) -> list[float]:
    """Seconds of steps after `warm` others, for about `budget` seconds: at least one, at most `most`."""
    for _ in range(warm):
        step()
    found: list[float] = []
    began = time.perf_counter()
    while not found or (len(found) < most and time.perf_counter() - began < budget):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def peak_bytes(step: Callable[[], object], device: str = "cpu") -> int:
    """The most memory that torch's allocator held for one step beyond what it held before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return int(torch.cuda.max_memory_allocated() - before)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    assert watched.profiler is not None
    results = watched.profiler.kineto_results
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def set_threads(count: int) -> None:
    """Threads that torch uses within an operation."""
    torch.set_num_threads(count)


def torch_version() -> str:
    """The version, with the GPU if there is one."""
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    return f"{torch.__version__}{gpu}"


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()
