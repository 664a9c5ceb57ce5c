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
from splitleak.models.engine import image_probes
from splitleak.models.export import checked_onnx
from splitleak.models.imported_half import NETWORK, ImportedModel
from splitleak.seeding import resolve_device


def network_of_artifact(folder: Path) -> Network:
    """Both halves of an artifact as one network, as last trained, without the defenses on its wire.

    Raises:
        FileNotFoundError: There is no artifact at ``folder``.
        RuntimeError: What is written of them as one graph gives something else.
        ValueError: Its halves do not fit together.
    """
    target = whole_config(folder)
    if isinstance(target.model, ImportedModel) and target.training is None:
        return Network(joined(*(read_graph(folder / half / NETWORK) for half in ("edge", "cloud"))))
    model = load_whole(folder, resolve_device("cpu"))
    whole = nn.Sequential(OrderedDict(edge=model.edge.encoder, cloud=model.cloud.head))
    exported = checked_onnx(whole, image_probes(model.input_shape))
    return network_of(onnx.load_from_string(exported), NetworkConfig(), model.input_shape)
