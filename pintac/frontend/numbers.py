"""Numbers and arrays as users give them: Python's, NumPy's and torch's; booleans are no numbers."""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import torch


def as_count(value: object, least: int = 1) -> int | None:
    """A whole number of at least `least` as an int; None for anything else."""
    if isinstance(value, (bool, np.bool_, torch.Tensor)) or not isinstance(value, SupportsIndex):
        return None
    try:
        number = operator.index(value)
    except TypeError:  # an array of several numbers
        return None
    return number if number >= least else None


def as_real(value: object) -> float | None:
    """A finite number as a float; None for anything else, a tensor that is trained too."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or not isinstance(value, SupportsFloat):
        return None
    if isinstance(value, torch.Tensor) and value.requires_grad:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_array(value: object, dtype: type[np.floating[Any]]) -> np.ndarray:
    """An array of its own of anything that is one. Raises ValueError or TypeError for what is none."""
    plain = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    if np.iscomplexobj(np.asarray(plain)):
        raise TypeError("complex numbers, real ones are needed")
    return np.array(plain, dtype, order="C")
