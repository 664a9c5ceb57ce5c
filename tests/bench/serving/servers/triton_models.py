"""The models of the comparison as a repository for Triton's Python backend: ``triton_models.py FOLDER REPOSITORY``."""

import shutil
import sys
from pathlib import Path

from common import foreign_models
from models import CPU

from splitleak.defenses.artifact import load_cloud
from splitleak.models.triton import write_triton_model

NULL = """\
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for each in requests:
            features = pb_utils.get_input_tensor_by_name(each, "features").as_numpy()
            first = np.ascontiguousarray(features.reshape(len(features), -1)[:, :10])
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("logits", first)]))
        return answers
"""


def write(folder: Path, repository: Path):
    """The tail as `splitleak export --triton` writes it, and the null models with its configuration."""
    half = load_cloud(folder / "artifact" / "cloud", CPU)
    shutil.rmtree(repository, ignore_errors=True)
    for name, (shape, _) in foreign_models(folder).items():
        if name == "tail":
            write_triton_model(repository, name, half.head, shape, half.classes, backend="python")
            continue
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text(NULL)
        (repository / name / "config.pbtxt").write_text(
            f'backend: "python"\nmax_batch_size: 64\ndynamic_batching {{ }}\n'
            f'input {{ name: "features" data_type: TYPE_FP32 dims: {list(shape)} }}\n'
            f'output {{ name: "logits" data_type: TYPE_FP32 dims: [10] }}\n'
            "instance_group { count: 1 kind: KIND_CPU }\n"
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
