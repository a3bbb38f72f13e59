"""The three thresholds that are looked at first."""

from __future__ import annotations

from pintac.experiments.catalogue.recipes import PAPER_BITS
from pintac.experiments.claims import error_below, error_ratio
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.latency import speed_up
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Claim, Table

PRS = Row("Poisson, PRS R=16", Run.of("poisson2d"), "< 6e-3")
PRS_PAPER_BITS = Row("Poisson, PRS R=16, the paper's precisions", Run.of("poisson2d", bits=PAPER_BITS), "< 6e-3")
NAIVE = Row("HJB, naive, dense", Run.of("hjb20", quant="naive", scheme="dense", bits=PAPER_BITS))
DIFFQUANT = Row("HJB, DiffQuant, dense", Run.of("hjb20", scheme="dense", bits=PAPER_BITS))
NAIVE_WAVE = Row("HJB wave, naive, dense", Run.of("hjb20-wave", quant="naive", scheme="dense", bits=PAPER_BITS))
DIFFQUANT_WAVE = Row("HJB wave, DiffQuant, dense", Run.of("hjb20-wave", scheme="dense", bits=PAPER_BITS))
HEAT = Row("heat, one step for its latency", Run.of("heat100", steps=1, bits=PAPER_BITS), twin=False, most_seeds=1)

SIGMA_ADVICE = (5.0, "check sigma")

EXPERIMENT = TableExperiment(
    name="first",
    title="Three thresholds: Poisson's error, naive against DiffQuant, heat's latency against AD",
    tables=(Table("", (PRS, PRS_PAPER_BITS, NAIVE, DIFFQUANT, NAIVE_WAVE, DIFFQUANT_WAVE)),),
    claims=(
        error_below("Poisson, PRS R = 16: l2 at 8/16/8/12", PRS, 6e-3, "target", (1e-2, "debug DiffQuant")),
        error_below(
            f"Poisson, PRS R = 16: l2 at {PAPER_BITS}", PRS_PAPER_BITS, 6e-3, "paper", (1e-2, "debug DiffQuant")
        ),
        error_ratio("HJB: naive / DiffQuant", NAIVE, DIFFQUANT, 10.0, "paper", SIGMA_ADVICE),
        error_ratio(
            "HJB wave (ours, ranks methods): naive / DiffQuant", NAIVE_WAVE, DIFFQUANT_WAVE, 10.0, "ours", SIGMA_ADVICE
        ),
        Claim(
            "heat: seconds of an AD step measured here / of a simulated step",
            lambda results: speed_up(results, HEAT),
            50.0,
            "above",
            None,
            (HEAT,),
            "target",
        ),
    ),
    more_rows=(HEAT,),
)
