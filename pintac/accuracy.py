"""The error of a solution, as every result states it (NUMERICS 9)."""

from __future__ import annotations

import math

import numpy as np

from pintac.errors import PintacError


def l2_rel(u_hat: np.ndarray, u: np.ndarray) -> float:
    """|u_hat - u|_2 / |u|_2 in float64 over all points and components, both [n, m].

    inf for what is not finite, and for u = 0. Raises PintacError for different shapes: nothing is broadcast.
    """
    if u_hat.shape != u.shape:
        raise PintacError(f"the solution has the shape {list(u_hat.shape)}, exact values have {list(u.shape)}")
    size = float(np.linalg.norm(u.astype(np.float64)))
    error = float(np.linalg.norm(u_hat.astype(np.float64) - u)) / size if size else math.inf
    return error if math.isfinite(error) else math.inf
