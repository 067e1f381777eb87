"""A bulk run: computes its plan part by part, from where the last run was interrupted.

Holds the photos of at most one part in memory, however many there are. Knows nothing of the
command line.
"""

import asyncio
import errno
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from app.cli.batch import CannotContinue, Report, segment_all
from app.cli.parts import Part
from app.cli.plan import Plan, read_part
from app.cli.source import Source, name_results
from app.cli.storage import Storage, StorageError
from app.client import AsyncClient, ClientError, PhotoError
from app.client.segmentation import Segmentation

FAILURES = "failures.txt"
"""The file with a line for each photo without a result: its name, a tab and the reason."""

NAME_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR})
"""The errors that concern only one file name. Others, such as a full disk, affect every photo."""


@dataclass(slots=True)
class Tally:
    """The numbers of photos in all parts together."""

    written: int = 0
    skipped: int = 0
    """The photos that earlier runs have done."""
    failed: int = 0
    ended_by: ClientError | None = None


@dataclass(kw_only=True)
class BulkRun:
    """One run of a plan, against one server."""

    client: AsyncClient
    source: Source
    output: Storage
    plan: Plan
    open_part: Callable[[int], Part]
    resumes: bool
    """Whether an earlier run may have begun parts: with Ray, any of them."""
    concurrency: int
    max_photo_bytes: int
    on_end: Callable[[int], object]
    """Called with the number of photos that have just ended."""
    tally: Tally = field(default_factory=Tally)

    async def run(self) -> None:
        """Do the rest of the plan, and then list the failures of all runs."""
        self._start_threads()
        plan, output, tally = self.plan, self.output, self.tally
        parts = await asyncio.to_thread(list_open_parts, output, plan, self.open_part, tally=tally)
        self.on_end(tally.skipped)
        for number in parts:
            await self._do_part(number)
            if tally.ended_by:
                break
        await asyncio.to_thread(list_failures, output, plan, self.open_part, tally=tally)

    async def run_part(self, number: int) -> None:
        """Do one part, or the rest of it after an interruption."""
        self._start_threads()
        await self._do_part(number)

    def _start_threads(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2 * self.concurrency))

    async def _do_part(self, number: int) -> None:
        photos = await asyncio.to_thread(read_part, self.output, number)
        report = Report[str]()
        with self.open_part(number) as part:
            if self.resumes:
                held = await asyncio.gather(*(asyncio.to_thread(part.holds, p) for p in photos))
                photos = [photo for photo, is_held in zip(photos, held, strict=True) if not is_held]
                self.tally.skipped += sum(held)
                self.on_end(sum(held))
            try:
                await segment_all(
                    partial(self.client.segment, max_side=self.plan.terms.max_side),
                    photos,
                    read=self._read,
                    write=lambda photo, result: self._write(part, photo, result),
                    report=report,
                    concurrency=self.concurrency,
                    on_end=lambda: self.on_end(1),
                )
            finally:
                self.tally.written += report.written
                self.tally.ended_by = report.ended_by
            if not report.ended_by:
                await asyncio.to_thread(part.record, dict(report.failures))

    def _read(self, photo: str) -> bytes:
        name_results(photo)
        try:
            return self.source.read(photo, max_bytes=self.max_photo_bytes)
        except StorageError as error:
            raise CannotContinue(str(error)) from error

    def _write(self, part: Part, photo: str, result: Segmentation) -> None:
        if result.weights != self.plan.terms.weights:
            raise CannotContinue(
                f"the server has other weights now, {result.weights}: all results in one output "
                f"must come from the same weights, {self.plan.terms.weights}."
            )
        try:
            part.add(photo, result)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NAME_ERRORS:
                raise PhotoError(f"its result cannot be written: {error.strerror}") from error
            raise CannotContinue(f"{self.output.url}: {error or type(error).__name__}.") from error


def list_open_parts(
    output: Storage, plan: Plan, open_part: Callable[[int], Part], *, tally: Tally
) -> list[int]:
    """Return the parts that are not recorded, wherever they are in the plan; count the others.

    Lists the records once, for a request for each part of a large plan would be slow.
    """
    folder = open_part(0).path.rpartition("/")[0]
    try:
        recorded = set(output.list_folder(folder))
    except Exception as error:  # the filesystems have errors of their own
        tally.ended_by = StorageError(f"{output.url}: {error or type(error).__name__}.")
        return []
    parts = [number for number in range(plan.parts) if open_part(number).path not in recorded]
    tally.skipped = plan.photos - sum(map(plan.count, parts))
    return parts


def list_failures(
    output: Storage, plan: Plan, open_part: Callable[[int], Part], *, tally: Tally
) -> None:
    """Write the list of the photos without a result, of all runs together, and count them.

    Does nothing if the run has ended early: the next one will list them.
    """
    if tally.ended_by:
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="backslashreplace") as file:
        for number in range(plan.parts):
            for photo, reason in open_part(number).list_failures():
                tally.failed += 1
                file.write(f"{photo}\t{' '.join(reason.split())}\n")
        file.flush()
        if tally.failed:
            output.write_file(FAILURES, Path(file.name))
    output.remove_unfinished()
