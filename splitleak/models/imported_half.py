"""A half of an imported network: an ONNX file of the artifact, in ONNX Runtime, or in torch where gradients count."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import onnx
import torch
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.graphs.module import GraphModule, MissingOperations, missing_operations, weight_key
from splitleak.graphs.prepared import IMAGES
from splitleak.graphs.reading import every_node, read_graph
from splitleak.models.engine import Engine
from splitleak.models.export import OneByOne, OnnxModule

NETWORK = "network.onnx"
"""The file of a half that holds its graph, and the weights it was imported with."""


class ImportedModel(Config):
    """A network of the user's own, as `splitleak import` cut it; its halves are ONNX files in the artifact."""

    later: ClassVar[Mapping[str, object]] = {"arranged": []}

    architecture: Literal["imported"] = "imported"
    source: str  # the file's name, or module:callable
    network: str  # digest of the whole network, preprocessing included
    cut: str  # the tensors that cross, joined by ``+``
    image_shape: tuple[int, int, int]  # (C, H, W)
    features: tuple[int, ...]  # what crosses of one image, before defenses
    parts: tuple[tuple[int, ...], ...] = ()  # the tensors that ``features`` packs, where there are several
    arranged: tuple[tuple[int, ...], ...] = ()  # what these, or the one, were before the network flattened them
    classes: int  # numbers that the network gives for one image
    batched: bool = True  # or it takes one image at a time

    @property
    def position(self) -> str:
        """The cut."""
        return self.cut

    def packed(self, sent: tuple[int, ...]) -> tuple[tuple[int, ...], ...] | None:
        """The tensors that flat features ``sent`` pack, or were; None: neither, or a defense changed their shape."""
        return (self.arranged or self.parts or None) if sent == self.features else None


class Unreached(nn.Module):
    """In place of a half that torch does not compute: every use is an error that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def forward(self, values: Tensor) -> Tensor:
        raise ValueError(self.reason)


class StandIn(nn.Module):
    """In place of the other half, which is not there: zeros of the shape that it gives."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        return rows.new_zeros((len(rows), *self.shape))


def both_halves(networks: Mapping[str, bytes], model: object) -> tuple[nn.Module, nn.Module] | None:
    """Both halves of an imported network as torch modules, from their ONNX files; None: it is none.

    Raises:
        ValueError: A half is missing, or has operations that torch does not reach.
    """
    if not isinstance(model, ImportedModel):
        return None
    if lacking := {"edge", "cloud"} - {*networks}:
        raise ValueError(f"expected both halves of {model.source}, got no {sorted(lacking)[0]} half")
    edge, cloud = (_computed(onnx.load_from_string(networks[half]), model) for half in ("edge", "cloud"))
    return edge, cloud


def torch_half(path: Path, model: ImportedModel) -> nn.Module:
    """A half as a torch module in eval mode; where torch does not reach, one whose use is the error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ONNX file.
    """
    graph = read_graph(path)
    try:
        return _computed(graph, model).eval()
    except MissingOperations as error:
        got = ", ".join(error.operations)
        return Unreached(f"{path}: expected operations that torch computes here, for gradients or training, got {got}")


def unreached(graph: onnx.ModelProto) -> tuple[str, ...]:
    """What torch does not compute of a half as its file does, sorted; mostly nothing.

    In evaluation mode a `GraphModule` normalises by running statistics, whatever its file was written for.
    """
    return tuple(sorted({*missing_operations(graph), *_by_the_batch(graph)}))


def _by_the_batch(graph: onnx.ModelProto) -> Counter[str]:
    """Normalisations whose file takes the statistics of the batch itself, as it was written in training mode."""
    nodes = (node for node in every_node(graph.graph) if node.op_type == "BatchNormalization")
    return Counter(
        f"{node.op_type} with training_mode=1"
        for node in nodes
        if any(each.name == "training_mode" and each.i for each in node.attribute)
    )


def _computed(graph: onnx.ModelProto, model: ImportedModel) -> nn.Module:
    """A graph in torch; the constants of preprocessing are no weights to be trained."""
    if otherwise := _by_the_batch(graph):
        raise MissingOperations(otherwise)
    module = GraphModule(graph)
    for key, weight in module.named_parameters():
        weight.requires_grad_(not key.startswith(weight_key(f"{IMAGES}.")))
    return module if model.batched else OneByOne(module)


def checked_bytes(path: Path) -> bytes:
    """The ONNX file of a half, which may be a stranger's, in one piece.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ONNX file, or one that cannot be computed here.
    """
    return read_graph(path).SerializeToString()


def file_engine(path: Path, model: ImportedModel) -> Engine:
    """ONNX Runtime on the CPU with torch's number of threads, from the half's own file, which may be a stranger's.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ONNX file, or one that cannot be computed here.
    """
    session = OnnxModule(checked_bytes(path), torch.get_num_threads(), one_by_one=not model.batched)
    return Engine("onnx", lambda rows: torch.from_numpy(session(rows)), session)
