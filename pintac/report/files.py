"""Writing results: to stdout for `-`, else to a file that appears whole or not at all."""

from __future__ import annotations

import os
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
        _print(text)
        return
    write_bytes(target, text.encode())


def _print(text: str) -> None:
    """To stdout, at once. A full disk is the user's to mend; that the reader is gone is for the caller to judge."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise PintacError(f"cannot write to stdout: {error.strerror}") from None


def discard_stdout() -> None:
    """Send what is still in the buffer of stdout nowhere: else the interpreter fails when it ends."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def write_bytes(target: str, content: bytes) -> None:
    """Write a file atomically; to a device or a pipe as it is. Raises `PintacError` if it cannot be written."""
    path = Path(target)
    try:
        if special(path):
            path.write_bytes(content)
        else:
            write_atomically(path, content)
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
    try:
        if path.is_dir():
            raise PintacError(f"cannot write {target}: it is a folder")
        if not path.parent.is_dir():
            raise PintacError(f"cannot write {target}: there is no folder {path.parent}")
        if not special(path):
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise PintacError(f"cannot write {target}: {path.parent}: {error.strerror}") from None


def special(target: str | Path) -> bool:
    """Whether something is there that is no file, and that a file shall not replace: /dev/null, a pipe."""
    path = Path(target)
    return path.exists() and not path.is_file() and not path.is_dir()


def say(text: str, stream: TextIO | None = None) -> None:
    """A message on stderr."""
    print(text, file=stream or sys.stderr, flush=True)
