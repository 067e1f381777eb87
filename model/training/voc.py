"""The folder layout of Pascal VOC: its lists, where a list's files are, and how to fetch it all.

Knows nothing of what is in the files.
"""

from pathlib import Path

from model.classes import CLASSES
from model.engines.base import Size
from model.errors import DatasetError
from model.training.dataset import MAX_PROBLEMS_SHOWN, SegmentationDataset
from model.training.samples import Sample, format_size, holds_crop

VOC_FOLDER = Path("VOCdevkit") / "VOC2012"


def open_voc(
    folder: Path, image_set: str, *, num_classes: int = len(CLASSES), min_size: Size | None = None
) -> SegmentationDataset:
    """The image set `image_set` of the folder that holds `VOCdevkit/VOC2012`.

    With `min_size`, images that are lower or narrower are left out (their headers are read).
    Raises DatasetError.
    """
    listed = list_samples(folder, image_set)
    samples = listed
    if min_size is not None:
        samples = [sample for sample in listed if holds_crop(sample, min_size)]
        if not samples:
            raise DatasetError(
                f"no image of the set {image_set!r} holds a crop of {format_size(min_size)} "
                "pixels: choose a smaller one with --crop HEIGHT WIDTH"
            )
    dropped = len(listed) - len(samples)
    return SegmentationDataset(samples, name=image_set, num_classes=num_classes, dropped=dropped)


def list_samples(folder: Path, image_set: str) -> list[Sample]:
    """The samples of a list, none of them opened yet. Raises DatasetError for what is missing."""
    root = folder / VOC_FOLDER
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not there. --data is the folder that holds {VOC_FOLDER}; "
            "where there is a network, --download fetches VOC2012 into it (2 GB)"
        )
    for name in ("JPEGImages", "SegmentationClass"):
        if not (root / name).is_dir():
            raise DatasetError(f"{root / name} is not there: unpack the whole of VOC2012 again")
    lists = root / "ImageSets" / "Segmentation"
    path = lists / f"{image_set}.txt"
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise DatasetError(f"{path} is not there. Image sets in this folder: {present}")
    names = path.read_text().split()
    if not names:
        raise DatasetError(f"{path} is empty: it should name one image a line")
    samples = [
        Sample(
            name, root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png"
        )
        for name in names
    ]
    missing = [
        str(path)
        for sample in samples
        for path in (sample.image_path, sample.mask_path)
        if not path.is_file()
    ]
    if missing:
        shown = "\n  ".join(missing[:MAX_PROBLEMS_SHOWN])
        raise DatasetError(
            f"{len(missing)} files of the image set {image_set!r} are missing, the first:\n"
            f"  {shown}\nCopy them again, or take their names off {path}"
        )
    return samples


def download_voc(folder: Path) -> None:
    """Fetch VOC2012 with torchvision, unless it is there. Raises DatasetError."""
    if (folder / VOC_FOLDER).is_dir():
        return
    from torchvision.datasets import VOCSegmentation

    folder.mkdir(parents=True, exist_ok=True)
    try:
        VOCSegmentation(str(folder), year="2012", image_set="trainval", download=True)
    except (OSError, RuntimeError) as error:
        raise DatasetError(
            f"VOC2012 cannot be fetched ({error}): copy VOCtrainval_11-May-2012.tar here by "
            f"hand and unpack it in {folder}"
        ) from error
