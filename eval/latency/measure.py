"""Test bench of a latency sweep: edge halves in this process, clouds and links as processes, a client per setting."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitleak.datasets import load
from splitleak.defenses.artifact import HalfConfig, WholeModel, load_cloud, load_edge, read_record, save
from splitleak.defenses.training import Target, assemble
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.edge.device import EmulatedHalf, stretched
from splitleak.edge.encoder import Half, PassThrough
from splitleak.edge.profiles import DEVICES, DeviceProfile
from splitleak.eval.campaign.processes import Service, service
from splitleak.eval.latency.plan import NO_LINK, Setting, SweepConfig
from splitleak.models.imported_half import ImportedModel
from splitleak.seeding import resolve_device
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.metadata import read_metadata
from splitleak.wire.link.link import PROFILES, LinkConfig
from splitleak.wire.protocol.answer import Prediction

ROUND = 10
_START_S = 120.0
_IMAGES = 256

Floats = NDArray[np.float32]
Sample = dict[str, float]
"""One request: milliseconds by part, and ``sent_bytes``."""


@dataclass(frozen=True)
class Subject:
    """A target to be measured; ``fresh``: with untrained weights, on which latency does not depend."""

    folder: Path
    half: HalfConfig
    fresh: bool


@dataclass(frozen=True)
class Runner:
    """A setting, ready to be measured: ``run(batches)`` sends them and returns one sample per batch."""

    setting: Setting
    facts: dict[str, Any]
    images: Floats
    run: Callable[[Sequence[Floats]], list[Sample]]

    def round(self, turn: int) -> tuple[list[Sample], float]:
        """One round of requests, with different images each time: its samples, and the throughput in images/s."""
        batch, count = self.setting.batch, max(ROUND, 4 * (self.setting.window or 1))
        draw = np.random.default_rng(turn)
        batches = [self.images[draw.integers(0, len(self.images), batch)] for _ in range(count)]
        started = time.monotonic()
        samples = self.run(batches)
        return samples, batch * count / (time.monotonic() - started)


@contextmanager
def bench(config: SweepConfig) -> Iterator[list[Runner]]:
    """Starts everything that ``config`` sweeps, and stops it when the block ends.

    Raises:
        FileNotFoundError: There is no artifact.
        ValueError: An architecture has no such cut, two targets one name, or there is no such device or link profile.
        RuntimeError: A process did not start; the end of its log is in the message.
    """
    link_profiles(config)
    emulated = DEVICES.choose(config.device_profile) if config.device_profile else None
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        subjects = list(_subjects(config, Path(scratch)))
        names = [subject.half.name for subject in subjects]
        if len(set(names)) != len(names):
            raise ValueError(f"expected artifacts whose models have names of their own, got {names}")
        settings = list(config.settings(len(subjects)))
        services = _Services(config, subjects, Path(scratch), stack)
        for setting in settings:  # start in parallel, wait later
            if setting.way != "device":
                services.start_cloud(setting)
        yield [_runner(config, setting, emulated, subjects, services, stack) for setting in settings]


def link_profiles(config: SweepConfig) -> dict[str, LinkConfig]:
    """The emulated links of ``config`` by name, without loopback.

    Raises:
        ValueError: There is no such profile.
    """
    return {name: PROFILES.choose(name).config for name in config.links if name != NO_LINK}


def _subjects(config: SweepConfig, scratch: Path) -> Iterator[Subject]:
    halves = []
    for artifact in config.artifacts:
        read_record(artifact)
        halves.append(HalfConfig.read(artifact / "edge" / "half.json"))
        yield Subject(artifact, halves[-1], fresh=False)
    for half in halves:
        for cut in config.cuts:
            if cut != half.target.model.position:
                folder = scratch / f"{len(list(scratch.iterdir()))}"
                yield Subject(folder, _recut(half, cut, folder), fresh=True)


def _recut(half: HalfConfig, cut: int, folder: Path) -> HalfConfig:
    """Writes an untrained artifact of the same architecture and defenses with another cut.

    Raises:
        ValueError: The architecture has no such cut, or it was imported, at the cut that it has.
    """
    if isinstance(half.target.model, ImportedModel):
        what = f"cut {cut}: expected targets of architectures of splitleak's own for further cuts"
        raise ValueError(f"{what}, got {half.name!r}, which was imported at its cut; import it at others")
    model_document = {**half.target.model.document(), "cut": cut}
    target = type(half.target).parse({**half.target.document(), "model": model_document}, source=f"cut {cut}")
    model, stack = assemble(target, half.dataset)
    stack.finish(model)
    model.eval()
    save(folder, f"{half.name} at cut {cut}", Target(target, half.classes, half.dataset, model, stack, {}))
    return HalfConfig.read(folder / "edge" / "half.json")


class _Services:
    """Starts each cloud and each link once, as processes."""

    def __init__(self, config: SweepConfig, subjects: Sequence[Subject], scratch: Path, stack: ExitStack) -> None:
        self._config, self._subjects, self._scratch, self._stack = config, subjects, scratch, stack
        self._clouds: dict[tuple[int, str, bool], Service] = {}
        self._addresses: dict[tuple[Any, ...], str] = {}

    def start_cloud(self, setting: Setting) -> None:
        """Starts the cloud of a setting, unless it runs."""
        key = _cloud_key(setting)
        if key in self._clouds:
            return
        folder, config = self._subjects[setting.target].folder, self._config
        artifact_arguments = [str(folder), "--whole"] if setting.way == "image" else [str(folder / "cloud")]
        engine_arguments = ["--device", config.device, "--engine", setting.engine]
        engine_arguments += ["--threads", str(config.threads)] if config.threads else []
        self._clouds[key] = self._service(["cloud", *artifact_arguments, "--listen", "127.0.0.1:0", *engine_arguments])

    def address(self, setting: Setting) -> str:
        """Address of the setting's cloud, through its link."""
        key = _cloud_key(setting)
        if key not in self._addresses:
            self._addresses[key] = self._clouds[key].wait_for("listening", _START_S)["address"]
        if setting.link == NO_LINK:
            return self._addresses[key]
        link_key = (*key, setting.link)
        if link_key not in self._addresses:
            upstream = ("--upstream", self._addresses[key], "--listen", "127.0.0.1:0")
            link = self._service(["link", *upstream, "--profile", str(setting.link)])
            self._addresses[link_key] = link.wait_for("listening", _START_S)["address"]
        return self._addresses[link_key]

    def _service(self, arguments: Sequence[str]) -> Service:
        log = self._scratch / f"{len(self._clouds)}-{len(self._addresses)}.log"
        return self._stack.enter_context(service(arguments, log))


def _cloud_key(setting: Setting) -> tuple[int, str, bool]:
    return setting.target, setting.engine, setting.way == "image"


def _runner(
    config: SweepConfig,
    setting: Setting,
    emulated: DeviceProfile | None,
    subjects: Sequence[Subject],
    services: _Services,
    stack: ExitStack,
) -> Runner:
    subject, device = subjects[setting.target], resolve_device(config.device)
    model = subject.half.target.model
    facts: dict[str, Any] = {
        **setting.document(),
        "target": subject.half.name,
        "architecture": model.architecture,
        "cut": model.position,
        "fresh_weights": subject.fresh,
    }
    images = _images(model.image_shape)
    factor = emulated.factor if emulated else 1.0
    sender: Half = PassThrough(model.image_shape)
    if setting.way != "image":
        sender = half = load_edge(subject.folder / "edge", device, engine=setting.engine)
        facts["edge_engine"] = half.engine.name
    if setting.way == "device":
        whole = WholeModel(half, load_cloud(subject.folder / "cloud", device, engine=setting.engine))
        facts["edge_engine"] = whole.properties["engine"]
        return Runner(setting, facts, images, lambda batches: _compute(stretched(whole.predict, factor), batches))
    address = services.address(setting)
    facts["cloud_engine"] = _announced(address, subject.half.name).get("engine", "unknown")
    client_settings = {"cloud": address, "model": subject.half.name, "codec": setting.codec, "window": setting.window}
    client_config = EdgeConfig.parse(client_settings, source="latency")
    encoder = EmulatedHalf(sender, emulated) if emulated else sender
    client = stack.enter_context(EdgeClient(encoder, client_config))
    return Runner(setting, facts, images, lambda batches: _send(client, batches))


@cache
def _images(shape: tuple[int, int, int]) -> Floats:
    """Built-in images, the same in every channel."""
    channels, *size = shape
    grey = load("builtin").train.select(torch.arange(_IMAGES)).fitted((size[0], size[1]), 1).floats()
    pixels: Floats = grey.expand(-1, channels, -1, -1).contiguous().numpy()
    return pixels


def _send(client: EdgeClient, batches: Sequence[Floats]) -> list[Sample]:
    """Sends requests one by one, or, with a window above 1, pipelined."""
    named = ((str(place), batch) for place, batch in enumerate(batches))
    if client.config.window == 1:
        return [sample(client.submit(batch, name).result()) for name, batch in named]
    return [sample(prediction) for prediction in client.stream(named)]


def sample(answer: Prediction) -> Sample:
    """The latency parts and bytes of a prediction."""
    parts = ("encode", "serialise", "network", "queue", "compute", "total")
    return {**{f"{part}_ms": getattr(answer, f"{part}_us") / 1000 for part in parts}, "sent_bytes": answer.sent_bytes}


def _compute(predict: Callable[[Floats], Floats], batches: Sequence[Floats]) -> list[Sample]:
    samples = []
    for batch in batches:
        started = time.monotonic()
        predict(batch)
        elapsed_ms = (time.monotonic() - started) * 1000
        nothing = dict.fromkeys(("serialise_ms", "network_ms", "queue_ms", "compute_ms", "sent_bytes"), 0.0)
        samples.append({"encode_ms": elapsed_ms, **nothing, "total_ms": elapsed_ms})
    return samples


def _announced(address: str, model: str) -> dict[str, str]:
    """The model metadata of a service."""
    with connect(address, ChannelConfig()) as channel:
        where = f"model {model!r} at {address}"
        return dict(read_metadata(channel, model, where=where, timeout_s=_START_S).properties)
