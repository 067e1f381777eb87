"""Segments many photos with concurrent requests; each photo has its own outcome.

Knows nothing of the command line, or of where photos come from and results go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.client import ClientError, ProblemError, ServerUnreachable
from app.client.photos import Photo
from app.client.segmentation import Segmentation

REFUSED_ALL = frozenset({401, 403, 404})
"""The statuses with which a server that refuses one photo would refuse every photo."""

T = TypeVar("T")


class CannotContinue(ClientError):
    """An error that would affect every photo."""


@dataclass(slots=True)
class Report(Generic[T]):
    """The outcome of the photos."""

    written: int = 0
    skipped: int = 0
    failures: list[tuple[T, str]] = field(default_factory=list)
    ended_by: ClientError | None = None
    """The error that ended the run, because it would have affected every photo."""


async def segment_all(
    segment: Callable[[Photo], Awaitable[Segmentation]],
    jobs: Sequence[T],
    *,
    read: Callable[[T], Photo],
    write: Callable[[T, Segmentation], object],
    report: Report[T],
    concurrency: int,
    on_end: Callable[[], object],
) -> None:
    """Segment the photos; `read` and `write` run on threads, `on_end` is called after each photo.

    The report is updated after each photo, so that it is also correct after an interruption.
    """

    async def work(remaining: Iterator[T]) -> None:
        for job in remaining:
            if report.ended_by:
                return
            await segment_one(job)
            on_end()

    async def segment_one(job: T) -> None:
        try:
            result = await segment(await asyncio.to_thread(read, job))
            await asyncio.to_thread(write, job, result)
        except (ServerUnreachable, CannotContinue) as error:
            report.ended_by = error
        except ClientError as error:
            if isinstance(error, ProblemError) and error.status in REFUSED_ALL:
                report.ended_by = error
            report.failures.append((job, str(error)))
        except (OSError, ValueError) as error:  # the results cannot be drawn or written
            report.failures.append((job, str(error)))
        else:
            report.written += 1

    remaining = iter(jobs)
    await asyncio.gather(*(work(remaining) for _ in jobs[:concurrency]))
