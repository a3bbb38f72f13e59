"""The closed set of operations: one table with arity and attributes of each.

The other meanings of an op stand under the same name in `type_rules.py` (the type of its result), `evaluate.py`
(values), `gradients.py` (reverse mode) and `deltas.py` (DiffQuant); `tests/ir/test_ops.py` asserts that the tables
cover this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pintac.ir.attrs import AttrSpec
from pintac.ir.types import BLOCKS, SMX_BITS, SMX_BLOCK

ROLES = ("", "weight", "base", "delta", "grad")
"""What a matmul operand is; `insert-smx` chooses its precision by this."""

DELTA_FUNCTIONS = ("tanh", "sigmoid", "sin", "cos", "exp", "log", "sqrt")
"""Functions that `delta_act` knows in a cancellation-free form (NUMERICS 5)."""

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
REDUCTIONS = ("sum", "amax")
BINARY = ("add", "sub", "mul", "div", "min", "max")
UNARY = ("neg", "sqrt", "abs", "exp", "log", "tanh", "sigmoid", "sin", "cos", "erf", "floor", "round")
STEPS = ("compare", "floor", "round")
"""Constant between jumps: their derivative is zero, a difference has no form without cancellation."""


@dataclass(frozen=True)
class OpDef:
    """An op of the IR: arity (`max_arity` None means any number), attributes, one line on what it does."""

    name: str
    category: str
    min_arity: int
    max_arity: int | None
    doc: str
    attrs: Mapping[str, AttrSpec] = field(default_factory=dict)


_SHAPE = AttrSpec("ints")
_NAME = AttrSpec("str")
_INT = AttrSpec("int")
_ROLE = AttrSpec("str", "", ROLES)
_REDUCTION = {"axes": AttrSpec("ints"), "keepdims": AttrSpec("bool", False)}


def _block(block: tuple[int, int]) -> str:
    return f"{block[0]}x{block[1]}"


def _table() -> dict[str, OpDef]:
    table: dict[str, OpDef] = {}

    def op(category: str, name: str, arity: int | tuple[int, int | None], doc: str, /, **attrs: AttrSpec) -> None:
        least, most = (arity, arity) if isinstance(arity, int) else arity
        table[name] = OpDef(name, category, least, most, doc, MappingProxyType(attrs))

    op("source", "state", 0, "persistent tensor; the output `state:<name>` is its next value", name=_NAME, shape=_SHAPE)
    op("source", "input", 0, "argument of the entry", name=_NAME, shape=_SHAPE)
    op("source", "scalar", 0, "entry of the parameter block (lr, bc1, bc2, ...)", name=_NAME)
    op("source", "const", 0, "literal; a single value fills the shape", shape=_SHAPE, values=AttrSpec("floats"))
    op(
        "source",
        "random",
        0,
        "random words of (seed, stream, step, term, linear index): NUMERICS 8",
        kind=AttrSpec("str", None, ("uniform", "normal")),
        stream=_INT,
        term=_INT,
        shape=_SHAPE,
    )
    op("source", "data", 0, "constant array stored beside the program", name=_NAME, shape=_SHAPE)
    for name in BINARY:
        op("elementwise", name, 2, f"{name}(a, b), broadcasting")
    docs = {"floor": "the largest whole number <= x", "round": "the nearest whole number, of two the even one"}
    for name in UNARY:
        op("elementwise", name, 1, docs.get(name, f"{name}(x)"))
    op("elementwise", "compare", 2, "1 where the comparison holds, else 0", kind=AttrSpec("str", None, COMPARISONS))
    op("elementwise", "select", 3, "select(c, a, b): a where c is not 0, else b")
    op(
        "elementwise",
        "delta_act",
        2,
        "fn(Y + D) - fn(Y) without cancellation",
        fn=AttrSpec("str", None, DELTA_FUNCTIONS),
    )
    op(
        "contraction",
        "matmul",
        (2, 3),
        "a[..., M, K] b[K, N], or b[N, K] transposed; from acc if given",
        transpose_b=AttrSpec("bool", False),
        lhs_role=_ROLE,
        rhs_role=_ROLE,
    )
    op(
        "contraction",
        "matmul_tn",
        (2, 3),
        "a[..., R, K]^T g[..., R, N] over all rows; from acc if given",
        lhs_role=_ROLE,
        rhs_role=_ROLE,
    )
    op(
        "layer",
        "tt_matmul",
        (3, None),
        "x times the weight whose reshape is the tensor train of the cores",
        in_factors=_SHAPE,
        out_factors=_SHAPE,
        ranks=_SHAPE,
        lhs_role=_ROLE,
    )
    op("operator", "gradient", 2, "dy/dx at every point: [N, m, d]")
    op("operator", "laplacian", 2, "sum of second derivatives over columns of x: [N, m]", start=_INT, stop=_INT)
    op("operator", "perturb", 2, "x[:, None, None, :] + delta: the root of a perturbed evaluation")
    op("operator", "difference", 2, "p - b: what a perturbed evaluation adds to the base one")
    op("structure", "reshape", 1, "the same elements in row-major order", shape=_SHAPE)
    op("structure", "permute", 1, "dimension i of the result is dimension perm[i]", perm=_SHAPE)
    op("structure", "slice", 1, "start..stop of one axis", axis=_INT, start=_INT, stop=_INT)
    op("structure", "concat", (1, None), "the operands one after another along an axis", axis=_INT)
    op("structure", "broadcast", 1, "NumPy broadcast_to", shape=_SHAPE)
    op("structure", "pad", 1, "zeros before and after along an axis", axis=_INT, before=_INT, after=_INT)
    op("reduction", "sum", 1, "sum over axes in the order of NUMERICS 3", **_REDUCTION)
    op("reduction", "amax", 1, "largest element over axes", **_REDUCTION)
    op(
        "precision",
        "quantize",
        1,
        "to SMX, 4x4 blocks over the last two dimensions, or blocks of another shape",
        bits=AttrSpec("int", None, SMX_BITS),
        block=AttrSpec("str", _block(SMX_BLOCK), tuple(map(_block, BLOCKS)), quiet=True),
    )
    op("precision", "decode", 1, "SMX back to f32, exactly")
    return table


OPS: Mapping[str, OpDef] = MappingProxyType(_table())
"""Every op of the IR, by name."""
