"""The folder layout of Pascal VOC: its lists, where a list's files are, and how to fetch it all.

Knows nothing of what is in the files.
"""

from pathlib import Path

from model.class_list import VOC, ClassList
from model.engines.base import Size
from model.errors import DatasetError
from model.training.dataset import SegmentationDataset, open_images
from model.training.download import fetch_archive
from model.training.photos import SUFFIXES
from model.training.samples import Sample

VOC_FOLDER = Path("VOCdevkit") / "VOC2012"


def download_voc(folder: Path) -> None:
    """VOC2012 into `folder`, unless it is there. Raises DatasetError."""
    if not (folder / VOC_FOLDER).is_dir():
        from torchvision.datasets.voc import DATASET_YEAR_DICT

        archive = DATASET_YEAR_DICT["2012"]
        fetch_archive(folder, VOC_FOLDER, url=archive["url"], md5=archive["md5"])


def open_voc(
    folder: Path, image_set: str, *, classes: ClassList = VOC, min_size: Size | None = None
) -> SegmentationDataset:
    """Return the image set `image_set` of the folder that holds `VOCdevkit/VOC2012`, checked.

    With `min_size`, images that are lower or narrower are left out. Raises DatasetError.
    """
    samples = list_samples(folder, image_set)
    return open_images(samples, name=image_set, classes=classes, min_size=min_size)


def list_samples(folder: Path, image_set: str) -> list[Sample]:
    """Return the samples of a list, none of them opened yet. Raises DatasetError."""
    root = folder / VOC_FOLDER
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not there. --data is the folder that holds {VOC_FOLDER}; "
            "where there is a network, model.train with --download fetches VOC2012 into it (2 GB)"
        )
    for name in ("JPEGImages", "SegmentationClass"):
        if not (root / name).is_dir():
            raise DatasetError(f"{root / name} is not there: unpack the whole of VOC2012 again")
    names = read_list(folder, image_set)
    return [
        Sample(name, _image_path(root, name), root / "SegmentationClass" / f"{name}.png")
        for name in names
    ]


def read_list(folder: Path, image_set: str) -> list[str]:
    """Return the names of a list's images. Raises DatasetError."""
    path = list_path(folder, image_set)
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise DatasetError(f"{path} is not there. Image sets in this folder: {present}")
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"{path} is empty: it should name one image a line")
    return names


def list_path(folder: Path, image_set: str) -> Path:
    return folder / VOC_FOLDER / "ImageSets" / "Segmentation" / f"{image_set}.txt"


def _image_path(root: Path, name: str) -> Path:
    """Return the path of a JPEG as in VOC, or of an image of another format that exists."""
    jpeg = root / "JPEGImages" / f"{name}.jpg"
    if jpeg.is_file():
        return jpeg
    others = (jpeg.with_name(f"{name}{suffix}") for suffix in sorted(SUFFIXES))
    return next((path for path in others if path.is_file()), jpeg)
