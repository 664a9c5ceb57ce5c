"""``splitleak predict``: victims query a public service with their images, and publish its highest scores."""

import secrets
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, model_validator

from splitleak.artifacts import written_folder
from splitleak.config import Config
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images, are_outputs
from splitleak.edge.ledger import Entry, Ledger, images_digest
from splitleak.logs import Report, reported, silent
from splitleak.measures.scores import truncate
from splitleak.outputs import FolderKind, claimed
from splitleak.wire.address import ServiceTarget
from splitleak.wire.client import Scores
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.client.function import FunctionClient
from splitleak.wire.files.shared import SharedScores
from splitleak.wire.protocol.answer import Prediction

SHARED = FolderKind("predict", "ledger.json", ("shared-*.npz",))


class SharingConfig(Config):
    """The service that the victims query, and how many of its scores they publish."""

    service: ServiceTarget | None = Field(default=None, description="host:port or URL of the prediction service")
    function: str | None = Field(default=None, description="module:callable of the user's own, in a service's place")
    model: str | None = Field(default=None, description="its model; none: the only one, if the service lists them")
    share: tuple[NonNegativeInt, ...] = Field(
        default=(0,), min_length=1, description="how many of the highest scores are published; 0: all"
    )
    scores: Scores = Field(default="auto", description="kind of the service's output")
    output: str | None = Field(default=None, description="name of the output with the scores")
    channel: ChannelConfig = Field(default_factory=ChannelConfig, description="connection to the service")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.service is None) == (self.function is None):
            raise ValueError("expected a service or a function, got both or neither")
        return self

    def client(self) -> ClassifierClient | FunctionClient:
        """A client of the service, or the function in its place."""
        if self.function is not None:
            return FunctionClient(self.function, scores=self.scores)
        assert self.service is not None
        return ClassifierClient(self.service, self.model, scores=self.scores, output=self.output, channel=self.channel)


def share_predictions(
    config: SharingConfig, images: Path, out: Path, *, force: bool = False, report: Report = silent
) -> dict[str, Any]:
    """Queries the service with each image once, and writes the scores that the victims publish.

    It writes ``out/shared-<m or all>.npz`` for each number of scores, all truncated from the same responses, and
    ``out/ledger.json``, the victims' private record of the image behind each id. Ids are random and rows are sorted by
    them, so that neither reveals an image's place. Truncation comes on top of the service's policy. The ledger has
    labels if there are as many classes as scores, and these are not announced as the same classes in another order.

    Args:
        config: The service, and how much is published.
        images: File of images, of which the training pool is used, resized to the announced input.
        out: Folder to write to.
        force: Whether scores of other images, or of another model, at ``out`` are replaced.
        report: Hears of progress.

    Raises:
        BlockingIOError: Another process writes there.
        ConnectionError: The service cannot be reached.
        RuntimeError: The function fails.
        FileExistsError: ``out`` is there, and this did not write it, or, without ``force``, of other images.
        LookupError: It has no such model or output.
        ValueError: It takes other images, or gives fewer scores than are to be published.
    """
    with claimed(out, SHARED):
        victims = load_file(images).train
        if len(victims) == 0:
            raise ValueError(f"{images}: expected at least one image, got none")
        ids = [secrets.token_hex(8) for _ in range(len(victims))]
        images_told = images_digest(victims)
        with config.client() as client:
            model, digest, classes = client.model, client.digest, client.classes
            SHARED.check(out, {"images": images_told, "model": digest}, force=force)
            pixels = _fitted(victims, client.input_shape).floats().numpy()
            predictions: list[Prediction] = []
            for place, name in enumerate(reported(ids, "predict", len(ids), report)):
                predictions.append(client.ask(pixels[place : place + 1], name))
                if place == 0:
                    _check_shares(config.share, predictions[0].output.shape[1])
        labelled = are_outputs(victims.classes, predictions[0].output.shape[1], classes)
        labels = victims.labels.tolist() if labelled else [None] * len(ids)
        entries = tuple(
            Entry.of(prediction, place=place, label=labels[place]) for place, prediction in enumerate(predictions)
        )
        order = np.argsort(ids)
        scores = torch.from_numpy(np.concatenate([predictions[place].output for place in order]))
        published = {m: truncate(scores, m).numpy() if m else scores.numpy() for m in config.share}
        files = {m: f"shared-{m or 'all'}.npz" for m in published}
        names = tuple(ids[place] for place in order)
        ledger = Ledger(entries=entries, images=images_told, model=digest)
        with written_folder(out, SHARED) as partial:
            for m, rows in published.items():
                SharedScores(names, rows, m or None, model).save(partial / files[m])
            ledger.write(partial / SHARED.mark)
        return {
            "folder": str(out),
            "model": model,
            "classes": scores.shape[1],
            "requests": len(predictions),
            "shared": list(files.values()),
            **ledger.summary(),
        }


def _check_shares(share: tuple[int, ...], scores: int) -> None:
    """Refuses to publish more scores than there are, which one answer tells: no other is asked for."""
    for m in filter(None, share):
        truncate(torch.zeros(1, scores), m)


def _fitted(images: Images, shape: tuple[int, ...] | None) -> Images:
    """``images`` resized to the announced input; unchanged if it is not announced, or takes any size."""
    if shape is None or -1 in shape:
        return images
    channels, height, width = shape
    return images.fitted((height, width), channels)
