"""Whether the sigma of a step fits its domain and its network: what is said of it before a run and at every look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pintac.errors import PintacError
from pintac.report import diagnostics
from pintac.report.diagnostics import Finding
from pintac.report.sigma import Derivatives

if TYPE_CHECKING:
    from pintac.frontend import Term, TrainStep

EVALUATIONS = 2048  # of a term, unless that is fewer than those of `FEWEST` points
FEWEST = 4
MOST_WHOLE = 1 << 16  # evaluations of a fixed set that can only be taken whole
DOMAIN_POINTS = 1024  # of a term, for the extent of the domain


class SigmaLook:
    """Looks at the sigma of a step; traced when it is first asked."""

    def __init__(self, step: TrainStep) -> None:
        self._step = step
        self._made: tuple[Derivatives | None] | None = None

    def __call__(self, seed: int, number: int, states: Mapping[str, np.ndarray], said: int) -> list[Finding]:
        """What these weights show with the random numbers of step `number`; at step `said` it is said."""
        if self._made is None:
            self._made = (self._derivatives(),)
        (derivatives,) = self._made
        try:
            return [] if derivatives is None else self._found(derivatives, seed, number, states, said)
        except PintacError:  # a sampler of the user's that gives no such number of points: no reason to end a run
            return []

    def _found(
        self, derivatives: Derivatives, seed: int, number: int, states: Mapping[str, np.ndarray], said: int
    ) -> list[Finding]:
        biases = derivatives.biases(seed, number, states)
        worst = max(biases, key=lambda bias: bias.change, default=None)
        if worst is not None and worst.change > diagnostics.BIAS:
            return list(diagnostics.long_perturbations(derivatives.with_better(worst, seed, number, states), said))
        return list(diagnostics.outside(derivatives.sigma, self._extents(derivatives, seed), said))

    def _derivatives(self) -> Derivatives | None:
        """None for a step that cannot be had on few points."""
        from pintac.frontend import trace_step

        for points in (_few, _few_drawn):
            counts = {term.name: points(term, self._step.estimator.K) for term in self._step.terms()}
            if max(counts.values()) * self._step.estimator.K <= MOST_WHOLE:
                try:
                    return Derivatives(*trace_step(self._step, points=counts))
                except PintacError:  # a residual holds a value for each point of a fixed set
                    continue
        return None

    def _extents(self, derivatives: Derivatives, seed: int) -> dict[int, float]:
        terms = enumerate(self._step.terms())
        x = np.concatenate([t.sampler.sample(min(t.count, DOMAIN_POINTS), seed, 0, number) for number, t in terms])
        return {axis: float(np.ptp(x[:, axis])) for axis in sorted(derivatives.columns())}


def _few(term: Term, evaluations: int) -> int:
    return min(term.count, max(FEWEST, EVALUATIONS // evaluations))


def _few_drawn(term: Term, evaluations: int) -> int:
    return term.count if term.sampler.fixed_points is not None else _few(term, evaluations)
