"""Runs one attack: gathers what the threat model lets it know, rebuilds images, and writes the result for the judge."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.arrays import own_images, read_features, read_pairs
from splitleak.attacker.base import AsSent, Attack, Knowledge, Query, Run, Simulate, build
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.attacker.crossings import together
from splitleak.attacker.diffusion import load_prior
from splitleak.attacker.likeness import Apart
from splitleak.attacker.outputs import APART, ATTACK, SERVED, Reconstructions, described, write_result
from splitleak.attacker.prior import Prior
from splitleak.attacker.queries import (
    EdgeProbe,
    FunctionProbe,
    Pairs,
    Probe,
    ServiceProbe,
    artifact_query,
    label_only,
    live_query,
    recorded_query,
    served_model,
    victims,
)
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.training.flattened import PICTURES, laid_out, likeliest_map
from splitleak.config import Config, Preset, digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images, listed
from splitleak.defenses.artifact import (
    EdgeHalf,
    HalfConfig,
    WholeModel,
    artifact_digest,
    half_digest,
    load_cloud,
    load_edge,
    load_whole,
)
from splitleak.defenses.base import Defense
from splitleak.defenses.classes.adaptive import adaptive_model, white_box
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import assemble
from splitleak.logs import Report, silent
from splitleak.models.imported_half import ImportedModel
from splitleak.outputs import check_file, claimed, locked
from splitleak.plugins import Plugin, is_address
from splitleak.seeding import generator
from splitleak.tables import Table
from splitleak.training.modules import freeze, passes_gradients
from splitleak.wire.client import Scores
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files import captures
from splitleak.wire.files.shared import SharedScores

_SEEDS = 2**62
_SIMULATED_AT_ONCE = 256
_OF_VICTIMS = frozenset({"capture", "shared", "features", "edge", "encoder", "head", "views", "parts"})
_OF_CLASSES = frozenset({"oracle", "artifact", "adaptive", "classes"})


class AttackConfig(Config):
    """Which attack, from which preset, with which settings on top, and how often it may query."""

    attack: str
    preset: Preset = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    max_queries: int | None = Field(default=None, ge=1, description="images it may send, at most")
    views: int = Field(default=1, ge=1, description="consecutive requests of one victim that are averaged")
    crossings: int | None = Field(default=None, ge=1, description="requests of one victim; default: `views`")
    draws: int | None = Field(
        default=None, ge=1, description="answers for an image; default: all on record, or of who is asked live one"
    )
    classes: int | None = Field(default=None, ge=1, description="how many there are; default: as many as are answered")

    def build(self) -> Attack | ClassInversion:
        """The attack itself.

        Raises:
            ValueError: There is no such attack, or the settings do not fit it.
        """
        return build(self._table(), self.attack, self.preset, self.settings)

    def plugin(self) -> Plugin | None:
        """The plug-in that the attack is of, if it is of one."""
        return self._table().plugin(self.attack)

    def _table(self) -> Table[type[Attack | ClassInversion]]:
        """The table that has the attack; of an address, the one whose attacks are like what stands there."""
        of_classes = self.attack in CLASS_ATTACKS or (self.attack not in ATTACKS and CLASS_ATTACKS.takes(self.attack))
        if not of_classes and self.attack not in ATTACKS and not is_address(self.attack):
            Table("attack", dict.fromkeys((*ATTACKS, *CLASS_ATTACKS))).known(self.attack)
        return cast("Table[type[Attack | ClassInversion]]", CLASS_ATTACKS if of_classes else ATTACKS)


@dataclass(frozen=True, kw_only=True)
class Access:
    """What the attacker can reach; None is withheld.

    An attack on victims starts from a ``capture`` of the wire, from the scores they ``shared`` or from ``features`` of
    any source, one on classes from none. Queries go to the ``edge`` of that wire, to a prediction ``service``, to a
    user's ``function``, to the model of ``oracle``, or are on record in ``pairs``, perhaps with the attacker's images.
    """

    public: Path | None = None  # images of its own
    mirrored: bool = False  # and the mirror image of each
    capture: Path | None = None  # what the tap wrote
    shared: Path | None = None  # what `splitleak predict` wrote
    features: Path | None = None  # an array (N, *shape) of any source
    edge: str | None = None  # HOST:PORT of the device's service
    service: str | None = None  # HOST:PORT of the prediction service, or its URL
    function: str | None = None  # module:callable of the user's own, which asks for him
    oracle: Path | None = None  # an artifact that is asked like a service, in this process, defenses and all
    pairs: Path | None = None  # what `splitleak query` wrote, or arrays of features and images
    labels_only: bool = False  # all that is heard of an answer is which class it puts first
    encoder: Path | None = None  # the edge half of the artifact
    head: Path | None = None  # the cloud half
    artifact: Path | None = None  # the whole model's weights
    adaptive: bool = False  # the weights without what hides gradients, see `adaptive_model`
    prior: Path | None = None  # what `splitleak prior` wrote
    model: str | None = None  # whose traffic is attacked, or as the service calls it; None: the only one
    scores: Scores = "auto"  # what the service gives, see `ClassifierClient`
    output: str | None = None  # which of its outputs
    channel: ChannelConfig | None = None  # how the edge or the service is reached
    parts: tuple[tuple[int, ...], ...] | None = None  # of tensors that the features on the wire pack, see `Knowledge`

    def knowledge(
        self, config: AttackConfig, public: Images | None, device: torch.device, report: Report = silent
    ) -> tuple[tuple[str, ...], Knowledge]:
        """The ids of the victims' requests, and all that an attack on them may know; ``report`` hears of queries.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: What the attacker has does not fit together.
        """
        self._refuse(config, _OF_CLASSES, "an attack on victims")
        if public is None:
            raise ValueError("expected images of the attacker's own for an attack on victims, got none")
        ids, captured, model = self._victims(config.views, config.crossings)
        query, public = self._query(config, public, device, model, report, of=captured)
        assert public is not None
        if query is not None:
            chosen = query.affordable(len(public), config.seed)
            public = public if chosen is None else public.select(chosen)
        head, fresh_encoder, stack = _cloud_knowledge(self.head, device)
        half = None if self.encoder is None else load_edge(self.encoder, device)
        stack = stack if half is None else half.stack
        if stack is not None:
            undone = stack.undone
            captured = undone(captured, config.views)
            query = None if query is None else query.seen_as(partial(undone, crossings=query.averaging))
        parts = self.parts or (None if half is None else half.config.parts)
        if parts is None and captured.ndim == 2 and self.pairs is not None and self.shared is None:
            images = public.floats()[:PICTURES]
            answers = read_pairs(self.pairs).query()(images)  # on record, so that nothing is asked again
            found = likeliest_map(answers if stack is None else stack.undone(answers), images, seed=config.seed)
            parts = None if found is None else (found,)
        return ids, Knowledge(
            captured=captured,
            image_shape=_image_shape(public, None, None),
            public=public.floats(),
            query=query,
            labels=public.labels,
            encoder=None if half is None else _as_sent(half, device),
            head=head,
            fresh_encoder=fresh_encoder,
            prior=None if self.prior is None else load_prior(self.prior, device),
            kind="features" if self.shared is None else "scores",
            parts=parts,
            simulate=_simulate(stack, config.views, device),
        )

    def class_knowledge(
        self, config: AttackConfig, public: Images | None, device: torch.device, report: Report = silent
    ) -> ClassKnowledge:
        """All that an attack on classes may know; ``report`` hears of queries.

        A white box is the network without the service's output policy, and without randomness on the wire, see
        `white_box`; a head that draws at inference draws by the config's seed.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: What the attacker has does not fit together.
        """
        self._refuse(config, _OF_VICTIMS, "an attack on classes")
        if self.adaptive and self.artifact is None:
            raise ValueError("expected the weights of what is attacked adaptively, got no artifact")
        whole = None if self.artifact is None else load_whole(self.artifact, device, seed=config.seed)
        prior = None if self.prior is None else Prior.load(self.prior, device)
        names = () if whole is None else whole.cloud.config.classes
        if prior is not None and prior.classes and names and prior.classes != names:
            expected = f"a prior without classes, or of those of {self.artifact} in their order"
            raise ValueError(f"{self.prior}: expected {expected}, got one of {listed(prior.classes)}")
        query, public = self._query(config, public, device, self.model, report)
        return ClassKnowledge(
            image_shape=_image_shape(public, prior, whole),
            classes=whole.classes if config.classes is None and whole is not None else config.classes,
            public=None if public is None else public.floats(),
            query=query,
            labels=None if public is None else public.labels,
            model=None if whole is None else freeze((adaptive_model if self.adaptive else white_box)(whole), device),
            prior=prior,
        )

    def models(self) -> dict[str, str]:
        """The digests of what it was handed of models: ``edge`` and ``cloud`` halves, a whole ``artifact``."""
        halves = {"edge": self.encoder, "cloud": self.head}
        digests = {half: half_digest(folder) for half, folder in halves.items() if folder is not None}
        whole = self.artifact or self.oracle
        return digests if whole is None else {**digests, "artifact": artifact_digest(whole)}

    def trained_on(self) -> dict[str, str]:
        """What is kept beside the weights of a network from features to images, for a page that shows its pictures."""
        told = {} if self.capture is None else {SERVED: self._served}
        recorded = None if self.capture is None or self.pairs is None else read_pairs(self.pairs)
        if recorded is not None and recorded.averaging == 1:
            apart = Apart.of(recorded.features[0])
            told |= {} if apart is None else {APART: json.dumps(asdict(apart))}
        return told

    @cached_property
    def _served(self) -> str:
        """The model whose traffic is attacked, for which all of the capture is read."""
        assert self.capture is not None
        return served_model(self.capture, self.model)

    def images(self) -> Images | None:
        """The attacker's own images, from their file or from beside the features in his pairs; None where he has none.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: It holds something else, or both files have images.
        """
        beside = None if self.pairs is None else own_images(self.pairs)
        if self.public is not None and beside is not None:
            raise ValueError(f"expected images of the attacker's own once, got {self.public} and those in {self.pairs}")
        images = beside if self.public is None else load_file(self.public).train
        return images.with_mirrors() if self.mirrored and images is not None else images

    def _refuse(self, config: AttackConfig, others: frozenset[str], kind: str) -> None:
        values = {"views": config.views > 1, "classes": config.classes}
        values |= {field.name: getattr(self, field.name) for field in fields(self)}
        if given := [name for name, value in values.items() if value and name in others]:
            raise ValueError(f"expected what {kind} can use, got {', '.join(given)}")

    def _victims(self, views: int, crossings: int | None) -> tuple[tuple[str, ...], Tensor, str | None]:
        """Ids and features or scores of the victims, and the model that gave their scores."""
        given = {"a capture": self.capture, "shared scores": self.shared, "features": self.features}
        starts = [name for name, path in given.items() if path is not None]
        if len(starts) != 1:
            got = " and ".join(starts) or "none"
            raise ValueError(f"expected a capture, shared scores or an array of features, got {got}")
        if self.capture is not None:
            if self.service is not None:
                raise ValueError("expected shared scores beside a service to query, got a capture")
            return *victims(self.capture, model=self.model, averaging=views, crossings=crossings), None
        if self.edge is not None or self.model is not None or views != 1 or crossings is not None:
            raise ValueError(f"expected a capture beside an edge, a model's name or several views, got {starts[0]}")
        if self.features is not None:
            if self.service is not None:
                raise ValueError("expected shared scores beside a service to query, got features")
            return *read_features(self.features), None
        assert self.shared is not None
        shared = SharedScores.load(self.shared)
        return shared.ids, torch.from_numpy(shared.scores), shared.model

    def _query(
        self,
        config: AttackConfig,
        public: Images | None,
        device: torch.device,
        model: str | None,
        report: Report,
        *,
        of: Tensor | None = None,
    ) -> tuple[Query | None, Images | None]:
        """The black box, and those of the public images that it can be asked for; ``of`` is what victims sent."""
        ways = [name for name in ("edge", "service", "function", "oracle", "pairs") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"expected one way to query: live, an oracle or recorded pairs, got {' and '.join(ways)}")
        idle = [name for name in ("max_queries", "draws") if getattr(config, name) is not None and not ways]
        if idle:
            raise ValueError(f"expected a way to query beside {' and '.join(idle)}, got none")
        draws = config.draws or 1  # of who is asked live
        if self.edge is not None:
            assert self.capture is not None
            probe: Probe = EdgeProbe(self.edge, self.capture, self._served, channel=self.channel, report=report)
            query = live_query(probe, config.max_queries, averaging=config.views, draws=draws)
        elif self.service is not None:
            probe = ServiceProbe(
                self.service, model, scores=self.scores, output=self.output, channel=self.channel, report=report
            )
            query = live_query(probe, config.max_queries, draws=draws)
        elif self.function is not None:
            kind = self.scores if self.capture is None and self.features is None else None
            probe = FunctionProbe(
                self.function, scores=kind, shape=None if of is None else tuple(of.shape[1:]), report=report
            )
            query = live_query(probe, config.max_queries, draws=draws)
        elif self.oracle is not None:
            query = artifact_query(load_whole(self.oracle, device, seed=config.seed), config.max_queries)
        elif self.pairs is not None:
            recorded = read_pairs(self.pairs)
            if of is not None:
                recorded = recorded.used(config.views, config.draws, source=str(self.pairs))
            if of is not None and recorded.features.shape[2:] != of.shape[1:]:
                expected = f"expected answers of shape {tuple(of.shape[1:])}, as the victims'"
                raise ValueError(f"{self.pairs}: {expected}, got {tuple(recorded.features.shape[2:])}")
            query, public = recorded_query(recorded, self.pairs, public, self.public, config.max_queries)
        else:
            return None, public
        return (label_only(query) if self.labels_only else query), public


def run_attack(
    config: AttackConfig, access: Access, out: Path, device: torch.device, report: Report, *, force: bool = False
) -> dict[str, Any]:
    """Runs an attack and writes ``out``: ``reconstructions.npz``, ``attack.json``, weights if it trained any.

    The id of a rebuilt victim is that of its request; of a class, its number and, where there are several images of
    it, the place among them, best first.

    Args:
        config: Which attack, and how.
        access: What the threat model gives it.
        out: The folder, written whole or not at all.
        device: Where networks run.
        report: Hears of progress.
        force: Whether the result of another attack at ``out`` is replaced.

    Returns:
        The gist of it: ``folder``, ``rebuilt`` (images), ``queries`` (images sent) and ``findings``.

    Raises:
        BlockingIOError: Another process writes ``out``.
        FileExistsError: There is something at ``out`` that may not be replaced.
        FileNotFoundError: There is no capture, no public images, no pairs, or no artifact.
        ConnectionError: The edge or the service cannot be reached.
        PermissionError: The attack needs what it was not given, or more queries than it may make.
        ValueError: What the attacker has does not fit together.
    """
    attack = config.build()
    ATTACK.check(out)
    public = access.images()
    known: Knowledge | ClassKnowledge
    if isinstance(attack, ClassInversion):
        known = of_classes = access.class_knowledge(config, public, device, report)
        rebuild = partial(attack, of_classes)
        gathered: Callable[[Tensor], Reconstructions] = Reconstructions.of_classes
    else:
        ids, known = access.knowledge(config, public, device, report)
        rebuild, gathered = partial(attack, known), partial(Reconstructions, ids)
    views = config.views if known.query is None else known.query.averaging
    models = access.models()
    about = described(attack, known, public, seed=config.seed, views=views, adaptive=access.adaptive, models=models)
    if access.capture is not None and (missing := captures.missing(access.capture))["gaps"]:
        about["capture"] = missing
    if (plugin := config.plugin()) is not None:
        about |= {"attack": plugin.name, "plugins": [asdict(plugin)]}
    with claimed(out, ATTACK, about, force=force):
        if isinstance(attack, Attack) and isinstance(known, Knowledge):
            known = laid_out(known, attack, config.seed)
            rebuild = partial(attack, known)
        problem = [about, known.parts if isinstance(known, Knowledge) else None]
        run = Run(seed=config.seed, device=device, report=report, checkpoint=_checkpoint(out, problem))
        return write_result(out, attack, gathered(rebuild(run)), known, about, trained_on=access.trained_on)


def _checkpoint(out: Path, problem: Sequence[object]) -> Path:
    """The file beside ``out`` of an attack's state on a ``problem``; what another left there is removed.

    What an attack tells of itself to go on from has neither the encoder that it was given nor how features lie.
    """
    stem = f".{out.name}.checkpoint"
    own = f"{stem}-{digest(problem)}"
    for path in out.parent.iterdir():
        if path.name.startswith(stem) and not path.name.startswith(own):
            path.unlink()
    return out.with_name(own)


def record_queries(
    probe: Probe,
    public: Path,
    out: Path,
    *,
    draws: int,
    views: int,
    budget: int | None,
    mirrored: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Sends the public images through ``probe`` ``draws * views`` times and writes what they became to ``out``.

    Where ``mirrored``, the mirror image of each is sent, too.

    Raises:
        BlockingIOError: Another process records to ``out``.
        FileExistsError: There is something else than such a record at ``out``; or, without ``force``, one of other
            images, draws or views, or of another kind of target.
        FileNotFoundError: There are no public images.
        ConnectionError: The edge or the service cannot be reached.
        PermissionError: ``budget`` does not cover the queries of one image.
    """
    images = load_file(public).train
    images = images.with_mirrors() if mirrored else images
    asked = (draws, views, tuple(Pairs.affordable(images, draws * views, budget).hashes()))

    def replaceable(path: Path) -> bool:
        there = Pairs.load(path)
        same = (len(there.features), there.averaging, there.hashes) == asked
        return force or (same and there.asked in ("", probe.asked))

    kind = "recorded queries with these images, draws and views"
    with locked(out.resolve()):  # until it is written: what was checked is what is replaced
        check_file(out, f"{kind} to {probe.asked} (any, with --force)", replaceable)
        made = Pairs.record(probe, images, draws=draws, averaging=views, budget=budget)
        made.save(out)
    return {"pairs": str(out), "images": len(made.hashes), "draws": draws, "views": views, "queries": made.queries}


def _image_shape(public: Images | None, prior: Prior | None, whole: WholeModel | None) -> tuple[int, int, int]:
    if public is not None:
        return public.shape
    if prior is not None:
        return prior.image_shape
    if whole is None:
        raise ValueError("expected images of the attacker's own or a model, to know the shape of what to rebuild")
    return whole.input_shape


def _cloud_knowledge(
    folder: Path | None, device: torch.device
) -> tuple[nn.Module | None, Callable[[], nn.Module] | None, Stack | None]:
    """The cloud's head, of what an encoder gives; how an encoder for it is built; and the defenses that its half tells.

    Of defenses that have weights of their own only the edge's half has these: there are none then, and the head is of
    what is sent.
    """
    if folder is None:
        return None, None, None
    half = load_cloud(folder, device)
    told = Stack.build(half.config.target.defenses, on_wire_only=True).to(device)
    stack = None if told.state_dict() or not len(told.defenses) else told
    head = freeze(half.head if stack is None else _Behind(stack, half.head), device)
    if isinstance(half.config.target.model, ImportedModel):  # only its edge half has the layers before the cut
        return head, None, stack
    return head, lambda: _fresh_encoder(half.config, device), stack


def _as_sent(half: EdgeHalf, device: torch.device) -> nn.Module:
    """The frozen encoder with those defenses behind it that are not undone, as they send on average.

    The encoder alone where these let no gradient through: a plug-in that rounds may not, and no attack would descend.
    """
    alone = freeze(half.encoder, device)
    kept = [each for each in half.stack if type(each).undone is Defense.undone]
    if all(each.randomised and type(each).expected is Defense.expected for each in kept):
        return alone
    through = AsSent(alone, Stack(kept))
    return through if passes_gradients(through, half.config.target.model.image_shape, device) else alone


def _simulate(stack: Stack | None, crossings: int, device: torch.device) -> Simulate | None:
    """The defenses of a half on an attacker's own features, so many crossings averaged; None where none draws."""
    if stack is None or not any(defense.randomised for defense in stack):
        return None

    @torch.no_grad()
    def simulate(features: Tensor, draws: int, seed: int) -> Tensor:
        draw = generator(seed, "simulated", device=device)
        for defense in stack:
            defense.generator = draw

        def captured(part: Tensor) -> Tensor:
            sent = torch.stack([stack(part) for _ in range(crossings)])
            return stack.undone(together(sent), crossings).cpu()

        parts = features.split(_SIMULATED_AT_ONCE)
        return torch.stack([torch.cat([captured(part.to(device)) for part in parts]) for _ in range(draws)])

    return simulate


class _Behind(nn.Module):
    """A head behind what defenses send on average of the features that an encoder gives."""

    def __init__(self, stack: Stack, head: nn.Module) -> None:
        super().__init__()
        self.stack, self.head = stack, head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stack.expected(features))
        return logits


def _fresh_encoder(half: HalfConfig, device: torch.device) -> nn.Module:
    """An untrained encoder of the half's architecture, from the global stream and not from the target's own seed."""
    seed = int(torch.randint(_SEEDS, ()))
    model, stack = assemble(half.target.model_copy(update={"seed": seed}), half.dataset)
    stack.finish(model)  # as deployed: pruned, where a defense prunes
    encoder: nn.Module = model.encoder.to(device)
    return encoder
