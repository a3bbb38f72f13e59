"""Records the torch operations of a network or residual as IR.

A dispatch mode sees every ATen call below autograd. Values that depend on points or parameters are `Traced` tensors
that carry an IR node; everything else runs as it is, so constants fold by themselves. Problems are collected, not
raised: an operation that cannot be compiled yields a value without a node, and the trace goes on to find the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pintac.frontend.aten import CONSTANT_RESULT, READS_VALUE, apply_rule
from pintac.frontend.locate import user_location
from pintac.frontend.traced import Abandoned, Diagnosis, Poisoned, Traced, Unsupported, op_name
from pintac.ir import Builder, Location, Node

MAX_CONST = 64
"""Constant tensors up to this size become literals of the IR, larger ones arrays stored beside the program."""


class Recorder(TorchDispatchMode):
    """The dispatch mode: `builder` grows by the IR of each operation on traced values.

    `parameters` maps id(parameter) to its name; `stored_transposed` names those whose state is kept as [in, out].
    `rows` is the number of points of the term being traced (0: none), for the check on mixed-up shapes.
    """

    def __init__(
        self,
        builder: Builder,
        parameters: Mapping[str, nn.Parameter],
        stored_transposed: frozenset[str],
        fallback: Location,
    ) -> None:
        super().__init__()
        self.builder = builder
        self.fallback = fallback
        self.rows = 0
        self.diagnoses: dict[Diagnosis, None] = {}
        self.cause: Exception | None = None
        self.data: dict[str, np.ndarray] = {}
        self.data_prefix = "const"
        self.states: dict[str, Node] = {}
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._parameters = dict(parameters)
        self._transposed = stored_transposed
        self._constants: dict[tuple[int, int], tuple[Tensor, Node]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import all of its compiler (seconds) only to exclude this mode from it.
        return False

    # ---- what rules ask for

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
        if tensor.requires_grad and isinstance(tensor, nn.Parameter):
            raise Unsupported(
                "a parameter that belongs neither to the network nor to the problem",
                "register it in the nn.Module, or make it an attribute of the Problem (several: nn.ParameterList, "
                "nn.ModuleDict), so that it is trained",
            )
        key = (id(tensor), tensor._version)
        known = self._constants.get(key)
        if known is None:
            values = tensor.detach().to(torch.float64).cpu().numpy()
            with self.builder.at(self.location()):
                known = (tensor, constant(self.builder, values, self.data, self.data_prefix))
            self._constants[key] = known
        return known[1]

    def report(self, message: str, hint: str | None = None, location: Location | None = None) -> None:
        self.diagnoses[Diagnosis(location or self.location(), message, hint)] = None

    # ---- the mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, spec = pytree.tree_flatten((args, kwargs))
        sources = [leaf if isinstance(leaf, Traced) else self._wrap(leaf) for leaf in flat if self._is_traced(leaf)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._refuse_random(func)
        if not sources:
            return func(*args, **kwargs)
        values = [leaf.value if isinstance(leaf, Traced) else leaf for leaf in flat]
        if func._schema.is_mutable:
            self.report(f"{op_name(func)} changes a tensor in place", _IN_PLACE_HINT)
            return flat[0]
        plain_args, plain_kwargs = pytree.tree_unflatten(values, spec)
        if func.overloadpacket in READS_VALUE:
            self._refuse_control_flow()
        result = func(*plain_args, **plain_kwargs)
        if func.overloadpacket in CONSTANT_RESULT or result is None:
            return result
        if isinstance(result, Tensor) and result.numel() == 0:
            shapes = [list(leaf.shape) for leaf in flat if isinstance(leaf, Tensor)]
            if torch.Tag.pointwise in func.tags and any(0 not in shape for shape in shapes):
                empty = f"{op_name(func)} of {' and '.join(map(str, shapes))} has no elements"
                self.report(empty, "a slice beyond the end of an axis is empty")
            return result  # without elements it depends on nothing; cat drops it
        if not all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            self.report(f"{op_name(func)} turns a tensor into Python numbers", _CONTROL_FLOW_HINT)
            return result
        if any(source.on_parameters for source in sources) and not torch.is_grad_enabled():
            self.report("torch.no_grad() inside a residual or network would stop the gradient there", _STOP_HINT)
        nodes: Any = None
        with self.builder.at(self.location()):
            try:
                nodes = apply_rule(self, func, args, kwargs, result)
            except Poisoned:
                nodes = None
            except Unsupported as problem:
                self.report(problem.message, problem.hint)
        leaves = pytree.tree_leaves(result)
        made = nodes if isinstance(nodes, (list, tuple)) else [nodes] * len(leaves)
        wrapped = iter([Traced(leaf, node, sources) for leaf, node in zip(leaves, made, strict=True)])
        return pytree.tree_map_only(Tensor, lambda _: next(wrapped), result)

    def _is_traced(self, leaf: object) -> bool:
        return isinstance(leaf, Traced) or (isinstance(leaf, Tensor) and id(leaf) in self._names)

    def _wrap(self, parameter: Tensor) -> Traced:
        # Only the flags are used: rules look parameters up by identity.
        traced = Traced(parameter.detach(), None)
        traced.on_parameters = True
        return traced

    def _refuse_control_flow(self) -> None:
        self.report("the value of a tensor decides what runs next, or becomes a Python number", _CONTROL_FLOW_HINT)
        raise Abandoned

    def _refuse_random(self, func: Any) -> None:
        name = op_name(func)
        if "dropout" in name or "bernoulli" in name:
            self.report("dropout is active", "call net.eval() before making the TrainStep, or leave dropout out")
        else:
            self.report(
                f"{name} draws random numbers, which would be the same at every step",
                "draw points in a sampler; constants such as random features are made once, outside the residual",
            )


_IN_PLACE_HINT = (
    "use the form that returns a new tensor: y = y + 1 instead of y += 1 or y.add_(1), "
    "torch.cat or torch.stack instead of y[:, 0] = ..."
)
_CONTROL_FLOW_HINT = (
    "a training step is one fixed program: use torch.where(condition, a, b), or decide on shapes and Python constants"
)
_STOP_HINT = "every value is differentiated; leave detach, .data and no_grad out"
_AUTOGRAD_HINT = "use pintac.grad(u, x), pintac.laplacian(u, x) or pintac.dt(u, x): the step's estimator samples them"


class Calls(TorchFunctionMode):
    """Sees torch's Python interface, for calls that never reach the dispatcher or mean something else there."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if func is torch.autograd.grad or func is torch.autograd.backward or name == "backward":
            self.recorder.report("torch.autograd inside a residual cannot be compiled", _AUTOGRAD_HINT)
            raise Abandoned
        traced = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Traced)]
        if traced and name in ("numpy", "tolist", "__array__", "data_ptr"):
            self.recorder.report(f"{name}() takes a traced tensor out of torch", _CONTROL_FLOW_HINT)
            raise Abandoned
        if name in ("detach", "detach_", "data") and any(leaf.on_parameters for leaf in traced):
            self.recorder.report("detach stops the gradient there", _STOP_HINT)
        if name == "requires_grad_" and traced:
            return args[0]
        return func(*args, **kwargs)


def constant(builder: Builder, values: np.ndarray, data: dict[str, np.ndarray], prefix: str = "const") -> Node:
    """A constant array as a literal (small or all equal) or as an array stored beside the program."""
    if values.size and (values.size == 1 or (values == values.flat[0]).all()):
        return builder.const(float(values.flat[0]), values.shape)
    if values.size <= MAX_CONST:
        return builder.const([float(value) for value in values.flat], values.shape)
    name = f"{prefix}.{len(data)}"
    data[name] = values.astype(np.float32)
    return builder.data(name, values.shape)
