"""Rank of the tensor trains and order of contraction: error, parameters, multiply-accumulates."""

from __future__ import annotations

from dataclasses import replace

from pintac.experiments.catalogue.recipes import PAPER_BITS, improved
from pintac.experiments.claims import cost_quotient, error_ratio
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Claim, Figure, Table

RANKS = (4, 8, 16, 32, 64)
COMPARED = (8, 16, 32)
COLUMNS = (
    "parameters", "compression", "seeds", "l2", "spread", "twin", "ratio", "skill", "macs", "cycles", "bound", "mj",
    "paper",
)  # fmt: skip


def paper_row(rank: int, scheme: str = "prs") -> Row:
    """A rank at the paper's precisions and estimator."""
    name = {"prs": "PRS", "sequential": "sequential"}[scheme]
    return Row(f"{name} R={rank}", Run.of("poisson2d", rank=rank, scheme=scheme, bits=PAPER_BITS))


def our_row(rank: int, scheme: str = "prs") -> Row:
    """A rank with the improved recipe."""
    name = {"prs": "PRS", "sequential": "sequential"}[scheme]
    return improved("poisson2d", f"{name} R={rank}", rank=rank, scheme=scheme)


DENSE = Row("dense", Run.of("poisson2d", scheme="dense", bits=PAPER_BITS))
PRS, SEQUENTIAL = paper_row(16), paper_row(16, "sequential")
OUR_PRS, OUR_SEQUENTIAL = our_row(16), our_row(16, "sequential")

EXPERIMENT = TableExperiment(
    name="ranks",
    title="Rank and order of contraction, 2-D Poisson",
    intro="Compression: parameters of the same network with dense layers over those of this one.",
    tables=(
        Table(
            f"Stein K = 512, {PAPER_BITS}",
            (*(paper_row(rank) for rank in RANKS), *(paper_row(rank, "sequential") for rank in COMPARED), DENSE),
            COLUMNS,
        ),
        Table(
            "Improved recipe, 8/16/8/12",
            (
                *(our_row(rank) for rank in RANKS),
                *(our_row(rank, "sequential") for rank in COMPARED),
                improved("poisson2d", "dense", scheme="dense"),
            ),
            COLUMNS,
        ),
    ),
    claims=(
        Claim(
            "PRS over sequential, MAC a step, R = 16 (the paper says 1.3, our count of the layer alone half)",
            cost_quotient("macs_per_step", PRS, SEQUENTIAL),
            1.3,
            "below",
            None,
            (PRS, SEQUENTIAL),
            "paper",
        ),
        error_ratio("Sequential over PRS, l2, R = 16 (the paper says 2 to 10)", SEQUENTIAL, PRS, 2.0, "paper"),
        error_ratio("The same with the improved recipe", OUR_SEQUENTIAL, OUR_PRS, 2.0, "paper"),
    ),
    figures=(
        Figure(
            "ranks",
            "2-D Poisson, improved recipe: error of a run against its energy, by rank",
            (
                *(replace(our_row(rank), label=f"PRS, R = {rank}") for rank in RANKS),
                *(replace(our_row(rank, "sequential"), label=f"sequential, R = {rank}") for rank in COMPARED),
            ),
            kind="series",
        ),
    ),
)
