"""Our training beside the teaching notebook's own loop, in turns: images per second, same loss.

Knows nothing of what is learnt: every network starts at random, and nothing is validated.
"""

import argparse
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, read_image
from torchvision.models import resnet18
from torchvision.transforms import RandomCrop
from torchvision.transforms.functional import crop, normalize

from benchmarks.photos import VOC_SIZE, made_photos
from benchmarks.report import Cell, in_turns, table, write
from model.classes import CLASSES, PALETTE
from model.engines.base import Size
from model.network import FCN, bilinear_kernel
from model.predictor import fill_colour
from model.state_dict import convert_notebook_state, network_from_state
from model.train import keep_freed_memory
from model.training.dataset import SegmentationDataset
from model.training.distributed import Group
from model.training.history import Validation
from model.training.loader import TrainingSamples, collate, create_loader, iterate_epoch
from model.training.recipe import PRESETS, Recipe
from model.training.sampler import EpochSampler
from model.training.samples import Sample
from model.training.state import Training, should_autocast
from model.training.voc import VOC_FOLDER, list_samples
from model.weights import Metadata

BOOK = "the book's loop"
BOOK_WORKERS = 4  # of its loader, on every machine
TOLERANCE = 1e-4
"""Of the two losses, relative: float32 sums of some millions of pixels in another order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and on what."""

    samples: tuple[Sample, ...]
    rounds: int = 5
    batch_size: int | None = None
    """None: that of each recipe."""
    crop: Size | None = None
    workers: int = 1

    def recipe_of(self, loop: str) -> Recipe:
        """That of the preset, long enough for its learning rate not to reach 0."""
        chosen = replace(PRESETS["d2l" if loop == BOOK else loop], epochs=1000)
        if self.batch_size is not None:
            chosen = replace(chosen, batch_size=self.batch_size)
        return chosen if self.crop is None else replace(chosen, crop=self.crop)


class Loop(Protocol):
    """One way to train."""

    def epoch(self) -> None:
        """Every whole batch once, from the start of the loader to the end of the last step."""


class BookImages(Dataset[tuple[Tensor, Tensor]]):
    """All images in memory, normalised; masks in colours, looked up for each crop."""

    def __init__(self, samples: Sequence[Sample], size: Size) -> None:
        self.size = size
        self.images = [book_input(read_image(str(sample.image_path))) for sample in samples]
        self.masks = [read_image(str(s.mask_path), ImageReadMode.RGB) for s in samples]
        self.index_of = torch.zeros(256**3, dtype=torch.long)  # void's colour stays background
        for index, (red, green, blue) in enumerate(PALETTE[: len(CLASSES)].tolist()):
            self.index_of[(red * 256 + green) * 256 + blue] = index

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.images[index], self.masks[index]
        window = RandomCrop.get_params(image, self.size)
        red, green, blue = crop(mask, *window).long()
        return crop(image, *window), self.index_of[(red * 256 + green) * 256 + blue]


def book_input(images: Tensor) -> Tensor:
    """RGB (..., 3, H, W) uint8, normalised."""
    normalised: Tensor = normalize(
        images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    return normalised


def book_network() -> nn.Sequential:
    """As the chapter builds it, of PyTorch's own modules; the backbone starts at random."""
    network = nn.Sequential(*list(resnet18().children())[:-2])
    network.add_module("final_conv", nn.Conv2d(512, 21, kernel_size=1))
    upsampling = nn.ConvTranspose2d(21, 21, kernel_size=64, padding=16, stride=32)
    upsampling.weight.data.copy_(bilinear_kernel(21, 21, 64))
    network.add_module("transpose_conv", upsampling)
    return network


class BookLoop:
    """The notebook's loop for one device: float32, channels first, the loss per pixel in full."""

    def __init__(self, network: nn.Sequential, images: BookImages, recipe: Recipe) -> None:
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than the cores
        self.network = network
        self.loader = DataLoader(
            images, recipe.batch_size, shuffle=True, drop_last=True, num_workers=BOOK_WORKERS
        )
        self.optimiser = torch.optim.SGD(
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )

    def epoch(self) -> None:
        for images, target in self.loader:
            self.step(images, target)

    def step(self, images: Tensor, target: Tensor) -> tuple[float, int]:
        """The sum of the images' losses, and the number of pixels that were right."""
        self.network.train()
        self.optimiser.zero_grad()
        logits = self.network(images)
        loss = F.cross_entropy(logits, target, reduction="none").mean(1).mean(1)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        right = (logits.argmax(dim=1).type(target.dtype) == target).type(target.dtype).sum()
        return loss.sum().item(), right.item()


class OurLoop:
    """What `python -m model.train` repeats, without what it writes."""

    def __init__(self, network: FCN, samples: Sequence[Sample], recipe: Recipe, workers: int):
        metadata = Metadata(classes=CLASSES)
        images = SegmentationDataset(samples, name="train", num_classes=len(CLASSES))
        self.samples = TrainingSamples(images, recipe, seed=0, fill=fill_colour(metadata))
        self.sampler = EpochSampler(
            images, batch_size=recipe.batch_size, seed=0, rarity=recipe.rarity
        )
        device = torch.device("cpu")
        self.loader = create_loader(self.samples, self.sampler, workers=workers, device=device)
        self.training = Training(
            network,
            recipe,
            metadata,
            pretrained=frozenset(),
            steps_per_epoch=self.sampler.batches,
            seed=0,
            image_set="train",
            group=Group(device),
        )

    def epoch(self) -> None:
        for images, target in iterate_epoch(self.training, self.sampler, self.loader):
            self.training.train_step(images, target)
        self.training.end_epoch(Validation())


def main() -> None:
    options = read_arguments()
    with data_folder(options.data, options.images) as data:
        samples = large_samples(data, PRESETS["d2l"].crop, options.images)
        plan = Plan(tuple(samples), options.rounds, options.batch_size, workers=options.workers)
        difference = loss_difference(plan)
        print(f"the d2l step's loss and the book's differ by {difference:.1e} (relative)")
        if difference > TOLERANCE:
            sys.exit(f"error: more than {TOLERANCE:.0e}: they do not train the same")
        report(plan, *measured(plan), difference, quick=options.quick)


def loss_difference(plan: Plan, *, steps: int = 2) -> float:
    """The largest relative difference of the two losses, over steps from the same weights.

    Each step sees the same batch in both; the second one shows that both learnt the same.
    """
    recipe = plan.recipe_of(BOOK)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, 8))
    torch.manual_seed(0)
    network = book_network()
    book = BookLoop(network, BookImages(plan.samples[:1], recipe.crop), recipe)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start = network_from_state(convert_notebook_state(state), source=BOOK)
    ours = OurLoop(start, plan.samples[: recipe.batch_size * steps], recipe, workers=0)
    differences = []
    for draws in ours.sampler:
        images, target = collate([ours.samples[draw] for draw in draws])
        expected, _ = book.step(book_input(images.permute(0, 3, 1, 2)), target.long())
        expected /= len(images)
        found = ours.training.train_step(images, target)
        differences.append(abs(found - expected) / expected)
    return max(differences)


def measured(plan: Plan) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each loop's epochs, and the most memory that its process took, in MiB."""
    with ExitStack() as stack:
        own = {name: stack.enter_context(Worker(name, plan)) for name in (BOOK, *PRESETS)}
        seconds = in_turns(
            {name: worker.epoch for name, worker in own.items()}, rounds=plan.rounds, warm_up=1
        )
        return seconds, {name: worker.peak_mib for name, worker in own.items()}


class Worker:
    """A loop in a process of its own: our allocator's settings and our memory stay ours."""

    def __init__(self, name: str, plan: Plan) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, self._far = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(self._far, name, plan))
        self.peak_mib = 0.0

    def __enter__(self) -> "Worker":
        self._process.start()
        self._far.close()  # so that a process that dies ends the wait for its answer
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self._process.join()

    def epoch(self) -> None:
        self._connection.send("epoch")
        self.peak_mib = self._connection.recv()


def _work(connection: Connection, name: str, plan: Plan) -> None:
    # A spawned process would spawn its loader's, too: seconds of imports in every epoch.
    multiprocessing.set_start_method("fork", force=True)
    loop = loop_for(name, plan)
    with suppress(EOFError):  # nothing more is asked for
        while connection.recv():
            loop.epoch()
            connection.send(peak_mib())


def peak_mib() -> float:
    """The most memory that this process took; `getrusage` would count its parent's, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("/proc/self/status has no VmHWM")


def loop_for(name: str, plan: Plan) -> Loop:
    torch.manual_seed(0)
    if name == BOOK:
        recipe = plan.recipe_of(BOOK)
        return BookLoop(book_network(), BookImages(plan.samples, recipe.crop), recipe)
    keep_freed_memory()
    return OurLoop(FCN(), plan.samples, plan.recipe_of(name), plan.workers)


def report(
    plan: Plan,
    seconds: dict[str, list[float]],
    peaks_mib: dict[str, float],
    difference: float,
    *,
    quick: bool,
) -> None:
    images_per_s = {name: images_an_epoch(plan, name) / median(seconds[name]) for name in seconds}
    rows: list[dict[str, Cell]] = []
    for name, speed in images_per_s.items():
        recipe = plan.recipe_of(name)
        bfloat16 = name != BOOK and should_autocast(recipe, torch.device("cpu"))
        rows.append(
            {
                "loop": name if name == BOOK else f"our preset {name}",
                "precision": "bfloat16 autocast" if bfloat16 else "float32",
                "batch": recipe.batch_size,
                "crop": f"{recipe.crop[0]} x {recipe.crop[1]}",
                "images/s": speed,
                "times the book's": speed / images_per_s[BOOK],
                "peak memory (MiB)": round(peaks_mib[name]),
            }
        )
    if quick:
        print(table(rows))
        return
    write(
        "train",
        "Training on the CPU: our loop beside the book's",
        rows,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        images=len(plan.samples),
        rounds=plan.rounds,
        seconds=seconds,
        loss_difference=difference,
        loss_tolerance=TOLERANCE,
    )


def images_an_epoch(plan: Plan, name: str) -> int:
    """Whole batches only."""
    batch_size = plan.recipe_of(name).batch_size
    return len(plan.samples) // batch_size * batch_size


@contextmanager
def data_folder(given: Path | None, images: int) -> Iterator[Path]:
    """The given VOC folder, or a made one for as long as the context lasts."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        make_voc(Path(folder), images)
        yield Path(folder)


def make_voc(folder: Path, images: int, size: Size = VOC_SIZE) -> None:
    """An image set "train" of made photos; in each mask two rectangles with void borders."""
    root = folder / VOC_FOLDER
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = size
    names = [f"{number:06d}" for number in range(images)]
    for name, photo in zip(names, made_photos(images, size), strict=True):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(photo)
        target = np.zeros(size, np.uint8)
        for label in rng.integers(1, len(CLASSES), 2):
            top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
            window = target[top : top + height // 3, left : left + width // 3]
            window[:] = 255
            window[2:-2, 2:-2] = label
        mask = Image.fromarray(target)
        mask.putpalette(PALETTE.tobytes())
        mask.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names) + "\n")


def large_samples(data: Path, size: Size, number: int) -> list[Sample]:
    """The first samples of the set "train" that hold a crop of this size; the book drops others."""
    found = []
    for sample in list_samples(data, "train"):
        with Image.open(sample.image_path) as image:
            if image.height >= size[0] and image.width >= size[1]:
                found.append(sample)
        if len(found) == number:
            return found
    raise SystemExit(
        f"error: {data} has {len(found)} images of {size[0]} x {size[1]} or more in its set "
        f"train, and {number} are asked for: choose fewer with --images"
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder that holds VOCdevkit/VOC2012 (default: one is made)")
    add("--images", type=int, default=64, help="of one epoch (default: %(default)s)")
    add("--rounds", type=int, default=5, help="epochs of each loop (default: %(default)s)")
    add("--batch-size", type=int, help="default: that of each recipe")
    add("--workers", type=int, default=1, help="our loader's processes (default: %(default)s)")
    add("--quick", action="store_true", help="small, and nothing is written")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds, options.batch_size = 8, 1, 4
    return options


if __name__ == "__main__":
    main()
