"""Views that a device makes of a whole batch are those that Pillow makes one after the other."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import train
from model.errors import DatasetError
from model.training.dataset import open_images
from model.training.device_images import DeviceImages, open_device_images
from model.training.distributed import Group
from model.training.drawn_views import ROW, DrawnViews, ViewTable
from model.training.loader import TrainingSamples, collate
from model.training.recipe import PRESETS
from model.training.sampler import Draw, EpochSampler
from model.training.soft_labels import SoftLabels, write_soft_labels
from model.training.voc import list_samples
from model.weights import read_weights
from tests.conftest import write_voc

CPU = torch.device("cpu")
CROP = (64, 96)
FILL = (124, 116, 104)
RECIPE = replace(PRESETS["default"], crop=CROP, scale=(0.4, 2.5))
D2L = replace(PRESETS["d2l"], crop=CROP)
SIZES = [(70, 100), (150, 97), (64, 96), (301, 403), (120, 240)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    write_voc(folder, SIZES)
    return open_images(list_samples(folder, "train"), name="train")


@pytest.fixture(scope="module")
def soft_labels(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    rng = np.random.default_rng(0)
    for name, (height, width) in images.sizes.items():
        cells = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 21), dtype=np.uint8)
        write_soft_labels(folder / f"{name}.npz", cells)
    return SoftLabels(folder, images.sizes, num_classes=21)


def draw_rows(device_images, draws):
    drawn = DrawnViews(device_images.samples, device_images.layout)
    return torch.from_numpy(np.stack([drawn[draw] for draw in draws]))


def make_both(images, recipe, *, number=25, soft_labels=None):
    """The same batch by Pillow and by PyTorch."""
    samples = TrainingSamples(images, recipe, seed=3, fill=FILL, soft_labels=soft_labels)
    on_device = DeviceImages(samples, CPU)
    draws = [Draw(1, place, place % len(images)) for place in range(number)]
    expected = collate([samples[draw] for draw in draws])
    found = on_device.make_batch(draw_rows(on_device, draws))
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
    return found, expected


def measure_difference(found, expected):
    return (found.int() - expected.int()).abs()


def test_a_view_is_pillows_up_to_rounding(images, soft_labels):
    found, expected = make_both(images, RECIPE, soft_labels=soft_labels)
    difference = measure_difference(found[0], expected[0])
    # Halves are rounded either way, and a higher contrast makes two levels of one.
    assert (difference == 0).float().mean() > 0.9
    assert (difference <= 1).float().mean() > 0.99
    assert difference.max() <= 6
    assert (found[1] == expected[1]).float().mean() > 0.999
    torch.testing.assert_close(found[2], expected[2], rtol=0, atol=1e-5)


def test_scaling_alone_differs_by_the_rounding_of_halves(images, monkeypatch):
    monkeypatch.setattr("model.training.transforms.COLOUR_JITTER", 0.0)
    monkeypatch.setattr("model.training.transforms.GREYSCALE_SHARE", 0.0)
    found, expected = make_both(images, RECIPE)
    difference = measure_difference(found[0], expected[0])
    assert difference.max() <= 2, "one level for the columns and one for the rows"
    assert (difference == 0).float().mean() > 0.9


def test_grey_views_are_pillows_greys(images, monkeypatch):
    monkeypatch.setattr("model.training.transforms.GREYSCALE_SHARE", 1.0)
    found, expected = make_both(images, RECIPE)
    assert measure_difference(found[0], expected[0]).max() <= 2
    seen = found[1] != 255
    assert (found[0].amax(dim=3) == found[0].amin(dim=3))[seen].all()


def test_padding_is_filled_and_void_and_classes_stay_what_they_are(images, soft_labels):
    (pixels, targets, soft), (_, expected, _) = make_both(images, RECIPE, soft_labels=soft_labels)
    assert set(targets.unique().tolist()) == set(expected.unique().tolist())
    padded = (pixels == torch.tensor(FILL, dtype=torch.uint8)).all(dim=3)
    assert padded.float().mean() > 0.05
    cells = padded.view(len(padded), CROP[0] // 8, 8, CROP[1] // 8, 8).float().mean(dim=(2, 4))
    assert soft[cells == 1].eq(0).all()


def test_a_crop_of_the_notebook_is_exact_and_its_void_is_background(images):
    found, expected = make_both(images, D2L)
    assert all(map(torch.equal, found, expected))
    assert 255 not in found[1]


def test_a_batch_of_large_images_is_made_in_parts(images, monkeypatch):
    whole, _ = make_both(images, RECIPE)
    monkeypatch.setattr("model.training.device_images.MAX_WINDOW_PIXELS", 100_000)
    parts, _ = make_both(images, RECIPE)
    assert measure_difference(parts[0], whole[0]).float().mean() < 0.01, "sums in another order"
    assert torch.equal(parts[1], whole[1])


def test_rows_say_what_the_loader_draws(images):
    for recipe in (RECIPE, D2L, replace(RECIPE, views=3)):
        samples = TrainingSamples(images, recipe, seed=3, fill=FILL)
        on_device = DeviceImages(samples, CPU)
        draws = [Draw(2, place, place % len(images)) for place in range(10)]
        rows = draw_rows(on_device, draws)
        assert rows.shape == (10, ROW)
        table = ViewTable(rows)
        for place, draw in enumerate(draws):
            view, recolouring = samples.draw_view(draw)
            assert bool(table.is_flipped[place]) == view.is_flipped
            for side, span in zip(table.sides, (view.rows, view.columns), strict=True):
                found = (side.offset[place], side.length[place], side.start[place])
                assert [float(value) for value in found] == [span.offset, span.length, span.start]
            steps = list(
                zip(table.kinds[place].tolist(), table.amounts[place].tolist(), strict=True)
            )
            assert steps[: len(recolouring)] == list(recolouring)
            assert all(amount == 1 for _, amount in steps[len(recolouring) :])


def test_processes_share_each_batch(images):
    samples = TrainingSamples(images, replace(RECIPE, batch_size=4), seed=3, fill=FILL)
    on_device = DeviceImages(samples, CPU)

    def make_first(rank, world_size):
        sampler = EpochSampler(images, batch_size=4, seed=3, rank=rank, world_size=world_size)
        return on_device.make_batch(draw_rows(on_device, next(iter(sampler))))

    whole, parts = make_first(0, 1), [make_first(rank, 2) for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part[1], whole[1][rank::2])
        assert measure_difference(part[0], whole[0][rank::2]).float().mean() < 0.01


def test_nothing_is_read_back_from_the_device(images, soft_labels):
    """On "meta" there are shapes alone, so that every question for a value is an error."""
    samples = TrainingSamples(images, RECIPE, seed=3, fill=FILL, soft_labels=soft_labels)
    on_device = DeviceImages(samples, torch.device("meta"))
    draws = [Draw(1, place, place % len(images)) for place in range(6)]
    made = on_device.make_batch(draw_rows(on_device, draws))
    assert [tuple(tensor.shape) for tensor in made] == [
        (6, *CROP, 3), (6, *CROP), (6, CROP[0] // 8, CROP[1] // 8, 21),
    ]  # fmt: skip


def test_images_that_do_not_fit_are_left_to_the_loader(images, monkeypatch):
    samples = TrainingSamples(images, RECIPE, seed=0, fill=FILL)
    needed = 4 * sum(height * width for height, width in SIZES)
    said = []

    def open_with(choice, device, free_bytes):
        name = "model.training.device_images.measure_free_bytes"
        monkeypatch.setattr(name, lambda _: free_bytes)
        return open_device_images(
            samples, choice, group=Group(torch.device(device)), say=said.append
        )

    assert open_with("on", "cpu", 2 * needed) is not None
    assert said.pop() == "decoded, the training set takes 0.7 MB of cpu, which augments it, too"
    assert open_with("auto", "cuda:0", 2 * needed - 1) is None
    assert "loader processes read and augment it" in said.pop()
    with pytest.raises(DatasetError, match=r"more than the 0\.0 MB that are free for it"):
        open_with("on", "cpu", 1000)
    assert open_with("auto", "cpu", 2 * needed) is None
    assert open_with("off", "cuda:0", 2 * needed) is None
    assert said == []


def train_with(*arguments):
    with pytest.raises(SystemExit) as caught:
        train.main([str(argument) for argument in arguments])
    return caught.value.code


SMALL = [
    *("--batch-size", "4", "--crop", "64", "64", "--backbone", "none", "--precision", "float32"),
    *("--val-image-set", "none", "--copy-paste", "0.5", "--cutmix", "0.5"),
]


def test_a_run_on_the_device_learns_as_with_the_loader_and_resumes(
    voc_folder, tmp_path, monkeypatch
):
    def start(name, *more, status=0):
        output = tmp_path / f"{name}.safetensors"
        arguments = ["--data", voc_folder, *SMALL, "--epochs", 1, "--output", output, *more]
        assert train_with(*arguments) == status
        rows = (tmp_path / f"{name}.steps.csv").read_text().split()[1:]
        return output, float(rows[0].split(",")[2])

    _, expected = start("loader", "--workers", 0)
    whole, loss = start("device", "--workers", 0, "--device-data", "on")
    # The first step has equal weights. A chain of steps would multiply the rounding.
    assert loss == pytest.approx(expected, rel=0.02)

    take_step = train.Training.train_step

    def interrupted(training, *batch):
        taken = take_step(training, *batch)
        if training.step == 2:
            signal.raise_signal(signal.SIGINT)
        return taken

    monkeypatch.setattr(train.Training, "train_step", interrupted)
    start("again", "--workers", 1, "--device-data", "on", status=130)
    monkeypatch.undo()
    again, _ = start("again", "--workers", 1, "--device-data", "on", "--resume")
    assert read_weights(again).metadata.digest == read_weights(whole).metadata.digest


def test_a_feature_cache_keeps_no_pixels(voc_folder, tmp_path):
    cached = ["--views", "1", "--frozen", "conv1", "bn1", "--feature-cache", tmp_path / "features"]
    plain = [*SMALL, "--copy-paste", "0", "--workers", "0", "--epochs", "1"]
    output = ["--output", tmp_path / "w.safetensors", "--device-data", "on"]
    message = train_with("--data", voc_folder, *plain, *cached, *output)
    assert "--device-data on needs pixels" in message
