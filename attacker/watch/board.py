"""What the page shows, of bounded size: counters, a minute of them by the second, and the newest requests."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from splitleak.wire.files.captures import Head

KEPT = 500  # requests
_SECONDS = 60
_NANOSECONDS = 10**9

Sight = dict[str, Any]
"""One request as the page shows it, in plain JSON values; ``number`` counts the requests of the capture."""


@dataclass
class _Second:
    requests: int = 0
    bytes: int = 0
    confidences: list[float] = field(default_factory=lambda: [0.0, 0])  # their sum, and their number


class Cursor(NamedTuple):
    """How far a browser is."""

    version: int = 0
    drawn: int = 0


class Board:
    """Written to by one thread, read by others."""

    def __init__(self, kept: int = KEPT, **about: Any) -> None:  # noqa: ANN401  # plain JSON values
        """``about`` is told to every browser as it is."""
        self.kept = kept
        self.viewers = 0  # browsers that are connected
        self.closed = False
        self._about = about
        self._counts = {"requests": 0, "answers": 0, "bytes": 0, "drawn": 0, "undrawn": 0, "seen": 0, "lost": 0}
        self._seconds: dict[int, _Second] = {}
        self._sights: dict[int, tuple[int, int, Sight]] = {}  # version when drawn and when changed
        self._version = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def viewer(self) -> Iterator[None]:
        """A browser is connected while the block runs."""
        with self._lock:
            self.viewers += 1
        try:
            yield
        finally:
            with self._lock:
                self.viewers -= 1

    def count(self, heads: Iterable[Head]) -> None:
        """Counts messages of inference, requests and answers."""
        with self._lock:
            for head in heads:
                self._counts["requests" if head.direction == "request" else "answers"] += 1
                self._counts["bytes"] += head.size
                second = self._second(head.time_ns)
                second.requests += head.direction == "request"
                second.bytes += head.size
                self._version += 1

    def tell(self, **counts: int) -> None:
        """Sets counters that are kept elsewhere."""
        with self._lock:
            self._counts.update(counts)

    def show(self, sight: Sight) -> None:
        """Shows a request that was looked into; the oldest makes room for it."""
        with self._lock:
            self._version += 1
            self._counts["drawn"] += 1
            self._counts["seen"] += sight["seen"] is not None
            self._sights[sight["number"]] = self._version, self._version, sight
            self._sure(sight)
            while len(self._sights) > self.kept:
                del self._sights[min(self._sights)]

    def amend(self, number: int, told: Mapping[str, Any]) -> None:
        """Adds what has become known of a request, if it is still shown."""
        with self._lock:
            if number in self._sights:
                self._version += 1
                drawn, _, sight = self._sights[number]
                self._sights[number] = drawn, self._version, {**sight, **told}
                self._sure(self._sights[number][2])

    def _sure(self, sight: Sight) -> None:
        if sight["confidence"] is not None:
            confidences = self._second(sight["time_ns"]).confidences
            confidences[0] += sight["confidence"]
            confidences[1] += 1

    def since(self, cursor: Cursor, most: int) -> tuple[dict[str, Any], Cursor]:
        """What a browser is to be sent that is at ``cursor``, and where it is then.

        Args:
            cursor: From the last call; a new one for a new browser.
            most: Requests, at most, the newest; how many more there were since the last call is ``skipped``.
        """
        with self._lock:
            fresh = [each for each in self._sights.values() if each[1] > cursor.version]
            sent = sorted(fresh, key=lambda each: each[2]["number"])[-most:]
            drawn = self._counts["drawn"] - cursor.drawn
            new = sum(each[0] > cursor.version for each in sent)
            document = {
                "about": self._about,
                "counts": dict(self._counts),
                "seconds": [
                    [second, each.requests, each.bytes, each.confidences[0] / (each.confidences[1] or 1)]
                    for second, each in sorted(self._seconds.items())
                ],
                "sights": [each[2] for each in sent],
                "skipped": drawn - new if cursor.version else 0,
            }
            return document, Cursor(self._version, self._counts["drawn"])

    def changed(self, cursor: Cursor) -> bool:
        """Whether there is anything new for a browser at ``cursor``."""
        return self._version != cursor.version

    def _second(self, time_ns: int) -> _Second:
        """That of a time; a minute before the newest, they are forgotten."""
        number = time_ns // _NANOSECONDS
        if number not in self._seconds:
            self._seconds[number] = _Second()
            oldest = max(self._seconds) - _SECONDS
            self._seconds = {each: kept for each, kept in self._seconds.items() if each > oldest}
        return self._seconds.get(number) or _Second()
