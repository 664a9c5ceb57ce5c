"""What a network leaks at each place where it can be cut, without any training: one document."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import provenance
from splitleak.attacker.training.ridge import LinearMap, RidgeConfig, RidgeGauge
from splitleak.config import Config
from splitleak.datasets.images import Images
from splitleak.eval.scan.defended import Defended, defenses, plain
from splitleak.eval.scan.latency import evenly, time_halves
from splitleak.graphs.network import Cut, Network
from splitleak.graphs.prepared import IMAGES, OUTPUT
from splitleak.logs import Report, silent
from splitleak.measures.linkage.refinding import brighter, found_again, moved, nearest
from splitleak.measures.pixel import mse, psnr
from splitleak.measures.ssim import ssim
from splitleak.seeding import generator

VERSION = 1
PICTURE, ANSWER = "the picture itself", "the answer alone"
"""The first and the last row: everything in the cloud, and everything on the device."""

_SAMPLE = 64  # images whose features tell deviations and principal components
_SKETCH = 2048  # values of a feature, drawn once, that neighbours are looked for by
_GAUGE = RidgeConfig(outputs=1024, work=8e9)
_MEMORY = 400 * 2**20  # of the sums and sketches of all rows at once: more take several passes
_BATCH_BYTES = 2**26  # of the tensors of a batch
_MOST_DB = 100.0  # stands for what is rebuilt exactly
_SHOWN = 6  # victims whose pictures are kept

Pictures = dict[str, Tensor]
"""By row's number (and ``truth``), what is rebuilt of the first victims, uint8 ``(n, C, H, W)``."""


class ScanConfig(Config):
    """What is scanned, and on how many pictures."""

    cuts: int = Field(default=40, ge=1, description="places at most, evenly spaced over all that there are")
    tensors: int = Field(default=1, ge=1, description="that may cross at once")
    public: int = Field(default=300, ge=3, description="pictures that the gauge is fitted to")
    victims: int = Field(default=64, ge=1, description="pictures that it is judged on")
    noise: tuple[float, ...] = Field(default=(), description="standard deviations of the feature")
    bottleneck: tuple[int, ...] = Field(default=(), description="principal components of the channels")
    latency: int = Field(default=12, ge=0, description="cuts that are timed, evenly spaced; 0: none")
    threshold: float = Field(
        default=0.3, description="SSIM of pictures that count as rebuilt, if .1 above the mean image's"
    )
    share: float = Field(default=0.5, ge=0, le=1, description="of the MACs on the device, at most, of the cut judged")
    cut: str | None = Field(default=None, description="name of the cut that is judged")
    seed: int = 0


@dataclass
class _Row:
    """One row: a place with a defense, its gauge, and sketches of the features of each set of images."""

    place: str
    tensors: tuple[str, ...]
    about: Mapping[str, Any]
    sent: Defended
    gauge: RidgeGauge
    coordinates: Tensor
    sketches: dict[str, list[Tensor]] = field(default_factory=dict)
    rebuilt: list[Tensor] = field(default_factory=list)
    fitted: LinearMap | None = None

    def take(self, kind: str, values: Mapping[str, Tensor], images: Tensor) -> None:
        """Takes the tensors of a batch of ``kind``: learns from public ones, rebuilds victims."""
        features = self.sent.defend(_packed(values, self.tensors))
        self.sketches.setdefault(kind, []).append(features.flatten(1)[:, self.coordinates])
        if kind == "public":
            self.gauge.add(features, images)
        elif kind == "victims":
            assert self.fitted is not None
            self.rebuilt.append((self.fitted.predict(features) * 255).round().byte())

    def nearest(self) -> tuple[Tensor, dict[str, Tensor]]:
        """By features: the nearest public image to each victim; and whether each, encoded anew, is found again."""
        found = {kind: torch.cat(parts) for kind, parts in self.sketches.items()}
        public, victims = found.pop("public"), found.pop("victims")
        return nearest(victims, public), {
            kind: found_again(other, victims) for kind, other in ({"again": victims} | found).items()
        }


def scan(
    network: Network, public: Images, victims: Images, config: ScanConfig, report: Report = silent
) -> tuple[dict[str, Any], Pictures]:
    """Measures every cut, by one forward pass of each batch of images.

    Each row has what a linear map rebuilds of the victims' pictures (``mse``, ``psnr``, ``ssim``: means), what the
    nearest public picture by the feature gives (``retrieved``), which share of the victims is found again by their
    features (``refound``: encoded ``again``, ``moved`` by a pixel, ``brighter`` by a tenth), ``bytes`` as the tensors
    are and as FP32, and parameters, MACs and latency of both sides. ``leaks`` is the largest SSIM of the place and of
    all that come after it, for these follow from what crosses it.

    Args:
        network: The network.
        public: Pictures of the attacker's, of the network's size.
        victims: Others.
        config: What is scanned.
        report: Hears of progress.

    Returns:
        The document, as plain JSON values, and pictures to show.

    Raises:
        ValueError: Pictures do not fit the network, there is nowhere to cut it, or the cut to be judged is unknown.
    """
    for images in (public, victims):
        if images.shape != network.image_shape:
            raise ValueError(f"expected pictures {network.image_shape}, as the network takes them, got {images.shape}")
    found = network.cuts(config.tensors)
    if not found:
        raise ValueError(f"expected a place where at most {config.tensors} tensors cross, got none; see --tensors")
    judged = None if config.cut is None else network.cut(config.cut, config.tensors)
    cuts = [found[place] for place in evenly(len(found), config.cuts)]
    if judged is not None and judged not in cuts:
        cuts = sorted([*cuts, judged], key=found.index)
    rows = _rows(network, found, cuts, public, config)
    truth, owned = victims.floats(), public.floats()
    for group in _groups(rows):
        _fill(network, group, public, victims, report)
    timed = time_halves(network, cuts, config.latency, report) if config.latency else {}
    whole = timed.get("", {}).get("whole_ms")
    documents: list[dict[str, Any]] = []
    pictures = {"truth": victims.pixels[:_SHOWN]}
    for row in rows:
        rebuilt = torch.cat(row.rebuilt)
        pictures[str(len(documents))] = rebuilt[:_SHOWN]
        times = {"edge_ms": None, "cloud_ms": None, **timed.get(row.place, {})}
        if row.place == PICTURE:
            times = {"edge_ms": None, "cloud_ms": whole}
        elif row.place == ANSWER:
            times = {"edge_ms": whole, "cloud_ms": None}
        retrieved, anew = row.nearest()
        documents.append(
            {
                "cut": row.place,
                "defense": row.sent.name,
                **row.about,
                "sent": [list(shape) for shape in row.sent.shapes],
                "bytes_fp32": 4 * sum(map(math.prod, row.sent.shapes)),
                **_scores(rebuilt.float() / 255, truth),
                "retrieved": _scores(owned[retrieved], truth),
                "refound": {kind: float(found.double().mean()) for kind, found in anew.items()},
                **times,
                "gauge": row.gauge.findings,
            }
        )
    document = {
        "version": VERSION,
        "image_shape": list(network.image_shape),
        "outputs": network.outputs,
        "cuts_there_are": len(found),
        "public": len(public),
        "victims": len(victims),
        "chance": 1 / len(victims),
        "mean_image": _scores(owned.mean(0).expand_as(truth), truth),
        "rows": _with_leaks(documents),
        "config": config.document(),
        "provenance": provenance(),
    }
    return document, pictures


def plain_rows(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of cuts without a defense, in their order; neither the picture nor the answer."""
    places = [row for row in document["rows"] if row["defense"] == "none"]
    return [row for row in places if row["cut"] not in (PICTURE, ANSWER)]


def judged_row(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the cut that is judged: the one asked for, else the deepest within the device's share of MACs."""
    rows, config = plain_rows(document), document["config"]
    if config["cut"] is not None:
        return next(row for row in rows if row["cut"] == config["cut"])
    within = [row for row in rows if row["device_share"] <= config["share"]]
    return within[-1] if within else rows[0]


def _rows(
    network: Network, found: Sequence[Cut], cuts: Sequence[Cut], public: Images, config: ScanConfig
) -> list[_Row]:
    picture = network.image_shape[1:]
    grids = list(dict.fromkeys(shape[1:] for cut in found for shape in cut.shapes if len(shape) == 3))
    total = found[0].device_macs + found[0].cloud_macs
    parameters = found[0].device_parameters + found[0].cloud_parameters
    places: list[tuple[str, tuple[str, ...], tuple[tuple[int, ...], ...], dict[str, Any]]] = []
    on_cloud = Cut((IMAGES,), (network.image_shape,), "", math.prod(network.image_shape), 0, 0, parameters, total)
    on_device = Cut((OUTPUT,), ((network.outputs,),), "", 4 * network.outputs, parameters, total, 0, 0)
    for name, cut in ((PICTURE, on_cloud), *((cut.name, cut) for cut in cuts), (ANSWER, on_device)):
        about = {key: value for key, value in vars(cut).items() if key not in ("tensors", "shapes")}
        about |= {"shapes": [list(shape) for shape in cut.shapes], "device_share": cut.device_macs / max(total, 1)}
        places.append((name, cut.tensors, cut.shapes, about))
    samples: dict[str, list[Tensor]] = {}
    if config.noise or config.bottleneck:
        names = [name for cut in cuts for name in cut.tensors]
        for values, _ in _encoded(network, names, public.floats()[:_SAMPLE]):
            for place, tensors, _, _ in places[1:-1]:
                samples.setdefault(place, []).append(_packed(values, tensors))
    rows = []
    for place, tensors, shapes, about in places:
        sents = [plain(shapes)]
        if place in samples:
            sample = torch.cat(samples.pop(place))
            sents += defenses(shapes, sample, picture, grids, config.noise, config.bottleneck, config.seed)
        for sent in sents:
            gauge = RidgeGauge(
                sent.shapes,
                network.image_shape,
                len(public),
                seed=config.seed,
                config=_GAUGE,
                grids=grids,
                groups=public.labels,
            )
            size = sum(map(math.prod, sent.shapes))
            drawn = torch.randperm(size, generator=generator(config.seed, "scan", "sketch"))[:_SKETCH]
            changed = {} if sent.name == "none" else {"bytes": 4 * size}
            rows.append(_Row(place, tensors, {**about, **changed}, sent, gauge, drawn.sort().values))
    return rows


def _packed(values: Mapping[str, Tensor], tensors: Sequence[str]) -> Tensor:
    if len(tensors) == 1:
        return values[tensors[0]]
    return torch.cat([values[name].flatten(1) for name in tensors], 1)


def _groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows that fit into memory at once."""
    group: list[_Row] = []
    for row in rows:
        group.append(row)
        if sum(each.gauge.bytes for each in group) > _MEMORY:
            yield group
            group = []
    if group:
        yield group


def _fill(network: Network, rows: Sequence[_Row], public: Images, victims: Images, report: Report) -> None:
    """Fits the rows' gauges and rebuilds the victims, by one pass of each set of images."""
    names = list(dict.fromkeys(name for row in rows for name in row.tensors))
    images = victims.floats()
    sets = {
        "public": public.floats(),
        "victims": images,
        "moved": moved(images, 1, 1),
        "brighter": brighter(images, 1.1),
    }
    if any(row.sent.randomised for row in rows):
        sets["again"] = images  # else they are the same again
    total, done = sum(map(len, sets.values())), 0
    for kind, pictures in sets.items():
        for values, batch in _encoded(network, names, pictures):
            for row in rows:
                row.take(kind, values, batch)
            done += len(batch)
            report("encode", done, total, {})
        if kind == "public":
            for solved, row in enumerate(rows, 1):
                row.fitted = row.gauge.solve()
                report("solve", solved, len(rows), {})


@torch.no_grad()
def _encoded(network: Network, names: Sequence[str], images: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """The tensors ``names`` batch by batch, and the images of each; images are one of them."""
    start = 0
    wanted = [name for name in names if name != IMAGES] or [OUTPUT]
    for made in network.forward(images.numpy(), wanted, torch.get_num_threads(), _BATCH_BYTES):
        values = {name: torch.from_numpy(value) for name, value in made.items()}
        if wrong := next((name for name, value in values.items() if not value.isfinite().all()), None):
            raise ValueError(f"expected finite values to scan, got others at {wrong!r}")
        batch = images[start : start + len(next(iter(values.values())))]
        start += len(batch)
        yield {**values, IMAGES: batch}, batch


def _scores(images: Tensor, truth: Tensor) -> dict[str, float]:
    """Means over images ``(N, C, H, W)`` in [0, 1]."""
    return {
        "mse": float(mse(images, truth).mean()),
        "psnr": float(psnr(images, truth).clamp_max(_MOST_DB).mean()),
        "ssim": float(ssim(images, truth).mean()),
    }


def _with_leaks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the largest SSIM of its place and those after it; of a defended one its own."""
    largest = -math.inf
    for row in reversed(rows):
        if row["defense"] == "none":
            largest = max(largest, row["ssim"])
            row["leaks"] = largest
        else:
            row["leaks"] = row["ssim"]
    return rows
