"""What a pass is: a frozen dataclass whose fields are its options and whose `run` returns a new graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from pintac.ir import Graph

RARE: Mapping[str, bool] = MappingProxyType({"rare": True})
"""Metadata of an option that pipelines print only where it is not the default."""


class Pass(ABC):
    """One transformation of a graph.

    Subclasses are frozen dataclasses; `name` is the name in pipelines and the file's name with dashes. `preserves` says
    that in exact arithmetic every output that exists before and after has the same value, so that the observer
    `NumericCheck` may compare them. `forward` says that it also runs on the graph of inference, which is the network
    alone; the others are about the training step. `run` leaves valid IR and returns the same object when it has nothing
    to do.
    """

    name: ClassVar[str]
    preserves: ClassVar[bool] = False
    forward: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph: Graph) -> Graph:
        """The transformed graph. Raises PassError, with a location, for a graph that the pass cannot transform."""
