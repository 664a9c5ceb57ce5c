"""An artifact's network in one piece, to be cut anew."""

from collections import OrderedDict
from pathlib import Path

import onnx
from torch import nn

from splitleak.defenses.artifact import load_whole, whole_config
from splitleak.graphs.halves import joined
from splitleak.graphs.importing import NetworkConfig, network_of
from splitleak.graphs.network import Network
from splitleak.graphs.reading import read_graph
from splitleak.models.export import onnx_bytes
from splitleak.models.imported_half import NETWORK, ImportedModel
from splitleak.seeding import resolve_device


def network_of_artifact(folder: Path) -> Network:
    """Both halves of an artifact as one network, as last trained, without the defenses on its wire.

    Raises:
        FileNotFoundError: There is no artifact at ``folder``.
        ValueError: Its halves do not fit together.
    """
    target = whole_config(folder)
    if isinstance(target.model, ImportedModel) and target.training is None:
        return Network(joined(*(read_graph(folder / half / NETWORK) for half in ("edge", "cloud"))))
    model = load_whole(folder, resolve_device("cpu"))
    halves = OrderedDict(edge=model.edge.encoder, cloud=model.cloud.head)
    exported = onnx.load_from_string(onnx_bytes(nn.Sequential(halves), model.input_shape))
    return network_of(exported, NetworkConfig(), model.input_shape)
