"""One attack on a model's classes: gather what the attacker may know, run, and leave the result for the judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from splitleak.attacker.base import Query, Run, build
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.attacker.outputs import Reconstructions, write_result
from splitleak.attacker.prior import Prior
from splitleak.attacker.queries import ServiceProbe, live_query, recorded_query
from splitleak.attacker.reconstruction.descent import frozen
from splitleak.config import Config, Preset
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import WholeModel, load_whole
from splitleak.defenses.classes.adaptive import adaptive_model, white_box
from splitleak.logs import Report
from splitleak.wire.client import Scores
from splitleak.wire.client.channel import ChannelConfig


class InversionConfig(Config):
    """Which attack, from which preset, with which settings on top."""

    attack: str
    preset: Preset = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    classes: int | None = Field(default=None, ge=1, description="how many there are; default: as many as are answered")
    max_queries: int | None = Field(default=None, ge=1, description="images it may send, at most")

    def build(self) -> ClassInversion:
        """The attack itself.

        Raises:
            ValueError: There is no such attack, or the settings do not fit it.
        """
        return build(CLASS_ATTACKS, self.attack, self.preset, self.settings)


@dataclass(frozen=True)
class InversionAccess:
    """What the attacker can reach; None is withheld.

    Queries go to ``service``, or to the model of ``oracle`` without a service, or are on record in ``pairs``. With
    ``labels_only``, all that is heard of an answer is which class it puts first.
    """

    public: Path | None = None  # images of its own
    service: str | None = None  # HOST:PORT of the prediction service
    pairs: Path | None = None  # what `splitleak query` wrote
    oracle: Path | None = None  # an artifact that is asked like a service, in this process, defenses and all
    prior: Path | None = None  # what `splitleak prior` wrote
    artifact: Path | None = None  # the whole model's weights
    model: str | None = None  # as the service calls it; None where it has only one
    scores: Scores = "auto"  # what the service gives, see `ClassifierClient`
    output: str | None = None  # which of its outputs
    channel: ChannelConfig | None = None  # how the service is reached
    labels_only: bool = False
    adaptive: bool = False  # the weights without what hides gradients, see `adaptive_model`

    def knowledge(self, config: InversionConfig, public: Images | None, device: torch.device) -> ClassKnowledge:
        """All that an attack may know.

        A white box is the network without the randomness of its defenses, and without the service's output policy.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: What the attacker has does not fit together.
        """
        if self.adaptive and self.artifact is None:
            raise ValueError("expected the weights of what is attacked adaptively, got no artifact")
        whole = None if self.artifact is None else load_whole(self.artifact, device)
        prior = None if self.prior is None else Prior.load(self.prior, device)
        return ClassKnowledge(
            image_shape=_image_shape(public, prior, whole),
            classes=whole.classes if config.classes is None and whole is not None else config.classes,
            public=None if public is None else public.floats(),
            query=self._query(config, public, device),
            labels=None if public is None else public.labels,
            model=None if whole is None else frozen((adaptive_model if self.adaptive else white_box)(whole), device),
            prior=prior,
        )

    def _query(self, config: InversionConfig, public: Images | None, device: torch.device) -> Query | None:
        if self.service is not None and self.pairs is not None:
            raise ValueError("expected a live service to query or recorded pairs, got both")
        if self.oracle is not None and (self.service is not None or self.pairs is not None):
            raise ValueError("expected one way to query: a service, an oracle or recorded pairs, got an oracle beside")
        if self.service is not None:
            probe = ServiceProbe(self.service, self.model, scores=self.scores, output=self.output, channel=self.channel)
            found = live_query(probe, config.max_queries)
        elif self.oracle is not None:
            found = artifact_query(load_whole(self.oracle, device, seed=config.seed), config.max_queries)
        elif self.pairs is not None:
            found = recorded_query(self.pairs, public, self.public, config.max_queries)
        else:
            return None
        return labels_of(found) if self.labels_only else found


def run_inversion(
    config: InversionConfig, access: InversionAccess, out: Path, device: torch.device, report: Report
) -> dict[str, Any]:
    """Runs an attack and writes ``out``: ``reconstructions.npz``, ``attack.json``, weights if it trained any.

    The id of a picture is the number of its class, and, where there are several, its place among them, best first.
    ``ignores_output_policy`` in ``attack.json`` says of an attack that no policy of the service can change what it
    finds, ``access`` what it must be let to see of the model.

    Raises:
        FileNotFoundError: There are no public images, no pairs, or no artifact.
        ConnectionError: The service cannot be reached.
        PermissionError: The attack needs what it was not given, or more queries than it may make.
        ValueError: What the attacker has does not fit together.
    """
    attack = config.build()
    public = None if access.public is None else load_file(access.public).train
    known = access.knowledge(config, public, device)
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    rebuilt = attack(known, Run(seed=config.seed, device=device, report=report, checkpoint=checkpoint))
    adaptive: dict[str, object] = {"adaptive": True} if access.adaptive else {}
    return write_result(
        out,
        attack,
        Reconstructions.of_classes(rebuilt),
        known,
        public,
        seed=config.seed,
        views=1 if known.query is None else known.query.views,
        ignores_output_policy=attack.ignores_output_policy(),
        access=attack.access,
        **adaptive,
    )


def artifact_query(whole: WholeModel, budget: int | None) -> Query:
    """The model ``whole`` asked as a service would be, defenses and all, but in this process: images to scores."""

    def send(images: Tensor) -> Tensor:
        return torch.from_numpy(whole.predict(images.cpu().numpy())).softmax(1)

    return Query(send, budget)


def labels_of(query: Query) -> Query:
    """``query`` through a service that tells no more than the label: rows with one 1 each, at the same price."""

    def send(images: Tensor) -> Tensor:
        answers = query(images)
        return functional.one_hot(answers.argmax(1), answers.shape[1]).float()

    return Query(send, query.budget, draws=query.draws, views=query.views, answers="labels")


def _image_shape(public: Images | None, prior: Prior | None, whole: WholeModel | None) -> tuple[int, int, int]:
    if public is not None:
        return public.pixels.shape[1], public.pixels.shape[2], public.pixels.shape[3]
    if prior is not None:
        return prior.image_shape
    if whole is None:
        raise ValueError("expected images of the attacker's own or a model, to know the shape of what to rebuild")
    return whole.input_shape
