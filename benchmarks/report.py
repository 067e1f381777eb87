"""What all benchmarks share: options, rounds, the machine, tables and the JSON file.

Knows nothing of what is measured.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin, get_type_hints

RESULTS = Path(__file__).parent / "results"

Cell = str | int | float
Row = Mapping[str, Cell]


@dataclass(frozen=True)
class Quick:
    """The value that a field of a plan has with `--quick`."""

    value: object


@dataclass(frozen=True)
class Plan:
    """How much a command measures.

    A field that is `Annotated` with a help text is an option of the command line.
    """

    quick: Annotated[bool, "measure little, and write no file"] = False

    @classmethod
    def make_quick(cls) -> Self:
        """Return the plan that `--quick` chooses."""
        notes = {key: notes for key, _, notes in cls.list_fields()}
        values = {
            key: note.value for key in notes for note in notes[key] if isinstance(note, Quick)
        }
        return replace(cls(quick=True), **values)

    @classmethod
    def list_fields(cls) -> Iterator[tuple[str, Any, Sequence[object]]]:
        """Yield the name, the type and the notes of each annotated field."""
        for key, hint in get_type_hints(cls, include_extras=True).items():
            if get_origin(hint) is Annotated:
                of, *notes = get_args(hint)
                yield key, of, notes


AnyPlan = TypeVar("AnyPlan", bound=Plan)


def read_plan(plan_type: type[AnyPlan], name: str, description: str | None) -> AnyPlan:
    """Read the plan from the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        argument_default=argparse.SUPPRESS,
    )
    for key, of, notes in plan_type.list_fields():
        for text in (note for note in notes if isinstance(note, str)):
            flag = "--" + key.removesuffix("_s").replace("_", "-")
            how = {"action": "store_true"} if of is bool else {"type": (*get_args(of), of)[0]}
            default = getattr(plan_type, key)
            parser.add_argument(flag, dest=key, help=text + f" ({default})" * bool(default), **how)
    given = vars(parser.parse_args())
    return replace(plan_type.make_quick() if "quick" in given else plan_type(), **given)


def run_in_turns(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 2,
    settle_s: float = 0,
) -> dict[str, list[float]]:
    """Run every candidate once in each round. Returns each candidate's seconds by round.

    Candidates take turns so that a slow period of the machine affects all of them. `settle_s` is a
    pause before each, because threads of the previous candidate may still spin.
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


def describe_machine() -> dict[str, Cell]:
    """Return the properties of the machine that the figures depend on, without its name."""
    return {
        "processor": _read_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def publish(
    name: str,
    title: str,
    tables: Sequence[Row] | Mapping[str, Sequence[Row]],
    *,
    plan: Plan,
    variant: str = "",
    **facts: object,
) -> None:
    """Print the tables. Unless the plan is quick, write `results/<name>.md` and `<name>.json`.

    `tables` is one table, or several by heading, of which the first has the heading "rows". A
    `variant`, such as other weights, has files of its own: `<name>-<variant>`. The JSON file also
    has the machine, the plan and the facts.
    """
    if not isinstance(tables, Mapping):
        tables = {"rows": tables}
    machine = describe_machine()
    where = f"`python -m benchmarks.{name}` on {machine['cores']} cores, {machine['processor']}."
    lines = [f"# {title}", "", where]
    for heading, rows in tables.items():
        lines += ["", *([] if heading == "rows" else [f"## {heading}", ""]), format_table(rows)]
    text = "\n".join(lines) + "\n"
    print(text)
    if plan.quick:
        return
    chosen = {k: v for k, v in asdict(plan).items() if k != "quick" and not isinstance(v, Path)}
    document = {"benchmark": name, "machine": machine, **chosen, **facts, **tables}
    RESULTS.mkdir(exist_ok=True)
    file = f"{name}-{variant}" if variant else name
    (RESULTS / f"{file}.md").write_text(text)
    (RESULTS / f"{file}.json").write_text(json.dumps(document, indent=1) + "\n")


def list_figures(figures: Mapping[str, Cell]) -> list[Row]:
    return [{"figure": name, "value": value} for name, value in figures.items()]


def format_table(rows: Sequence[Row]) -> str:
    """Format a Markdown table with a column for each key of the first row."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(_format_cell(row[column]) for column in columns) + " |")
    return "\n".join(lines)


def _format_cell(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)


def _read_processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
