"""Table 3: precisions, one at a time; the paper's W8-A8-E8 against the widest that the formats go."""

from __future__ import annotations

from pintac.experiments.catalogue.recipes import PAPER_BITS, SHORT, improved
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Figure, Table

COLUMNS = (
    "bits", "seeds", "l2", "spread", "mse", "twin", "ratio", "skill", "cycles", "bound", "units", "mj", "paper",
)  # fmt: skip

DEFAULT = Run.of("poisson2d").bits
ONE_AT_A_TIME = {
    "W": ("4/16/8/12", "12/16/8/12", "16/16/8/12"),
    "B": ("8/4/8/12", "8/8/8/12", "8/12/8/12"),
    "D": ("8/16/4/12", "8/16/12/12", "8/16/16/12"),
    "G": ("8/16/8/4", "8/16/8/8", "8/16/8/16"),
}
ROLES = {"W": "weights", "B": "base activations", "D": "deltas", "G": "gradients"}


def _name(role: str, bits: str) -> str:
    return f"{ROLES[role]} INT{bits.split('/')['WBDG'.index(role)]}"


EXPERIMENT = TableExperiment(
    name="table3",
    title="Precisions W/B/D/G one at a time, and the paper's W8-A8-E8",
    intro=(
        "Activations (A) are the base and delta precisions, errors (E) the gradients. The formats end at 16 bits, so "
        "W8-A32-E32 is read as the widest, 8/16/16/16; the paper's MSE is not published to us."
    ),
    tables=(
        Table(
            "The paper's setting: 2-D Poisson, Stein K = 512, DiffQuant",
            (
                Row("W8-A8-E8", Run.of("poisson2d", bits="8/8/8/8")),
                Row("W8-A8-E12 (the paper's main setting)", Run.of("poisson2d", bits=PAPER_BITS)),
                Row("our default", Run.of("poisson2d")),
                Row("W8-A16-E16, for W8-A32-E32", Run.of("poisson2d", bits="8/16/16/16")),
                Row("naive at W8-A8-E12", Run.of("poisson2d", quant="naive", bits=PAPER_BITS)),
                Row("naive at W8-A16-E12", Run.of("poisson2d", quant="naive", bits="8/16/16/12")),
            ),
            COLUMNS,
        ),
        Table(
            "One at a time: 2-D Poisson, Stein K = 512, DiffQuant",
            (
                Row("our default", Run.of("poisson2d")),
                *(
                    Row(_name(role, bits), Run.of("poisson2d", bits=bits))
                    for role, choices in ONE_AT_A_TIME.items()
                    for bits in choices
                ),
            ),
            COLUMNS,
        ),
        Table(
            "One at a time: 2-D Poisson, improved recipe, 1000 steps",
            (
                SHORT,
                *(
                    improved("poisson2d", _name(role, bits), bits=bits)
                    for role, choices in ONE_AT_A_TIME.items()
                    for bits in choices
                ),
            ),
            COLUMNS,
        ),
    ),
    figures=(
        Figure(
            "precisions",
            "2-D Poisson, Stein K = 512: error against cycles, bits of one role at a time",
            tuple(
                Row(f"{ROLES[role]}, {bits.split('/')[at]}", Run.of("poisson2d", bits=bits))
                for at, (role, choices) in enumerate(ONE_AT_A_TIME.items())
                for bits in sorted((*choices, DEFAULT), key=lambda bits: int(bits.split("/")[at]))
            ),
            kind="series",
            against="cycles",
        ),
    ),
)
