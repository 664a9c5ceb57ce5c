"""Scores are probabilities, or become such; what are no scores is said with where it came from."""

import numpy as np
import pytest

from splitleak.errors import WireError
from splitleak.wire.client.probabilities import probabilities

ROWS = np.array([[0.2, 0.8], [1, 0]], np.float32)


def test_probabilities_stay_and_logits_become_such_however_large():
    assert probabilities(ROWS, 2, logits=False, expected="x") is ROWS
    assert np.allclose(probabilities(ROWS * 1e30, 2, logits=True, expected="x"), [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (ROWS[:1], r"\(1, 2\)"),
        (ROWS[:, :1], r"\(2, 1\)"),
        (ROWS * np.nan, "not finite"),
        (ROWS - 1, "from -1 to 0: logits"),
    ],
)
def test_other_values_are_refused(values, said):
    with pytest.raises(WireError, match=rf"x \(2, K\).*{said}"):
        probabilities(values, 2, logits=False, expected="x")
