"""The file of prediction scores that victims publish: the only one of theirs that an attacker may read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitleak.artifacts import written_file
from splitleak.npz import open_npz


@dataclass(frozen=True, eq=False)
class SharedScores:
    """Scores ``(N, K)`` float32 under random ids; each row holds its ``m`` highest scores and zeros, or all (None)."""

    ids: tuple[str, ...]
    scores: NDArray[np.float32]
    m: int | None
    model: str  # its name at the service

    def __post_init__(self) -> None:
        shape, unique = self.scores.shape, len(set(self.ids))
        if self.scores.dtype != np.float32 or len(shape) != 2 or shape[0] != len(self.ids) or 0 in shape:
            raise ValueError(f"expected float32 scores ({len(self.ids)}, K), got {self.scores.dtype} {shape}")
        if unique != len(self.ids):
            raise ValueError(f"expected each id once, got {len(self.ids)} rows with {unique} ids")
        if not (np.isfinite(self.scores).all() and (self.scores >= 0).all()):
            raise ValueError("expected finite scores of at least zero, got others")
        most = int((self.scores > 0).sum(1).max())
        if self.m is not None and not max(most, 1) <= self.m <= shape[1]:
            raise ValueError(f"expected rows of at most m scores, m from 1 to {shape[1]}, got {most} and m {self.m}")

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` file of plain arrays, atomically; m = 0 stands for all scores."""
        with written_file(path) as partial, partial.open("wb") as file:
            names, model = np.array(self.ids), np.array(self.model)
            np.savez(file, ids=names, scores=self.scores, m=np.array(self.m or 0), model=model)

    @classmethod
    def load(cls, path: Path) -> "SharedScores":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        with open_npz(path, "what `splitleak predict` writes") as file:
            ids, m = tuple(map(str, file["ids"])), int(file["m"]) or None
            return cls(ids, file["scores"], m, str(file["model"]))
