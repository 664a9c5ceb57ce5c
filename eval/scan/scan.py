"""What a network leaks at each place where it can be cut, without any training: one document."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import provenance
from splitleak.attacker.training.ridge import RidgeConfig, RidgeGauge
from splitleak.config import Config
from splitleak.datasets.images import Images
from splitleak.eval.scan.defended import defenses, plain
from splitleak.eval.scan.latency import evenly, time_halves
from splitleak.eval.scan.rows import OWN, Form, Row, packed
from splitleak.graphs.arrangement import arrangements
from splitleak.graphs.network import MIXED, Cut, Network, difference
from splitleak.graphs.prepared import IMAGES, OUTPUT
from splitleak.logs import Report, silent
from splitleak.measures.linkage.refinding import brighter, moved
from splitleak.measures.pixel import mse, psnr
from splitleak.measures.ssim import WINDOW, ssim
from splitleak.seeding import generator

VERSION = 1
PICTURE, ANSWER = "the picture itself", "the answer alone"
"""The first and the last row: everything in the cloud, and everything on the device."""

_SAMPLE = 64  # images whose features tell deviations and principal components
_PAIRS = 128  # public pictures that are seen again, which tells what of a feature is the picture's
_SKETCH = 2048  # values of a feature, drawn once, that neighbours are looked for by
_GAUGE = RidgeConfig(outputs=1024, work=8e9)
_MEMORY = 400 * 2**20  # of the sums and sketches of all rows at once: more take several passes
_BATCH_BYTES = 2**26  # of the tensors of a batch
_MOST_DB = 100.0  # stands for what is rebuilt exactly
_SHOWN = 6  # victims whose pictures are kept
_SMALL_RANGE = 64  # of 256 values: pictures that use no more are pointed out
_NO_SCORES = {"mse": None, "psnr": None, "ssim": None}
FEW_VICTIMS = 8
"""Of fewer, figures say little, and nothing passes by them."""

Pictures = dict[str, Tensor]
"""By row's number (and ``truth``), what is rebuilt of the first victims, uint8 ``(n, C, H, W)``."""


class ScanConfig(Config):
    """What is scanned, and on how many pictures."""

    cuts: int = Field(default=40, ge=1, description="places at most, evenly spaced over all that there are")
    tensors: int = Field(default=1, ge=1, description="that may cross at once")
    public: int = Field(default=300, ge=3, description="pictures that the gauge is fitted to")
    victims: int = Field(default=64, ge=1, description="pictures that it is judged on")
    noise: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        default=(), description="standard deviations of the feature"
    )
    bottleneck: tuple[int, ...] = Field(default=(), description="principal components of the channels")
    latency: int = Field(default=12, ge=0, description="cuts that are timed, evenly spaced; 0: none")
    threshold: float = Field(
        default=0.3,
        allow_inf_nan=False,
        description="SSIM of pictures that count as rebuilt, if above the mean image's",
    )
    share: float = Field(default=0.5, ge=0, le=1, description="of the MACs on the device, at most, of the cut judged")
    cut: str | None = Field(default=None, description="name of the cut that is judged")
    seed: int = 0


def scan(
    network: Network, public: Images, victims: Images, config: ScanConfig, report: Report = silent
) -> tuple[dict[str, Any], Pictures]:
    """Measures every cut, by one forward pass of each batch of images.

    Each row has what a linear map rebuilds of the victims' pictures (``mse``, ``psnr``, ``ssim``: means), what the
    nearest public picture by the feature gives (``retrieved``), which share of the victims is found again by their
    features (``refound``: encoded ``again``, ``moved`` by a pixel, ``brighter`` by a tenth; as the nearest, or as the
    likeliest by `Plda` of public pictures that are encoded twice, whichever finds more), ``bytes`` as the tensors are
    and as FP32, and parameters, MACs and latency of both sides. ``leaks`` is the largest SSIM of the place and of
    all that come after it, for these follow from what crosses it. A place whose features are not all finite, or are the
    same for all pictures, is ``unmeasured``, which says why; ``notes`` say what else is to be known.

    Args:
        network: The network.
        public: Pictures of the attacker's, of the network's size.
        victims: Others.
        config: What is scanned.
        report: Hears of progress.

    Returns:
        The document, as plain JSON values, and pictures to show.

    Raises:
        ValueError: Pictures do not fit the network or are too small, there is nowhere to cut it, the cut to be judged
            is unknown, an answer depends on the rest of its batch, or there are no finite features at any cut.
    """
    for images in (public, victims):
        if images.shape != network.image_shape:
            raise ValueError(f"expected pictures {network.image_shape}, as the network takes them, got {images.shape}")
    if min(network.image_shape[1:]) < WINDOW:
        raise ValueError(
            f"expected pictures of at least {WINDOW} × {WINDOW} pixels, which SSIM needs, got {public.shape}"
        )
    found = network.cuts(config.tensors)
    if not found:
        raise ValueError(f"expected a place where at most {config.tensors} tensors cross, got none; see --tensors")
    judged = None if config.cut is None else network.cut(config.cut, config.tensors)
    cuts = [found[place] for place in evenly(len(found), config.cuts)]
    if judged is not None and judged not in cuts:  # which may be one of more tensors than the others
        cuts = sorted([*cuts, judged], key=network.cuts(max(config.tensors, len(judged.tensors))).index)
    _check_alone(network, [name for cut in cuts for name in cut.tensors], victims)
    rows = _rows(network, found, cuts, public, config)
    truth, owned = victims.floats(), public.floats()
    for group in _groups(rows):
        _fill(network, group, public, victims, report)
    timed = time_halves(network, cuts, config.latency, report) if config.latency else {}
    whole = timed.get("", {}).get("whole_ms")
    documents: list[dict[str, Any]] = []
    pictures = {"truth": victims.pixels[:_SHOWN]}
    for row in rows:
        times = {"edge_ms": None, "cloud_ms": None, **timed.get(row.place, {})}
        if row.place == PICTURE:
            times = {"edge_ms": None, "cloud_ms": whole}
        elif row.place == ANSWER:
            times = {"edge_ms": whole, "cloud_ms": None}
        figures: dict[str, Any] = {**_NO_SCORES, "retrieved": dict(_NO_SCORES), "refound": {}, "gauge": {}}
        figures["refound"] = dict.fromkeys(("again", "moved", "brighter"))
        if row.finite:
            form, rebuilt = row.best()
            pictures[str(len(documents))] = rebuilt[:_SHOWN]
            retrieved, anew = row.nearest()
            figures = {
                **_scores(rebuilt.float() / 255, truth),
                "retrieved": _scores(owned[retrieved], truth),
                "refound": {kind: float(found.double().mean()) for kind, found in anew.items()},
                "gauge": form.gauge.findings,
            }
        documents.append(
            {
                "cut": row.place,
                "defense": row.sent.name,
                **row.about,
                "sent": [list(shape) for shape in row.sent.shapes],
                "bytes_fp32": 4 * sum(map(math.prod, row.sent.shapes)),
                **figures,
                **times,
                "unmeasured": row.unmeasured,
            }
        )
    if not any(row.finite for row in rows if row.place not in (PICTURE, ANSWER)):
        raise ValueError(f"expected finite values to scan, got others at every cut, the first of them {cuts[0].name!r}")
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
        "notes": _notes(network, public, victims, documents),
        "config": config.document(),
        "provenance": provenance(),
    }
    return document, pictures


def plain_rows(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of cuts without a defense, in their order; neither the picture nor the answer."""
    places = [row for row in document["rows"] if row["defense"] == "none"]
    return [row for row in places if row["cut"] not in (PICTURE, ANSWER)]


def judged_row(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the cut that is judged: the one asked for, else the deepest within the device's share of MACs.

    Raises:
        ValueError: None is asked for, and no MACs are counted.
    """
    rows, config = plain_rows(document), document["config"]
    if config["cut"] is not None:
        return next(row for row in rows if row["cut"] == config["cut"])
    check_share(rows[0]["device_macs"] + rows[0]["cloud_macs"])
    within = [row for row in rows if row["device_share"] <= config["share"]]
    return within[-1] if within else rows[0]


def check_share(macs: int) -> None:
    """Refuses to choose a cut by its share of ``macs``, where there are none."""
    if not macs:
        what = "a network with multiply-accumulates that are counted here, of which --share chooses a cut"
        raise ValueError(f"expected {what}, got none: name the cut to be judged by --cut")


def _check_alone(network: Network, names: Sequence[str], victims: Images) -> None:
    """Refuses a network that computes an image otherwise beside others, of which one alone says too little.

    Int8 scales that follow the batch are let pass, with a note. An answer may hide what a feature shows.
    """
    if network.scales_by_batch:
        return
    mixed = OUTPUT if network.mixes else None
    if network.batched and len(victims) > 1:
        pair = victims.select(torch.tensor([0, len(victims) - 1])).floats().numpy()
        [both] = network.forward(pair, names, most_bytes=2**62)
        for place in range(2):
            [alone] = network.forward(pair[place : place + 1], names)
            changed = (name for name in names if difference(both[name][place], alone[name][0]) > MIXED)
            mixed = mixed or next(changed, None)
    if mixed is not None:
        what = "a network that computes each image alone"
        raise ValueError(f"expected {what}, got one whose {mixed!r} depends on the rest of the batch too")


def _notes(network: Network, public: Images, victims: Images, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be known before the figures are believed."""
    notes = list(network.notes)
    if len(victims) < FEW_VICTIMS:
        notes.append(f"{len(victims)} victims alone: of so few, figures say little")
    pixels = torch.stack([torch.stack(each.pixels.aminmax()) for each in (public, victims)])
    lowest, highest = int(pixels[:, 0].min()), int(pixels[:, 1].max())
    if highest - lowest < _SMALL_RANGE:
        why = "as of 12 bits in files of 16" if highest < _SMALL_RANGE else "with hardly any contrast"
        notes.append(
            f"all pictures lie in {lowest} to {highest} of 0 to 255, {why}: is that what the network is given?"
        )
    for row in rows:
        if row["unmeasured"] and row["defense"] == "none":
            notes.append(f"`{row['cut']}` was not measured: {row['unmeasured']}")
    return notes


def _rows(network: Network, found: Sequence[Cut], cuts: Sequence[Cut], public: Images, config: ScanConfig) -> list[Row]:
    picture = network.image_shape[1:]
    grids = list(dict.fromkeys(shape[1:] for cut in found for shape in cut.shapes if len(shape) == 3))
    parameters, total = network.parameters, network.macs
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
                samples.setdefault(place, []).append(packed(values, tensors))
    rows = []
    for place, tensors, shapes, about in places:
        sents = [plain(shapes)]
        sample = torch.cat(samples.pop(place)) if place in samples else None
        if sample is not None and bool(sample.isfinite().all()):
            sents += defenses(shapes, sample, picture, grids, config.noise, config.bottleneck, config.seed)
        for sent in sents:
            ways = arrangements(network, tensors) if sent.shapes == tuple(shapes) else [(sent.shapes, None)]
            forms = []
            for form, order in ways:
                gauge = RidgeGauge(
                    form,
                    network.image_shape,
                    len(public),
                    seed=config.seed,
                    config=_GAUGE,
                    grids=grids,
                    groups=public.labels,
                )
                whole = form[0] if len(form) == 1 else (sum(map(math.prod, form)),)
                forms.append(Form(gauge, whole, None if order is None else torch.from_numpy(order)))
            size = sum(map(math.prod, sent.shapes))
            drawn = torch.randperm(size, generator=generator(config.seed, "scan", "sketch"))[:_SKETCH]
            changed = {} if sent.name == "none" else {"bytes": 4 * size}
            rows.append(Row(place, tensors, {**about, **changed}, sent, forms, drawn.sort().values))
    return rows


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows that fit into memory at once."""
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if sum(each.bytes for each in group) > _MEMORY:
            yield group
            group = []
    if group:
        yield group


def _fill(network: Network, rows: Sequence[Row], public: Images, victims: Images, report: Report) -> None:
    """Fits the rows' gauges and rebuilds the victims, by one pass of each set of images."""
    names = list(dict.fromkeys(name for row in rows for name in row.tensors))
    images = victims.floats()
    sets = {"public": public.floats(), "victims": images}
    for before, seen in (("", images), (OWN, public.floats()[:_PAIRS])):
        sets |= {before + "moved": moved(seen, 1, 1), before + "brighter": brighter(seen, 1.1)}
        if any(row.sent.randomised for row in rows):
            sets[before + "again"] = seen  # else they are the same again
    total, done = sum(map(len, sets.values())), 0
    for kind, pictures in sets.items():
        for values, batch in _encoded(network, names, pictures):
            for row in rows:
                row.take(kind, values, batch)
            done += len(batch)
            report("encode", done, total, {})
        if kind == "public":
            for solved, row in enumerate(rows, 1):
                row.solve()
                report("solve", solved, len(rows), {})


@torch.no_grad()
def _encoded(network: Network, names: Sequence[str], images: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """The tensors ``names`` batch by batch, and the images of each; images are one of them."""
    start = 0
    wanted = [name for name in names if name != IMAGES] or [OUTPUT]
    for made in network.forward(images.numpy(), wanted, torch.get_num_threads(), _BATCH_BYTES):
        values = {name: torch.from_numpy(value) for name, value in made.items()}
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
    """The rows, each with the largest SSIM of its place and those after it; of a defended one its own.

    What is not finite has none: of such a place the largest after it is all that is known, if there is any.
    """
    largest = None
    for row in reversed(rows):
        if row["defense"] == "none":
            largest = max((each for each in (largest, row["ssim"]) if each is not None), default=None)
            row["leaks"] = largest
        else:
            row["leaks"] = row["ssim"]
    return rows
