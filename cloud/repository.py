"""What the cloud serves: the rest of the network behind a name, and the facts that it announces about the split."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.batching import ComputeWorker
from splitleak.wire.servicer import ServedModel


class Half(Protocol):
    """The cloud's part of a split network; `defenses.artifact.CloudHalf` is one."""

    @property
    def name(self) -> str: ...

    @property
    def feature_shape(self) -> tuple[int, ...]: ...

    @property
    def classes(self) -> int: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    def predict(self, features: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Features ``(N, *feature_shape)`` to logits ``(N, classes)``."""
        ...


def served_model(half: Half, worker: ComputeWorker) -> ServedModel:
    """``half`` as a model of the protocol: ``features`` in, ``logits`` out, computed by ``worker``."""
    return ServedModel(
        name=half.name,
        platform="splitleak_cloud",
        input_name="features",
        input_shape=tuple(half.feature_shape),
        output_name="logits",
        output_shape=(half.classes,),
        max_batch_size=worker.config.max_batch_size,
        submit=worker.submit,
        properties=half.properties,
    )
