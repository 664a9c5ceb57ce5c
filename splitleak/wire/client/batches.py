"""Requests of as many images as pass at once: halved where one is refused, and a smaller one may not be."""

import logging
import queue
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


class Batches:
    """Cuts images into requests; ``most`` is the number of images in one, as far as it is known."""

    def __init__(self, most: int) -> None:
        self.most = most

    def answers(
        self,
        images: NDArray[np.float32],
        ask: Callable[[NDArray[np.float32]], T],
        smaller_may_pass: Callable[[Exception], bool],
        heard: Callable[[int], None] = lambda place: None,
    ) -> Iterator[tuple[int, T]]:
        """The place of each request's first image, and what ``ask`` gives for it.

        Args:
            images: ``(N, ...)``.
            ask: Sends one request.
            smaller_may_pass: Whether ``most`` is halved for an error of ``ask``, which is raised otherwise.
            heard: Told before each request how many images were answered.
        """
        at = 0
        while at < len(images):
            part = images[at : at + self.most]
            heard(at)
            try:
                answer = ask(part)
            except (ValueError, RuntimeError, queue.Full) as error:
                if len(part) == 1 or not smaller_may_pass(error):
                    raise
                self.most = (len(part) + 1) // 2
                _LOGGER.info("%d images at once were refused, trying %d: %s", len(part), self.most, error)
                continue
            yield at, answer
            at += len(part)
