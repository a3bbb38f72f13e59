"""How many steps a run has, and the seed of its random numbers."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from pintac.errors import UsageError


def schedule_of(optimizer: Mapping[str, Any] | None) -> int:
    """The N of the schedule in the description of an optimizer; 0 for one without an end."""
    return int(((optimizer or {}).get("schedule") or {}).get("steps", 0))


def total_steps(asked: int | None, optimizer: Mapping[str, Any] | None) -> int:
    """The steps of a run: as asked for, else those of the optimizer's schedule. Raises UsageError for what is none."""
    if asked is None:
        total = schedule_of(optimizer)
        if not total:
            raise UsageError(
                "how many steps? The schedule of the learning rate has no end", hint="steps=1000, --steps 1000"
            )
        return total
    return positive(asked, "a positive whole number of steps")


def seed_of(value: Any) -> int:
    """A seed. Raises UsageError for what is none."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << 32:
        raise UsageError(f"expected a seed, a whole number from 0 to 2**32 - 1, got {value!r}", hint="seed=0")
    return number


def positive(value: Any, expected: str) -> int:
    """A whole number above 0. Raises UsageError: `expected` says what it should have been."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"expected {expected}, got {value!r}")
    return number
