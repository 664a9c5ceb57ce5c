"""``splitleak edge``: streams a file of images to the cloud, writes the ledger, then serves callers."""

import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images as LabelledImages
from splitleak.datasets.images import are_outputs
from splitleak.edge.client import EdgeClient, EdgeConfig, Images
from splitleak.edge.encoder import Half
from splitleak.edge.ledger import Entry, Ledger, images_digest
from splitleak.edge.service import EdgeServiceConfig, edge
from splitleak.logs import Report, progress, reported, silent
from splitleak.outputs import locked
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
    rate: float | None = None,
    model: str | None = None,
    classes: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Streams images and then serves callers, each if asked for, until SIGINT or SIGTERM.

    Args:
        config: The cloud, and how it is used.
        half: The encoder with its defense.
        images: File of images to stream, one per request, resized to the encoder's input; None: none.
        ledger: Where the record of the stream is written once all are answered, and no other edge's meanwhile; None:
            nowhere.
        server: Where callers are served; None: nowhere.
        report: Called with ``{"event": "streamed", "images", "accuracy", "bytes_per_image", "sent_again"}`` (the last
            counts retries) and with ``{"event": "listening", "address"}``.
        repeat: How often each image is sent in a row.
        rate: Requests a second, at most; None: no limit.
        model: Digest of the half, for the ledger.
        classes: Names of the model's outputs; none: not told.
        force: Whether a ledger of other images or another half is replaced.

    Raises:
        BlockingIOError: Another edge streams, and will write its own ledger there.
        FileExistsError: There is something else than a ledger at ``ledger``; or, without ``force``, one of other images
            or of another half.
        ConnectionError: The cloud cannot be reached, or is lost; unanswered requests are named.
        FileNotFoundError, ValueError, LookupError: Images or model are missing, or do not fit the encoder.
    """
    if ledger is not None:
        Ledger.check_replaceable(ledger)
    if images is not None:
        shown = images_for(half, images)
        with contextlib.nullcontext() if ledger is None else locked(ledger.resolve()):
            if ledger is not None:
                Ledger.check_replaceable(ledger, {"images": images_digest(shown), "model": model}, force=force)
            with progress("edge") as heard:
                record = stream_images(config, half, shown, repeat, model, rate, heard, classes)
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


def images_for(half: Half, path: Path) -> LabelledImages:
    """The images of a file's training pool, as the encoder takes them.

    Raises:
        ValueError: The file is not one of images.
    """
    channels, height, width = half.input_shape
    return load_file(path, size=(height, width), channels=channels).train


def stream_images(
    config: EdgeConfig,
    half: Half,
    images: LabelledImages,
    repeat: int = 1,
    model: str | None = None,
    rate: float | None = None,
    report: Report = silent,
    classes: Sequence[str] = (),
) -> Ledger:
    """Streams images in order; returns their ledger.

    Request ids are ``<stream>-<place>``, or ``<stream>-<place>-<i>`` for the i-th repetition, with a random stream id:
    they reveal the order and nothing else. Labels are recorded if there are as many classes as the cloud has logits,
    and these are not known to be of the same classes in another order.

    Args:
        config: The cloud, and how it is used.
        half: The encoder with its defense.
        images: Of the shape that the encoder takes, see `images_for`.
        repeat: How often each image is sent in a row.
        model: Digest of the half, for the ledger.
        rate: Requests a second, at most; None: no limit.
        report: Hears of progress.
        classes: Names of the model's outputs; none: not told.

    Raises:
        ValueError: ``repeat`` is not positive.
    """
    if repeat < 1:
        raise ValueError(f"expected each image to be sent at least once, got {repeat} times")
    pixels = images.floats().numpy()
    stream = secrets.token_hex(4)

    def batches() -> Iterator[tuple[str, Images]]:
        due = time.monotonic()
        for place, turn in itertools.product(range(len(pixels)), range(repeat)):
            if rate is not None:
                time.sleep(max(0.0, due - time.monotonic()))
                late = time.monotonic() - due
                due += 1 / rate + (late if late >= 1 / rate else 0.0)  # what was held up is not made up for
            name = f"{stream}-{place}" if repeat == 1 else f"{stream}-{place}-{turn}"
            yield name, np.ascontiguousarray(pixels[place : place + 1])

    with EdgeClient(half, config) as client:
        predictions = list(reported(client.stream(batches()), "stream", len(pixels) * repeat, report))
    shape = client.agreement.output_shape
    labelled = len(shape) == 1 and are_outputs(images.classes, shape[0], classes)
    return Ledger(
        entries=tuple(
            Entry.of(prediction, place=at // repeat, label=int(images.labels[at // repeat]) if labelled else None)
            for at, prediction in enumerate(predictions)
        ),
        images=images_digest(images),
        model=model,
        codec=config.codec,
    )
