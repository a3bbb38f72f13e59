"""The closed set of operations: one table with arity, attributes and the shape rule of each.

The other meanings of an op stand under the same name in `evaluate.py` (values), `gradients.py` (reverse mode) and
`deltas.py` (DiffQuant); `tests/ir/test_ops.py` asserts that the tables cover this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pintac.errors import IRError, suggest
from pintac.ir.types import BLOCKS, SMX_BITS, SMX_BLOCK, TensorType, f32

Scalar = int | float | str | bool
AttrValue = Scalar | tuple[Scalar, ...]
Attrs = Mapping[str, AttrValue]
ShapeRule = Callable[[Sequence[TensorType], Attrs], TensorType]

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

_KINDS: dict[str, tuple[str, str]] = {
    "int": ("int", "an integer"),
    "float": ("float", "a number"),
    "str": ("str", "a string"),
    "bool": ("bool", "true or false"),
    "ints": ("int", "a tuple of integers"),
    "floats": ("float", "a tuple of numbers"),
}


@dataclass(frozen=True)
class AttrSpec:
    """One attribute of an op: its kind (a key of `_KINDS`), whether it must be given, and the values allowed.

    A `quiet` attribute is left out where it has its default value.
    """

    kind: str
    default: AttrValue | None = None
    choices: tuple[Scalar, ...] = ()
    quiet: bool = False

    @property
    def required(self) -> bool:
        return self.default is None


@dataclass(frozen=True)
class OpDef:
    """An op of the IR: arity (`max_arity` None means any number), attributes, the rule that infers its type."""

    name: str
    category: str
    min_arity: int
    max_arity: int | None
    rule: ShapeRule
    doc: str
    attrs: Mapping[str, AttrSpec] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- attributes


def normalize_attrs(op: str, attrs: Mapping[str, object] | None) -> Attrs:
    """Checked attributes of `op` in canonical form: defaults filled in, sequences as tuples, sorted by name.

    A name with a dot (`backend.phase`) is an annotation: any op may carry it, no meaning depends on it.
    """
    given = dict(attrs or {})
    spec = OPS[op].attrs
    result: dict[str, AttrValue] = {}
    for name, value in given.items():
        if name in spec:
            result[name] = _check_attr(op, name, spec[name], value)
        elif "." in name:
            result[name] = _plain(op, name, value)
        else:
            raise IRError(
                f"{op} has no attribute {name!r}", hint=suggest(name, list(spec)) or f"{op} takes no attributes"
            )
    for name, attr in spec.items():
        if name not in result:
            if attr.default is None:
                raise IRError(f"{op} needs the attribute {name!r} ({_KINDS[attr.kind][1]})")
            result[name] = attr.default
        if attr.quiet and result[name] == attr.default:
            del result[name]
    return MappingProxyType({name: result[name] for name in sorted(result)})


def _plain(op: str, name: str, value: object) -> AttrValue:
    """The value as plain Python: NumPy scalars unwrapped, sequences as tuples."""
    if isinstance(value, (list, tuple)):
        items = tuple(_plain(op, name, item) for item in value)
        if any(isinstance(item, tuple) for item in items):
            raise IRError(f"{op}: the attribute {name!r} holds a nested tuple")
        return items  # type: ignore[return-value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    raise IRError(
        f"{op}: the attribute {name!r} cannot hold {value!r}", hint="use int, float, str, bool or a tuple of them"
    )


def _check_attr(op: str, name: str, spec: AttrSpec, value: object) -> AttrValue:
    base, description = _KINDS[spec.kind]
    plain = _plain(op, name, value)
    if isinstance(plain, tuple) != spec.kind.endswith("s"):
        raise IRError(f"{op}: the attribute {name!r} must be {description}, got {value!r}")
    items = plain if isinstance(plain, tuple) else (plain,)
    checked: list[Scalar] = []
    for item in items:
        if base == "float" and isinstance(item, (int, float)) and not isinstance(item, bool):
            checked.append(float(item))
        elif type(item).__name__ == base:
            checked.append(item)
        else:
            raise IRError(f"{op}: the attribute {name!r} must be {description}, got {value!r}")
        if spec.choices and checked[-1] not in spec.choices:
            known = [str(choice) for choice in spec.choices]
            raise IRError(f"{op}: the attribute {name!r} cannot be {item!r}", hint=suggest(str(item), known))
    return tuple(checked) if isinstance(plain, tuple) else checked[0]


def ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    """The attribute `name` as a tuple of integers (an attribute of kind "ints")."""
    value = attrs[name]
    assert isinstance(value, tuple)
    return value  # type: ignore[return-value]


def integer(attrs: Attrs, name: str) -> int:
    """The attribute `name` as an integer (an attribute of kind "int")."""
    value = attrs[name]
    assert isinstance(value, int)
    return value


# ---------------------------------------------------------------------------------------------- shape rules


def infer_type(op: str, types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    """The result type of `op`; raises IRError (without a location, callers add it) when a rule is broken."""
    definition = OPS[op]
    most = definition.max_arity
    if len(types) < definition.min_arity or (most is not None and len(types) > most):
        expected = (
            f"{definition.min_arity}"
            if most == definition.min_arity
            else (f"at least {definition.min_arity}" if most is None else f"{definition.min_arity} to {most}")
        )
        raise IRError(f"{op} takes {expected} operands, got {len(types)}")
    if op not in ("matmul", "matmul_tn", "decode"):
        for index, type_ in enumerate(types):
            if type_.dtype != "f32":
                hint = "decode it first" if type_.is_smx else None
                raise IRError(f"{op} works on f32, operand {index} is {type_}", hint=hint)
    return definition.rule(types, attrs)


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy broadcasting: right-aligned, sizes equal or 1. Raises IRError when the shapes do not fit."""
    rank = max((len(shape) for shape in shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if size != 1:
                if result[axis] not in (1, size):
                    raise IRError(f"the shapes {' and '.join(map(str, shapes))} do not broadcast")
                result[axis] = size
    return tuple(result)


def _source(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    return f32(*ints(attrs, "shape"))


def _scalar(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    return f32()


def _const(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    values = attrs["values"]
    assert isinstance(values, tuple)
    result = _source(types, attrs)
    if len(values) not in (1, result.size):
        raise IRError(
            f"const has {len(values)} values for the shape {result.shape}", hint="give one value, or one each element"
        )
    return result


def _elementwise(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    return f32(*broadcast_shapes(*(type_.shape for type_ in types)))


def _contraction(op: str, types: Sequence[TensorType]) -> None:
    left, right = types[0], types[1]
    if left.is_smx != right.is_smx or "i32" in (left.dtype, right.dtype):
        raise IRError(f"{op}: the operands must be both f32 or both smx, got {left} and {right}")


def _same_blocks(op: str, types: Sequence[TensorType], a_axis: int, b_axis: int) -> None:
    """Operands share the blocks of the contracted dimension."""
    if types[0].is_smx and types[0].block[a_axis] != types[1].block[b_axis]:
        raise IRError(
            f"{op} contracts blocks of {types[0].block[a_axis]} with blocks of {types[1].block[b_axis]}: "
            f"{types[0]} and {types[1]}",
            hint="quantise along the contracted dimension",
        )


def _accumulator(op: str, types: Sequence[TensorType], result: TensorType) -> TensorType:
    if len(types) == 3 and types[2] != result:
        raise IRError(f"{op}: the start value must be {result}, it is {types[2]}")
    return result


def _matmul(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    _contraction("matmul", types)
    a, b = types[0].shape, types[1].shape
    if len(a) < 2 or len(b) != 2:
        raise IRError(
            f"matmul needs a of rank 2 or more and b of rank 2, got {types[0]} and {types[1]}",
            hint="only the left operand has batch dimensions; weights are [in, out]",
        )
    inner, outer = (b[1], b[0]) if attrs["transpose_b"] else b
    if a[-1] != inner:
        raise IRError(f"matmul contracts {a[-1]} with {inner}: {types[0]} and {types[1]}")
    _same_blocks("matmul", types, 1, 1 if attrs["transpose_b"] else 0)
    return _accumulator("matmul", types, f32(*a[:-1], outer))


def _matmul_tn(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    _contraction("matmul_tn", types)
    a, g = types[0].shape, types[1].shape
    if len(a) < 2 or a[:-1] != g[:-1]:
        raise IRError(
            f"matmul_tn contracts over all dimensions but the last, which must agree: {types[0]} and {types[1]}"
        )
    _same_blocks("matmul_tn", types, 0, 0)
    return _accumulator("matmul_tn", types, f32(a[-1], g[-1]))


def _tt_matmul(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    factors = ints(attrs, "in_factors") + ints(attrs, "out_factors")
    ranks = (1, *ints(attrs, "ranks"), 1)
    x, cores = types[0], types[1:]
    if len(cores) != len(factors) or len(ranks) != len(factors) + 1:
        raise IRError(
            f"tt_matmul: {len(factors)} factors need as many cores and one rank fewer, "
            f"got {len(cores)} and {len(ranks) - 2}"
        )
    for k, core in enumerate(cores):
        expected = f32(ranks[k], factors[k], ranks[k + 1])
        if core != expected:
            raise IRError(f"tt_matmul: core {k + 1} must be {expected}, it is {core}")
    width = math.prod(ints(attrs, "in_factors"))
    if x.rank < 2 or x.shape[-1] != width:
        raise IRError(f"tt_matmul: the input must be [..., {width}], it is {x}")
    return f32(*x.shape[:-1], math.prod(ints(attrs, "out_factors")))


def _function_of_points(op: str, types: Sequence[TensorType]) -> tuple[int, int, int]:
    y, x = types
    if y.rank != 2 or x.rank != 2 or y.shape[0] != x.shape[0]:
        raise IRError(f"{op} needs y [N, m] and x [N, d], got {y} and {x}")
    return y.shape[0], y.shape[1], x.shape[1]


def _gradient(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    return f32(*_function_of_points("gradient", types))


def _laplacian(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    rows, width, dim = _function_of_points("laplacian", types)
    start, stop = integer(attrs, "start"), integer(attrs, "stop")
    if not 0 <= start < stop <= dim:
        raise IRError(f"laplacian over the columns {start}..{stop} of x, which has {dim}")
    return f32(rows, width)


def _perturb(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    x, delta = types
    if x.rank != 2 or delta.rank != 4 or delta.shape[1] != 2 or (delta.shape[0], delta.shape[3]) != x.shape:
        raise IRError(f"perturb needs x [N, d] and delta [N, 2, P, d], got {x} and {delta}")
    return delta


def _difference(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    p, b = types
    if p.rank != 4 or p.shape[1] != 2 or b.shape != (p.shape[0], 1, 1, p.shape[3]):
        raise IRError(f"difference needs p [N, 2, P, m] and b [N, 1, 1, m], got {p} and {b}")
    return p


def _axis(op: str, axis: int, rank: int) -> int:
    if not 0 <= axis < rank:
        raise IRError(f"{op}: axis {axis} is outside rank {rank}")
    return axis


def _reshape(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    result = f32(*ints(attrs, "shape"))
    if result.size != types[0].size:
        raise IRError(f"reshape of {types[0]} to {result} changes the number of elements")
    return result


def _permute(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    perm = ints(attrs, "perm")
    if sorted(perm) != list(range(types[0].rank)):
        raise IRError(f"permute: {perm} is not a permutation of the dimensions of {types[0]}")
    return f32(*(types[0].shape[axis] for axis in perm))


def _slice(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    shape = list(types[0].shape)
    axis, start, stop = (
        _axis("slice", integer(attrs, "axis"), len(shape)),
        integer(attrs, "start"),
        integer(attrs, "stop"),
    )
    if not 0 <= start < stop <= shape[axis]:
        raise IRError(f"slice {start}..{stop} of axis {axis} of {types[0]}")
    shape[axis] = stop - start
    return f32(*shape)


def _concat(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    shape = list(types[0].shape)
    axis = _axis("concat", integer(attrs, "axis"), len(shape))
    for type_ in types[1:]:
        if type_.rank != len(shape) or any(type_.shape[i] != shape[i] for i in range(len(shape)) if i != axis):
            raise IRError(f"concat along axis {axis}: {type_} does not fit {types[0]}")
    shape[axis] = sum(type_.shape[axis] for type_ in types)
    return f32(*shape)


def _broadcast(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    result = f32(*ints(attrs, "shape"))
    if broadcast_shapes(types[0].shape, result.shape) != result.shape:
        raise IRError(f"{types[0]} does not broadcast to {result}")
    return result


def _pad(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    shape = list(types[0].shape)
    axis, before, after = (
        _axis("pad", integer(attrs, "axis"), len(shape)),
        integer(attrs, "before"),
        integer(attrs, "after"),
    )
    if before < 0 or after < 0:
        raise IRError(f"pad by {before} and {after}: negative")
    shape[axis] += before + after
    return f32(*shape)


def _reduction(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    axes, rank = ints(attrs, "axes"), types[0].rank
    if list(axes) != sorted(set(axes)):
        raise IRError(f"a reduction needs its axes in increasing order and once each, got {axes}")
    for axis in axes:
        _axis("reduction", axis, rank)
    if attrs["keepdims"]:
        return f32(*(1 if axis in axes else size for axis, size in enumerate(types[0].shape)))
    return f32(*(size for axis, size in enumerate(types[0].shape) if axis not in axes))


def _amax(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    if any(types[0].shape[axis] == 0 for axis in ints(attrs, "axes") if axis < types[0].rank):
        raise IRError(f"amax over an empty axis of {types[0]}")
    return _reduction(types, attrs)


def _quantize(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    block = f"_{attrs['block']}" if "block" in attrs else ""
    return TensorType(f"smx{attrs['bits']}{block}", types[0].shape)


def _decode(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    if not types[0].is_smx:
        raise IRError(f"decode needs an smx value, got {types[0]}")
    return f32(*types[0].shape)


# ---------------------------------------------------------------------------------------------- the table


_SHAPE = AttrSpec("ints")
_NAME = AttrSpec("str")
_INT = AttrSpec("int")
_ROLE = AttrSpec("str", "", ROLES)
_REDUCTION = {"axes": AttrSpec("ints"), "keepdims": AttrSpec("bool", False)}


def _block(block: tuple[int, int]) -> str:
    return f"{block[0]}x{block[1]}"


def _table() -> dict[str, OpDef]:
    table: dict[str, OpDef] = {}

    def op(
        category: str, name: str, arity: int | tuple[int, int | None], rule: ShapeRule, doc: str, /, **attrs: AttrSpec
    ) -> None:
        least, most = (arity, arity) if isinstance(arity, int) else arity
        table[name] = OpDef(name, category, least, most, rule, doc, MappingProxyType(attrs))

    op(
        "source",
        "state",
        0,
        _source,
        "persistent tensor; the output `state:<name>` is its next value",
        name=_NAME,
        shape=_SHAPE,
    )
    op("source", "input", 0, _source, "argument of the entry", name=_NAME, shape=_SHAPE)
    op("source", "scalar", 0, _scalar, "entry of the parameter block (lr, bc1, bc2, ...)", name=_NAME)
    op("source", "const", 0, _const, "literal; a single value fills the shape", shape=_SHAPE, values=AttrSpec("floats"))
    op(
        "source",
        "random",
        0,
        _source,
        "random words of (seed, stream, step, term, linear index): NUMERICS 8",
        kind=AttrSpec("str", None, ("uniform", "normal")),
        stream=_INT,
        term=_INT,
        shape=_SHAPE,
    )
    op("source", "data", 0, _source, "constant array stored beside the program", name=_NAME, shape=_SHAPE)
    for name in BINARY:
        op("elementwise", name, 2, _elementwise, f"{name}(a, b), broadcasting")
    docs = {"floor": "the largest whole number <= x", "round": "the nearest whole number, of two the even one"}
    for name in UNARY:
        op("elementwise", name, 1, _elementwise, docs.get(name, f"{name}(x)"))
    op(
        "elementwise",
        "compare",
        2,
        _elementwise,
        "1 where the comparison holds, else 0",
        kind=AttrSpec("str", None, COMPARISONS),
    )
    op("elementwise", "select", 3, _elementwise, "select(c, a, b): a where c is not 0, else b")
    op(
        "elementwise",
        "delta_act",
        2,
        _elementwise,
        "fn(Y + D) - fn(Y) without cancellation",
        fn=AttrSpec("str", None, DELTA_FUNCTIONS),
    )
    op(
        "contraction",
        "matmul",
        (2, 3),
        _matmul,
        "a[..., M, K] b[K, N], or b[N, K] transposed; from acc if given",
        transpose_b=AttrSpec("bool", False),
        lhs_role=_ROLE,
        rhs_role=_ROLE,
    )
    op(
        "contraction",
        "matmul_tn",
        (2, 3),
        _matmul_tn,
        "a[..., R, K]^T g[..., R, N] over all rows; from acc if given",
        lhs_role=_ROLE,
        rhs_role=_ROLE,
    )
    op(
        "layer",
        "tt_matmul",
        (3, None),
        _tt_matmul,
        "x times the weight whose reshape is the tensor train of the cores",
        in_factors=_SHAPE,
        out_factors=_SHAPE,
        ranks=_SHAPE,
        lhs_role=_ROLE,
    )
    op("operator", "gradient", 2, _gradient, "dy/dx at every point: [N, m, d]")
    op(
        "operator",
        "laplacian",
        2,
        _laplacian,
        "sum of second derivatives over columns of x: [N, m]",
        start=_INT,
        stop=_INT,
    )
    op("operator", "perturb", 2, _perturb, "x[:, None, None, :] + delta: the root of a perturbed evaluation")
    op("operator", "difference", 2, _difference, "p - b: what a perturbed evaluation adds to the base one")
    op("structure", "reshape", 1, _reshape, "the same elements in row-major order", shape=_SHAPE)
    op("structure", "permute", 1, _permute, "dimension i of the result is dimension perm[i]", perm=_SHAPE)
    op("structure", "slice", 1, _slice, "start..stop of one axis", axis=_INT, start=_INT, stop=_INT)
    op("structure", "concat", (1, None), _concat, "the operands one after another along an axis", axis=_INT)
    op("structure", "broadcast", 1, _broadcast, "NumPy broadcast_to", shape=_SHAPE)
    op("structure", "pad", 1, _pad, "zeros before and after along an axis", axis=_INT, before=_INT, after=_INT)
    op("reduction", "sum", 1, _reduction, "sum over axes in the order of NUMERICS 3", **_REDUCTION)
    op("reduction", "amax", 1, _amax, "largest element over axes", **_REDUCTION)
    op(
        "precision",
        "quantize",
        1,
        _quantize,
        "to SMX, 4x4 blocks over the last two dimensions, or blocks of another shape",
        bits=AttrSpec("int", None, SMX_BITS),
        block=AttrSpec("str", _block(SMX_BLOCK), tuple(map(_block, BLOCKS)), quiet=True),
    )
    op("precision", "decode", 1, _decode, "SMX back to f32, exactly")
    return table


OPS: Mapping[str, OpDef] = MappingProxyType(_table())
"""Every op of the IR, by name."""
