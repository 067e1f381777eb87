"""`fcn bulk --ray N`: the parts of a plan, done at the same time by N processes of a Ray cluster.

Ray Data hands out the numbers of parts, and hands a part out again if its process has ended. The
process reads the photos, writes the results and records the part, so neither photos nor masks
travel through Ray. Knows nothing of the command line.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from app.cli.batch import CannotContinue
from app.cli.bulk_run import BulkRun, Tally, list_failures, list_open_parts
from app.cli.local import serve_locally
from app.cli.parts import Part
from app.cli.plan import Plan
from app.cli.source import Source
from app.cli.storage import Storage
from app.client import AsyncClient, ClientError
from app.observability.logs import configure_logging
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every process needs."""

    source: Source
    output: Storage
    plan: Plan
    open_part: Callable[[int], Part]
    concurrency: int
    open_client: Callable[[str], AsyncClient]
    url: str | None
    """The address of a server; without one, each process computes."""
    settings: Settings


class PartWorker:
    """One process of the cluster: an actor of Ray Data's pool."""

    def __init__(self, job: Job) -> None:
        """Start a server in this process if none is named."""
        configure_logging(level="warning", log_format=job.settings.log_format)
        self._job = job
        self._resources = ExitStack()
        self._url = job.url or self._resources.enter_context(serve_locally(job.settings))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Do the one part of the batch, and return its counts."""
        (number,) = batch["part"].tolist()
        tally = asyncio.run(self._do(number))
        return {
            "written": [tally.written],
            "skipped": [tally.skipped],
            "photos": [self._job.plan.count(number)],
            "ended_by": [str(tally.ended_by or "")],
        }

    async def _do(self, number: int) -> Tally:
        job, tally = self._job, Tally()
        async with job.open_client(self._url) as client:
            try:
                model = await client.model()
            except ClientError as error:
                tally.ended_by = error
                return tally
            run = BulkRun(
                client=client,
                source=job.source,
                output=job.output,
                plan=job.plan,
                open_part=job.open_part,
                resumes=True,  # another process may have begun the part
                concurrency=job.concurrency,
                max_photo_bytes=model.limits.max_body_bytes,
                on_end=lambda _: None,
                tally=tally,
            )
            await run.run_part(number)
        return tally


def run_on_ray(job: Job, *, processes: int, on_end: Callable[[int], object], tally: Tally) -> None:
    """Do what is left of the plan, and then list the failures of all runs, as `tally` says."""
    parts = list_open_parts(job.output, job.plan, job.open_part, tally=tally)
    on_end(tally.skipped)
    try:
        if parts:
            ray.init(log_to_driver=False, configure_logging=False)
            _do_parts(job, parts, min(processes, len(parts)), on_end=on_end, tally=tally)
    except (RayError, ConnectionError) as error:
        tally.ended_by = CannotContinue(f"Ray: {tell_reason(error)}")
    list_failures(job.output, job.plan, job.open_part, tally=tally)


def tell_reason(error: Exception) -> str:
    """Return the last line of an error of Ray, below its traceback, or its name if it is empty."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _do_parts(
    job: Job, parts: list[int], processes: int, *, on_end: Callable[[int], object], tally: Tally
) -> None:
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the command has its own progress bar
    numbers = [{"part": number} for number in parts]
    pool = ActorPoolStrategy(min_size=1, max_size=processes)
    counts = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        PartWorker,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=pool,
        num_gpus=1 if _computes_on_gpus(job) else None,
    )
    for row in counts.iter_rows():
        tally.written += row["written"]
        tally.skipped += row["skipped"]
        on_end(row["photos"])
        if row["ended_by"]:
            tally.ended_by = CannotContinue(row["ended_by"])
            return


def _computes_on_gpus(job: Job) -> bool:
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return job.url is None and job.settings.device != "cpu" and "GPU" in resources
