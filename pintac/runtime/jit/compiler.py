"""From kernel text to machine code: target selection, optimisation, the object cache on disk.

A kernel is named by a key; its object file is stored under the user's cache directory in a folder whose name digests
everything that could change the code: the sources of this package, the llvmlite and LLVM versions, processor and
features. So a cache entry is never stale. Without a writable cache directory everything is compiled at each start.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path

import llvmlite
from llvmlite import binding as llvm
from llvmlite import ir

from pintac.errors import UsageError, suggest
from pintac.runtime.cache import cache_folder
from pintac.runtime.jit.codegen import Lowering

ISAS = ("auto", "avx512", "portable")
_AVX512 = ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni")
# Full vectors, and word dot products as one instruction (LLVM would split them in two for their latency).
_TUNING = ("-prefer-256-bit", "+fast-dpwssd")
_CHECKSUM = 32  # bytes of SHA-256 before the object in a cache file


@lru_cache(maxsize=1)
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _host_features() -> dict[str, bool]:
    return dict(llvm.get_host_cpu_features())


@cache
def lowering(name: str = "auto") -> Lowering:
    """The code style called `name` on this processor.

    `avx512` needs AVX-512 with VNNI; `portable` names no processor-specific instruction and switches AVX-512 off, so
    it compiles as on a processor that has none; `auto` takes the faster one there is. Raises `UsageError` otherwise.
    """
    if name not in ISAS:
        raise UsageError(f"there is no instruction set {name!r}", hint=suggest(name, list(ISAS)))
    _initialise()
    features = _host_features()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    able = x86 and all(features.get(f) for f in _AVX512)
    if name == "avx512" and not able:
        raise UsageError("this processor has no AVX-512 with VNNI", hint="use isa='auto' or 'portable'")
    cpu = llvm.get_host_cpu_name()
    if able and name != "portable":
        on = [f"{'+' if v else '-'}{k}" for k, v in sorted(features.items())]
        return Lowering("avx512", cpu, ",".join([*on, *_TUNING]), x86)
    plain = {k: v and not k.startswith(("avx512", "avx10", "amx")) for k, v in features.items()}
    return Lowering("portable", cpu, ",".join(f"{'+' if v else '-'}{k}" for k, v in sorted(plain.items())), x86)


@lru_cache(maxsize=1)
def _sources_digest() -> str:
    """Digest of every source file that decides what a kernel computes."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    folders = (Path(__file__).parent, package / "isa")
    for path in [*(path for folder in folders for path in sorted(folder.glob("*.py"))), package / "vmath.py"]:
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cache_directory(style: Lowering) -> Path | None:
    """Where object files for this processor, these sources and these versions go; None if it cannot be written."""
    what = (_sources_digest(), llvmlite.__version__, str(llvm.llvm_version_info), style.name, style.cpu, style.features)
    name = hashlib.sha256("\n".join(what).encode()).hexdigest()[:24]
    return cache_folder("jit", name)


class Library:
    """Compiled kernels of one code style, shared by all engines of the process."""

    def __init__(self, style: Lowering, cache: Path | None) -> None:
        _initialise()
        self.style = style
        self.cache = cache
        self.compiled = 0  # kernels compiled, not found in the cache
        self._machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=style.cpu, features=style.features, opt=2, codemodel="jitdefault", jit=True
        )
        self._triple = llvm.get_process_triple()
        empty = llvm.parse_assembly(f'target triple = "{self._triple}"')
        self._engine = llvm.create_mcjit_compiler(empty, self._machine)
        self._address: dict[str, int] = {}

    def addresses(self, kernels: Mapping[str, Callable[[ir.Module, str, Lowering], None]]) -> dict[str, int]:
        """Entry addresses of kernels by key; `kernels[key](module, symbol, style)` writes one that is not known yet."""
        new = {key: kernels[key] for key in kernels if key not in self._address}
        for key, write in new.items():
            data = self._cached_object(key, write)
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        if new:
            self._engine.finalize_object()
            for key in new:
                self._address[key] = self._engine.get_function_address(symbol(key))
        return {key: self._address[key] for key in kernels}

    def _cached_object(self, key: str, write: Callable[[ir.Module, str, Lowering], None]) -> bytes:
        path = self.cache / f"{symbol(key)}.o" if self.cache else None
        if path is not None:
            stored = _read(path)
            if stored is not None:
                return stored
        module = ir.Module(name=key)
        module.triple = self._triple
        write(module, symbol(key), self.style)
        data = self._machine.emit_object(self._optimised(module))
        self.compiled += 1
        if path is not None:
            _write(path, data)
        return data

    def _optimised(self, module: ir.Module) -> llvm.ModuleRef:
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        # The text is already in the shape wanted: registers for variables, folding and common subexpressions will do,
        # at half the time of LLVM's standard pipeline.
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_new_gvn_pass()
        passes.add_simplify_cfg_pass()
        passes.add_dead_code_elimination_pass()
        with llvm.create_pass_builder(self._machine, llvm.create_pipeline_tuning_options()) as builder:
            passes.run(parsed, builder)
        return parsed

    def assembly(self, write: Callable[[ir.Module, str, Lowering], None]) -> str:
        """The machine code of a kernel as text, for inspection."""
        module = ir.Module(name="inspect")
        module.triple = self._triple
        write(module, "inspect", self.style)
        return self._machine.emit_assembly(self._optimised(module))


def symbol(key: str) -> str:
    """Linker symbol of a kernel."""
    return "pintac_" + hashlib.sha256(key.encode()).hexdigest()[:24]


def _read(path: Path) -> bytes | None:
    """A stored object, or None if it is missing or damaged."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    data = raw[_CHECKSUM:]
    return data if hashlib.sha256(data).digest() == raw[:_CHECKSUM] else None


def _write(path: Path, data: bytes) -> None:
    """Store an object; a cache that cannot be written is no error."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(data).digest() + data)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
    except OSError:
        return


@cache
def library(name: str = "auto") -> Library:
    """The process's kernels of a code style (see `lowering`)."""
    style = lowering(name)
    return Library(style, cache_directory(style))


def function_pointer(address: int, result: type | None, *args: type) -> Callable[..., int]:
    """A compiled function as a Python callable."""
    return ctypes.CFUNCTYPE(result, *args)(address)
