"""One verb, one function: options in, exit code out. Libraries are imported when a verb needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pintac.cli.outputs import check_outputs, to_stdout
from pintac.errors import PintacError, UsageError
from pintac.report.files import read_text, say, write_bytes, write_text

if TYPE_CHECKING:
    from pintac.api import Result
    from pintac.api.compilation import Compilation
    from pintac.api.following import Following
    from pintac.frontend import TrainStep
    from pintac.passes import Observer, Pass, PipelineOptions

Options = argparse.Namespace


def train(options: Options) -> int:
    """Train on the simulator; the result to stdout."""
    from pintac import api
    from pintac.api.training import TrainingRun, train_with

    if _asked_about_passes(options):
        return 0
    _check_run(options)
    looks = options.stats or options.trace or options.dry_run or options.save_program
    if looks and (options.quant == "none" or options.engine == "evaluator"):
        raise UsageError(
            "there is no program to look at", hint="--stats, --trace, --save-program and --dry-run need the simulator"
        )
    _say_what_is_ignored(options)
    step = _step(options)
    timing = _timing(options)
    how = _compilation(options, timing)
    if options.dry_run:
        program = api.build(step, how, seed=options.seed, weights=_weights(options)).program
        write_text(None, api.dry_run(program, options.steps, options.engine, options.threads))
        return 0
    run = TrainingRun(
        seed=options.seed,
        engine=options.engine,
        checkpoint=options.checkpoint,
        resume=options.resume,
        overwrite=options.overwrite,
        weights=_weights(options),
        twin=options.twin is not None,
        threads=options.threads,
        derivatives=options.derivatives,
        diagnostics=not options.no_diagnostics,
    )
    result = train_with(step, how, run, _following(options), options.steps)
    _finish_timing(timing)
    return _report(options, result)


def compile(options: Options) -> int:
    """Compile to IR, tiles, assembly or a program file; the closing report to stderr."""
    from pintac import api

    if _asked_about_passes(options):
        return 0
    binary = options.emit == "bin"
    if binary and not options.output:
        raise UsageError("a program is binary: where shall it go?", hint="-o p.pinta, or --emit=asm for text")
    check_outputs(options)
    timing = _timing(options)
    compiled = api.build(
        _step(options), _compilation(options, timing), seed=options.seed, weights=_weights(options)
    )
    if options.emit == "ir":
        write_text(options.output, compiled.ir())
    elif options.emit == "tiles":
        write_text(options.output, compiled.tiles())
    elif options.emit == "asm":
        write_text(options.output, compiled.asm())
    else:
        write_bytes(options.output, compiled.program.to_bytes())
    _finish_timing(timing)
    if options.emit in ("asm", "bin"):
        sys.stderr.write(compiled.report(options.output))
    if options.json:
        write_text(options.json, compiled.to_json())
    return 0


def run(options: Options) -> int:
    """Run a program; the result to stdout."""
    from pintac import api

    _check_run(options)
    program = api.load(options.program)
    if options.dry_run:
        write_text(None, api.dry_run(program, options.steps, options.engine, options.threads))
        return 0
    result = api.run(
        program,
        options.steps,
        seed=options.seed,
        engine=options.engine,
        threads=options.threads,
        checkpoint=options.checkpoint,
        resume=options.resume,
        overwrite=options.overwrite,
        weights=_weights(options),
        diagnostics=not options.no_diagnostics,
        **vars(_following(options)),
    )
    return _report(options, result)


def predict(options: Options) -> int:
    """The solution at given points: CSV to stdout, or a file."""
    from pintac import api
    from pintac.report import points

    check_outputs(options)
    program = api.load(options.program)
    x = points.read(options.points)
    if options.weights is None and options.checkpoint is None:
        print("note: these are the program's initial weights (--checkpoint, --weights)", file=sys.stderr)
    u = api.predict(program, x, weights=_weights(options), checkpoint=options.checkpoint, engine=options.engine)
    points.write(options.output, u)
    return 0


def explain(options: Options) -> int:
    """Where the cycles of a program go: a report to stdout."""
    from pintac import api

    check_outputs(options)
    program = api.load(options.program)
    explanation = api.explain(
        program, entry=options.entry, machine=options.machine, machine_keys=options.machine_key, by=options.by
    )
    if not to_stdout(options, "json", "trace"):
        write_text(None, explanation.text(options.top))
    if options.json:
        write_text(options.json, explanation.to_json())
    if options.trace:
        from pintac.report.perfetto import trace_json

        write_text(options.trace, trace_json(program, options.entry, explanation.machine))
    return 0


def reproduce(options: Options) -> int:
    """Experiments: missing runs are made, tables go to stdout and pages."""
    from pathlib import Path

    from pintac.experiments import reproduce as experiments
    from pintac.experiments.rows import Seeds

    results = Path(options.results) if options.results else experiments.default_results()
    seeds = Seeds.parse(options.seeds or ("1" if options.quick else str(Seeds().count)))

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if options.list:
        write_text(None, experiments.listing(results, seeds))
        return 0
    if options.costs:
        return experiments.renew_costs(options.names, results, seeds=seeds, only=options.only, note=note)
    return experiments.reproduce(
        options.names,
        results,
        seeds=seeds,
        quick=options.quick,
        jobs=options.jobs or experiments.processors(),
        only=options.only,
        render_only=options.render,
        plots=not options.no_plots,
        again=options.again or "",
        out=lambda text: write_text(None, text),
        note=note,
    )


def estimate(options: Options) -> int:
    """Time, energy and cost of training runs; a table to stdout."""
    from pintac import api
    from pintac.api.steps import total_steps
    from pintac.experiments import estimate as estimating

    if options.quant == "none":
        raise UsageError("fp32 in torch runs no program, so PINTA takes no time for it", hint="without --quant none")
    _refuse_other_blocks(options)
    check_outputs(options)
    step = _step(options)
    steps = total_steps(options.steps, step.optimizer.attrs())
    program = api.build(step, _compilation(options)).program
    found = estimating.estimate(
        program,
        options.spec,
        _settings(options),
        runs=options.runs,
        steps=steps,
        kwh_price=options.kwh_price,
        static_watts=options.static_watts,
        host_watts=options.host_watts,
        threads=options.threads,
        measured=not options.no_measure,
    )
    if options.json != "-":
        write_text(None, found.text())
    if options.json:
        write_text(options.json, found.to_json())
    return 0


def compare(options: Options) -> int:
    """The cost of a step for several machines, precisions or networks; a table to stdout."""
    from pintac.cli import EXIT_INTERRUPTED
    from pintac.experiments import compare as comparing
    from pintac.experiments.plots import need_matplotlib
    from pintac.experiments.reproduce import processors
    from pintac.experiments.variants import SWITCHES, Variant, axes, variants

    _refuse_other_blocks(options)
    if options.spec is None:
        raise UsageError("what shall be compared?", hint="a built-in problem such as poisson2d, or FILE.py:OBJECT")
    check_outputs(options)
    if options.plot:
        need_matplotlib("without --plot")
    base = Variant(
        options.spec,
        tuple(_settings(options).items()),
        options.bits,
        tuple((name, getattr(options, name)) for name in SWITCHES),
        options.machine,
        tuple(options.machine_key),
        options.effort,
    )
    chosen = variants(base, axes(options.vary))
    found = comparing.compare(chosen, jobs=options.jobs or processors(), show=say)
    if not to_stdout(options, "json"):
        write_text(None, found.text())
    if options.json:
        write_text(options.json, found.to_json())
    if options.plot:
        found.plot(options.plot)
    if found.interrupted:
        return EXIT_INTERRUPTED
    return PintacError.exit_code if found.failed else 0


def opt(options: Options) -> int:
    """Passes over IR text; the result as IR text to stdout."""
    from pintac.ir import parse_module, print_module
    from pintac.passes import PassManager, Verify

    if _asked_about_passes(options):
        return 0
    if options.input is None:
        raise UsageError("what shall be read?", hint="a file of IR text, - for stdin")
    check_outputs(options)
    passes = _pipeline(options)
    graphs = parse_module(*read_text(options.input))
    timing = _timing(options)
    for name, graph in graphs.items():
        dumps = _dumps(options, name if len(graphs) > 1 else "")
        observers: list[Observer] = [Verify(options.verify), *dumps, *timing]
        graphs[name] = PassManager(passes, observers).run(graph)
    write_text(options.output, print_module(graphs))
    _finish_timing(timing)
    return 0


def asm(options: Options) -> int:
    """Assembly text to a program file, if nothing in it depends on the timing of the queues."""
    from pintac import asm as assembler
    from pintac.api.checking import refuse_problems

    check_outputs(options)
    program = assembler.assemble(*read_text(options.input))
    if not options.unchecked:
        for found in refuse_problems(program):
            if found.verdict is None:
                say(f"note: the entry {found.entry} executes {found.executed:,} instructions and is not checked here")
    write_bytes(options.output, program.to_bytes())
    return 0


def check(options: Options) -> int:
    """What is wrong with a program, to stdout; exit code 1 unless every entry is clean."""
    from pintac import api
    from pintac.api.checking import check as check_program

    program = api.load(options.program)
    checked = check_program(program)
    write_text(None, "".join(f"{line}\n" for found in checked for line in found.lines(program)))
    return 0 if all(found.name == "clean" for found in checked) else PintacError.exit_code


def dis(options: Options) -> int:
    """A program file to assembly text."""
    from pintac import api
    from pintac import asm as assembler

    check_outputs(options)
    write_text(options.output, assembler.disassemble(api.load(options.program)))
    return 0


# ------------------------------------------------------------------------------------------------- options to arguments


def _step(options: Options) -> TrainStep:
    """The TrainStep that was named, made with `--tt-rank`, `--scheme` and `--set`; `--seed` is also its generators'."""
    if options.spec is None:
        raise UsageError("what shall be trained?", hint="a built-in problem such as poisson2d, or FILE.py:OBJECT")
    from pintac.api.named import named_step

    return named_step(options.spec, getattr(options, "seed", 0), options.scheme, _settings(options))


def _settings(options: Options) -> dict[str, Any]:
    """What `--set` and `--tt-rank` give to the factory of the step."""
    rank = {} if options.tt_rank is None else {"rank": options.tt_rank}
    return {**dict(options.set), **rank}


def _switches(options: Options) -> PipelineOptions:
    """What is compiled, as the flags say it."""
    from pintac.passes import PipelineOptions

    switches = {key: getattr(options, key) for key in ("quant", "scheme", "saved", "block", "rows")}
    return PipelineOptions.from_bits(options.bits, **switches)


def _refuse_other_blocks(options: Options) -> None:
    if options.block != "4x4":
        raise UsageError(f"the machine has 4x4 blocks, not {options.block}", hint="without --block")


def _compilation(options: Options, timing: list[Any] | None = None) -> Compilation:
    """How it is compiled; `estimate` has no flags for passes and effort."""
    from pintac.api.compilation import Compilation, as_machine

    machine = as_machine(options.machine).override(options.machine_key)
    if "passes" not in options:
        return Compilation(_switches(options), machine)
    observers = [*_dumps(options), *(timing or [])]
    return Compilation(_switches(options), machine, options.passes, observers, options.verify, options.effort)


def _following(options: Options) -> Following:
    from pintac.api.following import Following

    return Following(
        progress=not options.quiet, every=options.every, log=options.log, stop_below=options.stop_below
    )


_OF_PROGRAMS = (
    "bits", "saved", "block", "rows", "machine", "machine_key", "engine", "threads", "effort", "passes",
    "dump_ir_after", "dump_ir_after_all", "dump_ir_after_change", "time_passes",
)  # fmt: skip


def _say_what_is_ignored(options: Options) -> None:
    """A note on flags of programs beside `--quant none`, which has none."""
    if options.quant != "none":
        return
    from pintac.api.named import is_file
    from pintac.cli.arguments import build_parser

    default = build_parser().parse_args(["train"])
    of_file = options.spec is not None and is_file(options.spec)
    names = [*_OF_PROGRAMS, *(["scheme"] if of_file else [])]  # a built-in problem makes its layers by the scheme
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != getattr(default, name)]
    if given:
        say(f"note: --quant none is fp32 in torch, without a program: no effect of {', '.join(given)}")


def _weights(options: Options) -> Any:
    if options.weights is None:
        return None
    from pintac.api.weights import load_weights

    return load_weights(options.weights)


def _check_run(options: Options) -> None:
    if options.resume and not options.checkpoint:
        raise UsageError("which checkpoint shall be resumed?", hint="--checkpoint FILE --resume")
    check_outputs(options)


# ------------------------------------------------------------------------------------------------- passes


def _pipeline(options: Options) -> tuple[Pass, ...]:
    from pintac.passes import default_pipeline, parse_pipeline

    if options.passes is not None:
        return parse_pipeline(options.passes)
    if options.verb == "opt":
        return ()
    return default_pipeline(_switches(options))


def _with_bits(options: Options, passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    """The passes with the bits that `auto` chooses for the step that is named."""
    from pintac.passes.insert_smx import InsertSMX

    if not any(isinstance(p, InsertSMX) and p.policy == "auto" for p in passes) or not getattr(options, "spec", None):
        return passes
    from pintac.api.precision import resolve

    return resolve(_step(options), passes, _compilation(options).machine, _weights(options))


def _asked_about_passes(options: Options) -> bool:
    """Answer --list-passes and --print-pipeline."""
    if options.list_passes:
        from pintac.report.passes import list_passes

        write_text(None, list_passes())
    elif options.print_pipeline:
        from pintac.passes import print_pipeline

        write_text(None, print_pipeline(_with_bits(options, _pipeline(options))) + "\n")
    else:
        return False
    return True


def _dumps(options: Options, graph: str = "") -> list[Observer]:
    """Dumps as asked for; `graph` names the files of one graph of several."""
    wanted = options.dump_ir_after or options.dump_ir_after_all or options.dump_ir_after_change
    if not wanted:
        if options.dump_dir:
            raise UsageError("--dump-dir without anything to dump", hint="add --dump-ir-after-all")
        return []
    from pintac.passes import Dump

    return [
        Dump(
            options.dump_ir_after,
            everything=options.dump_ir_after_all,
            on_change=options.dump_ir_after_change,
            directory=options.dump_dir,
            prefix=f"{graph}." if graph else "",
            write=None if options.dump_dir else sys.stderr.write,
        )
    ]


def _timing(options: Options) -> list[Any]:
    if not options.time_passes:
        return []
    from pintac.passes import Timing

    return [Timing()]


def _finish_timing(timing: list[Any]) -> None:
    for observer in timing:
        print(observer, file=sys.stderr)


# ------------------------------------------------------------------------------------------------- results


def _report(options: Options, result: Result) -> int:
    """Everything a finished run leaves, what cost most first. What cannot be written takes nothing else with it."""
    from pintac.cli import EXIT_INTERRUPTED
    from pintac.report.summary import summary

    failed = bool(result.notes)

    def leave(target: str | None, write: Callable[[str], object]) -> None:
        nonlocal failed
        if target:
            try:
                write(target)
            except PintacError as error:
                failed = True
                say(f"pintac {options.verb}: error: {error}")

    leave(options.output, result.save_weights)
    leave(options.json, lambda target: write_text(target, result.to_json()))
    leave(getattr(options, "save_program", None), result.save_program)
    leave(options.stats, result.save_stats)
    leave(options.trace, result.save_trace)
    text = summary(result.as_dict())
    if to_stdout(options, "json", "stats", "trace"):
        sys.stderr.write(text)
    else:
        write_text(None, text)
    if result.interrupted:
        return EXIT_INTERRUPTED
    return PintacError.exit_code if failed else 0
