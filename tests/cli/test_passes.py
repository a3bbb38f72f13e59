"""Looking at passes: `opt`, dumps, times, pipelines; `compile --emit=ir`."""

from __future__ import annotations

import json
from pathlib import Path

from pintac.api.lowering import lower
from pintac.frontend import load_step
from pintac.ir import parse_module, print_module
from pintac.passes import PASSES, default_pipeline, parse_pipeline
from tests.cli.support import Cli

HALF = "expand-operators,split-stein,reorder-tt"


def test_list_passes(cli: Cli) -> None:
    done = cli("opt", "--list-passes")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line and not line.startswith(" ")] == list(PASSES)
    assert "order=prs|sequential|dense (default prs)" in done.out


def test_print_pipeline(cli: Cli) -> None:
    done = cli("train", "--print-pipeline")
    assert parse_pipeline(done.out.strip()) == default_pipeline()
    done = cli("compile", "--print-pipeline", "--bits", "4/8/4/8", "--scheme", "sequential")
    assert "reorder-tt{order=sequential}" in done.out and "insert-smx{weight=4,base=8,delta=4,grad=8" in done.out


def test_emit_ir_and_opt_are_one_pipeline(cli: Cli, tiny: str) -> None:
    """Half of the pipeline in `compile`, the rest in `opt`: the same module as all of it at once."""
    passes = cli("compile", "--print-pipeline").out.strip()
    first, rest = passes.split(",differentiate,")
    assert cli("compile", tiny, "--emit", "ir", "--passes", first, "-o", "half.ir").code == 0
    whole = cli("compile", tiny, "--emit", "ir")
    assert whole.code == 0, whole.err
    steps = parse_module(Path("half.ir").read_text())
    Path("step.ir").write_text(print_module({"step": steps["step"]}))
    continued = cli("opt", "step.ir", "--passes", f"differentiate,{rest}", "--verify", "each")
    assert continued.code == 0, continued.err
    assert continued.out == print_module({"step": parse_module(whole.out)["step"]})


def test_opt_reads_stdin_and_without_passes_changes_nothing(cli: Cli, tiny: str) -> None:
    text = cli("compile", tiny, "--emit", "ir").out
    done = cli("opt", "-", stdin=text)
    assert (done.code, done.out, done.err) == (0, text, "")


def test_dumps(cli: Cli, tiny: str) -> None:
    assert cli("compile", tiny, "--emit", "ir", "--dump-ir-after-all", "--dump-dir", "dumps", "-o", "x.ir").code == 0
    files = sorted(path.name for path in Path("dumps").iterdir())
    names = [name for name in files if not name.startswith("infer.")]
    assert names[:3] == ["000-input.ir", "001-expand-operators.ir", "002-split-stein.ir"]
    assert len(names) == len(default_pipeline()) + 1
    forward = [pass_.name for pass_ in default_pipeline() if pass_.forward]
    stages = enumerate(["input", *forward])
    assert [name for name in files if name not in names] == [f"infer.{n:03d}-{stage}.ir" for n, stage in stages]
    for graph, of_it in (("step", names), ("infer", files[len(names) :])):
        last = parse_module(Path("dumps", of_it[-1]).read_text())
        assert print_module(last) == print_module({graph: parse_module(Path("x.ir").read_text())[graph]})
    done = cli("compile", tiny, "--emit", "ir", "--dump-ir-after", "dce", "-o", "y.ir")
    assert [line for line in done.err.splitlines() if line.startswith("// ----")] == [
        "// ---- 009-dce",
        "// ---- infer.004-dce",
    ]
    done = cli("compile", tiny, "--emit", "ir", "--passes", HALF, "--dump-ir-after", "split-stein", "-o", "y.ir")
    assert done.err.startswith("// ---- 002-split-stein\ngraph @step") and done.err.count("// ----") == 1


def test_dumps_of_several_graphs(cli: Cli, tiny: str) -> None:
    """Each graph has files of its own, which everybody may read."""
    assert cli("compile", tiny, "--emit", "ir", "--passes", "expand-operators", "-o", "x.ir").code == 0
    dump = ("opt", "x.ir", "--passes", "dce,canonicalize", "--dump-ir-after-all")
    assert cli(*dump, "--dump-dir", "dumps", "-o", "y.ir").code == 0
    files = {path.name: path for path in Path("dumps").iterdir()}
    stages = ("000-input.ir", "001-dce.ir", "002-canonicalize.ir")
    assert set(files) == {f"{graph}.{stage}" for graph in ("step", "infer") for stage in stages}
    for name, path in files.items():
        assert list(parse_module(path.read_text())) == [name.partition(".")[0]]
        assert path.stat().st_mode & 0o777 == 0o644
    assert "// ---- infer.001-dce\n" in cli(*dump).err


def test_metadata_are_those_of_the_passes_that_ran(cli: Cli, tiny: str) -> None:
    """Flags beside an explicit pipeline have no say, so they are not what a result states."""
    passes = cli("compile", "--print-pipeline", "--quant", "even-odd", "--bits", "8/12/4/12,0.base=16").out.strip()
    run = ("--engine", "evaluator", "--steps", "1", "--quiet", "--json", "-")
    done = cli("train", tiny, "--passes", passes, "--bits", "16/16/16/16", "--scheme", "sequential", *run)
    result = json.loads(done.out)
    assert (result["quant"], result["scheme"], result["bits"]) == ("even-odd", "prs", "8/12/4/12,0.base=16")
    flags = cli("train", tiny, "--quant", "even-odd", "--bits", "8/12/4/12,0.base=16", *run)
    assert json.loads(flags.out)["history"] == result["history"]
    meta = lower(load_step(tiny), passes=passes.split(",insert-smx")[0]).meta
    assert (meta["quant"], meta["bits"]) == ("none", None)


def test_time_passes_goes_to_stderr(cli: Cli, tiny: str) -> None:
    done = cli("compile", tiny, "--emit", "ir", "--time-passes")
    assert parse_module(done.out).keys() == {"step", "infer"}
    assert done.err.startswith("pass ") and "insert-smx" in done.err and "total" in done.err
