"""Optimizers: what the step does with its gradients, as torch.optim defines it, in fp32.

The rate of step t = 0, 1, 2, ... is `lr` under `schedule`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pintac.errors import ModelError
from pintac.frontend.locate import user_code, user_location
from pintac.frontend.numbers import as_real
from pintac.frontend.schedules import Constant, Schedule, checked, rate_of, settled

NAMES = "pintac.Adam(1e-3), pintac.AdamW(1e-3, weight_decay=0.01) or pintac.SGD(1e-2, momentum=0.9)"
"""What an optimizer can be, for hints."""


@dataclass(frozen=True)
class Scalar:
    """A number of the parameter block: its value at step t = 0, 1, 2, ..., the same in fp32 from `settled` on."""

    at: Callable[[int], float]
    settled: int = 0

    def __call__(self, t: int) -> float:
        return self.at(t)


class Optimizer(ABC):
    """What the optimizers share; each is a frozen dataclass whose fields are its settings."""

    kind: ClassVar[str] = ""

    lr: float
    schedule: Schedule | None

    def rate(self, t: int) -> float:
        """The learning rate of step t."""
        return rate_of(self.schedule or Constant(), self.lr, t)

    def attrs(self) -> dict[str, object]:
        """Description for the IR and the program."""
        return {"kind": self.kind, **self._settings(), "schedule": (self.schedule or Constant()).attrs()}

    @property
    def settled(self) -> int:
        """The first step from which on the rate stays. Raises ModelError for a schedule that does not say."""
        return settled(self.schedule or Constant())

    def scalars(self) -> Mapping[str, Scalar]:
        """What the step reads from the parameter block, by name."""
        return {"lr": Scalar(self.rate, self.settled)}

    @abstractmethod
    def in_torch(self, tensors: Sequence[Tensor], fused: bool = False) -> torch.optim.Optimizer:
        """torch's optimizer over `tensors` with these settings; the rate of each step is set by the caller."""

    @abstractmethod
    def _settings(self) -> dict[str, object]:
        """Those but the schedule, as `attrs` describes them."""

    def _check_schedule(self) -> None:
        """Raises ModelError for a schedule that is none, says not when it settles, or gives impossible rates."""
        name = type(self).__name__
        checked(self.schedule, name)
        place = user_location()
        with user_code(place):
            rates = [self.rate(t) for t in (0, self.settled)]
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise ModelError(f"{name}: the schedule gives the learning rates {rates}", location=place)

    def _number(self, field: str, least: float, below: float = float("inf"), *, open_: bool = False) -> float:
        """A field as a float in [least, below), or (least, below) if `open_`. Raises ModelError."""
        value = as_real(getattr(self, field))
        if value is None or not (least < value if open_ else least <= value) or value >= below:
            bound = f"{'>' if open_ else '>='} {least:g}" + ("" if below == float("inf") else f" and < {below:g}")
            raise ModelError(
                f"{type(self).__name__} needs a number {field} {bound}, got {getattr(self, field)!r}",
                location=user_location(),
            )
        object.__setattr__(self, field, value)
        return value


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with bias correction, fp32 masters and moments."""

    kind: ClassVar[str] = "adam"

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        for field in ("lr", "eps"):
            self._number(field, 0.0, open_=True)
        for field in ("beta1", "beta2"):
            self._number(field, 0.0, 1.0)
        self._check_schedule()

    def scalars(self) -> Mapping[str, Scalar]:
        return {**super().scalars(), "bc1": _bias_correction(self.beta1), "bc2": _bias_correction(self.beta2)}

    def in_torch(self, tensors: Sequence[Tensor], fused: bool = False) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(tensors, lr=self.lr, betas=betas, eps=self.eps, fused=fused or None)

    def _settings(self) -> dict[str, object]:
        return {"lr": self.lr, "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: weights and biases alike are multiplied by 1 - lr_t weight_decay first."""

    kind: ClassVar[str] = "adamw"

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        for field in ("lr", "eps"):
            self._number(field, 0.0, open_=True)
        self._number("weight_decay", 0.0)
        betas = [as_real(beta) for beta in self.betas] if isinstance(self.betas, (tuple, list)) else []
        if len(betas) != 2 or any(beta is None or not 0 <= beta < 1 for beta in betas):
            raise ModelError(f"AdamW needs two betas in [0, 1), got {self.betas!r}", location=user_location())
        object.__setattr__(self, "betas", tuple(betas))
        self._check_schedule()

    def scalars(self) -> Mapping[str, Scalar]:
        bc1, bc2 = (_bias_correction(beta) for beta in self.betas)
        keep = Scalar(lambda t: 1.0 - self.rate(t) * self.weight_decay, self.settled)
        return {**super().scalars(), "bc1": bc1, "bc2": bc2, "keep": keep}

    def in_torch(self, tensors: Sequence[Tensor], fused: bool = False) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            tensors, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused or None
        )

    def _settings(self) -> dict[str, object]:
        beta1, beta2 = self.betas
        return {"lr": self.lr, "beta1": beta1, "beta2": beta2, "eps": self.eps, "weight_decay": self.weight_decay}


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum (of Nesterov's kind) and weight decay, which is added to the gradient."""

    kind: ClassVar[str] = "sgd"

    lr: float = 1e-2
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        self._number("lr", 0.0, open_=True)
        self._number("momentum", 0.0)
        self._number("weight_decay", 0.0)
        if self.nesterov and not self.momentum:
            raise ModelError("SGD: nesterov needs momentum > 0", location=user_location(), hint="momentum=0.9")
        object.__setattr__(self, "nesterov", bool(self.nesterov))
        self._check_schedule()

    def in_torch(self, tensors: Sequence[Tensor], fused: bool = False) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            tensors,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=fused or None,
        )

    def _settings(self) -> dict[str, object]:
        return {
            "lr": self.lr,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
        }


def _bias_correction(beta: float) -> Scalar:
    """1 / (1 - beta^(t+1)), until it is 1 in fp32."""
    return Scalar(
        lambda t: 1.0 / (1.0 - beta ** (t + 1)), math.ceil(25 * math.log(2) / -math.log(beta)) if beta > 0 else 0
    )


def advice(optimizer: object) -> tuple[str, str]:
    """Why a TrainStep does not take this optimizer, and what to do."""
    name = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
    if isinstance(optimizer, str):
        name = optimizer
    if "lbfgs" in name.lower():
        return (
            "LBFGS cannot be compiled: its line search evaluates the loss a varying number of times a step, "
            "and a step here is one fixed program on freshly drawn points",
            "train with pintac.Adam(lr, schedule=linear_decay(steps)) or pintac.SGD, then "
            "net.load_state_dict(result.state_dict()) and torch.optim.LBFGS on the rest of the way in torch",
        )
    if isinstance(optimizer, torch.optim.Optimizer) or (
        isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    ):
        return f"torch.optim.{name} runs in torch; the compiled step needs a description", f"use {NAMES}"
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return f"the optimizer is the class {name}, not an object", f"{name}(1e-3)"
    what = f"the class {name}" if isinstance(optimizer, type) else f"a {type(optimizer).__name__}"
    return f"the third argument must be an optimizer, got {what}", f"use {NAMES}"
