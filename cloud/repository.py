"""The models that the cloud serves, half of a network or all of it, and their metadata."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from splitleak.cloud.batching import ComputeWorker
from splitleak.cloud.policy import Policy
from splitleak.errors import WireError
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.protocol.checks import check_range
from splitleak.wire.server.model import ServedModel

Floats = NDArray[np.float32]
_Submit = Callable[[Floats, str, float], Future[Answer]]


class Model(Protocol):
    """A network with a name; ``properties`` are facts to announce."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> int: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    def predict(self, batch: Floats, /) -> Floats:
        """Features ``(N, *feature_shape)``, or images ``(N, C, H, W)`` in [0, 1], to logits ``(N, classes)``."""
        ...


class Half(Model, Protocol):
    """The cloud's part of a split network; `splitleak.defenses.artifact.CloudHalf` is one."""

    @property
    def feature_shape(self) -> tuple[int, ...]: ...


@runtime_checkable
class Whole(Model, Protocol):
    """A network from the image to the logits; `splitleak.defenses.artifact.WholeModel` is one."""

    @property
    def input_shape(self) -> tuple[int, int, int]: ...


def predictor(model: Half | Whole, policy: Policy | None) -> Callable[[Floats], Floats]:
    """The function of the compute worker: the model, and the policy on its logits."""
    if policy is None:
        return model.predict

    def scores(batch: Floats) -> Floats:
        logits = model.predict(batch)
        if not np.isfinite(logits).all():
            raise WireError("expected values that the model can score, got some that give logits which are not finite")
        return policy(logits, batch)

    return scores


def served_model(model: Half | Whole, worker: ComputeWorker, policy: Policy | None = None) -> ServedModel:
    """The protocol's view of ``model``: input ``features`` of a half or ``images`` of a whole model.

    Args:
        model: Its name, shapes and properties are announced.
        worker: Computes it with its `predictor`.
        policy: Announced; with one the output is ``probabilities``, else ``logits``.
    """
    properties = dict(model.properties)
    submit: _Submit = worker.submit
    shape: tuple[int, ...]
    if isinstance(model, Whole):
        name, shape, submit = "images", model.input_shape, _of_images(submit)
        properties["input"] = json.dumps({"shape": shape, "layout": "CHW", "low": 0, "high": 1})
    else:
        name, shape = "features", model.feature_shape
    if policy is not None:
        properties["policy"] = json.dumps(policy.config.announced())
    return ServedModel(
        name=model.name,
        platform="splitleak_cloud",
        input_name=name,
        input_shape=tuple(shape),
        output_name="logits" if policy is None else "probabilities",
        output_shape=(model.classes,),
        max_batch_size=worker.config.max_batch_size,
        submit=submit,
        properties=properties,
        statistics=worker.statistics,
    )


def _of_images(submit: _Submit) -> _Submit:
    """Validates images before they are queued."""

    def checked(batch: Floats, request_id: str, timeout_s: float) -> Future[Answer]:
        check_range(batch)
        return submit(batch, request_id, timeout_s)

    return checked
