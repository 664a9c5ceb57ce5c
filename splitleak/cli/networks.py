"""The commands for networks of a user's own: where they can be cut, and as an artifact that every command takes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.documents import read_config
from splitleak.cli.options import ConfigFile, Json, Replace, Settings, read_shape
from splitleak.cli.output import console, print_json, result, table

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from splitleak.graphs.importing import NetworkConfig
    from splitleak.graphs.network import Cut, Network

MILLION = 1e6

Onnx = Annotated[Path | None, typer.Option(help="An ONNX file. Nothing of it is run but its own operations.")]
Torch = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CALLABLE", help="Python code of yours that gives the network; it is run, once."),
]
Weights = Annotated[Path | None, typer.Option(help="Of --torch: safetensors, or a state dict of torch.save.")]
Input = Annotated[
    str | None,
    typer.Option("--input", metavar="CxHxW", help="Shape of an image, where the file leaves it open; 3x224x224."),
]
Tensors = Annotated[int, typer.Option(min=1, max=64, help="How many tensors may cross a cut at once.")]


def cuts(
    onnx: Annotated[Path | None, typer.Argument(help="An ONNX file.")] = None,
    torch: Torch = None,
    weights: Weights = None,
    input_: Input = None,
    tensors: Tensors = 1,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """List every place where a network can be cut, with what crosses there and what lies on either side.

    `--set preprocessing.mean=[0.485,0.456,0.406]`, `--set inputs.left=[3,64,64]`, `--set fixed.scale=1.0` and
    `--set output=NAME` tell what the file does not.
    """
    network, _ = read_network(onnx, torch, weights, input_, read_config_of(config, settings))
    found = network.cuts(tensors)
    if as_json:
        about = {"image_shape": network.image_shape, "outputs": network.outputs, "notes": network.notes}
        print_json({**about, "cuts": [vars(cut) for cut in found]})
        return
    left = ("cut", "after", "crosses")
    columns = (*left, "KiB", "device parameters", "MACs", "%", "cloud parameters", "MACs")
    rows = [
        (
            cut.name,
            cut.after,
            " + ".join("×".join(map(str, shape)) for shape in cut.shapes),
            f"{cut.bytes / 1024:,.1f}",
            f"{cut.device_parameters:,}",
            f"{cut.device_macs / MILLION:,.2f} M",
            f"{100 * cut.device_macs / max(1, cut.device_macs + cut.cloud_macs):.0f}",
            f"{cut.cloud_parameters:,}",
            f"{cut.cloud_macs / MILLION:,.2f} M",
        )
        for cut in found
    ]
    image = "×".join(map(str, network.image_shape))
    batch = "" if network.batched else ", one image at a time"
    heading = f"{len(rows)} cuts; images {image}{batch}, {network.outputs:,} outputs"
    shown = console(width=200)
    shown.print(table(columns, rows, title=heading, left=left, wrap=left, framed=False))
    for note in network.notes:
        shown.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def import_(
    out: Annotated[Path, typer.Option(help="Artifact folder to write.")],
    cut: Annotated[
        str,
        typer.Option(
            help="Where: a name that `splitleak cuts` lists; with --torch, a submodule (or its second call, layer#2)."
        ),
    ],
    onnx: Onnx = None,
    torch: Torch = None,
    weights: Weights = None,
    input_: Input = None,
    tensors: Tensors = 8,
    images: Annotated[
        Path | None, typer.Option(help="Folder from `splitleak split`: its test images tell the accuracy.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the outputs, one a line.")] = None,
    name: Annotated[str | None, typer.Option(help="Name the services give the model; default: the folder's.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Cut a network of your own in two, and write it as an artifact with an edge and a cloud half.

    Both halves together must give what the whole gives, within 1e-4 (of half precision, 1e-2). Where the images of
    --images have as many classes as the network has outputs, a right answer is their label; else it is the whole
    network's own answer. Afterwards neither the file nor your code is needed.
    """
    from splitleak.defenses.importing import import_network
    from splitleak.graphs.importing import read_names

    given = read_config_of(config, settings)
    network, place = _read_cut(onnx, torch, weights, input_, given, cut, tensors)
    names = None if labels is None else read_names(labels, network.outputs)
    source = str(torch) if onnx is None else onnx.name
    label = name or out.name
    about = import_network(
        network,
        place,
        out,
        source=source,
        name=label,
        names=names,
        images=images,
        preprocessing=given.preprocessing,
        force=force,
    )
    lines = [f"{out}: {source} cut at {place.name}, {'×'.join(map(str, place.feature_shape))} a picture cross"]
    lines.append(f"both halves give the whole's answer within {about['difference']:.1e}")
    lines.append(f"accuracy {about['accuracy']:.2%} ({about['right_answer']})")
    lines += [f"note: {note}" for note in about["notes"]]
    result(as_json, {"artifact": str(out), **about}, "\n".join(lines))


def _read_cut(
    onnx: Path | None,
    torch: str | None,
    weights: Path | None,
    shape: str | None,
    config: "NetworkConfig",
    cut: str,
    tensors: int,
) -> "tuple[Network, Cut]":
    """The network as `read_network` gives it, and its cut; the user's own module, with its weights, is let go."""
    from splitleak.graphs.user_module import cut_after, is_path

    network, module = read_network(onnx, torch, weights, shape, config)
    if module is not None and is_path(module, cut):
        return network, cut_after(network, module, cut, config.inputs or {"image": network.image_shape}, tensors)
    return network, network.cut(cut, tensors)


def read_config_of(config: Path | None, settings: list[str] | None) -> "NetworkConfig":
    """The config of a network from a file and single settings."""
    from splitleak.graphs.importing import NetworkConfig

    return read_config(NetworkConfig, config, settings, "network")


def read_network(
    onnx: Path | None, torch: str | None, weights: Path | None, shape: str | None, config: "NetworkConfig"
) -> "tuple[Network, nn.Module | None]":
    """The network of an ONNX file, or of the user's own code, which then is the second.

    Raises:
        ValueError: Neither or both are given, or the network cannot be read.
    """
    from splitleak.graphs.importing import network_of
    from splitleak.graphs.importing import read_network as read_file

    if (onnx is None) == (torch is None):
        raise ValueError(
            f"expected an ONNX file or --torch MODULE:CALLABLE, got {'neither' if onnx is None else 'both'}"
        )
    image_shape = None
    if shape is not None:
        channels, height, width = read_shape(shape, axes=3)
        image_shape = channels, height, width
    if torch is None:
        assert onnx is not None
        if weights is not None:
            raise ValueError("expected --weights with --torch alone: an ONNX file holds its own")
        return read_file(onnx, config, image_shape), None
    model, module = _exported(torch, weights, image_shape, config)
    return network_of(model, config, image_shape), module


def _exported(
    address: str, weights: Path | None, image_shape: tuple[int, int, int] | None, config: "NetworkConfig"
) -> "tuple[ModelProto, nn.Module]":
    from splitleak.graphs.user_module import export_module, load_user_module

    if image_shape is None and not config.inputs:
        raise ValueError("expected --input CxHxW with --torch, got none")
    inputs: dict[str, Any] = dict(config.inputs) or {"image": image_shape}
    if config.preprocessing.layout == "hwc":
        inputs = {name: (high, wide, channels) for name, (channels, high, wide) in inputs.items()}
    module = load_user_module(address, weights)
    return export_module(module, inputs), module
