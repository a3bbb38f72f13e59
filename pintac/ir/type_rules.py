"""The type of every op's result, shape and format, from the types of its operands and its attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pintac.errors import IRError
from pintac.ir.attrs import Attrs, integer, ints
from pintac.ir.ops import OPS
from pintac.ir.types import TensorType, f32

TypeRule = Callable[[Sequence[TensorType], Attrs], TensorType]


def infer_type(op: str, types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    """The type of the result of `op`. Raises IRError (without a location, callers add it) when a rule is broken."""
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
    return TYPE_RULES[op](types, attrs)


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


TYPE_RULES: Mapping[str, TypeRule] = MappingProxyType({
    "state": _source, "input": _source, "data": _source, "scalar": _scalar, "const": _const, "random": _source,
    **{name: _elementwise for name, op in OPS.items() if op.category == "elementwise"},
    "matmul": _matmul, "matmul_tn": _matmul_tn, "tt_matmul": _tt_matmul,
    "gradient": _gradient, "laplacian": _laplacian, "perturb": _perturb, "difference": _difference,
    "reshape": _reshape, "permute": _permute, "slice": _slice, "concat": _concat, "broadcast": _broadcast, "pad": _pad,
    "sum": _reduction, "amax": _amax, "quantize": _quantize, "decode": _decode,
})  # fmt: skip
"""The rule of each op; `infer_type` has checked arity and formats before."""
