"""The verbs that make, read and run programs, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pintac.api import training
from pintac.cli import main
from pintac.program import Program
from pintac.program_file import load

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_program: Program) -> Path:
    """An empty folder to work in, but for `p.pinta`."""
    monkeypatch.chdir(tmp_path)
    tiny_program.save("p.pinta")
    return tmp_path


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_compile_closes_with_ten_lines(folder: Path, tiny_file: Path, capsys: Captured) -> None:
    code, out, err = run(capsys, "compile", f"{tiny_file}:step", "-o", "q.pinta", "--json", "c.json")
    assert code == 0 and out == ""
    lines = err.splitlines()
    assert len(lines) == 10 and [line.split()[0] for line in lines] == [
        "program", "file", "machine", "code", "memory", "cycles", "busy", "traffic", "energy", "compiled",
    ]  # fmt: skip
    assert "x the lower bound" in err and "model values" in err
    assert load("q.pinta") == load("p.pinta"), "the same program as through the library"
    report = json.loads(Path("c.json").read_text())
    assert report["cycles_per_step"] > report["lower_bound_cycles"] > 0
    assert report["program_bytes"] == len(load("q.pinta").code)


def test_levels_as_text(folder: Path, tiny_file: Path, capsys: Captured) -> None:
    code, tiles, _ = run(capsys, "compile", f"{tiny_file}:step", "--emit", "tiles")
    assert code == 0 and tiles.startswith("; entry step\n") and "; entry infer\n" in tiles and "matmul" in tiles
    code, asm, _ = run(capsys, "compile", f"{tiny_file}:step", "--emit", "asm")
    assert code == 0
    assert (code, asm) == run(capsys, "dis", "p.pinta")[:2]


def test_dis_and_asm_are_inverse(folder: Path, capsys: Captured) -> None:
    assert run(capsys, "dis", "p.pinta", "-o", "p.s")[0] == 0
    assert run(capsys, "asm", "p.s", "-o", "q.pinta") == (0, "", "")
    assert Path("q.pinta").read_bytes() == Path("p.pinta").read_bytes()


def test_malformed_assembly(folder: Path, capsys: Captured) -> None:
    text = run(capsys, "dis", "p.pinta")[1]
    matmul = next(line for line in text.splitlines() if line.strip().startswith("matmul"))
    number = text.splitlines().index(matmul) + 1
    for broken in (
        matmul.replace("matmul", "mutmal", 1),
        matmul + " nonsense=1",
        matmul.replace("=", "=99999999999", 1),
    ):
        Path("b.s").write_text(text.replace(matmul, broken, 1))
        code, out, err = run(capsys, "asm", "b.s", "-o", "b.pinta")
        assert (code, out) == (1, "") and err.startswith(f"pintac asm: error: b.s:{number}"), err
        assert "Traceback" not in err and not Path("b.pinta").exists()


def test_run_writes_everything(folder: Path, capsys: Captured) -> None:
    files = ["--json", "r.json", "--stats", "s.json", "--trace", "t.json", "-o", "w.safetensors", "--checkpoint", "c"]
    code, out, err = run(capsys, "run", "p.pinta", "--steps", "2", "--quiet", *files)
    assert code == 0 and err == "" and "l2 error" in out
    result, stats = (json.loads(Path(name).read_text()) for name in ("r.json", "s.json"))
    assert result["cycles_per_step"] == stats["cycles"]
    queues = ("load", "store", "tcu", "vpu")
    for queue in queues:
        assert stats["busy"][queue] + sum(stats["stalls"][queue].values()) == stats["cycles"]
    assert json.loads(Path("t.json").read_text())["traceEvents"]
    assert {path.name for path in folder.iterdir()} == {
        "p.pinta", "r.json", "s.json", "t.json", "w.safetensors", "c",
    }  # fmt: skip


def test_predict(folder: Path, capsys: Captured, tiny_program: Program) -> None:
    Path("x.csv").write_text("0.25,0.5\n\n0.75,1.0\n")
    code, out, err = run(capsys, "predict", "p.pinta", "x.csv")
    assert code == 0 and err == "note: these are the program's initial weights (--checkpoint, --weights)\n"
    values = [float(line) for line in out.splitlines()]
    assert len(values) == 2
    np.save("x.npy", np.array([[0.25, 0.5], [0.75, 1.0]]))
    assert run(capsys, "predict", "p.pinta", "x.npy", "-o", "u.npy", "--engine", "reference")[0] == 0
    np.testing.assert_array_equal(np.load("u.npy")[:, 0], np.array(values, np.float32))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1,2,3\n", "[n, 2]"),
        ("1,2\n3\n", "x.csv:2"),
        ("1,two\n", "x.csv:1"),
        ("", "expected points"),
    ],
)
def test_bad_points(folder: Path, capsys: Captured, text: str, part: str) -> None:
    Path("x.csv").write_text(text)
    code, out, err = run(capsys, "predict", "p.pinta", "x.csv", "-o", "u.csv")
    assert code == 1 and out == "" and part in err and not Path("u.csv").exists()


def test_dry_run(folder: Path, capsys: Captured) -> None:
    code, out, err = run(capsys, "run", "p.pinta", "--dry-run", "--steps", "7")
    assert code == 0 and err == ""
    assert [line.split("  ")[0] for line in out.splitlines()] == ["instructions", "MACs", "bytes", "one step", "ETA"]
    assert "for 7 steps" in out


def test_resume_needs_its_checkpoint(folder: Path, capsys: Captured) -> None:
    code, _, err = run(capsys, "run", "p.pinta", "--resume", "--checkpoint", "none")
    assert code == 1 and "no checkpoint none" in err and not Path("none").exists()


def test_resume_goes_on_as_it_began(folder: Path, capsys: Captured) -> None:
    began = ("run", "p.pinta", "--checkpoint", "c", "--seed", "3", "--quiet")
    assert run(capsys, *began, "--steps", "1", "-o", "w.safetensors")[0] == 0
    code, _, err = run(capsys, "run", "p.pinta", "--checkpoint", "c", "--resume", "--seed", "4", "--steps", "2")
    assert code == 1 and "of seed 3, not 4" in err
    code, _, err = run(capsys, *began, "--resume", "--weights", "w.safetensors", "--steps", "2")
    assert code == 2 and "weights of its checkpoint" in err
    without = ("run", "p.pinta", "--checkpoint", "c", "--resume", "--quiet", "--steps", "2", "--json", "r.json")
    assert run(capsys, *without)[0] == 0 and json.loads(Path("r.json").read_text())["seed"] == 3
    Path("x.csv").write_text("0.25,0.5\n")
    code, _, err = run(capsys, "predict", "p.pinta", "x.csv", "--checkpoint", "c", "--weights", "w.safetensors")
    assert code == 2 and "not allowed with" in err


def test_train_leaves_its_program(
    folder: Path, tiny_file: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very one that compile makes with that effort; its weights go with it."""
    make, efforts = training.emit_or_reuse, []
    monkeypatch.setattr(training, "emit_or_reuse", lambda *given: (efforts.append(given[2]), make(*given))[1])
    train = ("train", f"{tiny_file}:step", "--quiet", "--effort", "0")
    code, _, err = run(capsys, *train, "--save-program", "t.pinta", "-o", "w.safetensors", "--json", "r.json")
    assert code == 0 and efforts == [0.0], err
    assert run(capsys, "compile", f"{tiny_file}:step", "--effort", "0", "-o", "q.pinta")[0] == 0
    assert Path("t.pinta").read_bytes() == Path("q.pinta").read_bytes()
    result = json.loads(Path("r.json").read_text())
    assert result["program_digest"] == load("t.pinta").digest
    Path("x.csv").write_text("0.25,0.5\n")
    assert run(capsys, "predict", "t.pinta", "x.csv", "--weights", "w.safetensors")[0] == 0
    for without in (["--quant", "none"], ["--engine", "evaluator"]):
        code, _, err = run(capsys, *train, *without, "--save-program", "u.pinta")
        assert code == 2 and "there is no program" in err and not Path("u.pinta").exists()
    code, _, err = run(capsys, *train, "--save-program", "absent/u.pinta")
    assert code == 1 and "no folder absent" in err
