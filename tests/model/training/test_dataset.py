import gc
import os
import shutil
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import DatasetError
from model.training.dataset import open_images
from model.training.defects import BrokenSample
from model.training.loader import TrainingSamples, create_loader
from model.training.recipe import PRESETS
from model.training.sampler import Draw, EpochSampler, compute_rarity_weights
from model.training.samples import Sample
from model.training.voc import open_voc
from tests.conftest import write_voc

VOC = "VOCdevkit/VOC2012"


@pytest.fixture
def folder(voc_folder, tmp_path):
    """A copy that a test may break."""
    shutil.copytree(voc_folder, tmp_path / "data")
    return tmp_path / "data"


def test_images_and_targets_are_read(voc_folder):
    images = open_voc(voc_folder, "train")
    assert len(images) == 12
    image, target = images.read(3)
    assert image.shape == (*target.shape, 3)
    assert image.dtype == target.dtype == np.uint8
    assert 255 in target
    assert images.class_presence[:, 0].all()


def test_a_missing_folder_list_or_subfolder_is_named_with_its_remedy(folder):
    with pytest.raises(DatasetError, match="--data is the folder that holds"):
        open_voc(folder / "elsewhere", "train")
    with pytest.raises(DatasetError, match="Image sets in this folder: train, val"):
        open_voc(folder, "trian")
    (folder / VOC / "ImageSets/Segmentation/empty.txt").write_text("\n")
    with pytest.raises(DatasetError, match="is empty"):
        open_voc(folder, "empty")
    shutil.rmtree(folder / VOC / "SegmentationClass")
    with pytest.raises(DatasetError, match="SegmentationClass is not there"):
        open_voc(folder, "train")


class MeetingPoint(int):
    """The bytes that are left. Reading them waits for a second thread that reads, too."""

    meeting = threading.Barrier(2)

    def __floordiv__(self, _):
        return self

    def __sub__(self, other):
        with suppress(threading.BrokenBarrierError):
            self.meeting.wait(0.5)
        return MeetingPoint(int(self) - other)


def test_threads_that_decode_together_share_the_memory(voc_folder, monkeypatch):
    free_memory = MeetingPoint(1_000_000)
    monkeypatch.setattr("model.training.dataset.measure_available_bytes", lambda: free_memory)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)  # of which the pool makes its threads
    images = open_voc(voc_folder, "train")
    kept = [array.nbytes for pair in images.decoded.values() for array in pair]
    assert len(kept) == 2 * len(images)
    assert images.memory_left_bytes == 1_000_000 - sum(kept)


def test_all_problems_are_reported_at_once_with_their_remedies(folder):
    photos, masks = folder / VOC / "JPEGImages", folder / VOC / "SegmentationClass"
    (photos / "train_0002.jpg").unlink()
    (masks / "train_0005.png").unlink()
    image = photos / "train_0001.jpg"
    image.write_bytes(image.read_bytes()[:400])
    (masks / "train_0001.png").write_bytes(b"not a PNG")
    Image.new("P", (10, 10)).save(masks / "train_0006.png")
    indices = np.zeros((75, 79), np.uint8)
    indices[20, 30:] = 77
    Image.fromarray(indices).save(masks / "train_0003.png")
    painted = np.zeros((60, 82, 3), np.uint8)
    painted[5, 6] = 1, 2, 3
    Image.fromarray(painted).save(masks / "train_0004.png")
    with pytest.raises(DatasetError) as caught:
        open_voc(folder, "train")
    message = str(caught.value)
    for expected in (
        "6 of 12 samples of the image set 'train' are broken",
        "train_0002.jpg is missing",
        "train_0005.png is missing",
        "train_0001.jpg cannot be decoded",
        "train_0001.png cannot be decoded",
        "train_0006.png is 10 x 10, its image 70 x 88",
        "train_0003.png has the class index 77 at column 30, row 20; there are 21 classes, 0 to 20",
        "train_0004.png has the colour #010203 at column 6, row 5",
    ):
        assert expected in message
    assert message.count("->") == 5, "one remedy for each kind of mistake"


def test_only_the_first_of_many_problems_of_a_kind_are_listed(tmp_path):
    samples = [Sample(f"a{n}", tmp_path / f"a{n}.jpg", tmp_path / f"a{n}.png") for n in range(15)]
    with pytest.raises(DatasetError, match="and 20 more of this kind"):
        open_images(samples, name="train")


def test_lists_may_have_names_with_spaces_and_images_of_other_kinds(tmp_path):
    (name,) = write_voc(tmp_path, [(40, 60)])
    root = tmp_path / VOC
    with Image.open(root / "JPEGImages" / f"{name}.jpg") as image:
        image.save(root / "JPEGImages" / "a cat.webp", lossless=True)
        expected = np.asarray(image)
    (root / "SegmentationClass" / f"{name}.png").rename(root / "SegmentationClass" / "a cat.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("a cat\n")
    assert np.array_equal(open_voc(tmp_path, "train").read(0)[0], expected)


def test_images_smaller_than_the_crop_are_dropped(tmp_path):
    write_voc(tmp_path, [(40, 60), (39, 60), (40, 59), (60, 40), (41, 70)])
    images = open_voc(tmp_path, "train", min_size=(40, 60))
    assert [sample.name for sample in images.samples] == ["train_0000", "train_0004"]
    with pytest.raises(DatasetError, match="--crop"):
        open_voc(tmp_path, "train", min_size=(400, 600))


def batches(images, **options):
    sampler = EpochSampler(images, batch_size=4, seed=1, **options)
    return sampler, list(sampler)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(voc_folder):
    images = open_voc(voc_folder, "train")
    sampler, first = batches(images)
    assert sorted(draw.index for batch in first for draw in batch) == list(range(12))
    assert list(sampler) == first
    sampler.epoch = 1
    assert [d.index for b in sampler for d in b] != [d.index for b in first for d in b]


def test_an_epoch_continues_in_its_middle(voc_folder):
    images = open_voc(voc_folder, "train")
    sampler, first = batches(images)
    sampler.first_batch = 2
    assert list(sampler) == first[2:]
    assert len(sampler) == 1


def test_processes_share_each_batch(voc_folder):
    images = open_voc(voc_folder, "train")
    _, whole = batches(images)
    shares = [batches(images, rank=rank, world_size=2)[1] for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == 2
        assert {d.index for d in first} | {d.index for d in second} == {d.index for d in batch}


def test_a_loader_process_names_a_file_that_was_lost_while_training(folder):
    """In the main process PyTorch gives the error its traceback as its only argument."""
    images = open_voc(folder, "train")
    images.decoded.clear()  # as if no memory were left for them
    (folder / VOC / "JPEGImages/train_0004.jpg").unlink()
    samples = TrainingSamples(images, PRESETS["default"], seed=0, fill=(0, 0, 0))
    sampler = EpochSampler(images, batch_size=12, seed=0)
    loader = create_loader(samples, sampler, workers=1, device=torch.device("cpu"))
    with pytest.raises(BrokenSample, match=r"^\S+train_0004\.jpg is missing\. Copy the \D+$"):
        list(loader)
    gc.collect()  # as model.train does; else Python would wait for the loader process at its end


def test_a_set_smaller_than_a_batch_is_refused(voc_folder):
    with pytest.raises(DatasetError, match="smaller --batch-size"):
        EpochSampler(open_voc(voc_folder, "val"), batch_size=5, seed=0)


def test_rare_classes_are_drawn_more_often(voc_folder):
    images = open_voc(voc_folder, "train")
    images.class_presence[:] = False
    images.class_presence[:, 0] = True
    images.class_presence[:9, 12] = True
    images.class_presence[9, 14] = True
    weights = compute_rarity_weights(images, 1.0)
    assert weights.sum() == pytest.approx(1)
    assert weights[9] == pytest.approx(9 * weights[0])
    assert weights[11] == pytest.approx(weights[0]), "background alone counts as the commonest"


def test_a_sample_depends_on_seed_epoch_and_place_alone(voc_folder):
    images = open_voc(voc_folder, "train")
    samples = TrainingSamples(images, PRESETS["default"], seed=5, fill=(0, 0, 0))
    again = TrainingSamples(images, PRESETS["default"], seed=5, fill=(0, 0, 0))
    image, target = samples[Draw(2, 3, 4)]
    assert image.shape == (320, 320, 3)
    assert np.array_equal(image, again[Draw(2, 3, 4)][0])
    assert np.array_equal(target, again[Draw(2, 3, 4)][1])
    assert not np.array_equal(image, samples[Draw(3, 3, 4)][0])
