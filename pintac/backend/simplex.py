"""Linear programs with a feasible origin, small enough for a dense tableau."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pintac.errors import PintacError

_EPSILON = 1e-9


def maximise(objective: Sequence[float], rows: Sequence[Sequence[float]], limits: Sequence[float]) -> list[float]:
    """The x >= 0 with rows @ x <= limits that makes objective @ x largest; limits must not be negative.

    The simplex method with Bland's rule, which cannot cycle. Raises PintacError if the objective has no maximum.
    """
    a = np.array(rows, np.float64).reshape(len(limits), len(objective))
    b = np.array(limits, np.float64)
    if (b < -_EPSILON).any():
        raise ValueError("the origin is not feasible")
    scale = np.maximum(np.abs(a).max(axis=1, initial=0.0), 1.0)  # rows of fractions beside rows of bytes and cycles
    m, n = a.shape
    tableau = np.hstack([a / scale[:, None], np.eye(m), (np.maximum(b, 0.0) / scale)[:, None]])
    cost = np.concatenate([np.array(objective, np.float64), np.zeros(m + 1)])
    basis = list(range(n, n + m))
    while True:
        entering = next((j for j in range(n + m) if cost[j] > _EPSILON), None)
        if entering is None:
            break
        column = tableau[:, entering]
        ratios = [(tableau[i, -1] / column[i], basis[i], i) for i in range(m) if column[i] > _EPSILON]
        if not ratios:
            raise PintacError("a linear program without a maximum")
        leaving = min(ratios)[2]
        tableau[leaving] /= tableau[leaving, entering]
        for i in range(m):
            if i != leaving:
                tableau[i] -= tableau[i, entering] * tableau[leaving]
        cost -= cost[entering] * tableau[leaving]
        basis[leaving] = entering
    x = np.zeros(n + m)
    x[basis] = tableau[:, -1]
    return [float(v) for v in x[:n]]
