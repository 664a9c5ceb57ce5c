"""Options that several commands share, and what some of them set in this process."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from splitleak.edge.device import DeviceProfile

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object a line.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random in this command.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads; default: torch's own choice.")]
Again = Annotated[bool, typer.Option("--force", help="Train again what is already trained.")]
Engine = Annotated[
    Literal["auto", "onnx", "fused", "torch"],
    typer.Option(help="auto: ONNX Runtime if it gives what torch gives, else torch, fused; torch: bit for bit."),
]
EmulatedDevice = Annotated[
    Literal["raspberry-pi-4", "raspberry-pi-5", "phone"] | None,
    typer.Option(help="Emulate a slower device: fewer threads, and a wait after each computation; an assumption."),
]
ChannelFile = Annotated[
    Path | None, typer.Option("--channel", help="TOML or JSON of how a server is reached: TLS, token, timeouts.")
]
Artifact = Annotated[Path, typer.Argument(help="Artifact folder.")]
CloudHalf = Annotated[Path, typer.Argument(help="Artifact folder, or its cloud half alone.")]
TrainedOn = Annotated[Path, typer.Option(help="Folder from `splitleak split` that it was trained on.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where torchvision keeps its sets.")]
Defenses = Annotated[list[str] | None, typer.Option(help="A defense by name; repeat to stack them.")]
ResultFile = Annotated[Path | None, typer.Option(help="Write the result to this JSON file too.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. training.epochs=4; repeatable."),
]
Preset = Annotated[
    Literal["cpu", "paper"], typer.Option(help="cpu: minutes on two cores; paper: the published recipe.")
]


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def use_device(name: str | None, threads: int | None) -> "DeviceProfile | None":
    """The profile to emulate, its threads in use: no more than ``threads``, or than torch's choice."""
    use_threads(threads)
    if name is None:
        return None
    import torch

    from splitleak.edge.device import device_profile

    profile = device_profile(name)
    torch.set_num_threads(min(torch.get_num_threads(), profile.threads))
    return profile
