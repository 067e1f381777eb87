"""The images that a command works on: its options, and the image sets that they name.

Knows the three ways to name images (VOC's folders, two folders, a list of pairs), and nothing of
their use.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.arguments import parse_count
from model.class_list import ClassList, make_class_list, read_classes
from model.engines.base import Size
from model.errors import DatasetError
from model.training.dataset import SegmentationDataset, open_images
from model.training.pairs import count_unpaired, hold_out, pair_folders, read_pairs
from model.training.samples import Sample
from model.training.voc import list_samples
from model.weights import Metadata

DEFAULT_SHARE = 0.1
NO_VALIDATION = "none"

Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Listing:
    """The samples of an image set, none of them opened yet."""

    name: str
    samples: list[Sample]


def add_data_options(parser: argparse.ArgumentParser, *, image_set: str) -> None:
    """Add the options that name images and masks."""
    add = parser.add_argument_group("images and masks, named in one of three ways").add_argument
    add("--data", type=Path, metavar="DIR", help="folder that holds VOCdevkit/VOC2012")
    add("--image-set", default=image_set, help="VOC's list of images (default: %(default)s)")
    add("--images", type=Path, metavar="DIR", help="folder of images")
    add("--masks", type=Path, metavar="DIR", help="folder of their masks, with the same names")
    add("--pairs", type=Path, metavar="FILE", help="list with one pair per line")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that hold images out and that say what masks mean."""
    add = parser.add_argument
    add("--val-share", type=float, help="share of the images to validate on")
    add(
        "--val-seed",
        type=parse_count,
        default=0,
        help="seed that chooses these images (default: 0)",
    )
    add("--classes", type=Path, metavar="FILE", help="your own classes and colours: TOML, JSON")


def add_validation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a separate validation set."""
    add = parser.add_argument_group(
        f"images to validate on; of your own data {100 * DEFAULT_SHARE:.0f} % unless named"
    ).add_argument
    add("--val-image-set", help=f'VOC\'s list, or "{NO_VALIDATION}" (default: val)')
    add("--val-images", type=Path, metavar="DIR", help="folder of images")
    add("--val-masks", type=Path, metavar="DIR", help="folder of their masks")
    add("--val-pairs", type=Path, metavar="FILE", help="list with one pair per line")


def require_images(options: argparse.Namespace) -> None:
    """Raise DatasetError if there are no images, and none will be downloaded.

    Tells this before a backbone is fetched for nothing.
    """
    if not options.download:
        list_images_of(options)


def list_images_of(options: argparse.Namespace) -> Listing:
    """List the images of --data, of --images and --masks, or of --pairs. Raises DatasetError."""
    given = [name for name in ("data", "images", "pairs") if getattr(options, name)]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none of them"
        raise DatasetError(
            "name the images by --data DIR (VOC's folders), --images DIR --masks DIR, or "
            f"--pairs FILE; found {found}"
        )
    if options.masks and not options.images:
        raise DatasetError(f"--masks {options.masks} belongs to --images DIR: leave it out")
    if options.data:
        return Listing(options.image_set, list_samples(options.data, options.image_set))
    return _list_own(options.images, options.masks, options.pairs, prefix="--")


def open_training_images(
    options: argparse.Namespace, classes: ClassList, *, min_size: Size | None, say: Say
) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """Open the images to train on and those to validate on, and check them. Raises DatasetError."""
    listing, val_listing = _list_both(options)
    if val_listing:
        val_listing = _tell_overlap(listing, val_listing, say)

    def open_set(listing: Listing) -> SegmentationDataset:
        images = open_images(listing.samples, name=listing.name, classes=classes, min_size=min_size)
        dropped = f"; {images.dropped} smaller than the crop are dropped" if min_size else ""
        listed = len(listing.samples)
        say(f"image set {listing.name}: {len(images)} of {listed} images{dropped}")
        return images

    _tell_unpaired(options.masks, listing, val_listing, say)
    images = open_set(listing)
    _require_foreground(images, say)
    return images, open_set(val_listing) if val_listing else None


def choose_classes(options: argparse.Namespace, metadata: Metadata) -> ClassList:
    """Return the weights' classes; --classes may change how masks are read. Raises DatasetError."""
    if not options.classes:
        return make_class_list(metadata)
    classes = read_classes(options.classes)
    if classes.names != metadata.classes:
        raise DatasetError(
            f"{options.classes} names {', '.join(classes.names)}; the weights know "
            f"{', '.join(metadata.classes)}"
        )
    return classes


def open_evaluation_images(options: argparse.Namespace, classes: ClassList) -> SegmentationDataset:
    """Open all images to measure on, or those that --val-share holds out, and check them.

    Raises DatasetError.
    """
    listing = list_images_of(options)
    if options.val_share is not None:
        _, listing = _hold_out(listing, options.val_share, options.val_seed)
    return open_images(listing.samples, name=listing.name, classes=classes)


def _list_both(options: argparse.Namespace) -> tuple[Listing, Listing | None]:
    share = options.val_share
    named = [
        name
        for name in ("val_image_set", "val_images", "val_pairs", "val_share")
        if getattr(options, name) is not None
    ]
    if len(named) > 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in named)
        raise DatasetError(f"{flags} each name images to validate on: give one of them")
    if options.val_masks and not options.val_images:
        raise DatasetError(
            f"--val-masks {options.val_masks} belongs to --val-images DIR: give both, or neither"
        )
    listing = list_images_of(options)
    if options.val_image_set == NO_VALIDATION or share == 0:
        return listing, None
    if options.val_images or options.val_pairs:
        return listing, _list_own(
            options.val_images, options.val_masks, options.val_pairs, prefix="--val-"
        )
    if options.data and share is None:
        image_set = options.val_image_set or "val"
        return listing, Listing(image_set, list_samples(options.data, image_set))
    if options.val_image_set:
        raise DatasetError("--val-image-set names a list in VOC's folders: give --data DIR, too")
    return _hold_out(listing, DEFAULT_SHARE if share is None else share, options.val_seed)


def _list_own(
    images: Path | None, masks: Path | None, pairs: Path | None, *, prefix: str
) -> Listing:
    if pairs:
        return Listing(pairs.stem, read_pairs(pairs))
    if not (images and masks):
        raise DatasetError(f"{prefix}images DIR and {prefix}masks DIR belong together: give both")
    return Listing(images.resolve().name, pair_folders(images, masks))


def _hold_out(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    if not 0 < share < 1:
        raise DatasetError(f"--val-share {share:g}: more than 0 and less than 1 expected")
    kept, held_out = hold_out(listing.samples, share=share, seed=seed)
    part = f"{100 * share:g} % of {listing.name} by seed {seed}"
    return Listing(f"{listing.name} without {part}", kept), Listing(part, held_out)


def _tell_unpaired(
    masks: Path | None, listing: Listing, held_out: Listing | None, say: Say
) -> None:
    if masks is None:
        return
    samples = listing.samples + (held_out.samples if held_out else [])
    number = count_unpaired(masks, samples)
    if number:
        say(f"{number} masks in {masks} have no image and are ignored")


def _tell_overlap(listing: Listing, held_out: Listing, say: Say) -> Listing:
    """Warn of validation images that are trained on, and say so in the name of their set.

    The name accompanies the scores into the weights file and onto its card.
    """
    trained_on = {sample.image_path.resolve() for sample in listing.samples}
    number = sum(sample.image_path.resolve() in trained_on for sample in held_out.samples)
    if not number:
        return held_out
    part = f"{number} of {len(held_out.samples)}"
    say(
        f"warning: {part} images to validate on are trained on, too: the scores will only show how "
        "well they are learnt by heart. Name other images with --val-image-set, --val-images, "
        "--val-pairs or --val-share"
    )
    return Listing(f"{held_out.name}, {part} trained on", held_out.samples)


def _require_foreground(images: SegmentationDataset, say: Say) -> None:
    """Raises DatasetError if the masks show a single class, from which nothing can be learnt.

    Masks of 0 and 255 are a frequent cause, because 255 means void.
    """
    names, presence = images.classes.names, images.class_presence
    absent = [name for index, name in enumerate(names) if not presence[:, index].any()]
    if len(absent) >= len(names) - 1:
        found = [name for name in names if name not in absent]
        raise DatasetError(
            f"the masks of the image set {images.name!r} show {found[0] if found else 'no class'} "
            "alone: nothing can be learnt from them. A mask's values are class indices, and 255 is "
            "void; if 255 stands for a class in yours, say so in --classes FILE: value = 255"
        )
    if absent:
        say(f"no mask of the image set {images.name} shows {', '.join(absent)}")
