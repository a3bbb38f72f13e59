"""The table of rules: the meaning of each supported ATen operation in IR.

A rule gets the recorder, the arguments by name, and the result that torch computed (for its shape). It returns the IR
node, or a list of nodes for operations with several results, or raises `Unsupported` with what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from pintac.frontend.aten.crossing import refuse_crossed_constants, refuse_crossed_points
from pintac.frontend.recorder import Recorder
from pintac.frontend.traced import Unsupported, op_name
from pintac.ir import Node

Arguments = Mapping[str, Any]
Rule = Callable[[Recorder, Arguments, Any], "Node | list[Node]"]

aten = torch.ops.aten

CONSTANT_RESULT = frozenset(
    {
        aten.zeros_like,
        aten.ones_like,
        aten.full_like,
        aten.empty_like,
        aten.new_zeros,
        aten.new_ones,
        aten.new_full,
        aten.new_empty,
        aten.new_empty_strided,
    }
)
"""Operations whose result does not depend on the values of their arguments."""

READS_VALUE = frozenset({aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero})
"""Operations that hand a value (or a shape that depends on values) to Python."""

RULES: dict[Any, Rule] = {}
"""The table, by ATen operation (all its overloads)."""

ADVICE = {
    "batch_norm": "BatchNorm couples the points of a batch; after net.eval() it is a fixed scaling, which is supported",
    "dropout": "call net.eval() before making the TrainStep, or leave dropout out",
    "convolution": "networks are functions of one point: Linear and TTLinear layers",
    "max": "use torch.amax or torch.maximum, which have no indices",
    "min": "use torch.amin or torch.minimum, which have no indices",
    "linalg_det": "write it out: g[:, 0, 0] * g[:, 1, 1] - g[:, 0, 1] * g[:, 1, 0]",
    "linalg_inv": "write it out, or multiply the equation by the matrix: Cramer's rule for 2 by 2 and 3 by 3",
    "linalg_solve": "write it out, or multiply the equation by the matrix: Cramer's rule for 2 by 2 and 3 by 3",
    "linalg_cross": "write it out: torch.stack([a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1], ...], -1)",
    "diag_embed": "multiply the diagonal where the matrix would be used: a * b for diag(a) b",
    "cumsum": "multiply with a constant triangular matrix",
}
SUPPORTED = (
    "supported: Linear, TTLinear, LayerNorm, BatchNorm after eval(), + - * / **, tanh sin cos exp log sqrt atan "
    "sigmoid silu gelu mish softplus softmax (both for values up to 87), sum mean norm, matmul with weights, cat "
    "stack, slicing and indexing with constants, diagonal, reshape transpose expand; and where no derivative of "
    "the network goes through them: abs minimum maximum clamp relu amax erf, comparisons where sign heaviside "
    "atan2 floor ceil round trunc frac % //"
)


def rule(*packets: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for ATen operations."""

    def register(function: Rule) -> Rule:
        for packet in packets:
            RULES[packet] = function
        return function

    return register


def apply_rule(r: Recorder, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    """The node (or nodes) for a call of `func`; raises Unsupported."""
    found = RULES.get(func.overloadpacket)
    if found is None:
        name = op_name(func)
        if name.endswith("backward"):
            raise Unsupported(
                "torch's own differentiation (autograd, torch.func) inside a residual cannot be compiled",
                "use pintac.grad(u, x), pintac.laplacian(u, x) or pintac.dt(u, x): the step's estimator samples them",
            )
        advice = next((text for key, text in ADVICE.items() if key in name.split(".")[-1]), SUPPORTED)
        raise Unsupported(f"{name} is not supported", advice)
    if isinstance(result, Tensor) and result.dtype not in (torch.float32, torch.bool):
        raise Unsupported(
            f"{op_name(func)} gives {str(result.dtype).removeprefix('torch.')} values, a step computes in float32",
            "make constants float32 (x.float(), torch.tensor(..., dtype=torch.float32))",
        )
    names = [argument.name for argument in func._schema.arguments]
    bound = {
        argument.name: argument.default_value for argument in func._schema.arguments if argument.has_default_value()
    }
    bound.update(zip(names, args, strict=False))
    bound.update(kwargs)
    values = pytree.tree_leaves(list(bound.values()))
    if torch.Tag.pointwise in func.tags:
        refuse_crossed_constants(r, values, tuple(result.shape))
    made = found(r, bound, result)
    refuse_crossed_points(r, made if isinstance(made, list) else [made], values)
    return made
