"""Does a caller ever get another caller's answer, or a damaged one?

Concurrent callers send photos. Each answer must equal, byte for byte, the one that its photo gets
when the server has no other request; that holds on the CPU only. The server is restarted again and
again, because its first minutes differ from the rest. Different answers are kept with their photos.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from benchmarks import report
from benchmarks.connection import Request, Response
from benchmarks.load import Judge, LoadGenerator
from benchmarks.photos import VOC_SIZE, make_photos
from benchmarks.process import start_our_server
from benchmarks.report import Cell, Quick, list_figures, publish, read_plan
from benchmarks.requests import SERVER, ask_alone, ask_by_body, make_judge
from benchmarks.results import Outcome, Result, count_outcomes
from model.weights import SHIPPED_WEIGHTS

PATIENT = {"deadline_s": 300, "stuck_after_s": 120}
"""Longer than the defaults, which are too short for one core that other programs use, too."""


@dataclass(frozen=True)
class Plan(report.Plan):
    minutes: Annotated[float, "of requests", Quick(2 / 60)] = 30.0
    restart_every_s: Annotated[float, "seconds between two starts of the server", Quick(1)] = 120.0
    callers: Annotated[int, "at the same time", Quick(4)] = 12
    count: Annotated[int, "photos of the folder, drawn at random", Quick(4)] = 64
    photos: Annotated[Path | None, "a folder of JPEG photos of mixed sizes, or made photos"] = None


def main() -> None:
    plan = read_plan(Plan, "exchange", __doc__)
    kept = Path(tempfile.mkdtemp(prefix="exchange-"))
    results, starts = compare(plan, kept)
    counts = Counter(result.outcome for result in results)
    failed = len(results) - counts[Outcome.MASK]
    figures: dict[str, Cell] = {
        "minutes": plan.minutes,
        "callers": plan.callers,
        "photos": plan.count,
        "starts of the server": starts,
        "answers": len(results),
        "answers that differ from those alone": counts[Outcome.WRONG],
        "requests without a mask": failed - counts[Outcome.WRONG],
    }
    tables = {"rows": list_figures(figures), "Requests": count_outcomes(results)}
    publish("exchange", "Answers beside others against answers alone", tables, plan=plan)
    if failed:
        sys.exit(f"error: {failed} of {len(results)} requests, kept in {kept}")
    kept.rmdir()


def compare(plan: Plan, folder: Path) -> tuple[list[Result], int]:
    """Return the results of all requests, and how often the server was started.

    The folder gets every answer that differs.
    """
    requests = [ask_by_body(name, photo, "png") for name, photo in choose_photos(plan)]
    alone = ask_alone([SHIPPED_WEIGHTS], requests, **PATIENT)
    judge = keep_failures(make_judge(alone), folder)
    results: list[Result] = []
    starts, until = 0, time.monotonic() + 60 * plan.minutes
    while (seconds := min(plan.restart_every_s, until - time.monotonic())) > 0:
        random.Random(starts).shuffle(requests)
        with start_our_server(weights=SHIPPED_WEIGHTS, **SERVER, **PATIENT) as server:
            load = LoadGenerator(server.address, judge=judge)
            asyncio.run(load.run_closed_loop(requests, callers=plan.callers, seconds=seconds))
        results += load.results
        starts += 1
    return results, starts


def choose_photos(plan: Plan) -> list[tuple[str, bytes]]:
    if plan.photos is None:
        sizes = (VOC_SIZE, VOC_SIZE[::-1], (96, 128), (480, 640))
        return [
            (f"{s}", photo) for s in sizes for photo in make_photos(plan.count // len(sizes), s)
        ]
    files = sorted(plan.photos.glob("*.jp*g"))
    chosen = random.Random(0).sample(files, min(plan.count, len(files)))
    return [(path.name, path.read_bytes()) for path in chosen]


def keep_failures(judge: Judge, folder: Path) -> Judge:
    """Return a judge that also writes each failed request and its response into the folder."""

    def judge_and_keep(request: Request, response: Response) -> Outcome:
        outcome = judge(request, response)
        if outcome is not Outcome.MASK:
            number = len(list(folder.glob("*-photo")))
            (folder / f"{number}-photo").write_bytes(request.body)
            (folder / f"{number}-answer").write_bytes(response.body)
            (folder / f"{number}-headers").write_text(f"{response.status} {response.headers}")
        return outcome

    return judge_and_keep


if __name__ == "__main__":
    main()
