"""`fcn segment photo.jpg folder/ -o masks/`: writes the masks of photos to files.

Only wiring: `outputs` finds the photos, `batch` segments them, and this module reports to the user.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path

from tqdm import tqdm

from app.cli.batch import Report, segment_all
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
    parse_names,
    summarise,
)
from app.cli.outputs import Job, NoPhotos, Outputs, list_jobs
from app.client import ClientError, ServerUnreachable
from app.client.clients import DEFAULT_URL
from app.observability.console import RED, paint


def main() -> None:
    """Segment photos. Exits with 0 if every photo has its mask."""
    load_env_file_or_exit()
    parser = _build_parser()
    options = parser.parse_args()
    try:
        found = list_jobs(options.photos, options.output)
    except (NoPhotos, OSError) as error:
        parser.error(str(error))
    outputs = Outputs(overlay=options.overlay, npy=options.npy)
    jobs = [job for job in found if options.overwrite or not outputs.are_complete(job)]
    report = Report[Job](skipped=len(found) - len(jobs))
    started = time.monotonic()
    try:
        if jobs:
            _segment(jobs, outputs, report, options)
    except KeyboardInterrupt:
        _summarise(report, time.monotonic() - started)
        end_interrupted()
    _summarise(report, time.monotonic() - started)
    if report.ended_by:
        sys.exit(EXIT_NO_SERVER)
    sys.exit(EXIT_FAILURES if report.failures else 0)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcn segment",
        description="Write the mask of each photo: an indexed PNG of the photo's size, whose pixel "
        "values are class indices and whose palette has the classes' colours. Photos whose results "
        "already exist, are complete and are no older than the photo are skipped.",
        epilog="Exit status: 0 every photo has its mask, 1 some photos have none, 2 a wrong "
        "command line, 3 no server answers, it refuses every photo, or with --local this "
        "machine cannot compute, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="a file or a folder")
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("masks"), metavar="FOLDER",
        help="folder for the masks (%(default)s)")  # fmt: skip
    add("--url", default=os.environ.get("FCN_URL") or DEFAULT_URL,
        help="address of the server (FCN_URL, or %(default)s)")  # fmt: skip
    add("--local", action="store_true",
        help="compute in this process, without a server; takes some seconds to start")  # fmt: skip
    add(
        "--overlay",
        action="store_true",
        help="also write NAME.overlay.jpg, the mask over the photo",
    )
    add("--npy", action="store_true", help="also write NAME.npy, the mask as a NumPy array")
    add("--classes", type=parse_names, metavar="NAMES",
        help="keep only these classes, such as person,dog")  # fmt: skip
    add("--overwrite", action="store_true", help="compute existing results again")
    add_request_options(parser)
    return parser


def _segment(
    jobs: Sequence[Job], outputs: Outputs, report: Report[Job], options: argparse.Namespace
) -> None:
    with _choose_server(options) as url:
        asyncio.run(_run(url, jobs, outputs, report, options))


@contextmanager
def _choose_server(options: argparse.Namespace) -> Iterator[str]:
    if not options.local:
        yield options.url
        return
    from app.cli.local import serve_for_command

    with serve_for_command() as url:
        yield url


async def _run(
    url: str,
    jobs: Sequence[Job],
    outputs: Outputs,
    report: Report[Job],
    options: argparse.Namespace,
) -> None:
    try:
        model = await ask_model(url, options)
    except ServerUnreachable as error:
        report.ended_by = error
        return
    except ClientError:
        pass  # each photo is told what is wrong
    else:
        _require_classes(options.classes or (), [entry.name for entry in model.classes])
    client = open_client(url, options)
    bar = tqdm(total=len(jobs), unit="photo", disable=hides_progress(options))
    async with client:
        with bar:
            await segment_all(
                partial(client.segment, max_side=options.max_side, classes=options.classes),
                jobs,
                read=attrgetter("photo"),
                write=outputs.write,
                report=report,
                concurrency=options.concurrency,
                on_end=bar.update,
            )


def _require_classes(wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            mark = paint("error", RED, sys.stderr)
            print(f"{mark}: --classes: the server has no class {name!r}; it has "
                  f"{', '.join(known)}", file=sys.stderr)  # fmt: skip
            sys.exit(EXIT_USAGE)


def _summarise(report: Report[Job], seconds: float) -> None:
    stream = sys.stderr
    for job, reason in report.failures:
        print(f"{paint('failed', RED, stream)}: {job.photo}: {reason}", file=stream)
    if report.ended_by and not report.failures:
        print(f"{paint('error', RED, stream)}: {report.ended_by} Start a server with fcn serve, "
              "name another with --url, or use --local.", file=stream)  # fmt: skip
    summarise(
        written=report.written,
        skipped=f"{report.skipped} skipped, done before" if report.skipped else "",
        failed=len(report.failures),
        seconds=seconds,
    )
