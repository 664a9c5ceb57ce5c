"""A trained target on disk: a folder with an edge half and a cloud half, so that each process gets only its own.

<artifact>/artifact.json              record of the training: config, data, accuracy, commit, hardware
<artifact>/edge/half.json             configuration of the half
<artifact>/edge/weights.safetensors   the encoder, and the defenses that act on what is sent
<artifact>/edge/network.onnx          the encoder of an imported network; weights.safetensors only once it is trained
<artifact>/cloud/half.json
<artifact>/cloud/weights.safetensors  the head
<artifact>/cloud/network.onnx
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from splitleak.artifacts import assign_weights, load_weights, provenance, save_weights, write_json, written_folder
from splitleak.config import Config, digest, read_table
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import Target, TargetConfig, assemble
from splitleak.models.engine import Engine, choose_engine, feature_probes, image_probes, torch_engine
from splitleak.models.imported_half import (
    NETWORK,
    ImportedModel,
    StandIn,
    Unreached,
    checked_bytes,
    file_engine,
    torch_half,
)
from splitleak.models.split import SplitModel
from splitleak.outputs import FolderKind
from splitleak.plugins import Plugin, check_recorded, recorded
from splitleak.plugins import allow as permit
from splitleak.seeding import generator
from splitleak.training.modules import to_channels_last

FORMAT = 1
_FITTING = "expected weights that fit its half.json"
_WEIGHTS = "weights.safetensors"
_OF_HALF = ("half.json", _WEIGHTS, NETWORK)
ARTIFACT = FolderKind(("train", "import"), "artifact.json", ("edge", "cloud"))


class HalfConfig(Config):
    """The file ``half.json``: everything but the weights."""

    format: Literal[1]
    half: Literal["edge", "cloud"]
    name: str
    dataset: str
    classes: tuple[str, ...]
    target: TargetConfig
    feature_shape: tuple[int, ...]
    plugins: tuple[Plugin, ...] = Field(default=(), description="code that is not splitleak's, which it needs")

    @property
    def parts(self) -> tuple[tuple[int, ...], ...] | None:
        """The tensors that an imported network's flat features pack, or were; None: neither, or not after defenses."""
        network = self.target.model
        return network.packed(self.feature_shape) if isinstance(network, ImportedModel) else None

    @model_validator(mode="before")
    @classmethod
    def _may_run(cls, values: object) -> object:
        """Refuses code that is not ours before a field is read, which would look for it."""
        check_recorded(recorded(values.get("plugins", ()) if isinstance(values, dict) else ()))
        return values


def save(folder: Path, name: str, target: Target) -> None:
    """Writes the artifact ``folder`` atomically; ``name`` is the model's name in the inference protocol.

    Raises:
        FileExistsError: ``folder`` is there, and no artifact.
        ValueError: Weights are not finite.
    """
    edge = {f"encoder.{key}": value for key, value in target.model.encoder.state_dict().items()}
    edge |= {f"stack.{key}": value for key, value in target.stack.on_wire_state().items()}
    half = {"dataset": target.dataset, "classes": target.classes, "feature_shape": target.model.feature_shape}
    weights = {"edge": edge, "cloud": target.model.head.state_dict()}
    _write(folder, name, target.config, half, target.record, weights, target.networks)


def save_imported(
    folder: Path,
    name: str,
    config: TargetConfig,
    networks: Mapping[str, bytes],
    *,
    classes: tuple[str, ...],
    record: Mapping[str, Any],
) -> None:
    """Writes an imported network, not trained here, as the artifact ``folder``, atomically.

    Args:
        folder: The artifact's.
        name: The model's name in the inference protocol.
        config: With an `ImportedModel` and no defense.
        networks: The ONNX files of the halves ``edge`` and ``cloud``.
        classes: Names of the outputs, or none.
        record: What `artifact.json` says of it: ``dataset``, ``accuracy`` and the rest.

    Raises:
        FileExistsError: ``folder`` is there, and no artifact.
    """
    assert isinstance(config.model, ImportedModel)
    half = {"dataset": record["dataset"]["dataset"], "classes": classes, "feature_shape": config.model.features}
    _write(folder, name, config, half, record, {}, networks)


def _write(
    folder: Path,
    name: str,
    config: TargetConfig,
    half: Mapping[str, Any],
    record: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    networks: Mapping[str, bytes],
) -> None:
    used = {"plugins": [asdict(plugin) for plugin in config.plugins()]} if config.plugins() else {}
    document = {"format": FORMAT, "name": name, "target": config.document(), **half, **used}
    with written_folder(folder, ARTIFACT) as partial:
        for part in ("edge", "cloud"):
            (partial / part).mkdir()
            if part in weights:
                save_weights(partial / part / _WEIGHTS, weights[part])
            if part in networks:
                (partial / part / NETWORK).write_bytes(networks[part])
            write_json(partial / part / "half.json", {**document, "half": part})
        about = {"name": name, "target": config.document(), **used, **record, "provenance": provenance()}
        write_json(partial / "artifact.json", about)


def read_record(folder: Path) -> dict[str, Any]:
    """The artifact's training record: config, data, accuracy, training history, provenance.

    Raises:
        FileNotFoundError: ``folder`` holds no artifact.
        LookupError: It was made with a plug-in that is not installed.
        PermissionError: It was made with a plug-in that is not allowed.
    """
    path = folder / "artifact.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected an artifact (a folder that {ARTIFACT.writers} wrote) at {folder}")
    document = read_table(path)
    check_recorded(recorded(document.get("plugins", ())), f"{folder}: made with")
    return document


def artifact_digest(folder: Path) -> str:
    """Twelve hexadecimal digits that change with any weight or setting of either half; not with when it was made.

    Raises:
        FileNotFoundError: ``folder`` holds no artifact.
    """
    return digest([each for half in ("edge", "cloud") for each in _digests(folder / half)])


def half_digest(folder: Path) -> str:
    """As `artifact_digest`, of the half ``folder`` alone.

    Raises:
        FileNotFoundError: ``folder`` is no half of an artifact.
    """
    return digest(_digests(folder))


def pair_digest(folder: Path) -> str:
    """Twelve hexadecimal digits of what ``half.json`` says of the artifact that the half ``folder`` is of."""
    return digest({key: value for key, value in read_table(folder / "half.json").items() if key != "half"})


def _digests(folder: Path) -> list[str]:
    """Of the files of a half: all of its kind."""
    named = [name for name in _OF_HALF if (folder / name).exists()]
    if not {_WEIGHTS, NETWORK} & {*named} or "half.json" not in named:
        raise FileNotFoundError(f"expected a half of an artifact (<artifact>/edge or cloud) at {folder}")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in named]


@dataclass(frozen=True)
class EdgeHalf:
    """The encoder and the defenses on the wire, loaded for inference."""

    config: HalfConfig
    encoder: nn.Module
    stack: Stack
    device: torch.device
    engine: Engine
    digest: str = ""  # of `half_digest`
    pair: str = ""  # of `pair_digest`

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.config.target.model.image_shape

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.config.feature_shape

    @torch.inference_mode()
    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images ``(N, C, H, W)`` in [0, 1] to the features sent ``(N, *feature_shape)``, defenses included."""
        writable = np.array(images, order="C")  # arrays decoded from a message are read-only, and torch warns of it
        sent = self.stack(self.engine(writable))
        result: NDArray[np.float32] = sent.float().cpu().contiguous().numpy()
        return result


@dataclass(frozen=True)
class CloudHalf:
    """The head, loaded for inference."""

    config: HalfConfig
    head: nn.Module
    device: torch.device
    engine: Engine | None = None  # none: torch
    digest: str = ""  # of `half_digest`
    pair: str = ""  # of `pair_digest`

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.config.feature_shape

    @property
    def classes(self) -> int:
        return self.config.target.model.classes

    @property
    def properties(self) -> dict[str, str]:
        """The model metadata of the inference protocol."""
        model = self.config.target.model
        return {
            "architecture": model.architecture,
            "cut": str(model.position),
            "feature_shape": json.dumps(self.config.feature_shape),
            "defenses": json.dumps([defense.name for defense in self.config.target.defenses]),
            "classes": json.dumps(self.config.classes),
            "engine": self._running.name,
            "digest": self.digest,
            "pair": self.pair,
        }

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features ``(N, *feature_shape)`` to logits ``(N, classes)``."""
        return self._running.values(features)

    @property
    def _running(self) -> Engine:
        return self.engine or torch_engine(self.head, self.device)


@dataclass(frozen=True)
class WholeModel:
    """Encoder, the defenses on the wire, and head as one model, loaded for inference."""

    edge: EdgeHalf
    cloud: CloudHalf

    @property
    def name(self) -> str:
        return self.cloud.name

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.edge.input_shape

    @property
    def classes(self) -> int:
        return self.cloud.classes

    @property
    def digest(self) -> str:
        """The digests of both halves."""
        return f"{self.edge.digest}-{self.cloud.digest}"

    @property
    def properties(self) -> dict[str, str]:
        """The model metadata of the inference protocol; the engine is that of both halves, or ``edge's + cloud's``."""
        properties = self.cloud.properties
        engines = dict.fromkeys((self.edge.engine.name, properties["engine"]))
        return {**properties, "engine": " + ".join(engines), "digest": self.digest}

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``, defenses included."""
        return self.cloud.predict(self.edge.encode(images))


def load_edge(
    folder: Path,
    device: torch.device,
    *,
    seed: int | None = None,
    engine: str = "torch",
    allow: Iterable[str] = (),
) -> EdgeHalf:
    """Loads an edge half.

    Args:
        folder: ``<artifact>/edge``.
        device: Where it runs.
        seed: Of the defenses' noise; None: from system entropy.
        engine: Runs the encoder (see `choose_engine`). The default, torch, is bit-identical to the trained encoder. The
            defenses on the wire run in torch with every engine, and draw the same noise under one seed.
        allow: Distributions whose plug-ins it may run, if it was made with any, see `splitleak.plugins.allow`.

    Raises:
        FileNotFoundError: There is no half at ``folder``.
        LookupError: It was made with a plug-in that is not installed.
        PermissionError: It was made with a plug-in that is not allowed.
        ValueError: It is the other half, or its files do not match.
        RuntimeError: The engine cannot compute it.
    """
    permit(*allow)
    config, model, weights = _load(folder, "edge", in_torch=not _by_onnx_runtime(engine, device))
    stack = Stack.build(config.target.defenses, on_wire_only=True)
    if weights is not None:
        whole = nn.ModuleDict({"encoder": model.encoder, "stack": stack})
        assign_weights(whole, weights, f"{folder}: {_FITTING}", assign=True)
    stack.to(device).eval()
    stack.seed(seed, device)
    encoder = to_channels_last(model.encoder, device).eval()
    probes = image_probes(config.target.model.image_shape)
    runner = _engine(folder, config, engine, encoder, device, probes, torch.channels_last, trained=weights is not None)
    return EdgeHalf(config, encoder, stack, device, runner, half_digest(folder), pair_digest(folder))


def load_cloud(
    folder: Path,
    device: torch.device,
    *,
    seed: int | None = None,
    engine: str = "torch",
    allow: Iterable[str] = (),
) -> CloudHalf:
    """Loads a cloud half.

    Args:
        folder: ``<artifact>/cloud``.
        device: Where it runs.
        seed: Of stochastic layers of the head (those with a ``generator``); None: from system entropy.
        engine: Runs the head (see `choose_engine`).
        allow: As `load_edge` takes it.

    Raises:
        FileNotFoundError: There is no half at ``folder``.
        LookupError: It was made with a plug-in that is not installed.
        PermissionError: It was made with a plug-in that is not allowed.
        ValueError: It is the other half, or its files do not match.
        RuntimeError: The engine cannot compute it.
    """
    permit(*allow)
    config, model, weights = _load(folder, "cloud", in_torch=not _by_onnx_runtime(engine, device))
    if weights is not None:
        assign_weights(model.head, weights, f"{folder}: {_FITTING}", assign=True)
    head = to_channels_last(model.head, device).eval()
    for name, layer in head.named_modules():
        if hasattr(layer, "generator"):
            layer.generator = generator(seed, "head", name, device=device)
    probes = feature_probes(config.feature_shape)
    runner = _engine(folder, config, engine, head, device, probes, torch.preserve_format, trained=weights is not None)
    return CloudHalf(config, head, device, runner, half_digest(folder), pair_digest(folder))


def load_whole(
    folder: Path,
    device: torch.device,
    *,
    seed: int | None = None,
    engine: str = "torch",
    allow: Iterable[str] = (),
) -> WholeModel:
    """Loads both halves of the artifact ``folder``, as `load_edge` and `load_cloud` do.

    Raises:
        FileNotFoundError: There is no artifact at ``folder``, or one half is missing.
        LookupError: It was made with a plug-in that is not installed.
        PermissionError: It was made with a plug-in that is not allowed.
        ValueError: The halves are of different artifacts, or their files do not match.
        RuntimeError: The engine cannot compute a half.
    """
    edge = load_edge(folder / "edge", device, seed=seed, engine=engine, allow=allow)
    cloud = load_cloud(folder / "cloud", device, seed=seed, engine=engine)
    _check_same(folder, edge.config, cloud.config)
    return WholeModel(edge, cloud)


def whole_config(folder: Path) -> TargetConfig:
    """What both halves of the artifact ``folder`` are of; their weights are not read.

    Raises:
        FileNotFoundError: There is no artifact at ``folder``, or one half is missing.
        ValueError: The halves are of different artifacts.
    """
    edge, cloud = _read_half(folder / "edge", "edge"), _read_half(folder / "cloud", "cloud")
    _check_same(folder, edge, cloud)
    return edge.target


def imported_graph(folder: Path) -> bytes | None:
    """The ONNX file of the half ``folder``, as it was imported; None: it was not, or it was trained since.

    Raises:
        FileNotFoundError: There is no such half.
        ValueError: It is no ONNX file, or one that cannot be computed here.
    """
    if (folder / _WEIGHTS).exists() or not (folder / NETWORK).exists():
        return None
    return checked_bytes(folder / NETWORK)


def packed_parts(folder: Path) -> tuple[tuple[int, ...], ...] | None:
    """The tensors that the features of the artifact ``folder`` pack, or were before they were flattened; None: neither.

    Raises:
        FileNotFoundError: There is no artifact.
    """
    return _read_half(folder / "edge", "edge").parts


def _check_same(folder: Path, edge: HalfConfig, cloud: HalfConfig) -> None:
    if edge.model_copy(update={"half": "cloud"}) != cloud:
        raise ValueError(f"{folder}: expected two halves of one artifact, got {edge.name!r} and {cloud.name!r}")


def _read_half(folder: Path, half: str) -> HalfConfig:
    path = folder / "half.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a half of an artifact (<artifact>/{half}) at {folder}")
    config = HalfConfig.read(path)
    if config.half != half:
        raise ValueError(f"{folder}: expected the {half} half, got the {config.half} half")
    return config


def _load(folder: Path, half: str, *, in_torch: bool) -> tuple[HalfConfig, SplitModel, dict[str, torch.Tensor] | None]:
    """A half with its weights, if it has a file of them; one as it was imported has a torch form only ``in_torch``."""
    config = _read_half(folder, half)
    network, imported, weights = config.target.model, None, None
    if not isinstance(network, ImportedModel) or (folder / _WEIGHTS).exists():
        weights = load_weights(folder / _WEIGHTS)
    if isinstance(network, ImportedModel):
        own: nn.Module = Unreached(f"{folder}: expected to be loaded with engine 'torch', got another")
        if in_torch or weights is not None:
            own = torch_half(folder / NETWORK, network)
        edge, head = StandIn(network.features), StandIn((network.classes,))
        imported = (own, head) if half == "edge" else (edge, own)
    with torch.device("meta"):  # builds the other half too, without memory or weights
        model, stack = assemble(config.target, config.dataset, imported)
        stack.finish(model)
    return config, model, weights


def _engine(
    folder: Path,
    config: HalfConfig,
    engine: str,
    module: nn.Module,
    device: torch.device,
    probes: list[NDArray[np.float32]],
    layout: torch.memory_format,
    *,
    trained: bool,
) -> Engine:
    """The engine of a half; an imported one as it came runs from its own file where torch is not asked for."""
    network = config.target.model
    from_file = isinstance(module, Unreached) or _by_onnx_runtime(engine, device)
    if isinstance(network, ImportedModel) and not trained and from_file:
        return file_engine(folder / NETWORK, network)
    return choose_engine(engine, module, device, probes, layout)


def _by_onnx_runtime(engine: str, device: torch.device) -> bool:
    """Whether an imported half as it came is computed from its own file."""
    return engine in ("auto", "onnx") and device.type == "cpu"
