"""`fcn segment photo.jpg folder/ -o masks/`: masks of photos, as files.

It is wiring: `outputs` finds the photos, `batch` segments them, this tells people of it.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from app.cli.batch import Report, segment_all
from app.cli.outputs import Job, NoPhotos, Outputs, list_jobs
from app.client import AsyncClient, Retries
from app.client.clients import DEFAULT_URL
from app.environment import load_env_file
from app.observability.console import GREEN, RED, YELLOW, paint

EXIT_FAILURES, EXIT_USAGE, EXIT_NO_SERVER, EXIT_INTERRUPTED = 1, 2, 3, 130

PATIENT = Retries(attempts=20, max_wait_s=300)


def main() -> None:
    """Segment photos. Exits with 0 if every photo has its mask."""
    load_env_file()
    parser = _build_parser()
    options = parser.parse_args()
    try:
        found = list_jobs(options.photos, options.output)
    except (NoPhotos, OSError) as error:
        parser.error(str(error))
    outputs = Outputs(overlay=options.overlay, npy=options.npy)
    jobs = [job for job in found if options.overwrite or not outputs.are_complete(job)]
    report = Report(skipped=len(found) - len(jobs))
    started = time.monotonic()
    try:
        if jobs:
            _segment(jobs, outputs, report, options)
    except KeyboardInterrupt:
        _summarise(report, time.monotonic() - started)
        print("interrupted: the same command continues from here", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    _summarise(report, time.monotonic() - started)
    if report.ended_by:
        sys.exit(EXIT_NO_SERVER)
    sys.exit(EXIT_FAILURES if report.failures else 0)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fcn segment",
        description="Write the mask of each photo: an indexed PNG of the photo's size, whose pixel "
        "values are class indices and whose palette has the classes' colours. Photos whose results "
        "are there already, whole and no older than the photo, are skipped.",
        epilog="Exit status: 0 every photo has its mask, 1 some have none, 2 a wrong command line, "
        "3 no server answers or it refuses everything, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="a file or a folder")
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("masks"), metavar="FOLDER",
        help="where the masks go (%(default)s)")  # fmt: skip
    add("--url", default=os.environ.get("FCN_URL") or DEFAULT_URL,
        help="address of the server (FCN_URL, or %(default)s)")  # fmt: skip
    add("--key", default=os.environ.get("FCN_API_KEY"), help="API key (FCN_API_KEY)")
    add("--local", action="store_true", help="compute here, without a server; needs some seconds")
    add(
        "--overlay",
        action="store_true",
        help="also write NAME.overlay.jpg, the mask over the photo",
    )
    add("--npy", action="store_true", help="also write NAME.npy, the mask as a NumPy array")
    add("--max-side", type=int, metavar="PIXELS", help="scale longer photos down to this")
    add("--concurrency", type=_parse_count, default=8, metavar="N",
        help="photos at the same time (%(default)s)")  # fmt: skip
    add("--timeout", type=float, default=60, metavar="SECONDS",
        help="for each attempt to get a mask (%(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="compute again what is there already")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _parse_count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000")
    return count


def _segment(
    jobs: Sequence[Job], outputs: Outputs, report: Report, options: argparse.Namespace
) -> None:
    with _choose_server(options) as url:
        asyncio.run(_run(url, jobs, outputs, report, options))


@contextmanager
def _choose_server(options: argparse.Namespace) -> Iterator[str]:
    if not options.local:
        yield options.url
        return
    from app.cli.local import serve_locally
    from app.process.startup import load_settings
    from model.errors import ModelError

    os.environ.setdefault("SEG_LOG_LEVEL", "warning")
    load_settings()  # tells of wrong ones, and configures the log
    try:
        with serve_locally() as url:
            yield url
    except ModelError as error:
        sys.exit(f"error: cannot compute here: {error}")


async def _run(
    url: str,
    jobs: Sequence[Job],
    outputs: Outputs,
    report: Report,
    options: argparse.Namespace,
) -> None:
    try:
        client = AsyncClient(url, key=options.key, timeout_s=options.timeout, retries=PATIENT)
    except ValueError as error:
        sys.exit(f"error: {error}")
    bar = tqdm(total=len(jobs), unit="photo", disable=options.quiet or not sys.stderr.isatty())
    async with client:
        with bar:
            await segment_all(
                client,
                jobs,
                outputs,
                report=report,
                concurrency=options.concurrency,
                max_side=options.max_side,
                on_end=bar.update,
            )


def _summarise(report: Report, seconds: float) -> None:
    stream = sys.stderr
    for job, reason in report.failures:
        print(f"{paint('failed', RED, stream)}: {job.photo}: {reason}", file=stream)
    if report.ended_by and not report.failures:
        print(f"{paint('error', RED, stream)}: {report.ended_by} Start one with fcn serve, name "
              "another with --url, or compute here with --local.", file=stream)  # fmt: skip
    parts = [paint(f"{report.written} written", GREEN, stream)]
    if report.skipped:
        parts.append(paint(f"{report.skipped} skipped, done before", YELLOW, stream))
    if report.failures:
        parts.append(paint(f"{len(report.failures)} failed", RED, stream))
    rate = f", {report.written / seconds:.1f} photos/s" if report.written else ""
    print(f"{', '.join(parts)} in {seconds:.1f} s{rate}", file=stream)
