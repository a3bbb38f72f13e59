"""The perturbation's size: how soon training gets somewhere, and where it ends."""

from __future__ import annotations

from pintac.experiments.catalogue.recipes import PAPER_BITS, improved
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Table

SIGMAS = (0.001, 0.005, 0.01, 0.05)
COLUMNS = ("bits", "seeds", "l2", "spread", "steps_to", "twin", "ratio", "skill", "cycles", "mj", "joules", "paper")
NOTE = "Steps are counted at the granularity of the history, every 20 steps, on 1,024 of the test points."

EXPERIMENT = TableExperiment(
    name="sigma",
    title="sigma: final error, and steps to an error of 2e-2",
    intro="2-D Poisson. The twin has the same sigma, so the ratio shows what sigma costs quantisation alone.",
    tables=(
        Table(
            "Stein, K = 512",
            (
                *(Row(f"DiffQuant, sigma {s}", Run.of("poisson2d", sigma=s, bits=PAPER_BITS)) for s in SIGMAS),
                *(
                    Row(f"naive, sigma {s}", Run.of("poisson2d", sigma=s, quant="naive", bits=PAPER_BITS))
                    for s in SIGMAS
                ),
            ),
            COLUMNS,
            NOTE,
        ),
        Table(
            "Improved recipe",
            (
                *(improved("poisson2d", f"even/odd, sigma {s}", sigma=s) for s in SIGMAS),
                *(improved("poisson2d", f"plus/minus DiffQuant, sigma {s}", sigma=s, quant="diff") for s in SIGMAS),
            ),
            COLUMNS,
            NOTE,
        ),
    ),
)
