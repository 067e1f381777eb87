"""Random views of training images: Pillow's, one after the other, and whole batches on a device.

All images are decoded before. Both begin with the draws and end with a batch in the device's
memory.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch

from benchmarks import report
from benchmarks.report import Quick, Row, publish, read_plan, run_in_turns
from benchmarks.voc import choose_samples, open_voc
from model.classes import CLASSES
from model.engines.torch_engine import choose_device
from model.network import FCN
from model.predictor import find_fill_colour
from model.training.dataset import SegmentationDataset
from model.training.device_images import DeviceImages
from model.training.distributed import Group
from model.training.drawn_views import DrawnViews
from model.training.loader import TrainingSamples, collate
from model.training.recipe import PRESETS
from model.training.sampler import Draw, EpochSampler
from model.training.samples import Sample
from model.training.state import Training
from model.training.transfer import send
from model.weights import Metadata

METADATA = Metadata(classes=CLASSES)


@dataclass(frozen=True)
class Plan(report.Plan):
    data: Annotated[Path | None, "folder with VOCdevkit/VOC2012, else made"] = None
    images: Annotated[int, "number of images", Quick(32)] = 64
    rounds: Annotated[
        int, "number of times that each way makes a view of every image", Quick(1)
    ] = 10
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"


class Ways:
    """The two ways to the batches of one epoch, over the same draws."""

    def __init__(self, samples: TrainingSamples, device: torch.device) -> None:
        sampler = EpochSampler(samples.images, batch_size=samples.recipe.batch_size, seed=0)
        self.draws: list[list[Draw]] = list(sampler)
        self._samples = samples
        self._device = device
        self._on_device = DeviceImages(samples, device)
        self._drawn = DrawnViews(samples, self._on_device.layout)

    @property
    def images(self) -> int:
        return sum(map(len, self.draws))

    def make_by_pillow(self) -> None:
        for draws in self.draws:
            for tensor in collate([self._samples[draw] for draw in draws]):
                send(tensor, self._device)
        self._wait()

    def make_on_device(self, use: Callable[..., None] | None = None) -> None:
        for draws in self.draws:
            rows = torch.from_numpy(np.stack([self._drawn[draw] for draw in draws]))
            batch = self._on_device.make_batch(rows)
            if use:
                use(*batch)
        self._wait()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def open_ways(samples: Sequence[Sample], preset: str, device: torch.device) -> Ways:
    images = SegmentationDataset(samples, name="train")
    fill = find_fill_colour(METADATA)
    return Ways(TrainingSamples(images, PRESETS[preset], seed=0, fill=fill), device)


def measure_preset(
    samples: Sequence[Sample], preset: str, device: torch.device, *, rounds: int
) -> list[Row]:
    """Return the images per second of each way."""
    ways = open_ways(samples, preset, device)
    candidates = {
        "Pillow, one after the other": ways.make_by_pillow,
        f"PyTorch, whole batches on {device.type}": ways.make_on_device,
    }
    seconds = run_in_turns(candidates, rounds=rounds, warm_up=1)
    return [
        {"preset": preset, "way": name, "images/s": ways.images / median(seconds[name])}
        for name in candidates
    ]


def measure_training(
    samples: Sequence[Sample], preset: str, device: torch.device, *, rounds: int
) -> float:
    """Return the images per second of training on the device's batches, from random weights."""
    ways = open_ways(samples, preset, device)
    training = Training(
        FCN(),
        PRESETS[preset],
        METADATA,
        pretrained=frozenset(),
        steps_per_epoch=len(ways.draws) * (rounds + 1),
        seed=0,
        image_set="train",
        images=len(samples),
        group=Group(device),
    )
    ways.make_on_device(training.train_step)  # warms up
    started = time.perf_counter()
    for _ in range(rounds):
        ways.make_on_device(training.train_step)
    return rounds * ways.images / (time.perf_counter() - started)


def measure_gpu(images: int = 64, rounds: int = 10) -> dict[str, float]:
    """Return the figures of both presets, for the table of `benchmarks.gpu`."""
    figures, device = {}, torch.device("cuda:0")
    with open_voc(None, images) as folder:
        for preset, recipe in PRESETS.items():
            samples = choose_samples(folder, recipe.crop, images)
            ours = measure_preset(samples, preset, device, rounds=rounds)[-1]
            rate = measure_training(samples, preset, device, rounds=rounds)
            figures[f"images/s augmented, preset {preset}"] = float(ours["images/s"])
            figures[f"images/s trained, preset {preset}"] = rate
    return figures


def main() -> None:
    plan = read_plan(Plan, "augmentation", __doc__)
    device = choose_device(plan.device)
    with open_voc(plan.data, plan.images) as data:
        samples = choose_samples(data, PRESETS["d2l"].crop, plan.images)
        rows = [
            row
            for preset in PRESETS
            for row in measure_preset(samples, preset, device, rounds=plan.rounds)
        ]
    title = "Augmentation, by Pillow and by PyTorch"
    publish("augmentation", title, rows, plan=plan, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
