"""Tell image sets apart that have the same name. Knows nothing of what is done with them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from model.training.dataset import SegmentationDataset


def identify_images(images: SegmentationDataset) -> str:
    """Compute a digest of the names and sizes of the images, in their order.

    The sizes are those in pixels, and in bytes of the files of image and mask. Reads no file.
    """
    sizes = images.sizes
    return _hash_lines(
        [
            f"{sample.name}\t{sizes[sample.name]}\t{sample.image_path.stat().st_size}\t"
            f"{sample.mask_path.stat().st_size}"
            for sample in images.samples
        ]
    )


def identify_content(images: SegmentationDataset) -> str:
    """Compute a digest of the names of the images, in their order, and of their files' bytes."""
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_hash_file, [sample.image_path for sample in images.samples])
        lines = [
            f"{sample.name}\t{digest}"
            for sample, digest in zip(images.samples, digests, strict=True)
        ]
    return _hash_lines(lines)


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
