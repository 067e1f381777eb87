"""Many photos at the same time: as many requests as asked for, each photo with its own outcome.

Knows nothing of the command line.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.cli.outputs import Job, Outputs
from app.client import AsyncClient, ClientError, ProblemError, ServerUnreachable

REFUSED_ALL = frozenset({401, 403, 404})
"""A server that answers one photo with one of these answers every photo with it."""


@dataclass(slots=True)
class Report:
    """What came of the photos."""

    written: int = 0
    skipped: int = 0
    failures: list[tuple[Job, str]] = field(default_factory=list)
    ended_by: ClientError | None = None
    """The error that would have met every photo."""


async def segment_all(
    client: AsyncClient,
    jobs: Sequence[Job],
    outputs: Outputs,
    *,
    report: Report,
    concurrency: int,
    max_side: int | None = None,
    on_end: Callable[[], object],
) -> None:
    """Segment the photos and write their results; `on_end` is called after each.

    Fills the report as it goes, so that it is true after an interruption, too.
    """

    async def work(remaining: Iterator[Job]) -> None:
        for job in remaining:
            if report.ended_by:
                return
            await segment_one(job)
            on_end()

    async def segment_one(job: Job) -> None:
        try:
            result = await client.segment(job.photo, max_side=max_side)
            await asyncio.to_thread(outputs.write, job, result)
        except ServerUnreachable as error:
            report.ended_by = error
        except ClientError as error:
            if isinstance(error, ProblemError) and error.status in REFUSED_ALL:
                report.ended_by = error
            report.failures.append((job, str(error)))
        except (OSError, ValueError) as error:  # the results cannot be written, or drawn
            report.failures.append((job, str(error)))
        else:
            report.written += 1

    remaining = iter(jobs)
    await asyncio.gather(*(work(remaining) for _ in range(min(concurrency, len(jobs)))))
