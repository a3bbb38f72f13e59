"""What a trace records into: the IR of values, states and constants, and what cannot be compiled.

Problems are collected, not raised: an operation that cannot be compiled yields a value without a node, and the trace
goes on to find the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pintac.frontend.locate import user_location
from pintac.frontend.point_axes import PointAxes
from pintac.frontend.traced import Diagnosis, Poisoned, Traced, Unsupported
from pintac.ir import Builder, Location, Node

MAX_CONST = 64
"""Constant tensors up to this size become literals of the IR, larger ones arrays stored beside the program."""


class Recorder:
    """What the rules for operations ask for; `builder` grows by the IR of each operation on traced values.

    `parameters` maps id(parameter) to its name; `stored_transposed` names those whose state is kept as [in, out].
    `rows` is the number of points of the term being traced (0: none), `points` says along which axes they lie: both for
    the check on mixed-up shapes.
    """

    def __init__(
        self,
        builder: Builder,
        parameters: Mapping[str, nn.Parameter],
        stored_transposed: frozenset[str],
        fallback: Location,
    ) -> None:
        self.builder = builder
        self.fallback = fallback
        self.rows = 0
        self.points = PointAxes()
        self.diagnoses: dict[Diagnosis, None] = {}
        self.cause: Exception | None = None
        self.data: dict[str, np.ndarray] = {}
        self.data_prefix = "const"
        self.states: dict[str, Node] = {}
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._parameters = dict(parameters)
        self._transposed = stored_transposed
        self._constants: dict[tuple[int, int], tuple[Tensor, Node]] = {}
        self.overwritten: list[torch.UntypedStorage] = []
        """What was changed in place, which is reported: nothing else is said of tensors there."""
        self.modules_running = 0

    @property
    def in_network(self) -> bool:
        """Whether an `nn.Module` is running: matrix products of the residual around it stay fp32 (NUMERICS 3)."""
        return self.modules_running > 0

    def location(self) -> Location:
        return user_location(self.fallback)

    def state(self, name: str) -> Node:
        """The state of a parameter as stored: [in, out] for the weights of linear layers."""
        if name not in self.states:
            shape = tuple(self._parameters[name].shape)
            stored = shape[::-1] if name in self._transposed else shape
            self.states[name] = self.builder.state(name, stored, loc=self.location())
        return self.states[name]

    def parameter_name(self, value: object) -> str | None:
        return self._names.get(id(value)) if isinstance(value, Tensor) else None

    def node(self, value: object) -> Node:
        """The IR value of an argument: traced, parameter, constant tensor or number."""
        if isinstance(value, Traced):
            if value.node is None:
                raise Poisoned
            return value.node
        if isinstance(value, Tensor):
            name = self.parameter_name(value)
            if name is None:
                return self._constant(value)
            state = self.state(name)
            return self.builder.permute(state, (1, 0)) if name in self._transposed else state
        if isinstance(value, (bool, int, float)):
            return self.builder.scalar_const(float(value))
        raise Unsupported(f"an argument of type {type(value).__name__}")

    def transposed(self, value: object) -> Node:
        """The transpose of a matrix; free for a weight that is stored transposed and for what was transposed before."""
        name = self.parameter_name(value)
        if name is not None and name in self._transposed:
            return self.state(name)
        node = self.node(value)
        if node.op == "permute" and node.type.rank == 2 and node.attrs["perm"] == (1, 0):
            return node.operands[0]
        return self.builder.permute(node, (1, 0))

    def _constant(self, tensor: Tensor) -> Node:
        if any(tensor.untyped_storage().data_ptr() == changed.data_ptr() for changed in self.overwritten):
            raise Poisoned
        if tensor.requires_grad and isinstance(tensor, nn.Parameter):
            raise Unsupported(
                "a parameter that belongs neither to the network nor to the problem",
                "register it in the nn.Module, or make it an attribute of the Problem (several: nn.ParameterList, "
                "nn.ModuleDict), so that it is trained",
            )
        if tensor.requires_grad:
            raise Unsupported(
                "a tensor with requires_grad=True that is no parameter would not be trained",
                "make it one of the problem: self.k = nn.Parameter(...) in __init__; a constant is k.detach()",
            )
        key = (id(tensor), tensor._version)
        known = self._constants.get(key)
        if known is None:
            values = tensor.detach().to(torch.float64).cpu().numpy()
            with self.builder.at(self.location()):
                known = (tensor, constant(self.builder, values, self.data, self.data_prefix))
            self._constants[key] = known
        return known[1]

    def store(self, tensor: Tensor, name: str) -> None:
        """Keeps a constant tensor beside the program under a name of its own, however small it is."""
        with self.builder.at(self.location()):
            node = self.builder.data(name, tuple(tensor.shape))
        self.points.mark(node)
        self.data[name] = tensor.numpy()
        self._constants[id(tensor), tensor._version] = tensor, node

    def report(self, message: str, hint: str | None = None, location: Location | None = None) -> None:
        self.diagnoses[Diagnosis(location or self.location(), message, hint)] = None


def constant(builder: Builder, values: np.ndarray, data: dict[str, np.ndarray], prefix: str = "const") -> Node:
    """A constant array as a literal (small or all equal) or as an array stored beside the program."""
    if values.size and (values.size == 1 or (values == values.flat[0]).all()):
        return builder.const(float(values.flat[0]), values.shape)
    if values.size <= MAX_CONST:
        return builder.const([float(value) for value in values.flat], values.shape)
    name = f"{prefix}.{len(data)}"
    data[name] = values.astype(np.float32)
    return builder.data(name, values.shape)
