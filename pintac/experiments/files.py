"""The folder of results: where its figures are, whether it can be written, JSON of the expected kinds or one error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pintac.errors import ResultsError
from pintac.json_kinds import Kind, KindError

SIGN = "RESULTS.md"
"""Where this page lies above the folder of results, it and its neighbours and the README may hold blocks."""


def figures_folder(results: Path) -> Path:
    """`figures/`: beside the folder of results where pages show them, else inside it."""
    beside = (results.resolve().parent / SIGN).is_file()
    return (results.parent if beside else results) / "figures"


def check_folder(results: Path) -> None:
    """Make the folder, and a file in it for a moment. Raises ResultsError before hours of work whose results it cannot
    take."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise ResultsError(f"cannot write results to {results}: {error.strerror}", hint="--results DIR") from None


def read_json(path: Path, kind: Kind, hint: str) -> Any:
    """What a file holds. Raises ResultsError with this hint for one that cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text())
        kind(content, "")
    except (OSError, ValueError, RecursionError, KindError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ResultsError(f"{path} cannot be read: {reason}", hint=hint) from None
    return content
