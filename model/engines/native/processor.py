"""The features of this processor that decide which kind of the library it can run.

Knows nothing of how a library is built.
"""

import platform
import re
import subprocess
from pathlib import Path

from model.errors import EngineError

CPU_INFO = Path("/proc/cpuinfo")

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
"""The loader of glibc, at the path of the x86-64 ABI. From version 2.33 on, its --help lists the
levels that the processor supports.
"""

# The levels of the x86-64 psABI, as /proc/cpuinfo calls what they add that we build for.
LEVELS = {
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma movbe",
}


class NoKind(EngineError):
    """No compiler would help: no kind runs on this processor, or nobody knows which one does."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def read_features() -> set[str] | None:
    """Return the features' names in /proc/cpuinfo, or None if they are unknown.

    A service manager may hide that file (systemd's ProcSubset=pid), and a sandbox may show an empty
    one. Then the loader is asked.
    """
    try:
        listed = _parse_features(CPU_INFO.read_text(errors="replace"))
    except OSError:
        listed = set()
    return listed or _ask_loader()


def _parse_features(text: str) -> set[str]:
    flags = [
        line.partition(":")[2]
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
    ]
    return set(flags[0].split()) if flags else set()


def _ask_loader() -> set[str] | None:
    if platform.machine() == "aarch64":
        return set()  # NEON is always there
    try:
        told = subprocess.run([LOADER, "--help"], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    if "x86-64-v2" not in told.stdout:  # an older one, which lists no levels
        return None
    levels = re.findall(r"^\s*(x86-64-v\d) \(supported", told.stdout, re.M)
    return {feature for level in levels for feature in LEVELS.get(level, "").split()}
