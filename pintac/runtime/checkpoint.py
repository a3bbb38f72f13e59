"""Checkpoints: the states of a run between two steps, tied to the program they belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pintac.container import SealError, seal, unseal, write_atomically
from pintac.errors import CheckpointError
from pintac.json_kinds import KindError, having, items, maybe, number, row, text, whole
from pintac.runtime.history import History, Row, finite

KEY = "pintac-checkpoint"
FORMAT = 1
_WORD = whole(0, 2**32 - 1)
_HEADER = having(
    {"program": text, "step": whole(0), "seed": _WORD, "status": _WORD},
    history=items(row(whole(0), maybe(number), maybe(number), having({}))),
)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a step reads from earlier steps.

    `step` counts finished steps, `status` holds the sticky flags, `arrays` states and metrics by symbol name,
    `history` what was measured on the way.
    """

    program_digest: str
    step: int
    seed: int
    status: int
    arrays: Mapping[str, np.ndarray]
    history: History = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises `CheckpointError` if it cannot be written."""
        header = {
            "format": FORMAT,
            "program": self.program_digest,
            "step": self.step,
            "seed": self.seed,
            "status": self.status,
            "history": finite(self.history),
        }
        content, _digest = seal(KEY, header, self.arrays)
        try:
            write_atomically(Path(path), content)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def load_checkpoint(path: str | os.PathLike[str], program_digest: str) -> Checkpoint:
    """Read a checkpoint of the program with this digest. Every failure is a `CheckpointError` that names the file."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    try:
        header, arrays = unseal(KEY, raw)
    except SealError as error:
        raise CheckpointError(f"{path} is not a usable checkpoint: {error}") from None
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {header.get('format')}, this pintac reads {FORMAT}")
    try:
        _HEADER(header, "")
    except KindError as error:
        raise CheckpointError(f"{path} is malformed: {error}") from None
    if header["program"] != program_digest:
        raise CheckpointError(
            f"{path} belongs to another program ({header['program'][:12]}, this one is {program_digest[:12]})",
            hint="resume with the program, machine and options that wrote it; what a model draws at random when it is "
            "made (buffers, data) is part of a program: torch.manual_seed(...) before",
        )
    history = tuple(Row(*row) for row in header.get("history", ()))
    return Checkpoint(header["program"], header["step"], header["seed"], header["status"], arrays, history)
