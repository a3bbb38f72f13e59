"""Trivial solutions on a problem's test set: what an error figure has to be compared with (NUMERICS 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pintac.frontend.problem import TrainStep
from pintac.frontend.testset import TestSet, test_set
from pintac.frontend.tracing import trace_step


@dataclass(frozen=True)
class Baselines:
    """Relative l2 errors of solutions that cost nothing.

    zero, constant, affine   u = 0, the best constant, the best affine function of x (least squares on the test set)
    untrained                u with the network replaced by zero: what a hard constraint gives away
    time                     u = t; None for problems without time
    """

    zero: float
    constant: float
    affine: float
    untrained: float
    time: float | None

    def skill(self, l2: float) -> float:
        """An error over the affine one: below 1 it is better than a straight line."""
        return l2 / self.affine

    def as_dict(self) -> Mapping[str, float | None]:
        """By name, for JSON."""
        return dict(vars(self))


def trivial_baselines(step: TrainStep, test: TestSet | None = None) -> Baselines | None:
    """The trivial errors on `test` (default: the problem's test set); None for a problem without an exact solution."""
    known = test if test is not None else test_set(step)
    if known is None:
        return None
    times = trace_step(step)[0].attrs["estimator"]["time_dims"]
    return Baselines(
        zero=known.l2_rel(np.zeros_like(known.u)),
        constant=known.l2_constant(),
        affine=known.l2_affine(),
        untrained=known.l2_rel(_without_network(step, known)),
        time=known.l2_rel(np.broadcast_to(known.x[:, times[0] : times[0] + 1], known.u.shape)) if times else None,
    )


class _Zero(nn.Module):
    """The network 0 with m outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.outputs)


def _without_network(step: TrainStep, test: TestSet) -> np.ndarray:
    x = torch.from_numpy(test.x)
    with torch.no_grad():
        outputs = step.net(x[:1]).shape[-1]
        u: Tensor = step.problem.u(_Zero(outputs), x.double())
    return u.numpy()
