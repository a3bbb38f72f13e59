"""Learning-rate schedules: the rate of each step t = 0, 1, 2, ... from the optimizer's `lr`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pintac.errors import ModelError
from pintac.frontend.locate import user_location
from pintac.frontend.numbers import as_count, as_real

NAMES = (
    "constant(), linear_decay(steps), cosine_decay(steps), exponential_decay(rate, every, steps=N), "
    "piecewise({0: 1.0, 5000: 0.1}), warmup(n, then)"
)
"""What a schedule can be, for hints."""


@runtime_checkable
class Schedule(Protocol):
    """A factor on the rate for each step, and its description for the program (which is run without torch).

    `attrs()` holds "kind", and "steps" or "settled": the first step from which on the factor stays as it is. "steps"
    is also how long a run is if nobody says.
    """

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
class _Decay(ABC):
    """lr_min + (lr - lr_min) f(t) for a factor f that is 0 from `steps` on."""

    steps: int
    lr_min: float = 0.0

    def rate(self, lr: float, t: int) -> float:
        """The rate itself, which `lr_min` is a bound of."""
        if self.lr_min > lr:
            raise ModelError(f"lr_min = {self.lr_min} is above the learning rate {lr}", location=user_location())
        return self.lr_min + (lr - self.lr_min) * self.value(t)

    @abstractmethod
    def value(self, t: int) -> float:
        """f(t)."""

    def _attrs(self, kind: str) -> dict[str, object]:
        return {"kind": kind, "steps": self.steps, **({"lr_min": self.lr_min} if self.lr_min else {})}


@dataclass(frozen=True)
class LinearDecay(_Decay):
    """1 - t / steps, 0 from then on (NUMERICS 9)."""

    def value(self, t: int) -> float:
        return max(0.0, 1.0 - t / self.steps)

    def attrs(self) -> dict[str, object]:
        return self._attrs("linear")


@dataclass(frozen=True)
class CosineDecay(_Decay):
    """(1 + cos(pi t / steps)) / 2, 0 from then on."""

    def value(self, t: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(t, self.steps) / self.steps))

    def attrs(self) -> dict[str, object]:
        return self._attrs("cosine")


@dataclass(frozen=True)
class ExponentialDecay:
    """factor^(t / every), in whole powers if `staircase`; from `steps` on it stays."""

    factor: float
    every: int
    steps: int
    staircase: bool = False

    def value(self, t: int) -> float:
        periods = min(t, self.steps) / self.every
        return self.factor ** (math.floor(periods) if self.staircase else periods)

    def attrs(self) -> dict[str, object]:
        return {
            "kind": "exponential",
            "factor": self.factor,
            "every": self.every,
            "staircase": self.staircase,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Piecewise:
    """factors[k] from step starts[k] on, up to the next start."""

    starts: tuple[int, ...]
    factors: tuple[float, ...]

    def value(self, t: int) -> float:
        return next(factor for start, factor in zip(self.starts[::-1], self.factors[::-1], strict=True) if t >= start)

    def attrs(self) -> dict[str, object]:
        return {
            "kind": "piecewise",
            "starts": list(self.starts),
            "factors": list(self.factors),
            "settled": self.starts[-1],
        }


@dataclass(frozen=True)
class Warmup:
    """In n equal steps up to what another schedule begins with, then that one from its own step 0 on."""

    n: int
    then: Schedule

    def value(self, t: int) -> float:
        return self.then.value(0) * (t + 1) / self.n if t < self.n else self.then.value(t - self.n)

    def rate(self, lr: float, t: int) -> float:
        """As `value`, with the bound that `then` may have."""
        return rate_of(self.then, lr, max(0, t - self.n)) * min(t + 1, self.n) / self.n

    def attrs(self) -> dict[str, object]:
        then = self.then.attrs()
        end = "steps" if "steps" in then else "settled"
        return {"kind": "warmup", "n": self.n, "then": then, end: self.n + settled(self.then)}


def rate_of(schedule: Schedule, lr: float, t: int) -> float:
    """The learning rate of step t."""
    rate = getattr(schedule, "rate", None)
    return float(rate(lr, t) if rate is not None else lr * schedule.value(t))


def settled(schedule: Schedule) -> int:
    """The first step from which on the rate stays. Raises ModelError for a schedule that does not say."""
    attrs = schedule.attrs()
    end = attrs.get("steps", attrs.get("settled", 0 if isinstance(schedule, Constant) else None))
    if isinstance(end, bool) or not isinstance(end, int) or end < 0:
        raise ModelError(
            f"the schedule {type(schedule).__name__} says not from which step on its rate stays",
            location=user_location(),
            hint='attrs() needs "steps": N, also the length of a run, or "settled": N; or one of ' + NAMES,
        )
    return end


def checked(schedule: object, owner: str) -> Schedule | None:
    """A schedule as an optimizer takes it. Raises ModelError for what is none."""
    if schedule is None:
        return None
    kind = schedule if isinstance(schedule, type) else type(schedule)
    if kind.__module__.startswith("torch.optim"):
        raise ModelError(
            f"{owner}: {kind.__module__}.{kind.__name__} runs in torch; the compiled step needs a description",
            location=user_location(),
            hint=NAMES,
        )
    if isinstance(schedule, type) or not isinstance(schedule, Schedule):
        lacks = " (it has no attrs())" if callable(getattr(schedule, "value", None)) else ""
        raise ModelError(f"{owner}: not a schedule: {schedule!r}{lacks}", location=user_location(), hint=NAMES)
    return schedule


def constant() -> Constant:
    """The same learning rate at every step."""
    return Constant()


def linear_decay(steps: int, lr_min: float = 0.0) -> LinearDecay:
    """From lr to the rate lr_min in a straight line: with lr_min = 0 it is lr (1 - t / steps).

    Running fewer steps does not change the schedule. Raises ModelError for steps < 1.
    """
    return LinearDecay(_positive(steps, "linear_decay"), _rate(lr_min, "linear_decay"))


def cosine_decay(steps: int, lr_min: float = 0.0) -> CosineDecay:
    """Half a cosine from lr to the rate lr_min over `steps`. Raises ModelError for steps < 1."""
    return CosineDecay(_positive(steps, "cosine_decay"), _rate(lr_min, "cosine_decay"))


def exponential_decay(rate: float, every: int, staircase: bool = False, *, steps: int) -> ExponentialDecay:
    """lr times rate^(t / every), with `staircase` times rate once every `every` steps; from `steps` on it stays.

    Raises ModelError for a rate outside (0, 1] and for every < 1 or steps < 1.
    """
    factor = as_real(rate)
    if factor is None or not 0 < factor <= 1:
        raise ModelError(f"exponential_decay needs a rate in (0, 1], got {rate!r}", location=user_location())
    every, steps = _positive(every, "exponential_decay"), _positive(steps, "exponential_decay")
    return ExponentialDecay(factor, every, steps, bool(staircase))


def piecewise(factors: Mapping[int, float]) -> Piecewise:
    """lr times a factor that changes at given steps: {0: 1.0, 5000: 0.1} is lr, and a tenth of it from step 5000 on.

    Raises ModelError for an empty table, one that does not begin at step 0, and for factors that are negative.
    """
    table: dict[int, float] = {}
    for start, factor in factors.items() if isinstance(factors, Mapping) else ():
        step, value = as_count(start, least=0), as_real(factor)
        if step is not None and value is not None and value >= 0:
            table[step] = value
    if not isinstance(factors, Mapping) or len(table) != len(factors) or 0 not in table:
        raise ModelError(
            f"piecewise needs factors by first step, from step 0 on, got {factors!r}",
            location=user_location(),
            hint="piecewise({0: 1.0, 5000: 0.1})",
        )
    starts = tuple(sorted(table))
    return Piecewise(starts, tuple(table[start] for start in starts))


def warmup(n: int, then: Schedule | None = None) -> Warmup:
    """lr (t + 1) / n in the first n steps, then `then` (default: constant) from its step 0 on, which it leads up to.

    Raises ModelError for n < 1.
    """
    return Warmup(_positive(n, "warmup"), checked(then, "warmup") or Constant())


def _positive(steps: object, name: str) -> int:
    count = as_count(steps)
    if count is None:
        raise ModelError(f"{name} needs a positive number of steps, got {steps!r}", location=user_location())
    return count


def _rate(value: object, name: str) -> float:
    rate = as_real(value)
    if rate is None or rate < 0:
        raise ModelError(f"{name}: lr_min is a learning rate, got {value!r}", location=user_location())
    return rate
