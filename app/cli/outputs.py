"""Finds the photos to segment, and writes their results. Knows nothing of how masks are made."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.client.segmentation import Segmentation
from model.weights import write_atomically

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""The endings of the files in a folder that are photos."""

PNG_END = b"IEND\xaeB`\x82"


class NoPhotos(Exception):
    """There is nothing to segment; the text says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """A photo, and the path of its results without an ending."""

    photo: Path
    stem: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The files that are written for each photo."""

    overlay: bool = False
    npy: bool = False

    def list_files(self, job: Job) -> list[Path]:
        """Return the paths of a photo's results."""
        endings = [".png", *[".overlay.jpg"] * self.overlay, *[".npy"] * self.npy]
        return [job.stem.with_name(job.stem.name + ending) for ending in endings]

    def are_complete(self, job: Job) -> bool:
        """Return whether the results exist, are complete, and are no older than the photo."""
        photo_time = job.photo.stat().st_mtime
        return all(
            path.is_file() and path.stat().st_mtime >= photo_time and _is_whole(path)
            for path in self.list_files(job)
        )

    def write(self, job: Job, result: Segmentation) -> None:
        """Write the results, each whole or not at all, the mask last."""
        mask, *others = self.list_files(job)
        mask.parent.mkdir(parents=True, exist_ok=True)
        for path in (*others, mask):
            with write_atomically(path) as file:
                if path is mask:
                    file.write(result.png)
                elif path.suffix == ".npy":
                    np.save(file, result.mask)
                else:
                    result.overlay().save(file, "JPEG", quality=90)


def _is_whole(path: Path) -> bool:
    if path.suffix != ".png":
        return path.stat().st_size > 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(PNG_END)))
        return file.read() == PNG_END


def list_jobs(given: Sequence[Path], folder: Path) -> list[Job]:
    """Return a job for each given photo, and for each photo in given folders. Raises NoPhotos.

    Photos in a folder keep their path in it. Photos whose paths differ only in the ending keep it:
    `a.jpg` and `a.png` become `a.jpg.png` and `a.png.png`.
    """
    found = {photo.resolve(): (photo, place) for photo, place in _find_photos(given, folder)}
    if not found:
        endings = ", ".join(sorted(SUFFIXES))
        raise NoPhotos(f"no photos in {', '.join(map(str, given))}: looked for {endings}")
    stems = Counter(place.with_suffix("") for _, place in found.values())
    return [
        Job(photo, folder / (stem if stems[stem := place.with_suffix("")] == 1 else place))
        for photo, place in found.values()
    ]


def _find_photos(given: Iterable[Path], folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each photo and its path in the output folder, which itself is not searched."""
    for path in given:
        if not path.is_dir():
            if not path.exists():
                raise NoPhotos(f"{path}: no such file or folder")
            yield path, Path(path.name)
            continue
        for photo in sorted(path.rglob("*")):
            is_result = folder.resolve() in photo.resolve().parents
            if photo.suffix.lower() in SUFFIXES and photo.is_file() and not is_result:
                yield photo, photo.relative_to(path)
