"""Records the torch operations of a network or residual as IR.

A dispatch mode sees every ATen call below autograd. Values that depend on points or parameters are `Traced` tensors
that carry an IR node; everything else runs as it is, so constants fold by themselves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pintac.frontend.aten import CONSTANT_RESULT, READS_VALUE, apply_rule
from pintac.frontend.recorder import Recorder
from pintac.frontend.traced import Abandoned, Poisoned, Traced, Unsupported, op_name


class Operations(TorchDispatchMode):
    """Inside, operations on traced values are recorded."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __enter__(self) -> Operations:
        self._hooks = (
            register_module_forward_pre_hook(lambda module, inputs: self._count_module(1)),
            register_module_forward_hook(lambda module, inputs, output: self._count_module(-1), always_call=True),
        )
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()

    def _count_module(self, change: int) -> None:
        self.recorder.modules_running += change

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import all of its compiler (seconds) only to exclude this mode from it.
        return False

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
            self.recorder.report(f"{op_name(func)} changes a tensor in place", _IN_PLACE_HINT)
            if not isinstance(flat[0], Traced):
                self.recorder.overwritten.append(flat[0].untyped_storage())
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
                self.recorder.report(empty, "a slice beyond the end of an axis is empty")
            return result  # without elements it depends on nothing; cat drops it
        if not all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            self.recorder.report(f"{op_name(func)} turns a tensor into Python numbers", _CONTROL_FLOW_HINT)
            return result
        if any(source.on_parameters for source in sources) and not torch.is_grad_enabled():
            stopped = "torch.no_grad() inside a residual or network would stop the gradient there"
            self.recorder.report(stopped, _STOP_HINT)
        nodes: Any = None
        with self.recorder.builder.at(self.recorder.location()):
            try:
                nodes = apply_rule(self.recorder, func, args, kwargs, result)
            except Poisoned:
                nodes = None
            except Unsupported as problem:
                self.recorder.report(problem.message, problem.hint)
        leaves = pytree.tree_leaves(result)
        made = nodes if isinstance(nodes, (list, tuple)) else [nodes] * len(leaves)
        wrapped = iter([Traced(leaf, node, sources) for leaf, node in zip(leaves, made, strict=True)])
        return pytree.tree_map_only(Tensor, lambda _: next(wrapped), result)

    def _is_traced(self, leaf: object) -> bool:
        return isinstance(leaf, Traced) or (isinstance(leaf, Tensor) and self.recorder.parameter_name(leaf) is not None)

    def _wrap(self, parameter: Tensor) -> Traced:
        # Only the flags are used: rules look parameters up by identity.
        traced = Traced(parameter.detach(), None)
        traced.on_parameters = True
        return traced

    def _refuse_control_flow(self) -> None:
        said = "the value of a tensor decides what runs next, or becomes a Python number"
        self.recorder.report(said, _CONTROL_FLOW_HINT)
        raise Abandoned

    def _refuse_random(self, func: Any) -> None:
        name = op_name(func)
        if "dropout" in name or "bernoulli" in name:
            remedy = "call net.eval() before making the TrainStep, or leave dropout out"
            self.recorder.report("dropout is active", remedy)
        else:
            self.recorder.report(
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
_DETACH_HINT = (
    "what shall not be trained is made so before the TrainStep: parameter.requires_grad_(False), or "
    "register_buffer(...) in the module; everything else is differentiated wherever it stands"
)
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
        leaves = pytree.tree_leaves((args, kwargs))
        traced = [leaf for leaf in leaves if isinstance(leaf, Traced)]
        trained = next(filter(None, map(self.recorder.parameter_name, leaves)), None)
        if (traced or trained) and name in ("numpy", "tolist", "__array__", "data_ptr", "tensor"):
            self.recorder.report(f"{name}() takes a traced tensor out of torch", _CONTROL_FLOW_HINT)
            raise Abandoned
        if name in ("detach", "detach_", "data"):
            if any(leaf.on_parameters for leaf in traced):
                self.recorder.report("detach stops the gradient there", _STOP_HINT)
            if trained is not None:
                self.recorder.report(f"{name} of the parameter {trained!r}, which is trained", _DETACH_HINT)
        if name == "requires_grad_" and traced:
            return args[0]
        return func(*args, **kwargs)
