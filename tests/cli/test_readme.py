"""The commands that the README and HOWTO show, as they are printed, one after the other in one folder."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import pintac
from pintac.cli.arguments import build_parser
from tests.cli.support import TINY, Cli

ROOT = Path(pintac.__file__).parents[1]
README = (ROOT / "README.md").read_text()
HOWTO = (ROOT / "docs" / "HOWTO.md").read_text()


def _lines(text: str) -> list[list[str]]:
    """The words of every line of its blocks of commands."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


LINES = _lines(README)
LOOKING = HOWTO.partition("\n## Looking at a program\n")[2].partition("\n## ")[0]
COMMANDS = [words for words in [*LINES, *_lines(LOOKING)] if words[0] == "pintac"]
SHORTER = {"estimate": ["--no-measure"]}  # seconds of this host's


def test_the_commands_that_are_shown(cli: Cli) -> None:
    Path("my_pde.py").write_text(TINY)
    Path("x.csv").write_text("0.5,0.5\n")
    for words in COMMANDS:
        piped = ""
        for command in " ".join(map(shlex.quote, words)).split(" '|' "):
            verb, *arguments = shlex.split(command)[1:]
            done = cli(verb, *arguments, *SHORTER.get(verb, []), stdin=piped)
            assert done.code == 0, (command, done.err)
            piped = done.out
    files = {word for words in COMMANDS for word in words if re.fullmatch(r"\w+\.(pinta|safetensors|json)", word)}
    assert files >= {"p.pinta", "q.pinta", "w.safetensors", "r.json", "t.json", "s.json"}
    assert all(Path(name).stat().st_size for name in files), "each is written by one of the commands"
    assert Path("p.pinta").read_bytes() == Path("q.pinta").read_bytes()


def test_flags_in_the_text() -> None:
    """Every `--flag` and `pintac verb` of the README is one."""
    parser = build_parser()
    verbs = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    flags = {option for verb in verbs.values() for action in verb._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", README)) <= flags
    assert {words[1] for words in COMMANDS} | set(re.findall(r"`pintac (\w+)", README)) <= set(verbs)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_targets_of_make() -> None:
    for words in (words for words in LINES if words[0] == "make"):
        dry = [words[0], "-n", "--no-print-directory", *words[1:]]
        said = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        command = shlex.split(said.splitlines()[-1])
        assert command[0].endswith("/pintac") and build_parser().parse_args(command[1:]).spec == "poisson2d"
