"""Learning-rate schedules: a factor on the optimizer's rate for each step t = 0, 1, 2, ..."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from pintac.errors import ModelError
from pintac.frontend.locate import user_location


class Schedule(Protocol):
    """A factor for each step, and its description for the program (which is run without torch)."""

    def value(self, t: int) -> float: ...

    def attrs(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Constant:
    """Factor 1."""

    def value(self, t: int) -> float:
        return 1.0

    def attrs(self) -> dict[str, object]:
        return {"kind": "constant"}


@dataclass(frozen=True)
class LinearDecay:
    """1 - t / steps, 0 from then on (NUMERICS 9)."""

    steps: int

    def value(self, t: int) -> float:
        return max(0.0, 1.0 - t / self.steps)

    def attrs(self) -> dict[str, object]:
        return {"kind": "linear", "steps": self.steps}


@dataclass(frozen=True)
class CosineDecay:
    """(1 + cos(pi t / steps)) / 2, 0 from then on."""

    steps: int

    def value(self, t: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(t, self.steps) / self.steps))

    def attrs(self) -> dict[str, object]:
        return {"kind": "cosine", "steps": self.steps}


def constant() -> Constant:
    """The same learning rate at every step."""
    return Constant()


def linear_decay(steps: int) -> LinearDecay:
    """lr (1 - t / steps). Running fewer steps does not change the schedule. Raises ModelError for steps < 1."""
    return LinearDecay(_positive(steps, "linear_decay"))


def cosine_decay(steps: int) -> CosineDecay:
    """Half a cosine from lr to 0 over `steps`. Raises ModelError for steps < 1."""
    return CosineDecay(_positive(steps, "cosine_decay"))


def _positive(steps: int, name: str) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ModelError(f"{name} needs a positive number of steps, got {steps!r}", location=user_location())
    return steps
