"""What an engine is, and how to get one by name."""

from __future__ import annotations

from typing import Protocol

from pintac.errors import UsageError, suggest
from pintac.program import Program
from pintac.runtime.state import MachineState

ENGINES = ("reference", "jit")


class Engine(Protocol):
    """Executes entries of one program on one state, in listing order. All engines leave the same bits."""

    def run(self, entry: str) -> None:
        """Run an entry from its first to its last instruction with the parameter block as it stands.

        Raises `ExecutionError` naming the instruction and the user's source line; the state is then unspecified.
        """


def make_engine(name: str, program: Program, state: MachineState, threads: int = 1) -> Engine:
    """The engine called `name` ("reference" or "jit"), ready to run. `threads` concerns the jit engine only."""
    if name == "reference":
        from pintac.runtime.reference import ReferenceEngine

        return ReferenceEngine(program, state)
    if name == "jit":
        from pintac.runtime.jit import JitEngine

        return JitEngine(program, state, threads=threads)
    raise UsageError(f"there is no engine {name!r}", hint=suggest(name, list(ENGINES)))
