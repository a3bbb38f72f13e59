"""Equations that are not built in: the files in examples/."""

from __future__ import annotations

from pintac.experiments.experiment import TableExperiment
from pintac.experiments.rows import Row
from pintac.experiments.runs import Run
from pintac.experiments.tables import Table

ALLEN_CAHN = Row("Allen-Cahn, 1-D", Run.of("examples/allen_cahn_1d.py:step"))
HELMHOLTZ = Row("Helmholtz, 2-D", Run.of("examples/helmholtz2d.py:step", quant="even-odd"))
KORTEWEG_DE_VRIES = Row("Korteweg-de Vries, a system of two", Run.of("examples/kdv_soliton.py:step", quant="even-odd"))
DIFFUSIVITY = Row("Diffusivity of a rod, inverse", Run.of("examples/diffusivity.py:step", quant="even-odd"))

EXPERIMENT = TableExperiment(
    name="examples",
    title="Equations of users: Allen-Cahn, Helmholtz, Korteweg-de Vries, an inverse problem",
    tables=(Table("", (ALLEN_CAHN, HELMHOLTZ, KORTEWEG_DE_VRIES, DIFFUSIVITY)),),
)
