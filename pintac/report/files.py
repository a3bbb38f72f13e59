"""Writing results: to stdout for `-`, else to a file that appears whole or not at all."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TextIO

from pintac.errors import PintacError
from pintac.program import write_atomically

STDOUT = "-"


def write_text(target: str | None, text: str) -> None:
    """Write to the file `target`, or to stdout if it is None or `-`. Raises `PintacError` if it cannot be written."""
    if target is None or target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_bytes(target, text.encode())


def write_bytes(target: str, content: bytes) -> None:
    """Write a file atomically. Raises `PintacError` if it cannot be written."""
    try:
        write_atomically(Path(target), content)
    except OSError as error:
        raise PintacError(f"cannot write {target}: {error.strerror}") from None


def read_text(source: str) -> tuple[str, str]:
    """(text, name for messages) of a file, or of stdin for `-`. Raises `PintacError` if it cannot be read."""
    if source == STDOUT:
        return sys.stdin.read(), "<stdin>"
    try:
        return Path(source).read_text(), source
    except OSError as error:
        raise PintacError(f"cannot read {source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PintacError(f"{source} is not a text file") from None


def check_writable(target: str | None) -> None:
    """Refuse an output path before hours of work: a file can be made in its folder. Raises `PintacError`."""
    if target is None or target == STDOUT:
        return
    path = Path(target)
    if path.is_dir():
        raise PintacError(f"cannot write {target}: it is a folder")
    if not path.parent.is_dir():
        raise PintacError(f"cannot write {target}: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PintacError(f"cannot write {target}: {path.parent}: {error.strerror}") from None


def say(text: str, stream: TextIO | None = None) -> None:
    """A message on stderr."""
    print(text, file=stream or sys.stderr, flush=True)
