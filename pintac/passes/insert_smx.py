"""insert-smx: every matmul operand becomes SMX by its role; backward reads what forward saved.

Matmul operands (NUMERICS 2, 6). The role on each operand chooses the bits; a value gets one quantisation per precision,
however many matmuls read it: X in X W and in X^T G, W in X W and in G W^T, G in both gradients.

Saved values (NUMERICS 6). With `saved=smx` backward reads a value of the perturbed path as decode(Q(v)), never in fp32:

- v that a forward matmul reads (itself, or a reshape or permutation of it): the same Q that the matmul reads;
- base + v, base - v: from the fp32 base rows and the saved v;
- p and q of which the path goes on with the halves (p - q) / 2 and (p + q) / 2, or one of them (even/odd): from the
  saved halves; a half that forward does not need is made for it;
- any other v (D for the derivative of sin): a quantisation of its own at the delta bits.

A value of the perturbed path is one that depends on a matmul of perturbed rows and that a later such matmul depends on.
So what comes after the last matmul (final differences) and the drawn deltas, which weight them, stay fp32: estimator
and loss are never quantised (NUMERICS 3). Base rows are saved in fp32. Forward itself always reads fp32 values.

Blocks of another shape than SMX's (`block=`, for comparison: only the IR evaluator has them) lie along the dimension
that a product contracts. Where they are not square a value has one quantisation for each dimension it is contracted
along: weights and gradients of activations two at the same time, activations one for the forward product and one that
is kept for backward, which its elementwise ops read too.

Backward is everything that only outputs `grad:...` and `state:...` depend on: a property of the dataflow, not a mark.

Single tensors can have bits of their own, by the names of `tensors.py`: `bits="2.delta.0=4,*.base=16"`. With
`policy=auto` they are still to be chosen under `budget`; that needs weights and a machine, so `pintac compile` and
`pintac train` do it and run the pass with what they found, written out (docs/PRECISION.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pintac.blocks import block_name, oriented
from pintac.errors import PassError
from pintac.ir import Builder, Graph, Node, ancestors
from pintac.passes.base import RARE, Pass
from pintac.passes.dataflow import descendants
from pintac.passes.tensors import TensorNames, half_of, parse_bits, resolve_bits

Bits = Literal[4, 8, 12, 16]
Shape = Literal["4x4", "8x8", "1x16", "1x32"]

_MATMULS = ("matmul", "matmul_tn")
_VIEWS = ("reshape", "permute")
_ROWS, _COLUMNS = -2, -1


@dataclass(frozen=True)
class InsertSMX(Pass):
    """Bits of the mantissas by role; `bits` those of single tensors. `saved=f32` lets backward read fp32 (an ablation),
    `block` is the shape of blocks.

    `policy=auto` stands for bits that are still to be chosen: relative errors of residual and gradient up to `budget`,
    and the least modelled cycles (or energy: `objective`). `run` refuses it.
    """

    name: ClassVar[str] = "insert-smx"
    preserves: ClassVar[bool] = True
    forward: ClassVar[bool] = True

    weight: Bits = 8
    base: Bits = 16
    delta: Bits = 8
    grad: Bits = 12
    saved: Literal["smx", "f32"] = "smx"
    block: Shape = field(default="4x4", metadata=RARE)
    policy: Literal["roles", "auto"] = field(default="roles", metadata=RARE)
    budget: float = field(default=0.05, metadata=RARE)
    objective: Literal["cycles", "energy"] = field(default="cycles", metadata=RARE)
    bits: str = field(default="", metadata=RARE)

    def run(self, graph: Graph) -> Graph:
        return self.insert(graph)[0]

    def insert(self, graph: Graph) -> tuple[Graph, dict[str, str]]:
        """The graph after the pass, and what each of its quantize nodes makes: name of the node -> of the tensor."""
        if self.policy == "auto":
            raise PassError(
                "insert-smx: policy=auto leaves the bits to be chosen, which takes weights and a machine",
                hint="pintac compile and pintac train choose them and run bits=...",
            )
        if not graph.of(*_MATMULS):
            return graph, {}
        rewriter = _Rewriter(graph, self)
        for node in graph.nodes:
            rewriter.visit(node)
        for key, node in graph.outputs.items():
            rewriter.b.output(key, rewriter.new[node])
        return rewriter.b.finish(), rewriter.tensors

    def role_bits(self, role: str) -> int:
        """The bits of tensors that `bits` does not name."""
        return {"weight": self.weight, "base": self.base, "delta": self.delta, "grad": self.grad}[role]


def forward_nodes(graph: Graph) -> set[Node]:
    """What the outputs that are not gradients or next states depend on."""
    return ancestors(*(node for key, node in graph.outputs.items() if not key.startswith(("grad:", "state:"))))


def perturbed_path(graph: Graph, forward: set[Node]) -> set[Node]:
    """The forward values between two matmuls of perturbed rows, the operand of the last one included."""
    rows = [node for node in graph.of("matmul") if node in forward and node.attrs["lhs_role"] == "delta"]
    after = descendants(graph, rows)
    before = ancestors(*(node.operands[0] for node in rows))
    return after & before


class _Rewriter:
    def __init__(self, graph: Graph, options: InsertSMX) -> None:
        self.options = options
        self.b = Builder(graph.name, graph.attrs, reserved=(node.name for node in graph.nodes))
        self.new: dict[Node, Node] = {}
        self.forward = forward_nodes(graph)
        self.path = perturbed_path(graph, self.forward) if options.saved == "smx" else set()
        self.codes: dict[tuple[Node, int, str], Node] = {}
        self.restored: dict[Node, Node] = {}
        self.made: dict[tuple[Node, str], Node] = {}
        self.read = self._read_by_matmuls(graph)
        self.pairs = _halved(graph)
        self.names = TensorNames(graph)
        self.tensors: dict[str, str] = {}
        # without gradients (the evaluation of a solution) the names of the training step are none to complain about
        training = any(key.startswith(("grad:", "state:")) for key in graph.outputs)
        self.bits = resolve_bits(parse_bits(options.bits), self.names.known, strict=training)

    def _read_by_matmuls(self, graph: Graph) -> dict[Node, Node]:
        """value -> what a forward matmul of perturbed rows reads of it: itself, or a view of it."""
        read: dict[Node, Node] = {}
        for node in graph.of("matmul"):
            if node not in self.forward or node.attrs["lhs_role"] != "delta":
                continue
            operand = value = node.operands[0]
            while value not in read:
                read[value] = operand
                if value.op not in _VIEWS:
                    break
                value = value.operands[0]
        return read

    def visit(self, node: Node) -> None:
        with self.b.at(node.loc):
            if node.op in _MATMULS:
                roles = (str(node.attrs["lhs_role"]), str(node.attrs["rhs_role"]))
                if node.operands[0].type.is_smx:
                    raise PassError(f"{node.op} is quantised already", location=node.loc)
                codes = [
                    self.quantized(node, operand, role, axis)
                    for operand, role, axis in zip(node.operands, roles, _contracted(node), strict=False)
                ]
                rest = [self.new[operand] for operand in node.operands[2:]]
                self.new[node] = self.b.copy(node, [*codes, *rest])
            elif node in self.forward:
                self.new[node] = self.b.copy(node, [self.new[operand] for operand in node.operands])
            else:
                self.new[node] = self.b.copy(node, [self.saved(operand) for operand in node.operands])

    def quantized(self, matmul: Node, value: Node, role: str, axis: int) -> Node:
        if not role:
            raise PassError(
                f"an operand of {matmul.op} has no role, so no precision",
                location=matmul.loc,
                hint="roles are weight, base, delta and grad (attributes lhs_role, rhs_role)",
            )
        return self.code(value, role, axis)

    def code(self, value: Node, role: str, axis: int) -> Node:
        """The one quantisation of a value, at the bits of its name or role, for products that contract `axis`."""
        name = self.names.names.get((value, role)) or self.names.saved(value)
        bits = self.bits.get(name, self.options.role_bits(role))
        block = block_name(oriented(self.options.block, axis))
        key = (value, bits, block)
        if key not in self.codes:
            with self.b.at(value.loc):
                source = self.new[value]
                if source.type.rank < 2:
                    raise PassError(f"a value of type {source.type} cannot be quantised", location=value.loc)
                self.codes[key] = self.quantize(source, name, bits, block)
        return self.codes[key]

    def quantize(self, source: Node, name: str, bits: int, block: str) -> Node:
        code = self.b.quantize(source, bits, block=block)
        self.tensors[code.name] = name
        return code

    def saved(self, value: Node) -> Node:
        """A forward value as backward reads it."""
        if value not in self.path:
            return self.new[value]
        if value not in self.restored:
            with self.b.at(value.loc):
                self.restored[value] = self._restore(value)
        return self.restored[value]

    def _half(self, pair: _Pair, which: Literal["even", "odd"]) -> Node:
        """A half of a pair as backward reads it."""
        half = pair.even if which == "even" else pair.odd
        if half is not None:
            return self.saved(half)
        if (pair.plus, which) not in self.made:
            total = self.b.add_op("add" if which == "even" else "sub", [self.new[pair.plus], self.new[pair.minus]])
            name = self.names.saved(pair.plus)
            bits = self.bits.get(name, self.options.delta)
            code = self.quantize(self.b.mul(total, 0.5), name, bits, self.options.block)
            self.made[pair.plus, which] = self.b.decode(code)
        return self.made[pair.plus, which]

    def _restore(self, value: Node) -> Node:
        operand = self.read.get(value)
        if operand is not None:
            views = []
            while operand is not value:
                views.append(operand)
                operand = operand.operands[0]
            result = self.b.decode(self.code(self.read[value], "delta", _ROWS))
            for view in views:
                result = _undo(self.b, view, result)
            return result
        if value in self.pairs:
            pair = self.pairs[value]
            return self.b.add_op(
                "add" if value is pair.plus else "sub", [self._half(pair, "even"), self._half(pair, "odd")]
            )
        source = value.operands[0] if value.operands else None
        if value.op in _VIEWS and source in self.path:
            return self.b.copy(value, [self.saved(value.operands[0])])
        outside = [operand for operand in value.operands if operand not in self.path]
        if value.op in ("add", "sub") and len(outside) == 1:
            return self.b.copy(value, [self.saved(operand) for operand in value.operands])
        return self.b.decode(self.code(value, "delta", _COLUMNS))


def _contracted(node: Node) -> tuple[int, int]:
    """The dimensions of its operands that a product contracts."""
    if node.op == "matmul_tn":
        return _ROWS, _ROWS
    return _COLUMNS, _COLUMNS if node.attrs["transpose_b"] else _ROWS


@dataclass(eq=False)
class _Pair:
    """Two values whose half sum, half difference, or both are what a path goes on with."""

    plus: Node
    minus: Node
    even: Node | None = None
    odd: Node | None = None


def _halved(graph: Graph) -> dict[Node, _Pair]:
    """The pair of every p and q of which (p + q) / 2 or (p - q) / 2 is a node."""
    found: dict[Node, _Pair] = {}
    for node in graph.of("mul"):
        kind, total = half_of(node), node.operands[0]
        if kind is None:
            continue
        plus, minus = total.operands
        pair = found.get(plus) or _Pair(plus, minus)
        if plus.type != minus.type or (pair.plus, pair.minus) != (plus, minus):
            continue
        if kind == "add":
            pair.even = node
        else:
            pair.odd = node
        found[plus] = found[minus] = pair
    return found


def _undo(b: Builder, view: Node, x: Node) -> Node:
    """The inverse of a reshape or permute, applied to x."""
    if view.op == "reshape":
        return b.reshape(x, view.operands[0].shape)
    perm = view.attrs["perm"]
    assert isinstance(perm, tuple)
    return b.permute(x, [perm.index(axis) for axis in range(len(perm))])
