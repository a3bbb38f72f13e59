"""Help, usage errors and the shape of error messages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import Cli

VERBS = (
    "train", "compile", "run", "predict", "explain", "compare", "reproduce", "estimate", "opt", "asm", "dis", "check",
)  # fmt: skip


def test_help_lists_every_verb(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0 and done.err == ""
    assert all(re.search(rf"\n    {verb}\s", done.out) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(cli: Cli, verb: str) -> None:
    done = cli(verb, "--help")
    assert done.code == 0 and done.out.startswith(f"usage: pintac {verb}")


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert done.code == 0 and done.out.startswith("pintac 0.")


USAGE = [
    ["frobnicate"],
    [],
    ["train"],
    ["compile"],
    ["opt"],
    ["train", "poisson2d", "--steps", "0"],
    ["train", "poisson2d", "--steps", "many"],
    ["train", "poisson2d", "--seed", "-1"],
    ["train", "poisson2d", "--scheme", "odd"],
    ["train", "poisson2d", "--quant", "int3"],
    ["train", "poisson2d", "--no-such-option"],
    ["train", "poisson2d", "--bits", "8/16/8"],
    ["train", "poisson2d", "--bits", "8/16/8/7"],
    ["train", "poisson2d", "--bits", "eight"],
    ["train", "poisson2d", "--resume"],
    ["compile", "poisson2d", "--emit", "hex"],
    ["compile", "poisson2d"],
    ["asm", "-"],
    ["run", "p.pinta", "--resume"],
    ["compare", "poisson2d"],
    ["compare", "poisson2d", "--vary", "K"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_usage_error(cli: Cli, arguments: list[str], tmp_path: Path) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == "" and "error:" in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) <= 2, "one message, at most one hint"
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick() -> None:
    """No library is imported for it. Processor time, best of three: the machine may be busy."""

    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "pintac", "--help"], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.25


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pintac", "opt", "--list-passes"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""
