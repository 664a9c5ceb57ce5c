import numpy as np
import pytest

from splitleak.edge.encoder import encode_images


def test_features_of_another_shape_than_the_encoder_announced_are_an_error(encoder):
    encoder.feature_shape = (5, 4, 4)
    with pytest.raises(RuntimeError, match=r"expected .*\(1, 5, 4, 4\), got float32 \(1, 2, 4, 4\)"):
        encode_images(encoder, np.zeros((1, 1, 4, 4), np.float32))
