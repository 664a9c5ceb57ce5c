"""What ``splitleak edge`` does: stream a file of images to the cloud, keep the private record, then serve callers."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from splitleak.datasets.files import load_file
from splitleak.edge.client import EdgeClient, EdgeConfig, Images
from splitleak.edge.encoder import Encoder
from splitleak.edge.ledger import Entry, Ledger
from splitleak.edge.service import EdgeServiceConfig, edge
from splitleak.wire.address import bound_address
from splitleak.wire.server.server import ServerConfig, run_until_stopped


class Half(Encoder, Protocol):
    """An encoder that knows what the cloud calls the other half."""

    @property
    def name(self) -> str:
        """The model's name in the cloud, and the name under which the edge serves it."""


def run_edge(
    config: EdgeConfig,
    half: Half,
    *,
    images: Path | None,
    ledger: Path | None,
    server: ServerConfig | None,
    report: Callable[[dict[str, Any]], None],
    repeat: int = 1,
) -> None:
    """Streams ``images``, one a request, if given; then serves as ``server`` says, if given, until SIGINT or SIGTERM.

    ``report`` is told ``{"event": "streamed", "images", "accuracy", "bytes_per_image", "sent_again"}`` (requests that
    were sent more than once, as the connection broke) and ``{"event": "listening", "address"}``. Images are fitted to
    the encoder's size and channels, and each is sent ``repeat`` times in a row.
    ``ledger`` is written when all are answered.

    Raises:
        ConnectionError: The cloud cannot be reached, or is lost; the images without an answer are named.
        FileNotFoundError, ValueError, LookupError: Images or cloud are not there, or do not fit the half.
    """
    if images is not None:
        record = stream_file(config, half, images, repeat)
        if ledger is not None:
            record.write(ledger)
        again = sum(entry.sends - 1 for entry in record.entries)
        report({"event": "streamed", **record.summary(), "sent_again": again})
    if server is not None:
        service = EdgeServiceConfig(server=server, client=config)
        run_until_stopped(
            edge(service, half, half.name),
            lambda port: report({"event": "listening", "address": bound_address(server.address, port)}),
        )


def stream_file(config: EdgeConfig, half: Half, path: Path, repeat: int = 1) -> Ledger:
    """Streams every image of ``path`` (its training pool, in order), ``repeat`` times in a row; returns the record.

    Ids are ``<stream>-<place>``, or ``<stream>-<place>-<i>`` for the i-th of several, the stream's part drawn anew each
    time: a reader of the wire learns the order and no more. Labels are recorded if the file has as many classes as the
    cloud has outputs.

    Raises:
        ValueError: ``repeat`` is not positive, or the file is not one of images.
    """
    if repeat < 1:
        raise ValueError(f"expected each image to be sent at least once, got {repeat} times")
    channels, size, _ = half.input_shape
    found = load_file(path).train.fitted(size, channels)
    pixels = found.floats().numpy()
    stream = secrets.token_hex(4)

    def batches() -> Iterator[tuple[str, Images]]:
        for place, turn in itertools.product(range(len(pixels)), range(repeat)):
            name = f"{stream}-{place}" if repeat == 1 else f"{stream}-{place}-{turn}"
            yield name, np.ascontiguousarray(pixels[place : place + 1])

    with EdgeClient(half, config) as client:
        answers = list(client.stream(batches()))
    labelled = client.output_shape == (len(found.classes),)
    return Ledger(
        entries=tuple(
            Entry.of(prediction, place=at // repeat, label=int(found.labels[at // repeat]) if labelled else None)
            for at, prediction in enumerate(answers)
        )
    )
