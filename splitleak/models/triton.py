"""Export of the cloud half to the model repository of a Triton Inference Server, which replaces our cloud."""

import json
import re
from pathlib import Path

from torch import nn

from splitleak.artifacts import provenance, write_json, written_folder
from splitleak.models import TRITON_BACKENDS
from splitleak.models.engine import feature_probes
from splitleak.models.export import checked_onnx, takes_one
from splitleak.onnx_runtime import session_of
from splitleak.outputs import FolderKind

MODEL = FolderKind("export", "splitleak.json", ("config.pbtxt", "1"))
_INPUT, _OUTPUT = "features", "logits"

_CONFIG = """\
name: {name}
backend: "{backend}"
max_batch_size: {max_batch_size}
input {{ name: "{input}" data_type: TYPE_FP32 dims: {input_shape} }}
output {{ name: "{output}" data_type: TYPE_FP32 dims: {output_shape} }}
dynamic_batching {{ }}
"""

_ON_CPU = "instance_group { count: 1 kind: KIND_CPU }\n"  # by default a Python model has one instance for each GPU

_PYTHON_MODEL = '''\
"""The cloud half of a split network in Triton's Python backend; its Python needs numpy and onnxruntime."""

import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Computes what Triton has batched in one run."""

    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        batches = [pb_utils.get_input_tensor_by_name(each, "{input}").as_numpy() for each in requests]
        logits = self.session.run(["{output}"], {{"{input}": np.concatenate(batches)}})[0]
        ends = np.cumsum([len(batch) for batch in batches])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("{output}", part)]) for part in np.split(logits, ends[:-1])]
'''


def write_triton_model(
    repository: Path,
    name: str,
    head: nn.Module,
    feature_shape: tuple[int, ...],
    classes: int,
    *,
    graph: bytes | None = None,
    one_by_one: bool = False,
    backend: str = "onnxruntime",
    max_batch_size: int = 64,
    replace: bool = False,
) -> Path:
    """Writes a head as version 1 of a Triton model: config.pbtxt and 1/model.onnx, after a parity check.

    The folder is written atomically; other models of the repository are left alone. Input, output and dynamic batching
    are those of our cloud.

    Args:
        repository: Triton's model repository.
        name: Of the model, and its folder.
        head: Features ``(N, *feature_shape)`` to logits ``(N, classes)``.
        feature_shape: Without batch dimension.
        classes: Number of logits.
        graph: The head as ONNX already, as an imported one is; None: it is exported.
        one_by_one: It takes one row at a time.
        backend: ``python``, for a Triton without ``onnxruntime``, adds 1/model.py.
        max_batch_size: Of Triton's dynamic batching; 1, of a head that takes one row at a time.
        replace: Overwrite an existing model that was exported so.

    Returns:
        The model's folder ``<repository>/<name>``.

    Raises:
        ValueError: ``name`` is not valid as a folder's name.
        FileExistsError: The model exists, and ``replace`` is false or something else made it.
        RuntimeError: ONNX Runtime computes other logits than ``head``.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"expected a name of letters, digits and _ - . + for Triton, got {name!r}")
    TRITON_BACKENDS.known(backend)
    folder = repository / name
    if folder.exists() and not replace:
        raise FileExistsError(f"expected no model at {folder}, got one; --force replaces it")
    MODEL.check(folder)
    alone = one_by_one or takes_one(head)
    if graph is None:
        graph = checked_onnx(head, feature_probes(feature_shape), (_INPUT, _OUTPUT))
    else:
        session_of(graph, 1)  # an error here, and not in Triton
    config = _CONFIG.format(
        name=json.dumps(name, ensure_ascii=False),
        backend=backend,
        max_batch_size=1 if alone else max_batch_size,
        input=_INPUT,
        input_shape=list(feature_shape),
        output=_OUTPUT,
        output_shape=[classes],
    )
    with written_folder(folder, MODEL) as partial:
        (partial / "1").mkdir()
        (partial / "1" / "model.onnx").write_bytes(graph)
        if backend == "python":
            config += _ON_CPU
            (partial / "1" / "model.py").write_text(
                _PYTHON_MODEL.format(input=_INPUT, output=_OUTPUT), encoding="utf-8"
            )
        (partial / "config.pbtxt").write_text(config, encoding="utf-8")
        write_json(partial / MODEL.mark, {"provenance": provenance()})  # Triton reads no such file
    return folder
