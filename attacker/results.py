"""What an attack leaves behind for the judge."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitleak.artifacts import written_file


@dataclass(frozen=True)
class Reconstructions:
    """What an attack gives to the judge: images ``(N, C, H, W)`` in [0, 1], each under the id it had on the wire."""

    ids: tuple[str, ...]
    images: Tensor

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` of ``ids`` and ``images``, whole or not at all."""
        with written_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, ids=np.array(self.ids), images=self.images.numpy())

    @classmethod
    def load(cls, path: Path) -> "Reconstructions":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(tuple(map(str, file["ids"])), torch.from_numpy(file["images"]))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: expected what `splitleak attack` writes, but {error}") from None
