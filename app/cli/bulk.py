"""`fcn bulk INPUT OUTPUT`: masks of any number of photos on any filesystem, in runs that resume.

Only wiring: `source` finds the photos, `plan` stores what to do, `bulk_run` does it, `parts` and
`tables` store the results, and this module reports to the user.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec

from tqdm import tqdm

from app.cli.bulk_run import FAILURES, BulkRun, Tally
from app.cli.options import (
    EXIT_FAILURES,
    EXIT_NO_SERVER,
    EXIT_USAGE,
    add_request_options,
    ask_model,
    end_interrupted,
    hides_progress,
    load_env_file_or_exit,
    open_client,
    parse_small_number,
    summarise,
)
from app.cli.parts import MaskFiles, Part
from app.cli.plan import Plan, Terms, has_plan, open_plan
from app.cli.source import Source, open_source
from app.cli.storage import Storage, StorageError, open_storage
from app.cli.tables import RunTable
from app.client import ClientError
from app.observability.console import RED, paint
from app.process.startup import load_settings
from model.errors import ModelError
from model.weights import read_metadata


def main() -> None:
    """Segment the photos. Exits with 0 if every photo has its result."""
    load_env_file_or_exit()
    parser = _build_parser()
    options = parser.parse_args()
    try:
        if options.ray and find_spec("ray") is None:
            parser.error("--ray needs the extra ray: pip install 'fcn-segmentation-service[ray]'")
        source, output = open_source(options.input), open_storage(options.output)
    except StorageError as error:
        parser.error(str(error))
    tally, started = Tally(), time.monotonic()
    try:
        _run_with_server(source, output, tally, options)
    except KeyboardInterrupt:
        _summarise(tally, time.monotonic() - started)
        end_interrupted()
    _summarise(tally, time.monotonic() - started)
    if tally.ended_by:
        print(f"{paint('error', RED, sys.stderr)}: {tally.ended_by} The same command resumes from "
              "here.", file=sys.stderr)  # fmt: skip
        sys.exit(EXIT_NO_SERVER)
    if tally.failed:
        print(f"{output.locate(FAILURES)} lists their names and the reasons; it can be the INPUT "
              "of another run", file=sys.stderr)  # fmt: skip
        sys.exit(EXIT_FAILURES)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcn bulk",
        description="Segment any number of photos, in memory that does not depend on their number. "
        "After an interruption, the same command resumes: no photo is computed twice, and no "
        "result is incomplete.",
        epilog="Exit status: 0 every photo has its result, 1 some photos have none, 2 a wrong "
        "command line, 3 the run cannot continue, because no server answers, this machine cannot "
        "compute or the output cannot be written, 130 interrupted.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("input", metavar="INPUT",
        help="a folder, or a list that names one photo per line; a path or an address such as "
        "s3://bucket/photos")  # fmt: skip
    add("output", metavar="OUTPUT", help="an empty folder, or the one of the run to resume")
    add(
        "--format",
        choices=("png", "rle"),
        default="png",
        help="an indexed PNG for each photo, or Parquet files of run lengths (%(default)s)",
    )
    add("--url", default=os.environ.get("FCN_URL"),
        help="address of a server (FCN_URL); without one, compute here")  # fmt: skip
    add(
        "--part",
        type=parse_small_number,
        default=1000,
        metavar="N",
        help="photos in a Parquet file, and between two records of progress (%(default)s)",
    )
    add("--ray", type=parse_small_number, default=0, metavar="N",
        help="share the parts among N processes of the cluster that RAY_ADDRESS names")  # fmt: skip
    add_request_options(parser)
    return parser


def _run_with_server(
    source: Source, output: Storage, tally: Tally, options: argparse.Namespace
) -> None:
    """Run against the server in the options, one in this process, or on Ray."""
    if options.ray:
        _run_on_ray(source, output, tally, options)
        return
    serving: AbstractContextManager[str] = nullcontext(options.url)
    if not options.url:
        from app.cli.local import serve_for_command

        serving = serve_for_command()
    with serving as url:
        asyncio.run(_run(url, source, output, tally, options))


async def _run(
    url: str,
    source: Source,
    output: Storage,
    tally: Tally,
    options: argparse.Namespace,
) -> None:
    try:
        model = await ask_model(url, options)
    except ClientError as error:
        tally.ended_by = error
        return
    async with open_client(url, options) as client:
        resumes = await asyncio.to_thread(has_plan, output)
        plan = await asyncio.to_thread(_open_plan, source, output, model.digest, options)
        with tqdm(total=plan.photos, unit="photo", disable=hides_progress(options)) as bar:
            await BulkRun(
                client=client,
                source=source,
                output=output,
                plan=plan,
                open_part=_choose_part(output, plan.terms),
                resumes=resumes,
                concurrency=options.concurrency,
                max_photo_bytes=model.limits.max_body_bytes,
                on_end=bar.update,
                tally=tally,
            ).run()


def _run_on_ray(source: Source, output: Storage, tally: Tally, options: argparse.Namespace) -> None:
    from app.cli.bulk_ray import Job, run_on_ray
    from app.cli.local import end_unable

    settings = load_settings()
    try:
        if options.url:
            digest = asyncio.run(ask_model(options.url, options)).digest
        else:
            digest = read_metadata(settings.weights).digest
    except ClientError as error:
        tally.ended_by = error
        return
    except ModelError as error:
        end_unable(error)
    plan = _open_plan(source, output, digest, options)
    job = Job(
        source=source,
        output=output,
        plan=plan,
        open_part=_choose_part(output, plan.terms),
        concurrency=options.concurrency,
        open_client=partial(open_client, options=options),
        url=options.url,
        settings=settings,
    )
    with tqdm(total=plan.photos, unit="photo", disable=hides_progress(options)) as bar:
        run_on_ray(job, processes=options.ray, on_end=bar.update, tally=tally)


def _open_plan(source: Source, output: Storage, digest: str, options: argparse.Namespace) -> Plan:
    terms = Terms(
        input=source.url, format=options.format, max_side=options.max_side, weights=digest
    )
    try:
        return open_plan(output, terms, photos=source.list_photos(output), part_photos=options.part)
    except (StorageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def _choose_part(output: Storage, terms: Terms) -> Callable[[int], Part]:
    if terms.format == "png":
        return partial(MaskFiles, output)
    return partial(RunTable, output, metadata={"weights": terms.weights, "input": terms.input})


def _summarise(tally: Tally, seconds: float) -> None:
    summarise(
        written=tally.written,
        skipped=f"{tally.skipped} done before" if tally.skipped else "",
        failed=tally.failed,
        seconds=seconds,
    )
