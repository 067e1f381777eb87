"""Train the network on a VOC folder and write its weights file.

Run as `python -m model.train --data DIR`, or on several GPUs with `torchrun --nproc-per-node N -m
model.train --data DIR`. Beside the weights it leaves a checkpoint, a history, curves and a figure.
"""

import argparse
import ctypes
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from model import figures, network as networks
from model.classes import CLASSES, IGNORE_INDEX
from model.dataset import (
    DatasetError,
    EpochSampler,
    TrainingSamples,
    VOCImages,
    download_voc,
    open_voc,
)
from model.distributed import Group, joined
from model.engines.base import EngineError
from model.evaluate import evaluate
from model.history import (
    CheckpointError,
    EpochRow,
    StepLog,
    read_checkpoint,
    write_checkpoint,
    write_history,
)
from model.network import FCN, NetworkError, normalise, upsample_bilinear
from model.predictor import fill_colour, predictor_for
from model.recipe import PRESETS, Recipe
from model.weights import Metadata, Weights, WeightsError, read_weights, write_weights

EXIT_INTERRUPTED = 130
"""What a shell gives a command that Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class Files:
    """Everything that a run leaves, beside its weights file and named after it."""

    weights: Path

    def beside(self, suffix: str) -> Path:
        return self.weights.with_name(f"{self.weights.stem}.{suffix}")

    @property
    def checkpoint(self) -> Path:
        return self.beside("checkpoint.pt")

    @property
    def history(self) -> Path:
        return self.beside("history.csv")

    @property
    def steps(self) -> Path:
        return self.beside("steps.csv")

    @property
    def curves(self) -> Path:
        return self.beside("curves.png")

    @property
    def samples(self) -> Path:
        return self.beside("samples.png")

    @property
    def tensorboard(self) -> Path:
        return self.beside("tensorboard")


class PixelLoss(nn.Module):
    """The network with its loss: one forward call, so that data parallelism can wrap it."""

    def __init__(self, network: FCN, recipe: Recipe, *, autocast: bool) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.autocast = autocast
        # A kernel that is still bilinear, and stays so, is an interpolation: 12 times faster.
        self.interpolates = not recipe.train_transpose_conv and is_bilinear(network)

    def forward(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W), target (N, H, W) int64, to the loss and (hits, known pixels)."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            coarse = self.network.coarse_logits(images)
        coarse = coarse.float()
        upsample = upsample_bilinear if self.interpolates else self.network.transpose_conv
        logits = upsample(coarse)
        known = target != IGNORE_INDEX
        with torch.no_grad():
            hits = ((logits.argmax(dim=1) == target) & known).sum()
        return self._loss(logits, target, known), torch.stack([hits, known.sum()])

    def _loss(self, logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
        if self.recipe.loss_reduction == "image_sum":
            per_pixel = F.cross_entropy(
                logits, target, ignore_index=IGNORE_INDEX, reduction="none"
            )
            return per_pixel.mean(dim=(1, 2)).sum()
        total = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
        return total / known.sum().clamp(min=1)


def is_bilinear(network: FCN) -> bool:
    up = network.transpose_conv
    kernel = networks.bilinear_kernel(up.in_channels, up.out_channels, up.kernel_size[0])
    return torch.equal(up.weight.cpu(), kernel) and (up.bias is None or not up.bias.any())


class Training:
    """One run's state: network, optimiser, place in the schedule, history."""

    def __init__(
        self,
        network: FCN,
        recipe: Recipe,
        *,
        pretrained: frozenset[str],
        steps_per_epoch: int,
        group: Group,
    ) -> None:
        self.recipe = recipe
        self.group = group
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.history: list[EpochRow] = []
        self.epoch_sums = np.zeros(5)
        """Of the running epoch: loss, images, hits, known pixels, seconds."""

        self.network = network.to(group.device, memory_format=torch.channels_last)
        network.transpose_conv.requires_grad_(recipe.train_transpose_conv)
        autocast = uses_bfloat16(recipe, group.device)
        loss = PixelLoss(network, recipe, autocast=autocast)
        self.loss: nn.Module = loss
        if group.world_size > 1:
            if group.device.type == "cuda":
                loss = nn.SyncBatchNorm.convert_sync_batchnorm(loss)
            self.loss = nn.parallel.DistributedDataParallel(loss)
        self.optimiser = torch.optim.SGD(
            parameter_groups(network, recipe, pretrained),
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    def train_step(self, images: Tensor, target: Tensor) -> float:
        """One batch: images (N, 3, H, W), target (N, H, W). Returns the loss, per image or pixel."""
        started = time.perf_counter()
        factor = lr_factor(self.step, self.total_steps, self.recipe)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = factor * parameters["base_lr"]
        loss, (hits, known) = self.loss(images, target)
        self.optimiser.zero_grad(set_to_none=True)
        # Data parallelism averages gradients over the processes; a loss that sums over the batch
        # wants their sum.
        summed = self.recipe.loss_reduction == "image_sum"
        (loss * self.group.world_size if summed else loss).backward()
        self.optimiser.step()
        self.step += 1
        number = len(images)
        value = loss.item()
        per_image = value / number if summed else value
        self.epoch_sums += (
            per_image * number, number, hits.item(), known.item(), time.perf_counter() - started
        )
        return per_image

    def end_epoch(self, *, val_accuracy: float | None, val_mean_iou: float | None) -> EpochRow:
        """Close the running epoch: sum its figures over the processes into a row of the history."""
        sums = self.group.sum(torch.from_numpy(self.epoch_sums.copy()).to(self.group.device))
        loss, images, hits, known, seconds = sums.tolist()
        seconds /= self.group.world_size
        row = EpochRow(
            epoch=self.step // self.steps_per_epoch,
            loss=loss / images,
            train_accuracy=hits / max(known, 1),
            val_accuracy=val_accuracy,
            val_mean_iou=val_mean_iou,
            lr=self.optimiser.param_groups[0]["lr"],
            images_per_s=images / seconds,
            seconds=seconds,
        )
        self.history.append(row)
        self.epoch_sums[:] = 0
        return row

    def state(self, *, seed: int, image_set: str) -> dict[str, Any]:
        """Everything that a continued run needs; tensors, numbers and strings only."""
        return {
            "recipe": self.recipe.as_dict(),
            "seed": seed,
            "image_set": image_set,
            "steps_per_epoch": self.steps_per_epoch,
            "world_size": self.group.world_size,
            "step": self.step,
            "epoch_sums": self.epoch_sums.tolist(),
            "history": [asdict(row) for row in self.history],
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any], *, seed: int, image_set: str) -> None:
        """Continue from `state`. Raises CheckpointError if it is of another run."""
        asked = self.state(seed=seed, image_set=image_set)
        for name in ("recipe", "seed", "image_set", "steps_per_epoch", "world_size"):
            if state.get(name) != asked[name]:
                raise CheckpointError(
                    f"the checkpoint's {name} is {state.get(name)}, this run's {asked[name]}: "
                    "resume with the options that the run was started with"
                )
        self.step = state["step"]
        self.epoch_sums = np.array(state["epoch_sums"])
        self.history = [EpochRow(**row) for row in state["history"]]
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


def parameter_groups(
    network: FCN, recipe: Recipe, pretrained: frozenset[str]
) -> list[dict[str, Any]]:
    """Two groups: what starts at random learns at `lr`, what was loaded at `lr_pretrained`."""
    trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    fresh = [p for n, p in trained if n not in pretrained]
    loaded = [p for n, p in trained if n in pretrained]
    groups = [(fresh, recipe.lr), (loaded, recipe.lr_pretrained)]
    return [{"params": p, "lr": lr, "base_lr": lr} for p, lr in groups if p]


def lr_factor(step: int, total: int, recipe: Recipe) -> float:
    """Poly decay (Chen et al., DeepLab, 2017, section 4.1) after a linear warm-up."""
    warmup = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    return float(warmup * (1 - step / total) ** recipe.poly_power)


def uses_bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """"auto" takes bfloat16 where the device multiplies it in hardware, float32 elsewhere."""
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported())  # no public name for it yet


def validate(
    training: Training, images: VOCImages | None, metadata: Metadata, *, seed: int
) -> tuple[float | None, float | None]:
    """Pixel accuracy and mean IoU; only the main process measures. None where there is nothing."""
    if images is None or not training.group.is_main:
        return None, None
    if training.recipe.validate_crops:
        return crop_accuracy(training, images, seed=seed), None
    weights = Weights(tensors_of(training.network), metadata)
    predictor = predictor_for(weights, device=str(training.group.device))
    pairs = tqdm(
        map(images.read, range(len(images))), total=len(images), desc="validate", leave=False
    )
    scores = evaluate(predictor, pairs)
    return scores.pixel_accuracy, scores.mean_iou


@torch.no_grad()
def crop_accuracy(training: Training, images: VOCImages, *, seed: int) -> float:
    """The notebook's test accuracy: random crops in whole batches, void counted as background."""
    recipe = training.recipe
    samples = TrainingSamples(images, replace(recipe, augment=False), seed=seed, fill=(0, 0, 0))
    sampler = EpochSampler(images, batch_size=recipe.batch_size, seed=seed, shuffle=False)
    sampler.epoch = training.epoch
    training.loss.eval()
    hits = known = 0
    for batch in sampler:
        inputs, target = to_tensors(
            collate([samples[draw] for draw in batch]), Metadata(), training.group.device
        )
        _, counts = training.loss(inputs, target)
        hits += int(counts[0])
        known += int(counts[1])
    training.loss.train()
    return hits / max(known, 1)


def collate(pairs: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Crops to tensors: images (N, H, W, 3) and targets (N, H, W), both uint8."""
    images, targets = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))


def to_tensors(
    batch: tuple[Tensor, Tensor], metadata: Metadata, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A collated batch on the device: normalised images (N, 3, H, W) and int64 targets."""
    images, target = (tensor.to(device, non_blocking=True) for tensor in batch)
    return normalise(images, metadata.mean, metadata.std), target.long()


def tensors_of(network: FCN, *, half: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """The network's state dict as arrays; `half` rounds the convolutions' kernels to float16.

    The transposed convolution keeps float32: its bilinear values need 12 bits, float16 has 11.
    """
    tensors = {name: t.detach().cpu().contiguous().numpy() for name, t in network.state_dict().items()}
    if not half:
        return tensors
    return {
        name: array.astype(np.float16)
        if array.ndim == 4 and not name.startswith("transpose_conv")
        else array
        for name, array in tensors.items()
    }


def run(options: argparse.Namespace, recipe: Recipe, group: Group) -> int:
    """A whole run, from data to weights file; returns the exit status."""
    say = print if group.is_main else _silent
    files = Files(options.output)
    torch.manual_seed(options.seed)

    classes = read_class_names(options.class_names) if options.class_names else CLASSES
    metadata = Metadata(classes=classes)
    network, pretrained, metadata = start_network(options, metadata, say)
    if options.download:
        if group.is_main:
            download_voc(options.data)
        group.wait()
    min_size = recipe.crop if recipe.drop_small_images else None
    images = open_voc(
        options.data, options.image_set, num_classes=len(metadata.classes), min_size=min_size
    )
    val_images = None
    if options.val_image_set != "none":
        val_images = open_voc(
            options.data, options.val_image_set, num_classes=len(metadata.classes), min_size=min_size
        )

    sampler = EpochSampler(
        images,
        batch_size=recipe.batch_size,
        seed=options.seed,
        rarity=recipe.rarity,
        rank=group.rank,
        world_size=group.world_size,
    )
    samples = TrainingSamples(images, recipe, seed=options.seed, fill=fill_colour(metadata))
    loader = DataLoader(
        samples,  # type: ignore[arg-type]  # its keys are draws, not integers
        batch_sampler=sampler,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=options.workers,
        pin_memory=group.device.type == "cuda",
        prefetch_factor=4 if options.workers else None,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    training = Training(
        network,
        recipe,
        pretrained=pretrained,
        steps_per_epoch=sampler.batches,
        group=group,
    )
    if options.resume:
        training.restore(
            read_checkpoint(files.checkpoint), seed=options.seed, image_set=options.image_set
        )
        say(f"resumed after step {training.step} of {training.total_steps}")
    precision = "bfloat16 where it is safe" if uses_bfloat16(recipe, group.device) else "float32"
    say(
        f"{len(images)} images to train on, {len(val_images or [])} to validate on, "
        f"{training.total_steps} steps of {recipe.batch_size}, {group.world_size} x {group.device}, "
        f"{precision}"
    )

    def save() -> None:
        if group.is_main:
            state = training.state(seed=options.seed, image_set=options.image_set)
            write_checkpoint(files.checkpoint, state)

    metadata = replace(
        metadata,
        recipe=recipe.as_dict() | {"seed": options.seed, "world_size": group.world_size},
        data={"image_set": options.image_set, "images": len(images)},
    )
    step_log = StepLog(files.steps, first_step=training.step + 1) if group.is_main else None
    board = open_tensorboard(files.tensorboard) if options.tensorboard and group.is_main else None
    with interruption() as interrupted, step_log or nullcontext(), board or nullcontext():
        bar = tqdm(
            total=training.total_steps,
            initial=training.step,
            unit="step",
            dynamic_ncols=True,
            disable=not group.is_main,
            mininterval=0.1 if sys.stderr.isatty() else 15,
        )
        while training.step < training.total_steps:
            epoch = training.epoch
            sampler.epoch = epoch
            sampler.first_batch = training.step - epoch * training.steps_per_epoch
            training.loss.train()
            for batch in loader:
                inputs, target = to_tensors(batch, metadata, group.device)
                loss = training.train_step(inputs, target)
                lr = training.optimiser.param_groups[0]["lr"]
                if step_log:
                    step_log.write(step=training.step, epoch=epoch + 1, loss=loss, lr=lr)
                show_progress(bar, training, epoch, loss)
                if should_stop(interrupted, group):
                    save()
                    bar.close()
                    say(
                        f"interrupted after step {training.step}; saved {files.checkpoint}. "
                        "Continue with the same command and --resume"
                    )
                    return EXIT_INTERRUPTED
                if options.checkpoint_steps and training.step % options.checkpoint_steps == 0:
                    save()
            is_last = training.step == training.total_steps
            measured = is_last or (options.val_every and (epoch + 1) % options.val_every == 0)
            accuracy, mean_iou = validate(
                training, val_images if measured else None, metadata, seed=options.seed
            )
            row = training.end_epoch(val_accuracy=accuracy, val_mean_iou=mean_iou)
            group.wait()
            save()
            if group.is_main:
                write_history(files.history, training.history)
                figures.draw_curves(files.curves, training.history)
                bar.write(describe(row))
                if board:
                    for name, value in asdict(row).items():
                        if value is not None:
                            board.add_scalar(name, value, row.epoch)
        bar.close()
    if group.is_main:
        finish(training, files, metadata, val_images, half=options.half)
    group.wait()
    return 0


def finish(
    training: Training,
    files: Files,
    metadata: Metadata,
    val_images: VOCImages | None,
    *,
    half: bool,
) -> None:
    """Measure the weights as they will be stored, write them with their scores, draw samples."""
    rounded = tensors_of(training.network, half=half)
    weights = Weights({name: _widened(array) for name, array in rounded.items()}, metadata)
    if val_images is not None:
        predictor = predictor_for(weights, device=str(training.group.device))
        pairs = tqdm(map(val_images.read, range(len(val_images))), total=len(val_images))
        scores = evaluate(predictor, pairs)
        print(scores)
        metadata = replace(
            metadata, scores={"image_set": val_images.name} | scores.as_dict()
        )
        figures.draw_samples(
            files.samples, predictor, [val_images.read(i) for i in range(min(4, len(val_images)))]
        )
    written = write_weights(files.weights, rounded, metadata)
    print(f"wrote {files.weights}, digest {written.digest}")


def start_network(
    options: argparse.Namespace, metadata: Metadata, say: Any
) -> tuple[FCN, frozenset[str], Metadata]:
    """The network before its first step, the names of its pretrained parameters, its metadata."""
    if options.init:
        weights = read_weights(options.init)
        state = {name: torch.from_numpy(np.array(a)) for name, a in weights.tensors.items()}
        network = networks.network_from_state(state, source=str(options.init))
        say(f"network from {options.init}, digest {weights.metadata.digest}: all tensors loaded")
        return network, frozenset(state), replace(weights.metadata, scores={}, digest="")
    network = FCN(num_classes=len(metadata.classes))
    if options.backbone == "none":
        say("backbone from a random start: nothing loaded")
        return network, frozenset(), metadata
    if options.backbone == "imagenet":
        report = networks.load_imagenet_backbone(network)
    else:
        path = Path(options.backbone)
        report = networks.load_backbone(network, networks.read_state_dict(path), source=str(path))
    say(report)
    return network, frozenset(f"backbone.{name}" for name in report.loaded), metadata


def read_class_names(path: Path) -> tuple[str, ...]:
    """One class a line, background first. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it should name one class a line")
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not 2 <= len(names) <= IGNORE_INDEX:
        raise DatasetError(f"{path} names {len(names)} classes; 2 to {IGNORE_INDEX} are possible")
    return names


def should_stop(interrupted: list[int], group: Group) -> bool:
    """Whether any process was asked to stop, so that all stop after the same step."""
    if group.world_size == 1:
        return bool(interrupted)
    return bool(group.sum(torch.tensor(len(interrupted), device=group.device)).item())


@contextmanager
def interruption() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them in the middle of a step."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_signals_to_the_main_process(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def show_progress(bar: "tqdm[Any]", training: Training, epoch: int, loss: float) -> None:
    _, images, hits, known, seconds = training.epoch_sums
    bar.set_description(f"epoch {epoch + 1}/{training.recipe.epochs}", refresh=False)
    bar.set_postfix(
        loss=f"{loss:.3f}",
        acc=f"{hits / max(known, 1):.3f}",
        images_per_s=f"{images * training.group.world_size / seconds:.1f}",
        refresh=False,
    )
    bar.update()


def describe(row: EpochRow) -> str:
    figures_ = {"loss": row.loss, "train accuracy": row.train_accuracy}
    figures_ |= {"val accuracy": row.val_accuracy, "val mean IoU": row.val_mean_iou}
    shown = [f"{name} {value:.3f}" for name, value in figures_.items() if value is not None]
    return f"epoch {row.epoch}: {', '.join(shown)}, {row.images_per_s:.1f} images/s"


def open_tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def keep_freed_memory() -> None:
    """Tell glibc to keep the pages of freed activations instead of faulting them in again.

    Every large tensor is otherwise mapped and unmapped: 15 to 25 % of a step on the CPU.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # another C library: nothing to tune
        pass


def _silent(*_: object) -> None:
    pass


def _widened(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    recipe = PRESETS[options.preset]
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    recipe = replace(
        recipe, **{e.name: chosen[e.name] for e in fields(Recipe) if e.name in chosen}
    )
    keep_freed_memory()
    try:
        with joined(options.device) as group:
            status = run(options, recipe, group)
    except (DatasetError, EngineError, NetworkError, WeightsError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that holds VOCdevkit/VOC2012")
    add("--download", action="store_true", help="fetch VOC2012 into it first, if it is not there")
    add("--image-set", default="train", help="list to train on (default: train)")
    add("--val-image-set", default="val", help='list to validate on, or "none" (default: val)')
    add("--val-every", type=int, default=1, help="epochs between validations; 0: only at the end")
    add("--class-names", type=Path, help="your own classes, one a line, background first")
    add("--preset", choices=PRESETS, default="default", help="recipe (default: default)")
    add("--init", type=Path, help="weights file to start from")
    add("--backbone", default="imagenet", help="imagenet, none, or a ResNet-18 state dict's file")
    add(
        "--output",
        type=Path,
        default=Path("runs/fcn_resnet18.safetensors"),
        help="weights file to write; everything else lies beside it",
    )
    add("--resume", action="store_true", help="continue from the checkpoint beside --output")
    add("--seed", type=int, default=0, help="same seed, same run (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--workers", type=int, default=1, help="loader processes (default: 1; 0: none)")
    add("--checkpoint-steps", type=int, default=0, help="save every N steps, too")
    add("--tensorboard", action="store_true", help="write TensorBoard events, too")
    add("--half", action="store_true", help="store kernels as float16: half the file")
    overrides = parser.add_argument_group("instead of the preset's own")
    overrides.add_argument("--epochs", type=int)
    overrides.add_argument("--batch-size", type=int)
    overrides.add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    overrides.add_argument("--lr", type=float)
    overrides.add_argument("--lr-pretrained", type=float)
    overrides.add_argument("--precision", choices=["auto", "float32", "bfloat16"])
    return parser


if __name__ == "__main__":
    main()
