"""What the cloud serves: the rest of a network, or all of it, behind a name, and the facts that it announces."""

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


class Half(Protocol):
    """The cloud's part of a split network; `splitleak.defenses.artifact.CloudHalf` is one."""

    @property
    def name(self) -> str: ...

    @property
    def feature_shape(self) -> tuple[int, ...]: ...

    @property
    def classes(self) -> int: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    def predict(self, features: Floats, /) -> Floats:
        """Features ``(N, *feature_shape)`` to logits ``(N, classes)``."""
        ...


@runtime_checkable
class Whole(Protocol):
    """A network from the image to the logits; `splitleak.defenses.artifact.WholeModel` is one."""

    @property
    def name(self) -> str: ...

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def classes(self) -> int: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    def predict(self, images: Floats, /) -> Floats:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        ...


def predictor(model: Half | Whole, policy: Policy | None) -> Callable[[Floats], Floats]:
    """What the compute worker runs: the model, and the policy on what it says."""
    if policy is None:
        return model.predict

    def scores(batch: Floats) -> Floats:
        logits = model.predict(batch)
        if not np.isfinite(logits).all():
            raise WireError("expected values that the model can score, got some that give logits which are not finite")
        return policy(logits, batch)

    return scores


def served_model(model: Half | Whole, worker: ComputeWorker, policy: Policy | None = None) -> ServedModel:
    """``model`` as a model of the protocol, computed by ``worker``, which runs its `predictor`.

    In: ``features`` of a half, ``images`` of a whole model. Out: ``probabilities`` where a policy acts, else
    ``logits``. The policy that is on is announced.
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
    """Refuses what is no image before it costs a place in the queue."""

    def checked(batch: Floats, request_id: str, timeout_s: float) -> Future[Answer]:
        check_range(batch)
        return submit(batch, request_id, timeout_s)

    return checked
