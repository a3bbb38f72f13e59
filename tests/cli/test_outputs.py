"""Where results go: a file of their own or stdout, decided before any work is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import Cli

READ = "an input that nothing may touch"


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path) -> None:
    for name in ("p.pinta", "p.s", "in.ir", "w.st", "x.csv", "ck", "m.toml", "pde.py"):
        (tmp_path / name).write_text(READ)
    (tmp_path / "link.json").symlink_to(tmp_path / "p.pinta")
    os.link(tmp_path / "p.pinta", tmp_path / "hard.json")


SAME = [
    "run p.pinta --json p.pinta",
    "run p.pinta --stats ./p.pinta",
    "run p.pinta --trace link.json",
    "run p.pinta -o hard.json",
    "run p.pinta --checkpoint p.pinta",
    "run p.pinta --log p.pinta",
    "run p.pinta --weights w.st -o w.st",
    "run p.pinta --json f --stats f",
    "run p.pinta --checkpoint f -o ./f",
    "train pde.py:step --json pde.py",
    "train poisson2d --machine m.toml --save-program m.toml",
    "train poisson2d --save-program f --log f",
    "compile pde.py -o pde.py",
    "compile poisson2d -o f --json f",
    "predict p.pinta x.csv -o x.csv",
    "predict p.pinta x.csv --checkpoint ck -o ck",
    "explain p.pinta --json p.pinta",
    "compare pde.py --vary K=4 --json pde.py",
    "compare poisson2d --vary K=4 --json f --plot f",
    "explain p.pinta --json f --trace f",
    "opt in.ir -o in.ir",
    "asm p.s -o p.s",
    "dis p.pinta -o p.pinta",
]


@pytest.mark.parametrize("command", SAME)
def test_an_output_has_a_file_of_its_own(cli: Cli, command: str, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    done = cli(*command.split())
    assert done.code == 2 and "are the same file" in done.err and done.out == "", done.err
    assert {path.name for path in tmp_path.iterdir()} == before
    assert all((tmp_path / name).read_text() == READ for name in before)


STDOUT = {
    "compile poisson2d -o -": "a program is binary",
    "asm p.s -o -": "a program is binary",
    "run p.pinta -o -": "weights are binary",
    "run p.pinta --checkpoint -": "cannot be stdout",
    "run p.pinta --log -": "cannot be stdout",
    "train poisson2d --save-program -": "a program is binary",
    "run p.pinta --json - --stats -": "--json and --stats both go to stdout",
    "run p.pinta --stats - --trace -": "--stats and --trace both go to stdout",
    "compile poisson2d --emit asm --json -": "--json and -o both go to stdout",
    "compile poisson2d --emit ir -o - --json -": "--json and -o both go to stdout",
    "explain p.pinta --json - --trace -": "--json and --trace both go to stdout",
}


@pytest.mark.parametrize("command", STDOUT)
def test_stdout_takes_one_text(cli: Cli, command: str, tmp_path: Path) -> None:
    done = cli(*command.split())
    assert done.code == 2 and STDOUT[command] in done.err and done.out == "", done.err
    assert not (tmp_path / "-").exists()


def test_devices_are_no_files(cli: Cli) -> None:
    """Two outputs may go to /dev/null; what is refused here is the program."""
    done = cli("run", "p.pinta", "--json", "/dev/null", "--stats", "/dev/null")
    assert done.code == 1 and "p.pinta is not a usable program" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_stdout_is_an_error_of_the_users() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pintac", "opt", "--list-passes"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "pintac opt: error: cannot write to stdout: No space left on device\n"


def test_ctrl_c_while_libraries_are_imported(tmp_path: Path) -> None:
    """The signal comes with the first import of a library, before the verb begins."""
    code = (
        "import sys, signal\n"
        "from pintac.cli import main\n"
        "class Once:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pintac.cli.verbs':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Once())\n"
        "sys.argv[1:] = ['dis', 'p.pinta']\n"
        "code = main()\n"
        "signal.raise_signal(signal.SIGINT)  # another one while the process ends\n"
        "sys.exit(code)\n"
    )

    def default_handler() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, preexec_fn=default_handler
    )
    assert (done.returncode, done.stderr) == (130, "pintac dis: interrupted\n")
