"""The work of one request with several files: each has its own result, an answer or a problem.

Knows nothing of headers and parameters; the handler reads them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

import structlog

from app.access.rates import Charges
from app.codecs.answers import Answer
from app.codecs.archive import MAX_BYTES, MAX_PIXELS, make_archive
from app.codecs.costs import require_few_pixels
from app.codecs.listing import Result, make_list
from app.errors import ImageMissing, RequestError
from app.formats import AnswerFormat, Container
from app.http.forms import File
from app.http.problems import INTERNAL, PROBLEMS, describe_bug, describe_error, find_reason
from app.observability.stages import Stages
from app.tasks.segmentation import SegmentationTask, Task
from model.engines.base import Array

FILES_AT_ONCE = 6
"""The largest number of files of one request that have a place in the queue at the same time, so
that a request with many files leaves room for others.
"""

MAX_NAME_CHARACTERS = 200
"""A longer file name is truncated in the answer."""

log = structlog.get_logger("segmentation")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTask(SegmentationTask):
    """The work for one of several files, whose answers are held together until all are done."""

    container: Container

    def _encode(self, mask: Array, photo: Array | None) -> Answer:
        if self.container is Container.ZIP:
            require_few_pixels((mask.shape[0], mask.shape[1]), MAX_PIXELS)
        # In a dataclass with slots, `super()` needs its arguments until Python 3.14.
        return super(FileTask, self)._encode(mask, photo)

    def _take(self, held_bytes: int) -> None:
        self.context.answer_share.take_another(held_bytes, limit=MAX_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTask(Task):
    """The work of a request with several files. `options` and `due` apply to every file."""

    container: Container
    charges: Charges | None
    """Charges each file after the first to the rate limit; None without a rate limit."""

    async def run(self, files: Sequence[File]) -> tuple[Answer, list[Result]]:
        """Return the answer and the result of each file. An error of one file is its result."""
        context = self.context
        context.stages.enter("files")
        # The first file has been charged with the request.
        refusals = [None, *[await self._charge() for _ in files[1:]]]
        turns = asyncio.Semaphore(self._count_turns())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._compute_result(file, refusal, turns))
                for file, refusal in zip(files, refusals, strict=True)
            ]
        results = [task.result() for task in tasks]
        context.stages.enter("encode")
        answer = await context.codecs.run(self._gather, results, held=(context.answer_share,))
        return answer, results

    async def _charge(self) -> RequestError | None:
        """Charge one file, and return the error if the caller has used up the rate limit."""
        try:
            if self.charges is not None:
                await self.charges.take()
        except RequestError as error:
            return error
        return None

    def _count_turns(self) -> int:
        """Return how many files may be admitted at a time, so that none makes another refused."""
        service = self.context.service
        decodings = 2 if self.options.format is AnswerFormat.OVERLAY else 1
        fitting = service.admission.count_fitting(service.settings.max_pixels, images=decodings)
        return max(1, min(FILES_AT_ONCE, fitting))

    async def _compute_result(
        self, file: File, refusal: RequestError | None, turns: asyncio.Semaphore
    ) -> Result:
        stages, metrics = self.context.stages.open_part(), self.context.service.metrics
        try:
            outcome = refusal or await self._segment(file, stages, turns)
        finally:
            stages.enter("over")
        result = self._make_result(file.name[:MAX_NAME_CHARACTERS], outcome, stages)
        if isinstance(outcome, RequestError):
            metrics.rejections.labels(find_reason(outcome)).inc()
        metrics.files.labels(result.status).inc()
        for stage, seconds in stages.seconds.items():
            metrics.stage_seconds.labels(stage).observe(seconds)
        return result

    async def _segment(
        self, file: File, stages: Stages, turns: asyncio.Semaphore
    ) -> Answer | RequestError | None:
        """Return the answer to a file, why it has none, or None for a bug, which is logged."""
        task = FileTask(
            context=replace(self.context, stages=stages),
            options=self.options,
            scaling=self.scaling,
            due=self.due,
            container=self.container,
        )
        try:
            async with turns:
                return await task.run(_require_bytes(file))
        except RequestError as error:
            return error
        except Exception:
            log.exception("file failed", file=file.name)
            return None

    def _make_result(
        self, name: str, outcome: Answer | RequestError | None, stages: Stages
    ) -> Result:
        timings_ms = {stage: round(1000 * s, 2) for stage, s in stages.seconds.items()}
        if isinstance(outcome, Answer):
            return Result(
                name=name,
                status=HTTPStatus.OK,
                timings_ms=timings_ms,
                answer=outcome,
                media_type=self.options.media_type,
            )
        if outcome is None:
            status, problem, retry_after_s = INTERNAL.status, describe_bug(), None
        else:
            status, problem = PROBLEMS[type(outcome)].status, describe_error(outcome)
            retry_after_s = outcome.retry_after_s
        return Result(
            name=name,
            status=status,
            timings_ms=timings_ms,
            problem=problem,
            retry_after_s=retry_after_s,
        )

    def _gather(self, results: Sequence[Result]) -> Answer:
        """Join the answers to the files, and count what the joined answer adds."""
        if self.container is Container.ZIP:
            made = make_archive(results, self.options.format)
        else:
            made = make_list(results)
        self.context.answer_share.take(made.held_bytes)
        return made


def _require_bytes(file: File) -> bytes:
    if not file.data:
        raise ImageMissing("The file is empty.", remedy="Put an image into it.")
    return file.data
