"""The scores that a service answers with, as probabilities."""

import numpy as np
from numpy.typing import NDArray

from splitleak.errors import WireError

Floats = NDArray[np.float32]


def probabilities(values: Floats, count: int, *, logits: bool, expected: str) -> Floats:
    """Scores ``(count, K)``, after softmax if they are ``logits``.

    Raises:
        WireError: They are something else; the message begins with ``expected``.
    """
    expected = f"{expected} ({count}, K)"
    if values.ndim != 2 or values.shape[0] != count or values.shape[1] < 2:
        raise WireError(f"{expected}, got {values.shape}")
    if not np.isfinite(values).all():
        raise WireError(f"{expected}, got values that are not finite")
    if logits:
        exponentials = np.exp(values.astype(np.float64) - values.max(1, keepdims=True))
        values = (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)
    if values.min() < 0 or values.max() > 1 + 1e-4:
        span = f"{values.min():g} to {values.max():g}"
        raise WireError(f"{expected} as probabilities, got values from {span}: logits, perhaps")
    return values
