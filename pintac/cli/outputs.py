"""Where results go, checked before any work is done.

An output must have a file of its own: not an input's, not another output's. `-` is stdout. One output of text or JSON
may go there, and what a verb would have printed then goes to stderr, or is left out; binary files never go there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from pintac.errors import UsageError
from pintac.report.files import STDOUT, check_writable, special

_INPUTS = {
    "program": "the program",
    "input": "the input",
    "points": "the points",
    "spec": "the problem's file",
    "machine": "the machine file",
    "weights": "--weights",
}
_OUTPUTS = {
    "json": "--json",
    "stats": "--stats",
    "trace": "--trace",
    "log": "--log",
    "output": "-o",
    "save_program": "--save-program",
    "checkpoint": "--checkpoint",
    "plot": "--plot",
}
_ALWAYS_FILES = {
    "log": "a resumed run goes on with its file",
    "save_program": "a program is binary",
    "checkpoint": "it is binary",
    "plot": "a figure is a file",
}
_PRINTED = ("opt", "dis", "predict")  # verbs whose `-o` is stdout by default; so is that of `compile` with text


def check_outputs(options: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, are written twice or replace what is read. Raises PintacError."""
    taken = {_identity(path): title for title, path in _read(options)}
    stdout = ""
    for name, title in _outputs(options):
        target = getattr(options, name, None)
        if target is None and name == "output" and _is_printed(options):
            target = STDOUT
        if target is None:
            continue
        if target == STDOUT:
            if why := _no_text(options, name):
                raise UsageError(f"{title} cannot be stdout (-): {why}", hint=f"{title} FILE")
            if stdout:
                raise UsageError(f"{stdout} and {title} both go to stdout", hint="a file for one of them")
            stdout = title
            continue
        check_writable(target)
        if special(target):
            continue
        other = taken.setdefault(_identity(target), title)
        if other != title:
            raise UsageError(f"{other} and {title} are the same file, {target}", hint="give each output its own")


def to_stdout(options: argparse.Namespace, *names: str) -> bool:
    """Whether one of these outputs is stdout, so that nothing else is printed there."""
    return any(getattr(options, name, None) == STDOUT for name in names)


def _outputs(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name, title in _OUTPUTS.items():
        if not (options.verb == "predict" and name == "checkpoint"):  # there it is read
            yield name, title


def _read(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(what it is, path) of the files that are read."""
    for name, title in _INPUTS.items():
        path = getattr(options, name, None)
        if path is None or path == STDOUT:
            continue
        if name == "spec":
            path = path.rpartition(":")[0] or path
        if name in ("spec", "machine") and not path.endswith((".py", ".toml")) and os.sep not in path:
            continue  # the name of a built-in one
        yield title, path
    if options.verb == "predict" and options.checkpoint is not None:
        yield "--checkpoint", options.checkpoint


def _identity(path: str) -> tuple[int, int] | str:
    """What is equal for names of one file: hard and symbolic links, and `./p` for `p`."""
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except OSError:
        return os.path.realpath(path)


def _is_printed(options: argparse.Namespace) -> bool:
    return options.verb in _PRINTED or (options.verb == "compile" and options.emit != "bin")


def _no_text(options: argparse.Namespace, name: str) -> str:
    """Why an output is always a file; empty if it may be printed."""
    if name == "output" and not _is_printed(options):
        return "a program is binary" if options.verb in ("asm", "compile") else "weights are binary"
    return _ALWAYS_FILES.get(name, "")
