"""A sweep is every combination of what it lists, and the alternatives once for each artifact."""

from pathlib import Path

import pytest

from splitleak.eval.latency.plan import SweepConfig


def test_every_combination_is_a_setting_of_its_own():
    config = SweepConfig(
        artifacts=(Path("a"), Path("b")),
        batches=(1, 8),
        engines=("torch", "onnx"),
        codecs=("fp32", "uint8"),
        links=("loopback", "lte"),
        windows=(1, 4),
    )
    settings = list(config.settings(3))
    assert len({setting.digest for setting in settings}) == len(settings)
    count = {way: sum(setting.way == way for setting in settings) for way in ("split", "image", "device")}
    assert count == {"split": 3 * 32, "image": 2 * 32, "device": 2 * 4}


def test_the_third_subject_is_a_cut_and_has_no_alternatives():
    settings = list(SweepConfig(artifacts=(Path("a"),)).settings(2))
    assert [(setting.target, setting.way) for setting in settings] == [
        (0, "split"),
        (0, "image"),
        (0, "image"),
        (0, "device"),
        (1, "split"),
    ]


def test_words_from_a_command_line_are_checked():
    config = SweepConfig.parse({"artifacts": ["a"], "batches": ["1", "8"], "codecs": ["fp16"]}, source="latency")
    assert (config.batches, config.codecs) == ((1, 8), ("fp16",))
    with pytest.raises(ValueError, match=r"codecs\.0: .*got 'int4'"):
        SweepConfig.parse({"artifacts": ["a"], "codecs": ["int4"]}, source="latency")
    with pytest.raises(ValueError, match=r"windows\.0: .*got '0'"):
        SweepConfig.parse({"artifacts": ["a"], "windows": ["0"]}, source="latency")
