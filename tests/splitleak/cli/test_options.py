import pytest
import torch
import typer
from typer.testing import CliRunner

from splitleak.cli.options import Sides, Size, read_shape, use_device


def test_threads_are_those_asked_for(train):
    before = torch.get_num_threads()
    try:
        train("--threads", "2")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "sides"), [((), (32, 32)), (("--size", "224"), (224, 224)), (("--size", "48x320"), (48, 320))]
)
def test_a_size_is_a_side_or_height_and_width(given, sides):
    command = typer.Typer()
    seen, default = [], Sides(32, 32)

    @command.command()
    def run(size: Size = default) -> None:
        seen.append(size)

    assert CliRunner().invoke(command, given).exit_code == 0
    assert seen == [sides]
    for wrong in ("7", "48x", "48x4", "-5", "1e3", "48x48x3"):
        refused = CliRunner().invoke(command, ["--size", wrong])
        assert refused.exit_code == 2
        assert "expected a side such as 224" in refused.output


def test_an_emulated_device_uses_no_more_threads_than_asked_for():
    before = torch.get_num_threads()
    try:
        assert use_device("raspberry-pi-4", 1).name == "raspberry-pi-4"
        assert torch.get_num_threads() == 1
        assert use_device(None, 2) is None
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "axes", "shape"), [("3x224x224", 3, (3, 224, 224)), ("197x768", None, (197, 768)), ("10", None, (10,))]
)
def test_a_shape_is_read_from_text(text, axes, shape):
    assert read_shape(text, axes) == shape


@pytest.mark.parametrize("text", ["", "3x", "x3", "3x0x3", "-1x3x3", "3,4,5", "1x2", "3x224x2240000"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ValueError, match="a shape such as 3x224x224"):
        read_shape(text, 3)
