"""The command line. Each command imports what it needs when it runs, from any room: that keeps ``--help`` instant."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edge.device import DeviceProfile
    from eval.plan import Plan
    from splitleak.datasets.splits import Splits
    from splitleak.wire.channel import ChannelConfig
    from splitleak.wire.service import ServerConfig

app = typer.Typer(
    name="splitleak",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures what split inference leaks: edge, cloud and attacker as real processes over gRPC.",
)

campaign = typer.Typer(no_args_is_help=True, help="Run a grid of targets and attacks from one file; resumable.")
app.add_typer(campaign, name="campaign")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object a line.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random in this command.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads; default: torch's own choice.")]
Engine = Annotated[
    Literal["auto", "onnx", "fused", "torch"],
    typer.Option(help="auto: ONNX Runtime if it gives what torch gives, else torch, fused; torch: bit for bit."),
]
EmulatedDevice = Annotated[
    Literal["raspberry-pi-4", "raspberry-pi-5", "phone"] | None,
    typer.Option(help="Emulate a slower device: fewer threads, and a wait after each computation; an assumption."),
]
ServerFile = Annotated[
    Path | None, typer.Option("--server", help="TOML or JSON of what is served here: TLS, tokens, limits.")
]
ChannelFile = Annotated[
    Path | None, typer.Option("--channel", help="TOML or JSON of how a server is reached: TLS, token, timeouts.")
]
Listen = Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 picks one and prints it.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. training.epochs=4; repeatable."),
]
Preset = Annotated[
    Literal["cpu", "paper"], typer.Option(help="cpu: minutes on two cores; paper: the published recipe.")
]
ServedName = Annotated[
    str | None, typer.Option("--model", help="The service's name for its model; default: its only one.")
]
ServedScores = Annotated[
    Literal["auto", "probabilities", "logits"],
    typer.Option("--scores", help="What the service answers; auto: logits if the output is called so."),
]
ServedOutput = Annotated[str | None, typer.Option("--output", help="Which of several outputs holds the scores.")]
Swept = Annotated[list[str] | None, typer.Option(metavar="N,N", help="Comma-separated or repeated; default: 1.")]
MILLION = 1e6


def main() -> None:
    """Runs the command line; a foreseeable failure is one line on standard error and exit status 1."""
    from splitleak.lifeline import hold_lifeline

    signal.signal(signal.SIGTERM, _terminated)
    hold_lifeline()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, ArithmeticError, LookupError) as error:
        if os.environ.get("SPLITLEAK_DEBUG") or isinstance(error, (KeyError, IndexError)):
            raise
        typer.secho(f"splitleak: {error}", fg="red", err=True)
        sys.exit(1)


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@app.callback()
def _common(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error; to standard error.")] = "warning",
) -> None:
    from splitleak.logs import configure

    configure(log_level)


@app.command()
def split(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/images"),
    data: Annotated[
        str,
        typer.Option(
            help="builtin, photographs, a torchvision set by name, an .npz file, or a folder or zip of images."
        ),
    ] = "builtin",
    data_root: Annotated[Path | None, typer.Option(help="Where torchvision keeps its sets.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a set it lacks.")] = False,
    size: Annotated[int, typer.Option(min=8, help="Height and width the images are resized to.")] = 32,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; default: as they are.")] = None,
    public: Annotated[int, typer.Option(min=1, help="Images the attacker owns.")] = 2000,
    victims: Annotated[int, typer.Option(min=1, help="Images that cross the wire and are attacked.")] = 200,
    train_: Annotated[int | None, typer.Option("--train", min=1, help="Training images; default: the rest.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Test images; default: all.")] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Classes the target knows, drawn by seed; default: all.")
    ] = None,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Draw each set class by class, so that none lacks one.")
    ] = False,
    generic: Annotated[
        int | None, typer.Option(min=1, help="Images of the other classes; default: as many as public.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Split a data set into the four sets that share no image, one file each.

    With --classes they hold those alone, and generic.npz holds images of the others. The attacker is given public.npz
    (or generic.npz), the edge victims.npz, and neither of them anything else.
    """
    from splitleak.datasets import load
    from splitleak.datasets.splits import SplitConfig
    from splitleak.datasets.splits import split as split_images

    loaded = load(data, data_root=data_root, download=download)
    fitted = loaded.fitted(size, channels or loaded.train.pixels.shape[1])
    counts = {"public": public, "victims": victims, "train": train_, "test": test, "generic": generic}
    asked = {"seed": seed, "classes": classes, "stratified": stratified, **counts}
    splits = split_images(fitted, SplitConfig.parse(asked, source="split"))
    splits.save(out)
    found = {part: made["count"] for part, made in splits.record["images"].items()}
    text = ", ".join(f"{part} {count}" for part, count in found.items())
    _result(as_json, {"folder": str(out), "images": found}, f"{out}: {text}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Artifact folder to write.")] = Path("runs/target"),
    name: Annotated[str | None, typer.Option(help="Name the services give the model; default: the folder's.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder from `splitleak split`; default: the built-in images, split by seed 0.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML or JSON with tables model, defenses, training.")] = None,
    defense: Annotated[list[str] | None, typer.Option(help="A defense by name; repeat to stack them.")] = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Train again what is already trained.")] = False,
    as_json: Json = False,
) -> None:
    """Train a split model under a stack of defenses, and write it as an artifact with an edge and a cloud half.

    An interrupted training goes on where it was; one that is done, with the same settings and images, is reused.
    `--set gaussian-noise.sigma=0.1` sets a defense's own setting.
    """
    from defenses.artifact import read_record, save
    from defenses.training import TargetConfig, TrainingConfig
    from defenses.training import train as train_target
    from splitleak.logs import progress
    from splitleak.seeding import resolve_device

    splits = _splits(images)
    training = TrainingConfig.paper() if preset == "paper" else TrainingConfig()
    document: dict[str, Any] = {
        "model": {
            "width": 1.0 if preset == "paper" else 0.25,
            "channels": splits.train.pixels.shape[1],
            "size": splits.train.pixels.shape[2],
            "classes": len(splits.train.classes),
        },
        "training": training.document(),
        "seed": seed,
    }
    target = TargetConfig.parse(_designed(document, config, defense, settings), source=str(config or "train")).pinned()
    if not force and out.exists():
        record = read_record(out)
        if record["target"] == target.document() and record["dataset"] == splits.record:
            shown = f"{out}: accuracy {100 * record['accuracy']:.2f} % (already trained)"
            _result(as_json, {"artifact": str(out), "accuracy": record["accuracy"], "reused": True}, shown)
            return
    _use_threads(threads)
    label = name or out.name
    with progress(label) as report:
        trained = train_target(
            target,
            splits,
            device=resolve_device(device),
            checkpoint=out.with_name(f".{out.name}.checkpoint"),
            report=report,
        )
    save(out, label, trained)
    accuracy = trained.record["accuracy"]
    _result(
        as_json,
        {"artifact": str(out), "accuracy": accuracy, "reused": False},
        f"{out}: accuracy {100 * accuracy:.2f} %",
    )


@app.command()
def inspect(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    as_json: Json = False,
) -> None:
    """Show the layers, shapes, parameters and multiply-accumulates of both halves of an artifact."""
    from rich.console import Console
    from rich.table import Table

    from defenses.artifact import load_cloud, load_edge
    from splitleak.models.counting import COUNTING_RULE, count
    from splitleak.seeding import resolve_device

    cpu = resolve_device("cpu")
    edge_half, cloud_half = load_edge(artifact / "edge", cpu), load_cloud(artifact / "cloud", cpu)
    counted = {
        "edge": count(edge_half.encoder, edge_half.input_shape),
        "cloud": count(cloud_half.head, cloud_half.feature_shape),
    }
    if as_json:
        halves = {half: found.document() for half, found in counted.items()}
        _print_json({"artifact": str(artifact), "rule": COUNTING_RULE, **halves})
        return
    console = Console()
    for half, found in counted.items():
        shape = edge_half.input_shape if half == "edge" else cloud_half.feature_shape
        heading = f"{half}: {found.parameters:,} parameters, {found.macs / MILLION:.3f} M MACs, from {shape}"
        table = Table(title=heading, title_justify="left")
        for column in ("layer", "kind", "output", "parameters", "MACs"):
            table.add_column(column, justify="left" if column in ("layer", "kind") else "right")
        for row in found.rows:
            table.add_row(row.name, row.kind, str(row.output_shape), f"{row.parameters:,}", f"{row.macs:,}")
        console.print(table)
    acting = ", ".join(each.name for each in edge_half.stack) or "nothing"
    console.print(f"On the wire: {cloud_half.feature_shape} after {acting}. {COUNTING_RULE}")


@app.command()
def export(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder, or its cloud half alone.")],
    triton: Annotated[Path, typer.Option(help="Triton's model repository, to be made if need be.")],
    backend: Annotated[
        Literal["onnxruntime", "python"],
        typer.Option(help="python: for a Triton without the other; its Python needs numpy and onnxruntime."),
    ] = "onnxruntime",
    max_batch_size: Annotated[int, typer.Option(min=1, help="Rows that Triton computes together at most.")] = 64,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write the cloud half as a model for a Triton Inference Server, which our edge can then use unchanged.

    Clients see what they see of `splitleak cloud` without a policy: features in, logits out, under the same names.
    """
    from defenses.artifact import load_cloud
    from splitleak.models.triton import write_triton_model
    from splitleak.seeding import resolve_device

    half = load_cloud(_half(artifact, "cloud"), resolve_device("cpu"))
    written = write_triton_model(
        triton,
        half.name,
        half.head,
        half.feature_shape,
        half.classes,
        backend=backend,
        max_batch_size=max_batch_size,
        replace=force,
    )
    _result(as_json, {"model": half.name, "folder": str(written), "backend": backend}, f"{written}: for Triton")


@app.command()
def purify(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder of the target.")],
    images: Annotated[Path, typer.Option(help="Folder from `splitleak split` that it was trained on.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/purifier"),
    config: Annotated[Path | None, typer.Option(help="TOML or JSON with the purifier's settings.")] = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a purifier of a target's score vectors, and measure what it costs in accuracy and in confidence.

    `splitleak cloud --set purifier=FOLDER` puts it before the service's answers. It learns from training images, or,
    with `--set reference=test`, from half of the test images, and never from the attacker's or the victims'.
    """
    from defenses.purification import PurifierConfig, save_purifier
    from defenses.purifying import purify as purify_target
    from splitleak.artifacts import provenance
    from splitleak.config import read_document
    from splitleak.datasets.splits import Splits
    from splitleak.logs import progress
    from splitleak.seeding import resolve_device

    given = _with_settings(read_document(config) if config else {}, settings or [])
    asked = PurifierConfig.parse(given, source=str(config or "purify"))
    _use_threads(threads)
    splits, checkpoint = Splits.load(images), out.with_name(f".{out.name}.checkpoint")
    with progress(out.name) as report:
        purifier, record = purify_target(
            artifact, splits, asked, seed, device=resolve_device(device), report=report, checkpoint=checkpoint
        )
    save_purifier(out, purifier, {**record, "provenance": provenance()})
    cost = record["cost"]
    shown = f"accuracy {cost['accuracy']['before']:.2%} to {cost['accuracy']['after']:.2%}"
    shown = f"{shown}, confidence distortion {cost['confidence_distortion']:.4f}"
    _result(as_json, {"purifier": str(out), **cost}, f"{out}: {shown} over {cost['images']} {cost['set']} images")


@app.command()
def cloud(
    folder: Annotated[Path, typer.Argument(help="Artifact folder, or its cloud half alone.")],
    listen: Listen = "127.0.0.1:8001",
    whole: Annotated[
        bool, typer.Option("--whole", help="Serve both halves as one: images in, probabilities out, for everybody.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option(help="TOML or JSON: what is let out of a prediction; default: all of it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting of the policy, e.g. top=3; repeatable."),
    ] = None,
    noise_seed: Annotated[
        int | None, typer.Option(min=0, help="Repeatable noise, for experiments; default: fresh from the system.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT for Prometheus to read metrics from, over plain HTTP; default: none.")
    ] = None,
    capture: Annotated[
        Path | None, typer.Option(help="Be a curious cloud: write all that comes and goes to this capture.")
    ] = None,
    server: ServerFile = None,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Serve the cloud half, or with --whole all of a model, over the Open Inference Protocol until SIGINT or SIGTERM.

    A policy turns the logits of a half into probabilities; it acts on everybody's answers and is announced.
    """
    from cloud.policy import PolicyConfig
    from cloud.service import CloudConfig
    from cloud.service import cloud as cloud_service
    from defenses.artifact import load_cloud, load_whole
    from splitleak.config import read_document
    from splitleak.seeding import resolve_device
    from splitleak.wire.malloc import keep_big_buffers

    keep_big_buffers()
    serving = _server(listen, server, metrics=metrics)
    _use_threads(threads)
    asked = None
    if policy is not None or settings:
        given = _with_settings(read_document(policy) if policy else {}, settings or [])
        asked = PolicyConfig.parse(given, source=str(policy or "policy"))
    found = resolve_device(device)
    loaded = (
        load_whole(folder, found, seed=noise_seed, engine=engine)
        if whole
        else load_cloud(_half(folder, "cloud"), found, seed=noise_seed, engine=engine)
    )
    config = CloudConfig(server=serving, capture=capture, policy=asked, noise_seed=noise_seed)
    _serve(cloud_service(config, loaded), listen, as_json, f"cloud serves {loaded.name!r}")


@app.command()
def edge(
    half: Annotated[Path, typer.Argument(help="Artifact folder, or its edge half alone.")],
    cloud: Annotated[str, typer.Option(help="HOST:PORT of the cloud (or of whoever stands in front of it).")],
    images: Annotated[Path | None, typer.Option(help="Images to stream: .npz, folder or zip.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT: then serve images to callers, until SIGINT or SIGTERM.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="File for the edge's own record of the stream (which image had which id).")
    ] = None,
    codec: Annotated[
        Literal["fp32", "fp16", "uint8", "fp16+deflate", "uint8+deflate"],
        typer.Option(help="How features travel; uint8 is quantised, deflate packs without loss."),
    ] = "fp32",
    window: Annotated[int, typer.Option(min=1, help="Unanswered requests at most.")] = 8,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds an outage may last; meanwhile nothing is lost.")
    ] = 60.0,
    input_name: Annotated[
        str | None, typer.Option(help="The model's input, if its server does not announce it, or several.")
    ] = None,
    output_name: Annotated[str | None, typer.Option(help="The output with the logits, likewise.")] = None,
    channel: ChannelFile = None,
    server: ServerFile = None,
    repeat: Annotated[int, typer.Option(min=1, help="Send each of --images so many times in a row.")] = 1,
    noise_seed: Annotated[
        int | None, typer.Option(min=0, help="Repeatable noise, for experiments; default: fresh from the system.")
    ] = None,
    device_profile: EmulatedDevice = None,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run the encoder and the defense on images, and stream features to the cloud.

    With --images it streams them and says how it went; with --listen it then takes images from others, as an app on a
    device does, and answers with the cloud's logits.
    """
    from defenses.artifact import load_edge
    from edge.client import EdgeConfig
    from edge.device import EmulatedHalf
    from edge.run import run_edge
    from splitleak.seeding import resolve_device
    from splitleak.wire.malloc import keep_big_buffers

    if images is None and listen is None:
        raise typer.BadParameter("expected --images to stream, --listen to serve, or both")
    keep_big_buffers()
    profile = _use_device(device_profile, threads)
    loaded = load_edge(_half(half, "edge"), resolve_device(device), seed=noise_seed, engine=engine)
    config = EdgeConfig(
        cloud=cloud,
        model=loaded.name,
        codec=codec,
        window=window,
        patience_s=patience,
        input_name=input_name,
        output_name=output_name,
        channel=_channel(channel),
    )
    serving = None if listen is None else _server(listen, server)
    computed = loaded if profile is None else EmulatedHalf(loaded, profile)
    emulation = {} if profile is None else {"emulated_device": profile.name}

    def say(event: dict[str, Any]) -> None:
        _event(as_json, {**event, **emulation})

    run_edge(config, computed, images=images, ledger=ledger, server=serving, report=say, repeat=repeat)


@app.command()
def token(
    client: Annotated[str, typer.Argument(help="The client's name, which its limits are counted under.")],
    tokens: Annotated[Path, typer.Option(help="The server's file; it learns the token's SHA-256 alone.")],
    out: Annotated[Path, typer.Option(help="The client's file, which only its owner may read.")],
    as_json: Json = False,
) -> None:
    """Make a token for a client of a service; a server that runs knows it after its next start."""
    from splitleak.wire.security import make_token

    make_token(client, tokens, out)
    _result(as_json, {"client": client, "token_file": str(out)}, f"{out}: a token for {client!r}; known by {tokens}")


@app.command()
def tap(
    upstream: Annotated[str, typer.Option(help="HOST:PORT of the cloud.")],
    capture: Annotated[
        Path | None, typer.Option(help="File to write; default: runs/tap.capture, or runs/tap.jsonl with --blind.")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Pass bytes on unread, and write down sizes and times: all that TLS leaves.")
    ] = False,
    listen: Listen = "127.0.0.1:8002",
    channel: ChannelFile = None,
    server: ServerFile = None,
    as_json: Json = False,
) -> None:
    """Stand between edge and cloud, pass everything on, and write it to a capture file until SIGINT or SIGTERM.

    Over TLS it reads what it carries only if the edge trusts the certificate in --server; with --blind it needs none.
    """
    from attacker.blind_tap import BlindTapConfig, blind_tap
    from attacker.tap import TapConfig
    from attacker.tap import tap as tap_service

    if blind and (channel is not None or server is not None):
        raise typer.BadParameter("expected --blind, or --channel and --server for a tap that reads, got both")
    path = capture or Path("runs/tap.jsonl" if blind else "runs/tap.capture")
    path.parent.mkdir(parents=True, exist_ok=True)
    if blind:
        service = blind_tap(BlindTapConfig(listen=listen, upstream=upstream, record=path))
    else:
        serving, reached = _server(listen, server), _channel(channel)
        service = tap_service(TapConfig(server=serving, upstream=upstream, capture=path, channel=reached))
    _serve(service, listen, as_json, f"{'blind ' * blind}tap in front of {upstream}, writing {path}")


@app.command()
def link(
    upstream: Annotated[str, typer.Option(help="HOST:PORT that connections are carried on to.")],
    profile: Annotated[
        Literal["ethernet", "wifi", "5g", "lte", "3g", "leo", "geo"] | None,
        typer.Option(help="A kind of network; leo and geo are satellites. Default: no limit and no delay."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. up.rate_mbps=5 or down.delay_ms=20."),
    ] = None,
    listen: Listen = "127.0.0.1:8003",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Stand between edge and cloud as a slow link: rate, delay, jitter and stalls each way, until SIGINT or SIGTERM.

    It carries bytes unread, TLS included, and needs no rights. What a profile holds, and where its figures are from,
    is said in splitleak/wire/link.py.
    """
    from contextlib import contextmanager

    from splitleak.wire.link import LinkConfig
    from splitleak.wire.link import link as carry
    from splitleak.wire.link import profile as profile_of

    chosen = profile_of(profile) if profile else LinkConfig()
    asked = LinkConfig.parse(_with_settings({**chosen.document(), "seed": seed}, settings or []), source="link")

    @contextmanager
    def carrying() -> Iterator[int]:
        with carry(asked, upstream, listen) as handle:
            yield handle.port

    _serve(carrying(), listen, as_json, f"link ({profile or 'no profile'}) to {upstream}")


@app.command()
def predict(
    service: Annotated[str, typer.Option(help="HOST:PORT of a prediction service, ours or any other's.")],
    images: Annotated[Path, typer.Option(help="The victims' images: .npz, folder or zip.")],
    share: Annotated[
        list[int] | None, typer.Option(min=0, help="Highest scores that are published, 0 for all; repeatable.")
    ] = None,
    model: ServedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="Folder for what is published, and the ledger.")] = Path("runs/predictions"),
    as_json: Json = False,
) -> None:
    """Be the victims: have a service classify their images, and publish the highest scores of each.

    Writes shared-M.npz for each --share, and ledger.json, the victims' own record of which id was which image.
    """
    from edge.sharing import SharingConfig, share_predictions

    asked = {"service": service, "model": model, "share": tuple(share or (0,)), "scores": scores, "output": output}
    config = SharingConfig.parse({**asked, "channel": _channel(channel)}, source="predict")
    made = share_predictions(config, images, out)
    right = "" if made["accuracy"] is None else f", {made['accuracy']:.1%} right"
    text = f"{out}: {made['images']} images by {made['model']!r}{right}; {', '.join(made['shared'])}"
    _result(as_json, made, text)


@app.command()
def query(
    public: Annotated[Path, typer.Option(help="The attacker's own images: .npz, folder or zip.")],
    capture: Annotated[Path | None, typer.Option(help="Capture that the edge's traffic goes to.")] = None,
    edge: Annotated[
        str | None, typer.Option(help="HOST:PORT of the edge's service; its features are captured.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="HOST:PORT of a prediction service, instead.")] = None,
    model: ServedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="File for what the images became.")] = Path("runs/pairs.npz"),
    draws: Annotated[int, typer.Option(min=1, help="Answers an image: who knows the noise trains with it.")] = 1,
    views: Annotated[int, typer.Option(min=1, help="Queries an answer: it is their mean.")] = 1,
    max_queries: Annotated[int | None, typer.Option(min=1, help="Images sent at most; default: no limit.")] = None,
    as_json: Json = False,
) -> None:
    """Send public images through the edge, or to a prediction service, and record what they became, for any attack.

    An attack on such a record can be interrupted and repeated to the bit, which one on a live, noisy edge cannot.
    """
    from attacker.queries import EdgeProbe, Probe, ServiceProbe, served_model
    from attacker.run import record_queries

    if service is not None and capture is None and edge is None:
        probe: Probe = ServiceProbe(service, model, scores=scores, output=output, channel=_channel(channel))
    elif service is None and capture is not None and edge is not None:
        probe = EdgeProbe(edge, capture, served_model(capture), channel=_channel(channel))
    else:
        raise typer.BadParameter("expected --service, or --capture with --edge")
    made = record_queries(probe, public, out, draws=draws, views=views, budget=max_queries)
    _result(as_json, made, f"{out}: {made['images']} images after {made['queries']} queries")


@app.command()
def attack(
    public: Annotated[Path, typer.Option(help="The attacker's own images: .npz, folder or zip.")],
    capture: Annotated[
        Path | None, typer.Option(help="Capture of the victims' traffic; live queries are read from it too.")
    ] = None,
    edge: Annotated[str | None, typer.Option(help="HOST:PORT of the edge's service, to be queried live.")] = None,
    shared: Annotated[
        Path | None, typer.Option(help="Scores that victims share (`splitleak predict`), instead of a capture.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="HOST:PORT of their prediction service, to be queried live.")
    ] = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    pairs: Annotated[Path | None, typer.Option(help="Queries on record (`splitleak query`), instead.")] = None,
    encoder: Annotated[Path | None, typer.Option(help="White box: the edge half of the artifact.")] = None,
    head: Annotated[Path | None, typer.Option(help="The cloud half, as a curious cloud has it.")] = None,
    views: Annotated[int, typer.Option(min=1, help="Requests in a row that show one victim; averaged.")] = 1,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="Folder for what was rebuilt.")] = Path("runs/attack"),
    attack: Annotated[
        str | None, typer.Option(help="The attack, by name; default: decoder, or prediction-inversion with --shared.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML or JSON with the attack's settings.")] = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    max_queries: Annotated[int | None, typer.Option(min=1, help="Images sent at most; default: no limit.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Rebuild the images behind captured features, or behind shared scores.

    What an attack may know is what it is given here: queries to the edge or the service, live or on record, the
    encoder, the head. Everything captured that is not an attacker's query, or everything shared, is rebuilt. It is
    given no victim's image, and no path to one.
    """
    from attacker.run import Access, AttackConfig, run_attack
    from splitleak.config import read_document
    from splitleak.logs import progress
    from splitleak.seeding import resolve_device

    _use_threads(threads)
    given = _with_settings(read_document(config) if config else {}, settings or [])
    name = attack or ("decoder" if shared is None else "prediction-inversion")
    asked = AttackConfig(attack=name, preset=preset, settings=given, seed=seed, max_queries=max_queries, views=views)
    access = Access(
        capture,
        public,
        edge=edge,
        pairs=pairs,
        encoder=encoder and _half(encoder, "edge"),
        head=head and _half(head, "cloud"),
        shared=shared,
        service=service,
        scores=scores,
        output=output,
        channel=_channel(channel),
    )
    with progress(name) as report:
        made = run_attack(asked, access, out, resolve_device(device), report)
    _result(as_json, made, f"{out}: {made['rebuilt']} images rebuilt after {made['queries']} queries")


@app.command()
def prior(
    public: Annotated[Path, typer.Argument(help="The attacker's own images: .npz, folder or zip.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/prior"),
    config: Annotated[Path | None, typer.Option(help="TOML or JSON with the settings.")] = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Train again what is already trained.")] = False,
    as_json: Json = False,
) -> None:
    """Train a generator on public images, which attacks on a model's classes then search.

    An interrupted training goes on where it was; one that is done, with the same settings and images, is reused.
    """
    from attacker.base import Run
    from attacker.prior import PriorConfig, prior_of
    from splitleak.config import read_document
    from splitleak.datasets.files import load_file
    from splitleak.logs import progress
    from splitleak.seeding import resolve_device

    _use_threads(threads)
    base = PriorConfig.paper() if preset == "paper" else PriorConfig()
    given = _with_settings(read_document(config) if config else {}, settings or [])
    asked = PriorConfig.parse({**base.document(), **given}, source=str(config or "prior"))
    images, checkpoint = load_file(public).train, out.with_name(f".{out.name}.checkpoint")
    with progress(out.name) as report:
        run = Run(seed=seed, device=resolve_device(device), report=report, checkpoint=checkpoint)
        made, reused = prior_of(asked, images, out, run, force=force)
    document = {"prior": str(out), "digest": made.digest, "images": len(images), "reused": reused}
    shown = "already trained" if reused else "trained"
    _result(as_json, document, f"{out}: {shown} on {len(images)} images of {made.image_shape}")


@app.command()
def invert(
    attack: Annotated[str, typer.Option(help="The attack, by name.")] = "class-inference",
    public: Annotated[Path | None, typer.Option(help="The attacker's own images: .npz, folder or zip.")] = None,
    service: Annotated[str | None, typer.Option(help="HOST:PORT of a prediction service, to be queried live.")] = None,
    model: ServedName = None,
    scores: ServedScores = "auto",
    output: ServedOutput = None,
    pairs: Annotated[Path | None, typer.Option(help="Queries on record (`splitleak query`), instead.")] = None,
    oracle: Annotated[
        Path | None, typer.Option(help="An artifact to query in this process, defenses and all, instead.")
    ] = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Hear no more of an answer than its label.")
    ] = False,
    artifact: Annotated[Path | None, typer.Option(help="White box: the artifact with both halves.")] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Bypass what in the white box hides gradients, a low-rank head's Tanh.")
    ] = False,
    prior: Annotated[Path | None, typer.Option(help="Generator to search (`splitleak prior`), or one's own.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="How many; default: as many as are answered.")] = None,
    channel: ChannelFile = None,
    out: Annotated[Path, typer.Option(help="Folder for what was rebuilt.")] = Path("runs/classes"),
    config: Annotated[Path | None, typer.Option(help="TOML or JSON with the attack's settings.")] = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    max_queries: Annotated[int | None, typer.Option(min=1, help="Images sent at most; default: no limit.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Rebuild pictures of each class that a model was trained on.

    What an attack may know is what it is given here: images of its own or a generator of such, queries to a prediction
    service, live or on record, or the model's weights. Who has the weights runs the model alone, and no output policy
    of a service matters.
    """
    from attacker.invert import InversionAccess, InversionConfig, run_inversion
    from splitleak.config import read_document
    from splitleak.logs import progress
    from splitleak.seeding import resolve_device

    _use_threads(threads)
    given = _with_settings(read_document(config) if config else {}, settings or [])
    about = {"preset": preset, "settings": given, "seed": seed, "classes": classes, "max_queries": max_queries}
    asked = InversionConfig.parse({"attack": attack, **about}, source="invert")
    access = InversionAccess(
        public=public,
        service=service,
        pairs=pairs,
        oracle=oracle,
        artifact=artifact,
        prior=prior,
        model=model,
        labels_only=labels_only,
        adaptive=adaptive,
        scores=scores,
        output=output,
        channel=_channel(channel),
    )
    with progress(attack) as report:
        made = run_inversion(asked, access, out, resolve_device(device), report)
    _result(as_json, made, f"{out}: {made['rebuilt']} pictures rebuilt after {made['queries']} queries")


@app.command()
def score(
    artifact: Annotated[Path, typer.Option(help="Artifact that was attacked.")],
    attack: Annotated[Path, typer.Option(help="Folder that `splitleak attack` wrote.")],
    truth: Annotated[Path, typer.Option(help="The victims' images.")],
    ledger: Annotated[Path, typer.Option(help="The edge's record of the stream.")],
    out: Annotated[Path, typer.Option(help="Folder for the record.")] = Path("runs/cell"),
    order: Annotated[int, typer.Option(help="Place of this record in a report.")] = 0,
    cell: Annotated[
        Path | None, typer.Option(help="TOML or JSON to keep in the record, as its place in a grid.")
    ] = None,
    evaluator: Annotated[
        Path | None, typer.Option(help="Another artifact for the same classes: does it take an image for its class?")
    ] = None,
    auxiliary: Annotated[
        Literal["same", "generic", "distinct", "training"] | None,
        typer.Option(help="What the attacker's images are; checked, and kept in the record."),
    ] = None,
    auxiliary_images: Annotated[Path | None, typer.Option(help="The attacker's images, for --auxiliary.")] = None,
    auxiliary_data: Annotated[
        str | None, typer.Option(help="Data set they are of, where no splits.json beside them tells.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge what an attack rebuilt: MSE, SSIM and PSNR of every victim, with their spread.

    --auxiliary is held against the attacker's images and the target's training images (train.npz beside --truth).
    """
    from eval.record import make_record
    from splitleak.config import read_document

    place = None if cell is None else read_document(cell)
    made = make_record(
        *(artifact, attack, truth, ledger, out, order, place),
        evaluator=evaluator,
        auxiliary=auxiliary,
        auxiliary_images=auxiliary_images,
        auxiliary_dataset=auxiliary_data,
    )
    scores = made["score"]
    shown = ("mse", "ssim", "psnr", *("reclassified",) * (evaluator is not None))
    text = ", ".join(f"{name} {scores[name]['mean']:.4f} ± {scores[name]['std']:.4f}" for name in shown)
    means = {name: value["mean"] if isinstance(value, Mapping) else value for name, value in scores.items()}
    _result(as_json, {"record": str(out / "record.json"), **means}, f"{out}: {text} over {scores['n']} images")


@app.command(name="score-classes")
def score_classes(
    artifact: Annotated[Path, typer.Option(help="Artifact that was attacked.")],
    attack: Annotated[Path, typer.Option(help="Folder that `splitleak invert` wrote.")],
    train_images: Annotated[Path, typer.Option(help="The images that the artifact was trained on.")],
    evaluator: Annotated[Path, typer.Option(help="Another artifact for the same classes, as judge.")],
    out: Annotated[Path, typer.Option(help="Folder for the record.")] = Path("runs/cell"),
    cell: Annotated[
        Path | None, typer.Option(help="TOML or JSON to keep in the record, as its place in a grid.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge one picture a class: is it taken for the class by an independent classifier, and by its pixels."""
    from eval.class_record import make_class_record
    from splitleak.config import read_document

    place = None if cell is None else read_document(cell)
    made = make_class_record(artifact, attack, train_images, evaluator, out, place)
    judge = {f"evaluator_{name}": made["evaluator"][name] for name in ("accuracy", "on_truth")}
    means = {name: value["mean"] if isinstance(value, dict) else value for name, value in made["score"].items()}
    text = (
        f"{out}: of {means['n']} pictures {means['recognised']:.1%} recognised by an evaluator that is right in "
        f"{judge['evaluator_accuracy']:.1%}, {means['nearest_mean']:.1%} nearest to their own mean image (chance "
        f"{means['chance']:.1%}); MSE to that {means['mse']:.4f}, confidence of the target "
        f"{means['target_confidence']:.3f}"
    )
    _result(as_json, {"record": str(out / "record.json"), **means, **judge}, text)


@app.command()
def latency(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Artifact folders; rounds over all settings are interleaved.")
    ],
    cut: Annotated[
        list[str] | None, typer.Option(help="Further cuts of each artifact, with fresh weights; 2,6 or repeated.")
    ] = None,
    batch: Swept = None,
    engine: Annotated[list[str] | None, typer.Option(help="auto, onnx, fused, torch; default: auto.")] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, uint8, fp16+deflate, uint8+deflate; default: fp32.")
    ] = None,
    link: Annotated[
        list[str] | None, typer.Option(help="loopback, or a profile of `splitleak link`; default: loopback.")
    ] = None,
    window: Swept = None,
    samples: Annotated[int, typer.Option(min=10, help="Requests a setting, at least; p99 is told from 500 on.")] = 200,
    alternatives: Annotated[
        bool, typer.Option(help="Also measure all on the device, and the image itself to the cloud.")
    ] = True,
    rtt_ms: Annotated[float, typer.Option(min=0, help="Round trip that break-even speeds are told for.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw latency against the link's speed: .png or .svg.")] = None,
    device_profile: EmulatedDevice = None,
    threads: Threads = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a request's way, part by part, for every combination of what is given; options take lists: 1,8.

    Starts a cloud process for each target and takes all settings in turn, so that a noisy machine is noisy for all.
    Beside the split: all on the device, and the image itself to the cloud; and the link speed at which they break even.
    """
    from eval.latency import measure
    from eval.latency_plan import SweepConfig
    from eval.latency_plot import check_suffix, draw_latency
    from splitleak.artifacts import write_json
    from splitleak.logs import progress

    lists = {"cuts": cut, "batches": batch, "engines": engine, "codecs": codec, "links": link, "windows": window}
    given = {key: [part for each in found for part in each.split(",")] for key, found in lists.items() if found}
    about = {"artifacts": artifacts, "samples": samples, "alternatives": alternatives, "rtt_ms": rtt_ms}
    about |= {"device": device, "threads": threads, "device_profile": device_profile}
    config = SweepConfig.parse({**given, **about}, source="latency")
    if plot is not None:
        check_suffix(plot)
    _use_device(device_profile, threads)
    with progress("latency") as report:
        found = measure(config, report)
    if out is not None:
        write_json(out, found)
    if plot is not None:
        draw_latency(found, plot)
    if as_json:
        _print_json(found)
    else:
        _print_latency(found)


@app.command()
def recommend(
    results: Annotated[list[Path], typer.Argument(help="Folders of campaigns, or of runs such as the demo's.")],
    latency: Annotated[
        Path | None, typer.Option(help="What `splitleak latency --out` wrote of the same targets; default: none.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(min=0, help="Points of accuracy below the undefended design, at most.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Median of one request, at most.")] = None,
    max_bytes: Annotated[float | None, typer.Option(help="Bytes of one image's message, at most.")] = None,
    link: Annotated[str | None, typer.Option(help="Which link of the latency record; default: its only one.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set of the results; default: the only one.")] = None,
    as_json: Json = False,
) -> None:
    """Name the cut, defense and codec that leak least within the budgets, under the strongest attack on record.

    Says what rules the others out, which budget binds, and what was not measured. Exits with 1 where nothing fits.
    """
    from eval.candidates import candidates, read_results
    from eval.recommend import Budgets
    from eval.recommend import recommend as choose
    from splitleak.config import read_document

    asked = {"max_accuracy_drop": max_accuracy_drop, "max_latency_ms": max_latency_ms, "max_bytes": max_bytes}
    budgets = Budgets.parse(asked, source="recommend")
    timed = read_document(latency) if latency else None
    found = choose(candidates(read_results(results, dataset), timed, link), budgets, timed)
    if as_json:
        _print_json(found)
    else:
        _print_recommendation(found)
    if found["recommended"] is None:
        raise typer.Exit(1)


@app.command()
def cost(
    artifact: Annotated[
        Path | None, typer.Argument(help="Artifact folder; without one, an untrained design is measured.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The design: TOML or JSON as for train; CIFAR-10's shapes by default.")
    ] = None,
    defense: Annotated[list[str] | None, typer.Option(help="A defense by name; repeat to stack them.")] = None,
    settings: Settings = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over torch and ONNX Runtime, in turn.")] = 20,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Count both halves and the decoder that attacks them, and time the halves in torch and ONNX Runtime, on the CPU.

    Shows table S6 of the CEM paper beside it, whose network is `splitleak cost --defense bottleneck`.
    """
    from eval.cost import from_artifact, from_config, measure
    from splitleak.logs import progress

    if artifact is not None and (config or defense or settings):
        raise typer.BadParameter("expected an artifact, or a design by --config, --defense and --set, got both")
    if artifact is not None:
        design = from_artifact(artifact)
    else:
        from defenses.training import TargetConfig

        document = {"model": {"channels": 3, "size": 32, "classes": 10}}
        target = TargetConfig.parse(_designed(document, config, defense, settings), source=str(config or "cost"))
        design = from_config(target, config.stem if config else "untrained")
    _use_threads(threads)
    with progress("cost") as report:
        found = measure(design, batch=batch, repeats=repeats, report=report)
    if as_json:
        _print_json(found)
    else:
        _print_cost(found)


@app.command()
def leakage(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    images: Annotated[Path, typer.Option(help="Folder from `splitleak split` that it was trained on.")],
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file too.")] = None,
    samples: Annotated[int, typer.Option(min=2, help="Training images that densities are fitted to, at most.")] = 2000,
    n_images: Annotated[int, typer.Option(min=1, help="Training images at which the Jacobian is taken.")] = 12,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Bound what any attack can do, and measure the Fisher information of what is sent, without an attack."""
    from eval.leakage import LeakageConfig, measure
    from splitleak.artifacts import write_json
    from splitleak.seeding import resolve_device

    _use_threads(threads)
    config = LeakageConfig(samples=samples, n_images=n_images, seed=seed)
    found = measure(artifact, images, config, resolve_device(device))
    if out is not None:
        write_json(out, found)
    fisher = found["fsinfo_nats_per_pixel"]
    told = "unbounded, no noise is sent" if fisher is None else f"{fisher:.4f} nats a pixel"
    spread = f"{found['effective_dimensions']:.1f} effective dimensions of {found['image_dimensions']}"
    _result(as_json, found, f"{artifact}: MSE of any attack at least {found['mse_bound']:.3g}; FSInfo {told}; {spread}")


@app.command()
def poison(
    images: Annotated[Path, typer.Argument(help="Folder from `splitleak split`.")],
    out: Annotated[Path, typer.Option(help="Folder for the same images with a backdoor in the training set.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="E.g. trigger=blended, fraction=0.05; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put a backdoor's trigger on some training images, and its class; `train` and `robustness` then take --out."""
    from eval.backdoor import PoisonConfig
    from eval.backdoor import poison as poison_splits
    from splitleak.datasets.splits import Splits

    config = PoisonConfig.parse(_with_settings({}, settings or []), source="poison")
    before = Splits.load(images)
    made = poison_splits(before, config)
    made.save(out)
    count = max(1, round(config.fraction * len(before.train)))
    document = {"folder": str(out), "poisoned": count, "poison": config.document()}
    _result(as_json, document, f"{out}: {count} of {len(before.train)} training images poisoned by {config.trigger}")


@app.command()
def robustness(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    images: Annotated[Path, typer.Option(help="Folder from `splitleak split` (or `poison`) that it was trained on.")],
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file too.")] = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Attack a target with FGSM, BIM, PGD and one pixel, untargeted and targeted, and open its backdoor if it has one.

    What is shown are shares of test images on which an attack succeeds, with their 95 % intervals.
    """
    from rich.console import Console
    from rich.table import Table

    from eval.robustness import COLUMNS, RobustnessConfig, backdoor_line, measure_robustness, rows
    from splitleak.artifacts import write_json
    from splitleak.seeding import resolve_device

    _use_threads(threads)
    config = RobustnessConfig.parse(_with_settings({"seed": seed}, settings or []), source="robustness")
    found = measure_robustness(artifact, images, config, resolve_device(device))
    if out is not None:
        write_json(out, found)
    if as_json:
        _print_json(found)
        return
    console = Console()
    table = Table(title=f"{found['name']}: {found['images']} test images, success rates", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    if line := backdoor_line(found):
        console.print(line, highlight=False)


@app.command()
def study(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder that `splitleak invert` wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same classes.")],
    train_images: Annotated[Path, typer.Option(help="The images that the target was trained on.")],
    out: Annotated[Path, typer.Option(help="The page, an HTML file that needs no other.")] = Path("runs/study.html"),
    key: Annotated[Path | None, typer.Option(help="File for which side is whose; default: beside --out.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Pairs of each class, at most.")] = 1,
    seconds: Annotated[int, typer.Option(min=0, help="To answer a pair; 0: no limit.")] = 60,
    chooser: Annotated[
        Path | None, typer.Option(help="An artifact that answers in a person's place; not the judge of other figures.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make the page of a blind study: a real image of a class, two reconstructions. Which comes closer?

    Who looks at it saves a file of votes for `splitleak study-score`. The page does not tell which side is whose.
    """
    from eval.study import StudyConfig, choose, make_study, write_study
    from splitleak.artifacts import write_json

    config = StudyConfig(each=each, seconds=seconds, seed=seed)
    made = make_study(first, second, train_images, config)
    secret = key or out.with_suffix(".key.json")
    write_study(made, out, secret, config)
    document: dict[str, Any] = {"page": str(out), "key": str(secret), "pairs": len(made.key.pairs)}
    if chooser is not None:
        votes = out.with_suffix(".votes.json")
        write_json(votes, choose(made, chooser).document())
        document["votes"] = str(votes)
    _result(as_json, document, f"{out}: {document['pairs']} pairs; which side is whose is in {secret}")


@app.command(name="study-score")
def study_score(
    votes: Annotated[list[Path], typer.Argument(help="Files that a study's page saved, or its --chooser.")],
    key: Annotated[Path, typer.Option(help="The key that `splitleak study` wrote.")],
    as_json: Json = False,
) -> None:
    """Count the votes of a blind study: how often A and B were chosen, with Wilson's 95 % interval."""
    from eval.votes import score_votes

    found = score_votes(votes, key)
    shown = "; ".join(
        f"{side.upper()} ({found[side].get('attack', '?')}) {found[side]['share']:.1%}, "
        f"{found[side]['low']:.1%} to {found[side]['high']:.1%}"
        for side in ("a", "b")
    )
    text = f"{shown}; {found['answers']} answers of {len(found['voters'])}, {found['unanswered']} unanswered"
    _result(as_json, found, text)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder with records below it (`splitleak score`).")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the folder.")] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "What split inference leaks",
    pictures: Annotated[int, typer.Option(min=1, help="Victims in the gallery.")] = 12,
    as_json: Json = False,
) -> None:
    """Print a run's table and write its report, one HTML file that needs no other."""
    from eval.report import load_run, write_report

    path = out or run / "report.html"
    write_report(run, path, title=title, pictures=pictures)
    if as_json:
        _print_json({"report": str(path)})
        return
    _print_table(*load_run(run))
    typer.echo(f"Report: {path}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the whole chain on the built-in images: train, serve, stream, tap, invert, score, report.

    Takes minutes on two CPU cores. What is already done in the folder, with the same settings, is reused.
    """
    from eval.demo import run_demo
    from eval.report import load_run

    path = run_demo(out, seed)
    if as_json:
        _print_json({"report": str(path)})
        return
    _print_table(*load_run(out))
    typer.echo(f"Report: {path}")


CampaignFile = Annotated[Path, typer.Argument(help="TOML file: data sets, models, methods, attacks, seeds.")]
CampaignSeeds = Annotated[list[int] | None, typer.Option("--seed", help="Only this seed of the file's; repeatable.")]
CampaignData = Annotated[str | None, typer.Option(help="What the file's data set is made from, as `split --data`.")]
CampaignRoot = Annotated[Path | None, typer.Option(help="Where torchvision keeps its sets.")]
CampaignOut = Annotated[Path | None, typer.Option(help="Folder of the campaign; default: runs/<its name>.")]


@campaign.command("plan")
def campaign_plan(
    file: CampaignFile,
    out: CampaignOut = None,
    seed: CampaignSeeds = None,
    data: CampaignData = None,
    data_root: CampaignRoot = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Check a campaign's file, build every target and attack of it, and show its grid and what is left to do."""
    from rich.console import Console
    from rich.table import Table

    from eval.plan import KINDS
    from eval.store import Store

    made = _campaign(file, data, data_root, settings)
    folder = out or Path("runs") / made.config.name
    store = Store(folder)
    counts = {kind: {"jobs": 0, "done": 0} for kind in KINDS}
    for job in made.of_seeds(seed):
        counts[job.kind]["jobs"] += 1
        counts[job.kind]["done"] += store.is_done(job)
    counts = {kind: found for kind, found in counts.items() if found["jobs"]}
    if as_json:
        _print_json({"folder": str(folder), "jobs": counts, "cells": made.document()["cells"]})
        return
    console = Console()
    columns, *rows = made.config.overview()
    seeds = ", ".join(map(str, seed or made.config.seeds))
    table = Table(title=f"{made.config.name}: seeds {seeds}", title_justify="left")
    shown = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    for index in shown:
        table.add_column(columns[index])
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    console.print(table)
    for kind, found in counts.items():
        console.print(f"{kind:8} {found['jobs']:4} jobs, {found['done']:4} done", highlight=False)
    console.print(f"Folder: {folder}")


@campaign.command("run")
def campaign_run(
    file: CampaignFile,
    out: CampaignOut = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Jobs at a time; default: one for each core.")] = None,
    seed: CampaignSeeds = None,
    data: CampaignData = None,
    data_root: CampaignRoot = None,
    settings: Settings = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run what is not done yet of a campaign: train, capture, attack, score, each in processes of its own.

    May be killed at any moment and run again: what is done stays done, and trainings go on where they were. A job that
    fails is recorded, and tried again by the next run.
    """
    from eval.campaign_kinds import report_campaign
    from eval.runner import run_campaign

    made = _campaign(file, data, data_root, settings)
    folder = out or Path("runs") / made.config.name

    def say(line: str) -> None:
        typer.echo(line, err=True)

    try:
        outcome = run_campaign(made, folder, seeds=seed, workers=workers, device=device, say=say)
    except KeyboardInterrupt:
        say(f"Stopped. The same command goes on from here; `splitleak campaign status {folder}` shows how far it is.")
        raise
    report = report_campaign(folder, folder / "report")
    for job in outcome.failed:
        say(f"failed: {job.kind} {job.label}; why is in {folder / 'failures' / job.id}.json")
    for skipped, needed in outcome.skipped.items():
        say(f"skipped: {skipped}, which needs {needed}")
    ended = {
        "folder": str(folder),
        "done": len(outcome.done),
        "failed": [job.id for job in outcome.failed],
        "skipped": len(outcome.skipped),
        "report": str(report),
    }
    text = f"{len(outcome.done)} jobs done, {len(outcome.failed)} failed, {len(outcome.skipped)} skipped; {report}"
    _result(as_json, ended, text)
    if outcome.failed:
        raise typer.Exit(1)


@campaign.command("status")
def campaign_status(
    folder: Annotated[Path, typer.Argument(help="Folder of a campaign.")],
    as_json: Json = False,
) -> None:
    """Show how far a campaign is: jobs done, failed and to do, the last scores, and why jobs failed."""
    from rich.console import Console
    from rich.table import Table

    from eval.store import Store

    found = Store(folder).status()
    if as_json:
        _print_json(found)
        return
    table = Table(title=found["name"], title_justify="left")
    for column in ("jobs", "done", "failed", "to do"):
        table.add_column(column, justify="left" if column == "jobs" else "right")
    for kind, counts in found["jobs"].items():
        table.add_row(kind, *(str(counts[state]) for state in ("done", "failed", "to do")))
    console = Console()
    console.print(table)
    for score in found["scores"]:
        figures = f"accuracy {score['accuracy']:.1%}, MSE {score['mse']:.4f}, SSIM {score['ssim']:.3f}"
        console.print(f"{score['cell']}: {figures}", highlight=False, soft_wrap=True)
    for failure in found["failures"]:
        console.print(
            f"failed: {failure['job']} ({failure['label']}): {failure['error']}", markup=False, soft_wrap=True
        )


@campaign.command("report")
def campaign_report(
    folder: Annotated[Path, typer.Argument(help="Folder of a campaign, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: report in the campaign's.")] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a campaign as it stands: the table beside the published one, relations, flags, gallery."""
    from eval.campaign_kinds import report_campaign

    path = report_campaign(folder, out or folder / "report")
    _result(as_json, {"report": str(path)}, f"Report: {path}")


def _campaign(file: Path, data: str | None, data_root: Path | None, settings: list[str] | None) -> "Plan":
    from eval.campaign_kinds import plan_campaign
    from splitleak.config import read_document

    document = _with_settings(read_document(file), settings or [])
    for key, value in (("data", data), ("data_root", data_root and str(data_root))):
        if value is not None:
            datasets = document.get("datasets", [])
            if len(datasets) != 1:
                raise ValueError(f"expected one data set in {file} for --{key.replace('_', '-')}, got {len(datasets)}")
            datasets[0][key] = value
    return plan_campaign(document, str(file))


def _splits(folder: Path | None) -> "Splits":
    from splitleak.datasets import load
    from splitleak.datasets.splits import SplitConfig, Splits
    from splitleak.datasets.splits import split as split_images

    return Splits.load(folder) if folder is not None else split_images(load("builtin").fitted(32, 1), SplitConfig())


def _half(folder: Path, half: str) -> Path:
    """The half itself, where an artifact was named."""
    return folder / half if (folder / "artifact.json").exists() else folder


def _server(listen: str, file: Path | None, *, metrics: str | None = None) -> "ServerConfig":
    from splitleak.wire.security import read_beside
    from splitleak.wire.service import ServerConfig

    given = {"address": listen} if metrics is None else {"address": listen, "metrics": metrics}
    document = read_beside(file) if file is not None else {}
    return ServerConfig.parse({**document, **given}, source=str(file or "server"))


def _channel(file: Path | None) -> "ChannelConfig":
    from splitleak.wire.channel import ChannelConfig
    from splitleak.wire.security import read_beside

    return ChannelConfig() if file is None else ChannelConfig.parse(read_beside(file), source=str(file))


def _serve(service: "AbstractContextManager[int]", listen: str, as_json: bool, what: str) -> None:
    from splitleak.wire.service import run_until_stopped

    host = listen.rpartition(":")[0]

    def announce(port: int) -> None:
        address = f"{host}:{port}"
        _result(as_json, {"event": "listening", "address": address}, f"{what} on {address} (Ctrl-C stops it)")

    run_until_stopped(service, announce)


def _event(as_json: bool, event: dict[str, Any]) -> None:
    rest = ", ".join(f"{key} {value}" for key, value in event.items() if key != "event")
    _result(as_json, event, f"{event['event']}: {rest}")


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _use_device(name: str | None, threads: int | None) -> "DeviceProfile | None":
    """The profile to emulate, its threads in use: no more than ``threads``, or than torch's choice."""
    _use_threads(threads)
    if name is None:
        return None
    import torch

    from edge.device import device_profile

    profile = device_profile(name)
    torch.set_num_threads(min(torch.get_num_threads(), profile.threads))
    return profile


def _designed(
    base: dict[str, Any], config: Path | None, defense: list[str] | None, settings: list[str] | None
) -> dict[str, Any]:
    """A target's document: ``base``, with a file on top, defenses by name in place of its own, and single settings."""
    from splitleak.config import merged, read_document

    document = base if config is None else merged(base, read_document(config))
    if defense:
        document["defenses"] = [{"name": each} for each in defense]
    return _with_settings(document, settings or [])


def _with_settings(document: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """``document`` with each ``key=value`` put in its place.

    A list of tables is entered by a table's name; the first part of a key may be a defense of the stack.
    """
    import tomllib

    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ValueError(f"expected --set KEY=VALUE, got {setting!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, key = path.split(".")
        place: Any = document
        stacked = {each["name"]: each for each in document.get("defenses", []) if "name" in each}
        for index, table in enumerate(tables):
            if index == 0 and table in stacked:
                place = stacked[table]
            elif isinstance(place, list):
                place = next((each for each in place if isinstance(each, dict) and each.get("name") == table), None)
            else:
                place = place.setdefault(table, {})
            if not isinstance(place, dict) and not (isinstance(place, list) and table != tables[-1]):
                raise ValueError(f"expected a table {table!r} for --set {setting}, got {place!r}")
        place[key] = value
    return document


def _result(as_json: bool, document: dict[str, Any], text: str) -> None:
    if as_json:
        _print_json(document)
    else:
        typer.echo(text)
    sys.stdout.flush()


def _print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document))


def _print_table(records: list[dict[str, Any]], latency: dict[str, Any] | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from eval.table import COLUMNS, LEGEND, rows

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "target" else "right", no_wrap=True)
    for row in rows(records, latency):
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=180)
    console.print(table)
    console.print(LEGEND)


def _print_latency(found: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from eval.latency_table import BREAK_EVEN, break_even_rows, cell_rows

    console = Console()
    console = console if console.is_terminal else Console(width=180)
    columns, rows, same = cell_rows(found["cells"])
    heading = f"Medians in ms over {found['samples']} requests a setting; {same}; {found['provenance']['hardware']}"
    if found["emulated_device"]:
        heading = f"{heading}; emulated device {found['emulated_device']['name']}"
    faster = f"Break-even link speeds, with a round trip of {found['rtt_ms']:g} ms; ~ marks what noise may turn over"
    tables = [(heading, columns, rows), (faster, BREAK_EVEN, break_even_rows(found["break_even"]))]
    for title, names, lines in tables:
        if lines:
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            for name in names:
                table.add_column(name, justify="left" if name in ("target", "way", "split", "beside") else "right")
            for line in lines:
                table.add_row(*line)
            console.print(table)
    for note in found["notes"]:
        console.print(note, highlight=False, soft_wrap=True)


def _print_recommendation(found: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from eval.recommend_table import COLUMNS, rows, verdict

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        left = column in ("design", "codec", "strongest attack", "why")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "why")
    for row in rows(found):
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(table)
    for line in verdict(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_cost(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from eval.cost import COLUMNS, PUBLISHED_COLUMNS, published, rows

    console = Console()
    console = console if console.is_terminal else Console(width=120)
    printed, notes = published()
    timed = f"ms a batch of {found['batch']}, median of {found['repeats']}, {found['provenance']['hardware']}"
    for title, columns, lines, below in (
        (f"{found['name']}; {timed}", COLUMNS, rows(found), found["rules"].values()),
        ("Published, table S6: vgg11, cut 4, bottleneck C8S1", PUBLISHED_COLUMNS, printed, notes),
    ):
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        for note in below:
            console.print(note, highlight=False)
        console.print()


if __name__ == "__main__":
    main()
