"""Images and masks in two folders, or in a list of pairs, and the share that is held out.

Knows nothing of what is in the files.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.errors import DatasetError
from model.training.photos import SUFFIXES
from model.training.samples import Sample

HEADER = ("image", "mask")


def pair_folders(images: Path, masks: Path) -> list[Sample]:
    """Pair each image of a folder and its subfolders with the mask of the same name.

    Suffixes may differ. An image without a mask gets the path that its mask should have. Raises
    DatasetError.
    """
    mask_of = _index_by_stem(masks)
    return [
        Sample(name, path, mask_of.get(name, masks / f"{name}.png"))
        for name, path in _index_by_stem(images).items()
    ]


def count_unpaired(masks: Path, samples: Iterable[Sample]) -> int:
    """Count the masks of a folder that have no image."""
    return len(_index_by_stem(masks).keys() - {sample.name for sample in samples})


def list_images(folder: Path) -> dict[str, Path]:
    """List a folder's images by name: the path in it without suffix. Raises DatasetError."""
    return _index_by_stem(folder)


def _index_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not there, or no folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        name = relative.with_suffix("").as_posix()
        if name in found:
            raise DatasetError(
                f"{found[name]} and {path} have the same name except for the suffix. "
                "Rename one, or name the pairs in a list with --pairs FILE"
            )
        found[name] = path
    if not found:
        raise DatasetError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def read_pairs(path: Path) -> list[Sample]:
    """Read a list with an image and a mask per line, separated by a tab, or a comma in a .csv file.

    Relative paths are relative to the list's folder; a first line "image", "mask" is a header.
    Raises DatasetError.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            is_csv = path.suffix.lower() == ".csv"
            # Between tabs, a quotation mark is part of a file's name.
            rows = list(csv.reader(file) if is_csv else (line.split("\t") for line in file))
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a list of pairs: {error}") from error
    samples: dict[str, Sample] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and tuple(map(str.lower, cells)) == HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            separator = "a comma" if is_csv else "a tab"
            raise DatasetError(
                f"{path}, line {number}: expected an image and a mask with {separator} between "
                f"them, found {row!r}"
            )
        image, mask = (path.parent / cell for cell in cells)
        name = _read_name(Path(cells[0]))
        if name in samples:
            raise DatasetError(
                f"{path}, line {number}: there is an image called {name} already: each needs a "
                "name of its own"
            )
        samples[name] = Sample(name, image, mask)
    if not samples:
        raise DatasetError(f"{path} names no pairs of image and mask")
    return list(samples.values())


def _read_name(path: Path) -> str:
    """Return the path without its suffix; only its last part if it leads out of the folder."""
    stays = not path.is_absolute() and ".." not in path.parts
    return (path if stays else Path(path.name)).with_suffix("").as_posix()


def hold_out(
    samples: Sequence[Sample], *, share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split samples into those to train on and the share, at least one, that is held out.

    The samples whose names, with the seed, have the lowest SHA-256 are held out. So the order of
    the files does not matter, and two sets that share images hold out nearly the same ones.
    """
    number = max(1, round(share * len(samples)))
    if number >= len(samples):
        raise DatasetError(
            f"a share of {share:g} of {len(samples)} images leaves none to train on: choose "
            "--val-share"
        )
    ranked = sorted(
        samples, key=lambda sample: hashlib.sha256(f"{seed}/{sample.name}".encode()).digest()
    )
    held_out = {sample.name for sample in ranked[:number]}
    kept = [sample for sample in samples if sample.name not in held_out]
    return kept, [sample for sample in samples if sample.name in held_out]
