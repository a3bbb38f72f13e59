"""What the running code means by grad and laplacian: a tracer, a sampled estimator, or (default) exact autograd.

The operators ask here, so that one residual serves the compiler, the float twin and plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor

Function = Callable[[Tensor], Tensor]


class Derivatives(Protocol):
    """How derivatives are taken while a residual runs. u maps x [N, d] to [N, m]."""

    def gradient(self, u: Function, x: Tensor) -> Tensor:
        """[N, m, d]."""
        ...

    def laplacian(self, u: Function, x: Tensor, start: int, stop: int) -> Tensor:
        """Sum of second derivatives over the columns start..stop of x: [N, m]."""
        ...

    def time_derivative(self, u: Function, x: Tensor) -> Tensor:
        """The derivative in the last coordinate: [N, m]."""
        ...


_DERIVATIVES: ContextVar[Derivatives | None] = ContextVar("derivatives", default=None)


def derivatives() -> Derivatives | None:
    """The derivatives in force, None for exact autograd."""
    return _DERIVATIVES.get()


@contextmanager
def use_derivatives(value: Derivatives) -> Iterator[None]:
    """Inside, grad, laplacian and dt mean `value`'s."""
    token = _DERIVATIVES.set(value)
    try:
        yield
    finally:
        _DERIVATIVES.reset(token)
