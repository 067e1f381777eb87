import argparse
import shutil

import numpy as np
import pytest
from PIL import Image

from model.class_list import VOC, ClassList
from model.errors import DatasetError
from model.training.data import (
    add_data_options,
    add_reading_options,
    add_validation_options,
    open_evaluation_images,
    open_training_images,
)
from model.training.pairs import hold_out, pair_folders, read_pairs
from model.training.samples import Sample

COIN = ClassList(("background", "coin"))


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_data_options(parser, image_set="train")
    add_reading_options(parser)
    add_validation_options(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def open_both(*arguments, classes=COIN):
    said = []
    options = parse(*arguments)
    sets = open_training_images(options, classes, min_size=None, say=said.append)
    return *sets, "\n".join(said)


def names(images):
    return [sample.name for sample in images.samples]


def write_pair(images, masks, stem, suffix="png", coin=1):
    image, mask = images / f"{stem}.{suffix}", masks / f"{stem}.png"
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (7, 8, 9)).save(image)
    target = np.zeros((10, 20), np.uint8)
    target[:5] = coin
    Image.fromarray(target).save(mask)


@pytest.fixture
def own(tmp_path):
    """Ten images of all kinds, some in a folder within the folder, some with spaces in the name."""
    for number, suffix in enumerate(["png", "jpg", "JPEG", "webp", "tiff"]):
        for stem in (f"coin {number}", f"more coins/coin {number}"):
            write_pair(tmp_path / "images", tmp_path / "masks", stem, suffix)
    (tmp_path / "images/notes.txt").write_text("no image")
    (tmp_path / "images/.hidden.png").write_bytes(b"")
    return tmp_path


def test_images_and_masks_are_paired_by_their_stems(own):
    samples = pair_folders(own / "images", own / "masks")
    assert [sample.name for sample in samples] == sorted(
        f"{folder}coin {number}" for folder in ("", "more coins/") for number in range(5)
    )
    for sample in samples:
        assert sample.read(COIN)[1].tolist()[0][0] == 1


def test_two_images_of_one_stem_are_refused(own):
    write_pair(own / "images", own / "masks", "coin 0", "bmp")
    with pytest.raises(DatasetError, match=r"coin 0\.bmp and .*coin 0\.png have the same name"):
        pair_folders(own / "images", own / "masks")


def test_a_missing_mask_is_listed_with_the_other_mistakes(own):
    (own / "masks/coin 2.png").unlink()
    Image.new("L", (3, 3)).save(own / "masks/coin 3.png")
    with pytest.raises(DatasetError) as caught:
        open_both("--images", own / "images", "--masks", own / "masks", "--val-share", 0)
    assert "coin 2.png is missing" in str(caught.value)
    assert "coin 3.png is 3 x 3" in str(caught.value)


def test_masks_without_an_image_are_reported(own):
    (own / "images/coin 0.png").unlink()
    *_, said = open_both("--images", own / "images", "--masks", own / "masks")
    assert "1 masks in" in said


@pytest.mark.parametrize(("suffix", "separator"), [("txt", "\t"), ("tsv", "\t"), ("csv", ",")])
@pytest.mark.parametrize("header", ["", "image{}mask\n"])
def test_a_list_names_pairs(own, suffix, separator, header):
    path = own / f"pairs.{suffix}"
    lines = [
        separator.join(("images/coin 1.jpg", "masks/coin 0.png")),
        "",
        separator.join((str(own / "images/coin 2.JPEG"), "masks/more coins/coin 2.png")),
    ]
    path.write_text(header.format(separator) + "\n".join(lines) + "\n")
    first, second = read_pairs(path)
    assert first == Sample("images/coin 1", own / "images/coin 1.jpg", own / "masks/coin 0.png")
    assert second.name == "coin 2"
    assert second.read(COIN)[0].shape == (10, 20, 3)


def test_names_in_a_list_may_have_quotation_marks_commas_and_other_letters(own):
    names = ['5" coin, used', "münze"]
    for name in names:
        write_pair(own / "images", own / "masks", name)
    lines = [f"images/{name}.png\tmasks/{name}.png" for name in names]
    (own / "pairs.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    samples = read_pairs(own / "pairs.txt")
    assert [sample.name for sample in samples] == [f"images/{name}" for name in names]
    assert all(sample.read(COIN)[0].shape == (10, 20, 3) for sample in samples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg b.png\n", "line 1: expected an image and a mask with a tab between"),
        ("a.jpg\t\n", "line 1: expected"),
        ("a.jpg\tb.png\n\na.png\tb.png\n", "line 3: there is an image called a already"),
        ("\n", "names no pairs"),
    ],
)
def test_a_wrong_list_is_refused_with_the_line(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_pairs(tmp_path / "pairs.txt")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_pairs(tmp_path / "nothing.txt")


def test_a_share_is_held_out_by_name_and_seed_alone():
    samples = [Sample(str(n), None, None) for n in range(100)]
    kept, held_out = hold_out(samples, share=0.2, seed=3)
    assert len(held_out) == 20
    assert sorted(kept + held_out, key=lambda s: int(s.name)) == samples
    assert {s.name for s in hold_out(samples[::-1], share=0.2, seed=3)[1]} == {
        s.name for s in held_out
    }
    assert hold_out(samples, share=0.2, seed=4)[1] != held_out
    fewer = hold_out(samples[:50], share=0.2, seed=3)[1]
    assert len({s.name for s in fewer} & {s.name for s in held_out}) >= 5, "mostly the same"
    assert [s.name for s in held_out][:5] == ["0", "1", "10", "13", "15"], "on every machine"
    assert len(hold_out(samples[:3], share=0.01, seed=0)[1]) == 1
    with pytest.raises(DatasetError, match="leaves none to train on"):
        hold_out(samples[:1], share=0.5, seed=0)


def test_own_data_are_validated_on_a_tenth_by_default(own):
    folders = "--images", own / "images", "--masks", own / "masks"
    images, val_images, said = open_both(*folders)
    assert (len(images), len(val_images)) == (9, 1)
    assert not set(names(images)) & set(names(val_images))
    assert "image set 10 % of images by seed 0: 1 of 1 images" in said

    images, val_images, _ = open_both(*folders, "--val-share", 0.3, "--val-seed", 1)
    assert (len(images), len(val_images)) == (7, 3)
    measured = open_evaluation_images(parse(*folders, "--val-share", 0.3, "--val-seed", 1), COIN)
    assert names(measured) == names(val_images), "what was held out can be measured again"
    assert len(open_evaluation_images(parse(*folders), COIN)) == 10

    for no_validation in (("--val-share", 0), ("--val-image-set", "none")):
        images, val_images, _ = open_both(*folders, *no_validation)
        assert (len(images), val_images) == (10, None)


def test_own_data_may_have_validation_images_of_their_own(own):
    write_pair(own / "val images", own / "val masks", "v")
    (own / "val.txt").write_text("val images/v.png\tval masks/v.png\n")
    (own / "train.txt").write_text("images/coin 1.jpg\tmasks/coin 1.png\n")
    folders = "--images", own / "images", "--masks", own / "masks"
    images, val_images, _ = open_both(
        *folders, "--val-images", own / "val images", "--val-masks", own / "val masks"
    )
    assert (len(images), names(val_images), val_images.name) == (10, ["v"], "val images")
    images, val_images, _ = open_both("--pairs", own / "train.txt", "--val-pairs", own / "val.txt")
    assert (names(images), names(val_images)) == (["images/coin 1"], ["val images/v"])


def test_validation_images_that_are_trained_on_are_no_measurement(own, voc_folder):
    """The name of the set says so, which the scores in the weights file and the card show."""
    folder = shutil.copytree(voc_folder, own / "voc")
    lists = folder / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    names = [(lists / f"{name}.txt").read_text().split() for name in ("train", "val")]
    (lists / "trainval.txt").write_text("\n".join([*names[0], *names[1][:3]]))
    options = "--data", folder, "--image-set", "trainval"
    _, val_images, said = open_both(*options, classes=VOC)
    assert "warning: 3 of 4 images to validate on are trained on" in said
    assert val_images.name == "val, 3 of 4 trained on"
    *_, said = open_both("--data", voc_folder, classes=VOC)
    assert "warning" not in said
    (own / "train.txt").write_text("images/coin 1.jpg\tmasks/coin 1.png\n")
    folders = "--images", own / "images", "--masks", own / "masks"
    *_, said = open_both(*folders, "--val-pairs", own / "train.txt")
    assert "warning: 1 of 1 images" in said


def test_vocs_folders_may_hold_out_a_share_too(voc_folder):
    images, val_images, _ = open_both("--data", voc_folder, "--val-share", 0.25, classes=VOC)
    assert (len(images), len(val_images)) == (9, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the images"),
        (["--data", "a", "--images", "b"], "found --data and --images"),
        (["--images", "a"], "--images DIR and --masks DIR belong together"),
        (["--data", "a", "--masks", "b"], "--masks b belongs to --images DIR"),
        (["--pairs", "a", "--masks", "b"], "--masks b belongs to --images DIR"),
        (["--data", "a", "--val-masks", "b"], "--val-masks b belongs to --val-images DIR"),
        (["--images", "a", "--masks", "b"], "b is not there, or no folder"),
        (
            ["--pairs", "a", "--val-share", "0.1", "--val-pairs", "b"],
            "--val-pairs and --val-share each",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(DatasetError, match=message):
        open_both(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-share", 1], "--val-share 1: more than 0 and less than 1"),
        (["--val-image-set", "val"], "--val-image-set names a list in VOC's folders"),
        (["--val-images", "a"], "--val-images DIR and --val-masks DIR belong together"),
    ],
)
def test_validation_options_that_do_not_fit_are_named(own, options, message):
    with pytest.raises(DatasetError, match=message):
        open_both("--images", own / "images", "--masks", own / "masks", *options)


def test_masks_of_0_and_255_are_not_taken_for_void(tmp_path):
    for number in range(3):
        write_pair(tmp_path / "images", tmp_path / "masks", str(number), coin=255)
    folders = "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--val-share", 0
    with pytest.raises(DatasetError, match=r"show background alone.*value = 255"):
        open_both(*folders)
    classes = ClassList(("background", "coin"), values=(0, 255))
    images, *_ = open_both(*folders, classes=classes)
    assert set(np.unique(images.read(0)[1])) == {0, 1}


def test_classes_that_no_mask_shows_are_reported(own):
    classes = ClassList(("background", "coin", "note"))
    *_, said = open_both("--images", own / "images", "--masks", own / "masks", classes=classes)
    assert "shows note" in said
