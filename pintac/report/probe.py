"""What a training step does to its numbers: the first points of the step, evaluated on the IR and counted.

A probe is the step's graph with its point sets cut to their first few points. Random numbers are numbered row-major
with the points first (NUMERICS 8) and blocks never span points of the perturbed path (NUMERICS 4), so those rows and
their gradients have the very bits that the machine has for them; only sums over points are shorter.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pintac import smx
from pintac.backend.grouping.axes import Axes
from pintac.ir import Builder, Graph, Location, Node, ancestors
from pintac.ir.attrs import AttrValue
from pintac.ir.evaluate import Array, BlockValue, Evaluator, SmxValue, Value
from pintac.ir.text import parse_graph, print_graph
from pintac.passes.dataflow import descendants, without_dead
from pintac.report.purpose import NO_LAYER, Purpose
from pintac.report.rank import Followed, factored, followed
from pintac.rng import STREAM_DELTA

POINTS = 4
"""Points of a set that are evaluated at least: a row of blocks of the base path."""

EVALUATIONS = 2048
"""Evaluations of the network that a probe makes at most, unless that is fewer than those of `POINTS` points."""

REFERENCE_BITS = 16
"""Bits of the perturbed path that its estimates are compared with."""

_SHAPED = ("random", "data", "const", "reshape", "broadcast")
_LOWEST = smx.E_MIN + smx.EXP_BIAS
_HIGHEST = smx.E_MAX + smx.EXP_BIAS


def to_text(graph: Graph) -> str:
    """A graph as a program's metadata hold it."""
    return base64.b64encode(zlib.compress(print_graph(graph).encode(), 9)).decode()


def from_text(text: str) -> Graph:
    """Inverse of `to_text`."""
    return parse_graph(zlib.decompress(base64.b64decode(text)).decode())


def small(graph: Graph, points: int | None = None) -> Graph:
    """The step with the first `points` points of each set (default: `enough_points`).

    Its outputs are the metrics and the quantised tensors; what only optimizer states depend on is gone. Raises IRError
    for a graph whose sets of points cannot be cut.
    """
    points = points or enough_points(graph)
    axes = Axes(graph)
    builder = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        operands = [new[operand] for operand in node.operands]
        shape = tuple(
            min(size, points) if tag is not None and tag.kind == "points" else size
            for size, tag in zip(node.shape, axes.tags(node), strict=True)
        )
        if node.op in _SHAPED and shape != node.shape:
            changes: dict[str, AttrValue] = {"shape": shape}
            values = node.attrs.get("values")
            if isinstance(values, tuple) and len(values) > 1:
                cut = np.array(values).reshape(node.shape)[tuple(slice(size) for size in shape)]
                changes["values"] = tuple(map(float, cut.reshape(-1)))
            new[node] = builder.copy(node, operands, **changes)
        else:
            new[node] = builder.copy(node, operands)
    for key, node in graph.outputs.items():
        if key.startswith("metric:"):
            builder.output(key, new[node])
    for node in graph.of("quantize"):
        builder.output(f"code:{node.name}", new[node])
    return without_dead(builder.finish())


def enough_points(graph: Graph) -> int:
    """Points of a probe: a multiple of four, more where a point has few evaluations."""
    rows = [n.shape[1] * n.shape[2] for n in graph.of("matmul") if n.type.rank == 4]
    return max(POINTS, EVALUATIONS // max(rows, default=1) // POINTS * POINTS)


@dataclass(frozen=True)
class Place:
    """Where in the user's network something is."""

    layer: str
    phase: str
    loc: Location

    def __str__(self) -> str:
        where = "" if self.layer == NO_LAYER else f"layer {self.layer}, "
        return f"{where}{self.phase}"


@dataclass
class Counts:
    """Elements and blocks of one quantised tensor.

    elements  all of them; of a gradient those in rows that are not zero (a derivative may ignore whole evaluations)
    lost      elements of which quantisation leaves nothing: not 0 in fp32, a zero code (naive: the code of the base)
    zeros     zero elements in fp32
    under     blocks whose exponent the format's lowest one replaces, though not all zero
    over      blocks clamped at the highest exponent
    nonfinite blocks with an infinity or a NaN
    """

    node: Node
    place: Place
    role: str
    elements: int = 0
    lost: int = 0
    zeros: int = 0
    blocks: int = 0
    under: int = 0
    over: int = 0
    nonfinite: int = 0

    @property
    def lost_share(self) -> float:
        """Lost among the elements that are not zero."""
        return self.lost / max(1, self.elements - self.zeros)


@dataclass(frozen=True)
class Noise:
    """What a residual with derivatives is worth, as rms over points.

    rounding  its change when the perturbed path has 16 bits
    sampling  its change, over sqrt 2, when the perturbations are drawn anew (at 16 bits)
    largest   the largest of the terms that it is the sum of (at 16 bits)
    """

    place: Place
    rounding: float
    sampling: float
    largest: float


@dataclass
class Sample:
    """One look at a step."""

    step: int
    counts: list[Counts] = field(default_factory=list)
    noise: list[Noise] = field(default_factory=list)
    ranks: list[tuple[Place, Followed]] = field(default_factory=list)


class Probe:
    """A step that `small` has cut and what its parts are for; `data` are the arrays that the whole step stores."""

    def __init__(self, graph: Graph, purposes: Mapping[str, Purpose], data: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.purposes = purposes
        self.data = {
            str(node.attrs["name"]): data[str(node.attrs["name"])][tuple(slice(n) for n in node.shape)]
            for node in self.graph.of("data")
        }
        self.roles = _roles(self.graph)
        values = [node for key, node in self.graph.outputs.items() if key.startswith("metric:")]
        self.forward = ancestors(*values)
        self.codes = [n for n in self.graph.of("quantize") if n in self.roles]
        self.perturbed = {n for n in self.codes if self.roles[n][0] == "delta" and n in self.forward}
        self.roots = _perturbed_points(self.graph, self.perturbed)
        self.residuals = _residuals(self.graph, self.perturbed)
        self.factored = factored(self.graph, purposes)
        self.addends = {node: _addends(node) for node in self.residuals}
        drawn = [n for n in self.graph.of("random") if n.attrs["stream"] == STREAM_DELTA]
        # directions need not be drawn: along one axis there is only one
        self.repeated = descendants(self.graph, [*drawn, *self.perturbed]) & ancestors(*self.residuals, *self.perturbed)
        self.wanted = {*self.residuals, *(a for addends in self.addends.values() for a in addends)}

    def sample(self, step: int, params: Mapping[str, float], states: Mapping[str, np.ndarray]) -> Sample:
        """Counts of the step that these weights are about to make."""
        sample = Sample(step)
        kept = {o for n in self.repeated for o in n.operands if o not in self.repeated} | self.wanted
        codes: dict[Node, Value] = {}
        keep: dict[Node, Value] = {}
        factors = {n for uses in self.factored.values() for use in uses for n in (use.x, use.b, use.a, use.g)}
        decoded: dict[Node, Array] = {}
        for node, value, operands in self._run(Evaluator("smx", params), states):
            if node in self.roles:
                counts = self._count(node, value, np.asarray(operands[0]))
                sample.counts.append(counts)
                if node in self.perturbed and self.roots:
                    codes[node] = value
            if node in kept:
                keep[node] = value
            if node in factors:
                decoded[node] = np.asarray(_decoded(value), np.float64)
        for layer, uses in self.factored.items():
            if len(decoded[uses[0].x]) > 1 and all(np.isfinite(decoded[n]).all() for n in factors):
                place = Place(layer, "weight gradient", uses[0].x.loc)
                sample.ranks.append((place, followed(uses, decoded)))
        if self.roots:
            for node, value, _ in self._run(_Unperturbed(params, self.roots), states, keep):
                if node in codes:
                    counts = next(c for c in sample.counts if c.node is node)
                    counts.lost = int((_decoded(value) == _decoded(codes[node])).sum())
                    counts.zeros = 0
        if self.residuals:
            fine = {n for n in self.perturbed if n.type.bits < REFERENCE_BITS}
            measured: list[dict[Node, Array]] = []
            for evaluator in (_Finer(params, fine), _Finer(params, fine, redraw=True)):
                measured.append({})
                for node, value, _ in self._run(evaluator, states, keep):
                    if node in self.wanted:
                        measured[-1][node] = np.asarray(value, np.float64)
            sample.noise += [self._noise(node, keep, *measured) for node in self.residuals]
        return sample

    def _noise(
        self, node: Node, coarse: Mapping[Node, Value], fine: Mapping[Node, Array], redrawn: Mapping[Node, Array]
    ) -> Noise:
        rounding = _rms(np.asarray(coarse[node], np.float64) - fine[node])
        sampling = _rms(redrawn[node] - fine[node]) / math.sqrt(2.0)
        largest = max(_rms(fine[a] if a in fine else np.asarray(coarse[a], np.float64)) for a in self.addends[node])
        return Noise(self.place(node), rounding, sampling, largest)

    def first_nonfinite(
        self, params: Mapping[str, float], states: Mapping[str, np.ndarray]
    ) -> tuple[Node, Place] | None:
        """The first op, in the order of the step, whose value is not finite; None if all of these points' are."""
        for node, value, _ in self._run(Evaluator("smx", params), states):
            if not np.isfinite(_decoded(value)).all():
                return node, self.place(node)
        return None

    def place(self, node: Node) -> Place:
        """Layer, phase and source line of an op; a quantised tensor is of the layer whose product reads it."""
        layer, phase = self._purpose(node)
        if node.op == "quantize" and layer == NO_LAYER:
            layer = next((self._purpose(user)[0] for user in self.graph.users(node)), NO_LAYER)
        return Place(layer, phase, node.loc)

    def _purpose(self, node: Node) -> Purpose:
        return self.purposes.get(node.name, (NO_LAYER, "residual"))

    def _count(self, node: Node, value: Value, x: Array) -> Counts:
        role = self.roles[node][0]
        counted = _rows_reached(x) if role == "grad" else x
        zeros = int((counted == 0).sum())
        counts = Counts(node, self.place(node), role, elements=counted.size, zeros=zeros)
        decoded = _decoded(value)
        counts.lost = int(((decoded == 0) & (x != 0)).sum())
        code = _codes(value, x)
        counts.blocks = code.size
        counts.nonfinite = int((code == smx.NONFINITE_CODE).sum())
        for at, name in ((_LOWEST, "under"), (_HIGHEST, "over")):
            if (code == at).any():
                setattr(counts, name, self._clamped(x, node.type.bits, node.type.block, at))
        return counts

    @staticmethod
    def _clamped(x: Array, bits: int, block: tuple[int, int], at: int) -> int:
        """Blocks that are not zero and wanted an exponent beyond the format's."""
        largest = _block_maxima(x, block)
        wanted = np.frexp(largest)[1] - 1 - (bits - 2) + smx.EXP_BIAS
        found = wanted < at if at == _LOWEST else wanted > at
        return int((found & (largest > 0) & np.isfinite(largest)).sum())

    def _run(
        self, evaluator: Evaluator, states: Mapping[str, np.ndarray], known: Mapping[Node, Value] | None = None
    ) -> Iterator[tuple[Node, Value, list[Value]]]:
        """Each op with its value and operands. With `known` values only the perturbed path is computed."""
        graph = self.graph
        evaluator.feeds = {**states, **self.data}
        nodes = graph.nodes if known is None else [n for n in graph.nodes if n in self.repeated]
        left = dict.fromkeys(graph.nodes, 0)
        for node in nodes:
            for operand in node.operands:
                left[operand] += 1
        values: dict[Node, Value] = {} if known is None else {n: v for n, v in known.items() if n not in self.repeated}
        with np.errstate(all="ignore"):
            for node in nodes:
                operands = [values[operand] for operand in node.operands]
                values[node] = evaluator.value(node, operands)
                yield node, values[node], operands
                for operand in node.operands:
                    left[operand] -= 1
                    if not left[operand]:
                        values.pop(operand, None)


class _Unperturbed(Evaluator):
    """The perturbed path without its perturbation."""

    def __init__(self, params: Mapping[str, float], roots: Mapping[Node, int]) -> None:
        super().__init__("smx", params)
        self.roots = roots

    def value(self, node: Node, operands: list[Value]) -> Value:  # type: ignore[override]
        if node in self.roots:
            return np.array(np.broadcast_to(np.asarray(operands[self.roots[node]]), node.shape))
        return super().value(node, operands)


class _Finer(Evaluator):
    """The perturbed path with more bits; with `redraw` also with other perturbations."""

    def __init__(self, params: Mapping[str, float], nodes: set[Node], redraw: bool = False) -> None:
        super().__init__("smx", params)
        self.nodes = nodes
        self.redraw = redraw

    def value(self, node: Node, operands: list[Value]) -> Value:  # type: ignore[override]
        if node in self.nodes and node.type.block == (smx.BLOCK, smx.BLOCK):
            mant, code, _ = smx.quantize(np.asarray(operands[0], np.float32), REFERENCE_BITS)
            return SmxValue(mant, code, node.shape)
        if self.redraw and node.op == "random":
            own = self.params["seed"]
            self.params["seed"] = int(own) ^ 0x5EED
            value = super().value(node, operands)
            self.params["seed"] = own
            return value
        return super().value(node, operands)


def _roles(graph: Graph) -> dict[Node, tuple[str, Node]]:
    """What each quantised operand of a product is (weight, base, delta, grad), and the product."""
    found: dict[Node, tuple[str, Node]] = {}
    for node in graph.of("matmul", "matmul_tn"):
        for operand, name in zip(node.operands, ("lhs_role", "rhs_role"), strict=False):
            if operand.op == "quantize":
                found.setdefault(operand, (str(node.attrs[name]), node))
    return found


def _perturbed_points(graph: Graph, perturbed: set[Node]) -> dict[Node, int]:
    """Where naive quantisation adds a perturbation to the points: node -> which operand is the point."""
    drawn = descendants(graph, [n for n in graph.of("random") if n.attrs["stream"] == STREAM_DELTA])
    before = ancestors(*perturbed)
    roots: dict[Node, int] = {}
    for node in graph.nodes:
        if node.op == "add" and node in before and node.type.rank == 4 and node in drawn:
            apart = [operand not in drawn and operand.type.rank == 4 for operand in node.operands]
            first = not any(a in roots or a in descendants(graph, roots) for a in node.operands)
            if sum(apart) == 1 and first and _from_points(node.operands[apart.index(True)]):
                roots[node] = apart.index(True)
    return roots


def _from_points(node: Node) -> bool:
    """Whether a value is points, [N, 1, 1, d]: made from random numbers or stored ones, without any weight."""
    pending, seen = [node], set()
    drawn = False
    while pending:
        at = pending.pop()
        if at in seen:
            continue
        seen.add(at)
        if at.op in ("matmul", "matmul_tn", "state"):
            return False
        drawn = drawn or at.op in ("random", "data", "input")
        pending += at.operands
    return drawn


def _residuals(graph: Graph, perturbed: set[Node]) -> list[Node]:
    """The residuals r of which the loss takes r^2, those that perturbed evaluations are part of."""
    behind = descendants(graph, perturbed)
    before = ancestors(*(node for key, node in graph.outputs.items() if key.startswith("metric:loss:")))
    found = dict.fromkeys(
        node.operands[0]
        for node in graph.of("mul")
        if node in before and node.operands[0] is node.operands[1] and node.operands[0] in behind
        and any(u.op == "sum" and not u.shape for u in graph.users(node))
    )
    return list(found)


def _addends(node: Node) -> list[Node]:
    """The terms of the equation: what a residual is the sum of."""
    if node.op in ("add", "sub", "neg", "reshape"):
        return [addend for operand in node.operands for addend in _addends(operand)]
    return [node]


def _rms(x: Array) -> float:
    return math.sqrt(float(np.mean(x**2)))


def _rows_reached(x: Array) -> Array:
    """[rows, columns]: the rows that are not all zero; all of them if every one is."""
    rows = x.reshape(-1, x.shape[-1])
    reached = rows[(rows != 0).any(-1)]
    return reached if len(reached) else rows


def _decoded(value: Value) -> Array:
    return value if isinstance(value, np.ndarray) else value.decode()


def _codes(value: Value, x: Array) -> Array:
    if isinstance(value, SmxValue):
        return value.code
    assert isinstance(value, BlockValue)
    largest = _block_maxima(x, value.block)
    wanted = np.clip(np.frexp(largest)[1] - 1 - (value.bits - 2), smx.E_MIN, smx.E_MAX) + smx.EXP_BIAS
    return np.where(np.isfinite(largest), np.where(largest > 0, wanted, _LOWEST), smx.NONFINITE_CODE)


def _block_maxima(x: Array, block: tuple[int, int]) -> Array:
    """The largest magnitude of each block, in double precision."""
    pad = [(0, 0)] * (x.ndim - 2) + [(0, -size % extent) for size, extent in zip(x.shape[-2:], block, strict=True)]
    x = np.pad(np.abs(x), pad)
    rows, columns = x.shape[-2] // block[0], x.shape[-1] // block[1]
    return x.reshape(*x.shape[:-2], rows, block[0], columns, block[1]).max(axis=(-3, -1)).astype(np.float64)


