"""A function of the user's own in the place of a service: it asks whatever there is to ask, in whatever protocol."""

import hashlib
import time
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from splitleak.user_code import current_folder_first, load_attribute, reason
from splitleak.wire.client.probabilities import probabilities
from splitleak.wire.protocol.answer import Prediction
from splitleak.wire.protocol.checks import check_images

Floats = NDArray[np.float32]
_BATCH = 32


class FunctionClient:
    """A context manager like `ClassifierClient` that calls ``module:callable``; on entry its module is imported.

    The function takes images, float32 ``(N, C, H, W)`` in [0, 1] with N of at most 32, and gives an array or a tensor
    with a row for each: scores ``(N, K)`` or features ``(N, *shape)``.

    Args:
        address: Where it is, see `load_attribute`.
        scores: How scores are read, one of `SCORES`; None: rows are taken as they come, features too.
        shape: Of a row; None: that of the first.

    Raises:
        ValueError: (on entry) there is no such function.
    """

    digest: str | None = None
    classes: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None

    def __init__(self, address: str, *, scores: str | None = None, shape: tuple[int, ...] | None = None) -> None:
        self.model, self._scores, self._shape = address, scores, shape

    def __enter__(self) -> Self:
        found = load_attribute(self.model, "a function of images")
        if not callable(found):
            raise ValueError(f"expected a function of images at {self.model}, got {type(found).__name__}")
        self._function: Callable[[Floats], object] = found
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def predict(self, images: Floats, heard: Callable[[int], None] = lambda place: None) -> Floats:
        """Its rows for images ``(N, C, H, W)`` in [0, 1]; before each call, ``heard`` is told for how many they are.

        Raises:
            RuntimeError: The function fails, or gives something else; the message names it.
            ValueError: These are no images.
        """
        check_images(images, (-1, -1, -1))
        rows = []
        for at in range(0, len(images), _BATCH):
            heard(at)
            rows.append(self._rows(images[at : at + _BATCH]))
        return np.concatenate(rows)

    def ask(self, images: Floats, request_id: str) -> Prediction:
        """The same for one request, with the time that the call took."""
        check_images(images, (-1, -1, -1))
        started = time.monotonic_ns()
        rows = self._rows(images)
        return Prediction(
            output=rows,
            queue_us=0,
            compute_us=0,
            request_id=request_id,
            serialise_us=0,
            round_trip_us=(time.monotonic_ns() - started) // 1000,
            sent_bytes=images.nbytes,
            payload_sha256=hashlib.sha256(images.tobytes()).hexdigest(),
        )

    def _rows(self, images: Floats) -> Floats:
        try:
            with current_folder_first():
                given = self._function(images.copy())
            rows = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
        except Exception as error:  # whatever the user's code raises
            raise RuntimeError(f"{self.model} failed for {len(images)} images: {reason(error)}") from None
        expected = f"{self.model}: expected finite numbers ({len(images)}, ...), a row an image"
        if rows.dtype.kind not in "fiu" or rows.ndim < 2 or len(rows) != len(images) or 0 in rows.shape:
            raise RuntimeError(f"{expected}, got {rows.dtype} {rows.shape}")
        with np.errstate(over="ignore"):
            values: Floats = rows.astype(np.float32)
        if not np.isfinite(values).all():
            raise RuntimeError(f"{expected}, got {np.count_nonzero(~np.isfinite(values))} that are not finite")
        if self._shape not in (None, values.shape[1:]):
            raise RuntimeError(f"{self.model}: expected rows of shape {self._shape}, got {values.shape[1:]}")
        self._shape = values.shape[1:]
        if self._scores is None:
            return values
        logits = self._scores == "logits"
        return probabilities(values, len(images), logits=logits, expected=f"{self.model}: expected scores")
