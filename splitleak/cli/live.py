"""The live page of what crosses the wire, and the whole chain in one command."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.documents import half_of
from splitleak.cli.options import Artifact, Json, Replace, use_threads
from splitleak.cli.output import result
from splitleak.cli.services import Rate, Repeat, SentAs

if TYPE_CHECKING:
    from splitleak.attacker.rebuilders import Rebuilder
    from splitleak.eval.live.up import UpConfig

_LOWER_PRIORITY = 10  # a tenth of a core at most, where a stream wants all cores
Attack = Annotated[Path | None, typer.Option(help="Folder of `splitleak attack`: its decoder rebuilds the pictures.")]
Public = Annotated[
    Path | None,
    typer.Option(help="The attacker's own images; instead of --attack, a linear map is learned from them in a second."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 picks one and prints it.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser, besides printing its address.")]


def watch(
    capture: Annotated[Path, typer.Argument(help="Capture that a tap, or a curious cloud, writes or has written.")],
    attack: Attack = None,
    public: Public = None,
    encoder: Annotated[
        Path | None, typer.Option(help="With --public, a white box: the edge half that the images are sent through.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="With --public, a black box: what `splitleak query` recorded of the images.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="For the judge: the images that the edge streams, to be shown beside.")
    ] = None,
    port: Port = 0,
    open_: Open = False,
    as_json: Json = False,
) -> None:
    """Serve a page on this machine that shows live what crosses the wire, and the pictures rebuilt from it.

    It follows the capture in a process of its own, at a low priority: the tap knows nothing of it. The page's
    address has a token in it, without which nothing is served.
    """
    from splitleak.attacker.watch.page import new_token, page_address, serve_page
    from splitleak.attacker.watch.watcher import Watcher
    from splitleak.datasets.files import load_file
    from splitleak.eval.live.truth import true_picture
    from splitleak.wire.server.server import run_until_stopped

    if hasattr(os, "nice"):
        os.nice(_LOWER_PRIORITY)
    use_threads(1)
    named = public or truth
    classes = () if named is None else load_file(named).train.classes
    rebuilder = _rebuilder(attack, public, encoder, pairs)
    if rebuilder is not None:
        rebuilder.check_capture(capture)
    watcher = Watcher(capture, rebuilder, classes, None if truth is None else true_picture(truth))
    token = new_token()

    def announce(bound: int) -> None:
        address = page_address(bound, token)
        result(as_json, {"event": "listening", "address": address}, f"{capture} at {address} (Ctrl-C stops it)")
        if open_:
            import webbrowser

            webbrowser.open(address)

    with watcher.watching():
        run_until_stopped(serve_page(watcher.board, token, port), announce)


def _rebuilder(
    attack: Path | None, public: Path | None, encoder: Path | None, pairs: Path | None
) -> "Rebuilder | None":
    from splitleak.attacker.rebuilders import linear_gauge, saved_decoder
    from splitleak.datasets.files import load_file

    if attack is not None:
        if encoder is not None or pairs is not None:
            raise typer.BadParameter("expected --attack, or --public with --encoder or --pairs, got both")
        return saved_decoder(attack)
    if encoder is None and pairs is None:
        return None
    if public is None:
        raise typer.BadParameter("expected --public beside --encoder or --pairs")
    return linear_gauge(
        load_file(public).train, encoder=None if encoder is None else half_of(encoder, "edge"), pairs=pairs
    )


def up(
    artifact: Artifact,
    images: Annotated[Path, typer.Option(help="The victims' images, which the edge streams: .npz, folder or zip.")],
    out: Annotated[Path, typer.Option(help="Folder of the capture, the edge's ledger and the log.")] = Path("runs/up"),
    repeat: Repeat = 1,
    rate: Rate = None,
    codec: SentAs = "fp32",
    watch: Annotated[bool, typer.Option("--watch", help="Serve the live page of `splitleak watch` too.")] = False,
    attack: Attack = None,
    public: Public = None,
    truth: Annotated[bool, typer.Option("--truth", help="The page shows the victims' images too.")] = False,
    port: Port = 0,
    open_: Open = False,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Run cloud, tap and edge of an artifact in one command, each a process of its own, until SIGINT or SIGTERM.

    The edge streams the images and then serves callers, as a device does; everything is stopped in order.
    """
    from splitleak.eval.live.up import PageConfig, UpConfig

    if not watch and any((attack, public, truth, open_, port)):
        raise typer.BadParameter("expected --watch beside --attack, --public, --truth, --port and --open")
    shown = PageConfig(
        capture=out / "tap.capture",
        attack=attack,
        public=public,
        encoder=artifact / "edge" if public is not None and attack is None else None,
        truth=images if truth else None,
        port=port,
        open=open_,
    )
    config = UpConfig(
        artifact=artifact,
        images=images,
        out=out,
        repeat=repeat,
        rate=rate,
        codec=codec,
        force=force,
        page=shown if watch else None,
    )
    run_up(config, as_json)


def run_up(config: "UpConfig", as_json: bool) -> None:
    """Runs the chain until it is stopped, and says how it goes."""
    from splitleak.eval.live.up import up as chain
    from splitleak.wire.server.server import run_until_stopped

    def say(event: dict[str, Any]) -> None:
        told = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("event", "address"))
        result(as_json, event, f"{event['event']}: {event.get('address', told)}")

    log = config.out / "up.log"
    run_until_stopped(
        chain(config, say), lambda _: result(as_json, {"event": "up"}, f"all run, log in {log} (Ctrl-C stops all)")
    )
