"""What benchmarks share: rounds taken in turns, medians, the machine, a table and a JSON file.

Knows nothing of what is measured.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

Cell = str | int | float


def in_turns(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 2,
    settle_s: float = 0,
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round.

    Every round runs every candidate once, so that a slow spell of the machine meets all of them.
    `settle_s`: a pause before each, where threads of the one before may still spin.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm_up + rounds):
        for name, run in candidates.items():
            time.sleep(settle_s)
            started = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ms(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


def machine() -> dict[str, Cell]:
    """What the figures depend on, without the machine's name."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def write(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Cell]],
    *,
    sections: Mapping[str, Sequence[Mapping[str, Cell]]] | None = None,
    **facts: object,
) -> None:
    """Print the rows as a table; write `results/<name>.md` and, with the facts, `<name>.json`.

    `sections`: more tables, by their headings.
    """
    about = machine()
    lines = [
        f"# {title}",
        "",
        f"`python -m benchmarks.{name}` on {about['cores']} cores, {about['processor']}.",
        "",
        table(rows),
    ]
    for heading, more in (sections or {}).items():
        lines += ["", f"## {heading}", "", table(more)]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    document = {"benchmark": name, "machine": about, **facts, "rows": [dict(row) for row in rows]}
    document |= {heading: [dict(row) for row in more] for heading, more in (sections or {}).items()}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Markdown, one column for each key of the first row."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(_shown(row[column]) for column in columns) + " |")
    return "\n".join(lines)


def _shown(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
