"""The models of the comparison, for the servers that have torch: ``models.py FOLDER`` writes what they all load.

The real half is the cloud's of a VGG-11 at full width, for colour images of 32 pixels, cut after its first pool:
features 64 x 16 x 16 (64 KB) in, 10 logits out, 9.2 million parameters. It is untrained, and always the same.
"""

import sys
import warnings
from pathlib import Path

import torch
from common import INPUT, OUTPUT, foreign_models

from splitleak.defenses.artifact import load_cloud, save
from splitleak.defenses.training import Target, TargetConfig, assemble
from splitleak.models.export import check_parity, onnx_bytes
from splitleak.models.split import ModelConfig

CPU = torch.device("cpu")
DESIGN = ModelConfig(width=1.0, channels=3, size=32, classes=10, cut=2)


def eager(module):
    """``module`` in torch as it comes."""
    plain = module.to(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def compute(features):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what came in a message cannot be written to
            return plain(torch.from_numpy(features)).numpy()

    return compute


def models(folder: Path):
    """By name the feature's shape and what computes it; ``tail`` is in ONNX Runtime, ``eager`` the same in torch."""
    torch.set_num_threads(1)
    half = load_cloud(folder / "artifact" / "cloud", CPU)
    return {**foreign_models(folder), "eager": (half.feature_shape, eager(half.head))}


def write(folder: Path):
    """Writes the artifact, and its cloud half as ``tail.onnx``, which servers without torch load."""
    config = TargetConfig(model=DESIGN)
    model, stack = assemble(config, "cifar10")
    model.train()
    model(torch.rand(64, *model.image_shape, generator=torch.Generator().manual_seed(0)))  # running statistics
    names = tuple(map(str, range(DESIGN.classes)))
    save(folder / "artifact", "tail", Target(config, names, "cifar10", model.eval(), stack, {"accuracy": 0.0}))
    (folder / "tail.onnx").write_bytes(onnx_bytes(model.head, model.feature_shape, (INPUT, OUTPUT)))
    probe = torch.rand(3, *model.feature_shape, generator=torch.Generator().manual_seed(0)).numpy()
    check_parity(model.head, foreign_models(folder)["tail"][1], probe)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
