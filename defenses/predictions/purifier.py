"""Prediction purification: an autoencoder behind the classifier makes the score vectors of a class alike."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.artifacts import load_tensors, save_tensors, write_json, written_folder
from splitleak.config import Config, digest
from splitleak.logs import Report, silent
from splitleak.measures.scores import check_scores
from splitleak.models.inverter import PredictionInverter
from splitleak.seeding import derive_seed, generator
from splitleak.training.fit import Resumable, epochs

FORMAT = 1
_NARROWEST = 4


class PurifierConfig(Config):
    """The autoencoder, its training, and what it is trained on. With ten classes its layers are 10-7-4-7-10."""

    reference: Literal["train", "test"] = Field(
        default="train",
        description="whose score vectors it learns from: the target's training images, or half of its test images",
    )
    reference_images: int = Field(default=2000, ge=2, description="images of them, at most")
    hidden: float = Field(
        default=0.7, gt=0, description="width of the hidden layers, as a share of the classes; at least 4"
    )
    code: float = Field(default=0.4, gt=0, description="width of the narrowest layer, likewise")
    label_weight: float = Field(default=0.2, ge=0, description="lambda: weight of the cross-entropy to the label")
    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-2, gt=0, description="of Adam; constant")
    inversion_weight: float = Field(default=0.0, ge=0, description="mu: of an inner inverter's squared error a pixel")
    inverter_width: float = Field(default=0.25, gt=0, description="factor on the inner inverter's layers")
    inverter_learning_rate: float = Field(default=3e-3, gt=0, description="of its Adam; constant")


class Purifier(nn.Module):
    r"""Probabilities ``(N, K)`` to probabilities ``(N, K)`` of less dispersion.

    Trained on reference vectors p of the classifier to minimise

    .. math:: \lVert G(p) - p \rVert^2 + \lambda\,\mathrm{CE}(G(p), \arg\max p) - \mu\,\mathrm{MSE}(H(\log G(p)), x)

    Yang et al., "Defending model inversion and membership inference attacks via prediction purification", 2020,
    arXiv:2005.03915: what the narrow autoencoder cannot carry, the dispersion of a class's vectors, is gone. It sees
    probabilities, not logs: what is too small for a sum of probabilities cannot pass, however much an attacker
    magnifies it afterwards (fed with logs, it let more through and changed more labels). Layers are linear, with
    batch normalisation and ReLU between them, and a softmax last. The last term, off by default, is the paper's form
    against inversion: H is an inverter that learns, at the same time, to rebuild the image x from G's answer.
    Where it ends: a kernel regression on the logs of MNIST's answers learned no more than from labels, but one on their
    ranks within a class did (squared error a pixel 0.0424; labels 0.0440, unpurified 0.0325), unless the answers were
    rounded to 0.001 afterwards. The last term changed none of these figures.
    Deviations: the paper's text was not at hand, only its abstract, its objective and 10-7-4-7-10 from others' code;
    widths for other numbers of classes, weights and training are ours.

    Raises:
        ValueError: What comes is not scores ``(N, classes)``: finite and non-negative.
    """

    def __init__(self, classes: int, config: PurifierConfig) -> None:
        super().__init__()
        self.classes = classes
        self.config = config
        hidden, code = (max(_NARROWEST, round(share * classes)) for share in (config.hidden, config.code))
        widths = [classes, hidden, code, hidden]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.BatchNorm1d(wide), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, classes))

    def forward(self, scores: Tensor) -> Tensor:
        return self.log_scores(scores).exp()

    def log_scores(self, scores: Tensor) -> Tensor:
        """The logs of what `forward` gives, finite where those are zero."""
        check_scores(scores)
        if scores.shape[1] != self.classes:
            raise ValueError(f"expected scores of {self.classes} classes, got {scores.shape[1]}")
        logits: Tensor = self.layers(scores)
        return functional.log_softmax(logits, 1)


def train_purifier(
    scores: Tensor,
    config: PurifierConfig,
    seed: int,
    *,
    images: Tensor | None = None,
    report: Report = silent,
    checkpoint: Path | None = None,
) -> Purifier:
    """A purifier for the classifier that gave ``scores`` ``(N, K)``, in eval mode, on their device.

    They are best of images that the classifier was not trained on: of its own it is surer, and what is to be removed
    shows less. Labels are the classifier's own, the largest score. ``images`` ``(N, C, S, S)`` in [0, 1], those that
    were scored, are needed where ``inversion_weight`` is not zero.

    Raises:
        ValueError: Fewer than two vectors, or they are not scores; no images, or not one a vector, where needed.
    """
    check_scores(scores)
    if len(scores) < 2:
        raise ValueError(f"expected at least two reference vectors, got {len(scores)}")
    if config.inversion_weight and (images is None or len(images) != len(scores)):
        raise ValueError(
            f"expected {len(scores)} images for inversion_weight, got {0 if images is None else len(images)}"
        )
    device, labels = scores.device, scores.argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "purifier", "init"))
        purifier = Purifier(scores.shape[1], config).to(device)
        game = _Game(config, images.to(device), purifier) if config.inversion_weight and images is not None else None
    optimizer = Adam(purifier.parameters(), lr=config.learning_rate)
    order = generator(seed, "purifier", "order")
    state = Resumable(
        identity=digest([config.document(), seed, len(scores), float(scores.double().square().sum())]),
        modules={"purifier": purifier} | ({"inverter": game.inverter} if game else {}),
        optimizers={"adam": optimizer} | ({"inverter": game.optimizer} if game else {}),
        generators={"order": order},
    )
    for _ in epochs("purifier", config.epochs, state, checkpoint, report):
        purifier.train()
        steps = []
        for batch in torch.randperm(len(scores), generator=order).to(device).split(config.batch_size):
            if len(batch) < 2:
                continue  # batch norm needs two
            logs = purifier.log_scores(scores[batch])
            terms = {
                "distance": (logs.exp() - scores[batch]).square().sum(1).mean(),
                "label": functional.nll_loss(logs, labels[batch]),
            }
            loss = terms["distance"] + config.label_weight * terms["label"]
            if game is not None:
                terms["inversion_error"] = game.error(logs, batch)
                loss = loss - config.inversion_weight * terms["inversion_error"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps.append({name: term.detach() for name, term in terms.items()})
        state.history.append({name: float(torch.stack([each[name] for each in steps]).mean()) for name in steps[0]})
    return purifier.eval()


class _Game:
    """The inner inverter of a purifier's training, and the images that it is to rebuild."""

    def __init__(self, config: PurifierConfig, images: Tensor, purifier: Purifier) -> None:
        _, channels, height, width = images.shape
        self.images = images
        self.inverter = PredictionInverter(purifier.classes, (channels, height, width), config.inverter_width)
        self.inverter.to(images.device)
        betas = (0.5, 0.999)
        self.optimizer = Adam(self.inverter.parameters(), config.inverter_learning_rate, betas, amsgrad=True)

    def error(self, logs: Tensor, batch: Tensor) -> Tensor:
        """Its squared error a pixel on ``logs``, held still, after a step on them towards the images at ``batch``."""
        loss = functional.mse_loss(self.inverter(logs.detach()), self.images[batch])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.inverter.requires_grad_(False)
        error = functional.mse_loss(self.inverter(logs), self.images[batch])
        self.inverter.requires_grad_(True)
        return error


class _Saved(Config):
    """What is needed to rebuild a purifier beside its weights."""

    format: Literal[1]
    classes: int = Field(ge=1)
    purifier: PurifierConfig


def save_purifier(folder: Path, purifier: Purifier, record: Mapping[str, Any]) -> None:
    """Writes ``purifier.json``, ``weights.safetensors`` and ``record.json`` (``record``) to ``folder``, or nothing."""
    saved = {"format": FORMAT, "classes": purifier.classes, "purifier": purifier.config.document()}
    with written_folder(folder) as partial:
        save_tensors(partial / "weights.safetensors", purifier.state_dict())
        write_json(partial / "purifier.json", saved)
        write_json(partial / "record.json", dict(record))


def load_purifier(folder: Path) -> Purifier:
    """The purifier that `save_purifier` wrote, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: ``folder`` holds no purifier.
        ValueError: Its files do not fit together.
    """
    if not (folder / "purifier.json").is_file():
        raise FileNotFoundError(f"expected a purifier (a folder that `splitleak purify` wrote) at {folder}")
    saved = _Saved.read(folder / "purifier.json")
    weights, _ = load_tensors(folder / "weights.safetensors")
    with torch.device("meta"):  # weights that are loaded need not be drawn first
        purifier = Purifier(saved.classes, saved.purifier)
    try:
        purifier.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder}: expected weights that fit its purifier.json, but {error}") from None
    return purifier.eval()
