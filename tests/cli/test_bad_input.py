"""What is given may be wrong: one clear message, the right exit code, no traceback, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import TINY, Cli, Outcome


def refused(done: Outcome, *parts: str, code: int = 1) -> None:
    assert done.code == code, done.err
    assert done.out == "" and "Traceback" not in done.err and "internal error" not in done.err
    assert done.err.startswith("pintac "), done.err
    for part in parts:
        assert part in done.err, done.err


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path):
    """No output and no temporary file appears, whatever was asked for."""
    before = {"tiny_pde.py"}
    yield
    made = {path.name for path in tmp_path.iterdir()} - before - {"__pycache__"}
    assert not [name for name in made if not name.startswith("given")], made


def test_unknown_problem(cli: Cli) -> None:
    refused(cli("train", "poison2d", "--json", "r.json"), "unknown problem 'poison2d'", "did you mean 'poisson2d'?")


def test_unknown_option_of_a_problem(cli: Cli) -> None:
    refused(cli("train", "poisson2d", "--set", "widht=8"), "widht", code=2)


def test_no_such_file(cli: Cli) -> None:
    refused(cli("train", "absent.py:step"), "absent.py")


def test_no_such_object(cli: Cli, tiny: str) -> None:
    refused(cli("train", "tiny_pde.py:stpe"), "'stpe'", "step")
    refused(cli("train", "tiny_pde.py:not_a_step"), "not a TrainStep")


def test_rank_of_a_users_file(cli: Cli, tiny: str) -> None:
    refused(cli("train", tiny, "--tt-rank", "4"), "rank", "built-in", code=2)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("import torch\nx = undefined\n", 2, "NameError"),
        ("def f(:\n", 1, "syntax"),
        ("import nonexistent_module_xyz\n", 1, "nonexistent_module_xyz"),
    ],
)
def test_a_file_that_fails(cli: Cli, tmp_path: Path, text: str, line: int, part: str) -> None:
    (tmp_path / "given.py").write_text(text)
    done = cli("train", "given.py:step")
    refused(done, f"given.py:{line}: ")
    assert part.lower() in done.err.lower()


MISTAKES = {
    "terms": ("        box = [(0.0, 1.0), (0.0, 1.0)]", "        box = [(0.0, 1.0)] * self.dims", "AttributeError"),
    "residual": ("        return u(x) - self.exact(x)", "        return u(x) - self.exakt(x)", "AttributeError"),
    "exact": (
        "        return torch.sin(x.sum(-1, keepdim=True)) / 2",
        "        return torch.sin(x @ torch.ones(2, 1)) / 2 if x.dtype is torch.float64 else x[:, :1]",
        "exact gets float64 points",
    ),
    "exact of another name": (
        "        return torch.sin(x.sum(-1, keepdim=True)) / 2",
        "        return torch.sin(x.sum(-1, keepdim=True)) / 2 if x.dtype is torch.float32 else nothing",
        "NameError",
    ),
    "test_sampler": (
        "    def exact(self, x):",
        "    def test_sampler(self):\n        return Uniform(self.box)\n\n    def exact(self, x):",
        "AttributeError",
    ),
    "test_data": (
        "    def exact(self, x):",
        "    def test_data(self):\n        return open('absent.csv')\n\n    def exact(self, x):",
        "FileNotFoundError",
    ),
    "a sampler": (
        "class Tiny(Problem):",
        "from pintac import Sampler\nclass Mine(Sampler):\n    dim = 2\n    def emit(self, draws, n):\n"
        "        return draws.uniform(n, 2).times(2)\n\nclass Tiny(Problem):",
        "AttributeError",
    ),
}


@pytest.mark.parametrize("command", [("compile", "-o", "p.pinta"), ("train", "--quant", "none", "--steps", "1")])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_the_problem_are_the_users(cli: Cli, tmp_path: Path, name: str, command: tuple[str, ...]) -> None:
    """Whatever a method of the problem raises is shown at its line."""
    before, after, part = MISTAKES[name]
    text = TINY.replace(before, after)
    if name == "a sampler":
        text = text.replace('Term("interior", Uniform(box)', 'Term("interior", Mine()')
    assert text != TINY
    (tmp_path / "given.py").write_text(text)
    marks = {"test_sampler": "self.box)", "test_data": "absent.csv", "a sampler": ".times("}
    mark = marks.get(name, after.strip())
    line = next(i for i, text in enumerate(text.splitlines(), 1) if mark in text)
    refused(cli(command[0], "given.py:step", *command[1:]), f"given.py:{line}: ", part)


@pytest.mark.parametrize(
    ("returned", "part"),
    [
        ("3", "two arrays"),
        ("(torch.zeros(4, 3), torch.zeros(4, 1))", "expected [n, 2]"),
        ("(torch.zeros(4, 2), torch.zeros(3, 1))", "u [3, 1]"),
        ("(torch.zeros(1, 2), [[float('nan')]])", "not finite"),
    ],
)
def test_test_data_that_cannot_be(cli: Cli, tmp_path: Path, returned: str, part: str) -> None:
    method = f"    def test_data(self):\n        return {returned}\n\n    def exact(self, x):"
    (tmp_path / "given.py").write_text(TINY.replace("    def exact(self, x):", method))
    refused(cli("compile", "given.py:step", "-o", "p.pinta"), "given.py:", "test_data()", part)


def test_an_exact_solution_of_another_width(cli: Cli, tmp_path: Path) -> None:
    text = TINY.replace("torch.sin(x.sum(-1, keepdim=True)) / 2", "torch.cat([x, x], 1)").replace(
        "return u(x) - self.exact(x)", "return u(x)"
    )
    (tmp_path / "given.py").write_text(text)
    for command in (("compile", "-o", "p.pinta"), ("train", "--quant", "none")):
        done = cli(command[0], "given.py:step", *command[1:])
        refused(done, "given.py:", "exact(x) gives 4 columns, u has 1 column")


@pytest.mark.parametrize("sampler", ["3", "Uniform([(0.0, 1.0)])"])
def test_a_test_sampler_that_cannot_be(cli: Cli, tmp_path: Path, sampler: str) -> None:
    method = f"    def test_sampler(self):\n        return {sampler}\n\n    def exact(self, x):"
    (tmp_path / "given.py").write_text(TINY.replace("    def exact(self, x):", method))
    refused(cli("compile", "given.py:step", "-o", "p.pinta"), "given.py:", "with 2 coordinates")


UNSUPPORTED = TINY.replace(
    "return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))",
    "v = torch.asin(u(x))\n        w = torch.linalg.svd(x)[0]\n"
    "        return laplacian(u, x) + v + w[:, :1]",
)


def test_unsupported_operations_all_at_once(cli: Cli, tmp_path: Path) -> None:
    assert UNSUPPORTED != TINY
    (tmp_path / "given.py").write_text(UNSUPPORTED)
    done = cli("compile", "given.py:step", "-o", "p.pinta")
    lines = UNSUPPORTED.splitlines()
    first = next(i for i, text in enumerate(lines, 1) if "asin" in text)
    refused(done, f"given.py:{first}", f"given.py:{first + 1}", "asin", "svd")


def test_lbfgs(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "given.py").write_text(TINY.replace("Adam(1e-3, schedule=linear_decay(5))", "torch.optim.LBFGS"))
    refused(cli("train", "given.py:step"), "LBFGS", "given.py:")


def test_no_schedule_no_steps(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "given.py").write_text(TINY.replace(", schedule=linear_decay(5)", ""))
    refused(cli("train", "given.py:step", "--quant", "none"), "how many steps?", code=2)


@pytest.mark.parametrize("verb", ["train", "opt", "compile"])
def test_unknown_pass(cli: Cli, tiny: str, verb: str) -> None:
    (Path("given.ir")).write_text("graph @g {\n}\n")
    target = ["given.ir"] if verb == "opt" else [tiny]
    more = ["-o", "p.pinta"] if verb == "compile" else []
    refused(cli(verb, *target, "--passes", "split-stien", *more), "unknown pass 'split-stien'", "split-stein")
    done = cli(verb, *target, "--passes", "reorder-tt{ordr=prs}", *more)
    refused(done, "no option 'ordr'", "order")
    refused(cli(verb, *target, "--passes", "reorder-tt{order=best}", *more), "best")
    refused(cli(verb, *target, "--passes", "dce,,dce", *more))


def test_dump_after_a_pass_that_does_not_run(cli: Cli, tiny: str) -> None:
    refused(cli("compile", tiny, "--emit", "ir", "--dump-ir-after", "inline"), "inline")
    refused(cli("compile", tiny, "--emit", "ir", "--dump-dir", "d"), "--dump-dir", code=2)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('graph @g {\n  %a = tanh(%b) : f32[2] loc("x.py":1)\n}\n', "given.ir:2"),
        ('graph @g {\n  %a = nonsense : f32[2] loc("x.py":1)\n}\n', "given.ir:2"),
        ('graph @g {\n  %a = state {name="w", shape=(2,)} : f32[3] loc("x.py":1)\n}\n', ":"),
        ("graph @g {\n", "given.ir:"),
        ("hello\n", "given.ir:1"),
    ],
)
def test_malformed_ir(cli: Cli, text: str, place: str) -> None:
    Path("given.ir").write_text(text)
    refused(cli("opt", "given.ir", "--passes", "dce", "-o", "out.ir"), place)


def test_binary_as_ir(cli: Cli) -> None:
    Path("given.ir").write_bytes(b"\xff\xfe\x00")
    refused(cli("opt", "given.ir"), "not a text file")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('base = "pinta"\nsram_kb = 384\n', "unknown machine key 'sram_kb'"),
        ('base = "pinta"\nsram_kib = -1\n', "impossible"),
        ('base = "pinta"\nbme_rows = "eight"\n', "bme_rows"),
        ('base = "pinto"\n', "pinto"),
        ("sram_kib = \n", "not a TOML file"),
        ('name = "bare"\n', "lacks"),
    ],
)
def test_machine_file(cli: Cli, tiny: str, text: str, part: str) -> None:
    Path("given.toml").write_text(text)
    refused(cli("compile", tiny, "-o", "p.pinta", "--machine", "given.toml"), part, "given.toml:")


def test_no_such_machine(cli: Cli, tiny: str) -> None:
    refused(cli("compile", tiny, "-o", "p.pinta", "--machine", "pimta"), "no machine 'pimta'", "pinta")
    refused(cli("compile", tiny, "-o", "p.pinta", "--machine-key", "sram_kbi=1"), "sram_kbi", "sram_kib")


NOT_PROGRAMS = {
    "empty": b"",
    "text": b"not a program\n",
    "zeros": b"\x00" * 100,
    "header": b"\x10" + b"\x00" * 7 + b"{}",
}


@pytest.mark.parametrize("content", NOT_PROGRAMS.values(), ids=NOT_PROGRAMS)
@pytest.mark.parametrize("verb", ["run", "dis", "predict"])
def test_not_a_program(cli: Cli, verb: str, content: bytes) -> None:
    Path("given.pinta").write_bytes(content)
    Path("given.csv").write_text("0,0\n")
    more = ["given.csv"] if verb == "predict" else []
    refused(cli(verb, "given.pinta", *more), "given.pinta is not a usable program")


def test_no_such_program(cli: Cli) -> None:
    refused(cli("run", "absent.pinta"), "cannot read absent.pinta")


def test_weights_that_do_not_fit(cli: Cli, tiny: str) -> None:
    import numpy as np
    import safetensors.numpy

    run = ["train", tiny, "--quant", "none", "--steps", "1"]
    refused(cli(*run, "--weights", "absent.safetensors"), "absent.safetensors")
    Path("given.bin").write_text("no weights")
    refused(cli(*run, "--weights", "given.bin"), "given.bin")
    safetensors.numpy.save_file({"0.wieght": np.zeros((8, 2), np.float32)}, "given.safetensors")
    refused(cli(*run, "--weights", "given.safetensors"), "'0.wieght'", "'0.weight'")
    safetensors.numpy.save_file({"0.weight": np.zeros((8, 3), np.float32)}, "given.safetensors")
    refused(cli(*run, "--weights", "given.safetensors"), "0.weight")


def test_weights_of_other_types(cli: Cli, tiny: str) -> None:
    """Half the bits are read, and what is no number of ours is refused."""
    import numpy as np
    import safetensors.torch
    import torch

    from pintac.api.weights import load_weights

    weights = {"a": torch.tensor([[1.5, -3.0]]), "b": torch.tensor(0.25)}
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        safetensors.torch.save_file({name: w.to(dtype) for name, w in weights.items()}, "given.safetensors")
        found = load_weights("given.safetensors")
        assert all(np.array_equal(found[name], w.numpy()) for name, w in weights.items())
        assert all(value.shape == weights[name].shape for name, value in found.items())
    safetensors.torch.save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "given.safetensors")
    refused(cli("train", tiny, "--quant", "none", "--steps", "1", "--weights", "given.safetensors"), "F8_E4M3", "type")


def test_outputs_are_checked_before_the_work(cli: Cli, tiny: str) -> None:
    for option in ("--json", "--stats", "--trace", "-o", "--checkpoint"):
        refused(cli("train", tiny, option, "absent/out"), "there is no folder absent")
    refused(cli("compile", tiny, "-o", "."), "it is a folder")


def test_statistics_of_a_float_run(cli: Cli, tiny: str) -> None:
    done = cli("train", tiny, "--quant", "none", "--steps", "1", "--stats", "s.json")
    refused(done, "there is no program", code=2)
    refused(cli("train", tiny, "--engine", "evaluator", "--trace", "t.json"), "there is no program", code=2)


def test_traceback_on_request(cli: Cli) -> None:
    from pintac.errors import ModelError

    with pytest.raises(ModelError):
        cli("train", "poison2d", "--traceback")


def test_internal_errors_are_ours(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from pintac.cli import verbs

    def broken(options: object) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(verbs, "opt", broken)
    done = cli("opt", "x.ir")
    assert done.code == 3 and done.out == ""
    assert done.err.startswith("pintac opt: internal error: ZeroDivisionError: oh\n") and "--traceback" in done.err


def test_a_machine_without_random_numbers(cli: Cli, tiny: str) -> None:
    refused(
        cli("compile", tiny, "-o", "p.pinta", "--machine-key", "vpu_philox=false"),
        "has no philox generator, and the step draws random numbers",
    )
