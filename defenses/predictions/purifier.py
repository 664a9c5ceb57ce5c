"""Prediction purifier: an autoencoder after the classifier reduces the dispersion of score vectors within a class."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.artifacts import assign_weights, load_weights, save_weights, write_json, written_folder
from splitleak.config import Config, digest
from splitleak.errors import explained
from splitleak.logs import Report, silent
from splitleak.measures.scores import check_scores
from splitleak.models.inverter import PredictionInverter
from splitleak.outputs import FolderKind
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, epochs

FORMAT = 1
PURIFIER = FolderKind("purify", "record.json", ("purifier.json", "weights.safetensors"))
_NARROWEST = 4


class PurifierConfig(Config):
    """The autoencoder, its training and its training set. With ten classes its layers are 10-7-4-7-10."""

    reference: Literal["train", "test"] = Field(
        default="train",
        description="images whose scores it is trained on: the target's training images, or half of its test images",
    )
    reference_images: int = Field(default=2000, ge=2, description="maximum number of these images")
    hidden: float = Field(
        default=0.7, gt=0, description="width of the hidden layers, as a share of the classes; at least 4"
    )
    code: float = Field(default=0.4, gt=0, description="width of the code layer, as a share of the classes; at least 4")
    label_weight: float = Field(default=0.2, ge=0, description="lambda: weight of the cross-entropy to the label")
    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-2, gt=0, description="of Adam; constant")
    inversion_weight: float = Field(default=0.0, ge=0, description="mu: weight of an inner inverter's MSE per pixel")
    inverter_width: float = Field(default=0.25, gt=0, description="factor on the inner inverter's layers")
    inverter_learning_rate: float = Field(default=3e-3, gt=0, description="of its Adam; constant")


class Purifier(nn.Module):
    r"""Autoencoder G: probabilities ``(N, K)`` to probabilities ``(N, K)`` of lower dispersion within a class.

    Trained on the classifier's score vectors p of reference images to minimise

    .. math:: \lVert G(p) - p \rVert^2 + \lambda\,\mathrm{CE}(G(p), \mathrm{argmax}\,p)
              - \mu\,\mathrm{MSE}(H(\log G(p)), x)

    Yang et al., "Defending model inversion and membership inference attacks via prediction purification", 2020,
    arXiv:2005.03915: the narrow code removes the dispersion of the score vectors of a class. The input is
    probabilities, not log-probabilities: differences too small to affect a sum of probabilities are lost, even if an
    attacker takes logarithms afterwards (with log-probabilities as input, it removed less and changed more labels).
    Layers are linear, with batch normalisation and ReLU between them, and a softmax last. The last term, off by
    default, is the paper's variant against inversion: H is an inverter that is trained jointly.
    Limits: on MNIST, a kernel regression on the logarithms of purified scores did no better than on labels, but one on
    their ranks within a class did (MSE per pixel 0.0424; labels 0.0440, unpurified 0.0325), unless the scores were
    rounded to 0.001 afterwards. The last term changed none of these figures.
    Deviations: the paper's full text was not available, only its abstract, its objective and 10-7-4-7-10 from others'
    code; widths for other numbers of classes, weights and training are ours.

    Raises:
        ValueError: The input is not scores ``(N, classes)``, finite and non-negative.
    """

    def __init__(self, classes: int, config: PurifierConfig) -> None:
        super().__init__()
        self.classes = classes
        self.config = config
        hidden, code = (max(_NARROWEST, round(share * classes)) for share in (config.hidden, config.code))
        widths = [classes, hidden, code, hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, classes))

    def forward(self, scores: Tensor) -> Tensor:
        return self.log_scores(scores).exp()

    def log_scores(self, scores: Tensor) -> Tensor:
        """Log-probabilities ``(N, K)`` of the output, finite where `forward` underflows to zero."""
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
    """Trains a purifier on a classifier's scores. Labels are the classifier's predictions, the largest score.

    Args:
        scores: ``(N, K)`` probabilities, best of images that the classifier was not trained on: on its training images
            it is more confident, and the dispersion to be removed is smaller.
        config: The autoencoder and its training.
        seed: Of the initial weights and the order of the batches.
        images: ``(N, C, S, S)`` in [0, 1], the images of the scores; needed where ``inversion_weight`` is not zero.
        report: Progress callback.
        checkpoint: File from which an interrupted training resumes.

    Returns:
        The purifier in eval mode, on the device of ``scores``.

    Raises:
        ValueError: Fewer than two score vectors, or no valid scores; not one image per vector, where needed.
    """
    check_scores(scores)
    if len(scores) < 2:
        raise ValueError(f"expected at least two reference vectors, got {len(scores)}")
    if config.inversion_weight and (images is None or len(images) != len(scores)):
        raise ValueError(
            f"expected {len(scores)} images for inversion_weight, got {0 if images is None else len(images)}"
        )
    device, labels = scores.device, scores.argmax(1)
    with seeded(seed, "purifier", "init"):
        purifier = Purifier(scores.shape[1], config).to(device)
        inner = None
        if config.inversion_weight and images is not None:
            inner = _InnerInverter(config, images.to(device), purifier)
    optimizer = Adam(purifier.parameters(), lr=config.learning_rate)
    order = generator(seed, "purifier", "order")
    state = Resumable(
        identity=digest([config.document(), seed, len(scores), float(scores.double().square().sum())]),
        modules={"purifier": purifier} | ({"inverter": inner.inverter} if inner else {}),
        optimizers={"adam": optimizer} | ({"inverter": inner.optimizer} if inner else {}),
        generators={"order": order},
    )
    for _ in epochs("purifier", config.epochs, state, checkpoint, report):
        purifier.train()
        steps = []
        batches = torch.randperm(len(scores), generator=order).to(device).split(config.batch_size)
        for batch in state.steps(batches, len(batches)):
            if len(batch) < 2:
                continue  # batch norm needs two
            log_scores = purifier.log_scores(scores[batch])
            terms = {
                "distance": (log_scores.exp() - scores[batch]).square().sum(1).mean(),
                "label": functional.nll_loss(log_scores, labels[batch]),
            }
            loss = terms["distance"] + config.label_weight * terms["label"]
            if inner is not None:
                terms["inversion_error"] = inner.error(log_scores, batch)
                loss = loss - config.inversion_weight * terms["inversion_error"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps.append({name: term.detach() for name, term in terms.items()})
        state.history.append({name: float(torch.stack([step[name] for step in steps]).mean()) for name in steps[0]})
    return purifier.eval()


class _InnerInverter:
    """The inverter H that a purifier is trained against, and the images that it reconstructs."""

    def __init__(self, config: PurifierConfig, images: Tensor, purifier: Purifier) -> None:
        _, channels, height, width = images.shape
        self.images = images
        self.inverter = PredictionInverter(purifier.classes, (channels, height, width), config.inverter_width)
        self.inverter.to(images.device)
        betas = (0.5, 0.999)
        self.optimizer = Adam(self.inverter.parameters(), config.inverter_learning_rate, betas, amsgrad=True)

    def error(self, log_scores: Tensor, batch: Tensor) -> Tensor:
        """Takes one inverter step on outputs ``(N, K)`` for images ``batch`` ``(N,)``; returns its MSE per pixel."""
        loss = functional.mse_loss(self.inverter(log_scores.detach()), self.images[batch])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.inverter.requires_grad_(False)
        error = functional.mse_loss(self.inverter(log_scores), self.images[batch])
        self.inverter.requires_grad_(True)
        return error


class _Saved(Config):
    """The file ``purifier.json``: everything but the weights."""

    format: Literal[1]
    classes: int = Field(ge=1)
    purifier: PurifierConfig


def save_purifier(folder: Path, purifier: Purifier, record: Mapping[str, Any]) -> None:
    """Writes ``purifier.json``, ``weights.safetensors`` and ``record.json`` (``record``) to ``folder``, atomically."""
    saved = {"format": FORMAT, "classes": purifier.classes, "purifier": purifier.config.document()}
    with written_folder(folder, PURIFIER) as partial:
        save_weights(partial / "weights.safetensors", purifier.state_dict())
        write_json(partial / "purifier.json", saved)
        write_json(partial / PURIFIER.mark, {"purifier": saved["purifier"], **record})


def load_purifier(folder: Path) -> Purifier:
    """The purifier that `save_purifier` wrote, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: ``folder`` holds no purifier.
        ValueError: Its files do not fit together.
    """
    if not (folder / "purifier.json").is_file():
        raise FileNotFoundError(f"expected a purifier (a folder that `splitleak purify` wrote) at {folder}")
    saved = _Saved.read(folder / "purifier.json")
    weights = load_weights(folder / "weights.safetensors")
    with (
        explained(folder / "purifier.json", "the sizes of a purifier"),
        torch.device("meta"),  # skips the initialisation of weights that are loaded anyway
    ):
        purifier = Purifier(saved.classes, saved.purifier)
    assign_weights(purifier, weights, f"{folder}: expected weights that fit its purifier.json", assign=True)
    return purifier.eval()
