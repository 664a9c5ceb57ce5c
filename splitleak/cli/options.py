"""Options that several commands share, and helpers that apply them to this process."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from splitleak.cli.choices import choice

if TYPE_CHECKING:
    import torch

    from splitleak.edge.profiles import DeviceProfile

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object a line.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random in this command.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Torch threads; default: torch's own choice.")]
Again = Annotated[
    bool, typer.Option("--force", help="Train again what is already trained, or replace what other settings gave.")
]
Replace = Annotated[bool, typer.Option("--force", help="Replace what other settings gave, where splitleak wrote it.")]
Engine = Annotated[
    str,
    choice("engines", "auto: ONNX Runtime if it gives what torch gives, else torch, fused; torch: bit for bit. One of"),
]
EmulatedDevice = Annotated[
    str | None,
    choice("devices", "Emulate a slower device: fewer threads, a wait after each computation; an assumption. One of"),
]
ChannelFile = Annotated[
    Path | None, typer.Option("--channel", help="TOML or JSON of how a server is reached: TLS, token, timeouts.")
]
Artifact = Annotated[Path, typer.Argument(help="Artifact folder.")]
CloudHalf = Annotated[Path, typer.Argument(help="Artifact folder, or its cloud half alone.")]
TrainedOn = Annotated[Path, typer.Option(help="Folder from `splitleak split` that it was trained on.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder in which torchvision keeps its data sets.")]
Measures = Annotated[
    list[str] | None,
    choice("measures", "A plug-in's measure to add to ours, or module:attribute; repeatable. Installed:", "--measure"),
]
Defenses = Annotated[list[str] | None, choice("defenses", "A defense; repeat to stack them. One of")]


def _result_file(context: typer.Context, path: Path | None) -> Path | None:
    from splitleak.artifacts import check_result

    if path is not None:
        check_result(path, force=context.params["force"])
    return path


ReplaceResult = Annotated[
    bool,
    typer.Option(
        "--force", is_eager=True, help="Replace a result that another command, or another file of settings, gave."
    ),
]
"""Of a command with a `ResultFile`, which asks for it."""
ResultFile = Annotated[Path | None, typer.Option(help="Write the result to this JSON file too.", callback=_result_file)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML or JSON with the settings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. training.epochs=4; repeatable."),
]
EmbedderConfig = Annotated[
    Path | None,
    typer.Option(help="TOML or JSON of the embedder's inputs and preprocessing, as for `splitleak import`."),
]
Preset = Annotated[str, choice("presets", "cpu: minutes on two cores; paper: the published recipe. One of")]


class Sides(NamedTuple):
    """Height and width of images, in pixels."""

    height: int
    width: int


_LEAST_SIDE = 8


def _sides(text: str | Sides) -> Sides:
    """``224``, of squares, or ``48x320``, height and width; a default is given as it is."""
    if isinstance(text, Sides):
        return text
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    chosen = Sides(int(found[1]), int(found[2] or found[1])) if found else None
    if chosen is None or min(chosen) < _LEAST_SIDE:
        expected = f"a side such as 224, or a height and width such as 48x320, of at least {_LEAST_SIDE} pixels"
        raise typer.BadParameter(f"expected {expected}, got {text}")
    return chosen


Size = Annotated[
    Sides,
    typer.Option(
        parser=_sides, metavar="SIDE|HEIGHTxWIDTH", help="What images are resized to, in pixels; one number: squares."
    ),
]


def read_shape(text: str, axes: int | None = None) -> tuple[int, ...]:
    """A shape from text such as 3x224x224.

    Raises:
        ValueError: It is something else, or has other than ``axes`` numbers.
    """
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})*", text) or (axes or text.count("x") + 1) != text.count("x") + 1:
        raise ValueError(f"expected a shape such as 3x224x224, got {text!r}")
    return tuple(map(int, text.split("x")))


def check_beside(needed: str, given: object, others: Mapping[str, object]) -> None:
    """Refuses options that have no effect without another.

    Args:
        needed: The other, in words.
        given: Its value; None, False or empty if it is missing.
        others: The options and their values, likewise.

    Raises:
        typer.BadParameter: Some are given without it.
    """
    idle = [name for name, value in others.items() if value]
    if idle and not given:
        raise typer.BadParameter(f"expected {needed} beside {', '.join(idle)}, got none")


def use_threads(threads: int | None) -> None:
    """Sets the number of torch threads of this process, if given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def compute_on(device: str, threads: int | None) -> "torch.device":
    """The device by its name, with the number of torch threads set, if given.

    Raises:
        ValueError: The device does not exist here.
    """
    from splitleak.seeding import resolve_device

    use_threads(threads)
    return resolve_device(device)


def use_device(name: str | None, threads: int | None) -> "DeviceProfile | None":
    """The profile of an emulated device; limits torch threads to its number, and to ``threads`` if given."""
    use_threads(threads)
    if name is None:
        return None
    import torch

    from splitleak.edge.profiles import DEVICES

    profile = DEVICES.choose(name)
    torch.set_num_threads(min(torch.get_num_threads(), profile.threads))
    return profile
