"""ATen matrix products: one factor is a weight or a constant, or they are small products at every point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pintac.frontend.aten.table import Arguments, aten, rule
from pintac.frontend.traced import Traced, Unsupported
from pintac.ir import Node

if TYPE_CHECKING:
    from pintac.frontend.recorder import Recorder


def _on_points(value: object) -> bool:
    return isinstance(value, Traced) and value.on_points


def _weight_matmul(r: Recorder, x: Node, weight: Node) -> Node:
    swapped = weight.op == "permute" and weight.attrs["perm"] == (1, 0)
    operand = weight.operands[0] if swapped else weight
    return r.builder.matmul(x, operand, transpose_b=swapped, lhs_role="base", rhs_role="weight")


def _product(r: Recorder, left: object, right: object) -> Node:
    """left [n, k] right [k, m], one of which does not depend on the points."""
    if _on_points(right) and _on_points(left):
        raise Unsupported(
            "a matrix product of two values that both depend on the points",
            "for a dot product at every point write (a * b).sum(-1, keepdim=True)",
        )
    if _on_points(right):
        return r.builder.permute(_weight_matmul(r, r.transposed(right), r.transposed(left)), (1, 0))
    return _weight_matmul(r, r.node(left), _right_operand(r, right))


def _right_operand(r: Recorder, right: object) -> Node:
    return r.node(right)


@rule(aten.mm)
def _mm(r: Recorder, a: Arguments, result: Tensor) -> Node:
    return _product(r, a["self"], a["mat2"])


@rule(aten.addmm)
def _addmm(r: Recorder, a: Arguments, result: Tensor) -> Node:
    b = r.builder
    y = _product(r, a["mat1"], a["mat2"])
    y = y if a["alpha"] == 1 else b.mul(y, float(a["alpha"]))
    bias = r.node(a["self"])
    return b.add(y, bias if a["beta"] == 1 else b.mul(bias, float(a["beta"])))


@rule(aten.mv)
def _mv(r: Recorder, a: Arguments, result: Tensor) -> Node:
    matrix, vector = r.node(a["self"]), r.node(a["vec"])
    if _on_points(a["vec"]):
        return r.builder.sum(r.builder.mul(matrix, vector), (1,))
    y = _weight_matmul(r, matrix, r.builder.reshape(vector, (vector.shape[0], 1)))
    return r.builder.reshape(y, tuple(result.shape))


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
        flat = _weight_matmul(r, b.reshape(x, (rows, inner)), b.reshape(y, (inner, columns)))
        return b.reshape(flat, (1, rows, columns))
    # A small product at every point: multiply and reduce.
    left = b.reshape(x, (batch, rows, 1, inner))
    right = b.reshape(b.permute(y, (0, 2, 1)), (batch, 1, columns, inner))
    return b.sum(b.mul(left, right), (3,))
