"""`pintac check`: whether the result of a program is its listing's under every timing of the queues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pintac import hazards
from pintac.errors import ProgramError
from pintac.hazards import Verdict
from pintac.program import Program
from pintac.program_file import load
from pintac.runtime.work import count_work
from pintac.timeline import parameter_block

AT_ONCE = 500_000
"""Instructions that an entry executes up to which it is checked wherever it is made: half a second."""

MOST = 20_000_000
"""Instructions that an entry executes up to which it can be checked: gigabytes of memory."""


@dataclass(frozen=True)
class Checked:
    """What was found in an entry that executes so many instructions; `verdict` None: too many to look at."""

    entry: str
    executed: int
    verdict: Verdict | None

    @property
    def name(self) -> str:
        """ "clean", "hazard", "error" or "not checked"."""
        return "not checked" if self.verdict is None else self.verdict.name

    def lines(self, program: Program) -> list[str]:
        """A line for the entry and one for each problem, with the source lines of its instructions."""
        out = [f"{self.entry}: {self.name}, {self.executed:,} instructions executed"]
        for problem in self.verdict.problems if self.verdict else ():
            origins = [program.origin(pc) for pc in problem.pcs]
            places = dict.fromkeys(f"{o.file}:{o.line}" for o in origins if o.file)
            kind = "" if problem.message.startswith(problem.kind) else f"{problem.kind}: "
            out.append(f"  {kind}{problem.message}" + (f" ({', '.join(places)})" if places else ""))
        return out


def check(program: Program | str | Path, most: int = MOST) -> tuple[Checked, ...]:
    """Check every entry with the parameters of its first step; one that executes more than `most` is not looked at.

    Found are conflicts between queues that no signal orders, semaphores over their capacity, waits without a signal,
    addresses out of bounds and reads of what nothing wrote (`pintac/hazards.py`). Raises ProgramError for what is not a
    program.
    """
    loaded = program if isinstance(program, Program) else load(program)
    found = []
    for entry in loaded.entries:
        executed = count_work(loaded, entry, parameter_block(loaded)).instructions
        found.append(Checked(entry, executed, hazards.check(loaded, entry) if executed <= most else None))
    return tuple(found)


def refuse_problems(program: Program) -> tuple[Checked, ...]:
    """Raise `ProgramError` with the first problem of an entry. What was checked, entries too long for that included."""
    checked = check(program, AT_ONCE)
    for found in checked:
        if found.verdict is not None and found.verdict.problems:
            lines = found.lines(program)
            more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
            raise ProgramError(
                f"{found.name} in the entry {found.entry}: {lines[1].strip()}{more}",
                hint="--unchecked writes the program all the same; `pintac check` then lists every problem",
            )
    return checked
