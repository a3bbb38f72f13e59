"""`pintac.explain`: where the cycles of a program go. It needs neither torch nor what the program was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pintac.api.running import load
from pintac.errors import UsageError, suggest
from pintac.machine import Machine
from pintac.program import Program
from pintac.report.explain.explain import Explanation
from pintac.report.explain.explain import explain as explain_program
from pintac.report.explain.ledger import BY
from pintac.timeline import program_machine


def explain(
    program: Program | str | Path,
    *,
    entry: str = "step",
    machine: Machine | str | Path | None = None,
    machine_keys: Sequence[str] = (),
    by: str = "layer",
) -> Explanation:
    """Busy cycles, utilisation, bytes, joules, bound, gap and stalls of a program; print its `text()`.

    entry         "step" or "infer"
    machine       run the same program on another machine (default: the one it was compiled for)
    machine_keys  settings `key=value` that change it
    by            what is summed: "layer" (and phase), "op", "line" of the source, or "unit"

    Raises ProgramError for what is not a program or has no such entry, MachineError for a machine that cannot execute
    the program as it is.
    """
    if by not in BY:
        raise UsageError(f"cannot sum by {by!r}", hint=suggest(by, list(BY)) or f"one of {', '.join(BY)}")
    loaded = program if isinstance(program, Program) else load(program)
    return explain_program(loaded, entry, chosen_machine(loaded, machine, machine_keys), by)


def chosen_machine(program: Program, machine: Machine | str | Path | None, keys: Sequence[str] = ()) -> Machine:
    """The machine asked for, with `key=value` settings applied; by default the program's own. Raises MachineError."""
    own = program_machine(program) if machine is None else machine
    base = own if isinstance(own, Machine) else Machine.load(own)
    return base.override(keys) if keys else base
