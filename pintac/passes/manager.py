"""The pass manager: runs a pipeline, tells its observers about every pass."""

from __future__ import annotations

from collections.abc import Sequence

from pintac.ir import Graph
from pintac.passes.base import Pass
from pintac.passes.pipeline import parse_pipeline, print_pipeline


class Observer:
    """Sees a pipeline run; passes and graphs are what they are, an observer changes nothing.

    `index` counts passes from 1; 0 is the state before the first.
    """

    def forward(self) -> Observer | None:
        """What watches the passes run on the graph of inference, as this one does on the step's; None: nothing."""
        return None

    def start(self, graph: Graph, passes: Sequence[Pass]) -> None:
        """Before the first pass."""

    def before_pass(self, index: int, pass_: Pass, graph: Graph) -> None:
        """Before each pass."""

    def after_pass(self, index: int, pass_: Pass, before: Graph, after: Graph) -> None:
        """After each pass; `before is after` when it had nothing to do."""

    def finish(self, graph: Graph) -> None:
        """After the last pass."""


class PassManager:
    """A pipeline, as passes or as text, and its observers (asked in order)."""

    def __init__(self, passes: Sequence[Pass] | str, observers: Sequence[Observer] = ()) -> None:
        self.passes = parse_pipeline(passes) if isinstance(passes, str) else tuple(passes)
        self.observers = tuple(observers)

    def __str__(self) -> str:
        return print_pipeline(self.passes)

    def run(self, graph: Graph) -> Graph:
        """The graph after all passes. Errors of passes and observers are raised as they are."""
        for observer in self.observers:
            observer.start(graph, self.passes)
        for index, pass_ in enumerate(self.passes, 1):
            for observer in self.observers:
                observer.before_pass(index, pass_, graph)
            result = pass_.run(graph)
            for observer in self.observers:
                observer.after_pass(index, pass_, graph, result)
            graph = result
        for observer in self.observers:
            observer.finish(graph)
        return graph
