"""Bits by tensor, by hand and chosen by the compiler under a bound on errors: what they save, and what they cost."""

from __future__ import annotations

from dataclasses import replace

from pintac.experiments.catalogue.estimators import NARROW, PACKED
from pintac.experiments.catalogue.recipes import INT4, SHORT, improved
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Table

COLUMNS = ("bits", "seeds", "l2", "spread", "twin", "ratio", "cycles", "bound", "units", "mj")
BY_HAND = ("8/16/8/8", "8/12/8/8", "8/12/8/8,*.delta.even*=4")
BUDGETS = (0.01, 0.05)
BUDGET_512 = 0.05
HIGH_RANK = dict(K=64, estimator="orthonormal", lr=0.003, rank=32, quant="even-odd")


def _auto(budget: float) -> str:
    return f"auto:{budget:g}"


def _chosen(budget: float) -> str:
    return f"errors up to {budget:.0%}"


EXPERIMENT = TableExperiment(
    name="bits",
    title="Bits by tensor, by hand and chosen by the compiler, 2-D Poisson",
    intro="`auto:B`: the cheapest bits whose residual and gradient errors are within B (`insert-smx{policy=auto}`).",
    tables=(
        Table(
            "Improved recipe, K = 4, 1000 steps",
            (
                replace(SHORT, label="by role"),
                *(improved("poisson2d", "by hand", bits=bits) for bits in BY_HAND),
                replace(INT4, label="by role, INT4 deltas"),
                *(improved("poisson2d", _chosen(budget), bits=_auto(budget)) for budget in BUDGETS),
                replace(NARROW, label="packed rows, by hand"),
                replace(PACKED, label="packed rows, INT4 deltas", run=PACKED.run.but(bits="8/12/4/8")),
            ),
            COLUMNS,
        ),
        Table(
            "Stein K = 512, plus/minus",
            (
                Row("by role", Run.of("poisson2d")),
                Row("gradients of 8 bits", Run.of("poisson2d", bits="8/16/8/8")),
                Row(_chosen(BUDGET_512), Run.of("poisson2d", bits=_auto(BUDGET_512))),
            ),
            COLUMNS,
        ),
        Table(
            "INT4 deltas at R = 32, K = 64 orthonormal evaluations, even/odd",
            (
                Row("by role", Run.of("poisson2d", **HIGH_RANK)),
                Row("INT4 deltas", Run.of("poisson2d", **HIGH_RANK, bits="8/16/4/12")),
                Row("INT4 deltas but the first", Run.of("poisson2d", **HIGH_RANK, bits="8/16/4/12,0.delta=16")),
            ),
            COLUMNS,
        ),
    ),
)
