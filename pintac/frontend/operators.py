"""Differential operators of residuals: `grad`, `laplacian`, `dt`.

Written in a residual `f(u, x)`, they are recorded when a step is compiled and sampled by the step's estimator when it
runs. Called in plain torch, outside a training step, they are exact (autograd): a residual can be tried by hand.

Shapes keep columns: with u(x) [N, m] and x [N, d], `grad` is [N, m, d], so that `grad(u, x)[..., i]`, `dt(u, x)` and
`laplacian(u, x)` all have the shape of u(x), also for m = 1, and can be added to each other and to u(x).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pintac.errors import ModelError
from pintac.frontend import active
from pintac.frontend.locate import user_location


def grad(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """First derivatives of u(x) [N, m] at the points x [N, d]: [N, m, d]; `grad(u, x)[..., i]` is [N, m]."""
    _check(u, x, "grad")
    backend = active.derivatives()
    return backend.gradient(u, x) if backend is not None else exact_gradient(u, x)


def laplacian(u: Callable[[Tensor], Tensor], x: Tensor, dims: slice | None = None) -> Tensor:
    """Sum of the second derivatives of u(x) [N, m] over the columns `dims` of x (default: all): [N, m].

    `dims` is a contiguous slice: `slice(0, 20)`, or `slice(0, -1)` for all but the last coordinate. The second
    derivative in one coordinate is `dims=slice(i, i + 1)`.
    """
    _check(u, x, "laplacian")
    start, stop = _columns(dims, x.shape[1])
    backend = active.derivatives()
    return backend.laplacian(u, x, start, stop) if backend is not None else exact_laplacian(u, x, start, stop)


def dt(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of u(x) [N, m] in the last coordinate of x: [N, m]."""
    _check(u, x, "dt")
    backend = active.derivatives()
    return backend.time_derivative(u, x) if backend is not None else exact_gradient(u, x)[..., -1]


def _check(u: object, x: object, what: str) -> None:
    if not callable(u) or isinstance(u, Tensor):
        raise ModelError(
            f"{what}(u, x) needs the function u, got {type(u).__name__}",
            location=user_location(),
            hint=f"write {what}(u, x), not {what}(u(x), x)",
        )
    if not isinstance(x, Tensor) or x.ndim != 2:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ModelError(f"{what}(u, x) needs points x [N, d], got {got}", location=user_location())


def _columns(dims: slice | None, d: int) -> tuple[int, int]:
    if dims is None:
        return 0, d
    if not isinstance(dims, slice) or dims.step not in (None, 1):
        raise ModelError(
            f"laplacian: dims must be a contiguous slice of the coordinates, got {dims!r}",
            location=user_location(),
            hint="for example dims=slice(0, 2); add two laplacians for columns that do not touch",
        )
    start, stop, _ = dims.indices(d)
    if start >= stop:
        raise ModelError(f"laplacian: dims={dims!r} selects none of the {d} coordinates", location=user_location())
    return start, stop


def exact_gradient(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`grad` by autograd, differentiable again: [N, m, d]."""
    with torch.enable_grad():
        points = x if x.requires_grad else x.detach().requires_grad_(True)
        y = u(points)
        columns = [torch.autograd.grad(y[:, j].sum(), points, create_graph=True)[0] for j in range(y.shape[1])]
        return torch.stack(columns, dim=1)


def exact_laplacian(u: Callable[[Tensor], Tensor], x: Tensor, start: int, stop: int) -> Tensor:
    """`laplacian` by nested autograd: [N, m]."""
    with torch.enable_grad():
        points = x if x.requires_grad else x.detach().requires_grad_(True)
        first = exact_gradient(u, points)
        columns = []
        for j in range(first.shape[1]):
            total = torch.zeros_like(points[:, 0])
            for i in range(start, stop):
                component = first[:, j, i]
                if component.requires_grad:
                    second = torch.autograd.grad(component.sum(), points, create_graph=True, allow_unused=True)[0]
                    total = total + (second[:, i] if second is not None else 0.0)
            columns.append(total)
        return torch.stack(columns, dim=1)
