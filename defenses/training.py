"""The one training loop: it calls the hooks of the stack and never asks a defense for its name."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer

from splitleak.config import IMPORTED, OWN, Config, digest, kind_of_network
from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.datasets.statistics import normalisation
from splitleak.defenses import DEFENSES
from splitleak.defenses.base import EpochEnd, Step, TrainingStart
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.logs import Report, silent
from splitleak.models import ARCHITECTURES
from splitleak.models.imported_half import ImportedModel, both_halves
from splitleak.models.split import ModelConfig, SplitModel, build
from splitleak.plugins import Plugin
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, epochs
from splitleak.training.modules import at_once, to_channels_last
from splitleak.training.precision import fused_on, mixed_precision, tuned_convolutions
from splitleak.training.turning import turns


class AugmentConfig(Config):
    """Data augmentation of training images, drawn per image."""

    crop_padding: int = Field(default=0, ge=0, description="pixels of zero padding before a random crop")
    flip: bool = Field(default=True, description="random horizontal flip, with probability 0.5")
    rotation_degrees: float = Field(default=0, ge=0, le=180, description="maximum random rotation, either way")


class TrainingConfig(Config):
    """The target's training by SGD with momentum. `paper` is the published recipe, `fast` a short one."""

    later: ClassVar[Mapping[str, object]] = {"label_smoothing": 0, "precision": "single", "label_noise": 0}

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "steps", "one-cycle"] = Field(
        default="cosine", description="learning rate decay; one-cycle: to 0 along a line, after a long warm-up"
    )
    milestones: tuple[int, ...] = Field(default=(), description="steps: epochs at which the rate falls")
    factor: float = Field(default=0.2, gt=0, le=1, description="steps: factor on the rate at each milestone")
    warmup_epochs: int = Field(
        default=1, ge=0, description="epochs of linear warm-up at the start; half of all, where there are no more"
    )
    augment: AugmentConfig = AugmentConfig()
    label_smoothing: float = Field(
        default=0, ge=0, lt=1, description="of the cross-entropy, where no defense has another task loss"
    )
    precision: Literal["single", "bfloat16"] = Field(
        default="single", description="on a CPU; bfloat16: autocast if it multiplies in it (CUDA has it either way)"
    )
    label_noise: float = Field(
        default=0, ge=0, le=1, description="share of the images that get a random label: less accuracy, and no defense"
    )

    @classmethod
    def of_preset(cls, preset: str) -> "TrainingConfig":
        """The settings of a preset."""
        return {"paper": cls.paper, "fast": cls.fast}.get(preset, cls)()

    @classmethod
    def fast(cls) -> "TrainingConfig":
        """For tens of thousands of pictures: 20 epochs of large batches, in one cycle of the learning rate.

        Smith and Topin, "Super-convergence", 2019 (arXiv:1708.07120), with label smoothing, and bfloat16 where the
        hardware has it.
        """
        return cls(
            epochs=20,
            batch_size=512,
            learning_rate=0.2,
            schedule="one-cycle",
            warmup_epochs=5,
            augment=AugmentConfig(crop_padding=4, flip=True),
            label_smoothing=0.1,
            precision="bfloat16",
        )

    @classmethod
    def paper(cls) -> "TrainingConfig":
        """CEM's published recipe: 240 epochs of batch 128. (Its code spends the first at a learning rate of 0.)"""
        return cls(
            epochs=240,
            schedule="steps",
            milestones=(60, 120, 180, 210),
            augment=AugmentConfig(crop_padding=4, flip=True, rotation_degrees=15),
        )

    @classmethod
    def fine_tuning(cls) -> "TrainingConfig":
        """Of weights that are good already: a tenth of the learning rate."""
        return cls(learning_rate=0.005)

    def rate(self, progress: float) -> float:
        """The learning rate after ``progress`` epochs (a fraction counts); never 0, which CEM divides by."""
        warm_up = self.warmup_epochs if self.warmup_epochs < self.epochs else self.epochs / 2
        if progress < warm_up:
            return self.learning_rate * max(progress / warm_up, 0.01)
        if self.schedule == "steps":
            return self.learning_rate * self.factor ** sum(progress >= milestone for milestone in self.milestones)
        fraction = (progress - warm_up) / (self.epochs - warm_up)
        if self.schedule == "one-cycle":
            return self.learning_rate * max(1 - fraction, 1e-3)
        return self.learning_rate * max(0.5 * (1 + math.cos(math.pi * fraction)), 1e-3)


_DEFAULTS = TrainingConfig()

AnyModel = Annotated[
    Annotated[ModelConfig, Tag(OWN)] | Annotated[ImportedModel, Tag(IMPORTED)], Discriminator(kind_of_network)
]
"""The network of a target: one of our own architectures, or an imported one."""


class TargetConfig(Config):
    """A target: a split model, its defenses in their order, its training, and the seed of all randomness."""

    model: AnyModel
    defenses: tuple[DefenseConfig, ...] = ()
    training: TrainingConfig | None = TrainingConfig()
    """None: an imported network as it came."""
    seed: int = Field(default=0, ge=0)

    def pinned(self) -> "TargetConfig":
        """This config with content hashes of the files that its defenses refer to (see `Defense.pinned`)."""
        return self.model_copy(update={"defenses": tuple(defense.pinned() for defense in self.defenses)})

    def plugins(self) -> tuple[Plugin, ...]:
        """The plug-ins that it is made with, each once."""
        return plugins_of(self.model.architecture, (defense.name for defense in self.defenses))


def plugins_of(architecture: str, defenses: Iterable[str]) -> tuple[Plugin, ...]:
    """The plug-ins that an architecture and defenses of these names are from, each once."""
    named = [ARCHITECTURES.plugin(architecture), *map(DEFENSES.plugin, defenses)]
    return tuple(dict.fromkeys(plugin for plugin in named if plugin is not None))


@dataclass(frozen=True)
class Target:
    """A trained target, in eval mode."""

    config: TargetConfig
    classes: tuple[str, ...]
    dataset: str
    model: SplitModel
    stack: Stack
    record: dict[str, Any]
    networks: Mapping[str, bytes] = field(default_factory=dict)  # the ONNX files of an imported one's halves


def assemble(
    config: TargetConfig, dataset: str, imported: tuple[nn.Module, nn.Module] | None = None
) -> tuple[SplitModel, Stack]:
    """The untrained model as modified by its defenses, and the stack; initial weights from ``config.seed``.

    Args:
        config: Model, defenses and seed.
        dataset: Name of the images, which tells the normalisation of our own architectures.
        imported: Both halves of an imported network, which come with their weights.
    """
    stack = Stack.build(config.defenses)
    with seeded(config.seed, "init"):
        if isinstance(config.model, ImportedModel):
            if imported is None:
                raise ValueError(f"expected both halves of {config.model.source}, got only what they are called")
            model = SplitModel(*imported, config.model.image_shape)
        else:
            model = build(config.model, normalisation(dataset, config.model.channels))
        stack.prepare(model, config.model.classes)
    return model, stack


def train(
    config: TargetConfig,
    splits: Splits,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    report: Report = silent,
    networks: Mapping[str, bytes] | None = None,
) -> Target:
    """Trains a target on ``splits.train`` and measures its accuracy on ``splits.test``.

    The test set is used for no decision: there is no early stopping, the last epoch's weights are kept.

    Args:
        config: Model, defenses, training and seed; the returned target's config is its `TargetConfig.pinned`.
        splits: Training and test images.
        device: Where it is trained.
        checkpoint: File from which an interrupted run with the same config and data resumes.
        report: Progress callback.
        networks: The ONNX files of an imported network's halves, ``edge`` and ``cloud``, which are fine-tuned.

    Raises:
        FileNotFoundError: A file that a defense refers to does not exist.
        ValueError: The images do not fit the model, a defense does not fit the stack, or a setting has no effect.
        FloatingPointError: The loss is no longer finite.
    """
    _check_fit(config.model, splits.train)
    # Dropout layers draw from the global generator.
    own_stream = seeded(config.seed, "dropout", devices=[device] if device.type == "cuda" else [])
    with own_stream, tuned_convolutions(device):
        return _train(config.pinned(), splits, device, checkpoint, report, networks or {})


def _train(
    config: TargetConfig,
    splits: Splits,
    device: torch.device,
    checkpoint: Path | None,
    report: Report,
    networks: Mapping[str, bytes],
) -> Target:
    dataset, training = str(splits.record["dataset"]), config.training
    if training is None:
        raise ValueError("expected the settings of a training, got none")
    _check_used(training)
    model, stack = assemble(config, dataset, both_halves(networks, config.model))
    to_channels_last(model, device)
    stack.to(device)
    stack.seed(config.seed, device)
    stack.begin(TrainingStart(model, dataset, splits.train.classes, training.epochs))
    optimizer = SGD(
        [*model.parameters(), *stack.task_parameters()],
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        fused=fused_on(device),
    )
    order = generator(config.seed, "order")
    augment = generator(config.seed, "augment", device=device)
    global_stream = (
        torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    )
    state = Resumable(
        identity=digest([config.document(), splits.record]),
        modules={"model": model, "stack": stack},
        optimizers={"sgd": optimizer, **stack.optimizers()},
        generators={"order": order, "augment": augment, "global": global_stream, **stack.generators()},
    )
    images = splits.train.pixels.to(device)
    labels = _with_noise(splits.train, training.label_noise, config.seed).to(device)

    def batches(order: torch.Generator, augment: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in at_once(stack.batches(splits.train.labels, training.batch_size, order), device):
            if len(indices) > 1:  # batch norm needs two
                yield augmented(images[indices].float() / 255, training.augment, augment), labels[indices]

    @torch.no_grad()
    def training_features(epoch: int) -> tuple[Tensor, Tensor]:
        model.eval()
        # Separate generators: the training that follows does not depend on whether a defense asks for features.
        draws = generator(config.seed, "survey", epoch), generator(config.seed, "survey", epoch, device=device)
        encoded = [(model.encoder(_channels_last(x)).float(), y) for x, y in batches(*draws)]
        return torch.cat([z for z, _ in encoded]), torch.cat([y for _, y in encoded])

    for epoch in epochs("train", training.epochs, state, checkpoint, report):
        model.train()
        stack.train()
        losses, penalties, hits = [], [], []
        steps = math.ceil(len(images) / training.batch_size)
        for index, (batch, target) in enumerate(state.steps(batches(order, augment), steps)):
            rate = training.rate(epoch + index / steps)
            task, penalty, hit = training_step(
                model, stack, optimizer, batch, target, epoch=epoch, rate=rate, config=training
            )
            losses.append(task)
            penalties.append(penalty)
            hits.append(hit)
        figures = {"loss": losses, "penalty": penalties, "train_accuracy": hits}
        means = {name: float(torch.stack(values).mean()) for name, values in figures.items()}
        if not math.isfinite(means["loss"] + means["penalty"]):
            raise FloatingPointError(f"expected a finite loss, got {means} in epoch {epoch + 1}")
        stack.on_epoch(EpochEnd(epoch, training.epochs, cache(partial(training_features, epoch))))
        state.history.append(means)

    stack.finish(model)
    model.eval()
    stack.eval()
    record = {
        "dataset": splits.record,
        "accuracy": accuracy(model, stack, splits.test, device),
        "history": state.history,
    }
    if findings := stack.findings(model):
        record["defenses"] = findings
    return Target(config, splits.train.classes, dataset, model, stack, record, networks)


def _with_noise(images: Images, share: float, seed: int) -> Tensor:
    """The labels ``(N,)``, a share of them replaced by random ones, the same in every epoch."""
    if not share:
        return images.labels
    draw = generator(seed, "label noise")
    noisy = torch.rand(len(images), generator=draw) < share
    return torch.where(noisy, torch.randint(len(images.classes), (len(images),), generator=draw), images.labels)


def training_step(
    model: SplitModel,
    stack: Stack,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    rate: float,
    config: TrainingConfig = _DEFAULTS,
) -> tuple[Tensor, Tensor, Tensor]:
    """One optimiser step on a batch.

    Args:
        model: In training mode.
        stack: The defenses.
        optimizer: Of the model and the defenses' task parameters.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        epoch: From 0.
        rate: Learning rate.
        config: Gives precision and label smoothing.

    Returns:
        The task loss, the stack's penalty (0 where there is none) and the accuracy on the batch, all detached.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    with mixed_precision(images.device, on_cpu=config.precision == "bfloat16"):
        features = model.encoder(_channels_last(images))
        sent = stack(features)
        logits = model.head(sent)
        task = stack.task_loss(logits, labels, epoch, config.label_smoothing)
    penalty = stack.penalty(Step(images, labels, features, sent, logits, epoch, rate, stack.undone))
    loss = task if penalty is None else task + penalty
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if (limit := stack.gradient_limit) is not None:
        clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], limit)
    optimizer.step()
    added = torch.zeros_like(task) if penalty is None else penalty.detach()
    return task.detach(), added, (logits.argmax(1) == labels).float().mean()


@torch.no_grad()
def accuracy(model: SplitModel, stack: Stack, images: Images, device: torch.device, batch_size: int = 256) -> float:
    """Top-1 accuracy on ``images`` with the stack's defenses applied; in [0, 1]."""
    hits = 0
    for pixels, labels in zip(images.pixels.split(batch_size), images.labels.split(batch_size), strict=True):
        logits = model.head(stack(model.encoder(_channels_last(pixels.to(device).float() / 255))))
        hits += int((logits.argmax(1).cpu() == labels).sum())
    return hits / len(images)


def _check_fit(config: ModelConfig | ImportedModel, images: Images) -> None:
    if images.shape != config.image_shape:
        raise ValueError(f"expected images {config.image_shape}, got {images.shape}")
    if len(images.classes) != config.classes:
        raise ValueError(f"expected {config.classes} classes, got {len(images.classes)}")


def _check_used(training: TrainingConfig) -> None:
    """Refuses steps of the learning rate that it does not take: of another schedule, or after the last epoch."""
    steps, last = training.schedule == "steps", training.epochs - 1
    if idle := [milestone for milestone in training.milestones if not steps or milestone > last]:
        expected = f"milestones up to epoch {last}" if steps else "milestones of the schedule 'steps' alone"
        raise ValueError(f"training: expected {expected}, got {idle} of {training.schedule!r}")
    if not steps and training.factor != _DEFAULTS.factor:
        raise ValueError(f"training: expected a factor of the schedule 'steps' alone, got one of {training.schedule!r}")


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, config: AugmentConfig, draw: torch.Generator) -> Tensor:
    """Randomly flips, crops and rotates each image of ``(N, C, H, W)`` independently."""
    count, _, height, width = images.shape

    def uniform() -> Tensor:
        return torch.rand(count, generator=draw, device=images.device)

    if config.flip:
        images = torch.where((uniform() < 0.5)[:, None, None, None], images.flip(3), images)
    if config.crop_padding:
        span = 2 * config.crop_padding + 1
        top, left = ((uniform() * span).long() for _ in range(2))
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        padded = functional.pad(images, [config.crop_padding] * 4)
        index = torch.arange(count, device=images.device)
        images = padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if config.rotation_degrees:
        angles = (2 * uniform() - 1) * math.radians(config.rotation_degrees)
        places = functional.pad(turns(angles, height, width), (0, 1))
        grid = functional.affine_grid(places, list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, align_corners=False)
    return images
