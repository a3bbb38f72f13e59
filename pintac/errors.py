"""The errors a user can cause, each with a place and a remedy.

Every error a user can provoke (a model, IR text, assembly, a program file, a machine file, a flag) is a
`PintacError`; the command line prints it as one message and exits with `exit_code`. Anything else that
escapes is a bug of ours.
"""

from __future__ import annotations

from typing import Any, Protocol


class SourceLocation(Protocol):
    """Anything with a file and a line: `ir.Location`, an assembler position."""

    @property
    def file(self) -> str: ...

    @property
    def line(self) -> int: ...


class PintacError(Exception):
    """A problem in what the user gave us.

    `message` says what was wrong, `location` where, `hint` what to do, `code` is a short stable name for tools.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, location: SourceLocation | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.hint = hint

    def __str__(self) -> str:
        place = ""
        if self.location is not None:
            column = getattr(self.location, "col", 0)
            place = f"{self.location.file}:{self.location.line}{f':{column}' if column else ''}: "
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}{self.message}{hint}"


class UsageError(PintacError):
    """A flag or argument that cannot be (exit code 2)."""

    code = "usage"
    exit_code = 2


class ModelError(PintacError):
    """The user's torch model, problem or training step cannot be compiled."""

    code = "model"


class IRError(PintacError):
    """IR that breaks a rule: in text, or built by a pass."""

    code = "ir"


class PassError(PintacError):
    """An unknown pass or option, or a graph that a pass cannot transform."""

    code = "pass"


class MachineError(PintacError):
    """A machine file with an unknown or impossible key."""

    code = "machine"


class DoesNotFitError(PintacError):
    """A program that this machine cannot hold: demand, limit and what would help stand in the message."""

    code = "does-not-fit"


class AssemblyError(PintacError):
    """Assembly text that cannot be encoded."""

    code = "assembly"


class ProgramError(PintacError):
    """Not a program file, a damaged one, or one for another ISA or machine."""

    code = "program"


class CheckpointError(PintacError):
    """A checkpoint or weights file that does not belong to this program."""

    code = "checkpoint"


class ExecutionError(PintacError):
    """An instruction that cannot be executed: out of bounds, a semaphore over its capacity, ..."""

    code = "execution"


class CallbackError(PintacError):
    """A callback that raised: `result` is what the run had until then, `__cause__` the exception itself."""

    code = "callback"

    def __init__(
        self, message: str, result: Any, *, location: SourceLocation | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.result = result


class ResultsError(PintacError):
    """A file of results that is damaged, or not what its name says."""

    code = "results"


class ComparisonError(ResultsError):
    """Figures that should be equal and are not (exit code 4)."""

    code = "comparison"
    exit_code = 4


def suggest(word: str, known: list[str]) -> str | None:
    """A "did you mean" hint for a mistyped name, or a list of what exists."""
    import difflib

    close = difflib.get_close_matches(str(word), known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(sorted(known, key=_in_order)) if known else None


def _in_order(word: str) -> tuple[int, str]:
    """Numbers by their value, before words."""
    return (int(word), word) if word.isdecimal() else (1 << 63, word)
