"""Images are cut into requests, smaller ones where a server refuses as many at once."""

import numpy as np
import pytest

from splitleak.wire.client.batches import Batches

IMAGES = np.arange(7, dtype=np.float32).reshape(7, 1)


def refusing(above: int):
    """Asks a server that takes at most so many images at once, and notes how many each request had."""
    asked: list[int] = []

    def ask(images):
        asked.append(len(images))
        if len(images) > above:
            raise ValueError("too many")
        return images.sum()

    return ask, asked


def test_a_batch_is_halved_until_it_passes_and_stays_so_for_the_next_images():
    ask, asked = refusing(above=2)
    batches, heard = Batches(5), []
    answers = list(batches.answers(IMAGES, ask, lambda error: True, heard.append))
    assert answers == [(0, 1.0), (2, 5.0), (4, 9.0), (6, 6.0)]
    assert asked == [5, 3, 2, 2, 2, 1]
    assert heard == [0, 0, 0, 2, 4, 6]
    assert [place for place, _ in batches.answers(IMAGES, ask, lambda error: True)] == [0, 2, 4, 6]
    assert max(asked[6:]) == 2


@pytest.mark.parametrize(("above", "may_pass", "asked"), [(0, True, [4, 2, 1]), (2, False, [4])])
def test_what_a_smaller_request_does_not_cure_is_raised(above, may_pass, asked):
    ask, sent = refusing(above)
    with pytest.raises(ValueError, match="too many"):
        list(Batches(4).answers(IMAGES, ask, lambda error: may_pass))
    assert sent == asked
