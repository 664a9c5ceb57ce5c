"""The command that measures every cut of a network at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.networks import Input, Tensors, Torch, Weights, read_config_of, read_network
from splitleak.cli.options import ConfigFile, Json, Replace, Seed, Settings, Threads, check_beside, use_threads
from splitleak.cli.output import console, print_json, table

if TYPE_CHECKING:
    from splitleak.graphs.network import Network

_FAILED = 3


def scan(
    model: Annotated[Path | None, typer.Argument(help="An ONNX file, or an artifact folder.")] = None,
    torch: Torch = None,
    weights: Weights = None,
    images: Annotated[
        str | None,
        typer.Option(help="Folder, zip or .npz of pictures, or a set that ships; default: one that fits."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write: scan.json, scan.csv, scan.png and scan.html.")
    ] = None,
    input_: Input = None,
    tensors: Tensors = 1,
    cuts: Annotated[int, typer.Option(min=1, help="Cuts that are scanned at most, evenly spaced over all.")] = 40,
    public: Annotated[int, typer.Option(min=3, help="Pictures of the attacker's, at most.")] = 300,
    victims: Annotated[int, typer.Option(min=1, help="Pictures that are attacked, at most.")] = 64,
    noise: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Also with noise of so many standard deviations of the feature; repeatable."),
    ] = None,
    bottleneck: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Also with so many principal components of the channels; repeatable."),
    ] = None,
    latency: Annotated[int, typer.Option(min=0, help="Cuts whose halves are timed, at most; 0: none.")] = 12,
    cut: Annotated[str | None, typer.Option(help="The cut that is judged; default: see --share.")] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Judge the deepest cut with at most so much of the MACs on the device; default: 0.5."
        ),
    ] = None,
    fail_above: Annotated[
        float | None, typer.Option(metavar="SSIM", help="Exit with status 3 if the cut that is judged leaks more.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    threads: Threads = 1,
    seed: Seed = 0,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Measure what a network leaks at every place where it can be cut, without any training.

    A linear map from the features to the pixels, fitted to public pictures in closed form, rebuilds the victims': what
    it shows, any attacker sees. Beside it: whether a picture is found again by its feature, bytes, MACs and latency.
    `--set` tells of the network what its file does not, as for `splitleak cuts`.
    """
    from splitleak.datasets import DATASETS
    from splitleak.eval.scan.output import (
        COLUMNS,
        LEGEND,
        SCAN,
        floors,
        judgement,
        table_rows,
        verdict,
        write_scan,
    )
    from splitleak.eval.scan.pictures import choose, default_set
    from splitleak.eval.scan.scan import FEW_VICTIMS, ScanConfig, check_share, plain_rows
    from splitleak.eval.scan.scan import scan as measure
    from splitleak.graphs.importing import network_digest
    from splitleak.logs import progress

    about: dict[str, Any] = {
        "cuts": cuts,
        "tensors": tensors,
        "public": public,
        "victims": victims,
        "noise": noise or (),
    }
    about |= {"bottleneck": bottleneck or (), "latency": latency, "cut": cut, "seed": seed}
    check_beside("--fail-above", fail_above is not None, {"--share": share is not None})
    if share is not None:
        if cut is not None:
            raise typer.BadParameter("expected --cut or --share, each of which says what is judged, got both")
        about["share"] = share
    given = ScanConfig.parse(about, source="scan")
    if fail_above is not None and not 0 <= fail_above <= 1:
        raise ValueError(f"expected an SSIM of 0 to 1 as --fail-above, got {fail_above:g}")
    if out is not None:
        SCAN.check(out, force=force)
    use_threads(threads)
    network = _network(model, torch, weights, input_, config, settings)
    if fail_above is not None and cut is None:
        check_share(network.macs)
    name = str(torch) if model is None else model.name
    source = images or default_set(network.image_shape[0])
    DATASETS.permit(source)
    with progress("scan") as report:
        owned, attacked = choose(source, network.image_shape, public, victims, seed, report)
        if fail_above is not None and len(attacked) < FEW_VICTIMS:
            got = f"{len(attacked)} in {source}"
            raise ValueError(f"expected at least {FEW_VICTIMS} different victims for --fail-above, got {got}")
        document, pictures = measure(network, owned, attacked, given, report)
    told = {"model": name, "network": network_digest(network), "images": source}
    document = {**told, **document, "verdict": ""}
    document["verdict"] = verdict(document)
    if out is not None:
        write_scan(out, document, pictures, settings={**told, "config": given.document()}, force=force)
    fails, judged = (False, "") if fail_above is None else judgement(document, fail_above)
    if as_json:
        print_json(document)
    else:
        shown, left = console(width=200), ("cut", "defense", "sent")
        title = f"{name}: {len(plain_rows(document))} of {document['cuts_there_are']} cuts"
        shown.print(table(COLUMNS, table_rows(document), title=title, left=left, wrap=left, framed=False))
        notes = (f"note: {note}" for note in document["notes"])
        for line in filter(None, (floors(document), LEGEND, *notes, document["verdict"], judged)):
            shown.print(line, highlight=False, soft_wrap=True)
    if as_json and judged:
        typer.echo(judged, err=True)
    if fails:
        raise typer.Exit(_FAILED)


def _network(
    model: Path | None,
    torch: str | None,
    weights: Path | None,
    shape: str | None,
    config: Path | None,
    settings: list[str] | None,
) -> "Network":
    """The network of an ONNX file or of the user's own code, or that of both halves of an artifact.

    Raises:
        ValueError: Of an artifact, its inputs are told too.
    """
    if model is None or not (model / "artifact.json").is_file():
        return read_network(model, torch, weights, shape, read_config_of(config, settings))[0]
    if torch or weights:
        raise ValueError(f"expected a model or --torch, got {model} and {torch or weights}")
    if shape or config or settings:
        raise ValueError("expected --input, --config and --set with an ONNX file alone: an artifact tells its input")
    from splitleak.eval.scan.artifact import network_of_artifact

    return network_of_artifact(model)
