"""What an experiment is: training runs that it needs, what else it measures, what it shows of both."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pintac.experiments.markdown import render_experiment
from pintac.experiments.results import Results
from pintac.experiments.rows import Seeds
from pintac.experiments.runs import Run
from pintac.experiments.tables import Rendered, Tables


class Experiment(Protocol):
    """What `pintac reproduce NAME` needs. Tables of runs are `TableExperiment`s; others bring their own class."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """One line for `--list` and headings."""
        ...

    def runs(self, seeds: Seeds, quick: bool = False, only: str | None = None) -> list[Run]:
        """The training runs it needs, the most important first."""
        ...

    def measure(self, results: Path, quick: bool = False, again: str = "") -> None:
        """What is measured here and is not a training run, kept under `results`; tables have nothing of that kind.

        `again` says what is made anew though it is there: "", "host", "models" or "all".
        """
        ...

    def render(self, results: Results) -> Rendered:
        """Everything that is there now; what is not there says so."""
        ...


class TableExperiment(Tables):
    """An experiment that is tables of runs."""

    def measure(self, results: Path, quick: bool = False, again: str = "") -> None:
        """Nothing: everything it shows is in its runs."""

    def render(self, results: Results) -> Rendered:
        """Tables and claims."""
        return render_experiment(self, results)
