"""What the features of a target tell without any picture: whether, whom and what a victim's picture shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from splitleak.artifacts import provenance
from splitleak.attacker.training.siamese import SiameseConfig, train_matcher
from splitleak.config import Config
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import EdgeHalf, load_edge
from splitleak.eval.record.trained_on import trained_splits
from splitleak.eval.targets.attributes import Attribute, known, read_attributes
from splitleak.logs import Report, silent
from splitleak.measures.linkage.plda import Plda, likeliest
from splitleak.measures.linkage.probe import majority_rate, train_probe
from splitleak.measures.linkage.refinding import VIEWS, aligned, found_again, moved, unordered, views
from splitleak.measures.linkage.verification import FALSE_MATCH_RATES, pair_match_rate, pair_scores
from splitleak.measures.linkage.whitening import Whitening
from splitleak.models.grids import channels_last
from splitleak.seeding import derive_seed, generator
from splitleak.wire.protocol import Codec
from splitleak.wire.protocol.codec import decode, encode

COLUMNS = ("of victims", "%", "±", "beside")
METHODS = ("plain", "whitened", "unordered", "aligned", "learned", "plda")
_SKETCH = 8192  # values of a feature, drawn once, that are compared
_BATCH = 64
_REFERENCE = 500  # public pictures whose mean features tell the order of channels
_FARTHEST = 2  # pixels that a view of a public picture is moved by

Send = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` in [0, 1] to features as they cross the wire ``(N, *cut)``, noise drawn anew at each call."""

Told = Callable[[Tensor], Tensor]
"""Features as they crossed ``(N, *cut)`` to what is compared of each ``(N, d)``."""


class LinkageConfig(Config):
    """How many pictures are looked for, and what the attacker trains on."""

    public: int = Field(default=2000, ge=4, description="of the attacker's pictures, at most")
    victims: int = Field(default=1000, ge=2, description="among whom a picture is found again, at most")
    crossings: int = Field(default=3, ge=1, description="of all victims' pictures, where features are drawn anew")
    views: int = Field(default=6, ge=2, description="of each public picture, that the learned matcher is trained on")
    sessions: Literal["one", "several"] = Field(
        default="one", description="the edge's that features are of: one, or another for each set that is sent"
    )
    codec: Codec = Field(default="fp32", description="how features travel")
    matcher: SiameseConfig = SiameseConfig()
    seed: int = 0


def measure(
    artifact: Path,
    images: Path,
    config: LinkageConfig,
    device: torch.device,
    attributes: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """`linkage` of a target's edge half, defenses and codec included.

    Args:
        artifact: Folder of the target.
        images: Folder of the splits that it was trained on.
        config: Of the measure.
        device: Where the encoder runs.
        attributes: A CSV file, see `read_attributes`.
        report: Hears of progress.

    Raises:
        FileNotFoundError: There is no artifact, no split, or no file of attributes.
        ValueError: The images are not those that the target was trained on, or attributes are of none of them.
    """
    splits = trained_splits(artifact, images)[1]
    half = load_edge(artifact / "edge", device, seed=config.seed)
    told = {} if attributes is None else read_attributes(attributes, splits)
    restarts = count(1)

    def restart() -> None:
        half.stack.seed(derive_seed(config.seed, "linkage", "session", next(restarts)), half.device)

    several = restart if config.sessions == "several" else None
    send, public_channels = crossing(half, config.codec), half.stack.public_channels
    measured = linkage(send, splits.public, splits.victims, config, told, report, several, public_channels)
    return {"target": half.name, **measured, "config": config.document(), "provenance": provenance()}


def crossing(half: EdgeHalf, codec: str) -> Send:
    """What crosses the wire: the features of an edge half, each image's encoded and decoded as a message of its own."""

    def send(images: Tensor) -> Tensor:
        sent = half.encode(images.numpy())
        if codec == "fp32":
            return torch.from_numpy(sent)
        return torch.cat([torch.from_numpy(decode(encode(sent[i : i + 1], codec)).copy()) for i in range(len(sent))])

    return send


def linkage(
    send: Send,
    public: Images,
    victims: Images,
    config: LinkageConfig,
    attributes: Mapping[str, Attribute] | None = None,
    report: Report = silent,
    restart: Callable[[], None] | None = None,
    public_channels: int = 0,
) -> dict[str, Any]:
    """Leaks of features that are no pictures.

    ``refound``: by method and view, the share of victims whose picture, sent once more (the same, moved by a pixel, a
    tenth brighter, mirrored), has its own earlier feature as the nearest among all victims'; ``chance`` is one over
    these. ``plain`` compares by Euclidean distance, ``whitened`` by the angle after `Whitening` of public features,
    ``unordered`` by the distance of values that are sorted over channels, which no order of these hides, ``aligned``
    by Euclidean distance once the channels of later features are put into the order of earlier ones by their means
    (see `aligned`), ``learned`` by a `Matcher` of public pictures, ``plda`` by the likelihood of a `Plda` of public
    pictures and the same view of each. Whoever has learned from public pictures puts the channels of each session into
    the order of theirs first, where public pictures of two sessions are found again more often so. ``verified``: by
    false match rate, the share of pairs of victims of one class that are told to be so, by the cosine of what a `Plda`
    of pairs of public pictures of one class makes of them (or of whitened features, where there are no such pairs);
    ``label`` and ``attributes``: how often a linear probe of public features is right about the victims, beside the
    ``majority``. Standard errors are over victims.

    Args:
        send: What crosses the wire.
        public: The attacker's pictures, each sent ``views`` times, and once more in each of `VIEWS`.
        victims: Others.
        config: Of the measure.
        attributes: By name, of all pictures of both sets.
        report: Hears of progress.
        restart: Begins another session of the edge; called before each set of pictures is sent.
        public_channels: How many of the last channels tell nothing of a picture (`Defense.public_channels`): whoever
            compares leaves them out, and with them any noise on them.

    Returns:
        The document, as plain JSON values; null where victims have no two pictures of a class.
    """
    public_places, places = (
        torch.randperm(len(each), generator=generator(config.seed, "linkage", name))[:most]
        for each, name, most in ((public, "public", config.public), (victims, "victims", config.victims))
    )
    own, theirs = public.select(public_places), victims.select(places)
    pictures, truth = own.floats(), theirs.floats()
    coordinates: list[Tensor] = []

    def crossed(images: Tensor) -> Tensor:
        if restart is not None:
            restart()
        features = torch.cat([send(batch) for batch in images.split(_BATCH)])
        features = features[:, : features.shape[1] - public_channels]
        last = channels_last(tuple(features.shape[1:]), (images.shape[2], images.shape[3]))
        return features.permute(0, 3, 1, 2) if last else features

    def sketched(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        if not coordinates:
            drawn = torch.randperm(flat.shape[1], generator=generator(config.seed, "linkage", "sketch"))[:_SKETCH]
            coordinates.append(drawn.sort().values)
        return flat[:, coordinates[0]]

    known = crossed(pictures)
    told = sketched if restart is None else _in_order(sketched, known, crossed(pictures))
    known_features = told(known)
    whitening = Whitening.fit(known_features)
    shown = _views(pictures, known_features, lambda images: told(crossed(images)), config, report)
    matcher = train_matcher(shown, whitening, config.matcher, config.seed, report)
    plda = {}
    for name, view in views(pictures).items():
        plda[name] = Plda.fit(known_features, told(crossed(view)))
        report("plda", len(plda), len(VIEWS), {})
    of_sent: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "plain": _compared(sketched),
        "unordered": _compared(lambda features: sketched(unordered(features))),
        "aligned": lambda probes, gallery: found_again(sketched(aligned(probes, gallery)), sketched(gallery)),
    }
    of_told: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "whitened": _compared(lambda features: functional.normalize(whitening(features), dim=1)),
        "learned": _compared(matcher),
    }
    found: dict[str, dict[str, list[Tensor]]] = {method: {} for method in METHODS}
    first = crossed(truth)
    for number in range(config.crossings):
        gallery = crossed(truth) if number else first
        told_of_gallery = told(gallery)
        for name, view in views(truth).items():
            probes = crossed(view)
            told_of_probes = told(probes)
            hits = {method: of(probes, gallery) for method, of in of_sent.items()}
            hits |= {method: of(told_of_probes, told_of_gallery) for method, of in of_told.items()}
            hits["plda"] = likeliest(plda[name].scores(told_of_probes, told_of_gallery))
            for method, each in hits.items():
                found[method].setdefault(name, []).append(each)
        report("find again", number + 1, config.crossings, {})
        if number == 0 and torch.equal(first, crossed(truth)):
            break  # nothing is drawn: all crossings are alike
    compared, pairs = told(first), _pairs(own.labels, generator(config.seed, "linkage", "pairs"))
    told_alike = whitening if pairs is None else Plda.fit(*(known_features[each] for each in pairs)).vectors
    return {
        "victims": len(theirs),
        "public": len(own),
        "queries": len(own) * (config.views + len(VIEWS) + (restart is not None)),
        "chance": 1 / len(theirs),
        "refound": {
            method: {name: _share(torch.stack(each)) for name, each in of.items()} for method, of in found.items()
        },
        "verified": _verified(told_alike(compared), theirs.labels),
        "label": _probed(known_features, own.labels, compared, theirs.labels, config.seed),
        "attributes": {
            name: _probed(known_features, each.public[public_places], compared, each.victims[places], config.seed)
            for name, each in (attributes or {}).items()
        },
    }


def _in_order(told: Told, known: Tensor, again: Tensor) -> Told:
    """What is told of features with their channels in the order of ``known`` public ones, if that finds more ``again``.

    The latter are of the same pictures, of another session.
    """
    reference = known[:_REFERENCE]

    def ordered(features: Tensor) -> Tensor:
        return told(aligned(features, reference))

    as_sent, in_order = (float(found_again(each(again), each(known)).mean()) for each in (told, ordered))
    return ordered if in_order > as_sent else told


def _compared(told: Told) -> Callable[[Tensor, Tensor], Tensor]:
    """Finds again by the distance of what is told of probes and of a gallery, see `found_again`."""
    return lambda probes, gallery: found_again(told(probes), told(gallery))


def _views(pictures: Tensor, plain: Tensor, sent: Send, config: LinkageConfig, report: Report) -> Iterator[Tensor]:
    """The features of the public pictures, and of other views of them: moved, brighter or darker, mirrored or not."""
    yield plain
    draw = generator(config.seed, "linkage", "views")
    for view in range(1, config.views):
        yield sent(_altered(pictures, draw))
        report("views", view + 1, config.views, {})


def _altered(images: Tensor, draw: torch.Generator) -> Tensor:
    altered = images.clone()
    across, down = torch.randint(-_FARTHEST, _FARTHEST + 1, (2, len(images)), generator=draw)
    for right, below in torch.stack([across, down], 1).unique(dim=0).tolist():
        chosen = (across == right) & (down == below)
        altered[chosen] = moved(images[chosen], right, below)
    mirrored = torch.rand(len(images), generator=draw) < 0.5
    altered[mirrored] = altered[mirrored].flip(-1)
    factors = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=draw)
    return (altered * factors).clamp(0, 1)


def _share(hits: Tensor) -> dict[str, Any]:
    """The share of hits ``(crossings, N)``, its standard error over victims, and the shares of single crossings.

    Of one victim there is no error.
    """
    of_victims = hits.mean(0)
    error = float(of_victims.std() / len(of_victims) ** 0.5) if len(of_victims) > 1 else None
    return {"share": float(hits.mean()), "error": error, "crossings": hits.mean(1).tolist()}


def _pairs(labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Pairs of pictures of one class, each in two of them, by place; None where no class has two."""
    order = torch.randperm(len(labels), generator=draw)
    of_classes = [order[labels[order] == label] for label in labels.unique()]
    paired = [(places, places.roll(1)) for places in of_classes if len(places) > 1]
    return (torch.cat([one for one, _ in paired]), torch.cat([other for _, other in paired])) if paired else None


def _verified(vectors: Tensor, labels: Tensor) -> dict[str, Any] | None:
    same = labels[:, None] == labels
    others = ~torch.eye(len(labels), dtype=torch.bool)
    if not bool((same & others).any()) or bool(same.all()):
        return None
    scores = pair_scores(vectors, vectors)
    return {f"{rate:g}": asdict(pair_match_rate(scores, same, rate, compared=others)) for rate in FALSE_MATCH_RATES}


def _probed(
    features: Tensor, known_values: Tensor, victims: Tensor, values: Tensor, seed: int
) -> dict[str, Any] | None:
    """How often a probe is right of the values that are known; null where there is nothing to learn or to tell."""
    taught, asked = known(known_values), known(values)
    if len(known_values[taught].unique()) < 2 or not bool(asked.any()):
        return None
    probe = train_probe(features[taught], known_values[taught], generator(seed, "linkage", "probe"))
    right = (probe(victims[asked]) == values[asked]).double()
    error = float(right.std() / len(right) ** 0.5) if len(right) > 1 else None
    return {
        "right": float(right.mean()),
        "error": error,
        "majority": majority_rate(known_values[taught], values[asked]),
        "victims": len(right),
    }


def rows(document: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    """The figures of a document of `linkage` as table rows of `COLUMNS`, shares in percent."""
    lines: list[tuple[str, ...]] = []
    chance = f"{100 * document['chance']:.1f} by chance"
    for method, of in document["refound"].items():
        lines += [
            (f"found again, {name}: {method}", *_percent(each["share"], each["error"]), chance)
            for name, each in of.items()
        ]
    for rate, each in (document["verified"] or {}).items():
        beside = f"{100 * float(rate):g} of others"
        lines.append(("two pictures told to be of one class", *_percent(each["rate"], each["error"]), beside))
    for name, each in {"label": document["label"], **document["attributes"]}.items():
        if each is not None:
            beside = f"{100 * each['majority']:.1f} by the most frequent"
            lines.append((f"probe of {name} is right", *_percent(each["right"], each["error"]), beside))
    for name, of in document.get("rebuilt", {}).items():
        for rate, each in of.items():
            beside = f"{100 * float(rate):g} of others"
            lines.append((f"by the embedder, {_PICTURES[name]}", *_percent(each["rate"], each["error"]), beside))
    return lines


_PICTURES = {"true": "true pictures", "rebuilt": "rebuilt pictures", "others": "pictures of others"}


def _percent(share: float | None, error: float | None) -> tuple[str, ...]:
    return tuple("-" if value is None else f"{100 * value:.1f}" for value in (share, error))
