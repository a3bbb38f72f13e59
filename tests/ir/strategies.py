"""Hypothesis strategies for graphs over the whole op set, for every room that needs an arbitrary valid graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from pintac.ir import OPS, Builder, Graph, Location, Node
from pintac.ir.ops import BINARY, COMPARISONS, DELTA_FUNCTIONS, ROLES, UNARY
from pintac.ir.types import SMX_BITS

Draw = Callable[[st.SearchStrategy[Any]], Any]

SIZES = st.integers(1, 6)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=6)
FLOATS = st.floats(width=64, allow_nan=True, allow_infinity=True)
LOCATIONS = st.builds(
    Location, st.sampled_from(["my.py", "dir/a b.py", "<pintac>", 'q"uote\\.py']), SIZES, SIZES | st.just(0)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def shapes(min_rank: int = 0, max_rank: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(SIZES, min_size=min_rank, max_size=max_rank).map(tuple)


class _Maker:
    """Adds one op of each kind to a builder, over values that exist already where they fit."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.builder = Builder("step")
        self.values: list[Node] = []
        self.sources = 0

    def source(self, shape: Sequence[int]) -> Node:
        self.sources += 1
        node = self.builder.state(f"{self.draw(NAMES)}{self.sources}", shape)
        self.values.append(node)
        return node

    def value(self, min_rank: int = 0, max_rank: int = 9, dtype: str = "f32") -> Node:
        fitting = [v for v in self.values if v.type.dtype == dtype and min_rank <= v.type.rank <= max_rank]
        if fitting and self.draw(st.integers(0, 3)):
            return self.draw(st.sampled_from(fitting))
        return self.source(self.draw(shapes(min_rank, min(max_rank, 4))))

    def like(self, shape: Sequence[int]) -> Node:
        """A value of just this shape."""
        fitting = [v for v in self.values if v.type.dtype == "f32" and v.shape == tuple(shape)]
        return self.draw(st.sampled_from(fitting)) if fitting else self.source(shape)

    def beside(self, x: Node) -> Node:
        """A value that broadcasts against x: some of its dimensions 1, some leading ones missing."""
        shape = [1 if self.draw(st.booleans()) else size for size in x.shape]
        return self.like(shape[self.draw(st.integers(0, len(shape))) :])

    def axis(self, x: Node) -> int:
        return self.draw(st.integers(0, x.type.rank - 1))

    def make(self, op: str) -> Node:
        node = getattr(self, "make_" + OPS[op].category)(op)
        self.values.append(node)
        return node

    def make_source(self, op: str) -> Node:
        b, draw = self.builder, self.draw
        if op == "scalar":
            return b.scalar(draw(NAMES))
        shape = draw(shapes())
        if op == "const":
            size = b.const(0.0, shape).type.size
            return b.const(
                draw(st.lists(FLOATS, min_size=size, max_size=size) | st.lists(FLOATS, min_size=1, max_size=1)), shape
            )
        if op == "random":
            return b.random(
                draw(st.sampled_from(["uniform", "normal"])), draw(SIZES), draw(st.integers(0, 1 << 20)), shape
            )
        self.sources += 1
        return b.add_op(op, (), {"name": f"{draw(NAMES)}{self.sources}", "shape": shape})

    def make_elementwise(self, op: str) -> Node:
        b, draw = self.builder, self.draw
        x = self.value()
        if op in UNARY:
            return b.unary(op, x)
        y = self.beside(x)
        operands = (x, y) if draw(st.booleans()) else (y, x)
        if op in BINARY:
            return b.add_op(op, operands)
        if op == "compare":
            return b.compare(draw(st.sampled_from(COMPARISONS)), *operands)
        if op == "delta_act":
            return b.delta_act(draw(st.sampled_from(DELTA_FUNCTIONS)), *operands)
        return b.select(self.beside(x), *operands)

    def make_contraction(self, op: str) -> Node:
        b, draw = self.builder, self.draw
        x = self.value(2)
        roles = {"lhs_role": draw(st.sampled_from(ROLES)), "rhs_role": draw(st.sampled_from(ROLES))}
        width, transposed = draw(SIZES), draw(st.booleans())
        if op == "matmul":
            shape = (width, x.shape[-1]) if transposed else (x.shape[-1], width)
            operands, result = [x, self.like(shape)], (*x.shape[:-1], width)
            roles["transpose_b"] = transposed
        else:
            operands, result = [x, self.like((*x.shape[:-1], width))], (x.shape[-1], width)
        if draw(st.booleans()):
            bits = st.sampled_from(SMX_BITS)
            operands = [b.quantize(operand, draw(bits)) for operand in operands]
        if draw(st.booleans()):
            operands.append(self.like(result))
        return b.add_op(op, operands, roles)

    def make_layer(self, op: str) -> Node:
        factors = self.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
        ranks = self.draw(st.lists(st.integers(1, 3), min_size=len(factors) - 1, max_size=len(factors) - 1))
        bonds = [1, *ranks, 1]
        cores = [self.like((bonds[k], factor, bonds[k + 1])) for k, factor in enumerate(factors)]
        split = self.draw(st.integers(1, len(factors) - 1))
        width = 1
        for factor in factors[:split]:
            width *= factor
        x = self.like((*self.draw(shapes(1, 3)), width))
        return self.builder.tt_matmul(x, cores, factors[:split], factors[split:], ranks)

    def make_operator(self, op: str) -> Node:
        b = self.builder
        x = self.value(2, 2)
        rows, dim = x.shape
        if op == "perturb":
            return b.perturb(x, self.like((rows, 2, self.draw(SIZES), dim)))
        if op == "difference":
            return b.difference(self.like((rows, 2, self.draw(SIZES), dim)), self.like((rows, 1, 1, dim)))
        y = self.builder.matmul(x, self.like((dim, self.draw(SIZES))))
        if op == "gradient":
            return b.gradient(y, x)
        start = self.draw(st.integers(0, dim - 1))
        return b.laplacian(y, x, start, self.draw(st.integers(start + 1, dim)))

    def make_structure(self, op: str) -> Node:
        b, draw = self.builder, self.draw
        x = self.value(1)
        axis = self.axis(x)
        if op == "reshape":
            merged = (x.shape[0] * x.shape[1], *x.shape[2:]) if x.type.rank > 1 else (1, *x.shape, 1)
            return b.reshape(x, draw(st.sampled_from([merged, (x.type.size,), (1, *x.shape)])))
        if op == "permute":
            return b.permute(x, draw(st.permutations(range(x.type.rank))))
        if op == "slice":
            start = draw(st.integers(0, x.shape[axis] - 1))
            return b.slice(x, axis, start, draw(st.integers(start + 1, x.shape[axis])))
        if op == "concat":
            others = [[*x.shape[:axis], draw(SIZES), *x.shape[axis + 1 :]] for _ in range(draw(st.integers(0, 2)))]
            return b.concat([x, *(self.like(shape) for shape in others)], axis)
        if op == "broadcast":
            shape = [draw(SIZES) if size == 1 else size for size in x.shape]
            return b.broadcast(x, [*draw(shapes(0, 2)), *shape])
        return b.pad(x, axis, draw(st.integers(0, 3)), draw(st.integers(0, 3)))

    def make_reduction(self, op: str) -> Node:
        x = self.value()
        axes = self.draw(st.sets(st.integers(0, max(x.type.rank - 1, 0)))) if x.type.rank else set()
        return self.builder.add_op(op, (x,), {"axes": sorted(axes), "keepdims": self.draw(st.booleans())})

    def make_precision(self, op: str) -> Node:
        if op == "quantize":
            return self.builder.quantize(self.value(2), self.draw(st.sampled_from(SMX_BITS)))
        return self.builder.decode(self.builder.quantize(self.value(2), self.draw(st.sampled_from(SMX_BITS))))


@st.composite
def graphs(draw: Draw, max_ops: int = 12, ops: Sequence[str] = tuple(OPS), meta: bool = True) -> Graph:
    """A graph of up to `max_ops` ops out of `ops`, and their sources; valid but for row groups (see `verify`)."""
    maker = _Maker(draw)
    for op in draw(st.lists(st.sampled_from(ops), min_size=1, max_size=max_ops)):
        with maker.builder.at(draw(LOCATIONS)):
            maker.make(op)
    for key in draw(st.lists(NAMES, max_size=3, unique=True)):
        if not key.startswith("state:"):
            maker.builder.output(key, draw(st.sampled_from(maker.values)))
    if meta:
        maker.builder.attrs.update(draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3)))
    return maker.builder.finish()
