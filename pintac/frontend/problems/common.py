"""What the built-in problems share: the network, the estimators by name, and the checks of their options."""

from __future__ import annotations

from torch import nn

from pintac.errors import UsageError, suggest
from pintac.frontend.estimators import ESTIMATORS
from pintac.frontend.layers import TTLinear
from pintac.frontend.optimizers import Adam
from pintac.frontend.problem import Problem, TrainStep
from pintac.frontend.schedules import linear_decay

SCHEMES = ("prs", "sequential", "dense")
"""What the option `scheme` can be: TT layers, contracted in one of two orders, or Linear ones.

The lines below are part of programs, which know where an operation was written.
"""


def network(inputs: int, outputs: int, width: int, hidden: int, rank: int, scheme: str) -> nn.Sequential:
    """A tanh network with `hidden` hidden layers; first and last layer dense, those between TT layers (or dense)."""
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.Tanh()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width) if scheme == "dense" else TTLinear(width, width, rank=rank), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def training_step(
    name: str,
    problem: Problem,
    inputs: int,
    *,
    width: int,
    hidden: int,
    rank: int,
    scheme: str,
    K: int,
    sigma: float,
    estimator: str,
    lr: float,
    schedule_steps: int,
) -> TrainStep:
    """The training step of a built-in problem with `inputs` coordinates and one unknown (NUMERICS 9).

    `hidden` counts hidden layers: 3 is inputs-width-width-width-1 with two TT layers. `scheme` "prs" and "sequential"
    have TT layers (their order of contraction is chosen when compiling), "dense" has Linear ones. `schedule_steps` is
    the N of the linear decay of the learning rate. Raises UsageError for an option that cannot be.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"unknown scheme {scheme!r}", hint=suggest(scheme, list(SCHEMES)))
    if estimator not in ESTIMATORS:
        raise UsageError(f"unknown estimator {estimator!r}", hint=suggest(estimator, list(ESTIMATORS)))
    if hidden < 1 or width < 1:
        raise UsageError(f"{name} needs at least one hidden layer and unit, got hidden={hidden}, width={width}")
    net = network(inputs, 1, width, hidden, rank, scheme)
    sampling = ESTIMATORS[estimator](K=K, sigma=sigma)
    return TrainStep(net, problem, Adam(lr, schedule=linear_decay(schedule_steps)), sampling, name=name)
