"""What an import is told of a network."""

from pathlib import Path

import numpy as np
import pytest

from splitleak.graphs.importing import NetworkConfig, network_digest, network_of, read_names
from splitleak.graphs.prepared import OUTPUT, Preprocessing
from tests.splitleak.graphs.test_prepared import inputs, two_outputs


def test_a_file_that_tells_its_shape_needs_nothing_else() -> None:
    assert network_of(two_outputs(["n", 3, 4, 5]), NetworkConfig(output="twice")).image_shape == (3, 4, 5)


def test_a_free_size_is_given_by_the_caller() -> None:
    config = NetworkConfig(output="twice")
    assert network_of(two_outputs(["n", 3, "h", "w"]), config, (3, 6, 7)).image_shape == (3, 6, 7)
    with pytest.raises(ValueError, match=r"input 'x' as an image \(C, H, W\) by --input"):
        network_of(two_outputs(["n", 3, "h", "w"]), config)


def test_a_shape_whose_channels_come_last_in_the_file_names_the_setting() -> None:
    for told in ([6, 7, 3], ["h", "w", 3]):
        with pytest.raises(ValueError, match=r"got \(3, 6, 7\): channels come last there.*preprocessing\.layout=hwc"):
            network_of(two_outputs(["n", *told]), NetworkConfig(output="twice"), (3, 6, 7))
    assert network_of(two_outputs(["n", 3, 3, 3]), NetworkConfig(output="twice"), (3, 3, 3)).image_shape == (3, 3, 3)


def test_a_single_fixed_number_fills_an_input() -> None:
    network = network_of(inputs(17), NetworkConfig(fixed={"angle": 0.5}))
    (made,) = network.forward(np.zeros((1, 3, 4, 5), np.float32), [OUTPUT])
    assert made[OUTPUT][0, 60:].tolist() == [0.5] * 3


@pytest.mark.parametrize("value", [[1.0, 2.0], [[1.0]], ["a"], [[1.0], [1.0, 2.0]]])
def test_a_fixed_value_that_does_not_fit_is_refused(value: list[object]) -> None:
    with pytest.raises(ValueError, match=r"fixed\.angle"):
        network_of(inputs(17), NetworkConfig(fixed={"angle": value}))


def test_the_shape_of_several_images_is_told_for_each() -> None:
    with pytest.raises(ValueError, match="left, right"):
        network_of(inputs(17), NetworkConfig(fixed={"angle": 0.5}), (2, 4, 5))


def test_the_digest_changes_with_the_preprocessing() -> None:
    def digest(mean: float) -> str:
        config = NetworkConfig(output="twice", preprocessing=Preprocessing(mean=(mean,)))
        return network_digest(network_of(two_outputs(["n", 3, 4, 5]), config))

    assert digest(0.5) == digest(0.5) != digest(0.25)


def test_names_are_read_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffcat\ndog\n", encoding="utf-8")
    assert read_names(path, 2) == ("cat", "dog")
    with pytest.raises(ValueError, match="expected 3 names"):
        read_names(path, 3)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_names(path, 1)
    with pytest.raises(FileNotFoundError, match="one a line"):
        read_names(tmp_path / "none", 1)
