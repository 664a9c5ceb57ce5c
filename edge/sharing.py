"""What ``splitleak predict`` does: victims ask a public service about their images, and publish its highest scores."""

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt

from splitleak.config import Config
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.edge.ledger import Entry, Ledger
from splitleak.measures.scores import truncate
from splitleak.wire.address import Target
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.client.classifier import ClassifierClient, Scores
from splitleak.wire.files.shared import SharedScores


class SharingConfig(Config):
    """Which service the victims ask, and how much of its answers they publish."""

    service: Target = Field(description="host:port of the prediction service")
    model: str | None = Field(default=None, description="its model; none: the only one, where the service lists them")
    share: tuple[NonNegativeInt, ...] = Field(
        default=(0,), min_length=1, description="highest scores that are told; 0: all"
    )
    scores: Scores = Field(default="auto", description="what the service answers")
    output: str | None = Field(default=None, description="which of several outputs holds the scores")
    channel: ChannelConfig = Field(default_factory=ChannelConfig, description="how the service is reached")


def share_predictions(config: SharingConfig, images: Path, out: Path) -> dict[str, Any]:
    """Sends every image of ``images`` (its training pool) to the service, once, and writes what is published of it.

    ``out/shared-<m or all>.npz`` for each number of scores, all cut from the same answers; and ``out/ledger.json``,
    the victims' own record, which says which id was which image. Ids are drawn at random and rows are in their order,
    so that neither tells an image's place. What the victims leave out comes on top of the service's policy. Images
    are fitted to the service's size and channels, where it announces them.

    Raises:
        ConnectionError: The service cannot be reached.
        LookupError: It has no such model or output.
        ValueError: It takes no such images, or gives fewer scores than are to be told.
    """
    found = load_file(images).train
    if len(found) == 0:
        raise ValueError(f"{images}: expected at least one image, got none")
    ids = [secrets.token_hex(8) for _ in range(len(found))]
    with ClassifierClient(
        config.service, config.model, scores=config.scores, output=config.output, channel=config.channel
    ) as client:
        pixels = _fitted(found, client.input_shape).floats().numpy()
        predictions = [client.ask(pixels[place : place + 1], name) for place, name in enumerate(ids)]
        model = client.model
    labelled = predictions[0].output.shape[1] == len(found.classes)
    labels = found.labels.tolist() if labelled else [None] * len(ids)
    entries = tuple(
        Entry.of(prediction, place=place, label=labels[place]) for place, prediction in enumerate(predictions)
    )
    order = np.argsort(ids)
    told = torch.from_numpy(np.concatenate([predictions[place].output for place in order]))
    published = {m: truncate(told, m).numpy() if m else told.numpy() for m in config.share}
    files = {m: out / f"shared-{m or 'all'}.npz" for m in published}
    names = tuple(ids[place] for place in order)
    for m, scores in published.items():
        SharedScores(names, scores, m or None, model).save(files[m])
    ledger = Ledger(entries=entries)
    ledger.write(out / "ledger.json")
    return {
        "folder": str(out),
        "model": model,
        "classes": told.shape[1],
        "requests": len(predictions),
        "shared": [path.name for path in files.values()],
        **ledger.summary(),
    }


def _fitted(images: Images, shape: tuple[int, ...] | None) -> Images:
    """``images`` as the service takes them; as they are, where it does not say or takes no squares."""
    if shape is None or shape[1] != shape[2] or -1 in shape:
        return images
    return images.fitted(shape[1], shape[0])
