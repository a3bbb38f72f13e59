"""The options of every verb, declared with argparse and nothing heavier: `pintac --help` imports no library."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from pintac.setting import setting_value

SPEC_HELP = "a built-in problem (poisson2d, ...) or FILE.py:OBJECT, a TrainStep"
DEFAULT_BITS = "8/16/8/12"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _positive(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return value


def _up_to(most: float) -> Callable[[str], float]:
    """Reads a number from 0 to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from 0 to {most:g}, got {text!r}")
        return value

    return parse


def _error(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _seed(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**32 - 1, got {text!r}")
    return value


def _bits(text: str) -> str:
    roles, _, tensors = text.partition(",")
    parts = roles.split("/")
    widths = ("4", "8", "12", "16")
    fixed = len(parts) == 4 and all(part in widths for part in parts)
    if not (fixed or re.fullmatch(r"auto:[0-9.e-]+(:cycles|:energy)?", roles)):
        raise argparse.ArgumentTypeError(
            f"expected weight/base/delta/gradient, each 4, 8, 12 or 16, such as {DEFAULT_BITS}, "
            f"or auto:BUDGET, such as auto:0.05; got {text!r}"
        )
    for item in tensors.split(",") if tensors else []:
        if item.partition("=")[2] not in widths:
            raise argparse.ArgumentTypeError(f"expected NAME=BITS for a tensor, such as 2.delta.0=4; got {item!r}")
    return text


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, setting_value(value)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the chosen verb is `options.verb`."""
    parser = _Parser(
        prog="pintac",
        description="Compile a PINN training step to a PINTA program and run it on an instruction-level simulator.",
        epilog="Cycles and joules are model values: the chip is known from its paper only (docs/MACHINE.md). An output "
        "named - is stdout: one of text or JSON, never a binary file. Outputs neither share a file nor replace one "
        "that is read.",
    )
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    train = _verb(verbs, "train", "train a problem on the simulator and report error, cycles and energy")
    train.add_argument("spec", metavar="NAME|FILE.py:OBJECT", nargs="?", help=SPEC_HELP)
    _compile_options(train)
    _pass_options(train)
    _effort(train)
    _run_options(train, 0, "0", "evaluator")
    train.add_argument("--save-program", metavar="F", help="write the program too, for pintac run, predict and explain")
    train.add_argument("--twin", choices=["float"], help="also train the fp32 torch twin on the same random numbers")
    train.add_argument(
        "--derivatives",
        choices=["estimator", "autograd", "forward"],
        default="estimator",
        help="with --quant none: exact derivatives by nested autograd or a forward Laplacian, not by the estimator",
    )

    compile_ = _verb(verbs, "compile", "compile a problem to a program file")
    compile_.add_argument("spec", metavar="NAME|FILE.py:OBJECT", nargs="?", help=SPEC_HELP)
    compile_.add_argument("--weights", metavar="F", help="initial weights of the network (safetensors)")
    compile_.add_argument("--seed", type=_seed, default=0, metavar="S", help="seed of the initial weights (default 0)")
    _compile_options(compile_)
    _pass_options(compile_)
    _effort(compile_)
    compile_.add_argument("--emit", choices=["ir", "tiles", "asm", "bin"], default="bin", help="what to write")
    compile_.add_argument("-o", "--output", metavar="F", help="where to write it (text: default stdout, -)")
    compile_.add_argument("--json", metavar="F", help="write the compile report as JSON (- for stdout)")

    run = _verb(verbs, "run", "run a compiled program; needs no torch")
    run.add_argument("program", metavar="P.pinta", help="a program that `pintac compile` or `pintac asm` wrote")
    _run_options(run, None, "that of the checkpoint, or of the program")

    predict = _verb(verbs, "predict", "evaluate the trained solution at given points, on the simulator")
    predict.add_argument("program", metavar="P.pinta", help="the program that was trained")
    predict.add_argument(
        "points",
        metavar="X",
        help="points, one a row, all finite: .npy, .csv, or - for CSV on stdin; each four rows share SMX blocks, so a "
        "row's neighbours change its value in the last bits",
    )
    trained = predict.add_mutually_exclusive_group()
    trained.add_argument("--weights", metavar="F", help="trained weights (`pintac train -o`)")
    trained.add_argument("--checkpoint", metavar="F", help="a checkpoint of the training run")
    predict.add_argument("--engine", choices=["jit", "reference"], default="jit", help="simulator (default jit)")
    predict.add_argument("-o", "--output", metavar="F", help="write .npy or .csv (default: CSV to stdout, -)")

    explain = _verb(verbs, "explain", "show where the cycles of a program go and what would help; needs no torch")
    explain.add_argument("program", metavar="P.pinta", help="a program file")
    explain.add_argument("--entry", default="step", metavar="E", help="what to explain: step (default) or infer")
    explain.add_argument(
        "--by", choices=["layer", "op", "line", "unit"], default="layer", help="what is summed (default layer)"
    )
    explain.add_argument("--top", type=_positive, default=20, metavar="N", help="lines of each long table (default 20)")
    explain.add_argument(
        "--machine", metavar="NAME|F.toml", help="the same program on this machine (default: the program's own)"
    )
    explain.add_argument(
        "--machine-key", action="append", default=[], metavar="K=V", help="change one key of it: dram_gb_per_s=51.2"
    )
    explain.add_argument("--json", metavar="F", help="write everything as JSON (- for stdout)")
    explain.add_argument("--trace", metavar="F", help="write a Perfetto trace (- for stdout)")

    reproduce = _verb(verbs, "reproduce", "make the runs of an experiment that are missing, and its tables and plots")
    reproduce.add_argument("names", metavar="NAME", nargs="*", help="first, table1, table3, sigma, ... (--list)")
    reproduce.add_argument("--list", action="store_true", help="list the experiments and what is finished, then stop")
    reproduce.add_argument(
        "--seeds", metavar="N|A,B,...", help="so many seeds of every row, or these (default 5; quick: 1)"
    )
    reproduce.add_argument("--quick", action="store_true", help="fewer points and one seed: minutes, labelled so")
    reproduce.add_argument("--jobs", type=_positive, metavar="N", help="runs at a time (default: one a processor)")
    reproduce.add_argument("--only", metavar="ROW", help="only rows with this in their label or run")
    reproduce.add_argument("--results", metavar="DIR", help="where runs and tables are kept (default docs/results)")
    reproduce.add_argument("--render", action="store_true", help="run nothing, write tables of what is there")
    reproduce.add_argument(
        "--costs",
        action="store_true",
        help="take over today's cycles and joules into kept runs, if their bits are equal",
    )
    reproduce.add_argument(
        "--again",
        choices=["host", "models", "all"],
        help="hardware: measure this host, compile the programs, or both, though the figures are there",
    )
    reproduce.add_argument("--no-plots", action="store_true", help="draw no figures")

    estimate = _verb(verbs, "estimate", "time, energy and cost of training runs on PINTA, beside this host")
    estimate.add_argument("spec", metavar="NAME|FILE.py:OBJECT", nargs="?", help=SPEC_HELP)
    _compile_options(estimate)
    estimate.add_argument("--runs", type=_positive, required=True, metavar="N", help="training runs")
    estimate.add_argument("--steps", type=_positive, metavar="N", help="steps of a run (default: the schedule's)")
    estimate.add_argument("--kwh-price", type=_up_to(1e9), required=True, metavar="P", help="price of a kWh")
    estimate.add_argument(
        "--static-watts",
        type=_up_to(1e9),
        default=0.0,
        metavar="W",
        help="of PINTA besides the model's energy (default 0)",
    )
    estimate.add_argument("--host-watts", type=_up_to(1e9), metavar="W", help="of a busy core of this host")
    estimate.add_argument(
        "--threads", type=_positive, default=1, metavar="N", help="threads of torch on this host (default 1)"
    )
    estimate.add_argument("--no-measure", action="store_true", help="time no steps on this host")
    estimate.add_argument("--json", metavar="F", help="write inputs and figures as JSON (- for stdout)")

    compare = _verb(verbs, "compare", "cycles and energy of a step for several machines, precisions or networks")
    compare.add_argument("spec", metavar="NAME|FILE.py:OBJECT", nargs="?", help=SPEC_HELP)
    compare.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="N=V,V,...",
        help="a key of the machine, machine, bits, quant, scheme, saved, rows or an option of a built-in problem, and "
        "its values; of several, all combinations",
    )
    _compile_options(compare)
    _effort(compare)
    compare.add_argument("--jobs", type=_positive, metavar="N", help="programs at a time (default: one a processor)")
    compare.add_argument("--json", metavar="F", help="write everything as JSON (- for stdout)")
    compare.add_argument("--plot", metavar="F", help="draw energy against time of a step (.svg, .png, .pdf)")

    opt = _verb(verbs, "opt", "run passes over IR text")
    opt.add_argument("input", metavar="IN.ir", nargs="?", help="IR text, - for stdin")
    _pass_options(opt)
    opt.add_argument("-o", "--output", metavar="F", help="where to write the IR (default stdout, -)")

    asm = _verb(verbs, "asm", "assemble text to a program file")
    asm.add_argument("input", metavar="IN.s", help="assembly text, - for stdin")
    asm.add_argument("-o", "--output", metavar="F", required=True, help="the program file to write")
    asm.add_argument(
        "--unchecked", action="store_true", help="write it whatever `pintac check` would say (default: refuse problems)"
    )

    check = _verb(verbs, "check", "look for races between queues, semaphores that overflow, reads of nothing")
    check.add_argument("program", metavar="P.pinta", help="a program file, such as one that was edited by hand")

    dis = _verb(verbs, "dis", "disassemble a program file")
    dis.add_argument("program", metavar="P.pinta", help="a program file")
    dis.add_argument("-o", "--output", metavar="F", help="where to write the text (default stdout, -)")
    return parser


def _version() -> str:
    from pintac import __version__

    return f"pintac {__version__}"


def _verb(verbs: argparse._SubParsersAction[_Parser], name: str, summary: str) -> _Parser:
    parser = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.add_argument("--traceback", action="store_true", help="on an error, show where in pintac it was raised")
    return parser


def _compile_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to compile")
    group.add_argument("--tt-rank", type=_positive, metavar="R", help="rank of the tensor trains of a built-in problem")
    group.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="N=V", help="an option of a built-in problem: K=64"
    )
    group.add_argument(
        "--scheme", choices=["prs", "sequential", "dense"], default="prs", help="order of contractions (default prs)"
    )
    group.add_argument(
        "--quant",
        choices=["diff", "even-odd", "naive", "none"],
        default="diff",
        help="DiffQuant (default), its even/odd form, naive quantisation of x + delta, or fp32 in torch",
    )
    group.add_argument(
        "--bits",
        type=_bits,
        default=DEFAULT_BITS,
        metavar="W/B/D/G|auto:B",
        help=f"weight/base/delta/gradient bits (default {DEFAULT_BITS}), or chosen for relative errors of residual and "
        "gradient up to B; bits of single tensors may follow: 8/16/8/12,*.base=8",
    )
    group.add_argument("--saved", choices=["smx", "f32"], default="smx", help="format of values kept for backward")
    group.add_argument(
        "--block",
        choices=["4x4", "8x8", "1x16", "1x32"],
        default="4x4",
        help="shape of the blocks that share an exponent (default 4x4; others with --engine evaluator)",
    )
    group.add_argument(
        "--rows",
        choices=["apart", "packed"],
        default="apart",
        help="blocks of each point's own (default), or shared by neighbouring points of few pairs (with even-odd)",
    )
    group.add_argument("--machine", default="pinta", metavar="NAME|F.toml", help="machine description (default pinta)")
    group.add_argument(
        "--machine-key", action="append", default=[], metavar="K=V", help="change one key of the machine: sram_kib=192"
    )


def _effort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--effort",
        type=_up_to(1000),
        default=1.0,
        metavar="X",
        help="search up to X times as long for the schedule, and take the fastest program found (default 1)",
    )


def _pass_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("passes")
    group.add_argument("--passes", "--pipeline", dest="passes", metavar="P", help='such as "split-stein,dce"')
    group.add_argument("--list-passes", action="store_true", help="list the passes and their options, then stop")
    group.add_argument("--print-pipeline", action="store_true", help="print the pipeline that would run, then stop")
    group.add_argument(
        "--verify", choices=["each", "ends", "none"], default="ends", help="verify the IR (default ends)"
    )
    group.add_argument("--time-passes", action="store_true", help="print the time of each pass to stderr")
    group.add_argument(
        "--dump-ir-after", action="append", default=[], metavar="PASS", help="dump the IR after a pass (repeatable)"
    )
    group.add_argument(
        "--dump-ir-after-all", action="store_true", help="dump the IR after every pass, of inference as infer.*"
    )
    group.add_argument("--dump-ir-after-change", action="store_true", help="dump the IR after passes that changed it")
    group.add_argument("--dump-dir", metavar="DIR", help="write dumps as files here (default: to stderr)")


def _run_options(parser: argparse.ArgumentParser, seed: int | None, of: str, *more_engines: str) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--steps", type=_positive, metavar="N", help="training steps (default: the optimizer's schedule)"
    )
    group.add_argument(
        "--seed", type=_seed, default=seed, metavar="S", help=f"seed of all random numbers (default: {of})"
    )
    group.add_argument(
        "--engine", choices=["jit", "reference", *more_engines], default="jit", help="what executes (default jit)"
    )
    group.add_argument(
        "--threads", type=_positive, default=1, metavar="N",
        help="threads of the jit engine: same bits, two take some 0.6 of the time (default 1)",
    )  # fmt: skip
    group.add_argument("--weights", metavar="F", help="initial weights (safetensors)")
    group.add_argument(
        "--checkpoint", metavar="F", help="write a checkpoint here every 30 seconds, at the end, and on Ctrl-C"
    )
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint, bit for bit")
    again.add_argument(
        "--overwrite", action="store_true", help="begin anew though the checkpoint or log of an earlier run is there"
    )
    group.add_argument(
        "--every", type=_positive, metavar="N", help="measure every N-th step for history and log (default: 50 times)"
    )
    group.add_argument(
        "--log", metavar="F.jsonl", help="write a line of JSON for each of these steps as it is made; --resume goes on"
    )
    group.add_argument(
        "--stop-below", type=_error, metavar="L2", help="end the run when the l2 error of such a step is below this"
    )
    group.add_argument("--trace", metavar="F", help="write a Perfetto trace of one step (- for stdout)")
    group.add_argument("--stats", metavar="F", help="write timing and energy statistics as JSON (- for stdout)")
    group.add_argument("--json", metavar="F", help="write the result as JSON (- for stdout)")
    group.add_argument("-o", "--output", metavar="F", help="write the trained weights (safetensors)")
    group.add_argument(
        "--dry-run", action="store_true", help="print instructions, bytes and a time estimate, then stop"
    )
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("--no-diagnostics", action="store_true", help="do not look for what is wrong with the run")
