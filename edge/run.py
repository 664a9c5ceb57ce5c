"""``splitleak edge``: streams a file of images to the cloud, writes the ledger, then serves callers."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from splitleak.datasets.files import load_file
from splitleak.edge.client import EdgeClient, EdgeConfig, Images
from splitleak.edge.encoder import Half
from splitleak.edge.ledger import Entry, Ledger, images_digest
from splitleak.edge.service import EdgeServiceConfig, edge
from splitleak.wire.address import bound_address
from splitleak.wire.server.server import ServerConfig, run_until_stopped


def run_edge(
    config: EdgeConfig,
    half: Half,
    *,
    images: Path | None,
    ledger: Path | None,
    server: ServerConfig | None,
    report: Callable[[dict[str, Any]], None],
    repeat: int = 1,
    model: str | None = None,
) -> None:
    """Streams images and then serves callers, each if asked for, until SIGINT or SIGTERM.

    Args:
        config: The cloud, and how it is used.
        half: The encoder with its defense.
        images: File of images to stream, one per request, resized to the encoder's input; None: none.
        ledger: Where the record of the stream is written once all are answered; None: nowhere.
        server: Where callers are served; None: nowhere.
        report: Called with ``{"event": "streamed", "images", "accuracy", "bytes_per_image", "sent_again"}`` (the last
            counts retries) and with ``{"event": "listening", "address"}``.
        repeat: How often each image is sent in a row.
        model: Digest of the half, for the ledger.

    Raises:
        FileExistsError: There is something else than a ledger at ``ledger``.
        ConnectionError: The cloud cannot be reached, or is lost; unanswered requests are named.
        FileNotFoundError, ValueError, LookupError: Images or model are missing, or do not fit the encoder.
    """
    if ledger is not None:
        Ledger.check_replaceable(ledger)
    if images is not None:
        record = stream_file(config, half, images, repeat, model)
        if ledger is not None:
            record.write(ledger)
        retries = sum(entry.sends - 1 for entry in record.entries)
        report({"event": "streamed", **record.summary(), "sent_again": retries})
    if server is not None:
        service = EdgeServiceConfig(server=server, client=config)
        run_until_stopped(
            edge(service, half, half.name),
            lambda port: report({"event": "listening", "address": bound_address(server.address, port)}),
        )


def stream_file(config: EdgeConfig, half: Half, path: Path, repeat: int = 1, model: str | None = None) -> Ledger:
    """Streams the images of a file's training pool, in order; returns their ledger.

    Request ids are ``<stream>-<place>``, or ``<stream>-<place>-<i>`` for the i-th repetition, with a random stream id:
    they reveal the order and nothing else. Labels are recorded if the file has as many classes as the cloud has logits.

    Args:
        config: The cloud, and how it is used.
        half: The encoder with its defense.
        path: File of images, resized to the encoder's input.
        repeat: How often each image is sent in a row.
        model: Digest of the half, for the ledger.

    Raises:
        ValueError: ``repeat`` is not positive, or the file is not one of images.
    """
    if repeat < 1:
        raise ValueError(f"expected each image to be sent at least once, got {repeat} times")
    channels, height, width = half.input_shape
    images = load_file(path, size=(height, width), channels=channels).train
    pixels = images.floats().numpy()
    stream = secrets.token_hex(4)

    def batches() -> Iterator[tuple[str, Images]]:
        for place, turn in itertools.product(range(len(pixels)), range(repeat)):
            name = f"{stream}-{place}" if repeat == 1 else f"{stream}-{place}-{turn}"
            yield name, np.ascontiguousarray(pixels[place : place + 1])

    with EdgeClient(half, config) as client:
        predictions = list(client.stream(batches()))
    labelled = client.agreement.output_shape == (len(images.classes),)
    return Ledger(
        entries=tuple(
            Entry.of(prediction, place=at // repeat, label=int(images.labels[at // repeat]) if labelled else None)
            for at, prediction in enumerate(predictions)
        ),
        images=images_digest(images),
        model=model,
    )
