"""The shared library of the native engine: built by a C compiler, one for each kind of processor.

`python -m model.engines.native.library` builds all kinds of this machine's family, so that what is
built here runs elsewhere; `ensure` builds only the one that this processor needs, if nobody has.
Knows nothing of what the library does.
"""

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from model.engines.native.processor import LEVELS
from model.engines.native.processor import features as _listed_features
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

FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]

# GCC would carry the inputs of overlapping windows from step to step, through memory: the first
# convolution took 9 to 12 ms with it and 6 without.
GCC_FLAGS = ["-fno-predictive-commoning"]


def ensure() -> Path | None:
    """This processor's library, built now if need be; None where that is not possible."""
    kind = kind_of_processor()
    if kind is None:
        log.warning("the native engine is not available: %s", _why_there_is_no_kind())
        return None
    path = library_path(kind)
    if not is_current(path):
        try:
            build(kind)
        except EngineError as error:
            log.warning("the native engine is not available: %s", error)
            return None
    return path


def load(path: Path) -> ctypes.CDLL:
    """Raises EngineError for a file that is no library of this machine."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"{path} cannot be loaded: {error}") from error


def kind_of_processor() -> str | None:
    """The best kind that this processor has; None where there is none (or no Linux to tell)."""
    listed = _listed_features()
    if listed is None:
        return None
    for name, _, features in KINDS.get(platform.machine(), []):
        if listed.issuperset(features.split()):
            return name
    return None


def _why_there_is_no_kind() -> str:
    machine = platform.machine()
    if _listed_features() is None:
        return (
            f"no /proc/cpuinfo, and the loader cannot tell what this processor can do ({machine})"
        )
    return f"no kind of it runs on this processor ({machine})"


def library_path(kind: str) -> Path:
    return SOURCES / f"libsegment-{kind}.so"


def build(kind: str) -> None:
    """Compile the library of one kind. Raises EngineError with what the compiler said."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise EngineError("no C compiler (cc) to build it with")
    (march,) = [flags for name, flags, _ in KINDS[platform.machine()] if name == kind]
    gcc = GCC_FLAGS if "clang" not in _version_of(compiler) else []
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    log.info("compiling the native engine for %s, once", kind)
    try:
        with tempfile.TemporaryDirectory(dir=SOURCES) as folder:
            made = Path(folder) / "library.so"
            command = [compiler, *FLAGS, *gcc, *march, *sources, "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            os.replace(made, library_path(kind))  # whole or not at all, whoever else builds
    except OSError as error:
        raise EngineError(f"{SOURCES}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise EngineError(f"{compiler} failed: {error.stderr.strip()[-2000:]}") from error


def is_current(path: Path) -> bool:
    """Whether the library is there and no older than what it is made of."""
    newest = max(source.stat().st_mtime for source in SOURCES.glob("*.[ch]"))
    return path.is_file() and path.stat().st_mtime >= newest


def _version_of(compiler: str) -> str:
    try:
        told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(f"{compiler} does not run: {error}") from error
    return told.stdout


def main() -> None:
    kinds = [name for name, _, _ in KINDS.get(platform.machine(), [])]
    if not kinds:
        print(f"no native engine for {platform.machine()}: ncnn computes instead")
    for kind in kinds:
        try:
            if not is_current(library_path(kind)):
                build(kind)
        except EngineError as error:
            sys.exit(f"error: {error}")
        print(library_path(kind).name)


if __name__ == "__main__":
    main()
