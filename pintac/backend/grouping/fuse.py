"""Fusion: the element-wise work of a sweep as few VPU kernels.

Every IR op becomes micro-operations one to one (a normal random number eight), so a kernel computes the bits the
evaluator computes. Kernels are merged greedily along their edges, then between siblings, within what an instruction
can hold: micro-ops, sources, immediates, two sinks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pintac import isa
from pintac.backend.grouping.axes import PackedRows
from pintac.backend.grouping.kinds import (
    BINARY,
    COMPARE,
    CONTRACTIONS,
    COPIES,
    ELEMENTWISE,
    SINKS,
    UNARY,
    VIEWS,
    is_splat,
    no_rule,
    root,
)
from pintac.backend.tiles.tile import Arg, Kernel, KernelSink
from pintac.ir import Node
from pintac.ir.attrs import integer, ints
from pintac.ir.ops import REDUCTIONS
from pintac.isa import MicroOp, Sink

Key = tuple[object, ...]
"""What a kernel iterates over: tile extents of leading axes, rows and columns."""

MAX_STREAMS = 3


@dataclass(eq=False)
class Micro:
    """One micro-operation; `node` is the IR value it makes (a stand-in for values inside a random number)."""

    op: MicroOp
    args: tuple[Operand, ...]
    node: Node
    key: Key


@dataclass(frozen=True)
class Value:
    """A tensor in memory: a source."""

    node: Node


@dataclass(frozen=True)
class Index:
    """Element numbers of a random tensor."""

    node: Node


@dataclass(frozen=True)
class Imm:
    bits: int


@dataclass(frozen=True)
class Scalar:
    name: str


Operand = Micro | Value | Index | Imm | Scalar


@dataclass(eq=False)
class Reduce:
    """A sink: a quantise or a reduction of `arg`."""

    node: Node
    arg: Operand
    key: Key


@dataclass(eq=False)
class KernelStep:
    """A fused kernel: its sources are IR values or element numbers, its sinks IR values."""

    kernel: Kernel
    shape_of: Node  # the value whose tile shape it iterates over
    sources: tuple[Value | Index, ...]
    targets: tuple[Node, ...]

    @property
    def loc_node(self) -> Node:
        return self.targets[0]


@dataclass(eq=False)
class NodeStep:
    """A contraction or a copy (concat, pad): one IR op."""

    node: Node


Step = KernelStep | NodeStep


@dataclass
class _Group:
    members: list[Micro | Reduce | Node] = field(default_factory=list)
    order: int = 0


class Fuser:
    """Fuses the nodes of one sweep.

    `key_of(node)` is the iteration key of a value; `external(node)` says whether a value is needed outside the sweep.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        key_of: Callable[[Node], Key],
        external: Callable[[Node], bool],
        max_micro_ops: int,
    ) -> None:
        self.nodes = list(nodes)
        self.inside = set(nodes)
        self.key_of = key_of
        self.external = external
        self.max_ops = max_micro_ops
        self.micro: dict[Node, Micro] = {}
        self.items: list[Micro | Reduce | Node] = []
        self.standins: dict[Node, Node] = {}

    # ---- from IR nodes to items

    def steps(self) -> list[Step]:
        """Kernels and other steps in an order that respects every dependency."""
        for node in self.nodes:
            if node.op in ELEMENTWISE:
                self._elementwise(node)
            elif node.op in SINKS:
                self.items.append(
                    Reduce(
                        node,
                        self._resolve(node.operands[0], self.key_of(node.operands[0])),
                        self.key_of(node.operands[0]),
                    )
                )
            elif node.op in CONTRACTIONS or node.op in COPIES:
                self.items.append(node)
            elif node.op not in VIEWS:
                raise no_rule(node)
        return self._emit(self._merge())

    def _elementwise(self, node: Node) -> None:
        key = self.key_of(node)
        if node.op == "random":
            self._random(node, key)
            return
        if node.op == "compare":
            op = COMPARE[str(node.attrs["kind"])]
        else:
            op = BINARY.get(node.op) or UNARY[node.op]
        self._add(op, tuple(self._resolve(o, key) for o in node.operands), node, key)

    def _add(self, op: MicroOp, args: tuple[Operand, ...], node: Node, key: Key) -> Micro:
        micro = Micro(op, args, node, key)
        self.micro[node] = micro
        self.items.append(micro)
        return micro

    def _random(self, node: Node, key: Key) -> None:
        """Uniform: one micro-op. Normal: `rng.normal`'s eight, in its order."""
        where = Imm(integer(node.attrs, "stream") | integer(node.attrs, "term") << 16)
        index = Index(node)

        def inner(op: MicroOp, *args: Operand, name: str) -> Micro:
            stand = replace(node, name=f"{node.name}.{name}", op="_random", operands=())
            self.standins[stand] = node
            return self._add(op, args, stand, key)

        if node.attrs["kind"] == "uniform":
            self._add(MicroOp.PHILOX_U, (index, where), node, key)
            return
        u1 = inner(MicroOp.PHILOX_U1, index, where, name="u1")
        t = inner(MicroOp.LOG, u1, name="log")
        t = inner(MicroOp.MUL, t, Imm(isa.float_bits(-2.0)), name="scaled")
        r = inner(MicroOp.SQRT, t, name="radius")
        u2 = inner(MicroOp.PHILOX_U2, index, where, name="u2")
        a = inner(MicroOp.MUL, u2, Imm(isa.float_bits(float(np.float32(2 * math.pi)))), name="angle")
        c = inner(MicroOp.COS, a, name="cos")
        self._add(MicroOp.MUL, (r, c), node, key)

    def _resolve(self, operand: Node, key: Key) -> Operand:
        if is_splat(operand):
            values = operand.attrs["values"]
            assert isinstance(values, tuple)
            return Imm(isa.float_bits(float(values[0])))
        if operand.op == "scalar":
            return Scalar(str(operand.attrs["name"]))
        node = operand
        while node.op == "reshape" and self.key_of(node) == key:
            node = node.operands[0]
        same = self.key_of(node) == key
        if node in self.micro and same:
            return self.micro[node]
        return Value(node if same and _is_packed(key) else operand)

    # ---- merging

    def _producer_items(self, item: Micro | Reduce | Node) -> list[Micro | Reduce | Node]:
        """The items whose results `item` needs."""
        out: list[Micro | Reduce | Node] = []
        operands: list[Operand] = []
        if isinstance(item, Micro):
            operands = list(item.args)
        elif isinstance(item, Reduce):
            operands = [item.arg]
        else:
            operands = [Value(o) for o in item.operands]
        for operand in operands:
            if isinstance(operand, Micro):
                out.append(operand)
            elif isinstance(operand, Value):
                maker = self.maker.get(root(operand.node))
                if maker is not None:
                    out.append(maker)
        return out

    def _merge(self) -> list[_Group]:
        self.maker: dict[Node, Micro | Reduce | Node] = {}
        for item in self.items:
            self.maker[item if isinstance(item, Node) else item.node] = item
        self.producers = {item: self._producer_items(item) for item in self.items}
        self.consumers: dict[Micro | Reduce | Node, list[Micro | Reduce | Node]] = {i: [] for i in self.items}
        for item, makers in self.producers.items():
            for maker in makers:
                self.consumers[maker].append(item)
        # A value read as a tensor (not through a register) must exist in memory.
        self.stored: set[Micro | Reduce | Node] = set()
        for item in self.items:
            operands = (
                item.args
                if isinstance(item, Micro)
                else (item.arg,)
                if isinstance(item, Reduce)
                else tuple(Value(o) for o in item.operands)
            )
            for operand in operands:
                if isinstance(operand, Value) and root(operand.node) in self.maker:
                    self.stored.add(self.maker[root(operand.node)])
        for item in self.items:
            if self.external(item if isinstance(item, Node) else item.node):
                self.stored.add(item)
        groups = [_Group([item], i) for i, item in enumerate(self.items)]
        self.group_of = dict(zip(self.items, groups, strict=True))
        for item in reversed(self.items):
            changed = True
            while changed:
                changed = False
                group = self.group_of[item]
                near = {id(self.group_of[m]): self.group_of[m] for x in group.members for m in self.producers[x]}
                for other in sorted((g for g in near.values() if g is not group), key=lambda g: -g.order):
                    if self._try(group, other):
                        changed = True
                        break
        for _ in range(2):  # siblings that read the same tensor
            live = sorted({id(g): g for g in self.group_of.values()}.values(), key=lambda g: g.order)
            for i, a in enumerate(live):
                for b in live[i + 1 :]:
                    if a.members and b.members and self._share(a, b):
                        self._try(a, b)
        return self._sorted(list({id(g): g for g in self.group_of.values()}.values()))

    def _share(self, a: _Group, b: _Group) -> bool:
        return bool(set(self._sources(a)) & set(self._sources(b)))

    def _sources(self, group: _Group) -> list[Value | Index]:
        out: list[Value | Index] = []
        members = set(group.members)
        for item in group.members:
            operands = item.args if isinstance(item, Micro) else (item.arg,) if isinstance(item, Reduce) else ()
            for operand in operands:
                source: Value | Index | None = None
                if isinstance(operand, (Value, Index)):
                    source = operand
                elif isinstance(operand, Micro) and operand not in members:
                    source = Value(operand.node)
                if source is not None and source not in out:
                    out.append(source)
        return out

    def _writes(self, group: _Group) -> list[Micro]:
        """Values of the group that must be stored as fp32."""
        members = set(group.members)
        return [
            m
            for m in group.members
            if isinstance(m, Micro) and (m in self.stored or any(c not in members for c in self.consumers[m]))
        ]

    def _fits(self, group: _Group) -> bool:
        micros = [m for m in group.members if isinstance(m, Micro)]
        keys = {m.key for m in group.members if not isinstance(m, Node)}
        if len(keys) != 1 or any(isinstance(m, Node) for m in group.members):
            return False
        key = next(iter(keys))
        sources = self._sources(group)
        members = set(group.members)
        if any(isinstance(s, Value) and self.maker.get(root(s.node)) in members for s in sources):
            return False  # it would read from memory what it writes
        streams = [s for s in sources if isinstance(s, Index) or self._source_key(s) == key]
        imms = {a for m in micros for a in m.args if isinstance(a, Imm)}
        imms |= {m.arg for m in group.members if isinstance(m, Reduce) and isinstance(m.arg, Imm)}
        scalars = {a for m in micros for a in m.args if isinstance(a, Scalar)}
        sinks = len(self._writes(group)) + sum(isinstance(m, Reduce) for m in group.members)
        if _is_packed(key) and not self._addressable(group, sources):
            return False
        if any(isinstance(m, Reduce) and _across_rows(m.node) for m in group.members) and _reads_blocks(group, sources):
            return False  # the axis that is folded has to be the rows, and those of blocks are what they are
        return (
            len(micros) <= self.max_ops
            and len(sources) <= isa.SOURCES
            and len(streams) <= MAX_STREAMS
            and len(imms) <= isa.IMMEDIATES
            and len(scalars) <= isa.SCALARS
            and sinks <= isa.SINKS
        )

    def _addressable(self, group: _Group, sources: Sequence[Value | Index]) -> bool:
        """Whether one instruction over packed rows reaches everything: with blocks it has no row groups of its own, but
        every fp32 operand may have two levels of rows."""
        reduces = [m for m in group.members if isinstance(m, Reduce)]
        if not _reads_blocks(group, sources):
            return True
        rows = _most_axes(group.members).shape[:-1]
        for source in sources:
            shape = _stored_shape(source.node)
            if shape[:-1] != (math.prod(rows),) and len(_levels(shape[:-1], rows)) > 2:
                return False
        for reduce in reduces:
            if reduce.node.op != "quantize":
                axes = ints(reduce.node.attrs, "axes")
                kept = _levels([1 if i in axes else n for i, n in enumerate(rows)], rows)
                if kept != ([True] if len(rows) in axes else [True, False]):
                    return False
        return True

    def _source_key(self, source: Value) -> Key:
        node = self.standins.get(source.node, source.node)
        return self.key_of(node)

    def _try(self, a: _Group, b: _Group) -> bool:
        merged = _Group(sorted(a.members + b.members, key=self.items.index), max(a.order, b.order))
        if not self._fits(merged) or self._path_outside(a, b) or self._path_outside(b, a):
            return False
        for item in merged.members:
            self.group_of[item] = merged
        a.members, b.members = [], []
        return True

    def _path_outside(self, a: _Group, b: _Group) -> bool:
        """Whether a result of `a` reaches `b` through a third group: merging would make a cycle."""
        stack = [self.group_of[c] for m in a.members for c in self.consumers[m]]
        stack = [g for g in stack if g is not a and g is not b]
        seen = {id(g) for g in stack}
        while stack:
            group = stack.pop()
            for member in group.members:
                for consumer in self.consumers[member]:
                    target = self.group_of[consumer]
                    if target is b:
                        return True
                    if id(target) not in seen and target is not a:
                        seen.add(id(target))
                        stack.append(target)
        return False

    def _sorted(self, groups: list[_Group]) -> list[_Group]:
        groups = sorted(groups, key=lambda g: min(self.items.index(m) for m in g.members))
        done: set[int] = set()
        out: list[_Group] = []
        while len(out) < len(groups):
            for group in groups:
                if id(group) in done:
                    continue
                needs = {id(self.group_of[p]) for m in group.members for p in self.producers[m]} - {id(group)}
                if needs <= done:
                    done.add(id(group))
                    out.append(group)
                    break
            else:
                raise AssertionError("fusion made a cycle")
        return out

    # ---- kernels

    def _emit(self, groups: list[_Group]) -> list[Step]:
        return [NodeStep(g.members[0]) if isinstance(g.members[0], Node) else self._kernel(g) for g in groups]

    def _kernel(self, group: _Group) -> KernelStep:
        micros = [m for m in group.members if isinstance(m, Micro)]
        reduces = [m for m in group.members if isinstance(m, Reduce)]
        if len(micros) > self.max_ops:
            raise AssertionError("a kernel has too many micro-operations")
        sources = self._sources(group)
        imms: list[int] = []
        scalars: list[str] = []

        def arg(operand: Operand) -> Arg:
            if isinstance(operand, Micro):
                return (
                    ("reg", micros.index(operand)) if operand in micros else ("src", sources.index(Value(operand.node)))
                )
            if isinstance(operand, Imm):
                if operand.bits not in imms:
                    imms.append(operand.bits)
                return ("imm", imms.index(operand.bits))
            if isinstance(operand, Scalar):
                if operand.name not in scalars:
                    scalars.append(operand.name)
                return ("scalar", scalars.index(operand.name))
            return ("src", sources.index(operand))

        ops = tuple((m.op, tuple(arg(a) for a in m.args)) for m in micros)
        sinks = [(KernelSink(Sink.WRITE, arg(m)), m.node) for m in self._writes(group)]
        for reduce in reduces:
            sinks.append((KernelSink(_sink_kind(reduce.node), arg(reduce.arg)), reduce.node))
        kernel = Kernel(ops, len(sources), tuple(imms), tuple(scalars), tuple(s for s, _ in sinks))
        shape_of = micros[0].node if micros else reduces[0].node.operands[0]
        if _is_packed((micros or reduces)[0].key):
            shape_of = _most_axes(group.members)
        return KernelStep(kernel, self.standins.get(shape_of, shape_of), tuple(sources), tuple(n for _, n in sinks))


def _reads_blocks(group: _Group, sources: Sequence[Value | Index]) -> bool:
    """Whether a kernel has SMX operands."""
    quantised = any(isinstance(m, Reduce) and m.node.type.is_smx for m in group.members)
    return quantised or any(isinstance(s, Value) and root(s.node).type.is_smx for s in sources)


def _across_rows(node: Node) -> bool:
    """Whether a fold leaves the rows as they are and is over four or more values of an axis before them."""
    if node.op not in REDUCTIONS:
        return False
    shape = node.operands[0].shape
    folded = [a for a in ints(node.attrs, "axes") if a < len(shape) - 1 and shape[a] > 1]
    return bool(folded) and shape[max(folded)] > 3 and math.prod(shape[max(folded) + 1 : -1]) > 1


def _is_packed(key: Key) -> bool:
    return bool(key) and isinstance(key[0], PackedRows)


def _most_axes(members: Sequence[Micro | Reduce | Node]) -> Node:
    """Of the values that a kernel makes or folds, the first of those whose rows have the most axes."""
    values = [m.node for m in members if isinstance(m, Micro)]
    values += [m.node.operands[0] for m in members if isinstance(m, Reduce)]
    return max(values, key=lambda node: node.type.rank)


def _stored_shape(node: Node) -> tuple[int, ...]:
    """The shape of a value in memory, without what broadcasting repeats."""
    while node.op == "broadcast":
        node = node.operands[0]
    return node.shape


def _levels(shape: Sequence[int], rows: Sequence[int]) -> list[bool]:
    """Runs of row axes along which a value of `shape` moves (True) or is repeated (False), over `rows`."""
    shape = (1,) * (len(rows) - len(shape)) + tuple(shape)
    moves = [own > 1 for own, size in zip(shape, rows, strict=True) if size > 1]
    return [kind for kind, _ in itertools.groupby(moves)]


def _sink_kind(node: Node) -> Sink:
    """The sink of a quantise or reduction. Axes are decided with the tile in hand: rows, columns or both."""
    if node.op == "quantize":
        return Sink.WRITE
    axes = ints(node.attrs, "axes")
    rank = node.operands[0].type.rank
    cols = rank - 1 in axes
    rows = any(a != rank - 1 for a in axes)
    base = "SUM" if node.op == "sum" else "MAX"
    return Sink[f"{base}_{'ALL' if cols and rows else 'COLS' if cols else 'ROWS'}"]
