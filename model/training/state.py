"""The state of one training run and its one step: network, loss, optimiser, schedule, checkpoint.

Knows nothing of files, of where batches come from or of how the network is validated.
"""

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from model.class_list import format_colour
from model.engines.torch_engine import normalise
from model.network import FCN
from model.training.average import WeightsAverage
from model.training.batch_norm import start_learning, synchronise_batch_norms
from model.training.checkpoint import require_same_run
from model.training.distributed import Group
from model.training.frozen import freeze_layers
from model.training.history import EpochRow, EpochSums, StepRow, Validation
from model.training.loss import PixelLoss
from model.training.optimiser import compute_lr_factor, create_optimiser
from model.training.precision import should_autocast
from model.training.recipe import Recipe
from model.training.step_figures import StepFigures
from model.training.transfer import send
from model.weights import Metadata

KEPT_METADATA = ("classes", "palette", "mean", "std", "recipe", "data", "architecture")
"""The metadata of a checkpoint's weights, so that they can be exported at any time."""


class Training:
    """One run: created at its start or restored from a checkpoint; `train_step` advances it."""

    def __init__(
        self,
        network: FCN,
        recipe: Recipe,
        metadata: Metadata,
        *,
        pretrained: frozenset[str],
        steps_per_epoch: int,
        seed: int,
        image_set: str,
        images: int,
        group: Group,
        images_digest: str = "",
    ) -> None:
        """`pretrained` names the tensors that were loaded; `images_digest` tells image sets apart.

        Raises RecipeError for a batch that processes cannot share, and wrong class weights.
        """
        recipe.require_fit(num_classes=network.num_classes, world_size=group.world_size)
        self.recipe = recipe
        self.metadata = replace(
            metadata,
            recipe=recipe.as_dict() | {"seed": seed, "world_size": group.world_size},
            data={**metadata.data, "image_set": image_set, "images": images},
            architecture=network.architecture.identifier,
        )
        self.steps_per_epoch = steps_per_epoch
        self.seed, self.image_set, self.images_digest = seed, image_set, images_digest
        self.group, self.step = group, 0
        self.history: list[EpochRow] = []
        self._figures = StepFigures()
        self._statistics = torch.tensor([metadata.mean, metadata.std], device=group.device)
        synchronise_batch_norms(network, recipe, group)
        freeze_layers(network, recipe)
        self.network = network.to(group.device).to(memory_format=torch.channels_last)
        self.optimiser = create_optimiser(network, recipe, pretrained)
        self.autocast = should_autocast(recipe, group.device)
        self._loss = self._create_loss()
        self._average = WeightsAverage(network, recipe.ema_decay) if recipe.ema_decay else None
        self._measuring = PixelLoss(self.measured_network, recipe, autocast=self.autocast)

    def _create_loss(self) -> nn.Module:
        """Return the loss of a batch, in data parallel where several processes share it."""
        self._own = PixelLoss(self.network, self.recipe, autocast=self.autocast, group=self.group)
        is_alone = self.group.world_size == 1
        return self._own if is_alone else nn.parallel.DistributedDataParallel(self._own)

    def compile(self, backend: str = "inductor") -> None:
        """Learn with a compiled network (`torch.compile`); state and weights stay the same."""
        self._own.compile_network(backend)

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def measured_network(self) -> FCN:
        """The network that is validated and saved: the moving average if the recipe has one."""
        return self._average.network if self._average else self.network

    @property
    def epoch(self) -> int:
        """The number of the current epoch, from 0; `end_epoch` ends it."""
        return len(self.history)

    @property
    def lr(self) -> float:
        """The learning rate of the last step, for tensors that started at random."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def running_accuracy(self) -> float:
        """Pixel accuracy of the epoch so far, in this process."""
        return self._figures.sums.hits / max(self._figures.sums.known, 1)

    @property
    def running_images_per_s(self) -> float:
        """Images per second of the epoch so far, by all processes."""
        return self._figures.sums.images_per_s * self.group.world_size

    def train_step(
        self, images: Tensor, target: Tensor, probabilities: Tensor | None = None
    ) -> None:
        """Learn from images (N, H, W, 3) and target (N, H, W), both uint8, and soft labels.

        Instead of images it takes their features, (N, h, w, channels), from a `FeatureCache`. On a
        GPU it returns before the step is computed: `collect_steps` has the figures. Raises
        RecipeError if the loss of an earlier step is not finite.
        """
        self._figures.sums.start()
        start_learning(self.network, self.recipe)
        factor = compute_lr_factor(self.step, self.total_steps, self.recipe)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = factor * parameters["base_lr"]
        if probabilities is not None:
            probabilities = send(probabilities, self.group.device)
        loss, counts = self._loss(*self._move_to_device(images, target), probabilities)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        if self._average:
            self._average.update(self.network, self.step)
        is_sum = self.recipe.loss_reduction == "image_sum"
        value = loss.detach().double() / (len(images) * self.group.world_size if is_sum else 1)
        row = StepRow(self.step, self.epoch + 1, math.nan, self.lr)
        self._figures.add(row, len(images), torch.cat((value[None], counts)))

    def collect_steps(self, *, wait: bool = False) -> list[StepRow]:
        """Return the steps whose figures are known, each once; all of them with `wait`.

        A row's loss is that per image for "image_sum", as the notebook reports it, else per pixel.
        With several processes, the mean of their losses is the batch's. Raises RecipeError unless
        it is finite.
        """
        if wait:
            self._figures.read()
        return self._figures.collect()

    @torch.no_grad()
    def count_hits(self, images: Tensor, target: Tensor) -> tuple[int, int]:
        """Count the correct pixels and the pixels that are not void in a batch, without learning.

        With data parallelism, one process may call it alone.
        """
        self.measured_network.eval()
        _, counts = self._measuring(*self._move_to_device(images, target))
        hits, known = counts.tolist()
        return hits, known

    def _move_to_device(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        device = self.group.device
        images, target = send(images, device), send(target, device)
        if images.is_floating_point():  # features of images
            return images.permute(0, 3, 1, 2), target
        # Not with the metadata's numbers: their copy to a GPU would wait for the step before.
        mean, std = self._statistics
        return normalise(images, mean, std), target

    def end_epoch(self, validation: Validation) -> EpochRow:
        """End the epoch: add its figures, over all processes, to the history as a row."""
        self._figures.read()
        own = self._figures.sums
        loss, images, hits, known = self._sum_over_processes(own)
        row = EpochRow(
            epoch=self.epoch + 1,
            loss=loss / images,
            train_accuracy=hits / max(known, 1),
            val_accuracy=validation.accuracy,
            val_mean_iou=validation.mean_iou,
            lr=self.lr,
            images_per_s=images / max(own.seconds, 1e-9),
        )
        self.history.append(row)
        self._figures.sums = EpochSums()
        return row

    def _sum_over_processes(self, sums: EpochSums) -> list[float]:
        """Loss, images, hits and known pixels over all processes; every process must call it."""
        own = torch.tensor([sums.loss, sums.images, sums.hits, sums.known], dtype=torch.float64)
        return [float(value) for value in self.group.sum(own.to(self.group.device))]

    def state(self) -> dict[str, Any]:
        """Return all that is needed to continue the run, as tensors, numbers and strings.

        Every process must call it.
        """
        self._figures.read()
        return {
            "run": self._describe_run(),
            "metadata": {name: getattr(self.metadata, name) for name in KEPT_METADATA},
            "step": self.step,
            "sums": self._sum_over_processes(self._figures.sums),
            "seconds": self._figures.sums.seconds,
            "history": [asdict(row) for row in self.history],
            "network": self.network.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises CheckpointError if it belongs to another run."""
        require_same_run(state.get("run", {}), self._describe_run())
        self.step = state["step"]
        # The sums are those of all processes, so only one process continues them.
        loss, images, hits, known = state["sums"] if self.group.is_main else (0.0, 0, 0, 0)
        self._figures.sums = EpochSums(loss, int(images), int(hits), int(known), state["seconds"])
        self.history = [EpochRow(**row) for row in state["history"]]
        self.network.load_state_dict(state["network"])
        if self._average:
            self._average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _describe_run(self) -> dict[str, Any]:
        """Return the values that must be equal to continue a run."""
        colours = map(format_colour, self.metadata.palette)
        return {
            "recipe": self.recipe.as_dict(),
            "seed": self.seed,
            "image set": self.image_set,
            "digest of the images": self.images_digest,
            "classes": list(self.metadata.classes),
            "colours": dict(zip(self.metadata.classes, colours, strict=True)),
            "masks": dict(self.metadata.data.get("masks", {})),
            "start": self.metadata.data.get("start"),
            "steps per epoch": self.steps_per_epoch,
            "processes": self.group.world_size,
        }
