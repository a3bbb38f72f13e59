"""The command line called in this process, and a training step small enough to compile in a moment."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pintac.cli import main
from tests.cli.support import TINY, Cli, Outcome


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs `pintac ...` in an empty folder; `stdin` is what it can read."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """`FILE.py:step` of a 2-8-8-1 network."""
    (tmp_path / "tiny_pde.py").write_text(TINY)
    return "tiny_pde.py:step"
