"""Table 1: every method on every problem."""

from __future__ import annotations

from pintac.experiments.catalogue.recipes import IMPROVED, PAPER_BITS
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import DEFAULTS, Run
from pintac.experiments.tables import Figure, Table

RANKS = (8, 16, 32)
RANKED = ("poisson2d", "hjb20-wave", "heat100-wave")
"""Problems that rank methods: these are drawn."""


def methods(problem: str) -> tuple[Row, ...]:
    """The rows of one problem, in the order of the paper's abbreviations."""
    paper = dict(bits=PAPER_BITS)
    return (
        Row("AD-FP-FR (nested autograd, dense)", Run.of(problem, quant="none", scheme="dense", derivatives="autograd")),
        Row("SE-FP-FR (dense)", Run.of(problem, quant="none", scheme="dense")),
        Row("SE-FP-TT R=16", Run.of(problem, quant="none")),
        Row("SE-SMX naive, dense", Run.of(problem, quant="naive", scheme="dense", **paper)),
        Row("SE-DiffQuant, dense", Run.of(problem, scheme="dense", **paper)),
        Row("SE-TT-Seq-DiffQuant R=16", Run.of(problem, scheme="sequential", **paper)),
        *(
            Row(f"SE-TT-PRS-DiffQuant R={rank}", Run.of(problem, rank=rank, **paper), _paper(problem, rank))
            for rank in RANKS
        ),
        Row("SE-TT-PRS-DiffQuant R=16, width 512", Run.of(problem, width=512, **paper)),
        Row("SE-TT-PRS-DiffQuant R=16, base INT16 (our default)", Run.of(problem)),
        Row("improved recipe (ours)", IMPROVED[problem].run, first_seed=IMPROVED[problem].first_seed),
    )


def _paper(problem: str, rank: int) -> str:
    return "< 6e-3" if (problem, rank) == ("poisson2d", 16) else "-"


NOTES = {
    "hjb20": "This problem does not rank methods: its solution is affine, and a zero network scores 5.5e-2.",
    "heat100": "This problem does not rank methods: u = t alone scores 8.5e-3, an affine function 1.7e-4.",
}

EXPERIMENT = TableExperiment(
    name="table1",
    title="Methods: AD, SE, naive SMX, DiffQuant, sequential and PRS tensor trains, the improved recipe",
    intro=(
        "AD: automatic differentiation; SE: Stein estimator, 512 evaluations; FP: fp32 in torch; FR: full rank (dense "
        "layers); SMX: quantised on the simulator. The paper's own figures of this table are not published to us, but "
        "for the limits that its claims give."
    ),
    tables=tuple(Table(f"`{name}`", methods(name), note=NOTES.get(name, "")) for name in DEFAULTS),
    figures=tuple(
        Figure(f"methods-{name}", f"{name}: error of a run against its energy, by method", methods(name), kind="points")
        for name in RANKED
    ),
)
