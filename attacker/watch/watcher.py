"""Watches a capture as it grows: counts all that crosses the wire, and looks into the newest requests."""

import contextlib
import logging
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from torch import Tensor

from splitleak.attacker.likeness import compared
from splitleak.attacker.queries import is_own
from splitleak.attacker.rebuilders import Rebuilder
from splitleak.attacker.watch.board import KEPT, Board, Sight
from splitleak.attacker.watch.pictures import heat_map, pixels, png
from splitleak.errors import WireError
from splitleak.wire.files.captures import Direction, Head, Record
from splitleak.wire.files.follow import Follower, Mark
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import INFERENCE, MODEL_STREAM_INFER
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

_LOGGER = logging.getLogger(__name__)
_BATCH = 8  # requests that are looked into at a time: no one sees more, and a browser has to draw them
_POLL_S = 0.25
_FAST = 64.0  # requests a second: nobody sees all of a faster stream, and what is drawn costs cores that it may want
_FAST_POLL_S, _FAST_BATCH = 2.5, 4
_COUNTING_S = 0.5  # at most, until some are looked into: a writer may be faster than this process, of low priority
_LARGEST_ANSWER = 2**16  # bytes: scores are fewer
_FEW = 8  # features, with fewer of which only an equal one is found again
_NEAR = 0.22  # of the usual distance between two features; of 200 pictures that all differ, two were as near or none
_ROUNDED = 0.25  # by how much the sum of rounded probabilities is above 1, at most

Picture = Callable[[str], Tensor | None]
"""The true image ``(C, H, W)`` in [0, 1] behind a request's id, where it is known: to the judge alone."""

_Key = tuple[int, str | int]
"""A call, and the id of a message in it; of one without, its turn, see `Watcher._turn`."""


@dataclass(frozen=True)
class Answer:
    """What the cloud said to a request."""

    mark: Mark
    scores: NDArray[np.float32] | None  # (K,), of the first image
    output: str = ""  # which the scores are of
    refusal: str = ""


class Watcher:
    """Follows a capture in a thread of its own, and keeps a `Board` up to date.

    The newest requests come first. Those that it has no time for, `KEPT` of which wait, are counted and passed over; it
    looks into none while no browser is connected.

    Args:
        capture: The file that a tap, or a curious cloud, writes.
        rebuilder: From features to pictures; none: there are heat maps only.
        classes: Names of the cloud's outputs; where there are as many.
        truth: The true pictures, where the judge watches.
        kept: Requests that are kept.
    """

    def __init__(
        self,
        capture: Path,
        rebuilder: Rebuilder | None = None,
        classes: Sequence[str] = (),
        truth: Picture | None = None,
        kept: int = KEPT,
    ) -> None:
        self._known = Gallery(kept, rebuilder)
        self.board = Board(
            kept,
            capture=capture.name,
            rebuilder=None if rebuilder is None else rebuilder.name,
            truth=truth is not None,
            again=self._known.rule,
        )
        self._capture, self._rebuilder, self._classes, self._truth = capture, rebuilder, tuple(classes), truth
        self._number = self._undrawn = 0
        self._stepped = -math.inf
        self._waiting: deque[tuple[int, int, Mark]] = deque(maxlen=kept)  # number, turn, message
        self._replies: deque[tuple[int, Mark]] = deque(maxlen=2 * kept)  # turn, message
        self._turns: OrderedDict[int, Counter[Direction]] = OrderedDict()  # messages so far, of a call
        self._answers: OrderedDict[_Key, Answer] = OrderedDict()
        self._unanswered: OrderedDict[_Key, tuple[int, Mark]] = OrderedDict()  # the shown ones' numbers
        self._logits: OrderedDict[str, None] = OrderedDict()  # outputs of which an answer was none of probabilities
        self._follower = Follower(capture)
        self._stop = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block runs.

        Raises:
            OSError: There is no such capture.
            WireError: The file is no capture.
        """
        with self._follower:
            self.step()
            thread = threading.Thread(target=self._run, name="watcher", daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join()

    def step(self) -> float:
        """Counts what has come, and looks into a few of the newest requests, if somebody watches.

        Returns:
            The seconds until the next step is worth its cost.
        """
        before, since, began = self._number, self._stepped, time.monotonic()
        behind, deadline, heads = False, began + _COUNTING_S, list[Head]()
        for mark in self._follower.poll():
            if mark.head.method in INFERENCE:
                heads.append(mark.head)
                self._take(mark)
            if behind := time.monotonic() > deadline:
                break
        self.board.count(heads)
        fast = self._number - before > _FAST * (began - since) and not behind
        self.board.tell(undrawn=self._undrawn, lost=self._follower.lost)
        if self.board.viewers:
            count = min(_FAST_BATCH if fast else _BATCH, len(self._waiting))
            self._look([self._waiting.pop() for _ in range(count)][::-1])
            self._hear()
        self._stepped = began
        return _FAST_POLL_S if fast else _POLL_S

    def _run(self) -> None:
        try:
            pause_s = _POLL_S
            while not self._stop.wait(pause_s):
                began = time.monotonic()
                pause_s = max(self.step(), time.monotonic() - began)  # at most half of a core
        except Exception:
            _LOGGER.exception("%s: it is no longer watched", self._capture)
        finally:
            self.board.closed = True  # which browsers tell

    def _take(self, mark: Mark) -> None:
        turn = self._turn(mark.head)
        if mark.head.direction == "response":
            if mark.head.size <= _LARGEST_ANSWER:
                self._replies.append((turn, mark))
            return
        self._undrawn += len(self._waiting) == self._waiting.maxlen
        self._number += 1
        self._waiting.append((self._number, turn, mark))

    def _turn(self, head: Head) -> int:
        """Which of its call's requests, or of its answers, a message is, from 1: these come in the requests' order.

        Where messages are missing none can be told of a stream: a request has its own then, below 0, and an answer 0.
        """
        turns = self._turns.setdefault(head.call, Counter())
        turns[head.direction] += 1
        self._turns.move_to_end(head.call)
        _shorten(self._turns, self.board.kept)
        if self._follower.lost and head.method == MODEL_STREAM_INFER:
            return -self._number - 1 if head.direction == "request" else 0
        return turns[head.direction]

    def _hear(self) -> None:
        """Adds their answers to the requests that are shown without one.

        A message is read only if it comes after one of these: of a fast stream, few are.
        """
        passed, oldest = list[tuple[int, Mark]](), self._oldest()
        while self._replies and oldest is not None:
            turn, mark = self._replies.popleft()
            if mark.place < oldest:
                passed.append((turn, mark))
                continue
            record = self._follower.read(mark)
            told = None if record is None else _answer(mark, record)
            if told is not None:
                name, answer = told
                key = mark.head.call, name or turn
                self._answers[key] = answer
                if key in self._unanswered and self._unanswered[key][1].place < mark.place:
                    number, asked = self._unanswered.pop(key)
                    self.board.amend(number, self._answered(asked, answer))
                    oldest = self._oldest()
        self._replies.extendleft(reversed(passed))
        _shorten(self._answers, 2 * self.board.kept)

    def _oldest(self) -> tuple[int, int] | None:
        """The place of the first request that is shown without an answer."""
        return min((asked.place for _, asked in self._unanswered.values()), default=None)

    def _look(self, newest: Sequence[tuple[int, int, Mark]]) -> None:
        """Looks into requests, in order, and shows them."""
        seen: list[tuple[int, Mark, Sight, NDArray[np.float32] | None]] = []
        for number, turn, mark in newest:
            record = self._follower.read(mark)
            if record is None:
                self._undrawn += 1
            else:
                seen.append((turn, mark, *self._read(number, record)))
        pictures = self._rebuilt([feature for *_, feature in seen])
        for (turn, mark, sight, feature), picture in zip(seen, pictures, strict=True):
            if feature is not None:
                sight["heat"] = png(heat_map(feature))
                sight["rebuilt"] = picture
                sight["seen"] = self._known.find(sight["number"], feature, picture or sight["heat"])
            if self._truth is not None and (image := self._truth(sight["id"])) is not None:
                sight["truth"] = png(pixels(image.numpy()))
            key = sight["call"], sight["id"] or turn
            answer = self._answers.get(key)
            if answer is not None and answer.mark.place > mark.place:
                sight |= self._answered(mark, answer)
            else:
                self._unanswered[key] = sight["number"], mark
            self.board.show(sight)
        _shorten(self._unanswered, self.board.kept)

    def _read(self, number: int, record: Record) -> tuple[Sight, NDArray[np.float32] | None]:
        """What a request tells, and the feature of its first image; None if it holds none."""
        sight: Sight = {
            **{"number": number, "time_ns": record.time_ns, "call": record.call, "bytes": len(record.message)},
            **{"id": "", "own": False, "shape": [], "heat": None, "rebuilt": None, "truth": None, "seen": None},
            **{"label": None, "confidence": None, "ms": None, "error": "", "doubt": ""},
        }
        try:
            request = pb.ModelInferRequest.FromString(record.message)
            sight |= {"id": request.id, "own": is_own(request.id)}
            features = codec.decode(codec.request_tensor(request))
        except (DecodeError, WireError) as error:
            return sight | {"error": str(error)}, None
        sight["shape"] = list(features.shape)
        if features.size == 0 or features.ndim < 2:
            return sight | {"error": "a tensor without values of an image"}, None
        if self._rebuilder is not None:
            sight["doubt"] = self._rebuilder.doubt(request.model_name, features.shape[1:])
        return sight, features[0]

    def _rebuilt(self, features: Sequence[NDArray[np.float32] | None]) -> list[str | None]:
        """The picture of each feature that the rebuilder can take, as a data URI."""
        made: list[str | None] = [None] * len(features)
        if self._rebuilder is None:
            return made
        fitting = [
            (place, feature)
            for place, feature in enumerate(features)
            if feature is not None and feature.shape == self._rebuilder.feature_shape
        ]
        if fitting:
            rows = torch.from_numpy(np.nan_to_num(np.stack([feature for _, feature in fitting])))
            for (place, _), image in zip(fitting, self._rebuilder.rebuild(rows), strict=True):
                made[place] = png(pixels(image.numpy()))
        return made

    def _answered(self, asked: Mark, answer: Answer) -> dict[str, Any]:
        took_ns = answer.mark.head.time_ns - asked.head.time_ns
        told: dict[str, Any] = {"ms": took_ns / 1e6, "error": answer.refusal}
        if answer.scores is not None:
            chosen = int(answer.scores.argmax())
            named = len(self._classes) == len(answer.scores)
            told["label"] = self._classes[chosen] if named else f"class {chosen}"
            told["confidence"] = float(self._probabilities(answer.scores, answer.output)[chosen])
        return told

    def _probabilities(self, scores: NDArray[np.float32], output: str) -> NDArray[np.float64]:
        """Scores ``(K,)`` of an output as probabilities: as they are if it gives these, else their softmax.

        An output called logits gives none. Else its answers tell, be they rounded or the highest score alone: as small
        logits look like them, it gives none from the first answer on that is none.
        """
        values = np.nan_to_num(scores).astype(np.float64)
        in_range = values.min() >= 0 and values.max() <= 1
        if not in_range or ("prob" not in output.lower() and values.sum() > 1 + _ROUNDED):
            self._logits[output] = None
            _shorten(self._logits, self.board.kept)
        if "logit" not in output.lower() and output not in self._logits:
            return values
        powers = np.exp(values - values.max())
        shares: NDArray[np.float64] = powers / powers.sum()
        return shares


class _Seen(NamedTuple):
    """A feature that was seen, by the number of its request and of the first that had the same picture."""

    number: int
    first: int
    picture: str


class Gallery:
    """The features that were seen last, by which one is found again that comes a second time, noise or not.

    Where the rebuilder knows features of public pictures, one is found again that is as near to an earlier one as
    one in 200 of these is, by distance or in proportion to the next; else one that is much nearer than two usually are.
    """

    def __init__(self, kept: int, rebuilder: Rebuilder | None) -> None:
        self._apart = None if rebuilder is None else rebuilder.apart
        self._apart_shape = None if rebuilder is None else rebuilder.feature_shape
        than = (
            f"{_NEAR:g} of the usual distance"
            if self._apart is None
            else "those of 199 in 200 public pictures are to another's, by distance or in proportion to the next"
        )
        self.rule = f"nearer to those of an earlier request than {than}"
        self._shape: tuple[int, ...] = ()
        self._kept, self._taken, self._seen = kept, 0, list[_Seen]()
        self._rows, self._squares = np.empty((0, 0)), np.empty(kept)

    def find(self, number: int, feature: NDArray[np.float32], picture: str) -> dict[str, Any] | None:
        """The nearest of the features before, if it is nearer than those of different pictures are; takes it in."""
        row = compared(feature[None])[0]
        if feature.shape != self._shape:
            self._shape, self._taken, self._seen = feature.shape, 0, []
            self._rows = np.empty((self._kept, len(row)))
        found, first, square = None, number, float(np.einsum("d,d->", row, row))
        earlier = np.array([each.number < number for each in self._seen], bool)
        if earlier.any():
            count = len(self._seen)
            products = np.einsum("nd,d->n", self._rows[:count], row)  # by one thread: BLAS would take all cores
            apart = np.sqrt(np.maximum(self._squares[:count] + square - 2 * products, 0))
            apart[~earlier] = np.inf
            place = int(apart.argmin())
            # The one that counts is computed without the cancellation that the fast way for all has.
            like, nearest = self._seen[place], float(np.linalg.norm(self._rows[place] - row))
            if self._apart is not None and feature.shape == self._apart_shape:
                others = earlier & np.array([each.first != like.first for each in self._seen])
                again = self._apart.again(nearest, apart[others])
            else:
                usual = float(np.median(apart[earlier]))
                again = nearest <= (_NEAR * usual if earlier.sum() >= _FEW else 0.0)
            if again:
                found, first = {"number": like.number, "picture": like.picture}, like.first
        place = self._taken % self._kept
        self._rows[place], self._squares[place] = row, square
        self._seen[place : place + 1] = [_Seen(number, first, picture)]
        self._taken += 1
        return found


def _answer(mark: Mark, record: Record) -> tuple[str, Answer] | None:
    """The id of a response, and what it says; None if it is no message of the protocol."""
    refusal = ""
    try:
        if record.method == MODEL_STREAM_INFER:
            streamed = pb.ModelStreamInferResponse.FromString(record.message)
            response, refusal = streamed.infer_response, streamed.error_message
        else:
            response = pb.ModelInferResponse.FromString(record.message)
        scores, output = None, ""
        if not refusal and response.outputs:
            output = response.outputs[0].name
            values = codec.response_array(response, output)
            scores = values.reshape(len(values), -1)[0] if values.ndim and values.size else None
    except (DecodeError, WireError, ValueError):
        return None
    return response.id, Answer(mark, scores, output, refusal)


def _shorten(table: OrderedDict[Any, Any], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)
