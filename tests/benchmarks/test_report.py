"""What all commands share: turns, tables, files and options."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from benchmarks import report
from benchmarks.report import (
    Plan,
    Quick,
    format_table,
    list_figures,
    publish,
    read_plan,
    run_in_turns,
)


@dataclass(frozen=True)
class Rounds(Plan):
    rounds: Annotated[int, "number of rounds", Quick(1)] = 5
    pause_s: Annotated[float | None, "between them"] = None
    folder: Annotated[Path | None, "of photos"] = None
    callers: Annotated[int, Quick(2)] = 16


def read(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["it", *arguments])
    return read_plan(Rounds, "it", "It measures.")


def test_candidates_take_turns_and_the_warm_up_does_not_count():
    order = []
    candidates = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = run_in_turns(candidates, rounds=2)
    assert "".join(order) == "abababab"
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_table_is_markdown():
    assert format_table([{"size": "1 x 2", "ms": 0.12345}, {"size": "3 x 4", "ms": 123.4}]) == (
        "| size | ms |\n|---|---|\n| 1 x 2 | 0.123 |\n| 3 x 4 | 123 |"
    )


def test_options_override_what_quick_chooses(monkeypatch):
    assert read(monkeypatch) == Rounds()
    assert read(monkeypatch, "--quick") == Rounds(quick=True, rounds=1, callers=2)
    plan = read(monkeypatch, "--quick", "--rounds", "3", "--pause", "2", "--folder", "a")
    assert plan == Rounds(True, 3, 2.0, Path("a"), 2)


def test_a_fixed_value_is_no_option(monkeypatch):
    with pytest.raises(SystemExit):
        read(monkeypatch, "--callers", "3")


def test_tables_go_to_a_markdown_and_a_json_file(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    rows = list_figures({"a": 1.5})
    tables = {"rows": rows, "More": [{"b": 2}]}
    plan = Rounds(folder=tmp_path)
    publish("it", "A title", tables, plan=plan, fact="so")
    text = (tmp_path / "it.md").read_text()
    assert text.startswith("# A title\n\n`python -m benchmarks.it` on ")
    assert text.endswith(
        "\n| figure | value |\n|---|---|\n| a | 1.5 |\n\n## More\n\n| b |\n|---|\n| 2 |\n"
    )
    written = json.loads((tmp_path / "it.json").read_text())
    assert written.pop("machine")["cores"] > 0
    assert written == {
        "benchmark": "it", "rounds": 5, "pause_s": None, "callers": 16, "fact": "so", **tables,
    }  # fmt: skip


def test_a_quick_run_writes_no_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    publish("it", "A title", list_figures({"a": 1}), plan=Plan(quick=True))
    assert not list(tmp_path.iterdir())
    assert "| a | 1 |" in capsys.readouterr().out
