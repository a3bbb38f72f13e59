"""What is measured on the way through a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """After `step` steps: the loss of that step, the error on the first test points (None where it was not measured).

    `values` are the loss of each term, weighted, as `loss:<term>`, and what the problem's small parameters were.
    """

    step: int
    loss: float | None
    l2: float | None
    values: Mapping[str, Any] = {}


History = Sequence[Row]


def finite(value: Any) -> Any:
    """A JSON value with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
