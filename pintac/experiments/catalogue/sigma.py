"""The perturbation's size: how soon training gets somewhere, and where it ends."""

from __future__ import annotations

from pintac.experiments.catalogue.recipes import PAPER_BITS, improved
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Figure, Table

SIGMAS = (0.001, 0.005, 0.01, 0.05)
COLUMNS = ("bits", "seeds", "l2", "spread", "steps_to", "twin", "ratio", "skill", "cycles", "mj", "joules", "paper")
NOTE = "Steps are counted at the granularity of the history, every 20 steps, on 1,024 of the test points."


def _named(series: str, sigma: float, **flags: str) -> Row:
    """A row of the figure: its series, and where on it."""
    return Row(f"{series}, {sigma}", Run.of("poisson2d", sigma=sigma, **flags))


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
    figures=(
        Figure(
            "sigma",
            "2-D Poisson: error against sigma",
            (
                *(_named("Stein K=512, DiffQuant 8/8/8/12", s, bits=PAPER_BITS) for s in SIGMAS),
                *(_named("Stein K=512, naive 8/8/8/12", s, quant="naive", bits=PAPER_BITS) for s in SIGMAS),
                *(improved("poisson2d", f"K=4, even/odd 8/16/8/12, {s}", sigma=s) for s in SIGMAS),
                *(improved("poisson2d", f"K=4, plus/minus 8/16/8/12, {s}", sigma=s, quant="diff") for s in SIGMAS),
            ),
            kind="series",
            against="sigma",
        ),
    ),
)
