"""The few rows that the first page of the project shows; their runs belong to the other experiments."""

from __future__ import annotations

from pintac.experiments.catalogue.examples import ALLEN_CAHN, HELMHOLTZ
from pintac.experiments.catalogue.recipes import IMPROVED, PAPER
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Table

COLUMNS = ("bits", "seeds", "l2", "spread", "twin", "ratio", "skill", "cycles", "bound", "mj", "joules")

EXPERIMENT = TableExperiment(
    name="summary",
    title="The rows on the first page",
    tables=(
        Table(
            "",
            (
                PAPER["poisson2d"],
                Row("`poisson2d`, Stein K=512, base INT16", Run.of("poisson2d")),
                *IMPROVED.values(),
                ALLEN_CAHN,
                HELMHOLTZ,
            ),
            COLUMNS,
        ),
    ),
)
