"""One attack on one capture: gather what the attacker may know, run, and leave the result for the judge."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.base import Attack, Knowledge, Query, Run, build
from splitleak.attacker.outputs import Reconstructions, write_result
from splitleak.attacker.queries import (
    EdgeProbe,
    Pairs,
    Probe,
    ServiceProbe,
    live_query,
    recorded_query,
    served_model,
    victims,
)
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.reconstruction.descent import frozen
from splitleak.config import Config, Preset
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import HalfConfig, load_cloud, load_edge
from splitleak.defenses.training import assemble
from splitleak.logs import Report
from splitleak.wire.client import Scores
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files.shared import SharedScores

_SEEDS = 2**62


class AttackConfig(Config):
    """Which attack, from which preset, with which settings on top, and what it may see of the wire."""

    attack: str
    preset: Preset = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    max_queries: int | None = Field(default=None, ge=1, description="images it may send, at most")
    views: int = Field(default=1, ge=1, description="consecutive requests that show one victim, and are averaged")

    def build(self) -> Attack:
        """The attack itself.

        Raises:
            ValueError: There is no such attack, or the settings do not fit it.
        """
        return build(ATTACKS, self.attack, self.preset, self.settings)


@dataclass(frozen=True)
class Access:
    """What the attacker can reach; None is withheld.

    Victims are a ``capture`` of the wire, or the scores they ``shared``. Queries go to the ``edge`` of that wire, to
    the prediction ``service`` of those scores, or are on record in ``pairs``.
    """

    capture: Path | None  # what the tap wrote
    public: Path  # images of its own
    edge: str | None = None  # HOST:PORT of the device's service
    pairs: Path | None = None  # what `splitleak query` wrote
    encoder: Path | None = None  # the edge half of the artifact
    head: Path | None = None  # the cloud half
    shared: Path | None = None  # what `splitleak predict` wrote
    service: str | None = None  # HOST:PORT of the prediction service
    scores: Scores = "auto"  # what the service gives, see `ClassifierClient`
    output: str | None = None  # which of its outputs
    channel: ChannelConfig | None = None  # how the edge or the service is reached

    def knowledge(
        self, config: AttackConfig, public: Images, device: torch.device
    ) -> tuple[tuple[str, ...], Knowledge]:
        """The ids of the victims' requests, and all that an attack may know of them.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: What the attacker has does not fit together.
        """
        images = public.floats()
        ids, captured, probe = self._victims(config.views)
        head, fresh_encoder = _cloud_knowledge(self.head, device)
        return ids, Knowledge(
            captured=captured,
            image_shape=(images.shape[1], images.shape[2], images.shape[3]),
            public=images,
            query=self._query(config, public, probe),
            labels=public.labels,
            encoder=None if self.encoder is None else frozen(load_edge(self.encoder, device).encoder, device),
            head=head,
            fresh_encoder=fresh_encoder,
        )

    def _victims(self, views: int) -> tuple[tuple[str, ...], Tensor, Probe | None]:
        """Ids and features or scores of the victims, and who can be asked live for more of the kind."""
        if self.capture is not None and self.shared is None:
            if self.service is not None:
                raise ValueError("expected shared scores beside a service to query, got a capture")
            ids, captured = victims(self.capture, views=views)
            if self.edge is None:
                return ids, captured, None
            model = served_model(self.capture)
            return ids, captured, EdgeProbe(self.edge, self.capture, model, channel=self.channel)
        if self.shared is None or self.capture is not None:
            raise ValueError(f"expected a capture or shared scores, got {'both' if self.shared else 'neither'}")
        if self.edge is not None or views != 1:
            raise ValueError("expected a capture beside an edge to query or several views, got shared scores")
        shared = SharedScores.load(self.shared)
        live = None
        if self.service is not None:
            live = ServiceProbe(
                self.service, shared.model, scores=self.scores, output=self.output, channel=self.channel
            )
        return shared.ids, torch.from_numpy(shared.scores), live

    def _query(self, config: AttackConfig, public: Images, probe: Probe | None) -> Query | None:
        if probe is not None and self.pairs is not None:
            raise ValueError("expected a live edge or service to query or recorded pairs, got both")
        if probe is not None:
            return live_query(probe, config.max_queries, views=config.views)
        if self.pairs is None:
            return None
        query = recorded_query(self.pairs, public, self.public, config.max_queries)
        if query.views != config.views:
            raise ValueError(
                f"{self.pairs}: expected pairs of {config.views} views, as the victims', got {query.views}"
            )
        return query


def run_attack(config: AttackConfig, access: Access, out: Path, device: torch.device, report: Report) -> dict[str, Any]:
    """Runs an attack and writes ``out``: ``reconstructions.npz``, ``attack.json``, weights if it trained any.

    Raises:
        FileNotFoundError: There is no capture, no public images, or no half of the artifact.
        ConnectionError: The edge cannot be reached.
        PermissionError: The attack needs what it was not given, or more queries than it may make.
        ValueError: What the attacker has does not fit together.
    """
    attack = config.build()
    public = load_file(access.public).train
    ids, known = access.knowledge(config, public, device)
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    rebuilt = attack(known, Run(seed=config.seed, device=device, report=report, checkpoint=checkpoint))
    made = Reconstructions(ids, rebuilt)
    return write_result(out, attack, made, known, public, seed=config.seed, views=config.views)


def record_queries(
    probe: Probe, public: Path, out: Path, *, draws: int, views: int, budget: int | None
) -> dict[str, Any]:
    """Sends the public images through ``probe`` ``draws * views`` times and writes what they became to ``out``.

    Raises:
        FileNotFoundError: There are no public images.
        ConnectionError: The edge or the service cannot be reached.
        PermissionError: That is more than ``budget`` queries.
    """
    made = Pairs.record(probe, load_file(public).train, draws=draws, views=views, budget=budget)
    made.save(out)
    return {"pairs": str(out), "images": len(made.hashes), "draws": draws, "views": views, "queries": made.queries}


def _cloud_knowledge(
    folder: Path | None, device: torch.device
) -> tuple[nn.Module | None, Callable[[], nn.Module] | None]:
    """The cloud's head, and what its half tells of the edge: how an encoder for it is built."""
    if folder is None:
        return None, None
    half = load_cloud(folder, device)
    return frozen(half.head, device), lambda: _fresh_encoder(half.config, device)


def _fresh_encoder(half: HalfConfig, device: torch.device) -> nn.Module:
    """An untrained encoder of the half's architecture, from the global stream and not from the target's own seed."""
    seed = int(torch.randint(_SEEDS, ()))
    model, stack = assemble(half.target.model_copy(update={"seed": seed}), half.dataset)
    stack.finish(model)  # as deployed: pruned, where a defense prunes
    encoder: nn.Module = model.encoder.to(device)
    return encoder
