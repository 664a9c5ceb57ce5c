"""The settings of a latency sweep: cuts, batch sizes, engines, codecs, links and windows, and the two alternatives."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from splitleak.config import Config
from splitleak.models import EngineName
from splitleak.wire.protocol import Codec

Way = Literal["split", "image", "device"]
"""Split inference; cloud-only inference (the image is sent to the whole model); on-device inference, no network."""

NO_LINK = "loopback"
IMAGE_CODECS: tuple[Codec, ...] = ("uint8", "fp32")

Count = Annotated[int, Field(ge=1)]


class Setting(Config):
    """One combination; ``codec``, ``link`` and ``window`` are None where nothing is sent."""

    way: Way
    target: int = Field(ge=0, description="which of the subjects, in their order")
    batch: Count
    engine: EngineName
    codec: Codec | None = None
    link: str | None = None
    window: Count | None = None


class SweepConfig(Config):
    """The sweep; everything but the artifacts has a small default."""

    artifacts: tuple[Path, ...] = Field(min_length=1)
    cuts: tuple[Count, ...] = Field(default=(), description="further cuts of each artifact, with fresh weights")
    batches: tuple[Count, ...] = Field(default=(1,), min_length=1, description="images a request")
    engines: tuple[EngineName, ...] = Field(default=("auto",), min_length=1)
    codecs: tuple[Codec, ...] = Field(default=("fp32",), min_length=1)
    links: tuple[str, ...] = Field(
        default=(NO_LINK,), min_length=1, description="profiles of `splitleak.wire.link.link`, or loopback: none"
    )
    windows: tuple[Count, ...] = Field(default=(1,), min_length=1, description="requests in flight")
    samples: int = Field(default=200, ge=10, description="requests a setting, at least")
    alternatives: bool = Field(default=True, description="measure also all on the device, and the image to the cloud")
    rtt_ms: float = Field(default=20.0, ge=0, description="round trip time of the link for break-even rates")
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, description="threads of each process; default: torch's choice")
    device_profile: str | None = Field(default=None, description="the emulated device that the edge runs on")

    def settings(self, subjects: int) -> Iterator[Setting]:
        """All combinations for ``subjects`` targets, the artifacts first; only artifacts have alternatives."""
        for target in range(subjects):
            for batch, engine in itertools.product(self.batches, self.engines):
                common: dict[str, Any] = {"target": target, "batch": batch, "engine": engine}
                transports = list(itertools.product(self.links, self.windows))
                for codec, (link, window) in itertools.product(self.codecs, transports):
                    yield Setting(way="split", codec=codec, link=link, window=window, **common)
                if self.alternatives and target < len(self.artifacts):
                    for codec, (link, window) in itertools.product(IMAGE_CODECS, transports):
                        yield Setting(way="image", codec=codec, link=link, window=window, **common)
                    yield Setting(way="device", **common)
