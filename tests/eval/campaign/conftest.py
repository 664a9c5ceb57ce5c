"""A network of a user's own, as campaigns take it: an ONNX file, and an artifact of one of its cuts."""

import onnx
import pytest
import torch

from splitleak.defenses.importing import import_network
from splitleak.graphs.importing import NetworkConfig, network_of
from splitleak.graphs.reading import read_graph
from splitleak.graphs.user_module import export_module
from tests.splitleak.graphs.test_network import Residual

OWN_CUT = "/stem/Conv_output_0"


@pytest.fixture
def own_network(tmp_path):
    """``own_network(seed)`` writes ``net.onnx`` and ``mine/``, cut at `OWN_CUT`, and returns their folder.

    Images are 3×16×24, outputs 5.
    """

    def make(seed=0):
        torch.manual_seed(seed)
        path = tmp_path / "net.onnx"
        onnx.save(export_module(Residual().eval(), {"image": (3, 16, 24)}), path)
        network = network_of(read_graph(path), NetworkConfig())
        about = {"source": path.name, "name": "mine", "names": None, "images": None}
        import_network(network, network.cut(OWN_CUT), tmp_path / "mine", **about, force=True)
        return tmp_path

    return make
