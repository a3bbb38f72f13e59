"""One verb, one function: options in, exit code out. Libraries are imported when a verb needs them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pintac.errors import UsageError
from pintac.report.files import check_writable, read_text, write_bytes, write_text

if TYPE_CHECKING:
    from pintac.api import Result
    from pintac.frontend import TrainStep
    from pintac.passes import Observer, Pass

Options = argparse.Namespace


def train(options: Options) -> int:
    """Train on the simulator; the result to stdout."""
    from pintac import api

    if _asked_about_passes(options):
        return 0
    _check_run(options)
    if (options.stats or options.trace or options.dry_run) and (
        options.quant == "none" or options.engine == "evaluator"
    ):
        raise UsageError("there is no program to look at", hint="--stats, --trace and --dry-run need the simulator")
    step = _step(options)
    if options.dry_run:
        program = api.compile(step, seed=options.seed, weights=_weights(options), **_compilation(options))
        write_text(None, api.dry_run(program, options.steps, options.engine, options.threads))
        return 0
    timing = _timing(options)
    result = api.train(
        step,
        options.steps,
        seed=options.seed,
        engine=options.engine,
        threads=options.threads,
        progress=not options.quiet,
        checkpoint=options.checkpoint,
        resume=options.resume,
        weights=_weights(options),
        diagnostics=not options.no_diagnostics,
        twin=options.twin is not None,
        derivatives=options.derivatives,
        **_compilation(options, timing),
    )
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
    _check_outputs(options, "json", "output")
    timing = _timing(options)
    compiled = api.build(
        _step(options),
        seed=options.seed,
        weights=_weights(options),
        effort=options.effort,
        **_compilation(options, timing),
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
        progress=not options.quiet,
        checkpoint=options.checkpoint,
        resume=options.resume,
        weights=_weights(options),
        diagnostics=not options.no_diagnostics,
    )
    return _report(options, result)


def predict(options: Options) -> int:
    """The solution at given points: CSV to stdout, or a file."""
    from pintac import api
    from pintac.report import points

    _check_outputs(options, "output")
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

    _check_outputs(options, "json", "trace")
    program = api.load(options.program)
    explanation = api.explain(
        program, entry=options.entry, machine=options.machine, machine_keys=options.machine_key, by=options.by
    )
    if options.json != "-":
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
        return experiments.renew_costs(options.names, results, seeds=seeds, note=note)
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
    from pintac.api.compiling import as_machine
    from pintac.experiments import estimate as estimating

    if options.quant == "none":
        raise UsageError("fp32 in torch runs no program, so PINTA takes no time for it", hint="without --quant none")
    _check_outputs(options, "json")
    step = _step(options)
    steps = estimating.steps_of(step, options.steps)
    program = api.compile(
        step,
        machine=as_machine(options.machine).override(options.machine_key),
        quant=options.quant,
        scheme=options.scheme,
        bits=options.bits,
        saved=options.saved,
        rows=options.rows,
    )
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


def opt(options: Options) -> int:
    """Passes over IR text; the result as IR text to stdout."""
    from pintac.ir import parse_module, print_module
    from pintac.passes import PassManager, Verify

    if _asked_about_passes(options):
        return 0
    if options.input is None:
        raise UsageError("what shall be read?", hint="a file of IR text, - for stdin")
    _check_outputs(options, "output")
    passes = _pipeline(options)
    graphs = parse_module(*read_text(options.input))
    timing = _timing(options)
    for name, graph in graphs.items():
        observers: list[Observer] = [Verify(options.verify), *_dumps(options), *timing]
        graphs[name] = PassManager(passes, observers).run(graph)
    write_text(options.output, print_module(graphs))
    _finish_timing(timing)
    return 0


def asm(options: Options) -> int:
    """Assembly text to a program file."""
    from pintac import asm as assembler

    _check_outputs(options, "output")
    program = assembler.assemble(*read_text(options.input))
    write_bytes(options.output, program.to_bytes())
    return 0


def dis(options: Options) -> int:
    """A program file to assembly text."""
    from pintac import api
    from pintac import asm as assembler

    _check_outputs(options, "output")
    write_text(options.output, assembler.disassemble(api.load(options.program)))
    return 0


# ------------------------------------------------------------------------------------------------- options to arguments


def _step(options: Options) -> TrainStep:
    """The TrainStep that was named; `--tt-rank`, `--scheme` and `--set` go to the factory of a built-in one."""
    if options.spec is None:
        raise UsageError("what shall be trained?", hint="a built-in problem such as poisson2d, or FILE.py:OBJECT")
    from pintac.frontend import load_step

    arguments = _settings(options)
    if not _is_file(options.spec):
        if "scheme" in arguments:
            raise UsageError("the scheme is a flag of its own", hint=f"--scheme {arguments['scheme']}")
        arguments["scheme"] = options.scheme
    return load_step(options.spec, **arguments)


def _settings(options: Options) -> dict[str, Any]:
    """What `--set` and `--tt-rank` give to the factory of the step."""
    rank = {} if options.tt_rank is None else {"rank": options.tt_rank}
    return {**dict(options.set), **rank}


def _is_file(spec: str) -> bool:
    return ":" in spec or spec.endswith(".py")


def _compilation(options: Options, timing: list[Any] | None = None) -> dict[str, Any]:
    """Arguments of `api.compile`."""
    from pintac.api.compiling import as_machine

    return {
        "machine": as_machine(options.machine).override(options.machine_key),
        "quant": options.quant,
        "scheme": options.scheme,
        "bits": options.bits,
        "saved": options.saved,
        "block": options.block,
        "rows": options.rows,
        "passes": options.passes,
        "verify": options.verify,
        "observers": [*_dumps(options), *(timing or [])],
    }


def _weights(options: Options) -> Any:
    if options.weights is None:
        return None
    from pintac.api.weights import load_weights

    return load_weights(options.weights)


def _check_run(options: Options) -> None:
    if options.resume and not options.checkpoint:
        raise UsageError("which checkpoint shall be resumed?", hint="--checkpoint FILE --resume")
    _check_outputs(options, "json", "stats", "trace", "output", "checkpoint")


def _check_outputs(options: Options, *names: str) -> None:
    """Refuse outputs that cannot be written before any work is done."""
    for name in names:
        check_writable(getattr(options, name))


# ------------------------------------------------------------------------------------------------- passes


def _pipeline(options: Options) -> tuple[Pass, ...]:
    from pintac.passes import PipelineOptions, default_pipeline, parse_pipeline

    if options.passes is not None:
        return parse_pipeline(options.passes)
    if options.verb == "opt":
        return ()
    switches = {key: getattr(options, key) for key in ("quant", "scheme", "saved", "block", "rows")}
    return default_pipeline(PipelineOptions.from_bits(options.bits, **switches))


def _with_bits(options: Options, passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    """The passes with the bits that `auto` chooses for the step that is named."""
    from pintac.passes.insert_smx import InsertSMX

    if not any(isinstance(p, InsertSMX) and p.policy == "auto" for p in passes) or not getattr(options, "spec", None):
        return passes
    from pintac.api.precision import resolve

    return resolve(_step(options), passes, _compilation(options)["machine"], _weights(options))


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


def _dumps(options: Options) -> list[Observer]:
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
    """Everything a finished run leaves: text, JSON, statistics, trace, weights."""
    from pintac.cli import EXIT_INTERRUPTED
    from pintac.report.summary import summary

    text = summary(result.as_dict())
    if options.json == "-":
        sys.stderr.write(text)
    else:
        write_text(None, text)
    if options.json:
        write_text(options.json, result.to_json())
    if options.output:
        result.save_weights(options.output)
    if options.stats:
        result.save_stats(options.stats)
    if options.trace:
        result.save_trace(options.trace)
    return EXIT_INTERRUPTED if result.interrupted else 0
