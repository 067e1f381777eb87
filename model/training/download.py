"""Fetch the archive of a data set, and show the progress. Knows nothing of its content."""

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import httpx
from tqdm import tqdm

from model.errors import DatasetError

TIMEOUT_S = 60.0
CHUNK_BYTES = 2**20


def fetch_archive(folder: Path, content: Path, *, url: str, md5: str) -> None:
    """Unpack the directory `content` of the archive at `url` to the same path in `folder`.

    It appears there complete or not at all. Raises DatasetError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = url.rpartition("/")[2]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            path = Path(scratch) / name
            with path.open("wb") as file:
                found = _fetch(url, file)
            if found != md5:
                raise DatasetError(f"{url} has MD5 {found}, not {md5}: fetch it again")
            _unpack(path, Path(scratch))
            (folder / content).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(scratch) / content, folder / content)
    except (OSError, httpx.HTTPError, tarfile.TarError) as error:
        raise DatasetError(
            f"{content} cannot be fetched from {url} ({error!r}): copy {name} here by hand and "
            f"unpack it in {folder}"
        ) from error


def _fetch(url: str, file: IO[bytes]) -> str:
    """Download `url` into the file and return its MD5. The progress bar counts bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    with httpx.stream(
        "GET",
        url,
        headers={"Accept-Encoding": "identity"},  # the MD5 is that of the file itself
        follow_redirects=True,
        timeout=TIMEOUT_S,
    ) as response:
        response.raise_for_status()
        size_bytes = int(response.headers.get("content-length", 0)) or None
        with tqdm(total=size_bytes, desc="download", unit="B", unit_scale=True) as bar:
            for chunk in response.iter_raw(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    return digest.hexdigest()


def _unpack(path: Path, folder: Path) -> None:
    """Unpack the archive. The bar counts its files, whose number is unknown before the end."""
    # Python before 3.11.4 has no filters. The MD5 has proved that this is the expected archive.
    options: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(path) as archive:
        members: Iterable[tarfile.TarInfo] = tqdm(archive, desc="unpack", unit="file")
        for member in members:
            archive.extract(member, folder, **options)
