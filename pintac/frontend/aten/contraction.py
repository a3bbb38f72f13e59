"""ATen matrix products: one factor is a weight or a constant, or they are small products at every point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pintac.frontend.aten.structure import shaped
from pintac.frontend.aten.table import Arguments, aten, rule
from pintac.frontend.traced import Traced, Unsupported
from pintac.ir import Node, ancestors

if TYPE_CHECKING:
    from pintac.frontend.recorder import Recorder


def _on_points(value: object) -> bool:
    return isinstance(value, Traced) and value.on_points


def _weight_matmul(r: Recorder, x: Node, weight: Node, bias: Node | None = None) -> Node:
    """x weight + bias. torch flattens leading dimensions of x to rows; the IR's matmul takes them as they were.

    Of a point's features that were cut into several rows right before, and of which no such shape is left, the points
    are the first dimension again.
    """
    if not r.in_network and not any(n.op == "state" for n in ancestors(weight)):
        y = _multiply_and_sum(r, x, weight)
        return y if bias is None else r.builder.add(y, bias)
    rows = x.shape[:-1]
    if x.op == "reshape":
        source = x.operands[0]
        points, each = source.shape[0], x.shape[0] // max(1, source.shape[0])
        if source.shape[-1] == x.shape[-1] and source.type.rank > 2:
            x = source
        elif x.type.rank == source.type.rank == 2 and each > 1 and x.shape[0] == points * each:
            x = r.builder.reshape(source, (points, each, x.shape[-1]))
    swapped = weight.op == "permute" and weight.attrs["perm"] == (1, 0)
    operand = weight.operands[0] if swapped else weight
    y = r.builder.matmul(x, operand, transpose_b=swapped, lhs_role="base", rhs_role="weight")
    y = y if bias is None else r.builder.add(y, bias)
    return shaped(r, y, (*rows, y.shape[-1]))


def _multiply_and_sum(r: Recorder, x: Node, matrix: Node) -> Node:
    """x [..., k] matrix [k, m] in fp32: what residuals compute with coefficients is never quantised (NUMERICS 3)."""
    b = r.builder
    inner, columns = matrix.shape
    if columns == 1:
        return b.sum(b.mul(x, shaped(r, matrix, (inner,))), (x.type.rank - 1,), keepdims=True)
    wide = shaped(r, x, (*x.shape[:-1], 1, inner))
    return b.sum(b.mul(wide, b.permute(matrix, (1, 0))), (wide.type.rank - 1,))


def _product(r: Recorder, left: object, right: object, bias: Node | None = None) -> Node:
    """left [n, k] right [k, m] + bias [m]; one of the factors does not depend on the points."""
    if _on_points(right) and _on_points(left):
        raise Unsupported(
            "a matrix product of two values that both depend on the points",
            "for a dot product at every point write (a * b).sum(-1, keepdim=True)",
        )
    if _on_points(right):
        y = r.builder.permute(_weight_matmul(r, r.transposed(right), r.transposed(left)), (1, 0))
        return y if bias is None else r.builder.add(y, bias)
    return _weight_matmul(r, r.node(left), r.node(right), bias)


@rule(aten.mm)
def _mm(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _product(r, a["self"], a["mat2"])


@rule(aten.addmm)
def _addmm(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b, bias = r.builder, r.node(a["self"])
    bias = bias if a["beta"] == 1 else b.mul(bias, float(a["beta"]))
    if a["alpha"] == 1 and bias.type.rank == 1:
        return _product(r, a["mat1"], a["mat2"], bias)
    y = _product(r, a["mat1"], a["mat2"])
    return b.add(y if a["alpha"] == 1 else b.mul(y, float(a["alpha"])), bias)


@rule(aten.mv)
def _mv(r: Recorder, a: Arguments, result: Tensor) -> Node:
    matrix, vector = r.node(a["self"]), r.node(a["vec"])
    if _on_points(a["vec"]):
        return r.builder.sum(r.builder.mul(matrix, vector), (1,))
    y = _weight_matmul(r, matrix, r.builder.reshape(vector, (vector.shape[0], 1)))
    return shaped(r, y, tuple(result.shape))


@rule(aten.dot)
def _dot(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return r.builder.sum(r.builder.mul(r.node(a["self"]), r.node(a["tensor"])), (0,))


@rule(aten.bmm)
def _bmm(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b = r.builder
    x, y = r.node(a["self"]), r.node(a["mat2"])
    batch, rows, inner = x.shape
    columns = y.shape[2]
    if batch == 1 and not _on_points(a["mat2"]):
        flat = _weight_matmul(r, shaped(r, x, (rows, inner)), shaped(r, y, (inner, columns)))
        return shaped(r, flat, (1, rows, columns))
    # A small product at every point: multiply and reduce.
    left = shaped(r, x, (batch, rows, 1, inner))
    right = shaped(r, b.permute(y, (0, 2, 1)), (batch, 1, columns, inner))
    return b.sum(b.mul(left, right), (3,))
