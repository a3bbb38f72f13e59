"""How many steps a run has."""

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
    try:
        total = 0 if isinstance(asked, bool) else operator.index(asked)
    except TypeError:
        total = 0
    if total < 1:
        raise UsageError(f"expected a positive whole number of steps, got {asked!r}")
    return total
