"""TL-DMI, transfer learning as a defense: the first layers are pre-trained on public images and frozen."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.artifacts import assign_weights, load_weights
from splitleak.config import Config, read_table
from splitleak.defenses.base import Defense, TrainingStart
from splitleak.defenses.features.layers import positions
from splitleak.models.split import SplitModel

_PART = re.compile(r"(?:^|\.)(normalise|position\d+)\.(.+)")
_HALVES = ("edge", "cloud")


class TransferConfig(Config):
    """The pre-trained weights, and how many of the first layers are frozen."""

    pretrained: str | None = Field(
        default=None, description="artifact that was trained on public images of other classes; none: random weights"
    )
    sha256: str | None = Field(default=None, description="of its weights, shortened; filled in when training begins")
    frozen: int = Field(
        default=1, ge=0, description="leading positions that are frozen, batch normalisation statistics included"
    )


class FrozenLayer(nn.Module):
    """A layer with frozen weights and running statistics, in eval mode whatever the mode of the network around it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "FrozenLayer":
        return super().train(False)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.layer(features)
        return result


class Transfer(Defense):
    """Loads a pre-trained network, freezes its first layers, and trains the others and a new classifier.

    Ho et al., "Model inversion robustness: can transfer learning help?", CVPR 2024 (arXiv:2405.05588): the early layers
    matter most for inversion, and here they hold information about public images only. The paper reports the number of
    trainable parameters, the findings' ``trainable_parameters``. The pre-trained network has the target's architecture,
    width, channels and, for networks that are not averaged before the classifier, any size; its cut and its defenses
    on the wire do not matter. Its image normalisation is loaded too. A VGG's pools are positions too: the paper's
    VGG-16, frozen up to its convolutions 7, 8, 9, 10 or 13, has ``frozen`` 9, 11, 12, 13 or 17; 11 leaves 13.857 of
    16.776 million trainable.
    ``splitleak split --classes`` writes images of other classes of a data set to ``generic.npz``, from which
    ``splitleak split --data`` makes a folder to train it on.
    Deviations: batch normalisation in frozen layers keeps its running statistics too, as the paper says (its published
    code updates them on the private images); the whole classifier is initialised anew. Without ``pretrained`` the
    frozen layers are random, the paper's setting from scratch.

    Raises:
        FileNotFoundError: There is no such artifact.
        ValueError: It has another architecture or other weights, was trained on a class of the target from the same
            data set, or the model has fewer positions than ``frozen``.
    """

    name = "transfer"
    config_type = TransferConfig

    def __init__(self, config: TransferConfig) -> None:
        super().__init__(config)
        self.config = config
        self._frozen_parameters = 0

    @classmethod
    def pinned(cls, config: Config) -> Config:
        assert isinstance(config, TransferConfig)
        if config.pretrained is None:
            return config
        sha256 = weights_digest(Path(config.pretrained))
        if config.sha256 not in (None, sha256):
            raise ValueError(f"transfer: expected weights {config.sha256} at {config.pretrained}, got {sha256}")
        return config.model_copy(update={"sha256": sha256})

    def prepare(self, model: SplitModel, classes: int) -> None:
        slots = positions(model)
        if self.config.frozen > len(slots):
            raise ValueError(f"transfer: expected at most {len(slots)} frozen positions, got {self.config.frozen}")
        for index in range(1, self.config.frozen + 1):
            slots[index].replace(FrozenLayer(slots[index].layer))

    def begin(self, start: TrainingStart) -> None:
        if self.config.pretrained is not None:
            folder = Path(self.config.pretrained)
            _check_disjoint(folder, start)
            _load_pretrained(folder, start.model)

    def finish(self, model: SplitModel) -> None:
        self._frozen_parameters = sum(
            parameter.numel() for parameter in model.parameters() if not parameter.requires_grad
        )
        for slot in positions(model).values():
            if isinstance(slot.layer, FrozenLayer):
                slot.replace(slot.layer.layer.requires_grad_(True))

    def findings(self, model: SplitModel) -> dict[str, Any]:
        everything = sum(parameter.numel() for parameter in model.parameters())
        return {"trainable_parameters": everything - self._frozen_parameters, "parameters": everything}


def weights_digest(artifact: Path) -> str:
    """Twelve hexadecimal digits of the SHA-256 of both halves' weights.

    Raises:
        FileNotFoundError: ``artifact`` lacks a half.
    """
    whole = hashlib.sha256()
    for half in _HALVES:
        path = artifact / half / "weights.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"expected a pre-trained artifact with both halves at {artifact}, but no {path}")
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def _check_disjoint(folder: Path, start: TrainingStart) -> None:
    half = read_table(folder / "cloud" / "half.json")
    known = sorted(set(half["classes"]) & set(start.classes))
    if half["dataset"] == start.dataset and known:
        raise ValueError(
            f"transfer: expected {folder} to be trained on other classes of {start.dataset} than the target's, "
            f"got {', '.join(known)}"
        )


@torch.no_grad()
def _load_pretrained(folder: Path, model: SplitModel) -> None:
    """Copies image normalisation and positions from both halves of the artifact, by their names."""
    loaded: dict[str, dict[str, Tensor]] = {}
    for half in _HALVES:
        weights = load_weights(folder / half / "weights.safetensors")
        for key, value in weights.items():
            if match := _PART.search(key):
                loaded.setdefault(match[1], {})[match[2]] = value
    parts = {name: module for name, module in _parts(model).items() if module.state_dict()}
    if loaded.keys() != parts.keys():
        expected, got = (", ".join(sorted(names)) for names in (parts, loaded))
        raise ValueError(f"transfer: expected weights of {expected} in {folder}, got {got}")
    for name, module in parts.items():
        assign_weights(module, loaded[name], f"transfer: expected weights in {folder} that fit the target")


def _parts(model: SplitModel) -> dict[str, nn.Module]:
    parts = {}
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf == "normalise" or re.fullmatch(r"position\d+", leaf):
            parts[leaf] = module.layer if isinstance(module, FrozenLayer) else module
    return parts
