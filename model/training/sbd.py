"""The Semantic Boundaries Dataset, whose masks turn VOC2012's `train` into `train_aug`.

B. Hariharan et al., "Semantic contours from inverse detectors", 2011. It has masks of 11,355 images
of VOC2012; VOC itself has no masks of most of them. Its masks have no void border.
"""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from model.errors import DatasetError
from model.training.download import fetch_archive
from model.training.voc import VOC_FOLDER, list_path, read_list
from model.weights import write_atomically

SBD_FOLDER = Path("benchmark_RELEASE") / "dataset"

TRAIN_AUG = "train_aug"
"""The list of VOC's `train` and all of SBD that is not in VOC's `val`: 10,582 images."""


def download_sbd(folder: Path) -> None:
    """Fetch SBD into `folder`, next to VOC2012, unless its list exists. Raises DatasetError."""
    if list_path(folder, TRAIN_AUG).exists():
        return
    if not (folder / SBD_FOLDER).is_dir():
        from torchvision.datasets import SBDataset

        fetch_archive(folder, SBD_FOLDER, url=SBDataset.url, md5=SBDataset.md5)
    add_sbd(folder)


def add_sbd(folder: Path) -> None:
    """Write SBD's masks next to VOC's, as PNG, and then the list `train_aug`.

    Masks of VOC itself are kept. Raises DatasetError.
    """
    sbd = folder / SBD_FOLDER
    names = {name for part in ("train", "val") for name in _read_names(sbd / f"{part}.txt")}
    names |= set(read_list(folder, "train"))
    names -= set(read_list(folder, "val"))
    masks = folder / VOC_FOLDER / "SegmentationClass"
    missing = [name for name in sorted(names) if not (masks / f"{name}.png").exists()]
    for name in tqdm(missing, desc="masks of SBD", unit="mask", disable=None):
        with write_atomically(masks / f"{name}.png") as file:
            _read_mask(sbd / "cls" / f"{name}.mat").save(file, "PNG")
    # Written last, because the list says that all masks are there.
    with write_atomically(list_path(folder, TRAIN_AUG)) as file:
        file.write("".join(f"{name}\n" for name in sorted(names)).encode())


def _read_names(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: unpack SBD's archive again") from error


def _read_mask(path: Path) -> Image.Image:
    """Read the class indices of one image, in mode L."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return Image.fromarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except (MatReadError, OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read ({error!r}): unpack SBD's archive again"
        raise DatasetError(message) from error
