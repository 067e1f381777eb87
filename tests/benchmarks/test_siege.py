"""A siege reports who was answered and what is still held, and detects broken promises."""

from types import SimpleNamespace

import pytest

from benchmarks import siege
from benchmarks.results import Outcome, Result
from benchmarks.siege import GOOD, PROBE, Plan, Siege, describe_callers, list_failures


def test_nothing_is_held_after_a_short_siege():
    """Waiting times, and which costly files are decoded in time, depend on the machine."""
    under, rows, failures = siege.run_siege(Plan(minutes=0.1, side=300, stuck_after_s=60))
    of = {row["caller"]: row for row in rows}
    assert under.held == {}
    assert of[GOOD]["200"] > 0
    assert of[GOOD]["4xx"] == 0
    assert not any(row["other"] for row in rows)
    assert of["costly TIFFs"]["4xx"] > 0
    timed = ("made", "took", "memory has grown")
    assert [text for text in failures if not any(word in text for word in timed)] == []


def results(*seconds, caller=GOOD, status=200, outcome=Outcome.MASK):
    return [Result(status, it, it, caller, outcome) for it in seconds]


def besieged(**changes):
    held = changes.get("held", {})
    resident = {"before": 100.0, "at rest": 100.0 + changes.get("grown", 0)}
    process = SimpleNamespace(poll=lambda: changes.get("ended"))
    return Siege(Plan(), SimpleNamespace(process=process), None, [], resident, held)


def test_latencies_are_of_answers_that_polite_callers_got():
    rows = describe_callers(
        [
            *results(*(number / 100 for number in range(1, 101))),
            *results(50, status=503, outcome=Outcome.OVERLOADED),
            *results(3, caller="hostile", status=422),
        ]
    )
    assert rows[0] == {
        "caller": GOOD, "requests": 101, "200": 100, "4xx": 0, "503": 1, "no answer": 0,
        "other": 0, "p50, s": 0.5, "p99, s": 0.99, "most, s": 1.0,
    }  # fmt: skip
    assert rows[1]["4xx"] == 1
    assert rows[1]["p99, s"] == ""


@pytest.mark.parametrize(
    ("changes", "log", "text"),
    [
        ({"held": {"seg_pixels": 7.0}}, [], "seg_pixels is 7 at rest"),
        ({"grown": 65}, [], "memory has grown by 65 MiB"),
        ({"ended": 70}, [], "the server has ended with status 70"),
        ({}, ["Traceback"], "the server's log: Traceback"),
    ],
)
def test_held_memory_or_a_dead_server_is_a_failure(changes, log, text):
    rows = describe_callers(results(0.1, 0.2))
    assert list_failures(besieged(), rows, []) == []
    assert list_failures(besieged(**changes), rows, log) == [text]


def test_a_good_caller_that_waits_long_or_is_refused_is_a_failure():
    slow = describe_callers([*results(*[0.1] * 98), *results(2.5, 2.6)])
    assert list_failures(besieged(), slow, []) == [
        "99 % of the good caller's masks took up to 2.5 s"
    ]
    refused = describe_callers([*results(0.1), *results(0.1, status=422)])
    assert "1 refusals of 4xx" in list_failures(besieged(), refused, [])[0]
    wrong = describe_callers([*results(0.1), *results(1, caller=PROBE, status=500)])
    assert list_failures(besieged(), wrong, []) == ["/health/live: 1 answers of 5xx"]
    assert "0 masks" in list_failures(besieged(), [], [])[0]
