"""One attack on one capture: gather what the attacker may know, run, and leave the result for the judge."""

import itertools
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import grpc
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attacker.base import Attack, Knowledge, Query, Run
from attacker.reconstruction import ATTACKS
from attacker.results import Reconstructions
from edge.uplink import error_of
from splitleak.artifacts import provenance, save_tensors, write_json, written_folder
from splitleak.config import Config
from splitleak.datasets.files import load_file
from splitleak.errors import WireError
from splitleak.fit import Report
from splitleak.wire import captures, codec
from splitleak.wire.channel import ChannelConfig, connect
from splitleak.wire.pb import open_inference_pb2 as pb
from splitleak.wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

_QUERY_BATCH = 32


class AttackConfig(Config):
    """Which attack, from which preset, with which settings on top, and how many images it may send."""

    attack: str
    preset: Literal["cpu", "paper"] = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    max_queries: int | None = None

    def build(self) -> Attack:
        """The attack itself.

        Raises:
            ValueError: There is no such attack, or the settings do not fit it.
        """
        if self.attack not in ATTACKS:
            raise ValueError(f"expected an attack of {', '.join(sorted(ATTACKS))}, got {self.attack!r}")
        kind = ATTACKS[self.attack]
        base = kind.paper_config() if self.preset == "paper" else kind.config_type()
        return kind(kind.config_type.parse({**base.document(), **self.settings}, source=f"attack {self.attack!r}"))


class EdgeProbe:
    """Sends images through the deployed edge like any user of the device, and reads off the tap what they became."""

    def __init__(self, address: str, capture: Path, model: str) -> None:
        self._address, self._capture, self._model = address, capture, model
        self._prefix = f"probe-{secrets.token_hex(6)}"
        self._numbers = itertools.count()
        self.timeout_s = 30.0

    def owns(self, request_id: str) -> bool:
        """Whether a captured request is one of ours."""
        return request_id.startswith(self._prefix)

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(N, *cut)`` of images ``(N, C, H, W)`` in [0, 1], as they crossed the wire.

        Raises:
            ConnectionError: The edge cannot be reached; what it refuses is a ValueError or LookupError.
            WireError: A query is not in the capture: the tap is not where the edge's traffic passes.
        """
        sent = []
        with connect(self._address, ChannelConfig()) as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            for batch in images.split(_QUERY_BATCH):
                name = f"{self._prefix}-{next(self._numbers)}"
                tensor = codec.encode(batch.numpy(), "fp32")
                request = codec.request(self._model, tensor, request_id=name, input_name="images")
                try:
                    infer(request, timeout=self.timeout_s)
                except grpc.RpcError as error:
                    call = cast("grpc.Call", error)  # every error of a call is one
                    raise error_of(call, f"query to the edge at {self._address}") from None
                sent.append(name)
        found = {name: codec.decode(tensor) for name, tensor in _captured(self._capture) if self.owns(name)}
        lost = [name for name in sent if name not in found]
        if lost:
            raise WireError(f"{self._capture}: expected the {len(sent)} queries just made, but {len(lost)} are missing")
        return torch.from_numpy(np.concatenate([found[name] for name in sent]))


def run_attack(
    config: AttackConfig, capture: Path, public: Path, edge: str, out: Path, device: torch.device, report: Report
) -> dict[str, Any]:
    """Runs an attack and writes ``out``: ``reconstructions.npz``, ``attack.json``, weights if it trained any.

    Raises:
        FileNotFoundError: There is no capture, or no public images.
        ConnectionError: The edge cannot be reached.
        ValueError: What the attacker has does not fit together.
    """
    attack = config.build()
    model = _served_model(capture)
    victims = [(name, codec.decode(tensor)) for name, tensor in _captured(capture)]
    own = load_file(public).train
    images = own.floats()
    probe = EdgeProbe(edge, capture, model)
    query = Query(probe, config.max_queries)
    known = Knowledge(
        captured=torch.from_numpy(np.concatenate([features for _, features in victims])),
        image_shape=(images.shape[1], images.shape[2], images.shape[3]),
        public=images,
        query=query,
    )
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    rebuilt = attack(known, Run(seed=config.seed, device=device, report=report, checkpoint=checkpoint))
    ids = [name if len(rows) == 1 else f"{name}#{row}" for name, rows in victims for row in range(len(rows))]
    record = {
        "attack": config.attack,
        "config": attack.config.document(),
        "seed": config.seed,
        "queries": query.made,
        "rebuilt": len(rebuilt),
        "findings": attack.findings,
        "public_hashes": own.hashes(),
        "provenance": provenance(),
    }
    with written_folder(out) as partial:
        Reconstructions(tuple(ids), rebuilt).save(partial / "reconstructions.npz")
        if weights := attack.weights():
            save_tensors(partial / "weights.safetensors", weights)
        write_json(partial / "attack.json", record)
    return {"folder": str(out), "rebuilt": len(rebuilt), "queries": query.made, "findings": _brief(attack.findings)}


def _brief(findings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in findings.items() if not isinstance(value, list)}


def _captured(capture: Path) -> list[tuple[str, codec.WireTensor]]:
    return list(captures.inference_requests(captures.read(capture)))


def _served_model(capture: Path) -> str:
    """The name of the model that the captured traffic was for.

    Raises:
        WireError: The capture holds no inference request.
    """
    for record in captures.read(capture):
        if record.direction == "request" and record.method.endswith(("/ModelInfer", "/ModelStreamInfer")):
            return str(pb.ModelInferRequest.FromString(record.message).model_name)
    raise WireError(f"{capture}: expected at least one inference request, found none")
