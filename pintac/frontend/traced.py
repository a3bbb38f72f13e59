"""Traced values and what is said about operations that cannot be compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pintac.errors import ModelError
from pintac.frontend.locate import user_location
from pintac.ir import Location, Node

GRADIENT_SHAPE = "grad(u, x) is [points, outputs, coordinates]: the derivative by coordinate i is grad(u, x)[..., i]"


@dataclass(frozen=True)
class Diagnosis:
    """One thing that cannot be compiled: where, what, and what to do."""

    location: Location
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.location.file}:{self.location.line}: {self.message}" + (
            f"\n    hint: {self.hint}" if self.hint else ""
        )


class Unsupported(Exception):
    """Raised by a rule for an operation (or a form of it) that the IR has no counterpart for."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Traced(Tensor):
    """A tensor with an IR node. `value` has the right shape and type; its numbers mean nothing.

    `node` is None where an operation before it could not be compiled. The flags say what the value depends on.
    """

    value: Tensor
    node: Node | None
    on_points: bool
    on_parameters: bool
    derived: bool

    @staticmethod
    def __new__(cls, value: Tensor, node: Node | None, sources: Sequence[Traced] = ()) -> Traced:
        self = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=value.device, requires_grad=False
        )
        self.value, self.node = value, node
        self.on_points = any(source.on_points for source in sources)
        self.on_parameters = any(source.on_parameters for source in sources)
        self.derived = any(source.derived for source in sources)
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Traced({tuple(self.shape)}, {self.node!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise ModelError(
            "a value of the trace is used after the trace has ended",
            location=user_location(),
            hint="do not store points or results of a residual in attributes or globals",
        )


class Poisoned(Exception):
    """An argument comes from an operation that could not be compiled; that one is already reported."""


class Abandoned(Exception):
    """The code being traced cannot go on; the reason is already reported."""


def op_name(func: Any) -> str:
    """The name a torch user knows: `cumsum` for aten.cumsum.default."""
    return "torch." + str(func.overloadpacket.__name__).lstrip("_")


def model_error(diagnoses: Mapping[Diagnosis, None]) -> ModelError:
    """All problems of a trace in one error, in order of appearance."""
    listed = list(diagnoses)
    if len(listed) == 1:
        return ModelError(listed[0].message, location=listed[0].location, hint=listed[0].hint)
    lines = "\n".join(f"  {diagnosis}" for diagnosis in listed)
    return ModelError(
        f"this training step cannot be compiled, for {len(listed)} reasons:\n{lines}", location=listed[0].location
    )
