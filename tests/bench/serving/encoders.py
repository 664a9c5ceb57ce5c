"""The edge's encoding against eager torch, on the two encoders that the notes on serving time."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from splitleak.defenses.artifact import load_edge, save
from splitleak.defenses.stack import DefenseConfig
from splitleak.defenses.training import Target, TargetConfig, assemble
from splitleak.models.split import ModelConfig

CPU = torch.device("cpu")
_CALLS, _WARM_UP = 20, 3


def targets() -> dict[str, TargetConfig]:
    """A VGG-11 of full width behind its first pool: as it is, and through a bottleneck to 8 x 8 x 8."""
    model = ModelConfig(width=1.0, channels=3, size=32, classes=10, cut=2)
    narrow = DefenseConfig.model_validate({"name": "bottleneck", "channels": 8, "stride": 2})
    return {
        "encode to 64 x 16 x 16": TargetConfig(model=model),
        "encode to 8 x 8 x 8": TargetConfig(model=model, defenses=(narrow,)),
    }


def compare(rounds: int) -> dict[str, dict[str, float]]:
    """By encoder: medians of both in milliseconds, and of eager's time over ours in the same round; batch 1."""
    torch.set_num_threads(1)
    found = {}
    for name, config in targets().items():
        ours, eager = _both(config)
        image = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
        pairs = [(_timed(ours, image), _timed(eager, image)) for _ in range(rounds + _WARM_UP)][_WARM_UP:]
        found[name] = {
            "ours_ms": statistics.median(mine for mine, _ in pairs),
            "eager_ms": statistics.median(theirs for _, theirs in pairs),
            "ratio": statistics.median(theirs / mine for mine, theirs in pairs),
        }
    return found


def _both(config: TargetConfig) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """The edge's half with its default engine, and the same modules in torch as it comes; they agree."""
    model, stack = assemble(config, "cifar10")
    with TemporaryDirectory() as folder:
        path, names = Path(folder) / "artifact", tuple(map(str, range(config.model.classes)))
        save(path, "edge", Target(config, names, "cifar10", model.eval(), stack.eval(), {"accuracy": 0.0}))
        half = load_edge(path / "edge", CPU, engine="auto")
        plain = load_edge(path / "edge", CPU)
    encoder = plain.encoder.to(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def eager(images: np.ndarray) -> np.ndarray:
        return plain.stack(encoder(torch.from_numpy(images))).numpy()

    probe = np.random.default_rng(1).random((2, 3, 32, 32), dtype=np.float32)
    np.testing.assert_allclose(half.encode(probe), eager(probe), atol=1e-4)
    return half.encode, eager


def _timed(run: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> float:
    start = time.process_time()
    for _ in range(_CALLS):
        run(image)
    return 1000 * (time.process_time() - start) / _CALLS
