"""Cloud, tap, page and edge of one artifact, started in that order and stopped in the other."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from splitleak.attacker.rebuilders import saved_decoder
from splitleak.config import Config
from splitleak.defenses.artifact import load_edge
from splitleak.edge.run import images_for
from splitleak.eval.campaign.processes import Children, Service, service
from splitleak.wire.address import parse_address

_START_S = 180.0
_STREAM_S = 24 * 3600.0
_ANYWHERE = "127.0.0.1:0"


class PageConfig(Config):
    """What `splitleak watch` is given."""

    capture: Path
    attack: Path | None = None
    public: Path | None = None
    encoder: Path | None = None
    truth: Path | None = None
    port: int = 0
    open: bool = False

    def arguments(self) -> list[str]:
        """The command line."""
        given = {name: getattr(self, name) for name in ("attack", "public", "encoder", "truth", "port")}
        options = [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]
        return ["watch", str(self.capture), *options, *["--open"] * self.open]


class UpConfig(Config):
    """A chain of real processes on this machine."""

    artifact: Path
    images: Path = Field(description="the victims', which the edge streams")
    out: Path = Field(description="folder of the capture, the edge's ledger and the log")
    repeat: int = Field(default=1, ge=1, description="how often each image is sent in a row")
    rate: float | None = Field(default=None, gt=0, description="images a second, at most; none: no limit")
    codec: str = "fp32"
    force: bool = Field(default=False, description="replace the capture of another run")
    page: PageConfig | None = Field(default=None, description="none: no page")


@contextlib.contextmanager
def page(config: PageConfig, log: Path, children: Children | None = None) -> Iterator[str]:
    """Serves the page of a capture while the block runs, in a process of its own; yields its address.

    Raises:
        RuntimeError: It could not start; the message has the end of its log.
    """
    with service(config.arguments(), log, children) as started:
        yield str(started.wait_for("listening", _START_S)["address"])


@contextlib.contextmanager
def up(config: UpConfig, say: Callable[[dict[str, Any]], None]) -> Iterator[int]:
    """Runs the chain while the block does; yields the port of the edge, once its images are streamed.

    Args:
        config: What runs.
        say: Called with ``{"event": "cloud" | "tap" | "page" | "edge", "address"}`` as each is ready, and with what the
            edge says of its stream.

    Raises:
        FileExistsError: The folder has the capture of another run, whose requests no ledger but its own explains.
        FileNotFoundError: The page is given no decoder, or there is no artifact beside it; or there are no images.
        RuntimeError: One of them could not start; the message has the end of its log.
        ValueError: The page is given the decoder of another target, or the file is not one of images.
    """
    if config.page is not None and config.page.attack is not None:
        saved_decoder(config.page.attack).check_target(load_edge(config.artifact / "edge", torch.device("cpu")))
    config.out.mkdir(parents=True, exist_ok=True)
    log, capture = config.out / "up.log", config.out / "tap.capture"
    before = [capture, *(part for part in config.out.glob(f"{capture.name}.*") if part.suffix[1:].isdecimal())]
    if not config.force and (kept := next(filter(Path.exists, before), None)) is not None:
        raise FileExistsError(f"expected no capture of another run, got {kept}; name another --out, or --force")
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: object) -> Service:
            given = [name, *map(str, arguments), "--listen", _ANYWHERE]
            return stack.enter_context(service(given, log))

        def address(started: Service, timeout_s: float = _START_S) -> str:
            found = str(started.wait_for("listening", timeout_s)["address"])
            say({"event": started.name, "address": found})
            return found

        cloud = address(start("cloud", config.artifact / "cloud"))
        images_for(load_edge(config.artifact / "edge", torch.device("cpu")), config.images)  # before anything is lost
        for kept in before:
            kept.unlink(missing_ok=True)
        tap = address(start("tap", "--upstream", cloud, "--capture", capture))
        if config.page is not None:
            say({"event": "page", "address": stack.enter_context(page(config.page, log))})
        rate = () if config.rate is None else ("--rate", config.rate)
        streamed = ("--images", config.images, "--repeat", config.repeat, *rate, "--codec", config.codec)
        ledger = ("--ledger", config.out / "ledger.json", "--force")
        edge = start("edge", config.artifact / "edge", "--cloud", tap, *streamed, *ledger)
        say(edge.wait_for("streamed", _STREAM_S))
        yield parse_address(address(edge))[1]
