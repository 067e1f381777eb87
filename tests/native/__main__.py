"""Check the properties of the native engine in every SIMD width, with and without sanitizers.

It skips what this machine lacks (a sanitizer's runtime, an emulator, a processor's feature), and
prints the reason.

    python -m tests.native [--seed N] [--rounds N]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model.engines.native import library

PROPERTIES = sorted(Path(__file__).parent.glob("*.c"))
FLAGS = ["-O1", "-g", "-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]
SANITIZERS = ("address,undefined", "thread")
ARM_COMPILER, ARM_EMULATORS = "aarch64-linux-gnu-gcc", ("qemu-aarch64", "qemu-aarch64-static")


class Unavailable(Exception):
    """Why a variant cannot be run on this machine."""


@dataclass(frozen=True)
class Variant:
    """One way to build and run the properties."""

    name: str
    compiler: str
    flags: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()


def list_widths() -> list[Variant]:
    """SIMD widths on x86-64: 4, as on NEON, and 8 and 16 where the processor has them."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("no C compiler")
    found = [Variant("SIMD width 4", compiler)]
    for kind in library.list_kinds():
        march = next(flags for name, flags, _ in library.KINDS["x86_64"] if name == kind)
        found.append(Variant(kind, compiler, tuple(march)))
    return found


def add_sanitizer(variant: Variant, sanitizer: str) -> Variant:
    """Raises Unavailable where the sanitizer's programs do not build or run."""
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    # The thread sanitizer may not support a newer kernel's random addresses, so it gets none.
    for runner in ((), ("setarch", "-R")):
        if _runs(variant.compiler, flags, runner):
            flags += variant.flags
            return Variant(f"{variant.name}, {sanitizer}", variant.compiler, flags, runner)
    raise Unavailable(f"{variant.compiler} has no runtime for -fsanitize={sanitizer}")


def find_neon() -> Variant:
    """Raises Unavailable without the cross compiler or the emulator."""
    emulator = next((found for name in ARM_EMULATORS if (found := shutil.which(name))), None)
    if shutil.which(ARM_COMPILER) is None or emulator is None:
        raise Unavailable(
            f"needs {ARM_COMPILER} and qemu-aarch64: apt-get install gcc-aarch64-linux-gnu "
            "libc6-dev-arm64-cross qemu-user"
        )
    return Variant("NEON", ARM_COMPILER, ("-O2", "-static"), (emulator,))


def run(variant: Variant, *, seed: int, rounds: int) -> str:
    """Run it and return its last line. Raises CalledProcessError with its output if it fails."""
    sources = [str(path) for path in sorted(library.SOURCES.glob("*.c"))]
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "properties")
        command = [variant.compiler, *FLAGS, f"-I{library.SOURCES}", *variant.flags]
        # The reference is plain and slow: a sanitizer watches the engine, and what it is handed.
        plain = [flag for flag in command if not flag.startswith("-fsanitize")]
        _output([*plain, "-O2", "-c", *map(str, PROPERTIES)], folder=folder)
        objects = [str(Path(folder) / f"{path.stem}.o") for path in PROPERTIES]
        _output([*command, *sources, *objects, "-lm", "-o", program])
        return _output([*variant.runner, program, str(seed), str(rounds)]).strip()


def _output(command: list[str], *, folder: str | None = None) -> str:
    return subprocess.run(
        command,
        cwd=folder,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def _runs(compiler: str, flags: tuple[str, ...], runner: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "nothing.c", str(Path(folder) / "nothing")
        source.write_text("int main(void) { return 0; }\n")
        try:
            _output([compiler, *flags, str(source), "-o", program])
            _output([*runner, program])
        except (OSError, subprocess.CalledProcessError):
            return False
        return True


def list_variants() -> list[Variant]:
    """List the variants that this machine can run, and print why it cannot run the others."""
    found = []
    try:
        makers = [lambda v=v, s=s: add_sanitizer(v, s) for s in SANITIZERS for v in list_widths()]
    except Unavailable as reason:
        sys.exit(f"error: {reason}")
    for make in [*makers, find_neon]:
        try:
            found.append(make())
        except Unavailable as reason:
            print(f"skipped: {reason}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    failed = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            (variant, pool.submit(run, variant, seed=arguments.seed, rounds=arguments.rounds))
            for variant in list_variants()
        ]
        for variant, job in jobs:
            try:
                print(f"{variant.name}: {job.result()}", flush=True)
            except subprocess.CalledProcessError as error:
                failed = True
                print(f"{variant.name}: failed ({error.returncode})\n{error.stdout}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
