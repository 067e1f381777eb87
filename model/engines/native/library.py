"""The shared library of the native engine: built by a C compiler, one for each kind of processor.

`python -m model.engines.native.library` builds all kinds of this machine's architecture, so that an
image built here runs on other processors. `prepare` builds only the kind that this processor needs,
unless it exists: beside the sources or, where those are read-only, in the user's cache. Knows
nothing of what the library does.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from model.engines.native.processor import LEVELS, NoKind, read_features
from model.errors import EngineError

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent

# For each family of processors, the best first: the kind's name, the compiler's flags, and what the
# processor must have. 64-bit ARM always has NEON.
KINDS: dict[str, list[tuple[str, list[str], str]]] = {
    "x86_64": [
        ("avx512", ["-march=x86-64-v4"], LEVELS["x86-64-v4"]),
        ("avx2", ["-march=x86-64-v3"], LEVELS["x86-64-v3"]),
    ],
    "aarch64": [("neon", [], "")],
}

MAX_KIND = "NATIVE_MAX_KIND"
"""The environment variable that names the best kind to use, as oneDNN's ONEDNN_MAX_CPU_ISA does: a
processor with AVX-512 then runs what one without it would.
"""

FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]

# With this optimisation, GCC keeps the inputs of overlapping windows from one step to the next, in
# memory. The first convolution took 9 to 12 ms with it and 6 ms without.
GCC_FLAGS = ["-fno-predictive-commoning"]


def find_library_or_warn() -> Path | None:
    """Return the path that `prepare` returns, or log a warning and return None if it raises."""
    try:
        return prepare()
    except EngineError as error:
        log.warning("the native engine is not available: %s", error)
        return None


def prepare() -> Path:
    """Return a library for this processor, of the best kind that exists or can be built.

    Raises EngineError with the reason for each kind.
    """
    kinds = list_kinds()
    if not kinds:
        raise _explain_absence()
    failed: dict[str, list[str]] = {}
    for kind in kinds:
        try:
            path = prepare_kind(kind)
        except EngineError as error:
            failed.setdefault(str(error), []).append(kind)
            continue
        if failed:
            log.warning("the native engine is %s, not better: %s", kind, _join_reasons(failed))
        return path
    raise EngineError(_join_reasons(failed))


def prepare_kind(kind: str) -> Path:
    """Return the library of one kind. Build it unless one of the two places has it."""
    beside, cached = locate_library(kind), locate_cached_library(kind)
    if is_current(beside):
        return beside
    if cached.is_file() and _is_ours(cached.parent):
        return cached
    reasons = []
    for path in (beside, cached):
        try:
            build(kind, path)
        except _Unwritable as error:
            reasons.append(str(error))
            continue
        return path
    raise EngineError("; ".join(reasons))


def load(path: Path) -> ctypes.CDLL:
    """Load a library. Raises EngineError for a file that this machine cannot load."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"{path} cannot be loaded: {error}") from error


def list_kinds() -> list[str]:
    """List the kinds that this processor runs and NATIVE_MAX_KIND allows, the best first.

    The list is empty if the features are unknown. Raises EngineError if NATIVE_MAX_KIND is unknown.
    """
    listed = read_features()
    if listed is None:
        return []
    return [
        name for name, _, features in _list_allowed_kinds() if listed.issuperset(features.split())
    ]


def _list_allowed_kinds() -> list[tuple[str, list[str], str]]:
    kinds = KINDS.get(platform.machine(), [])
    best, names = os.environ.get(MAX_KIND), [name for name, _, _ in kinds]
    if not best:
        return kinds
    if best not in names:
        raise EngineError(f"{MAX_KIND}={best}: the kinds are {', '.join(names) or 'none here'}")
    return kinds[names.index(best) :]


def _explain_absence() -> NoKind:
    machine = platform.machine()
    if read_features() is None:
        return NoKind(
            "/proc/cpuinfo lists no features, and the loader cannot tell what this processor can "
            f"do ({machine})",
            remedy="let this process read /proc/cpuinfo (systemd: ProcSubset=all)",
        )
    return NoKind(
        f"no kind of it runs on this processor ({machine})",
        remedy="it needs a processor with AVX2 or NEON",
    )


def locate_library(kind: str) -> Path:
    return SOURCES / f"libsegment-{kind}.so"


def locate_cached_library(kind: str) -> Path:
    """Return the path in the user's cache; its name identifies the sources and the flags."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    content = hashlib.sha256(repr((FLAGS, GCC_FLAGS, KINDS, os.environ.get("CC"))).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        content.update(source.read_bytes())
    name = f"libsegment-{kind}-{content.hexdigest()[:16]}.so"
    return Path(cache) / "fcn-segmentation-service" / name


def build(kind: str, path: Path) -> None:
    """Compile the library of one kind. Raises EngineError with the compiler's messages."""
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    if not compiler:
        raise EngineError("no C compiler (cc) to build it with")
    (march,) = [flags for name, flags, _ in KINDS[platform.machine()] if name == kind]
    gcc = GCC_FLAGS if "clang" not in _read_version(compiler) else []
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    if not sources:
        raise EngineError("this installation was built for other processors, and has no sources")
    log.info("compiling the native engine for %s, once", kind)
    try:
        with _make_folder_beside(path) as folder:
            made = Path(folder) / "library.so"
            command = [*compiler, *FLAGS, *gcc, *march, *sources, "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            os.replace(made, path)  # atomic: other processes may build it, too
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise EngineError(
            f"{shlex.join(compiler)} failed: {error.stderr.strip()[-2000:]}"
        ) from error


def is_current(path: Path) -> bool:
    """Return whether the library exists and is not older than its sources, which wheels omit."""
    newest = max((source.stat().st_mtime for source in SOURCES.glob("*.[ch]")), default=0.0)
    return path.is_file() and path.stat().st_mtime >= newest


class _Unwritable(EngineError):
    """The library cannot be written here, but perhaps in another place."""


def _join_reasons(failed: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(kinds)}: {reason}" for reason, kinds in failed.items())


def _make_folder_beside(path: Path) -> "tempfile.TemporaryDirectory[str]":
    """Make a folder to build in. Raises _Unwritable if it fails or is open to other users."""
    try:
        if path.parent != SOURCES:
            if not path.is_absolute():
                raise _Unwritable(f"{path.parent}: there is no home directory")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(path.parent):
                raise _Unwritable(f"{path.parent} belongs, or is open, to another user")
        return tempfile.TemporaryDirectory(dir=path.parent)
    except OSError as error:
        raise _Unwritable(f"{path.parent}: {error.strerror}") from error


def _is_ours(folder: Path) -> bool:
    """Return whether no other user can write to the folder and make this process run other code."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_version(compiler: list[str]) -> str:
    try:
        told = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(f"{shlex.join(compiler)} does not run: {error}") from error
    return told.stdout


def main() -> None:
    kinds = [name for name, _, _ in KINDS.get(platform.machine(), [])]
    if not kinds:
        print(f"no native engine for {platform.machine()}: ncnn computes instead")
    failed = False
    for kind in kinds:
        try:
            if not is_current(locate_library(kind)):
                print(f"compiling the native engine for {kind}", flush=True)
                build(kind, locate_library(kind))
            print(locate_library(kind).name)
        except EngineError as error:
            failed = True
            print(f"error: {kind}: {error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
