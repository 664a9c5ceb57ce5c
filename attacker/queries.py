"""Black-box queries: images through the deployed edge, their features read off the tap; or to a prediction service."""

import contextlib
import hashlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import grpc
import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor
from torch.nn import functional

from splitleak.artifacts import written_file
from splitleak.attacker.base import Query, affordable
from splitleak.attacker.crossings import together, unzeroed
from splitleak.datasets.images import Images, listed
from splitleak.defenses.artifact import WholeModel
from splitleak.errors import WireError
from splitleak.logs import Report, silent
from splitleak.npz import open_npz
from splitleak.wire.client import Scores
from splitleak.wire.client.batches import Batches
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.client.function import FunctionClient
from splitleak.wire.client.pushback import answered
from splitleak.wire.files import captures
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import INFERENCE
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.protocol.status import error_of, too_large

_QUERY_BATCH = 32
_OWN = re.compile(r"probe-[0-9a-f]{12}-\d+")
_STREAMED = re.compile(r"([0-9a-f]{8})-(\d{1,9})(?:-(\d{1,9}))?")  # see `splitleak.edge.run.stream_images`


def _told(report: Report, before: int, queries: int, place: int) -> None:
    """Tells of queries made: those of a turn up to ``place``, and those ``before`` it."""
    report("query", before + place, queries, {})


class EdgeProbe:
    """Queries the deployed edge like any user of the device, and reads the images' features off the tap."""

    def __init__(
        self,
        address: str,
        capture: Path,
        model: str,
        *,
        channel: ChannelConfig | None = None,
        report: Report = silent,
    ) -> None:
        self._address, self._capture, self._model, self._report = address, capture, model, report
        self._channel = channel or ChannelConfig()
        self.prefix, self.asked = f"probe-{secrets.token_hex(6)}-", f"an edge of {model}"
        self._numbers = itertools.count()
        self._batches = Batches(_QUERY_BATCH)

    def __call__(self, images: Tensor, *, draws: int = 1, averaging: int = 1) -> Tensor:
        """Features ``(draws, N, *cut)`` of images ``(N, C, H, W)`` in [0, 1], as they crossed the wire.

        Each image is sent ``draws * averaging`` times, and each answer is ``averaging`` of them, see `together`.

        Raises:
            ConnectionError: The edge cannot be reached; what it refuses is a ValueError or LookupError.
            WireError: A query is not in the capture: the tap is not where the edge's traffic passes.
        """
        sent: dict[str, tuple[int, int]] = {}  # name of a request: its draw, and the place of its first image
        turns, pixels = draws * averaging, images.numpy()
        with connect(self._address, self._channel) as channel:
            ask = partial(self._ask, GRPCInferenceServiceStub(channel))
            for turn in range(turns):
                heard = partial(_told, self._report, turn * len(pixels), turns * len(pixels))
                for place, name in self._batches.answers(pixels, ask, too_large, heard):
                    sent[name] = turn // averaging, place
        return self._answers(sent, draws, len(images), averaging)

    def _ask(self, stub: GRPCInferenceServiceStub, images: np.ndarray) -> str:
        """Sends images in one request, and returns its name."""
        name, timeout_s = f"{self.prefix}{next(self._numbers)}", self._channel.timeout_s
        request = codec.request(self._model, codec.encode(images, "fp32"), request_id=name, input_name="images")
        try:
            answered(partial(stub.ModelInfer, request, timeout=timeout_s), timeout_s)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)  # every error of a call is one
            raise error_of(call, f"query to the edge at {self._address}") from None
        return name

    def _answers(self, sent: dict[str, tuple[int, int]], draws: int, count: int, averaging: int) -> Tensor:
        lost, sums = dict(sent), np.zeros((3 if averaging > 1 else 1, draws, count), np.float32)
        for name, features in requests(self._capture, self._model):
            if name in lost:
                draw, place = lost.pop(name)
                if sums.ndim == 3:
                    sums = np.zeros((*sums.shape, *features.shape[1:]), np.float32)
                summed = [features / np.float32(averaging)]
                summed += [np.square(features), features != 0] if averaging > 1 else []
                for total, values in zip(sums, summed, strict=True):
                    total[draw, place : place + len(features)] += values
        if lost:
            found = f"expected the {len(sent)} queries just made, but {len(lost)} are missing"
            raise WireError(f"{self._capture}: {found}")
        mean, *others = torch.from_numpy(sums).flatten(1, 2)
        return (unzeroed(mean, *others, times=averaging) if others else mean).view(sums.shape[1:])


class ServiceProbe:
    """Queries a prediction service like any of its clients; its output policy applies to the answers."""

    def __init__(
        self,
        address: str,
        model: str | None = None,
        *,
        scores: Scores = "auto",
        output: str | None = None,
        channel: ChannelConfig | None = None,
        report: Report = silent,
    ) -> None:
        """See `ClassifierClient` for the arguments; ``report`` hears of progress."""
        self._report = report
        read = _read(scores=None if scores == "auto" else scores, output=output)
        self.prefix, self.asked = f"probe-{secrets.token_hex(6)}-", f"a service of {model or 'one model'}{read}"
        self._open: Callable[[], ClassifierClient | FunctionClient] = partial(
            ClassifierClient, address, model, scores=scores, output=output, prefix=self.prefix, channel=channel
        )

    def __call__(self, images: Tensor, *, draws: int = 1, averaging: int = 1) -> Tensor:
        """Scores ``(draws, N, K)``, or what else is answered, of images ``(N, C, H, W)`` in [0, 1].

        Each image is sent ``draws * averaging`` times, and each answer is the mean over ``averaging`` of them.

        Raises:
            ConnectionError: The service cannot be reached; see `ClassifierClient` for what it may refuse.
        """
        with self._open() as client:
            pixels = images.numpy()
            turns, answers = draws * averaging, []
            for turn in range(turns):
                heard = partial(_told, self._report, turn * len(pixels), turns * len(pixels))
                answers.append(client.predict(pixels, heard))
        found: Tensor = torch.from_numpy(np.stack(answers)).unflatten(0, (draws, averaging))
        return found.mean(1)


class FunctionProbe(ServiceProbe):
    """Queries a function of the user's own, which asks what it likes; errors as of `FunctionClient`."""

    def __init__(
        self,
        address: str,
        *,
        scores: Scores | None = None,
        shape: tuple[int, ...] | None = None,
        report: Report = silent,
    ) -> None:
        """See `FunctionClient` for the arguments; ``report`` hears of progress."""
        self._report = report
        read = _read(scores=scores, shape=shape)
        self.prefix, self.asked = "", f"the function {address}{read}"  # its queries have no ids
        self._open = partial(FunctionClient, address, scores=scores, shape=shape)


def _read(**how: object) -> str:
    """How answers are read, for what a probe asked: what is not as by default."""
    told = ", ".join(f"{name} {value}" for name, value in how.items() if value is not None)
    return f" ({told})" if told else ""


class Probe(Protocol):
    """A live target of queries: images to features or scores. `EdgeProbe` and `ServiceProbe` are.

    ``asked`` says what it asks, for a record that another may replace.
    """

    prefix: str
    asked: str

    def __call__(self, images: Tensor, *, draws: int = 1, averaging: int = 1) -> Tensor: ...


@dataclass(frozen=True)
class Pairs:
    """Recorded queries: the attacker's public images by hash, and their features or scores; attacks may share them.

    An attack on a record repeats bit for bit; one that queries a live edge that adds noise does not.
    """

    features: Tensor  # (draws, M, *cut) float32, or scores (draws, M, K); each the mean of `averaging` answers
    hashes: tuple[str, ...]  # of the M public images, see `Images.hashes`
    prefix: str  # of the queries' request ids
    averaging: int
    asked: str = ""  # of the probe; older records do not tell

    @classmethod
    def record(cls, probe: Probe, public: Images, *, draws: int, averaging: int, budget: int | None = None) -> "Pairs":
        """Sends every image of ``public`` ``draws * averaging`` times, or as many of them as ``budget`` covers.

        Raises:
            PermissionError: The budget does not cover one; nothing is sent.
        """
        public = cls.affordable(public, draws * averaging, budget)
        queries = len(public) * draws * averaging
        if budget is not None and queries > budget:
            raise PermissionError(f"expected at most {budget} queries, got {queries}")
        features = probe(public.floats(), draws=draws, averaging=averaging)
        return cls(features, tuple(public.hashes()), probe.prefix, averaging, probe.asked)

    @staticmethod
    def affordable(public: Images, each: int, budget: int | None) -> Images:
        """The images that `record` sends, if it sends each so often."""
        chosen = affordable(budget, len(public), each, seed=0)
        return public if chosen is None else public.select(chosen)

    @property
    def queries(self) -> int:
        """How many images were sent."""
        return len(self.features) * len(self.hashes) * self.averaging

    def used(self, views: int, draws: int | None, *, source: str) -> "Pairs":
        """The record as an attacker uses it who averages answers.

        Args:
            views: Answers that are averaged into one draw: as many as the record averages, or any number that divides
                the draws of one that averages none.
            draws: How many of these draws it uses, the first; None: all.
            source: Of the record, for the error.

        Raises:
            ValueError: The record averages another number of answers, or has fewer draws.
        """
        features, averaging = self.features, self.averaging
        if averaging == 1 and len(features) % views == 0:
            features, averaging = _put_together(features, views), views
        if averaging != views:
            expected = f"expected pairs of {views} views, as the victims'"
            raise ValueError(f"{source}: {expected}, got {averaging} and {len(features)} draws")
        if draws is not None and draws > len(features):
            raise ValueError(f"{source}: expected {draws} draws of {views} views on record, got {len(features)}")
        return replace(self, features=features[:draws], averaging=averaging)

    def query(self, budget: int | None = None) -> Query:
        """A black box that replays the record: queried again for an image, it gives the next draw, in a cycle.

        Raises PermissionError for an image that is not on record.
        """
        turns: dict[str, Iterator[tuple[int, int]]] = {}
        known: dict[str, list[int]] = {}
        for place, name in enumerate(self.hashes):
            known.setdefault(name, []).append(place)
        for name, places in known.items():
            turns[name] = itertools.cycle(itertools.product(range(len(self.features)), places))

        def send(images: Tensor) -> Tensor:
            names = _hashes(images)
            others = sum(name not in turns for name in names)
            if others:
                raise PermissionError(f"expected images that are on record, got {others} others: no edge to ask now")
            draws, places = zip(*(next(turns[name]) for name in names), strict=True)
            return self.features[list(draws), list(places)]

        return Query(send, budget, draws=len(self.features), averaging=self.averaging, recorded=True)

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` file of plain arrays, whole or not at all."""
        with written_file(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                features=self.features.numpy(),
                hashes=np.array(self.hashes),
                prefix=np.array(self.prefix),
                draws=np.array(len(self.features)),
                views=np.array(self.averaging),
                queries=np.array(self.queries),
                asked=np.array(self.asked),
            )

    @classmethod
    def load(cls, path: Path) -> "Pairs":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        with open_npz(path, "what `splitleak query` writes") as file:
            features = torch.from_numpy(file["features"])
            found = cls(features, tuple(map(str, file["hashes"])), str(file["prefix"]), int(file["views"]))
            found = replace(found, asked=str(file["asked"])) if "asked" in file.names else found
            told = int(file["queries"])
        if features.dtype != torch.float32 or features.ndim < 3 or features.shape[1] != len(found.hashes):
            raise ValueError(f"{path}: expected features (draws, {len(found.hashes)}, *cut), got {features.shape}")
        if told != found.queries or len(features) == 0 or found.averaging < 1:
            raise ValueError(f"{path}: expected {found.queries} queries for what it holds, got {told}")
        return found


def _put_together(features: Tensor, views: int) -> Tensor:
    """Draws ``(n * views, M, *cut)`` as n, each of ``views`` of them."""
    crossings = features.unflatten(0, (-1, views)).transpose(0, 1)
    rows = together(crossings.flatten(1, 2))
    return rows.view(crossings.shape[1:])


def live_query(probe: Probe, budget: int | None, *, averaging: int = 1, draws: int = 1) -> Query:
    """A live edge or service as a black box, to be asked ``draws`` times, each answer the mean of ``averaging``."""

    def send(images: Tensor) -> Tensor:
        return probe(images, averaging=averaging)[0]

    return Query(send, budget, draws=draws, averaging=averaging)


def artifact_query(whole: WholeModel, budget: int | None) -> Query:
    """A black box that runs the model ``whole`` in this process, defenses included: images to scores."""

    def send(images: Tensor) -> Tensor:
        return torch.from_numpy(whole.predict(images.cpu().numpy())).softmax(1)

    return Query(send, budget)


def label_only(query: Query) -> Query:
    """``query`` with label-only answers: one-hot rows, counted in the same budget."""

    def send(images: Tensor) -> Tensor:
        answers = query(images)
        return functional.one_hot(answers.argmax(1), answers.shape[1]).float()

    return Query(
        send,
        query.budget,
        draws=query.draws,
        averaging=query.averaging,
        answers="labels",
        recorded=query.recorded,
    )


def recorded_query(
    recorded: Pairs, pairs: Path, public: Images | None, source: Path | None, budget: int | None
) -> tuple[Query, Images]:
    """The black box of a record, and the images it was made with, after a check that they are of ``public``.

    Args:
        recorded: The record.
        pairs: Its file, for the error's message.
        public: The attacker's images.
        source: Their file, likewise.
        budget: Queries at most.

    Raises:
        ValueError: The record is of other images.
    """
    places: list[int] = []
    left = iter([] if public is None else enumerate(public.hashes()))
    for name in recorded.hashes:  # in the order of the images, of which a budget may have left some out
        places += itertools.islice((place for place, own in left if own == name), 1)
    if public is None or len(places) != len(recorded.hashes):
        raise ValueError(f"{pairs}: expected queries with the images of {source}, got others")
    return recorded.query(budget), public if len(places) == len(public) else public.select(torch.tensor(places))


def requests(capture: Path, model: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """The id and the features ``(N, *cut)`` of every captured request, or of those to ``model``, as they crossed.

    A retransmission after a broken connection, the same tensor under the same id, counts once.
    """
    seen: set[tuple[str, codec.WireTensor]] = set()
    for name, tensor in captures.inference_requests(captures.read(capture), model):
        mark = name, replace(tensor, raw=hashlib.sha256(tensor.raw).digest())
        if not name or mark not in seen:
            yield name, codec.decode(tensor)
        seen.add(mark)


def victims(
    capture: Path, *, model: str | None = None, averaging: int = 1, crossings: int | None = None
) -> tuple[tuple[str, ...], Tensor]:
    """The ids and features ``(N, *cut)`` of the captured images that are not an attacker's queries.

    They were sent to ``model``, by default the only one that the capture has traffic for, see `served_model`.

    Each ``crossings`` consecutive ones show the same image: the features of the first ``averaging`` of them, by default
    of all, are one, see `together`, under the first one's id. Those of `splitleak edge` are consecutive by the numbers
    in their ids, as several edges may send at once, and a server without a stream gets several calls at a time.

    Raises:
        ValueError: There are none, or of several shapes, or their number is not a multiple of ``crossings``, or that is
            less than ``averaging``; or ids tell that consecutive ones show several images.
    """
    each = averaging if crossings is None else crossings
    found = [(name, features) for name, features in requests(capture, served_model(capture, model)) if not is_own(name)]
    shapes = sorted({features.shape for _, features in found})
    if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(f"{capture}: expected features (N, ...) of one model, got {', '.join(map(str, shapes))}")
    if each > 1:
        found = _in_order(found)
    ids, rows = [], []
    for name, features in found:
        rows.append(features)
        ids += [name] if len(features) == 1 else [f"{name}#{row}" for row in range(len(features))]
    if not ids:
        raise ValueError(f"{capture}: expected images that were captured, beside the attacker's own queries, got none")
    if len(ids) % each:
        raise ValueError(f"{capture}: expected captured images in groups of {each}, got {len(ids)} images")
    if averaging > each:
        raise ValueError(f"{capture}: expected at most {each} views of an image that crossed so often, got {averaging}")
    for place, name in enumerate(ids):
        if _shows(name) != _shows(first := ids[place - place % each]):
            raise ValueError(f"{capture}: expected {each} consecutive requests of each image, got {first} with {name}")
    captured = torch.from_numpy(np.concatenate(rows))
    return tuple(ids[::each]), together(captured.unflatten(0, (-1, each))[:, :averaging].transpose(0, 1))


def _in_order(found: Sequence[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Requests by the stream that their ids tell, and in it by their numbers; those that tell none as they came."""
    streams: dict[str, int] = {}

    def place(request: tuple[str, np.ndarray]) -> tuple[int, int, int]:
        told = _STREAMED.fullmatch(request[0])
        stream, image, turn = told.groups("0") if told else ("", "0", "0")
        return streams.setdefault(stream, len(streams)), int(image), int(turn)

    return sorted(found, key=place)


def _shows(name: str) -> str | None:
    """What the id of a repeated request of `splitleak edge` tells of the image that it shows; None: nothing."""
    told = _STREAMED.fullmatch(name)
    return f"{told[1]}-{told[2]}" if told and told[3] else None


def is_own(name: str) -> bool:
    """Whether a request of that id is a query of `EdgeProbe` or `ServiceProbe`."""
    return _OWN.fullmatch(name) is not None


def served_model(capture: Path, model: str | None = None) -> str:
    """The name of the model that captured traffic is for: ``model``, or the only one of the capture.

    Raises:
        ValueError: The capture has traffic for several models, and none is named, or none for the one that is.
        WireError: The capture holds no inference request.
    """
    names: set[str] = set()
    for record in captures.read(capture):
        if record.direction == "request" and record.method in INFERENCE:
            with contextlib.suppress(DecodeError):  # of a client that sends what is no request
                names.add(pb.ModelInferRequest.FromString(record.message).model_name)
    if not names:
        raise WireError(f"{capture}: expected at least one inference request, found none")
    if len(names) > 1 if model is None else model not in names:
        expected = "of one model, or the name of one" if model is None else f"of the model {model!r}"
        raise ValueError(f"{capture}: expected traffic {expected}, got traffic of {listed(sorted(names))}")
    return names.pop() if model is None else model


def _hashes(images: Tensor) -> list[str]:
    """The hashes that `Images.hashes` gives to the images behind ``images`` in [0, 1]."""
    pixels = (images * 255).round().to(torch.uint8)
    if not torch.equal(pixels.float() / 255, images):
        raise PermissionError("expected images that are on record, got values that are no pixel's")
    return Images(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("unlabelled",)).hashes()
