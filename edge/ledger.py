"""The edge's private record of a stream of requests: the image behind each, and its latency.

It links reconstructions to the true images, so only the device and the evaluation read it, never an attacker.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from splitleak.artifacts import write_json
from splitleak.config import Config, digest
from splitleak.datasets.images import Images
from splitleak.outputs import check_file, check_json_name
from splitleak.wire.protocol.answer import Prediction


def images_digest(images: Images) -> str:
    """Twelve hexadecimal digits that change with any of the images, and with their order."""
    return digest(images.hashes())


class Entry(Config):
    """One image sent as one request. Durations are microseconds, as defined by `Prediction`."""

    request_id: str = Field(min_length=1)
    place: int = Field(ge=0, description="index of the image in the file it came from")
    label: int | None = Field(default=None, ge=0, description="the true class, if known")
    predicted: int = Field(ge=0, description="the class of the largest logit")
    encode_us: int = Field(ge=0)
    serialise_us: int = Field(ge=0)
    network_us: int = Field(ge=0)
    queue_us: int = Field(ge=0)
    compute_us: int = Field(ge=0)
    total_us: int = Field(ge=0)
    sent_bytes: int = Field(ge=1)
    payload_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the tensor's raw bytes as sent")
    sends: int = Field(default=1, ge=1, description="attempts with the same bytes")

    @classmethod
    def of(cls, prediction: Prediction, *, place: int, label: int | None = None) -> Self:
        """The entry of a request with one image.

        Raises:
            ValueError: The request had more than one image.
        """
        if len(prediction.output) != 1:
            raise ValueError(f"expected a request of one image, got {len(prediction.output)}")
        copied = {name: getattr(prediction, name) for name in cls.model_fields if hasattr(prediction, name)}
        return cls(place=place, label=label, predicted=int(prediction.output[0].argmax()), **copied)


class Ledger(Config):
    """All entries, in the order in which they were sent; ``Ledger.read(path)`` reads what `write` wrote."""

    version: Literal[1] = 1
    entries: tuple[Entry, ...]
    images: str | None = Field(default=None, description="digest of the file's images; not told by older versions")
    model: str | None = Field(
        default=None, description="digest of the edge half that encoded them, or of the model that a service announced"
    )
    codec: str | None = Field(default=None, description="how features travelled; not told by older versions")

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [entry.request_id for entry in self.entries]
        if len(set(ids)) != len(ids):
            raise ValueError(f"expected each request id once, got {len(ids)} entries with {len(set(ids))} ids")
        return self

    @property
    def places(self) -> dict[str, int]:
        """The image's index in its file by request id; an image that was sent often has several ids."""
        return {entry.request_id: entry.place for entry in self.entries}

    def summary(self) -> dict[str, float | None]:
        """Number of images, mean message size in bytes, and accuracy over the labelled messages (None without)."""
        labelled = [entry for entry in self.entries if entry.label is not None]
        right = sum(entry.predicted == entry.label for entry in labelled)
        return {
            "images": len({entry.place for entry in self.entries}),
            "bytes_per_image": sum(entry.sent_bytes for entry in self.entries) / max(len(self.entries), 1),
            "accuracy": right / len(labelled) if labelled else None,
        }

    def write(self, path: Path) -> None:
        """Writes ``path`` (a ``.json`` file) atomically, readable by its owner alone."""
        write_json(path, self.document(), private=True)

    @classmethod
    def check_replaceable(
        cls, path: Path, settings: Mapping[str, str | None] | None = None, *, force: bool = False
    ) -> None:
        """Refuses to replace anything else than a ledger, and without ``force`` one of other ``images`` or ``model``.

        Raises:
            FileExistsError: There is something else at ``path``.
            ValueError: It is not the name of a ``.json`` file.
        """
        check_json_name(path, "the ledger")
        check_file(path, "a ledger", lambda there: cls.read(there).document(), settings, force=force)
