"""The commands that run until they are stopped, cloud, edge, tap and link, and the one that makes a client's token."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.choices import choice
from splitleak.cli.documents import channel_config, half_of, read_config, server_config, with_settings
from splitleak.cli.options import (
    ChannelFile,
    CloudHalf,
    Device,
    EmulatedDevice,
    Engine,
    Json,
    Replace,
    Seed,
    Threads,
    check_beside,
    compute_on,
    use_device,
)
from splitleak.cli.output import result

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ServerFile = Annotated[
    Path | None, typer.Option("--server", help="TOML or JSON of what is served here: TLS, tokens, limits.")
]
NoiseSeed = Annotated[
    int | None, typer.Option(min=0, help="Repeatable noise, for experiments; default: fresh from the system.")
]
Listen = Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 picks one and prints it.")]
RotateMb = Annotated[
    float | None,
    typer.Option(min=0.001, help="Megabytes of a capture file, after which the next begins; default: no limit."),
]
SentAs = Annotated[str, choice("codecs", "How features travel; uint8 is quantised, deflate packs without loss. One of")]
Repeat = Annotated[int, typer.Option(min=1, help="Send each of --images so many times in a row.")]
Rate = Annotated[
    float | None, typer.Option(min=0.001, help="Of --images so many a second, at most; default: as fast as it goes.")
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Bytes of all that is recorded: there recording ends, and traffic goes on; default: no limit."
    ),
]


def cloud(
    folder: CloudHalf,
    listen: Listen = "127.0.0.1:8001",
    whole: Annotated[
        bool, typer.Option("--whole", help="Serve both halves as one: images in, probabilities out, for everybody.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option(help="TOML or JSON of the output policy; default: full score vectors.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting of the policy, e.g. top=3; repeatable."),
    ] = None,
    noise_seed: NoiseSeed = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT for Prometheus to read metrics from, over plain HTTP; default: none.")
    ] = None,
    capture: Annotated[
        Path | None, typer.Option(help="Curious cloud: record every request and response in this capture file.")
    ] = None,
    rotate_mb: RotateMb = None,
    max_bytes: MaxBytes = None,
    server: ServerFile = None,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Serve the cloud half, or with --whole all of a model, over the Open Inference Protocol until SIGINT or SIGTERM.

    A policy turns the logits of a half into probabilities; it acts on everybody's answers and is announced.
    """
    from splitleak.cloud.policy import PolicyConfig
    from splitleak.cloud.service import CloudConfig
    from splitleak.cloud.service import cloud as cloud_service
    from splitleak.defenses.artifact import load_cloud, load_whole
    from splitleak.wire.server.malloc import keep_big_buffers

    check_beside("--capture", capture, {"--rotate-mb": rotate_mb, "--max-bytes": max_bytes})
    keep_big_buffers()
    serving = server_config(listen, server, metrics=metrics)
    given = read_config(PolicyConfig, policy, settings, "policy") if policy is not None or settings else None
    chosen = compute_on(device, threads)
    loaded = (
        load_whole(folder, chosen, seed=noise_seed, engine=engine)
        if whole
        else load_cloud(half_of(folder, "cloud"), chosen, seed=noise_seed, engine=engine)
    )
    config = CloudConfig(
        server=serving,
        capture=capture,
        rotate_mb=rotate_mb,
        max_bytes=max_bytes,
        policy=given,
        noise_seed=noise_seed,
    )
    _serve(cloud_service(config, loaded), listen, as_json, f"cloud serves {loaded.name!r}")


def edge(
    half: Annotated[Path, typer.Argument(help="Artifact folder, or its edge half alone.")],
    cloud: Annotated[str, typer.Option(help="HOST:PORT of the cloud (or of whoever stands in front of it).")],
    images: Annotated[Path | None, typer.Option(help="Images to stream: .npz, folder or zip.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT: then serve images to callers, until SIGINT or SIGTERM.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="JSON file for the edge's own record of the stream (which image had which id).")
    ] = None,
    codec: SentAs = "fp32",
    window: Annotated[int, typer.Option(min=1, help="Requests in flight, at most.")] = 8,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds an outage may last; meanwhile nothing is lost.")
    ] = 60.0,
    input_name: Annotated[
        str | None, typer.Option(help="The model's input, if its server does not announce it, or several.")
    ] = None,
    output_name: Annotated[str | None, typer.Option(help="The output with the logits, likewise.")] = None,
    channel: ChannelFile = None,
    server: ServerFile = None,
    repeat: Repeat = 1,
    rate: Rate = None,
    noise_seed: NoiseSeed = None,
    device_profile: EmulatedDevice = None,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Run the encoder and the defense on images, and stream features to the cloud.

    With --images it streams them and says how it went; with --listen it then takes images from others, as an app on a
    device does, and answers with the cloud's logits.
    """
    from splitleak.defenses.artifact import load_edge
    from splitleak.edge.client import EdgeConfig
    from splitleak.edge.device import EmulatedHalf
    from splitleak.edge.run import run_edge
    from splitleak.seeding import resolve_device
    from splitleak.wire.server.malloc import keep_big_buffers

    if images is None and listen is None:
        raise typer.BadParameter("expected --images to stream, --listen to serve, or both")
    check_beside("--images", images, {"--ledger": ledger, "--repeat": repeat > 1, "--rate": rate})
    check_beside("--listen", listen, {"--server": server})
    keep_big_buffers()
    profile = use_device(device_profile, threads)
    loaded = load_edge(half_of(half, "edge"), resolve_device(device), seed=noise_seed, engine=engine)
    config = EdgeConfig(
        cloud=cloud,
        model=loaded.name,
        codec=codec,
        window=window,
        patience_s=patience,
        input_name=input_name,
        output_name=output_name,
        pair=loaded.pair or None,
        channel=channel_config(channel),
    )
    serving = None if listen is None else server_config(listen, server)
    computed = loaded if profile is None else EmulatedHalf(loaded, profile)
    emulation = {} if profile is None else {"emulated_device": profile.name}

    def say(event: dict[str, Any]) -> None:
        _event(as_json, {**event, **emulation})

    run_edge(
        config,
        computed,
        images=images,
        ledger=ledger,
        server=serving,
        report=say,
        repeat=repeat,
        rate=rate,
        model=loaded.digest,
        classes=loaded.config.classes,
        force=force,
    )


def token(
    client: Annotated[str, typer.Argument(help="The client's name, which its limits are counted under.")],
    tokens: Annotated[Path, typer.Option(help="The server's file; it learns the token's SHA-256 alone.")],
    out: Annotated[Path, typer.Option(help="The client's file, which only its owner may read.")],
    as_json: Json = False,
) -> None:
    """Make a token for a client of a service; a server that runs knows it after its next start."""
    from splitleak.wire.security import make_token

    make_token(client, tokens, out)
    result(as_json, {"client": client, "token_file": str(out)}, f"{out}: a token for {client!r}; known by {tokens}")


def tap(
    upstream: Annotated[str, typer.Option(help="HOST:PORT of the cloud.")],
    capture: Annotated[
        Path | None, typer.Option(help="File to write; default: runs/tap.capture, or runs/tap.jsonl with --blind.")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Pass bytes on unread, and write down sizes and times: all that TLS leaves.")
    ] = False,
    rotate_mb: RotateMb = None,
    max_bytes: MaxBytes = None,
    listen: Listen = "127.0.0.1:8002",
    channel: ChannelFile = None,
    server: ServerFile = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the live page of `splitleak watch` too, in a process of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Stand between edge and cloud, pass everything on, and write it to a capture file until SIGINT or SIGTERM.

    Over TLS it reads what it carries only if the edge trusts the certificate in --server; with --blind it needs none.
    """
    from contextlib import contextmanager

    from splitleak.attacker.blind_tap import BlindTapConfig, blind_tap
    from splitleak.attacker.tap import TapConfig
    from splitleak.attacker.tap import tap as tap_service

    if blind and any(given is not None for given in (channel, server, rotate_mb)):
        raise typer.BadParameter("expected --blind, or --channel, --server, --rotate-mb of a tap that reads, got both")
    if blind and watch:
        raise typer.BadParameter("expected --watch of a tap that reads, got --blind")
    path = capture or Path("runs/tap.jsonl" if blind else "runs/tap.capture")
    path.parent.mkdir(parents=True, exist_ok=True)
    if blind:
        service = blind_tap(BlindTapConfig(listen=listen, upstream=upstream, record=path, max_bytes=max_bytes))
    else:
        serving, reached = server_config(listen, server), channel_config(channel)
        config = TapConfig(
            server=serving,
            upstream=upstream,
            capture=path,
            rotate_mb=rotate_mb,
            max_bytes=max_bytes,
            channel=reached,
        )
        service = tap_service(config)

    @contextmanager
    def watched() -> Iterator[int]:
        from splitleak.eval.campaign.processes import Children
        from splitleak.eval.live.up import PageConfig, page
        from splitleak.warm_start import COLD_START

        one = Children({COLD_START: "1"})  # a fork server would take longer than what it starts
        log = path.with_name(f"{path.name}.watch.log")
        with service as port, page(PageConfig(capture=path), log, one) as address:
            _event(as_json, {"event": "watching", "address": address})
            yield port

    told = f"{'blind ' * blind}tap in front of {upstream}, writing {path}"
    _serve(watched() if watch else service, listen, as_json, told)


def link(
    upstream: Annotated[str, typer.Option(help="HOST:PORT that connections are carried on to.")],
    profile: Annotated[str | None, choice("links", "A kind of network; default: no limit and no delay. One of")] = None,
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
    is said in splitleak/wire/link/link.py.
    """
    from contextlib import contextmanager

    from splitleak.wire.link.link import PROFILES, LinkConfig
    from splitleak.wire.link.link import link as carry

    chosen = PROFILES.choose(profile).config if profile else LinkConfig()
    given = LinkConfig.parse(with_settings({**chosen.document(), "seed": seed}, settings), source="link")

    @contextmanager
    def carrying() -> Iterator[int]:
        with carry(given, upstream, listen) as handle:
            yield handle.port

    _serve(carrying(), listen, as_json, f"link ({profile or 'no profile'}) to {upstream}")


def _serve(service: "AbstractContextManager[int]", listen: str, as_json: bool, what: str) -> None:
    from splitleak.wire.address import bound_address
    from splitleak.wire.server.server import run_until_stopped

    def announce(port: int) -> None:
        address = bound_address(listen, port)
        result(as_json, {"event": "listening", "address": address}, f"{what} on {address} (Ctrl-C stops it)")

    run_until_stopped(service, announce)


def _event(as_json: bool, event: dict[str, Any]) -> None:
    rest = ", ".join(f"{key} {value}" for key, value in event.items() if key != "event")
    result(as_json, event, f"{event['event']}: {rest}")
