"""The experiment `hardware`: a step on the simulated machine beside the same step measured here."""

from __future__ import annotations

import sys
from pathlib import Path

from pintac.experiments.hardware.figures import ad_seconds_per_step
from pintac.experiments.hardware.measure import Collector, load
from pintac.experiments.hardware.page import markdown
from pintac.experiments.hardware.plot import draw, figure_path
from pintac.experiments.results import Results
from pintac.experiments.rows import Seeds
from pintac.experiments.runs import Run
from pintac.experiments.tables import Rendered


class HardwareExperiment:
    """It needs no training run: everything is measured or compiled by `measure`, and kept."""

    name = "hardware"
    title = "A step and a run on PINTA beside the same training on this host"

    def runs(self, seeds: Seeds, quick: bool = False, only: str | None = None) -> list[Run]:
        """None."""
        return []

    def measure(self, results: Path, quick: bool = False, again: str = "") -> None:
        """What is missing of `hardware.json`; `again` drops a part of it first (`measure.PARTS`)."""

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)  # noqa: T201  progress of minutes

        Collector(results, quick, say, again).run()

    def render(self, results: Results) -> Rendered:
        """The tables of what is there."""
        folder = results.store.results
        data = load(folder, results.quick)
        return Rendered(
            markdown(data),
            {**data, "ad_seconds_per_step": ad_seconds_per_step(data)},
            drawings=(lambda: draw(data, figure_path(folder)),),
        )
