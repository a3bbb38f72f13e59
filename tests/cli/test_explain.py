"""`pintac explain` on a compiled step: the report, its JSON, what-if machines, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pintac import api
from pintac.frontend import load_step
from pintac.report.purpose import PHASES
from tests.architecture.support import BLOCK_TORCH
from tests.cli.support import TINY, Cli
from tests.machine.test_explain import balanced


@pytest.fixture(scope="module")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny step, compiled once."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "tiny_pde.py").write_text(TINY)
    api.compile(load_step(f"{folder / 'tiny_pde.py'}:step")).save(folder / "p.pinta")
    return folder / "p.pinta"


@pytest.fixture
def compiled(cli: Cli, program_file: Path, tmp_path: Path) -> str:
    """Its name in the folder of the test."""
    (tmp_path / "p.pinta").write_bytes(program_file.read_bytes())
    return "p.pinta"


def test_report_and_json(cli: Cli, compiled: str, tmp_path: Path) -> None:
    done = cli("explain", compiled, "--json", "e.json", "--top", "5")
    assert done.code == 0 and done.err == ""
    e = json.loads((tmp_path / "e.json").read_text())
    longest = e["groups"][0]["labels"][1]
    for part in (f"{e['cycles']:,} =", f"{e['bound']['cycles']:,}, set by", longest, "what would help"):
        assert part in done.out
    phases = {g["labels"][1] for g in e["groups"]}
    assert set(PHASES) - {"points"} <= phases, "an op of every phase begins an instruction"
    assert {"0", "2", "4"} <= {g["labels"][0] for g in e["groups"]}
    compute = [g for g in e["groups"] if g["unit"] in ("tcu", "vpu")]
    assert all(g["labels"][1] in PHASES for g in compute), "every instruction is known"
    assert sum(g["busy"] for g in compute if g["unit"] == "tcu") == e["units"][1]["busy"]
    assert e["bound"]["cycles"] <= e["cycles"] and sum(e["bound"]["gap"].values()) == pytest.approx(
        e["cycles"] - e["bound"]["cycles"]
    )
    assert "by layer, the longest first (the first 5 of" in done.out


def test_entry_and_sums(cli: Cli, compiled: str) -> None:
    done = cli("explain", compiled, "--entry", "infer", "--by", "line", "--json", "-")  # stdout is JSON alone
    e = json.loads(done.out)
    assert e["entry"] == "infer"
    assert any(g["labels"][0].rpartition(":")[0].endswith("tiny_pde.py") for g in e["groups"])
    assert "by unit" in cli("explain", compiled, "--by", "unit", "--entry", "infer").out


@pytest.mark.parametrize("entry", ["step", "infer"])
def test_accounts_balance(compiled: str, entry: str) -> None:
    program = api.load(compiled)
    described = program.meta["backend"][entry]["bound"]
    e = api.explain(program, entry=entry, by="op")
    balanced(e)
    tensor = next(u for u in e.units if u.name == "tcu")
    assert tensor.ideal >= described["products"] - 1e-6, "no program multiplies less than the bound counts"


def test_same_program_on_another_machine(cli: Cli, compiled: str) -> None:
    own = json.loads(cli("explain", compiled, "--machine", "pinta", "--json", "-").out)
    fast = json.loads(cli("explain", compiled, "--machine-key", "dram_gb_per_s=51.2", "--json", "-").out)
    assert own["same_machine"] and not fast["same_machine"]
    assert fast["cycles"] < own["cycles"] and fast["bound"] is None
    doubled = next(w for w in own["what_if"] if w["name"] == "DRAM bandwidth x2")
    assert doubled["cycles"] == fast["cycles"]


def test_trace(cli: Cli, compiled: str, tmp_path: Path) -> None:
    assert cli("explain", compiled, "--trace", "t.json", "--json", "e.json").code == 0
    trace = json.loads((tmp_path / "t.json").read_text())
    assert trace["otherData"]["cycles"] == json.loads((tmp_path / "e.json").read_text())["cycles"]


def test_refused(cli: Cli, compiled: str, tmp_path: Path) -> None:
    def refused(*arguments: str, code: int = 1, says: str) -> None:
        done = cli("explain", *arguments)
        assert done.code == code and done.out == "" and "Traceback" not in done.err
        assert says in done.err, done.err

    (tmp_path / "not.pinta").write_text("not a program")
    refused("not.pinta", says="not.pinta is not a usable program")
    refused("absent.pinta", says="cannot read absent.pinta")
    refused(compiled, "--entry", "stpe", says="the program has no entry 'stpe'\n  hint: it has: infer, step")
    refused(compiled, "--machine-key", "dram_gbs=1", says="unknown machine key 'dram_gbs'")
    refused(compiled, "--machine-key", "dram_gb_per_s", says="is not key=value")
    refused(compiled, "--machine", "pint", says="no machine 'pint'")
    refused(compiled, "--machine-key", "vpu_max_micro_ops=1", says="micro-ops: machine 'pinta' chains 1")
    refused(compiled, "--machine-key", "semaphores=1", says="semaphores are used, machine 'pinta' has 1")
    refused(compiled, "--by", "colour", code=2, says="invalid choice")
    refused(compiled, "--top", "0", code=2, says="positive")
    refused(compiled, "--json", "no/such/folder.json", says="no folder")


def test_without_torch(compiled: str, tmp_path: Path) -> None:
    code = BLOCK_TORCH + "import pintac\nprint(pintac.explain('p.pinta', by='unit').timing.cycles)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr
