"""The perturbed evaluation of a value: the same ops on rows [N, 2, P, ...] instead of [N, ...].

Dimension 0 of a base tensor are the points; its perturbed counterpart has two more dimensions after it, plus and minus
rows and pairs. Tensors that do not depend on the points stay as they are, those with a row a point get [N, 1, 1, ...].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pintac.errors import PassError
from pintac.ir import OPS, Builder, Node
from pintac.ir.attrs import integer, ints


def lift_op(b: Builder, node: Node, plain: Mapping[Node, Node], lifted: Mapping[Node, Node], pairs: int) -> Node:
    """`node` on perturbed rows. `plain` gives its operands' counterparts in the builder, `lifted` the perturbed ones.

    Raises PassError at the node's location for an op that mixes points or cannot be perturbed.
    """
    points = node.shape[0] if node.shape else 0
    category = OPS[node.op].category

    def shape_of(shape: Sequence[int]) -> tuple[int, ...]:
        return (points, 2, pairs, *shape[1:])

    def full(operand: Node) -> Node:
        """The operand on perturbed rows, at full size also when it is not perturbed."""
        if operand in lifted:
            return lifted[operand]
        value = plain[operand]
        rows = b.reshape(value, (value.shape[0], 1, 1, *value.shape[1:]))
        return b.broadcast(rows, shape_of(value.shape))

    def refuse(why: str, hint: str | None = None) -> PassError:
        return PassError(f"{node.op} cannot be evaluated at perturbed points: {why}", location=node.loc, hint=hint)

    if category == "elementwise":
        return b.add_op(node.op, [_aligned(b, node, operand, plain, lifted) for operand in node.operands], node.attrs)
    if node.op in ("matmul", "tt_matmul"):
        if any(operand in lifted for operand in node.operands[1:]):
            raise refuse("only its left operand may depend on the points")
        weights = [plain[operand] for operand in node.operands[1:]]
        return b.add_op(node.op, [lifted[node.operands[0]], *weights], {**node.attrs, "lhs_role": "delta"})
    if not node.operands or node.op in ("matmul_tn", "perturb", "difference") or category == "precision":
        raise refuse("it mixes points" if node.op == "matmul_tn" else "it is a perturbed evaluation itself")
    if category == "operator":
        raise refuse(
            "it is a derivative, and derivatives of derivatives beyond the Laplacian are not supported",
            "use laplacian(u, x) for second derivatives; third derivatives need another formulation",
        )
    mixes = refuse("it mixes points", "reduce over points only in the loss; reshape and slice within a point")
    moved = refuse(
        "points have to stay its first axis",
        "torch.stack([...], -1) and its last axis, not torch.stack([...]); transpose and reshape within a point",
    )
    if node.op in ("reshape", "broadcast"):
        shape = ints(node.attrs, "shape")
        operand = node.operands[0]
        if not shape or shape[0] != operand.shape[0] or (node.op == "broadcast" and len(shape) != operand.type.rank):
            raise moved
        return b.add_op(node.op, [lifted[operand]], {"shape": shape_of(shape)})
    if node.op == "permute":
        perm = ints(node.attrs, "perm")
        if perm[0] != 0:
            raise moved
        return b.permute(lifted[node.operands[0]], (0, 1, 2, *(axis + 2 for axis in perm[1:])))
    if category == "reduction":
        axes = ints(node.attrs, "axes")
        if 0 in axes:
            raise mixes
        return b.add_op(node.op, [lifted[node.operands[0]]], {**node.attrs, "axes": tuple(axis + 2 for axis in axes)})
    if node.op in ("slice", "pad", "concat"):
        axis = integer(node.attrs, "axis")
        if axis == 0:
            raise mixes
        return b.add_op(node.op, [full(operand) for operand in node.operands], {**node.attrs, "axis": axis + 2})
    raise refuse("no rule for it")


def _aligned(b: Builder, node: Node, operand: Node, plain: Mapping[Node, Node], lifted: Mapping[Node, Node]) -> Node:
    """An elementwise operand that broadcasts on perturbed rows as it did on base rows."""
    if operand in lifted:
        if operand.type.rank != node.type.rank:
            raise PassError(
                f"{node.op} broadcasts {operand.type} to {node.type}: its points would become columns",
                location=node.loc,
                hint="keep the column dimension, for example sum(..., keepdim=True)",
            )
        return lifted[operand]
    value = plain[operand]
    if value.type.rank == node.type.rank and value.shape and value.shape[0] != 1:
        return b.reshape(value, (value.shape[0], 1, 1, *value.shape[1:]))
    return value
